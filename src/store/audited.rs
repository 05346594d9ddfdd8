//! One document made or changed, with its audit entry: both or none. Changes of several documents are transactions of
//! their own.

use mongodb::bson::Document;
use mongodb::options::{ReturnDocument, UpdateModifications};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::audit::AuditDoc;
use super::commit::IdempotencyDoc;
use super::limit::Within;
use super::schema::IDEMPOTENCY;
use super::transaction::{StepError, Transaction};
use super::{Store, StoreError, StoreResult};

impl Store {
    /// Inserts a document, with the memory of the request that made it.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when the idempotency key was used before.
    pub(super) async fn insert_audited<T: Serialize + Send + Sync>(
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

    /// Updates the document that matches and gives what became of it.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when none matches.
    pub(super) async fn update_audited<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &str,
        filter: &Document,
        update: impl Into<UpdateModifications>,
        audit: &AuditDoc,
    ) -> StoreResult<T> {
        self.find_and_update(collection, filter, update.into(), false, audit).await
    }

    /// The same, and makes the document where none matches.
    pub(super) async fn upsert_audited<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &str,
        filter: &Document,
        update: impl Into<UpdateModifications>,
        audit: &AuditDoc,
    ) -> StoreResult<T> {
        self.find_and_update(collection, filter, update.into(), true, audit).await
    }

    async fn find_and_update<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &str,
        filter: &Document,
        update: UpdateModifications,
        upserts: bool,
        audit: &AuditDoc,
    ) -> StoreResult<T> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let updated = self
                    .collection::<T>(collection)
                    .find_one_and_update(filter.clone(), update.clone())
                    .upsert(upserts)
                    .return_document(ReturnDocument::After)
                    .session(&mut *session)
                    .await?
                    .ok_or(StepError::Final(StoreError::Stale))?;
                self.append_audit(&[audit], session).await?;
                Ok(updated)
            };
            let outcome = steps.within(limit).await;
            if let Some(updated) = transaction.conclude(outcome).await? {
                return Ok(updated);
            }
        }
    }
}
