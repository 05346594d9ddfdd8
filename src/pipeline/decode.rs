//! Stored bytes to plaintext, or to frames as they can be sent compressed. Nothing of a frame
//! leaves before it is verified.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use super::ByteStream;
use super::frames::FrameSource;
use crate::error::Error;
use crate::format::FormatError;
use crate::format::segment::SegmentDecoder;

/// Frames of one download being decoded at once.
const FRAMES_AHEAD: usize = 2;
/// Stored frames up to this long are decoded where they are: a hop to another thread costs more.
const INLINE_LEN: usize = 32 << 10;

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
    let cutter = Arc::clone(&decoder);
    let cut = stream::try_unfold((FrameSource::new(Box::pin(stored)), frames), move |(mut source, mut frames)| {
        let decoder = Arc::clone(&cutter);
        async move {
            let Some(frame) = frames.next() else { return Ok::<_, Error>(None) };
            let span = decoder.index().stored(frame);
            let len = usize::try_from(span.end - span.start).map_err(|error| Error::damaged("read a frame", error))?;
            source.fill(len).await?;
            let pieces = source.take(len);
            let stored = if let [piece] = pieces.as_slice() { piece.clone() } else { pieces.concat().into() };
            Ok(Some(((frame, stored), (source, frames))))
        }
    });
    cut.map_ok(move |(frame, stored)| decode_frame(Arc::clone(&decoder), frame, stored, wanted.clone()))
        .try_buffered(FRAMES_AHEAD)
        .boxed()
}

async fn decode_frame(
    decoder: Arc<SegmentDecoder>,
    frame: usize,
    stored: Bytes,
    wanted: Wanted,
) -> Result<Bytes, Error> {
    let is_small = stored.len() <= INLINE_LEN;
    let work = move || -> Result<Bytes, FormatError> {
        match wanted {
            Wanted::Plain(range) => {
                let span = decoder.index().plain(frame);
                let plain = decoder.decode_frame(frame, stored)?;
                let from = range.start.saturating_sub(span.start) as usize;
                let to = (range.end.min(span.end) - span.start) as usize;
                Ok(plain.slice(from..to))
            }
            Wanted::Encoded => decoder.encoded_frame(frame, stored),
        }
    };
    let decoded = if is_small {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal("decode a frame", error))?
    };
    decoded.map_err(|error| Error::damaged("decode a frame", error))
}
