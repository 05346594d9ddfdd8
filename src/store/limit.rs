//! How long the gateway waits for an answer of the database. The driver has no limit of its own for an
//! operation: without one here, a connection that goes silent would hold its request for ever.
//!
//! An operation that is cut is *unknown*: it may have been done, or be done yet. Whoever repeats it
//! **MUST** be prepared for both.

use std::io;
use std::time::{Duration, Instant};

use mongodb::error::{Error, ErrorKind};

/// How long one step of a scan may take: before its first answer the server reads a whole bucket.
pub(super) const SCAN_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Waiting for an operation, a step of a cursor, or several of them, no longer than a limit.
pub(super) trait Within<T, E> {
    /// The outcome, or a timeout once `limit` is over.
    ///
    /// # Cancel safety
    /// The driver closes the connection of an operation that is dropped, so no later one reads its answer.
    fn within(self, limit: Duration) -> impl Future<Output = Result<T, E>> + Send;
}

impl<F, T, E> Within<T, E> for F
where
    F: IntoFuture<Output = Result<T, E>>,
    F::IntoFuture: Send,
    E: From<Error>,
{
    fn within(self, limit: Duration) -> impl Future<Output = Result<T, E>> + Send {
        let answer = tokio::time::timeout(limit, self.into_future());
        async move {
            let cut = |_| Err(Error::from(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")).into());
            answer.await.unwrap_or_else(cut)
        }
    }
}

/// Whether an operation was cut, here or by the driver.
pub(super) fn is_cut(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Io(cause) if cause.kind() == io::ErrorKind::TimedOut)
}

/// The time that an operation and its repetitions have together: twice the limit of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    limit: Duration,
    end: Instant,
}

impl Budget {
    /// A budget that begins now; `limit` is that of one operation.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, end: Instant::now() + limit * 2 }
    }

    /// How long the next operation may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit.min(self.end.saturating_duration_since(Instant::now()))
    }

    /// Waits before a repetition; false when no time would be left for it.
    pub(super) async fn pause(&self, pause: Duration) -> bool {
        let has_time = Instant::now() + pause < self.end;
        if has_time {
            tokio::time::sleep(pause).await;
        }
        has_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[tokio::test]
    async fn what_does_not_answer_is_cut_and_is_a_timeout() {
        let silent = std::future::pending::<Result<(), StoreError>>().within(Duration::from_millis(1));
        assert!(matches!(silent.await, Err(StoreError::Timeout(_))));
        let answer = std::future::ready(Ok::<_, StoreError>(7)).within(Duration::from_secs(1));
        assert!(matches!(answer.await, Ok(7)));
    }

    #[tokio::test]
    async fn repetitions_share_one_budget() {
        let budget = Budget::new(Duration::from_millis(50));
        assert!(budget.limit() <= Duration::from_millis(50));
        assert!(!budget.pause(Duration::from_secs(1)).await);
        while budget.pause(Duration::from_millis(10)).await {}
        assert!(budget.limit() < Duration::from_millis(50));
    }
}
