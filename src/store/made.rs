//! Documents that a request makes: each with its audit entry and the memory of the request, all or none.

use serde::Serialize;

use super::audit::AuditDoc;
use super::commit::IdempotencyDoc;
use super::limit::Within;
use super::schema::IDEMPOTENCY;
use super::transaction::Transaction;
use super::{Store, StoreResult};

impl Store {
    /// Inserts a document.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`](super::StoreError::Duplicate) when the idempotency key was used before.
    pub(super) async fn insert_made<T: Serialize + Send + Sync>(
        &self,
        collection: &str,
        made: &T,
        audit: &AuditDoc,
        idempotency: Option<&IdempotencyDoc>,
    ) -> StoreResult<()> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                if let Some(used) = idempotency {
                    self.collection::<IdempotencyDoc>(IDEMPOTENCY).insert_one(used).session(&mut *session).await?;
                }
                self.collection::<T>(collection).insert_one(made).session(&mut *session).await?;
                Ok(self.append_audit(&[audit], session).await?)
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }
}
