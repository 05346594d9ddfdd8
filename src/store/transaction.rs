//! The only loop that retries transactions, by the driver's error labels. What a transaction
//! does is its caller's; every attempt **MUST** do the same with the same ids.

use std::time::Duration;

use mongodb::ClientSession;
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{ReadConcern, TransactionOptions};

use super::limit::{Budget, Within, is_cut};
use super::standing::Watch;
use super::{Store, StoreError, StoreResult};
use crate::failpoint;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long an abort is waited for: it only frees sooner what the server frees by itself.
const ABORT_LIMIT: Duration = Duration::from_secs(1);

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

/// Ends a transaction whose documents changed meanwhile.
pub(super) fn stale_unless(is_unchanged: bool) -> Result<(), StepError> {
    if is_unchanged { Ok(()) } else { Err(StepError::Final(StoreError::Stale)) }
}

/// One transaction over as many attempts as it takes, together at most twice the limit of one operation.
///
/// ```text
/// let mut transaction = Transaction::new(&store).await?;
/// loop {
///     let (session, limit) = transaction.attempt().await?;
///     let outcome = steps(session).within(limit).await;
///     if let Some(done) = transaction.conclude(outcome).await? { return Ok(done); }
/// }
/// ```
pub struct Transaction {
    store: Store,
    session: ClientSession,
    budget: Budget,
    pause: Duration,
    watch: Watch,
}

impl Transaction {
    /// A transaction not yet begun.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is no server to open a session on.
    pub async fn new(store: &Store) -> StoreResult<Self> {
        let budget = Budget::new(store.limit);
        let session = store.meta.client().start_session().within(budget.limit()).await?;
        Ok(Self { store: store.clone(), session, budget, pause: FIRST_PAUSE, watch: Watch::new() })
    }

    /// Begins the next attempt; its steps together **MUST** take no longer than the limit that comes with it.
    ///
    /// # Errors
    /// As the driver's `startTransaction`.
    pub async fn attempt(&mut self) -> StoreResult<(&mut ClientSession, Duration)> {
        let options =
            TransactionOptions::builder().read_concern(ReadConcern::snapshot()).write_concern(super::durable()).build();
        self.session.start_transaction().with_options(options).within(self.budget.limit()).await?;
        Ok((&mut self.session, self.budget.limit()))
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
                let is_aborted = error.contains_label(TRANSIENT_TRANSACTION_ERROR);
                self.pause_before_retry(error, is_aborted).await?;
                self.watch.look(&self.store).await;
                Ok(None)
            }
        }
    }

    /// True when committed, false when the whole transaction is to be repeated.
    async fn commit(&mut self) -> StoreResult<bool> {
        failpoint::hit("transaction.ready");
        loop {
            let sent = self.session.commit_transaction().within(self.budget.limit()).await;
            let Err(error) = sent else {
                failpoint::hit("transaction.committed");
                return Ok(true);
            };
            // Sent, and perhaps done: the server answers the same commit again.
            let is_unknown = is_cut(&error) || error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT);
            let is_aborted = error.contains_label(TRANSIENT_TRANSACTION_ERROR);
            self.pause_before_retry(error, is_unknown || is_aborted).await?;
            if !is_unknown {
                return Ok(false);
            }
        }
    }

    async fn abort(&mut self) {
        if let Err(error) = self.session.abort_transaction().within(ABORT_LIMIT).await {
            tracing::debug!(error = %error, "could not abort a transaction");
        }
    }

    async fn pause_before_retry(&mut self, error: mongodb::error::Error, may_help: bool) -> StoreResult<()> {
        // Those that aborted each other must not meet again.
        let [chance] = crate::random::bytes();
        let pause = self.pause.mul_f64(0.5 + f64::from(chance) / 256.0);
        if !may_help || !self.budget.pause(pause).await {
            return Err(error.into());
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
