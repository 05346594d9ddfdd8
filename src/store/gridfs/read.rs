//! Reading stored bytes by position: windows of chunks, each a single reply, ahead of the consumer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use mongodb::bson::{Bson, RawDocumentBuf, doc};

use super::GridFile;
use crate::metrics;
use crate::store::chunks::{only_payload, owner, payloads};
use crate::store::group::{self, Group};
use crate::store::limit::Within;
use crate::store::schema::chunks_of;
use crate::store::{Id, Store, StoreError, StoreResult};

/// Chunk bytes asked for at once. A single reply is cut silently at 16 MiB.
const WINDOW_LEN: u64 = 2 << 20;
/// Chunks asked for at once, however small they are: the documents around them fill the reply too.
const WINDOW_CHUNKS: u64 = 4096;
/// Windows read ahead of the consumer, the one being consumed not counted.
const WINDOWS_AHEAD: usize = 1;

/// A file's only chunk, if it is small enough to be read with those of other files.
pub(in crate::store) struct SmallChunk {
    bucket: String,
    files_id: Bson,
    len: u64,
}

/// Chunks up to this long are read together with others.
pub const SMALL_CHUNK_LEN: u64 = 64 << 10;
/// Bytes of small chunks read together.
const GROUP_LEN: usize = 2 << 20;

/// Where reads of small files meet.
pub(in crate::store) fn small_chunks() -> Group<SmallChunk, StoreResult<Bytes>> {
    // Even the smallest have documents around them, and who waits for them.
    Group::of_reads(GROUP_LEN, |small| (small.len as usize).max(GROUP_LEN / 64), group::READ_PATIENCE)
}

impl SmallChunk {
    fn of(file: &GridFile, window: &Range<u64>) -> Option<Self> {
        // Numbers are one id to the server and several to us.
        let is_named = matches!(file.files_id, Bson::ObjectId(_) | Bson::String(_));
        let is_small =
            is_named && *window == (0..1) && file.chunk_count().ok()? == 1 && file.stored_len <= SMALL_CHUNK_LEN;
        let (bucket, files_id) = (file.bucket.clone(), file.files_id.clone());
        is_small.then_some(Self { bucket, files_id, len: file.stored_len })
    }
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
        let chunks = file.chunks(&span);
        let step = (WINDOW_LEN / size).clamp(1, WINDOW_CHUNKS);
        let (end, starts) = (chunks.end, chunks.step_by(step as usize));
        let windows = starts.map(move |start| start..start.saturating_add(step).min(end));
        let (store, file) = (self.clone(), Arc::new(file));
        stream::iter(windows)
            .map(move |window| {
                let (store, file, span) = (store.clone(), Arc::clone(&file), span.clone());
                let is_small = SmallChunk::of(&file, &window).is_some();
                let reading = async move { store.read_window(&file, window, &span).await };
                if is_small {
                    return reading.left_future();
                }
                // A task of its own takes the reply off the connection while the consumer pauses. A small chunk is read in the
                // one of its group; only where it is looked for a second time, a consumer that goes away costs a connection.
                let reading = tokio::spawn(reading).map(|read| {
                    read.unwrap_or_else(|error| Err(StoreError::Damaged(format!("a read task ended: {error}"))))
                });
                reading.right_future()
            })
            .buffered(WINDOWS_AHEAD + 1)
            .map_ok(|payloads| stream::iter(payloads.into_iter().map(Ok)))
            .try_flatten()
    }

    async fn read_window(&self, file: &GridFile, window: Range<u64>, span: &Range<u64>) -> StoreResult<Vec<Bytes>> {
        let first = match SmallChunk::of(file, &window) {
            Some(small) => self.find_small_chunk(small).await.map(|payload| vec![payload]),
            None => self.find_window(file, &window).await,
        };
        let payloads = match first {
            Err(StoreError::Damaged(what)) => {
                tracing::warn!(what, bucket = file.bucket, "reading chunks a second time");
                self.find_window(file, &window).await?
            }
            outcome => outcome?,
        };
        metrics::read(payloads.len() as u64, payloads.iter().map(|payload| payload.len() as u64).sum());
        let size = u64::from(file.chunk_size);
        let trim = |(n, payload): (u64, Bytes)| {
            let start = n * size;
            let from = span.start.saturating_sub(start).min(payload.len() as u64);
            let to = span.end.saturating_sub(start).min(payload.len() as u64);
            payload.slice(from as usize..to as usize)
        };
        Ok(window.zip(payloads).map(trim).collect())
    }

    /// The only chunk of a file of ours, known to be small; asks together with others who ask now.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it is not there, not of this length or not the only one; the database's own.
    pub async fn find_only_chunk(&self, bucket: String, files_id: Id, len: u64) -> StoreResult<Bytes> {
        let payload = self.find_small_chunk(SmallChunk { bucket, files_id: files_id.into(), len }).await?;
        metrics::read(1, len);
        Ok(payload)
    }

    async fn find_small_chunk(&self, small: SmallChunk) -> StoreResult<Bytes> {
        let store = self.clone();
        let find = move |group| {
            let store = store.clone();
            async move { store.find_small_chunks(group).await }
        };
        async { self.small_chunks.join(small, find).await.unwrap_or_else(group::lost) }.within(self.limit).await
    }

    async fn find_small_chunks(&self, group: Vec<SmallChunk>) -> Vec<StoreResult<Bytes>> {
        let mut buckets = BTreeMap::<&str, Vec<&Bson>>::new();
        for small in &group {
            buckets.entry(&small.bucket).or_default().push(&small.files_id);
        }
        let replies =
            buckets.into_iter().map(async |(bucket, ids)| (bucket, self.find_first_chunks(bucket, ids).await));
        let replies: BTreeMap<_, _> = futures::future::join_all(replies).await.into_iter().collect();
        let payload = |small: &SmallChunk| match replies.get(small.bucket.as_str()) {
            Some(Ok(chunks)) => {
                let own = chunks.iter().filter(|(owner, _)| *owner == small.files_id);
                only_payload(own.map(|(_, chunk)| chunk.as_ref()), small.len)
            }
            Some(Err(error)) => Err(error.clone()),
            None => group::lost(),
        };
        group.iter().map(payload).collect()
    }

    /// The first chunks of files, and the second ones that none of them should have, each with the file it is of.
    async fn find_first_chunks(&self, bucket: &str, ids: Vec<&Bson>) -> StoreResult<Vec<(Bson, RawDocumentBuf)>> {
        let limit = u32::try_from(2 * ids.len()).unwrap_or(u32::MAX);
        let found = self
            .data
            .collection::<RawDocumentBuf>(&chunks_of(bucket))
            .find(doc! { "files_id": { "$in": ids }, "n": { "$gte": 0, "$lt": 2 } })
            .projection(doc! { "_id": 0, "files_id": 1, "n": 1, "data": 1 })
            .limit(-i64::from(limit))
            .batch_size(limit)
            .max_time(self.limit)
            .within(self.limit)
            .await?;
        let chunks: Vec<RawDocumentBuf> = found.try_collect().within(self.limit).await?;
        Ok(chunks.into_iter().filter_map(|chunk| Some((owner(&chunk)?, chunk))).collect())
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
            .max_time(self.limit)
            .batch()
            .within(self.limit)
            .await?;
        match batches.try_next().within(self.limit).await? {
            Some(batch) => payloads(batch, wanted, |n| file.chunk_len(n)),
            None => Err(StoreError::Damaged(format!("chunk {} is missing", wanted.start))),
        }
    }
}
