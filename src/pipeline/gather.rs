//! The plaintext of a body, gathered into the frames of one job after the other. Does not look into the bytes.

use super::frames::FrameSource;
use super::{BodyError, BodyStream};
use crate::error::Error;
use crate::format::frame::FrameBuf;
use crate::format::segment::Position;

/// What a frame of unknown length begins with.
const FIRST_CAPACITY: usize = 64 << 10;

/// A body on its way into frames.
pub struct Gathering {
    source: FrameSource<BodyStream>,
    /// Those of the next job; all but the last of them are full.
    frames: Vec<FrameBuf>,
    spare: Vec<FrameBuf>,
    frame_len: usize,
    frames_a_job: usize,
    plain_len: u64,
    expected_len: Option<u64>,
    limit: u64,
    has_ended: bool,
}

/// Plaintext frames that follow each other, at least one, and where the last of them is.
pub type Gathered = (Vec<FrameBuf>, Position);

impl Gathering {
    /// More than `limit` bytes are refused; `expected_len` is a hint about their number.
    pub fn new(
        source: FrameSource<BodyStream>,
        frame_len: usize,
        frames_a_job: usize,
        expected_len: Option<u64>,
        limit: u64,
    ) -> Self {
        Self {
            source,
            frames: Vec::new(),
            spare: Vec::new(),
            frame_len,
            frames_a_job,
            plain_len: 0,
            expected_len,
            limit,
            has_ended: false,
        }
    }

    /// Bytes taken so far.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Whether the last job was given.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Takes a buffer back for another frame.
    pub fn give_back(&mut self, frame: FrameBuf) {
        if !self.has_ended {
            self.spare.push(frame);
        }
    }

    /// The frames of the next job; before the end only.
    ///
    /// # Errors
    /// The body's, and that it is too long.
    ///
    /// # Cancel safety
    /// Dropped, it has lost nothing: the next call goes on.
    pub async fn next_job(&mut self) -> Result<Gathered, Error> {
        loop {
            self.has_ended = self.source.fill(1).await.map_err(BodyError::into_error)? == 0;
            if self.has_ended {
                if self.frames.is_empty() {
                    self.begin_frame();
                }
                return Ok((std::mem::take(&mut self.frames), Position::Last));
            }
            let is_full = self.frames.last().is_none_or(|frame| frame.len() == self.frame_len);
            if is_full && self.frames.len() == self.frames_a_job {
                return Ok((std::mem::take(&mut self.frames), Position::Inner));
            }
            if is_full {
                self.begin_frame();
            }
            if let Some(frame) = self.frames.last_mut() {
                self.plain_len += self.source.take_into(frame, self.frame_len) as u64;
            }
            if self.plain_len > self.limit {
                return Err(Error::too_large(self.limit));
            }
        }
    }

    fn begin_frame(&mut self) {
        let frame = self.buffer();
        self.frames.push(frame);
    }

    fn buffer(&mut self) -> FrameBuf {
        if let Some(mut spare) = self.spare.pop() {
            spare.clear();
            return spare;
        }
        let expected = self.expected_len.map(|len| len.saturating_sub(self.plain_len));
        let unknown = if self.plain_len == 0 { FIRST_CAPACITY } else { self.frame_len };
        let capacity = expected.and_then(|len| usize::try_from(len).ok()).unwrap_or(unknown);
        FrameBuf::with_capacity(capacity.min(self.frame_len))
    }
}
