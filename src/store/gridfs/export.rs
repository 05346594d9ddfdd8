//! GridFS documents as they are stored, byte for byte, for a backup: every document of a window of chunks, or an
//! error.

use std::collections::HashMap;
use std::ops::Range;

use futures::TryStreamExt;
use mongodb::bson::{Bson, RawDocument, RawDocumentBuf, doc};

use super::GridFile;
use crate::store::chunks::whole_number;
use crate::store::limit::Within;
use crate::store::schema::{chunks_of, files_of};
use crate::store::{Store, StoreError, StoreResult};

/// Bytes of chunks read at once, where more than one chunk is.
const WINDOW_LEN: u64 = 4 << 20;
/// Files whose chunks are read at once.
const WINDOW_FILES: usize = 500;

/// Chunks that are read at once: several small files, or a piece of a large one.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkWindow {
    /// The files, all of one bucket.
    pub files: Vec<GridFile>,
    /// Which chunks of each, as far as it has them.
    pub chunks: Range<u32>,
}

/// Puts files of one bucket into windows as they come.
#[derive(Default)]
pub struct WindowPlan {
    small: Vec<GridFile>,
    len: u64,
}

impl WindowPlan {
    /// The windows that are full with this file.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a file of more chunks than GridFS can number.
    pub fn push(&mut self, file: GridFile) -> StoreResult<Vec<ChunkWindow>> {
        if file.stored_len > WINDOW_LEN {
            let count = file.chunk_count()?;
            let step = u32::try_from(WINDOW_LEN / u64::from(file.chunk_size)).unwrap_or(1).max(1);
            let starts = (0..count).step_by(step as usize);
            let window = |start: u32| ChunkWindow {
                files: vec![file.clone()],
                chunks: start..start.saturating_add(step).min(count),
            };
            return Ok(starts.map(window).collect());
        }
        self.len += file.stored_len;
        self.small.push(file);
        let is_full = self.len >= WINDOW_LEN || self.small.len() >= WINDOW_FILES;
        if is_full { self.finish() } else { Ok(Vec::new()) }
    }

    /// The last window.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> StoreResult<Vec<ChunkWindow>> {
        let files = std::mem::take(&mut self.small);
        self.len = 0;
        let mut end = 0;
        for file in &files {
            end = end.max(file.chunk_count()?);
        }
        Ok(if files.is_empty() { Vec::new() } else { vec![ChunkWindow { files, chunks: 0..end }] })
    }
}

impl Store {
    /// The files documents of GridFS files of one bucket.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when one is missing.
    pub async fn export_files_documents(&self, files: &[GridFile]) -> StoreResult<Vec<RawDocumentBuf>> {
        let Some(first) = files.first() else { return Ok(Vec::new()) };
        let ids: Vec<Bson> = files.iter().map(|file| file.files_id.clone()).collect();
        let collection = self.collection::<RawDocumentBuf>(&files_of(&first.bucket));
        let found = collection.find(doc! { "_id": { "$in": ids } }).max_time(self.limit).within(self.limit).await?;
        let found: Vec<_> = found.try_collect().within(self.limit).await?;
        if found.len() == files.len() {
            return Ok(found);
        }
        Err(StoreError::Damaged(format!(
            "{} files documents of {} are missing",
            files.len() - found.len(),
            first.bucket
        )))
    }

    /// The chunk documents of a window.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] unless they are all there and of their lengths.
    pub async fn export_chunks(&self, window: &ChunkWindow) -> StoreResult<Vec<RawDocumentBuf>> {
        let Some(first) = window.files.first() else { return Ok(Vec::new()) };
        let ids: Vec<Bson> = window.files.iter().map(|file| file.files_id.clone()).collect();
        let mut numbers = doc! { "$gte": i64::from(window.chunks.start) };
        let mut awaited = HashMap::with_capacity(window.files.len());
        for file in &window.files {
            let end = file.chunk_count()?.min(window.chunks.end);
            awaited.insert(file.files_id.to_string(), (file, window.chunks.start..end));
        }
        // At the end of a file also what would lie behind it.
        if window.chunks.end < first.chunk_count()? {
            numbers.insert("$lt", i64::from(window.chunks.end));
        }
        let found: Vec<RawDocumentBuf> = self
            .data
            .collection::<RawDocumentBuf>(&chunks_of(&first.bucket))
            .find(doc! { "files_id": { "$in": ids }, "n": numbers })
            .sort(doc! { "files_id": 1, "n": 1 })
            .max_time(self.limit)
            .within(self.limit)
            .await?
            .try_collect()
            .within(self.limit)
            .await?;
        for chunk in &found {
            expect_next(&mut awaited, chunk)
                .ok_or_else(|| StoreError::Damaged(format!("a chunk of {} is not in its place", first.bucket)))?;
        }
        match awaited.into_iter().find(|(_, (_, left))| !left.is_empty()) {
            None => Ok(found),
            Some((id, (_, left))) => {
                Err(StoreError::Damaged(format!("chunk {} of {id} in {} is missing", left.start, first.bucket)))
            }
        }
    }
}

type Awaited<'a> = HashMap<String, (&'a GridFile, Range<u32>)>;

/// None when the chunk is not the next of its file.
fn expect_next(awaited: &mut Awaited<'_>, chunk: &RawDocument) -> Option<()> {
    let field = |name: &str| chunk.get(name).ok().flatten();
    let files_id = Bson::try_from(field("files_id")?).ok()?;
    let (file, left) = awaited.get_mut(&files_id.to_string())?;
    let n = left.next()?;
    let is_next = field("n").and_then(whole_number) == Some(n.into())
        && chunk.get_binary("data").is_ok_and(|data| data.bytes.len() as u64 == file.chunk_len(n));
    is_next.then_some(())
}
