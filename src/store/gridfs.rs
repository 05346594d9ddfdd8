//! GridFS to the letter over raw documents: writing, reading by position, deleting, renaming.
//!
//! Stored bytes are opaque here: frames, keys and what the bytes belong to are other modules'.
//! The driver's own GridFS streams are not used; `docs/decisions/0003-own-gridfs.md` says why.
//!
//! # Source
//! GridFS specification of the MongoDB drivers.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::{ErrorKind, IndexedWriteError, WriteFailure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::chunks::{AttemptPrefix, ChunkDocument, payloads, whole_number};
use super::schema::{BUDGET_UNIT_LEN, chunks_of, files_of};
use super::segments::{LeaseKeeper, Pending};
use super::{DUPLICATE_KEY, Id, Store, StoreError, StoreResult};

/// Chunk bytes of one insert when nobody else writes.
const BATCH_LEN: usize = 8 << 20;
/// Inserts of one writer under way at once: one loses a third of the speed, four gain nothing.
const BATCHES_IN_FLIGHT: usize = 2;
/// Chunk bytes asked for at once. A single reply is cut silently at 16 MiB.
const WINDOW_LEN: u64 = 2 << 20;
/// Chunks asked for at once, however small they are: the documents around them fill the reply too.
const WINDOW_CHUNKS: u64 = 4096;
/// Windows read ahead of the consumer, the one being consumed not counted.
const WINDOWS_AHEAD: usize = 1;
/// Chunks removed by one command.
const DELETE_WINDOW: i64 = 256;
/// What the first chunk of a file of unknown length begins with.
const FIRST_CAPACITY: usize = 64 << 10;
/// How long a writer waits for memory before its client is asked to come back.
const BUDGET_PATIENCE: Duration = Duration::from_secs(15);
const INSERT_TRIES: u32 = 5;
const INSERT_PAUSE: Duration = Duration::from_millis(100);

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

/// Writes the chunks of one GridFS file: batches in flight, bounded by the store's byte budget.
///
/// # Cancel safety
/// Inserts run in tasks of their own. A writer that is dropped leaves chunks without a files
/// document, which no reader sees; the pending segment row leads the sweeper to them.
pub struct ChunkWriter {
    chunks: Collection<RawDocumentBuf>,
    budget: Arc<Semaphore>,
    files_id: Id,
    prefix: AttemptPrefix,
    chunk_size: usize,
    /// Stored bytes still expected, where the length is known.
    expected: Option<u64>,
    next_n: u32,
    stored_len: u64,
    open: Option<(ChunkDocument, OwnedSemaphorePermit)>,
    batch: Batch,
    in_flight: JoinSet<StoreResult<()>>,
    reservation: Reservation,
}

/// The pending rows that lead the sweeper to chunks no commit followed: inserted before the first
/// chunk, and kept alive until the commit.
enum Reservation {
    Due(Store, Box<Pending>),
    Made(LeaseKeeper),
}

#[derive(Default)]
struct Batch {
    documents: Vec<RawDocumentBuf>,
    permits: Vec<OwnedSemaphorePermit>,
    len: usize,
}

impl ChunkWriter {
    /// A writer of the pending segment's bytes. `expected_len` is a hint about their number.
    pub fn new(store: &Store, pending: Pending, expected_len: Option<u64>) -> Self {
        Self {
            chunks: store.data.collection(&chunks_of(&pending.segment.bucket)),
            budget: Arc::clone(&store.upload_budget),
            files_id: pending.segment.id,
            prefix: AttemptPrefix::random(),
            chunk_size: pending.segment.chunk_size.unsigned_abs() as usize,
            expected: expected_len,
            next_n: 0,
            stored_len: 0,
            open: None,
            batch: Batch::default(),
            in_flight: JoinSet::new(),
            reservation: Reservation::Due(store.clone(), Box::new(pending)),
        }
    }

    /// Stored bytes so far.
    pub fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Appends stored bytes; waits while the budget or the inserts in flight are exhausted.
    ///
    /// # Errors
    /// What an earlier insert ran into, or [`StoreError::Damaged`] past 2³¹ chunks.
    pub async fn push(&mut self, mut piece: &[u8]) -> StoreResult<()> {
        while !piece.is_empty() {
            if self.open.is_none() {
                self.open = Some(self.open_chunk().await?);
            }
            let Some((chunk, _)) = &mut self.open else { continue };
            let (now, later) = piece.split_at(piece.len().min(self.chunk_size - chunk.payload_len()));
            chunk.push(now);
            self.stored_len += now.len() as u64;
            let is_full = chunk.payload_len() == self.chunk_size;
            piece = later;
            if is_full {
                self.close_chunk();
                if self.batch.len >= BATCH_LEN {
                    self.send_batch().await?;
                }
            }
        }
        Ok(())
    }

    async fn open_chunk(&mut self) -> StoreResult<(ChunkDocument, OwnedSemaphorePermit)> {
        let remaining = self.expected.map(|expected| expected.saturating_sub(self.stored_len) as usize);
        let unknown = if self.next_n == 0 { FIRST_CAPACITY } else { self.chunk_size };
        let capacity = remaining.filter(|len| *len > 0).unwrap_or(unknown).min(self.chunk_size);
        // A chunk of unknown length may grow to its full size.
        let most = remaining.filter(|len| *len > 0).unwrap_or(self.chunk_size).min(self.chunk_size);
        let units = u32::try_from(most.div_ceil(BUDGET_UNIT_LEN)).unwrap_or(u32::MAX);
        let permit = match Arc::clone(&self.budget).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => {
                // A writer waits only while it holds nothing unsent, so the budget always frees up.
                self.send_batch().await?;
                let budget = Arc::clone(&self.budget);
                let waiting = tokio::time::timeout(BUDGET_PATIENCE, budget.acquire_many_owned(units));
                waiting.await.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Busy)?
            }
        };
        if i32::try_from(self.next_n).is_err() {
            return Err(StoreError::Damaged("GridFS numbers no more chunks".into()));
        }
        let chunk = ChunkDocument::new(self.prefix.chunk_id(self.next_n), self.files_id, self.next_n, capacity);
        self.next_n += 1;
        Ok((chunk, permit))
    }

    fn close_chunk(&mut self) {
        if let Some((chunk, permit)) = self.open.take() {
            self.batch.len += chunk.payload_len();
            self.batch.documents.push(chunk.finish());
            self.batch.permits.push(permit);
        }
    }

    async fn send_batch(&mut self) -> StoreResult<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.documents.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= BATCHES_IN_FLIGHT {
            self.join_one().await?;
        }
        match &self.reservation {
            Reservation::Due(store, pending) => self.reservation = Reservation::Made(store.reserve(pending).await?),
            Reservation::Made(lease) if lease.is_lost() => return Err(StoreError::Stale),
            Reservation::Made(_) => {}
        }
        let chunks = self.chunks.clone();
        self.in_flight.spawn(async move { insert_batch(&chunks, batch).await });
        Ok(())
    }

    async fn join_one(&mut self) -> StoreResult<()> {
        match self.in_flight.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(StoreError::Damaged(format!("an insert task ended: {panic}"))),
            None => Ok(()),
        }
    }

    /// Waits for every insert under way; gives the first that failed.
    ///
    /// A writer that is given up **MUST** settle before its rows are released: an insert that arrives
    /// after them would be an orphan.
    pub async fn settle(&mut self) -> StoreResult<()> {
        let mut outcome = Ok(());
        while !self.in_flight.is_empty() {
            outcome = outcome.and(self.join_one().await);
        }
        outcome
    }

    /// Ends the chunks. All of them are stored with `w: majority`, or none was sent yet and the
    /// commit stores them.
    ///
    /// # Errors
    /// What an insert ran into; the file then does not exist.
    pub async fn finish(mut self) -> StoreResult<WrittenChunks> {
        self.close_chunk();
        if matches!(self.reservation, Reservation::Due(..)) && self.batch.len <= SMALL_LEN {
            let Batch { documents, permits, .. } = self.batch;
            return Ok(WrittenChunks::Unsent { documents, permits });
        }
        let sent = self.send_batch().await;
        let settled = self.settle().await;
        sent.and(settled)?;
        let stored = self.chunks.count_documents(doc! { "files_id": self.files_id }).await?;
        if stored != u64::from(self.next_n) {
            return Err(StoreError::Damaged(format!("{stored} of {} chunks are stored", self.next_n)));
        }
        match self.reservation {
            Reservation::Made(lease) => Ok(WrittenChunks::Stored { lease }),
            Reservation::Due(..) => Ok(WrittenChunks::Unsent { documents: Vec::new(), permits: Vec::new() }),
        }
    }
}

/// Files up to this many stored bytes are committed in one transaction, chunks included.
pub const SMALL_LEN: usize = 1 << 20;

/// The chunks of a finished writer.
pub enum WrittenChunks {
    /// Those of a small file, for the commit to insert.
    Unsent {
        /// The chunk documents.
        documents: Vec<RawDocumentBuf>,
        /// Their share of the budget, held until the commit is over.
        permits: Vec<OwnedSemaphorePermit>,
    },
    /// Another program's, files document included.
    Adopted,
    /// Stored with `w: majority`; their pending rows are kept alive.
    Stored {
        /// Dropped when the commit is over.
        lease: LeaseKeeper,
    },
}

/// Inserts a batch until it is there: a repeated insert collides with itself on `_id`.
async fn insert_batch(chunks: &Collection<RawDocumentBuf>, batch: Batch) -> StoreResult<()> {
    repeat("chunks", || insert_once(chunks, &batch.documents)).await
}

/// Repeats an insert whose outcome is unknown; it **MUST** be a success if it was done before.
async fn repeat<F: Future<Output = StoreResult<()>>>(what: &str, insert: impl Fn() -> F) -> StoreResult<()> {
    let mut pause = INSERT_PAUSE;
    for _ in 1..INSERT_TRIES {
        match insert().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %error, what, "repeating an insert");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
    insert().await
}

async fn insert_once(chunks: &Collection<RawDocumentBuf>, documents: &[RawDocumentBuf]) -> StoreResult<()> {
    let Err(error) = chunks.insert_many(documents).ordered(false).await else { return Ok(()) };
    let ErrorKind::InsertMany(many) = error.kind.as_ref() else { return Err(error.into()) };
    let refused = many.write_errors.as_deref().unwrap_or_default();
    match &many.write_concern_error {
        _ if !refused.iter().all(is_own_chunk) => Err(error.into()),
        // Done, but perhaps not by a majority: the outcome is unknown.
        Some(_) => Err(StoreError::Unavailable(error)),
        None if refused.is_empty() => Err(error.into()),
        None => Ok(()),
    }
}

/// Whether a chunk was refused because an earlier try of its own attempt had stored it.
fn is_own_chunk(error: &IndexedWriteError) -> bool {
    error.code == DUPLICATE_KEY && error.message.contains("index: _id_ ")
}

impl Store {
    /// Reads stored bytes of a file, in order, as slices of the server's replies.
    ///
    /// Reads no chunk outside the span, and no window but the one being consumed and the next;
    /// holds no connection while the consumer pauses.
    ///
    /// # Errors
    /// The stream ends with [`StoreError::Damaged`] at a chunk that is missing or of a wrong length
    /// even when asked for a second time.
    ///
    /// # Cancel safety
    /// Windows under way when the stream is dropped are read to their end: an abandoned reply
    /// costs its connection.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn read_chunks(
        &self,
        file: GridFile,
        span: Range<u64>,
    ) -> impl Stream<Item = StoreResult<Bytes>> + Send + use<> {
        let size = u64::from(file.chunk_size);
        let chunks = if span.is_empty() { 0..0 } else { span.start / size..span.end.div_ceil(size) };
        let step = (WINDOW_LEN / size).clamp(1, WINDOW_CHUNKS);
        let (end, starts) = (chunks.end, chunks.step_by(step as usize));
        let windows = starts.map(move |start| start..start.saturating_add(step).min(end));
        let (store, file) = (self.clone(), Arc::new(file));
        stream::iter(windows)
            .map(move |window| {
                let (store, file, span) = (store.clone(), Arc::clone(&file), span.clone());
                // A task of its own takes the reply off the connection while the consumer pauses.
                let reading = tokio::spawn(async move { store.read_window(&file, window, &span).await });
                reading.map(|read| {
                    read.unwrap_or_else(|error| Err(StoreError::Damaged(format!("a read task ended: {error}"))))
                })
            })
            .buffered(WINDOWS_AHEAD + 1)
            .map_ok(|payloads| stream::iter(payloads.into_iter().map(Ok)))
            .try_flatten()
    }

    async fn read_window(&self, file: &GridFile, window: Range<u64>, span: &Range<u64>) -> StoreResult<Vec<Bytes>> {
        let payloads = match self.find_window(file, &window).await {
            Err(StoreError::Damaged(what)) => {
                tracing::warn!(what, bucket = file.bucket, "reading chunks a second time");
                self.find_window(file, &window).await?
            }
            outcome => outcome?,
        };
        let size = u64::from(file.chunk_size);
        let trim = |(n, payload): (u64, Bytes)| {
            let start = n * size;
            let from = span.start.saturating_sub(start).min(payload.len() as u64);
            let to = span.end.saturating_sub(start).min(payload.len() as u64);
            payload.slice(from as usize..to as usize)
        };
        Ok(window.zip(payloads).map(trim).collect())
    }

    async fn find_window(&self, file: &GridFile, window: &Range<u64>) -> StoreResult<Vec<Bytes>> {
        let number =
            |n: u64| u32::try_from(n).map_err(|_| StoreError::Damaged("a chunk number is out of range".into()));
        let wanted = number(window.start)?..number(window.end)?;
        let count = file.chunk_count()?;
        if wanted.end > count {
            return Err(StoreError::Damaged(format!("the file ends before chunk {}", wanted.end)));
        }
        // One more than wanted: a chunk after the last or a second one at a place would come too.
        let end = if wanted.end == count { i64::from(count) + 1 } else { i64::from(wanted.end) };
        let limit = wanted.end - wanted.start + 1;
        let filter = doc! {
            "files_id": file.files_id.clone(),
            "n": { "$gte": i64::from(wanted.start), "$lt": end },
        };
        let mut batches = self
            .data
            .collection::<RawDocumentBuf>(&chunks_of(&file.bucket))
            .find(filter)
            .sort(doc! { "n": 1 })
            .projection(doc! { "_id": 0, "n": 1, "data": 1 })
            // A negative limit asks for a single reply: no cursor to lose, and retryable.
            .limit(-i64::from(limit))
            // The server's own first batch is 101 documents.
            .batch_size(limit)
            .batch()
            .await?;
        match batches.try_next().await? {
            Some(batch) => payloads(batch, wanted, |n| file.chunk_len(n)),
            None => Err(StoreError::Damaged(format!("chunk {} is missing", wanted.start))),
        }
    }

    /// Inserts the files document: from now on any GridFS tool sees the file. A repeated insert of
    /// the same file is a success.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when another file has the id.
    pub async fn insert_files_document(&self, files: &FilesDocument) -> StoreResult<()> {
        let document = files.to_document()?;
        repeat("a files document", || self.insert_files_once(&files.file, &document)).await
    }

    async fn insert_files_once(&self, file: &GridFile, document: &Document) -> StoreResult<()> {
        let collection = self.documents(&files_of(&file.bucket));
        let Err(error) = collection.insert_one(document).await else { return Ok(()) };
        if matches!(error.kind.as_ref(), ErrorKind::Write(WriteFailure::WriteConcernError(_))) {
            return Err(StoreError::Unavailable(error));
        }
        let StoreError::Duplicate(error) = StoreError::from(error.clone()) else { return Err(error.into()) };
        match self.find_grid_file(&file.bucket, &file.files_id).await? {
            Some(there) if there == *file => Ok(()),
            Some(_) => Err(StoreError::Duplicate(error)),
            // Stored by an earlier try, but not by a majority yet.
            None => Err(StoreError::Unavailable(error)),
        }
    }

    /// Finds a file by its id.
    pub async fn find_grid_file(&self, bucket: &str, files_id: &Bson) -> StoreResult<Option<GridFile>> {
        let files = self.collection::<RawDocumentBuf>(&files_of(bucket));
        let found = files.find_one(doc! { "_id": files_id.clone() }).await?;
        found.map(|document| GridFile::from_files_document(bucket, &document)).transpose()
    }

    /// The files documents of a bucket, as another program wrote them.
    pub async fn scan_foreign(&self, bucket: &str) -> StoreResult<ForeignScan> {
        Ok(ForeignScan(self.collection(&files_of(bucket)).find(doc! {}).await?))
    }

    /// Renames a file for GridFS tools; false when there is none.
    pub async fn rename_grid_file(&self, bucket: &str, files_id: &Bson, filename: &str) -> StoreResult<bool> {
        let files = self.documents(&files_of(bucket));
        let update = doc! { "$set": { "filename": filename } };
        Ok(files.update_one(doc! { "_id": files_id.clone() }, update).await?.matched_count == 1)
    }

    /// Deletes a file: the files document first, then the chunks, even if no files document was
    /// there; false when there was none.
    ///
    /// # Cancel safety
    /// May be repeated until done.
    pub async fn delete_grid_file(&self, bucket: &str, files_id: &Bson) -> StoreResult<bool> {
        let files = self.documents(&files_of(bucket));
        let deleted = files.delete_one(doc! { "_id": files_id.clone() }).await?.deleted_count;
        let chunks = self.documents(&chunks_of(bucket));
        let of_file = doc! { "files_id": files_id.clone() };
        while let Some(first) =
            chunks.find_one(of_file.clone()).sort(doc! { "n": 1 }).projection(doc! { "n": 1 }).await?
        {
            let n = first.get("n").cloned().unwrap_or(Bson::Null);
            let window = match n.as_i64().or_else(|| n.as_i32().map(i64::from)) {
                Some(n) => {
                    let last = n.saturating_add(DELETE_WINDOW - 1);
                    doc! { "files_id": files_id.clone(), "n": { "$gte": n, "$lte": last } }
                }
                None => doc! { "_id": first.get("_id").cloned() },
            };
            chunks.delete_many(window).await?;
        }
        Ok(deleted == 1)
    }
}

/// A running scan of files documents.
pub struct ForeignScan(mongodb::Cursor<Document>);

impl ForeignScan {
    /// The next document; none at the end.
    pub async fn next(&mut self) -> StoreResult<Option<Document>> {
        Ok(self.0.try_next().await?)
    }
}
