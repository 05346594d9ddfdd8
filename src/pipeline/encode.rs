//! Plaintext to stored frames: hashed in order, compressed and sealed in parallel, given in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::frames::FrameSource;
use super::{BodyError, BodyStream};
use crate::error::Error;
use crate::format::digest::{Sha256Digest, Sha256Stream};
use crate::format::index::FrameEntry;
use crate::format::segment::{Position, SegmentEncoder, SegmentEnd, StoredFrame};

/// Frames of one upload being encoded at once.
const FRAMES_AHEAD: usize = 3;
/// Plaintext up to this long is encoded where it is: a hop to another thread costs more.
const INLINE_LEN: usize = 32 << 10;

/// Encodes one segment, frame by frame.
///
/// # Cancel safety
/// Dropped at any time; frames being encoded finish on the blocking pool and are thrown away.
pub struct Encoding {
    source: FrameSource<BodyStream>,
    encoder: Arc<SegmentEncoder>,
    hash: Hash,
    ahead: VecDeque<JoinHandle<StoredFrame>>,
    entries: Vec<FrameEntry>,
    next_frame: u64,
    plain_len: u64,
    limit: u64,
    is_last_taken: bool,
}

enum Hash {
    Idle(Box<Sha256Stream>),
    Busy(JoinHandle<Box<Sha256Stream>>),
}

/// What a finished encoding knows.
pub struct Encoded {
    /// The end of the segment.
    pub end: SegmentEnd,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Of the plaintext.
    pub sha256: Sha256Digest,
}

impl Encoding {
    /// Begins a segment. More than `limit` plaintext bytes are refused.
    pub fn new(source: FrameSource<BodyStream>, encoder: SegmentEncoder, limit: u64) -> Self {
        Self {
            source,
            encoder: Arc::new(encoder),
            hash: Hash::Idle(Box::default()),
            ahead: VecDeque::new(),
            entries: Vec::new(),
            next_frame: 0,
            plain_len: 0,
            limit,
            is_last_taken: false,
        }
    }

    /// Plaintext bytes taken so far.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// The next frame to store; none after the last.
    ///
    /// # Errors
    /// The body's, among them [`BodyError::TooLarge`]; nothing more comes then.
    pub async fn next(&mut self) -> Result<Option<StoredFrame>, Error> {
        while self.ahead.len() < FRAMES_AHEAD && !self.is_last_taken {
            if let Some(frame) = self.begin_frame().await? {
                return Ok(Some(self.note(frame)));
            }
        }
        match self.ahead.pop_front() {
            Some(frame) => {
                let frame = frame.await.map_err(|error| Error::internal("encode the content", error))?;
                Ok(Some(self.note(frame)))
            }
            None => Ok(None),
        }
    }

    fn note(&mut self, frame: StoredFrame) -> StoredFrame {
        self.entries.push(frame.entry);
        frame
    }

    /// Takes one frame of plaintext; gives it encoded if that was quick.
    async fn begin_frame(&mut self) -> Result<Option<StoredFrame>, Error> {
        let frame_len = self.encoder.layout().frame_len as usize;
        // One byte more tells whether this frame is the last.
        let at_hand = self.source.fill(frame_len + 1).await.map_err(BodyError::into_error)?;
        let position = if at_hand > frame_len { Position::Inner } else { Position::Last };
        let plain = self.source.take(frame_len);
        self.is_last_taken = position == Position::Last;
        self.plain_len += plain.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if self.plain_len > self.limit {
            return Err(Error::too_large(self.limit));
        }
        let (index, encoder) = (self.next_frame, Arc::clone(&self.encoder));
        self.next_frame += 1;
        self.hash(plain.clone()).await?;
        if self.ahead.is_empty() && at_hand <= INLINE_LEN {
            return Ok(Some(encoder.encode_frame(index, position, plain)));
        }
        self.ahead.push_back(tokio::task::spawn_blocking(move || encoder.encode_frame(index, position, plain)));
        Ok(None)
    }

    async fn hash(&mut self, plain: Vec<Bytes>) -> Result<(), Error> {
        let mut hasher = self.idle_hash().await?;
        self.hash = if plain.iter().map(Bytes::len).sum::<usize>() <= INLINE_LEN {
            hasher.update(&plain);
            Hash::Idle(hasher)
        } else {
            Hash::Busy(tokio::task::spawn_blocking(move || {
                hasher.update(&plain);
                hasher
            }))
        };
        Ok(())
    }

    async fn idle_hash(&mut self) -> Result<Box<Sha256Stream>, Error> {
        match std::mem::replace(&mut self.hash, Hash::Idle(Box::default())) {
            Hash::Idle(hasher) => Ok(hasher),
            Hash::Busy(hashing) => hashing.await.map_err(|error| Error::internal("hash the content", error)),
        }
    }

    /// Ends the segment after the last frame.
    ///
    /// # Errors
    /// `internal` when a worker thread ended early.
    pub async fn finish(mut self) -> Result<Encoded, Error> {
        let sha256 = self.idle_hash().await?.finish();
        let end = self.encoder.finish(&self.entries, self.plain_len, sha256);
        Ok(Encoded { end, plain_len: self.plain_len, sha256 })
    }
}
