//! Cutting a stream into pieces of fixed length without copying what need not be copied. Does not
//! look into the bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use crate::format::frame::FrameBuf;

/// Pieces shorter than this are gathered, but for the first, which may be all there is: a body sent byte by byte costs
/// no more memory than its bytes.
const SMALL_PIECE_LEN: usize = 8 << 10;

/// A queue of bytes.
#[derive(Default)]
struct Pieces {
    whole: VecDeque<Bytes>,
    gathering: BytesMut,
    len: usize,
}

impl Pieces {
    /// Bytes in the queue.
    fn len(&self) -> usize {
        self.len
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        let is_first = self.len == 0;
        self.len += piece.len();
        if piece.len() < SMALL_PIECE_LEN && !is_first {
            self.gathering.extend_from_slice(&piece);
            if self.gathering.len() >= SMALL_PIECE_LEN {
                self.settle();
            }
        } else {
            self.settle();
            self.whole.push_back(piece);
        }
    }

    fn settle(&mut self) {
        if !self.gathering.is_empty() {
            self.whole.push_back(self.gathering.split().freeze());
        }
    }

    /// Takes up to `len` bytes from the front.
    pub fn take(&mut self, len: usize) -> Vec<Bytes> {
        let mut wanted = len.min(self.len);
        self.len -= wanted;
        let mut taken = Vec::new();
        while wanted > 0 {
            if self.whole.is_empty() {
                self.settle();
            }
            let Some(mut piece) = self.whole.pop_front() else { break };
            if piece.len() > wanted {
                self.whole.push_front(piece.split_off(wanted));
            }
            wanted -= piece.len();
            taken.push(piece);
        }
        taken
    }
}

/// A stream read in pieces of chosen length.
pub struct FrameSource<S> {
    stream: S,
    pieces: Pieces,
    has_ended: bool,
}

impl<S, E> FrameSource<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    /// A source over a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, pieces: Pieces::default(), has_ended: false }
    }

    /// Waits until `len` bytes are at hand or the stream has ended; gives how many are.
    ///
    /// # Errors
    /// The stream's.
    pub async fn fill(&mut self, len: usize) -> Result<usize, E> {
        while self.pieces.len() < len && !self.has_ended {
            match self.stream.next().await {
                Some(piece) => self.pieces.push(piece?),
                None => self.has_ended = true,
            }
        }
        Ok(self.pieces.len())
    }

    /// How many bytes are at hand.
    pub fn at_hand(&self) -> usize {
        self.pieces.len()
    }

    /// Takes up to `len` of the bytes at hand.
    pub fn take(&mut self, len: usize) -> Vec<Bytes> {
        self.pieces.take(len)
    }

    /// Moves bytes at hand into a frame until that is `len` bytes long; gives how many.
    pub fn take_into(&mut self, frame: &mut FrameBuf, len: usize) -> usize {
        let before = frame.len();
        for piece in self.take(len.saturating_sub(before)) {
            frame.extend_from_slice(&piece);
        }
        frame.len() - before
    }

    /// A copy of the first bytes at hand, which stay.
    pub fn peek(&mut self, len: usize) -> Bytes {
        let taken = self.pieces.take(len);
        let copy = taken.concat().into();
        self.put_back(taken);
        copy
    }

    fn put_back(&mut self, pieces: Vec<Bytes>) {
        for piece in pieces.into_iter().rev() {
            self.pieces.len += piece.len();
            self.pieces.whole.push_front(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_come_out_as_they_went_in(lens in proptest::collection::vec(0..20_000usize, 0..12), cut in 1..30_000usize) {
            let whole: Vec<u8> = (0..lens.iter().sum::<usize>()).map(|i| (i % 251) as u8).collect();
            let mut pieces = Pieces::default();
            let mut rest = Bytes::from(whole.clone());
            for len in lens {
                pieces.push(rest.split_to(len));
            }
            let mut out = Vec::new();
            while pieces.len() > 0 {
                let before = pieces.len();
                let taken = pieces.take(cut).concat();
                prop_assert_eq!(taken.len(), cut.min(before));
                out.extend_from_slice(&taken);
            }
            prop_assert_eq!(out, whole);
        }
    }

    #[test]
    fn a_body_of_single_bytes_is_gathered() {
        let mut pieces = Pieces::default();
        (0..100_000).for_each(|_| pieces.push(Bytes::from_static(b"x")));
        assert!(pieces.take(100_000).len() < 20);
    }

    #[tokio::test]
    async fn peeking_takes_nothing() {
        let parts = [b"hello ".as_slice(), b"world"].map(|part| Ok::<_, ()>(Bytes::from_static(part)));
        let mut source = FrameSource::new(futures::stream::iter(parts));
        assert_eq!(source.fill(8).await, Ok(11));
        assert_eq!(source.peek(8), "hello wo");
        assert_eq!(source.take(usize::MAX).concat(), b"hello world");
    }
}
