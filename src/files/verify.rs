//! Content read from end to end: heads, frames and tails as they lie in the store, and the hash of
//! what they hold. A step verifies one piece and says how long it was; who pauses between the steps
//! and what becomes of damage is `jobs/scrub.rs`'s decision.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{Files, Result};
use crate::error::Error;
use crate::format::digest::Sha256Stream;
use crate::format::key_wrap::{WrapMode, WrappedKey};
use crate::format::segment::SegmentDecoder;
use crate::pipeline::ByteStream;
use crate::pipeline::frames::FrameSource;
use crate::store::registry::FileDoc;
use crate::store::segments::SegmentDoc;

/// A content being verified.
pub struct Verification {
    files: Files,
    file: FileDoc,
    segments: VecDeque<SegmentDoc>,
    reading: Option<Reading>,
    sha256: Sha256Stream,
    place: String,
}

/// A segment of it.
struct Reading {
    decoder: Arc<SegmentDecoder>,
    stored: FrameSource<ByteStream>,
    name: String,
    next: Piece,
}

/// A piece of a segment's stored bytes.
#[derive(Clone, Copy)]
enum Piece {
    Head,
    Frame(usize),
    Tail,
}

/// Whether a segment's key is its client's: such content cannot be verified here.
pub fn is_customers(segment: &SegmentDoc) -> bool {
    segment
        .enc
        .as_ref()
        .and_then(|enc| WrappedKey::try_from(enc).ok())
        .is_some_and(|key| key.mode == WrapMode::Customer)
}

impl Files {
    /// Begins to verify a file's content by its segments, in their order.
    pub fn verify(&self, file: FileDoc, segments: Vec<SegmentDoc>) -> Verification {
        let sha256 = Sha256Stream::default();
        let place = "content".to_owned();
        Verification { files: self.clone(), file, segments: segments.into(), reading: None, sha256, place }
    }
}

impl Verification {
    /// What the last step looked at: a part of a segment, or the content as a whole.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Verifies the next piece and gives its stored length; none when all are sound and make up the
    /// content.
    ///
    /// # Errors
    /// `damaged` where something does not verify, `key_unavailable`, `unavailable`, `timeout`.
    pub async fn next(&mut self) -> Result<Option<u64>> {
        let Some(mut reading) = self.reading.take() else {
            return match self.segments.pop_front() {
                Some(segment) => self.begin(&segment).map(|()| Some(0)),
                None => self.check_whole().map(|()| None),
            };
        };
        let decoder = Arc::clone(&reading.decoder);
        let (span, part) = match reading.next {
            Piece::Head => (decoder.head_span(), "head".to_owned()),
            Piece::Frame(frame) => (decoder.index().stored(frame), format!("frame {frame}")),
            Piece::Tail => (decoder.tail_span(), "tail".to_owned()),
        };
        self.place = format!("segment {}, {part}", reading.name);
        let len = usize::try_from(span.end - span.start).map_err(|error| Error::damaged(VERIFY, error))?;
        reading.stored.fill(len).await?;
        let pieces = reading.stored.take(len);
        let stored: Bytes = if let [piece] = pieces.as_slice() { piece.clone() } else { pieces.concat().into() };
        if stored.len() != len {
            return Err(Error::damaged(VERIFY, "the stored bytes end too early"));
        }
        let next = match reading.next {
            Piece::Head => {
                decoder.check_head(&stored).map_err(|error| Error::damaged(VERIFY, error))?;
                Some(Piece::Frame(0))
            }
            Piece::Frame(frame) => {
                self.check_frame(Arc::clone(&decoder), frame, stored).await?;
                Some(if frame + 1 < decoder.index().count() { Piece::Frame(frame + 1) } else { Piece::Tail })
            }
            Piece::Tail => {
                decoder.check_tail(&stored).map_err(|error| Error::damaged(VERIFY, error))?;
                None
            }
        };
        self.reading = next.map(|next| Reading { next, ..reading });
        Ok(Some(len as u64))
    }

    fn begin(&mut self, segment: &SegmentDoc) -> Result<()> {
        self.place = format!("segment {}, record", segment.id);
        let decoder = Arc::new(self.files.decoder(&self.file.tenant, segment, None)?);
        let file = segment.grid_file().map_err(|error| error.doing(VERIFY))?;
        let whole = 0..file.stored_len;
        let stored = self.files.store.read_chunks(file, whole).map_err(|error| error.doing(VERIFY)).boxed();
        let name = segment.id.to_hex();
        self.reading = Some(Reading { decoder, stored: FrameSource::new(stored), name, next: Piece::Head });
        Ok(())
    }

    async fn check_frame(&mut self, decoder: Arc<SegmentDecoder>, frame: usize, stored: Bytes) -> Result<()> {
        let mut sha256 = std::mem::take(&mut self.sha256);
        let work = tokio::task::spawn_blocking(move || {
            let plain = decoder.decode_frame(frame, stored)?;
            sha256.update(&plain);
            Ok(sha256)
        });
        let verified = work.await.map_err(|error| Error::internal(VERIFY, error))?;
        self.sha256 = verified.map_err(|error: crate::format::FormatError| Error::damaged(VERIFY, error))?;
        Ok(())
    }

    fn check_whole(&mut self) -> Result<()> {
        self.place = "content".to_owned();
        let found = std::mem::take(&mut self.sha256).finish();
        // None is known yet of what came in parts out of order.
        if self.files.digest(&self.file)?.is_none_or(|digest| digest == found) {
            return Ok(());
        }
        Err(Error::damaged(VERIFY, "the plaintext has another SHA-256"))
    }
}

const VERIFY: &str = "verify the content";
