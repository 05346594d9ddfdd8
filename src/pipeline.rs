//! The stages between a request body and stored frames, and back.
//!
//! ```text
//!  upload    ByteStream ─ frames ─┬─ sha256 (in order) ───────────────┐
//!                                 └─ compress ─ seal ─ StoredFrame ─▶ │ end of segment
//!  download  stored bytes ─ frames ─ open ─ decompress ─ trim ─▶ ByteStream
//! ```
//!
//! Frames are encoded and decoded on the blocking pool, in jobs of a few frames that follow each other, so
//! memory is a small multiple of a job's length. Where stored bytes go to and come from, the stages do not
//! know.

pub mod decode;
pub mod encode;
pub mod frames;
mod gather;
mod job;

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use thiserror::Error;

use crate::error::{Error, ErrorCode};

/// Why a request body ended before its end: the client's side only.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BodyError {
    #[error("the client went away")]
    Hangup(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no byte came within the idle limit")]
    Idle,
    #[error("the bytes came more slowly than the least rate")]
    Slow,
    #[error("the body is longer than {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    #[error("the body does not match its digest")]
    Mismatch,
    #[error("the body is malformed: {0}")]
    Malformed(String),
}

impl BodyError {
    /// The use case's error.
    pub fn into_error(self) -> Error {
        match self {
            Self::Hangup(cause) => Error::new(ErrorCode::ClientHangup, "The body ended early.").because(cause),
            Self::Idle => Error::new(ErrorCode::BodyTimeout, "No byte of the body came within the idle limit."),
            Self::Slow => Error::new(ErrorCode::BodyTimeout, "The body came more slowly than is taken here."),
            Self::TooLarge { limit_bytes } => Error::too_large(limit_bytes),
            Self::Mismatch => {
                let detail = "The body does not match its Content-Digest; nothing was stored.";
                Error::new(ErrorCode::ChecksumMismatch, detail).with("field", "Content-Digest")
            }
            Self::Malformed(detail) => Error::bad_request("body", detail),
        }
    }
}

/// Plaintext of one job, if frames are shorter: a hop to another thread costs as much as hashing 30 KiB.
const JOB_LEN: u64 = 512 << 10;
/// Bytes up to this many are worked on where they are: a hop costs more.
const INLINE_LEN: usize = 32 << 10;

/// How many frames make a job, and how many jobs of one stream are under way at once: `most`, but with frames as long as
/// large chunks one is enough, as the chunks before or behind it are under way too.
fn jobs(frame_len: u64, most: usize) -> (usize, usize) {
    let frames = usize::try_from(JOB_LEN / frame_len.max(1)).unwrap_or(1).max(1);
    (frames, if frame_len > 2 * JOB_LEN { 1 } else { most })
}

/// Computes something over so many bytes: here and now, or on the blocking pool where that takes longer than a hop.
///
/// # Errors
/// `internal` when a worker thread ended early.
///
/// # Cancel safety
/// Dropped, the work is done for nobody.
pub async fn compute<T: Send + 'static>(
    len: usize,
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if len <= INLINE_LEN {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal(doing, error))
}

/// Plaintext on its way in.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Bytes on their way out; the response is cut, never ended cleanly, when it ends with an error.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_short_waits_for_no_thread_of_the_pool() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        runtime.expect("a runtime of one thread").block_on(async {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || gate.recv());
            assert_eq!(compute(INLINE_LEN, "compute", || 1).now_or_never().and_then(Result::ok), Some(1));
            let long = compute(INLINE_LEN + 1, "compute", || 2);
            let mut long = std::pin::pin!(long);
            assert!((&mut long).now_or_never().is_none(), "the pool has no thread for it");
            open.send(()).expect("the pool's thread waits");
            assert_eq!(long.await.ok(), Some(2));
            busy.await.expect("it does not panic").expect("it was opened");
        });
    }
}
