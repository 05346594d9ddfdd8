//! Writing the chunks of one GridFS file: batches in flight, bounded by the store's byte budget.
//!
//! Ends with chunks; the files document and everything that names the file are other modules'.

use std::sync::Arc;
use std::time::Duration;

use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::error::{ErrorKind, IndexedWriteError};
use tokio::task::{JoinError, JoinSet};

use super::repeat;
use crate::failpoint;
use crate::format::frame::FrameBuf;
use crate::store::chunks::{AttemptPrefix, ChunkDocument};
use crate::store::limit::{Budget, Within};
use crate::store::schema::chunks_of;
use crate::store::segments::{LeaseKeeper, Pending, State};
use crate::store::upload_memory::{HeldMemory, Holder, UploadMemory};
use crate::store::{DUPLICATE_KEY, Id, Store, StoreError, StoreResult};

/// Chunk bytes of one insert when nobody else writes.
const BATCH_LEN: usize = 4 << 20;
/// Inserts of one writer under way at once: one loses a third of the speed, four gain nothing.
const BATCHES_IN_FLIGHT: usize = 2;
/// What the first chunk of a file of unknown length begins with.
const FIRST_CAPACITY: usize = 64 << 10;

/// Writes the chunks of one GridFS file: batches in flight, bounded by the store's byte budget.
///
/// # Cancel safety
/// Inserts run in tasks of their own. A writer that is dropped leaves chunks without a files
/// document, which no reader sees; the pending segment row leads the sweeper to them.
pub struct ChunkWriter {
    store: Store,
    chunks: Collection<RawDocumentBuf>,
    budget: Arc<UploadMemory>,
    holder: Holder,
    files_id: Id,
    prefix: AttemptPrefix,
    chunk_size: usize,
    /// Stored bytes still expected, where the length is known.
    expected: Option<u64>,
    next_n: u32,
    stored_len: u64,
    open: Option<(ChunkDocument, HeldMemory)>,
    batch: Batch,
    in_flight: JoinSet<StoreResult<Batch>>,
    /// The memory of chunks that are stored, with its share of the budget, for the next ones.
    spare: Vec<(RawDocumentBuf, HeldMemory)>,
    reservation: Reservation,
    stores_always: bool,
}

/// The pending rows that lead the sweeper to chunks no commit followed: inserted before the first
/// chunk, and kept alive until the commit.
enum Reservation {
    Due(Box<Pending>),
    Made(LeaseKeeper),
}

#[derive(Default)]
struct Batch {
    documents: Vec<RawDocumentBuf>,
    memory: Vec<HeldMemory>,
    len: usize,
}

impl ChunkWriter {
    /// A writer of the pending segment's bytes, for an upload of `holder`. `expected_len` is a hint about their number.
    pub fn new(store: &Store, pending: Pending, expected_len: Option<u64>, holder: Holder) -> Self {
        Self {
            store: store.clone(),
            chunks: store.data.collection(&chunks_of(&pending.segment.bucket)),
            budget: Arc::clone(&store.upload_memory),
            holder,
            files_id: pending.segment.id,
            prefix: AttemptPrefix::random(),
            chunk_size: pending.segment.chunk_size.unsigned_abs() as usize,
            expected: expected_len,
            next_n: 0,
            stored_len: 0,
            open: None,
            batch: Batch::default(),
            in_flight: JoinSet::new(),
            spare: Vec::new(),
            reservation: Reservation::Due(Box::new(pending)),
            stores_always: false,
        }
    }

    /// Stores chunks even where the commit could: for a writer whose commit has to wait, with memory that others need.
    pub fn store_always(&mut self) {
        self.stores_always = true;
    }

    /// Whether rows were reserved, as chunks were sent.
    pub fn has_reserved(&self) -> bool {
        matches!(self.reservation, Reservation::Made(_))
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
            let (mut chunk, share) = match self.open.take() {
                Some(open) => open,
                None => self.open_chunk().await?,
            };
            let (now, later) = piece.split_at(piece.len().min(self.chunk_size - chunk.payload_len()));
            chunk.push(now);
            self.stored_len += now.len() as u64;
            piece = later;
            let is_full = chunk.payload_len() == self.chunk_size;
            self.open = Some((chunk, share));
            if is_full {
                self.close_chunk().await?;
            }
        }
        Ok(())
    }

    /// Appends a frame, which becomes a chunk without a copy where it is as long as one; gives a buffer for another
    /// frame where one is free.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub async fn push_frame(&mut self, frame: FrameBuf) -> StoreResult<Option<FrameBuf>> {
        if self.open.is_some() || frame.len() != self.chunk_size {
            self.push(&frame).await?;
            return Ok(Some(frame));
        }
        let memory = match frame.into_memory() {
            Ok(memory) => memory,
            Err(frame) => {
                self.push(&frame).await?;
                return Ok(Some(frame));
            }
        };
        let (spare, share) = self.memory(self.chunk_size).await?;
        let (id, n) = self.next_chunk()?;
        self.open = Some((ChunkDocument::in_memory(memory, id, self.files_id, n), share));
        self.stored_len += self.chunk_size as u64;
        self.close_chunk().await?;
        Ok(spare.map(FrameBuf::from_memory))
    }

    async fn open_chunk(&mut self) -> StoreResult<(ChunkDocument, HeldMemory)> {
        let remaining = self.expected.map(|expected| expected.saturating_sub(self.stored_len) as usize);
        let remaining = remaining.filter(|len| *len > 0).map(|len| len.min(self.chunk_size));
        let unknown = if self.next_n == 0 { FIRST_CAPACITY } else { self.chunk_size };
        // A chunk of unknown length may grow to its full size.
        let (spare, share) = self.memory(remaining.unwrap_or(self.chunk_size)).await?;
        let memory = spare.unwrap_or_else(|| ChunkDocument::memory(remaining.unwrap_or(unknown).min(self.chunk_size)));
        let (id, n) = self.next_chunk()?;
        Ok((ChunkDocument::new(memory, id, self.files_id, n), share))
    }

    fn next_chunk(&mut self) -> StoreResult<(ObjectId, u32)> {
        let n = self.next_n;
        if i32::try_from(n).is_err() {
            return Err(StoreError::Damaged("GridFS numbers no more chunks".into()));
        }
        self.next_n += 1;
        Ok((self.prefix.chunk_id(n), n))
    }

    /// A share of the budget for `len` bytes, with that of a stored chunk its memory too.
    async fn memory(&mut self, len: usize) -> StoreResult<(Option<Vec<u8>>, HeldMemory)> {
        if let Some((stored, share)) = self.spare.pop() {
            return Ok((Some(stored.into_bytes()), share));
        }
        if let Some(share) = self.budget.try_take(&self.holder, len) {
            return Ok((None, share));
        }
        // A writer waits only while it holds nothing unsent and nothing unused, so the budget always frees up.
        self.send_batch().await?;
        while let Some(stored) = self.in_flight.try_join_next() {
            self.note(stored)?;
        }
        if let Some((stored, share)) = self.spare.pop() {
            return Ok((Some(stored.into_bytes()), share));
        }
        Ok((None, self.budget.take(&self.holder, len).await?))
    }

    /// Ends the open chunk; sends the batch where it is long enough.
    async fn close_chunk(&mut self) -> StoreResult<()> {
        self.collect_chunk();
        let is_due = self.batch.len >= BATCH_LEN || self.budget.is_tight(&self.holder);
        if is_due { self.send_batch().await } else { Ok(()) }
    }

    fn collect_chunk(&mut self) {
        if let Some((chunk, share)) = self.open.take() {
            self.batch.len += chunk.payload_len();
            self.batch.documents.push(chunk.finish());
            self.batch.memory.push(share);
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
            Reservation::Due(pending) => {
                self.reservation = Reservation::Made(self.store.reserve(pending).await?);
                failpoint::hit("upload.reserved");
            }
            Reservation::Made(lease) if lease.is_lost() => return Err(StoreError::Stale),
            Reservation::Made(_) => {}
        }
        let (chunks, limit) = (self.chunks.clone(), self.store.limit);
        let (budget, holder) = (Arc::clone(&self.budget), Arc::clone(&self.holder));
        self.in_flight.spawn(async move {
            insert_batch(&chunks, &batch, &budget, limit).await?;
            // Whoever waits for memory must not wait for this writer's client.
            Ok(if budget.is_tight(&holder) { Batch::default() } else { batch })
        });
        Ok(())
    }

    async fn join_one(&mut self) -> StoreResult<()> {
        match self.in_flight.join_next().await {
            Some(stored) => self.note(stored),
            None => Ok(()),
        }
    }

    fn note(&mut self, stored: Result<StoreResult<Batch>, JoinError>) -> StoreResult<()> {
        let stored = stored.map_err(|panic| StoreError::Damaged(format!("an insert task ended: {panic}")))??;
        self.spare.extend(stored.documents.into_iter().zip(stored.memory));
        Ok(())
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
        self.collect_chunk();
        let is_small = self.batch.len < SMALL_LEN && !self.stores_always;
        if matches!(self.reservation, Reservation::Due(..)) && is_small {
            let Batch { documents, memory, .. } = self.batch;
            return Ok(WrittenChunks::Unsent { documents, memory });
        }
        let sent = self.send_batch().await;
        let settled = self.settle().await;
        self.spare.clear();
        sent.and(settled)?;
        let count = self.chunks.count_documents(doc! { "files_id": self.files_id }).max_time(self.store.limit);
        let stored = count.within(self.store.limit).await?;
        if stored != u64::from(self.next_n) {
            let rows = self.store.find_segments_by_id(&[self.files_id]).await?;
            if rows.iter().all(|row| row.state != State::Pending) {
                return Err(StoreError::Stale);
            }
            return Err(StoreError::Damaged(format!("{stored} of {} chunks are stored", self.next_n)));
        }
        match self.reservation {
            Reservation::Made(lease) => {
                failpoint::hit("upload.chunks");
                Ok(WrittenChunks::Stored { lease })
            }
            Reservation::Due(..) => Ok(WrittenChunks::Unsent { documents: Vec::new(), memory: Vec::new() }),
        }
    }
}

/// Shorter files are committed in one transaction, chunks included.
pub(in crate::store) const SMALL_LEN: usize = 2 << 20;

/// The chunks of a finished writer.
pub enum WrittenChunks {
    /// Those of a small file, for the commit to insert.
    Unsent {
        /// The chunk documents.
        documents: Vec<RawDocumentBuf>,
        /// Their share of the budget, held until the commit is over.
        memory: Vec<HeldMemory>,
    },
    /// Another program's, files document included.
    Adopted,
    /// Stored with `w: majority`; their pending rows are kept alive.
    Stored {
        /// Dropped when the commit is over.
        lease: LeaseKeeper,
    },
}

/// Inserts a batch in its turn, until it is there: a repeated insert collides with itself on `_id`.
async fn insert_batch(
    chunks: &Collection<RawDocumentBuf>,
    batch: &Batch,
    memory: &UploadMemory,
    limit: Duration,
) -> StoreResult<()> {
    let budget = Budget::new(limit);
    // The chunk that fills a batch may make it longer.
    let _turn = memory.turn(batch.len.min(BATCH_LEN), budget.limit()).await?;
    repeat("chunks", budget, || insert_once(chunks, &batch.documents)).await?;
    failpoint::hit("upload.batch");
    Ok(())
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
