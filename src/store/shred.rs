//! Crypto-shredding: the wrapped data keys of content are destroyed in the moment it is condemned.
//! Its bytes are removed later, by `reclaim.rs`; downloads that run hold what they need.

use mongodb::ClientSession;
use mongodb::bson::{Document, doc};

use super::limit::Within;
use super::schema::{BLOBS, SEGMENTS};
use super::transaction::{StepError, Transaction};
use super::{Id, Store, StoreResult};

impl Store {
    /// Applies `condemn` to a blob that is still as `unchanged` says and destroys its wrapped keys, both or
    /// neither; true when condemned.
    ///
    /// # Errors
    /// When the database fails; then neither happened, or both.
    pub(super) async fn condemn_and_shred(
        &self,
        blob: Id,
        unchanged: Document,
        condemn: Document,
    ) -> StoreResult<bool> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = self.condemn_and_shred_in(blob, unchanged.clone(), condemn.clone(), session);
            let outcome = steps.within(limit).await;
            if let Some(is_condemned) = transaction.conclude(outcome).await? {
                return Ok(is_condemned);
            }
        }
    }

    /// The same as a step of a transaction.
    pub(super) async fn condemn_and_shred_in(
        &self,
        blob: Id,
        unchanged: Document,
        condemn: Document,
        session: &mut ClientSession,
    ) -> Result<bool, StepError> {
        let blobs = self.documents(BLOBS);
        let condemned = blobs.update_one(unchanged, condemn).session(&mut *session).await?;
        if condemned.matched_count == 1 {
            let shred = doc! { "$unset": { "enc": "" } };
            self.documents(SEGMENTS).update_many(doc! { "blob": blob }, shred).session(session).await?;
        }
        Ok(condemned.matched_count == 1)
    }
}
