//! Counting what is there: every collection page by page, for the checker. Changes nothing and
//! judges nothing.

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::blobs::BlobDoc;
use super::limit::{SCAN_LIMIT, Within};
use super::registry::FileDoc;
use super::rows::{ROW, RowPlace, blob_ids, segment_id};
use super::schema::{BLOBS, REGISTRY, SEGMENTS, chunks_of, files_of};
use super::segments::{SegmentDoc, State};
use super::shape::odd_shape;
use super::{Id, Store, StoreError, StoreResult};

/// What the chunks of one GridFS file add up to.
///
/// # Units
/// Bytes of payload.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkSums {
    /// The file's id.
    #[serde(rename = "_id")]
    pub files_id: Bson,
    /// How many chunks.
    pub count: i64,
    /// The highest `n`.
    pub last: i64,
    /// All payloads.
    pub total: i64,
    /// The longest payload.
    pub longest: i64,
    /// Each payload times its `n`: tells two wrong lengths that cancel out.
    pub moment: i64,
}

impl ChunkSums {
    /// What the chunks of a sound file add up to.
    pub fn expected(files_id: Bson, stored_len: i64, chunk_size: i64) -> Self {
        let count = if stored_len == 0 { 0 } else { (stored_len - 1) / chunk_size + 1 };
        let last_len = stored_len - (count - 1).max(0) * chunk_size;
        let full = (count - 1).max(0);
        Self {
            files_id,
            count,
            last: count - 1,
            total: stored_len,
            longest: if full > 0 { chunk_size } else { last_len },
            moment: full * (full - 1) / 2 * chunk_size + full * last_len,
        }
    }
}

/// A document of a collection that gateways write.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// Its id.
    pub id: Id,
    /// What it says; none where it cannot be read.
    pub row: Option<T>,
    /// What no gateway writes like this.
    pub odd: Option<String>,
}

/// A segment's row as far as the checker needs it.
///
/// # Units
/// Bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as those of `SegmentDoc`")]
pub struct SegmentHead {
    #[serde(rename = "_id")]
    pub id: Id,
    pub blob: Id,
    pub bucket: String,
    #[serde(default)]
    files_id: Option<Bson>,
    pub stored_len: i64,
    pub chunk_size: i32,
    pub state: State,
}

impl SegmentHead {
    /// The GridFS file that holds the bytes.
    pub fn files_id(&self) -> Bson {
        self.files_id.clone().unwrap_or(Bson::ObjectId(self.id))
    }
}

/// A files document as far as the checker needs it.
#[derive(Debug, Clone, Deserialize)]
pub struct FilesHead {
    /// The file's id.
    #[serde(rename = "_id")]
    pub files_id: Bson,
    /// Its length, of whatever type.
    #[serde(default)]
    pub length: Option<Bson>,
    /// Its chunk size, of whatever type.
    #[serde(default, rename = "chunkSize")]
    pub chunk_size: Option<Bson>,
    /// Whether this program wrote it.
    #[serde(default)]
    pub ours: bool,
}

/// Which documents of a collection.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Those below an id, so many, largest first: what is made meanwhile lies behind, so that a walk has an end.
    Below(Option<Id>, i64),
    /// Those with these ids.
    Of(&'a [Id]),
}

impl Store {
    /// Documents by id, below one or with one of some ids.
    async fn entries<T: DeserializeOwned>(
        &self,
        collection: &str,
        which: Which<'_>,
        odd: impl Fn(&RawDocument) -> Option<String>,
    ) -> StoreResult<Vec<Entry<T>>> {
        let (filter, limit) = match which {
            Which::Below(None, limit) => (doc! { "_id": { "$type": "objectId" } }, limit),
            Which::Below(Some(last), limit) => (doc! { "_id": { "$lt": last } }, limit),
            Which::Of(ids) => (doc! { "_id": { "$in": ids } }, 0),
        };
        let found = self.collection::<RawDocumentBuf>(collection);
        let found =
            found.find(filter).sort(doc! { "_id": -1 }).limit(limit).max_time(self.limit).within(self.limit).await?;
        let entry = |document: RawDocumentBuf| {
            let id = document.get_object_id("_id").map_err(|error| StoreError::Damaged(error.to_string()))?;
            let row: Option<T> = mongodb::bson::deserialize_from_slice(document.as_bytes()).ok();
            let unreadable = || row.is_none().then(|| "cannot be read".to_owned());
            Ok(Entry { id, odd: odd(&document).or_else(unreadable), row })
        };
        let found: Vec<RawDocumentBuf> = found.try_collect().within(self.limit).await?;
        found.into_iter().map(entry).collect()
    }

    /// Registry documents of all tenants by id, expired ones included.
    pub async fn list_registry(&self, which: Which<'_>) -> StoreResult<Vec<Entry<FileDoc>>> {
        self.entries(REGISTRY, which, odd_shape).await
    }

    /// Blobs by id.
    pub async fn list_blobs(&self, which: Which<'_>) -> StoreResult<Vec<Entry<BlobDoc>>> {
        self.entries(BLOBS, which, |_| None).await
    }

    /// Segments by id, those whose rows are by themselves.
    pub async fn list_segments(&self, which: Which<'_>) -> StoreResult<Vec<Entry<SegmentHead>>> {
        self.entries(SEGMENTS, which, |_| None).await
    }

    /// The rows in these blobs; a blob that has one which cannot be read is an entry of that segment all the same.
    pub async fn list_rows_in_blobs(&self, blobs: &[Id]) -> StoreResult<Vec<Entry<SegmentHead>>> {
        let with_row = doc! { "_id": { "$in": blobs }, ROW: { "$exists": true } };
        let holders = self.collection::<RawDocumentBuf>(BLOBS);
        let found = holders.find(with_row).projection(heads(RowPlace::Blob)).max_time(self.limit);
        let found: Vec<RawDocumentBuf> = found.within(self.limit).await?.try_collect().within(self.limit).await?;
        let entry = |blob: RawDocumentBuf| {
            let id = blob.get_object_id("_id").map_err(|error| StoreError::Damaged(error.to_string()))?;
            let row = RowPlace::Blob.row(&blob).ok().flatten().and_then(read_head);
            let odd = row.is_none().then(|| "cannot be read, or is not its blob's".to_owned());
            Ok(Entry { id: segment_id(id), row, odd })
        };
        found.into_iter().map(entry).collect()
    }

    /// The `_id`s of a collection that are not of the type gateways use, a few of them.
    pub async fn find_odd_ids(&self, collection: &str, limit: i64) -> StoreResult<Vec<Bson>> {
        let odd = doc! { "_id": { "$not": { "$type": "objectId" } } };
        let found = self
            .documents(collection)
            .find(odd)
            .projection(doc! { "_id": 1 })
            .limit(limit)
            .max_time(self.limit)
            .within(self.limit)
            .await?;
        let found: Vec<Document> = found.try_collect().within(self.limit).await?;
        Ok(found.into_iter().filter_map(|mut document| document.remove("_id")).collect())
    }

    /// Rough numbers of documents of a collection, for a look at progress.
    pub async fn estimate(&self, collection: &str) -> StoreResult<u64> {
        Ok(self.documents(collection).estimated_document_count().within(self.limit).await?)
    }

    /// Blobs by id, those that can be read.
    pub async fn find_blobs(&self, ids: &[Id]) -> StoreResult<Vec<BlobDoc>> {
        Ok(self.list_blobs(Which::Of(ids)).await?.into_iter().filter_map(|entry| entry.row).collect())
    }

    /// Of these blobs, those whose writers let their lease run out, in the database's time.
    pub async fn find_abandoned(&self, ids: &[Id]) -> StoreResult<Vec<Id>> {
        // `distinct` knows no `$$NOW`.
        let abandoned = doc! {
            "_id": { "$in": ids },
            "state": State::Pending.name(),
            "$expr": { "$lt": ["$lease", "$$NOW"] },
        };
        let found = self
            .documents(BLOBS)
            .find(abandoned)
            .projection(doc! { "_id": 1 })
            .max_time(self.limit)
            .within(self.limit)
            .await?;
        let found: Vec<Document> = found.try_collect().within(self.limit).await?;
        Ok(found.iter().filter_map(|blob| blob.get_object_id("_id").ok()).collect())
    }

    /// Of these blobs, those that a registry document names.
    pub async fn find_named(&self, blobs: &[Id]) -> StoreResult<Vec<Id>> {
        let naming = doc! { "blob": { "$in": blobs } };
        let named = self.documents(REGISTRY).distinct("blob", naming).max_time(self.limit).within(self.limit).await?;
        Ok(named.iter().filter_map(Bson::as_object_id).collect())
    }

    /// Segments by id.
    pub async fn find_segments_by_id(&self, ids: &[Id]) -> StoreResult<Vec<SegmentDoc>> {
        let found = self
            .collection::<SegmentDoc>(SEGMENTS)
            .find(doc! { "_id": { "$in": ids } })
            .max_time(self.limit)
            .within(self.limit)
            .await?;
        Ok(found.try_collect().within(self.limit).await?)
    }

    /// Segments whose bytes lie in these GridFS files of a bucket.
    pub async fn find_segments_of(&self, bucket: &str, files_ids: &[Bson]) -> StoreResult<Vec<SegmentHead>> {
        let own =
            doc! { "bucket": bucket, "$or": [{ "_id": { "$in": files_ids } }, { "filesId": { "$in": files_ids } }] };
        let in_blobs = doc! { "_id": { "$in": blob_ids(files_ids) }, RowPlace::Blob.field("bucket"): bucket };
        let mut heads_found = Vec::new();
        for (place, filter) in [(RowPlace::Segments, own), (RowPlace::Blob, in_blobs)] {
            let rows = self.collection::<RawDocumentBuf>(place.collection());
            let found = rows.find(filter).projection(heads(place)).max_time(self.limit).within(self.limit).await?;
            let found: Vec<RawDocumentBuf> = found.try_collect().within(self.limit).await?;
            heads_found.extend(found.iter().filter_map(|holder| read_head(place.row(holder).ok()??)));
        }
        Ok(heads_found)
    }

    /// The buckets of the database: every name with a `.files` or a `.chunks` collection.
    pub async fn list_buckets(&self) -> StoreResult<Vec<String>> {
        let names = self.meta.list_collection_names().within(self.limit).await?;
        let bucket = |name: &String| name.strip_suffix(".files").or(name.strip_suffix(".chunks")).map(str::to_owned);
        let mut buckets: Vec<String> = names.iter().filter_map(bucket).collect();
        buckets.sort();
        buckets.dedup();
        Ok(buckets)
    }

    /// Files documents of a bucket: all, or those of some files.
    pub async fn scan_files_documents(&self, bucket: &str, files_ids: Option<&[Bson]>) -> StoreResult<FilesScan> {
        let filter = files_ids.map_or_else(Document::new, |ids| doc! { "_id": { "$in": ids } });
        let shape =
            doc! { "length": 1, "chunkSize": 1, "ours": { "$eq": [{ "$type": "$metadata.gridgate" }, "object"] } };
        let files = self.collection(&files_of(bucket));
        Ok(FilesScan(files.find(filter).projection(shape).within(SCAN_LIMIT).await?))
    }

    /// What the chunks of a bucket add up to, file by file: of all files, or of some.
    ///
    /// Reads every chunk document on the server; only the sums come over.
    pub async fn scan_chunks(&self, bucket: &str, files_ids: Option<&[Bson]>) -> StoreResult<ChunkScan> {
        let filter = files_ids.map_or_else(Document::new, |ids| doc! { "files_id": { "$in": ids } });
        let number =
            |value: Bson| doc! { "$convert": { "input": value, "to": "long", "onError": -1_i64, "onNull": -1_i64 } };
        let size = doc! { "$cond": [{ "$eq": [{ "$type": "$data" }, "binData"] }, { "$binarySize": "$data" }, -1] };
        let pipeline = [
            doc! { "$match": filter },
            doc! { "$project": { "files_id": 1, "n": number("$n".into()), "size": number(size.into()) } },
            doc! { "$group": {
                "_id": "$files_id",
                "count": { "$sum": 1_i64 },
                "last": { "$max": "$n" },
                "total": { "$sum": "$size" },
                "longest": { "$max": "$size" },
                "moment": { "$sum": { "$multiply": ["$n", "$size"] } },
            } },
        ];
        let chunks = self.documents(&chunks_of(bucket));
        let scan = chunks.aggregate(pipeline).allow_disk_use(true).within(SCAN_LIMIT).await?;
        Ok(ChunkScan(scan.with_type()))
    }
}

/// What a [`SegmentHead`] is read from, without the records, which may be large.
fn heads(place: RowPlace) -> Document {
    let fields = ["_id", "blob", "bucket", "filesId", "storedLen", "chunkSize", "state"];
    fields.into_iter().map(|field| (place.field(field), Bson::from(1))).collect()
}

fn read_head(row: &RawDocument) -> Option<SegmentHead> {
    mongodb::bson::deserialize_from_slice(row.as_bytes()).ok()
}

/// A running scan of files documents.
pub struct FilesScan(mongodb::Cursor<FilesHead>);

/// A running scan of chunk sums.
pub struct ChunkScan(mongodb::Cursor<ChunkSums>);

impl FilesScan {
    /// The next few; none at the end.
    pub async fn next(&mut self, limit: usize) -> StoreResult<Vec<FilesHead>> {
        next(&mut self.0, limit).await
    }
}

impl ChunkScan {
    /// The next few; none at the end.
    pub async fn next(&mut self, limit: usize) -> StoreResult<Vec<ChunkSums>> {
        next(&mut self.0, limit).await
    }
}

async fn next<T: DeserializeOwned>(cursor: &mut mongodb::Cursor<T>, limit: usize) -> StoreResult<Vec<T>> {
    let mut found = Vec::with_capacity(limit);
    while found.len() < limit {
        match cursor.try_next().within(SCAN_LIMIT).await? {
            Some(item) => found.push(item),
            None => break,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::ChunkSums;
    use mongodb::bson::Bson;

    #[test]
    fn the_expected_sums_are_those_of_full_chunks_and_a_rest() {
        for (stored_len, chunk_size) in [(0, 10), (1, 10), (9, 10), (10, 10), (11, 10), (35, 10), (40, 10)] {
            let mut lens = Vec::new();
            let mut rest: i64 = stored_len;
            while rest > 0 {
                lens.push(rest.min(chunk_size));
                rest -= chunk_size;
            }
            let expected = ChunkSums {
                files_id: Bson::Null,
                count: lens.len() as i64,
                last: lens.len() as i64 - 1,
                total: stored_len,
                longest: lens.iter().copied().max().unwrap_or(0),
                moment: lens.iter().enumerate().map(|(n, len)| n as i64 * len).sum(),
            };
            assert_eq!(ChunkSums::expected(Bson::Null, stored_len, chunk_size), expected);
        }
    }
}
