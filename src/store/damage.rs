//! Content whose stored bytes no longer verify: marked on its blob, so that nothing new shares it.
//!
//! The mark is `damagedAt` with `damage`, the first wrong place, beside the members of `BlobDoc`; the
//! look-up value `sha256` goes, and does not come back with the mark's end. Finding damage is
//! `jobs/scrub.rs`.

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, RawDocumentBuf, doc};

use super::audit::AuditDoc;
use super::limit::{SCAN_LIMIT, Within};
use super::registry::{Found, readable};
use super::rows::RowPlace;
use super::schema::{BLOBS, REGISTRY};
use super::segments::State;
use super::transaction::{StepError, Transaction};
use super::{Id, Store, StoreResult};

impl Store {
    /// Files whose content a blob is, a few of them.
    pub async fn find_naming(&self, blob: Id, limit: i64) -> StoreResult<Found> {
        let registry = self.collection::<RawDocumentBuf>(REGISTRY);
        let found = registry
            .find(doc! { "blob": blob })
            .sort(doc! { "_id": 1 })
            .limit(limit)
            .max_time(self.limit)
            .within(self.limit)
            .await?;
        readable(found).within(self.limit).await
    }

    /// Marks a live blob with the audit entries of its files; false when it has this mark already, or
    /// is no longer live.
    pub async fn mark_damaged(&self, blob: Id, damage: &str, audit: &[AuditDoc]) -> StoreResult<bool> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let live = doc! { "_id": blob, "state": State::Live.name() };
                let mark = vec![
                    doc! { "$set": { "damage": { "$literal": damage }, "damagedAt": { "$ifNull": ["$damagedAt", "$$NOW"] } } },
                    doc! { "$unset": "sha256" },
                ];
                // The same mark once more modifies nothing.
                let marked = self.documents(BLOBS).update_one(live, mark).session(&mut *session).await?;
                if marked.modified_count == 1 {
                    for entry in audit {
                        self.append_audit(&[entry], session).await?;
                    }
                }
                Ok::<_, StepError>(marked.modified_count == 1)
            };
            let outcome = steps.within(limit).await;
            if let Some(is_new) = transaction.conclude(outcome).await? {
                return Ok(is_new);
            }
        }
    }

    /// Takes the mark off content that verifies; true when it had one.
    pub async fn clear_damage(&self, blob: Id) -> StoreResult<bool> {
        let marked = doc! { "_id": blob, "damagedAt": { "$exists": true } };
        let clear = doc! { "$unset": { "damagedAt": "", "damage": "" } };
        Ok(self.documents(BLOBS).update_one(marked, clear).within(self.limit).await?.modified_count == 1)
    }

    /// Of these blobs, those that are marked.
    pub async fn find_marked(&self, blobs: &[Id]) -> StoreResult<Vec<Id>> {
        let marked = doc! { "_id": { "$in": blobs }, "damagedAt": { "$exists": true } };
        let found = self.documents(BLOBS).distinct("_id", marked).max_time(self.limit).within(self.limit).await?;
        Ok(found.iter().filter_map(Bson::as_object_id).collect())
    }

    /// How many blobs are marked.
    pub async fn count_damaged(&self) -> StoreResult<u64> {
        let marked = doc! { "damagedAt": { "$gt": DateTime::from_millis(0) } };
        Ok(self.documents(BLOBS).count_documents(marked).max_time(self.limit).within(self.limit).await?)
    }

    /// Stored bytes of all live segments: of a bucket, or of all.
    pub async fn sum_stored(&self, bucket: Option<&str>) -> StoreResult<u64> {
        let mut stored = 0;
        for place in RowPlace::ALL {
            let mut live = doc! { "state": State::Live.name() };
            if let Some(bucket) = bucket {
                live.insert(place.field("bucket"), bucket);
            }
            let sum = doc! { "$group": { "_id": null, "len": { "$sum": format!("${}", place.field("storedLen")) } } };
            let rows = self.documents(place.collection());
            let mut found = rows.aggregate([doc! { "$match": live }, sum]).within(SCAN_LIMIT).await?;
            let sum = found.try_next().within(SCAN_LIMIT).await?.and_then(|sum| sum.get_i64("len").ok());
            stored += sum.map_or(0, i64::unsigned_abs);
        }
        Ok(stored)
    }
}
