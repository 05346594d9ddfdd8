//! The second half of a download: which segments, frames and chunks hold the wanted bytes, what that costs, and the
//! bytes themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::{Add, Range};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::open::{OpenedFile, number};
use super::{Files, Result};
use crate::error::Error;
use crate::format::segment::{Codec, SegmentDecoder};
use crate::pipeline::ByteStream;
use crate::pipeline::decode::{Wanted, decode};
use crate::store::Id;
use crate::store::segments::SegmentDoc;

/// Segments of one read whose indexes are opened before the first is read. More are opened one by one as they are
/// come to, and what they cost is not told: an upload in thousands of parts should not delay its first byte.
const OPENED_AHEAD: usize = 64;
/// Bytes of short segments that are one run: as many as a window of a long one.
const RUN_LEN: u64 = 2 << 20;
/// Runs that are read ahead of the consumer.
const RUNS_AHEAD: usize = 1;
/// Segments of a run that are read at the same time.
const READS_AT_ONCE: usize = 4;

/// What a read takes from the database.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ReadCost {
    /// Chunk documents.
    pub chunks: u64,
    /// Frames decoded.
    pub frames: u64,
    /// Bytes of the chunks.
    pub bytes: u64,
}

impl Add for ReadCost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { chunks: self.chunks + other.chunks, frames: self.frames + other.frames, bytes: self.bytes + other.bytes }
    }
}

/// A read that can begin.
pub struct ReadPlan {
    file: OpenedFile,
    parts: Vec<Part>,
}

/// The share of one segment.
struct Part {
    segment: SegmentDoc,
    wanted: Wanted,
    decoder: Option<Arc<SegmentDecoder>>,
}

/// A file's content as it is stored compressed.
pub struct EncodedContent {
    /// Its codec.
    pub codec: Codec,
    /// Its length.
    pub encoded_len: u64,
    decoder: Arc<SegmentDecoder>,
}

impl OpenedFile {
    /// Plans to read a plaintext range, and only the frames that hold it.
    ///
    /// # Errors
    /// `damaged`, `key_unavailable`.
    pub fn plan(&self, range: &Range<u64>) -> Result<ReadPlan> {
        self.plan_with(range, &mut HashMap::new())
    }

    /// Plans to read several ranges; opens each segment once.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plans<'a>(&self, ranges: impl Iterator<Item = &'a Range<u64>>) -> Result<Vec<ReadPlan>> {
        let mut opened = HashMap::new();
        ranges.map(|range| self.plan_with(range, &mut opened)).collect()
    }

    fn plan_with(&self, range: &Range<u64>, opened: &mut HashMap<Id, Arc<SegmentDecoder>>) -> Result<ReadPlan> {
        let mut parts = Vec::new();
        for segment in self.segments.iter() {
            let (start, len) = (number(segment.off)?, number(segment.len)?);
            let wanted = range.start.saturating_sub(start).min(len)..range.end.saturating_sub(start).min(len);
            if !wanted.is_empty() {
                parts.push(Part { segment: segment.clone(), wanted: Wanted::Plain(wanted), decoder: None });
            }
        }
        if parts.len() <= OPENED_AHEAD {
            for Part { segment, decoder, .. } in &mut parts {
                let known = match opened.entry(segment.id) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(place) => place.insert(Arc::new(self.decoder(segment)?)),
                };
                *decoder = Some(Arc::clone(known));
            }
        }
        Ok(ReadPlan { file: self.clone(), parts })
    }

    /// The content as it is stored compressed, where it is one segment of that codec.
    ///
    /// # Errors
    /// `damaged`, `key_unavailable`.
    pub fn encoded(&self) -> Result<Option<EncodedContent>> {
        let [segment] = self.segments.as_ref() else { return Ok(None) };
        let codec = segment.codec().map_err(|e| e.doing("open a segment"))?;
        if codec == Codec::Identity {
            return Ok(None);
        }
        let decoder = Arc::new(self.decoder(segment)?);
        Ok(Some(EncodedContent { codec, encoded_len: decoder.encoded_len(), decoder }))
    }

    /// Plans to read the stored frames: verified, still compressed, without the seek table.
    #[must_use]
    pub fn plan_encoded(&self, content: EncodedContent) -> ReadPlan {
        let decoder = Some(content.decoder);
        let part = |segment: &SegmentDoc| Part { segment: segment.clone(), wanted: Wanted::Encoded, decoder };
        ReadPlan { file: self.clone(), parts: self.segments.first().map(part).into_iter().collect() }
    }
}

impl ReadPlan {
    /// What the read takes; none where that is not known beforehand.
    ///
    /// # Errors
    /// `damaged`.
    pub fn cost(&self) -> Result<Option<ReadCost>> {
        let mut cost = ReadCost::default();
        for Part { segment, wanted, decoder } in &self.parts {
            let Some(decoder) = decoder else { return Ok(None) };
            let frames = wanted.frames(decoder);
            if frames.is_empty() {
                continue;
            }
            let file = segment.grid_file().map_err(|e| e.doing("read the content"))?;
            let chunks = file.chunks(&decoder.index().stored_span(&frames));
            let bytes = file.bytes_of(&chunks);
            cost = cost + ReadCost { chunks: chunks.end - chunks.start, frames: frames.len() as u64, bytes };
        }
        Ok(Some(cost))
    }

    /// Streams the bytes.
    ///
    /// The first frame is verified before this returns, so that damage there is an answer and not
    /// a cut body.
    ///
    /// # Errors
    /// `damaged`, `key_unavailable`, `unavailable`; later ones end the stream.
    pub async fn read(self) -> Result<ByteStream> {
        let Self { file, parts } = self;
        let mut runs = runs(parts);
        if runs.len() <= 1 {
            // Nothing to read ahead of.
            let streams = file.begin(runs.pop().unwrap_or_default()).await;
            return begin(stream::iter(streams).flatten().boxed()).await;
        }
        let begun = stream::iter(runs).map(move |run| {
            // A task of its own reads ahead while the run before it is consumed.
            let beginning = AbortOnDropHandle::new(tokio::spawn(file.clone().begin(run)));
            async move { beginning.await.map_err(|error| Error::internal("read the content", error)) }
        });
        let streams = begun.buffered(RUNS_AHEAD + 1).map_ok(|streams| stream::iter(streams).flatten());
        begin(streams.try_flatten().boxed()).await
    }
}

/// A stream whose first item is there, and no error.
async fn begin(mut whole: ByteStream) -> Result<ByteStream> {
    match whole.next().await {
        Some(first) => Ok(stream::iter([Ok(first?)]).chain(whole).boxed()),
        None => Ok(whole),
    }
}

/// Neighbouring parts that are short enough, as they are read at once.
fn runs(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut runs: Vec<(u64, Vec<Part>)> = Vec::new();
    for part in parts {
        let len = part.len();
        match runs.last_mut() {
            Some((run_len, run)) if *run_len + len <= RUN_LEN => {
                *run_len += len;
                run.push(part);
            }
            _ => runs.push((len, vec![part])),
        }
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

impl Part {
    fn len(&self) -> u64 {
        match &self.wanted {
            Wanted::Plain(plain) => plain.end - plain.start,
            Wanted::Encoded => self.segment.len.unsigned_abs(),
        }
    }
}

impl OpenedFile {
    /// The streams of a run, all of them begun, unless it is one long part that reads ahead by itself.
    async fn begin(self, run: Vec<Part>) -> Vec<ByteStream> {
        let begun = run.into_iter().map(|part| {
            let is_long = part.len() > RUN_LEN;
            // An error keeps its place: what comes before it is read.
            let mut stream = self.stream(part).unwrap_or_else(|error| stream::iter([Err(error)]).boxed());
            async move {
                if is_long {
                    return stream;
                }
                let first = stream.next().await;
                stream::iter(first).chain(stream).boxed()
            }
        });
        stream::iter(begun).buffered(READS_AT_ONCE).collect().await
    }

    fn stream(&self, Part { segment, wanted, decoder }: Part) -> Result<ByteStream> {
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => Arc::new(self.decoder(&segment)?),
        };
        let span = decoder.index().stored_span(&wanted.frames(&decoder));
        match self.read_already(&segment, &span) {
            Some(stored) => Ok(decode(decoder, wanted, stream::iter([Ok(stored)]))),
            None => stream_segment(&self.files, &segment, wanted, decoder),
        }
    }
}

/// The wanted bytes of a segment.
pub(super) fn stream_segment(
    files: &Files,
    segment: &SegmentDoc,
    wanted: Wanted,
    decoder: Arc<SegmentDecoder>,
) -> Result<ByteStream> {
    let frames = wanted.frames(&decoder);
    if frames.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let file = segment.grid_file().map_err(|e| e.doing("read the content"))?;
    let span = decoder.index().stored_span(&frames);
    let stored = files.store.read_chunks(file, span).map_err(|error| error.doing("read the content"));
    Ok(decode(decoder, wanted, stored))
}
