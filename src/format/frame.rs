//! A frame in one buffer that is used again and again: plaintext is gathered in it, sealed where it
//! lies, and stored from it. Does not know what the bytes are.

use std::fmt;
use std::ops::Deref;

use super::seal::TAG_LEN;

/// Bytes kept free in front of a frame: for its header, or for the head of the GridFS chunk document that
/// the buffer may become.
pub const HEADROOM: usize = 61;

/// A frame and the memory it lies in.
#[derive(Clone)]
pub struct FrameBuf {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameBuf {
    /// An empty frame; `capacity` bytes are expected.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::from_memory(Vec::with_capacity(HEADROOM + capacity + TAG_LEN))
    }

    /// An empty frame in memory that held something else.
    pub fn from_memory(mut memory: Vec<u8>) -> Self {
        memory.clear();
        memory.resize(HEADROOM, 0);
        Self { bytes: memory, start: HEADROOM }
    }

    /// The memory as it is: [`HEADROOM`] bytes of no meaning and the frame, where nothing was put in front of it.
    ///
    /// # Errors
    /// The frame itself, where something was.
    pub fn into_memory(self) -> Result<Vec<u8>, Self> {
        if self.start == HEADROOM { Ok(self.bytes) } else { Err(self) }
    }

    /// Empties the frame and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADROOM);
        self.start = HEADROOM;
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts a header in front.
    ///
    /// # Panics
    /// When it is longer than what is left of the room for it.
    pub(super) fn prepend(&mut self, header: &[u8]) {
        let end = self.start;
        self.start -= header.len();
        self.bytes[self.start..end].copy_from_slice(header);
    }

    /// The frame, to be changed where it lies.
    pub(super) fn content_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// The memory, for what appends to a `Vec`.
    pub(super) fn memory_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl From<&[u8]> for FrameBuf {
    fn from(bytes: &[u8]) -> Self {
        let mut frame = Self::with_capacity(bytes.len());
        frame.extend_from_slice(bytes);
        frame
    }
}

impl Deref for FrameBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of {} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        let mut frame = FrameBuf::with_capacity(1000);
        frame.extend_from_slice(&[7; 1000]);
        let memory = frame.as_ptr();
        frame.clear();
        frame.extend_from_slice(b"hello");
        assert_eq!((&*frame, frame.as_ptr()), (b"hello".as_slice(), memory));
        let bytes = frame.into_memory().expect("nothing stands in front");
        assert_eq!(&bytes[HEADROOM..], b"hello");
        assert_eq!(FrameBuf::from_memory(bytes).as_ptr(), memory);
    }

    #[test]
    fn a_header_goes_in_front_and_with_the_frame() {
        let mut frame = FrameBuf::from(b"body".as_slice());
        frame.prepend(b"head ");
        assert_eq!(&*frame, b"head body");
        let mut frame = frame.into_memory().expect_err("a header stands in front");
        frame.clear();
        assert!(frame.is_empty());
    }
}
