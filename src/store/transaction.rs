//! The only loop that retries transactions, by the driver's error labels. What a transaction
//! does is its caller's; every attempt **MUST** do the same with the same ids.

use std::time::{Duration, Instant};

use mongodb::ClientSession;
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{ReadConcern, TransactionOptions};

use super::{Store, StoreError, StoreResult};

/// How long attempts go on before the last error is reported.
const BUDGET: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What the steps of a transaction ran into.
#[derive(Debug)]
pub enum StepError {
    /// The database refused or failed; the labels decide about another attempt.
    Driver(mongodb::error::Error),
    /// The documents are not in the state the steps need; no attempt will help.
    Final(StoreError),
}

impl From<mongodb::error::Error> for StepError {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Driver(error)
    }
}

/// One transaction over as many attempts as it takes.
///
/// ```text
/// let mut transaction = Transaction::new(&store).await?;
/// loop {
///     let outcome = steps(transaction.attempt().await?).await;
///     if let Some(done) = transaction.conclude(outcome).await? { return Ok(done); }
/// }
/// ```
pub struct Transaction {
    session: ClientSession,
    deadline: Instant,
    pause: Duration,
}

impl Transaction {
    /// A transaction not yet begun.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is no server to open a session on.
    pub async fn new(store: &Store) -> StoreResult<Self> {
        let session = store.meta.client().start_session().await?;
        Ok(Self { session, deadline: Instant::now() + BUDGET, pause: FIRST_PAUSE })
    }

    /// Begins the next attempt.
    ///
    /// # Errors
    /// As the driver's `startTransaction`.
    pub async fn attempt(&mut self) -> StoreResult<&mut ClientSession> {
        let options =
            TransactionOptions::builder().read_concern(ReadConcern::snapshot()).write_concern(super::durable()).build();
        self.session.start_transaction().with_options(options).await?;
        Ok(&mut self.session)
    }

    /// Commits or aborts; `None` asks for another attempt.
    ///
    /// # Errors
    /// What the steps or the commit ran into, once no attempt may follow.
    pub async fn conclude<T>(&mut self, outcome: Result<T, StepError>) -> StoreResult<Option<T>> {
        match outcome {
            Ok(value) => Ok(self.commit().await?.then_some(value)),
            Err(StepError::Final(error)) => {
                self.abort().await;
                Err(error)
            }
            Err(StepError::Driver(error)) => {
                self.abort().await;
                self.pause_before_retry(error, TRANSIENT_TRANSACTION_ERROR).await?;
                Ok(None)
            }
        }
    }

    /// True when committed, false when the whole transaction is to be repeated.
    async fn commit(&mut self) -> StoreResult<bool> {
        loop {
            let Err(error) = self.session.commit_transaction().await else { return Ok(true) };
            if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                self.pause_before_retry(error, UNKNOWN_TRANSACTION_COMMIT_RESULT).await?;
            } else {
                self.pause_before_retry(error, TRANSIENT_TRANSACTION_ERROR).await?;
                return Ok(false);
            }
        }
    }

    async fn abort(&mut self) {
        // The server ends a transaction that is not committed by itself; this only frees it sooner.
        if let Err(error) = self.session.abort_transaction().await {
            tracing::debug!(error = %error, "could not abort a transaction");
        }
    }

    async fn pause_before_retry(&mut self, error: mongodb::error::Error, label: &str) -> StoreResult<()> {
        if !error.contains_label(label) || Instant::now() + self.pause >= self.deadline {
            return Err(error.into());
        }
        // Those that aborted each other must not meet again.
        let [chance] = crate::random::bytes();
        tokio::time::sleep(self.pause.mul_f64(0.5 + f64::from(chance) / 256.0)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
