//! Wrapped keys by the key that wraps them: counted, read page by page, and replaced where they are
//! still as they were read. Opens and wraps nothing.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use serde::Deserialize;

use super::blobs::tenant_of;
use super::keys::RootDoc;
use super::limit::{SCAN_LIMIT, Within};
use super::rows::{RowPlace, segment_id};
use super::schema::{BLOBS, KEYS, REGISTRY};
use super::segments::{State, WrapDoc};
use super::{Id, Store, StoreError, StoreResult};

/// The wrapped data key of a live segment.
#[derive(Debug, Clone)]
pub struct WrappedSegment {
    /// The segment.
    pub id: Id,
    /// Where its row is.
    pub place: RowPlace,
    /// The document that is it or has it.
    pub holder: Id,
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

/// Records that name the key, in this field; those of clients' keys name none.
fn wrapped_by(field: &str, kid: &str) -> Document {
    doc! { field: { "$eq": kid } }
}

/// Where wrapped keys are: the collections, and the field with the key's name.
fn holders() -> impl Iterator<Item = (&'static str, String)> {
    let of_rows = RowPlace::ALL.map(|place| (place.collection(), place.field(KID)));
    of_rows.into_iter().chain([(KEYS, KID.to_owned())])
}

const KID: &str = "enc.kid";

impl Store {
    /// The keys of the keyring that wrap something.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_wrapping_keys(&self) -> StoreResult<BTreeSet<String>> {
        let mut kids = BTreeSet::new();
        for (collection, field) in holders() {
            // So that an index of those that have it will do.
            let has_it = doc! { &field: { "$gte": "" } };
            let named = self.documents(collection).distinct(&field, has_it).within(SCAN_LIMIT).await?;
            kids.extend(named.iter().filter_map(Bson::as_str).filter(|kid| !kid.is_empty()).map(str::to_owned));
        }
        Ok(kids)
    }

    /// How many records a key wraps: segments in every state, and roots.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_wrapped(&self, kid: &str) -> StoreResult<u64> {
        let mut count = 0;
        for (collection, field) in holders() {
            count += self.documents(collection).count_documents(wrapped_by(&field, kid)).within(SCAN_LIMIT).await?;
        }
        Ok(count)
    }

    /// Live segments whose data key is wrapped by `kid` and whose row is in this place, by the id of what holds it; of an
    /// upload that runs the row is its writer's.
    ///
    /// # Errors
    /// When the database fails; a record that cannot be read is no error.
    pub async fn page_wrapped(
        &self,
        place: RowPlace,
        kid: &str,
        after: Option<Id>,
        limit: i64,
    ) -> StoreResult<Vec<WrappedSegment>> {
        let mut filter = wrapped_by(&place.field(KID), kid);
        filter.insert("state", State::Live.name());
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let mut pipeline = vec![doc! { "$match": filter }, doc! { "$sort": { "_id": 1 } }, doc! { "$limit": limit }];
        match place {
            RowPlace::Segments => {
                let owner = doc! { "from": BLOBS, "localField": "blob", "foreignField": "_id", "as": "owner",
                "pipeline": [{ "$project": { "scope": 1 } }] };
                pipeline.extend([doc! { "$project": { "enc": 1, "blob": 1 } }, doc! { "$lookup": owner }]);
                let scope = doc! { "$first": "$owner.scope" };
                pipeline.push(doc! { "$project": { "enc": 1, "segment": "$_id", "scope": scope } });
            }
            RowPlace::Blob => {
                let (enc, segment) = (format!("${}", place.field("enc")), format!("${}", place.field("_id")));
                pipeline.push(doc! { "$project": { "enc": enc, "segment": segment, "scope": 1 } });
            }
        }
        let holders = self.documents(place.collection());
        let rows = holders.aggregate(pipeline).with_type::<RawDocumentBuf>().within(SCAN_LIMIT).await?;
        let rows: Vec<RawDocumentBuf> = rows.try_collect().within(SCAN_LIMIT).await?;
        let segment = |row: RawDocumentBuf| {
            let holder = row.get_object_id("_id").map_err(|error| StoreError::Damaged(error.to_string()))?;
            let id = row.get_object_id("segment").unwrap_or_else(|_| segment_id(holder));
            let read = mongodb::bson::deserialize_from_slice::<WrappedRow>(row.as_bytes());
            Ok(WrappedSegment { id, place, holder, wrapped: read.ok().and_then(WrappedRow::split) })
        };
        rows.into_iter().map(segment).collect()
    }

    /// Replaces a segment's record; false where it is no longer `old`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rewrap_segment(&self, place: RowPlace, holder: Id, old: &WrapDoc, new: &WrapDoc) -> StoreResult<bool> {
        self.replace_wrapped(place.collection(), holder, &place.field("enc"), old, new).await
    }

    /// Replaces a root's record; false where it is no longer as in `old`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rewrap_root(&self, old: &RootDoc, new: &WrapDoc) -> StoreResult<bool> {
        self.replace_wrapped(KEYS, old.id.as_str(), "enc", &old.enc, new).await
    }

    /// The sealed key is another after every wrap, so it stands for the record.
    async fn replace_wrapped(
        &self,
        collection: &str,
        id: impl Into<Bson>,
        field: &str,
        old: &WrapDoc,
        new: &WrapDoc,
    ) -> StoreResult<bool> {
        let new = mongodb::bson::serialize_to_document(new).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let unchanged = doc! { "_id": id, format!("{field}.ct"): &old.ct };
        let replaced = self
            .documents(collection)
            .update_one(unchanged, doc! { "$set": { field: new } })
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
