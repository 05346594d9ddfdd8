//! A whole segment in memory with its row, and a reader that checks everything there is to check.

use bytes::Bytes;

use crate::format::FormatError;
use crate::format::digest::Sha256Digest;
use crate::format::frame::FrameBuf;
use crate::format::key::Key;
use crate::format::seal::{FrameKind, SegmentHeader, SegmentKey};
use crate::format::segment::{Codec, Layout, Position, SegmentDecoder, SegmentEncoder, SegmentFacts};

/// What a segment's row says.
#[derive(Debug, Clone)]
pub struct Row {
    pub codec: Codec,
    pub frame_len: u32,
    pub plain_len: u64,
    pub stored_len: u64,
    pub record: Vec<u8>,
    pub commitment: Vec<u8>,
    pub sealing: Option<Sealing>,
}

/// What the key of a sealed segment is made of.
#[derive(Debug, Clone)]
pub struct Sealing {
    pub data_key: [u8; 32],
    pub segment_id: [u8; 12],
    pub tenant: String,
    pub salt: [u8; 32],
}

impl Sealing {
    /// Fixed values, those of the independent reference.
    pub fn fixed() -> Self {
        Self {
            data_key: std::array::from_fn(|i| i as u8),
            segment_id: std::array::from_fn(|i| i as u8),
            tenant: "tenant-a".to_owned(),
            salt: [7; 32],
        }
    }

    pub fn key(&self, codec: Codec, frame_len: u32) -> SegmentKey {
        let header = SegmentHeader {
            family: codec.family(),
            frame_log2: frame_len.trailing_zeros() as u8,
            segment_id: self.segment_id,
            salt: self.salt,
        };
        SegmentKey::derive(&Key::new(self.data_key), header, &self.tenant)
    }
}

impl Row {
    pub fn key(&self) -> Option<SegmentKey> {
        self.sealing.as_ref().map(|sealing| sealing.key(self.codec, self.frame_len))
    }

    pub fn open(&self) -> Result<SegmentDecoder, FormatError> {
        let facts = SegmentFacts {
            codec: self.codec,
            frame_len: self.frame_len,
            plain_len: self.plain_len,
            stored_len: self.stored_len,
            record: &self.record,
            commitment: &self.commitment,
        };
        SegmentDecoder::open(facts, self.key())
    }

    /// Opens the row, then checks the head, every frame and the tail of the stored bytes.
    pub fn read_all(&self, stored: &[u8]) -> Result<Vec<u8>, FormatError> {
        let decoder = self.open()?;
        let cut = |start: u64, end: u64| {
            let at = |n: u64| stored.len().min(n as usize);
            Bytes::copy_from_slice(&stored[at(start)..at(end)])
        };
        let head = decoder.head_span();
        decoder.check_head(&cut(head.start, head.end))?;
        let mut plain = Vec::new();
        for frame in 0..decoder.index().count() {
            let span = decoder.index().stored(frame);
            plain.extend_from_slice(&decoder.decode_frame(frame, cut(span.start, span.end))?);
        }
        // To the end of the bytes, whatever the row says: nothing may follow.
        decoder.check_tail(&cut(decoder.tail_span().start, u64::MAX))?;
        Ok(plain)
    }
}

/// A segment taken apart.
#[derive(Debug, Clone)]
pub struct Made {
    pub row: Row,
    pub head: Vec<u8>,
    pub frames: Vec<Vec<u8>>,
    pub tail: Vec<u8>,
}

impl Made {
    pub fn new(codec: Codec, sealing: Option<Sealing>, frame_len: u32, plain: &[u8]) -> Self {
        let key = sealing.as_ref().map(|sealing| sealing.key(codec, frame_len));
        let encoder = SegmentEncoder::new(Layout { codec, level: 3, frame_len }, key);
        let mut pieces: Vec<&[u8]> = plain.chunks(frame_len as usize).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        let encode = |(i, piece): (usize, &&[u8])| {
            let position = if i == last { Position::Last } else { Position::Inner };
            encoder.encode_frame(i as u64, position, FrameBuf::from(*piece), &mut FrameBuf::with_capacity(0))
        };
        let stored: Vec<_> = pieces.iter().enumerate().map(encode).collect();
        let entries: Vec<_> = stored.iter().map(|frame| frame.entry).collect();
        let end = encoder.finish(&entries, plain.len() as u64, Sha256Digest::of(plain));
        let mut made = Self {
            row: Row {
                codec,
                frame_len,
                plain_len: plain.len() as u64,
                stored_len: 0,
                record: end.record,
                commitment: end.commitment.to_vec(),
                sealing,
            },
            head: encoder.head(),
            frames: stored.iter().map(|frame| frame.bytes.to_vec()).collect(),
            tail: end.tail,
        };
        made.row.stored_len = made.stored().len() as u64;
        made
    }

    pub fn stored(&self) -> Vec<u8> {
        [self.head.clone(), self.frames.concat(), self.tail.clone()].concat()
    }
}

/// A frame sealed apart from its segment.
pub fn sealed_frame(key: &SegmentKey, index: u64, kind: FrameKind, codec: u8, plain_len: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = FrameBuf::from(body);
    key.seal_frame(index, kind, codec, plain_len, &mut frame);
    frame.to_vec()
}
