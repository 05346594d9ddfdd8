//! Stored bytes to plaintext, or to frames as they can be sent compressed. Nothing of a frame
//! leaves before it is verified.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use super::frames::FrameSource;
use super::{ByteStream, compute, jobs};
use crate::error::Error;
use crate::format::FormatError;
use crate::format::segment::SegmentDecoder;

/// Jobs under way at once: a paused download holds what they decoded.
const MOST_JOBS: usize = 2;

/// What is to come of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These plaintext bytes.
    Plain(Range<u64>),
    /// All frames, verified and still compressed.
    Encoded,
}

impl Wanted {
    /// The frames that hold it.
    pub fn frames(&self, decoder: &SegmentDecoder) -> Range<usize> {
        match self {
            Self::Plain(plain) => decoder.index().frames(plain),
            Self::Encoded => 0..decoder.index().count(),
        }
    }

    /// What is wanted of one frame.
    fn decode(&self, decoder: &SegmentDecoder, frame: usize, stored: Bytes) -> Result<Bytes, FormatError> {
        let Self::Plain(range) = self else { return decoder.encoded_frame(frame, stored) };
        let span = decoder.index().plain(frame);
        let plain = decoder.decode_frame(frame, stored)?;
        let from = range.start.saturating_sub(span.start) as usize;
        let to = (range.end.min(span.end) - span.start) as usize;
        Ok(plain.slice(from..to))
    }
}

/// Decodes neighbouring frames; `stored` gives exactly their stored span.
///
/// # Errors
/// The stream ends with `damaged` at the first frame that does not verify, and with `stored`'s own
/// error where that fails.
pub fn decode(
    decoder: Arc<SegmentDecoder>,
    wanted: Wanted,
    stored: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
) -> ByteStream {
    let frames = wanted.frames(&decoder);
    let (most, jobs) = jobs(decoder.index().frame_len(), MOST_JOBS);
    let cutter = Arc::clone(&decoder);
    let cut = stream::try_unfold((FrameSource::new(Box::pin(stored)), frames), move |(mut source, mut frames)| {
        let decoder = Arc::clone(&cutter);
        async move {
            let mut job = Vec::with_capacity(most);
            for frame in frames.by_ref().take(most) {
                let span = decoder.index().stored(frame);
                let len = usize::try_from(span.end - span.start).map_err(|error| Error::damaged(DECODE, error))?;
                source.fill(len).await?;
                let pieces = source.take(len);
                let stored = if let [piece] = pieces.as_slice() { piece.clone() } else { pieces.concat().into() };
                job.push((frame, stored));
            }
            Ok::<_, Error>((!job.is_empty()).then_some((job, (source, frames))))
        }
    });
    cut.map_ok(move |job| decode_job(Arc::clone(&decoder), job, wanted.clone()))
        .try_buffered(jobs)
        .map_ok(stream::iter)
        .try_flatten()
        .boxed()
}

/// Decodes frames that follow each other, up to the first that does not verify.
async fn decode_job(
    decoder: Arc<SegmentDecoder>,
    job: Vec<(usize, Bytes)>,
    wanted: Wanted,
) -> Result<Vec<Result<Bytes, Error>>, Error> {
    let stored_len = job.iter().map(|(_, stored)| stored.len()).sum();
    let work = move || {
        let mut frames = Vec::with_capacity(job.len());
        for (frame, stored) in job {
            let decoded = wanted.decode(&decoder, frame, stored);
            let is_sound = decoded.is_ok();
            frames.push(decoded.map_err(|error| Error::damaged(DECODE, error)));
            if !is_sound {
                break;
            }
        }
        frames
    };
    compute(stored_len, DECODE, work).await
}

const DECODE: &str = "decode a frame";
