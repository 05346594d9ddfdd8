//! Condemning what nothing names and reaping it after the quarantine: the only acts that remove
//! bytes. When to run them is `jobs/sweep.rs`'s decision.

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};

use super::audit::AuditDoc;
use super::blobs::BlobDoc;
use super::limit::Within;
use super::registry::{FileDoc, Found, readable};
use super::rows::{ROW, RowPlace};
use super::schema::{BLOBS, REGISTRY, SEGMENTS};
use super::segments::State;
use super::{Id, Store, StoreError, StoreResult};
use crate::failpoint;

impl Store {
    /// Condemns a live blob unless a registry document names it; true when condemned.
    ///
    /// Compare-and-set on the generation: whoever attached the blob meanwhile has changed it.
    pub async fn condemn_unnamed(&self, blob: Id, now: DateTime) -> StoreResult<bool> {
        let blobs = self.collection::<BlobDoc>(BLOBS);
        let found = blobs.find_one(doc! { "_id": blob, "state": State::Live.name() }).max_time(self.limit);
        let Some(found) = found.within(self.limit).await? else {
            return Ok(false);
        };
        let registry = self.documents(REGISTRY);
        let naming = registry
            .find_one(doc! { "blob": blob })
            .projection(doc! { "_id": 1 })
            .max_time(self.limit)
            .within(self.limit);
        if naming.await?.is_some() {
            return Ok(false);
        }
        failpoint::hit("condemn.before");
        let unchanged = doc! { "_id": blob, "state": State::Live.name(), "gen": found.generation };
        let is_condemned = self.condemn_and_shred(blob, unchanged, condemned(now)).await?;
        failpoint::hit("condemn.after");
        Ok(is_condemned)
    }

    /// Condemns pending blobs whose writers let their lease run out, in the database's time.
    pub async fn condemn_abandoned(&self, now: DateTime) -> StoreResult<u64> {
        let abandoned = doc! { "state": State::Pending.name(), "$expr": { "$lt": ["$lease", "$$NOW"] } };
        let updated = self.documents(BLOBS).update_many(abandoned, condemned(now)).within(self.limit).await?;
        Ok(updated.modified_count)
    }

    /// Live blobs below `last` that no registry document names, newest first; also the last id looked at, to go on
    /// from, where there may be more.
    pub async fn find_unnamed(&self, last: Option<Id>, limit: i64) -> StoreResult<Unnamed> {
        let mut live = doc! { "state": State::Live.name() };
        if let Some(last) = last {
            live.insert("_id", doc! { "$lt": last });
        }
        let pipeline = [
            doc! { "$match": live },
            doc! { "$sort": { "_id": -1 } },
            doc! { "$limit": limit },
            doc! { "$lookup": { "from": REGISTRY, "localField": "_id", "foreignField": "blob", "as": "named",
            "pipeline": [{ "$limit": 1 }, { "$project": { "_id": 1 } }] } },
            doc! { "$project": { "isNamed": { "$gt": [{ "$size": "$named" }, 0] } } },
        ];
        let found = self.documents(BLOBS).aggregate(pipeline).max_time(self.query_timeout).within(self.limit).await?;
        let found: Vec<Document> = found.try_collect().within(self.limit).await?;
        let id = |document: &Document| document.get_object_id("_id").ok();
        let last = found.last().and_then(id).filter(|_| found.len() as i64 == limit);
        let unnamed = found.iter().filter(|document| matches!(document.get_bool("isNamed"), Ok(false)));
        Ok(Unnamed { blobs: unnamed.filter_map(id).collect(), last })
    }

    /// Files that expired, a few of them after those that could not be removed; never one under legal hold
    /// or under what cannot be read as none.
    pub async fn find_expired(&self, now: DateTime, left: u64, limit: i64) -> StoreResult<Found> {
        let expired = doc! { "expireAt": { "$lte": now }, "retention.legalHold": false };
        let registry = self.collection::<RawDocumentBuf>(REGISTRY);
        let found = registry.find(expired).sort(doc! { "expireAt": 1 }).skip(left).limit(limit).max_time(self.limit);
        let found = found.within(self.limit).await?;
        readable(found).within(self.limit).await
    }

    /// Removes an expired file with its audit entry; false when it changed meanwhile.
    pub async fn remove_expired(&self, file: &FileDoc, audit: &AuditDoc) -> StoreResult<bool> {
        match self.remove_file(file, audit).await {
            Err(StoreError::Stale) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Blobs condemned before the quarantine began, a few of them after those that could not be reaped.
    pub async fn find_reapable(&self, before: DateTime, left: u64, limit: i64) -> StoreResult<Vec<Id>> {
        let due = doc! {
            "_id": { "$type": "objectId" },
            "state": State::Condemned.name(),
            "condemnedAt": { "$lte": before },
        };
        let blobs = self.documents(BLOBS);
        // In the order of the index: any other would sort all that are due for each page.
        let found = blobs.find(due).projection(doc! { "_id": 1 }).sort(doc! { "condemnedAt": 1 });
        let found = found.skip(left).limit(limit).max_time(self.limit);
        let found: Vec<Document> = found.within(self.limit).await?.try_collect().within(self.limit).await?;
        Ok(found.iter().filter_map(|blob| blob.get_object_id("_id").ok()).collect())
    }

    /// Removes a condemned blob: each segment's GridFS file, then its row, then the blob.
    ///
    /// # Cancel safety
    /// May be repeated until done, by several gateways at once.
    pub async fn reap(&self, blob: Id) -> StoreResult<u64> {
        let condemned = doc! { "_id": blob, "state": State::Condemned.name() };
        let found = self.documents(BLOBS).find_one(condemned.clone()).max_time(self.limit).within(self.limit).await?;
        let Some(found) = found else { return Ok(0) };
        let place = if found.contains_key(ROW) { RowPlace::Blob } else { RowPlace::Segments };
        let mut freed = 0;
        for segment in self.find_segments(blob, place).await? {
            let files_id = segment.files_id.clone().unwrap_or(Bson::ObjectId(segment.id));
            self.delete_grid_file(&segment.bucket, &files_id).await?;
            failpoint::hit("reap.chunks");
            if place == RowPlace::Segments {
                self.documents(SEGMENTS).delete_one(doc! { "_id": segment.id }).within(self.limit).await?;
            }
            freed += segment.stored_len.unsigned_abs();
        }
        failpoint::hit("reap.rows");
        self.documents(BLOBS).delete_one(condemned).within(self.limit).await?;
        Ok(freed)
    }
}

/// A page of [`Store::find_unnamed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// The blobs.
    pub blobs: Vec<Id>,
    /// Where to go on.
    pub last: Option<Id>,
}

/// The change that condemns, and destroys the wrapped key of a row in the blob.
pub(super) fn condemned(now: DateTime) -> Document {
    doc! {
        "$set": { "state": State::Condemned.name(), "condemnedAt": now },
        "$unset": { "lease": "", RowPlace::Blob.field("enc"): "" },
        "$inc": { "gen": 1_i64 },
    }
}
