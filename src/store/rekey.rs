//! Wrapped keys by the key that wraps them: counted, read page by page, and replaced where they are
//! still as they were read. Opens and wraps nothing.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use serde::Deserialize;

use super::blobs::tenant_of;
use super::keys::RootDoc;
use super::limit::{SCAN_LIMIT, Within};
use super::schema::{BLOBS, KEYS, REGISTRY, SEGMENTS};
use super::segments::{State, WrapDoc};
use super::{Id, Store, StoreError, StoreResult};

/// The wrapped data key of a live segment.
#[derive(Debug, Clone)]
pub struct WrappedSegment {
    /// The segment.
    pub id: Id,
    /// The record and the tenant it is bound to; none where no gateway wrote them.
    pub wrapped: Option<(WrapDoc, String)>,
}

#[derive(Deserialize)]
struct WrappedRow {
    enc: WrapDoc,
    scope: String,
}

impl WrappedRow {
    fn split(self) -> Option<(WrapDoc, String)> {
        let tenant = tenant_of(&self.scope)?.to_owned();
        Some((self.enc, tenant))
    }
}

/// Records that name the key; those of clients' keys name none.
fn wrapped_by(kid: &str) -> Document {
    doc! { "enc.kid": { "$eq": kid } }
}

impl Store {
    /// The keys of the keyring that wrap something.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_wrapping_keys(&self) -> StoreResult<BTreeSet<String>> {
        let mut kids = BTreeSet::new();
        for collection in [SEGMENTS, KEYS] {
            let named = self.documents(collection).distinct("enc.kid", doc! {}).within(SCAN_LIMIT).await?;
            kids.extend(named.iter().filter_map(Bson::as_str).filter(|kid| !kid.is_empty()).map(str::to_owned));
        }
        Ok(kids)
    }

    /// How many records a key wraps: segments in every state, and roots.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_wrapped(&self, kid: &str) -> StoreResult<u64> {
        let segments = self.documents(SEGMENTS).count_documents(wrapped_by(kid)).within(SCAN_LIMIT).await?;
        Ok(segments + self.documents(KEYS).count_documents(wrapped_by(kid)).within(SCAN_LIMIT).await?)
    }

    /// Live segments whose data key is wrapped by `kid`, by id; of an upload that runs the row is its writer's.
    ///
    /// # Errors
    /// When the database fails; a record that cannot be read is no error.
    pub async fn page_wrapped(&self, kid: &str, after: Option<Id>, limit: i64) -> StoreResult<Vec<WrappedSegment>> {
        let mut filter = wrapped_by(kid);
        filter.insert("state", State::Live.name());
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let owner = doc! { "from": BLOBS, "localField": "blob", "foreignField": "_id", "as": "owner",
        "pipeline": [{ "$project": { "scope": 1 } }] };
        let pipeline = [
            doc! { "$match": filter },
            doc! { "$sort": { "_id": 1 } },
            doc! { "$limit": limit },
            doc! { "$project": { "enc": 1, "blob": 1 } },
            doc! { "$lookup": owner },
            doc! { "$project": { "enc": 1, "scope": { "$first": "$owner.scope" } } },
        ];
        let rows =
            self.documents(SEGMENTS).aggregate(pipeline).with_type::<RawDocumentBuf>().within(SCAN_LIMIT).await?;
        let rows: Vec<RawDocumentBuf> = rows.try_collect().within(SCAN_LIMIT).await?;
        let segment = |row: RawDocumentBuf| {
            let id = row.get_object_id("_id").map_err(|error| StoreError::Damaged(error.to_string()))?;
            let read = mongodb::bson::deserialize_from_slice::<WrappedRow>(row.as_bytes());
            Ok(WrappedSegment { id, wrapped: read.ok().and_then(WrappedRow::split) })
        };
        rows.into_iter().map(segment).collect()
    }

    /// Replaces a segment's record; false where it is no longer `old`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rewrap_segment(&self, id: Id, old: &WrapDoc, new: &WrapDoc) -> StoreResult<bool> {
        self.replace_wrapped(SEGMENTS, id, old, new).await
    }

    /// Replaces a root's record; false where it is no longer as in `old`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rewrap_root(&self, old: &RootDoc, new: &WrapDoc) -> StoreResult<bool> {
        self.replace_wrapped(KEYS, old.id.as_str(), &old.enc, new).await
    }

    /// The sealed key is another after every wrap, so it stands for the record.
    async fn replace_wrapped(
        &self,
        collection: &str,
        id: impl Into<Bson>,
        old: &WrapDoc,
        new: &WrapDoc,
    ) -> StoreResult<bool> {
        let new = mongodb::bson::serialize_to_document(new).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let unchanged = doc! { "_id": id, "enc.ct": &old.ct };
        let replaced = self
            .documents(collection)
            .update_one(unchanged, doc! { "$set": { "enc": new } })
            .within(self.limit)
            .await?;
        Ok(replaced.matched_count == 1)
    }

    /// Lets registry documents name `primary` where they name a key that wraps nothing any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn name_wrapping_key(&self, primary: &str, in_use: &[&str]) -> StoreResult<()> {
        let stale = doc! { "content.mode": "managed", "content.kid": { "$nin": in_use } };
        self.documents(REGISTRY)
            .update_many(stale, doc! { "$set": { "content.kid": primary } })
            .within(SCAN_LIMIT)
            .await?;
        Ok(())
    }
}
