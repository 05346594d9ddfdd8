//! Where segments' rows are, and finding them there: by themselves, or, where a row came with its blob in one
//! transaction, in the blob, which then needs no second document. Who made them is `commit.rs`; what they say is
//! `segments.rs`.

use std::collections::HashMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocument, doc};
use mongodb::raw_batch_cursor::RawBatch;

use super::gridfs::write::SMALL_LEN;
use super::group::{self, Group};
use super::limit::Within;
use super::schema::{BLOBS, REGISTRY, SEGMENTS};
use super::segments::SegmentDoc;
use super::{Id, Store, StoreError, StoreResult, look_ups};

/// Rows of one reply: those of an upload in thousands of parts, too.
pub(super) const ROWS_AT_ONCE: u32 = 10_000;
/// A blob's field that holds the row of its only segment.
pub(super) const ROW: &str = "segment";

/// Where a segment's row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPlace {
    /// In `segments`.
    Segments,
    /// In its blob.
    Blob,
}

impl RowPlace {
    /// Every place.
    pub const ALL: [Self; 2] = [Self::Segments, Self::Blob];

    /// Where to look first: small content is stored with its row in the blob, unless it came in parts.
    ///
    /// # Units
    /// Stored bytes.
    pub fn likely(stored_len: i64) -> Self {
        if stored_len < SMALL_LEN as i64 { Self::Blob } else { Self::Segments }
    }

    /// The collection.
    pub const fn collection(self) -> &'static str {
        match self {
            Self::Segments => SEGMENTS,
            Self::Blob => BLOBS,
        }
    }

    /// A field of a row, as it is named in its place.
    pub(super) fn field(self, name: &str) -> String {
        match self {
            Self::Segments => name.to_owned(),
            Self::Blob => format!("{ROW}.{name}"),
        }
    }

    /// Documents of the place with rows of these blobs.
    fn of_blobs(self, blobs: &[Id]) -> Document {
        match self {
            Self::Segments => doc! { "blob": { "$in": blobs } },
            Self::Blob => doc! { "_id": { "$in": blobs }, ROW: { "$exists": true } },
        }
    }

    /// Each blob's rows in documents of the place, in their order.
    fn rows_of_each(self, blobs: &[Id], replies: &[RawBatch]) -> StoreResult<Vec<StoreResult<Vec<SegmentDoc>>>> {
        let owner = match self {
            Self::Segments => "blob",
            Self::Blob => "_id",
        };
        let mut by_blob = HashMap::<Id, Vec<&RawDocument>>::new();
        for reply in replies {
            for holder in reply.doc_slices().map_err(damaged)? {
                let holder = holder.map_err(damaged)?.as_document().ok_or_else(|| damaged("it is no document"))?;
                if let Ok(blob) = holder.get_object_id(owner) {
                    by_blob.entry(blob).or_default().push(holder);
                }
            }
        }
        let read = |holder: &&RawDocument| {
            let row = self.row(holder).transpose()?;
            Some(row.and_then(|row| mongodb::bson::deserialize_from_slice(row.as_bytes()).map_err(damaged)))
        };
        let of = |blob: &Id| by_blob.get(blob).into_iter().flatten().filter_map(read).collect();
        Ok(blobs.iter().map(of).collect())
    }

    /// The row of a document of the place, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where something else is in its place, or a row of other bytes than the blob's own: whoever
    /// reads or reaps by it would take another's.
    pub fn row(self, document: &RawDocument) -> StoreResult<Option<&RawDocument>> {
        if self == Self::Segments {
            return Ok(Some(document));
        }
        let Some(row) = document.get(ROW).map_err(damaged)? else { return Ok(None) };
        let row = row.as_document().ok_or_else(|| damaged("it is no document"))?;
        let holder = document.get_object_id("_id").map_err(damaged)?;
        let is_its = row.get_object_id("blob").is_ok_and(|blob| blob == holder)
            && row.get_object_id("_id").is_ok_and(|id| id == segment_id(holder))
            && matches!(row.get("filesId"), Ok(None));
        if is_its { Ok(Some(row)) } else { Err(damaged("it is not its blob's")) }
    }
}

fn damaged(error: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("a segment's row cannot be read: {error}"))
}

/// The segment of a blob that may hold its row: the blob's id with the random bytes first, so that segments can be
/// spread over shards by theirs (decision 0034), and either id tells the other.
pub fn segment_id(blob: Id) -> Id {
    let [a, b, c, d, random @ ..] = blob.bytes();
    let mut id = [0; 12];
    id[..8].copy_from_slice(&random);
    id[8..].copy_from_slice(&[a, b, c, d]);
    Id::from_bytes(id)
}

/// The blob of a [`segment_id`].
pub fn blob_id(segment: Id) -> Id {
    let [random @ .., a, b, c, d] = segment.bytes();
    let mut id = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    id[4..].copy_from_slice(&random);
    Id::from_bytes(id)
}

/// The blobs that hold the rows of these GridFS files, if such do.
pub(super) fn blob_ids(files_ids: &[Bson]) -> Vec<Id> {
    files_ids.iter().filter_map(Bson::as_object_id).map(blob_id).collect()
}

/// Where requests meet that look for the rows of a blob, by place.
#[derive(Clone)]
pub(super) struct RowGroups {
    segments: Group<Id, StoreResult<Vec<SegmentDoc>>>,
    blobs: Group<Id, StoreResult<Vec<SegmentDoc>>>,
}

impl RowGroups {
    pub(super) fn new() -> Self {
        Self { segments: look_ups(), blobs: look_ups() }
    }
}

impl Store {
    /// The segments of a blob, by offset; looked for in the likely place first.
    pub async fn find_segments(&self, blob: Id, likely: RowPlace) -> StoreResult<Vec<SegmentDoc>> {
        let rows = self.find_rows(blob, likely).await?;
        match likely {
            _ if !rows.is_empty() => Ok(rows),
            RowPlace::Segments => self.find_rows(blob, RowPlace::Blob).await,
            RowPlace::Blob => self.find_rows(blob, RowPlace::Segments).await,
        }
    }

    /// Asks together with others who ask now.
    async fn find_rows(&self, blob: Id, place: RowPlace) -> StoreResult<Vec<SegmentDoc>> {
        let store = self.clone();
        let find = move |group| {
            let store = store.clone();
            async move { store.find_rows_of_each(group, place).await }
        };
        let group = match place {
            RowPlace::Segments => &self.rows.segments,
            RowPlace::Blob => &self.rows.blobs,
        };
        async { group.join(blob, find).await.unwrap_or_else(group::lost) }.within(self.limit).await
    }

    async fn find_rows_of_each(&self, blobs: Vec<Id>, place: RowPlace) -> Vec<StoreResult<Vec<SegmentDoc>>> {
        let found = self.find_holders(&blobs, place).await.and_then(|replies| place.rows_of_each(&blobs, &replies));
        found.unwrap_or_else(|error| blobs.iter().map(|_| Err(error.clone())).collect())
    }

    /// Replies with the documents that hold the rows of blobs; rows of their own by blob and offset.
    async fn find_holders(&self, blobs: &[Id], place: RowPlace) -> StoreResult<Vec<RawBatch>> {
        let holders = self.documents(place.collection());
        let found = holders.find(place.of_blobs(blobs)).max_time(self.query_timeout);
        let found = match place {
            RowPlace::Segments => found.sort(doc! { "blob": 1, "off": 1 }).batch_size(ROWS_AT_ONCE),
            RowPlace::Blob => found.projection(doc! { ROW: 1 }),
        };
        Ok(found.batch().within(self.limit).await?.try_collect().within(self.limit).await?)
    }

    /// Whether anything says that a GridFS file is its own: a row, readable or not; a blob that it would be the segment
    /// of, with its row or without; a registry document that names such a blob, or has a copy of the row.
    pub async fn is_owned(&self, bucket: &str, files_id: &Bson) -> StoreResult<bool> {
        let row = doc! { "$or": [{ "_id": files_id.clone() }, { "bucket": bucket, "filesId": files_id.clone() }] };
        let blobs = blob_ids(std::slice::from_ref(files_id));
        let (blob, naming) = (doc! { "_id": { "$in": &blobs } }, doc! { "blob": { "$in": &blobs } });
        // The last by a walk through all files: it is a repair that asks.
        let copied = doc! { "content.row.segment": files_id.clone() };
        for (collection, filter) in [(SEGMENTS, row), (BLOBS, blob), (REGISTRY, naming), (REGISTRY, copied)] {
            let documents = self.documents(collection);
            let found = documents.find_one(filter).projection(doc! { "_id": 1 }).max_time(self.limit);
            if found.within(self.limit).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::new_id;

    #[test]
    fn the_ids_of_a_blob_and_its_segment_tell_each_other() {
        let blob = Id::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(segment_id(blob).bytes(), [5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4]);
        for _ in 0..100 {
            let blob = new_id();
            assert_eq!(blob_id(segment_id(blob)), blob);
        }
    }
}
