//! GridFS to the letter over raw documents: writing, reading by position, deleting, renaming.
//!
//! Stored bytes are opaque here: frames, keys and what the bytes belong to are other modules'.
//! The driver's own GridFS streams are not used; `docs/decisions/0003-own-gridfs.md` says why.
//!
//! # Source
//! GridFS specification of the MongoDB drivers.

pub mod export;
pub mod read;
pub mod write;

use std::ops::Range;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};

use super::chunks::whole_number;
use super::limit::{Budget, SCAN_LIMIT, Within};
use super::schema::{chunks_of, files_of};
use super::{Store, StoreError, StoreResult};
use crate::failpoint;

/// Chunks removed by one command.
const DELETE_WINDOW: i64 = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One stored GridFS file, as its reader needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct GridFile {
    /// The bucket.
    pub bucket: String,
    /// The files document's `_id`; other programs use any type.
    pub files_id: Bson,
    /// Bytes of every chunk but the last.
    pub chunk_size: u32,
    /// Bytes of all chunks.
    pub stored_len: u64,
}

impl GridFile {
    /// [`from_files_document`](Self::from_files_document) of an owned document.
    ///
    /// # Errors
    /// As there.
    pub fn from_document(bucket: &str, document: &Document) -> StoreResult<Self> {
        let raw = RawDocumentBuf::try_from(document).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Self::from_files_document(bucket, &raw)
    }

    /// Reads a files document, whoever wrote it: any number type, any chunk size, deprecated fields.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when length or chunk size are not usable numbers.
    pub fn from_files_document(bucket: &str, document: &RawDocument) -> StoreResult<Self> {
        let field = |name: &str| document.get(name).ok().flatten();
        let odd = |name: &str| StoreError::Damaged(format!("a files document has an unusable {name}"));
        let number = |name: &str| field(name).and_then(whole_number).ok_or_else(|| odd(name));
        let files_id = field("_id").and_then(|id| Bson::try_from(id).ok()).ok_or_else(|| odd("_id"))?;
        let chunk_size = i32::try_from(number("chunkSize")?).ok().filter(|size| *size > 0);
        Ok(Self {
            bucket: bucket.to_owned(),
            files_id,
            chunk_size: chunk_size.ok_or_else(|| odd("chunkSize"))?.unsigned_abs(),
            stored_len: u64::try_from(number("length")?).map_err(|_| odd("length"))?,
        })
    }

    /// The number of chunks.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when there would be more than GridFS can number.
    pub fn chunk_count(&self) -> StoreResult<u32> {
        let count = self.stored_len.div_ceil(self.chunk_size.into());
        i32::try_from(count).map(i32::unsigned_abs).map_err(|_| StoreError::Damaged("too many chunks".into()))
    }

    /// The chunks that hold a span of the stored bytes.
    pub fn chunks(&self, span: &Range<u64>) -> Range<u64> {
        let size = u64::from(self.chunk_size);
        if span.is_empty() { 0..0 } else { span.start / size..span.end.div_ceil(size) }
    }

    /// Bytes of these chunks.
    pub fn bytes_of(&self, chunks: &Range<u64>) -> u64 {
        let place = |n: u64| n.saturating_mul(self.chunk_size.into()).min(self.stored_len);
        place(chunks.end) - place(chunks.start)
    }

    fn chunk_len(&self, n: u32) -> u64 {
        let start = u64::from(n) * u64::from(self.chunk_size);
        self.stored_len.saturating_sub(start).min(self.chunk_size.into())
    }
}

/// What the files document says beside the bytes.
#[derive(Debug, Clone)]
pub struct FilesDocument {
    /// The file.
    pub file: GridFile,
    /// For GridFS tools; nothing here looks files up by it.
    pub filename: String,
    /// Everything of ours.
    pub metadata: Document,
}

impl FilesDocument {
    /// The document to insert: `length` Int64, `chunkSize` Int32, `uploadDate` = completion.
    pub fn to_document(&self) -> StoreResult<Document> {
        let too_large = |_| StoreError::Damaged("a GridFS number is out of range".into());
        Ok(doc! {
            "_id": self.file.files_id.clone(),
            "length": i64::try_from(self.file.stored_len).map_err(too_large)?,
            "chunkSize": i32::try_from(self.file.chunk_size).map_err(too_large)?,
            "uploadDate": mongodb::bson::DateTime::now(),
            "filename": &self.filename,
            "metadata": self.metadata.clone(),
        })
    }
}

/// Repeats an insert whose outcome is unknown; it **MUST** be a success if it was done before.
///
/// All tries have the budget together.
async fn repeat<F>(what: &str, budget: Budget, insert: impl Fn() -> F) -> StoreResult<()>
where
    F: Future<Output = StoreResult<()>> + Send,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match insert().within(budget.limit()).await {
            Err(error) if error.is_transient() && budget.pause(pause).await => {
                tracing::warn!(error = %error, what, "repeating an insert");
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

impl Store {
    /// Inserts the files document: from now on any GridFS tool sees the file. A repeated insert of
    /// the same file is a success.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when another file has the id.
    pub async fn insert_files_document(&self, files: &FilesDocument) -> StoreResult<()> {
        let document = files.to_document()?;
        repeat("a files document", Budget::new(self.limit), || self.insert_files_once(&files.file, &document)).await
    }

    async fn insert_files_once(&self, file: &GridFile, document: &Document) -> StoreResult<()> {
        let collection = self.documents(&files_of(&file.bucket));
        let Err(error) = collection.insert_one(document).await else { return Ok(()) };
        let StoreError::Duplicate(error) = StoreError::from(error.clone()) else { return Err(error.into()) };
        match self.find_grid_file(&file.bucket, &file.files_id).await? {
            Some(there) if there == *file => Ok(()),
            Some(_) => Err(StoreError::Duplicate(error)),
            // Stored by an earlier try, but not by a majority yet.
            None => Err(StoreError::Unavailable(error)),
        }
    }

    /// Whether a file has as many chunks as its length needs; reads the index only.
    pub async fn has_all_chunks(&self, file: &GridFile) -> StoreResult<bool> {
        let expected = file.stored_len.div_ceil(u64::from(file.chunk_size));
        let chunks = self.documents(&chunks_of(&file.bucket));
        let counted = chunks.count_documents(doc! { "files_id": file.files_id.clone() }).max_time(self.query_timeout);
        Ok(counted.within(self.limit).await? == expected)
    }

    /// Finds a file by its id.
    pub async fn find_grid_file(&self, bucket: &str, files_id: &Bson) -> StoreResult<Option<GridFile>> {
        let files = self.collection::<RawDocumentBuf>(&files_of(bucket));
        let found = files.find_one(doc! { "_id": files_id.clone() }).max_time(self.limit).within(self.limit).await?;
        found.map(|document| GridFile::from_files_document(bucket, &document)).transpose()
    }

    /// The files documents of a bucket, as another program wrote them.
    pub async fn scan_foreign(&self, bucket: &str) -> StoreResult<ForeignScan> {
        Ok(ForeignScan(self.collection(&files_of(bucket)).find(doc! {}).within(self.limit).await?))
    }

    /// Renames a file for GridFS tools; false when there is none.
    pub async fn rename_grid_file(&self, bucket: &str, files_id: &Bson, filename: &str) -> StoreResult<bool> {
        let files = self.documents(&files_of(bucket));
        let update = doc! { "$set": { "filename": filename } };
        let renamed = files.update_one(doc! { "_id": files_id.clone() }, update).within(self.limit).await?;
        Ok(renamed.matched_count == 1)
    }

    /// Deletes a file: the files document first, then the chunks, even if no files document was
    /// there; false when there was none.
    ///
    /// # Cancel safety
    /// May be repeated until done.
    pub async fn delete_grid_file(&self, bucket: &str, files_id: &Bson) -> StoreResult<bool> {
        let files = self.documents(&files_of(bucket));
        let deleted = files.delete_one(doc! { "_id": files_id.clone() }).within(self.limit).await?.deleted_count;
        failpoint::hit("reap.files");
        let chunks = self.documents(&chunks_of(bucket));
        let of_file = doc! { "files_id": files_id.clone() };
        let first =
            || chunks.find_one(of_file.clone()).sort(doc! { "n": 1 }).projection(doc! { "n": 1 }).max_time(self.limit);
        while let Some(first) = first().within(self.limit).await? {
            let n = first.get("n").cloned().unwrap_or(Bson::Null);
            let window = match n.as_i64().or_else(|| n.as_i32().map(i64::from)) {
                Some(n) => {
                    let last = n.saturating_add(DELETE_WINDOW - 1);
                    doc! { "files_id": files_id.clone(), "n": { "$gte": n, "$lte": last } }
                }
                None => doc! { "_id": first.get("_id").cloned() },
            };
            chunks.delete_many(window).within(self.limit).await?;
            failpoint::hit("reap.window");
        }
        Ok(deleted == 1)
    }
}

/// A running scan of files documents.
pub struct ForeignScan(mongodb::Cursor<Document>);

impl ForeignScan {
    /// The next document; none at the end.
    pub async fn next(&mut self) -> StoreResult<Option<Document>> {
        Ok(self.0.try_next().within(SCAN_LIMIT).await?)
    }
}
