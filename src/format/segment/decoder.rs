//! Reading a segment: what its row says, its frames in any order, and, for a check of everything,
//! its head and tail.

use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::{Codec, MAX_FRAME_LEN, SEALED_HEAD_LEN};
use crate::format::FormatError;
use crate::format::compress::{decompress, zstd_store, zstd_stored_len};
use crate::format::digest::Sha256Digest;
use crate::format::index::{self, FrameIndex, frame_count};
use crate::format::seal::{
    FRAME_OVERHEAD, FrameKind, HEADER_LEN, SegmentKey, TAG_LEN, TRAILER_MAGIC, TRAILER_SUFFIX_LEN,
};
use crate::format::seek_table::{self, SeekEntry};

/// No codec makes a frame longer than twice its plaintext and so many bytes.
pub(in crate::format) const BODY_SLACK: u64 = 64;

/// What is known of a segment before its bytes are read: its row.
///
/// # Units
/// Bytes.
#[derive(Debug, Clone, Copy)]
pub struct SegmentFacts<'a> {
    /// The codec.
    pub codec: Codec,
    /// Plaintext bytes of every frame but the last.
    pub frame_len: u32,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Stored bytes.
    pub stored_len: u64,
    /// The sealed trailer or the frame index.
    pub record: &'a [u8],
    /// What the manifest commits to.
    pub commitment: &'a [u8],
}

/// Decodes the frames of one segment, in any order.
pub struct SegmentDecoder {
    codec: Codec,
    key: Option<SegmentKey>,
    index: FrameIndex,
    sha256: Option<Sha256Digest>,
    stored_len: u64,
}

impl SegmentDecoder {
    /// Opens a segment: verifies its record before any frame is asked for.
    ///
    /// # Errors
    /// [`FormatError::Commitment`], [`FormatError::Trailer`], [`FormatError::Index`] or
    /// [`FormatError::FrameCount`] when the row is not the one the writer made.
    pub fn open(facts: SegmentFacts<'_>, key: Option<SegmentKey>) -> Result<Self, FormatError> {
        let frame_len = u64::from(facts.frame_len);
        if !(1..=MAX_FRAME_LEN).contains(&facts.frame_len) {
            return Err(FormatError::Index);
        }
        let Some(key) = key else {
            if index::commitment(facts.record) != facts.commitment {
                return Err(FormatError::Commitment);
            }
            let record = index::decode(facts.record)?;
            if (record.codec, record.frame_len) != (facts.codec, facts.frame_len) {
                return Err(FormatError::Index);
            }
            let index = FrameIndex::new(frame_len, facts.plain_len, 0, &record.entries)?;
            let tail_len = if facts.codec == Codec::Zstd { seek_table::encoded_len(index.count()) } else { 0 };
            let frames_end = index.stored(index.count() - 1).end;
            if facts.stored_len.checked_sub(frames_end) != Some(tail_len as u64) || !has_possible_frames(&index, 0) {
                return Err(FormatError::Index);
            }
            return Ok(Self { codec: facts.codec, key: None, index, sha256: None, stored_len: facts.stored_len });
        };
        let named = 1_u32.checked_shl(key.header().frame_log2.into());
        if !key.is_committed_by(facts.commitment) || named != Some(facts.frame_len) {
            return Err(FormatError::Commitment);
        }
        let frames = frame_count(facts.plain_len, frame_len);
        let trailer = key.open_trailer(facts.record, frames)?;
        let (index, sha256) = read_trailer(&trailer, &facts, frames)?;
        Ok(Self { codec: facts.codec, key: Some(key), index, sha256: Some(sha256), stored_len: facts.stored_len })
    }

    /// Where the frames lie.
    pub fn index(&self) -> &FrameIndex {
        &self.index
    }

    /// The SHA-256 of the segment's plaintext, where a sealed trailer holds it.
    pub fn sha256(&self) -> Option<Sha256Digest> {
        self.sha256
    }

    /// The stored bytes before the first frame.
    pub fn head_span(&self) -> Range<u64> {
        0..self.index.stored(0).start
    }

    /// The stored bytes after the last frame.
    pub fn tail_span(&self) -> Range<u64> {
        self.index.stored(self.index.count() - 1).end..self.stored_len
    }

    /// Compares the stored head with what the row says. Reading does not need it: the reader
    /// rebuilds the header from the row, and a key made from another one opens nothing.
    ///
    /// # Errors
    /// [`FormatError::Header`], [`FormatError::SegmentId`] or [`FormatError::Commitment`].
    pub fn check_head(&self, head: &[u8]) -> Result<(), FormatError> {
        let Some(key) = &self.key else {
            return if head.is_empty() { Ok(()) } else { Err(FormatError::Header) };
        };
        let (header, commitment) = head.split_first_chunk::<HEADER_LEN>().ok_or(FormatError::Header)?;
        key.header().check(header)?;
        if key.is_committed_by(commitment) { Ok(()) } else { Err(FormatError::Commitment) }
    }

    /// Compares the stored tail with what the row says. Reading does not need it: the row keeps
    /// the same facts in its record.
    ///
    /// # Errors
    /// [`FormatError::Trailer`] where the segment is sealed, else [`FormatError::Index`].
    pub fn check_tail(&self, tail: &[u8]) -> Result<(), FormatError> {
        let Some(key) = &self.key else {
            let is_whole = match self.codec {
                Codec::Zstd => seek_table::decode(tail)? == self.seek_entries()?,
                Codec::Identity | Codec::Gzip => tail.is_empty(),
            };
            return if is_whole { Ok(()) } else { Err(FormatError::Index) };
        };
        let (record, suffix) = tail.split_last_chunk::<TRAILER_SUFFIX_LEN>().ok_or(FormatError::Trailer)?;
        let [l0, l1, l2, l3, magic @ ..] = suffix;
        if magic != TRAILER_MAGIC || u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize != record.len() {
            return Err(FormatError::Trailer);
        }
        // One trailer is sealed under a key, so what opens at this place is the row's.
        key.open_trailer(record, self.index.count() as u64).map(drop)
    }

    fn seek_entries(&self) -> Result<Vec<SeekEntry>, FormatError> {
        let len = |span| u32::try_from(span_len(span)).map_err(|_| FormatError::Index);
        (0..self.index.count())
            .map(|i| Ok(SeekEntry { stored_len: len(self.index.stored(i))?, plain_len: len(self.index.plain(i))? }))
            .collect()
    }

    /// Decodes one stored frame to its plaintext.
    ///
    /// # Errors
    /// [`FormatError::Frame`], [`FormatError::Checksum`] or [`FormatError::FrameLength`] when the
    /// bytes are not those stored at this place.
    pub fn decode_frame(&self, frame: usize, stored: Bytes) -> Result<Bytes, FormatError> {
        let body = self.open_frame(frame, stored)?;
        let plain_len = self.plain_len(frame);
        if body.codec == Codec::Identity {
            return self.expect_len(frame, body.bytes);
        }
        let plain = decompress(body.codec, &body.bytes, plain_len);
        plain.map(Bytes::from).ok_or(FormatError::FrameLength {
            index: frame as u64,
            got: 0,
            expected: plain_len as u64,
        })
    }

    /// Gives one stored frame as it can be sent with `Content-Encoding`: authenticated, still
    /// compressed, a raw frame of a zstd segment wrapped in raw blocks.
    ///
    /// # Errors
    /// As [`decode_frame`](Self::decode_frame).
    pub fn encoded_frame(&self, frame: usize, stored: Bytes) -> Result<Bytes, FormatError> {
        let body = self.open_frame(frame, stored)?;
        match (body.codec, self.codec) {
            (Codec::Identity, Codec::Zstd) => Ok(zstd_store(&self.expect_len(frame, body.bytes)?).into()),
            (stored, named) if stored == named => Ok(body.bytes),
            _ => Err(FormatError::Frame { index: frame as u64 }),
        }
    }

    /// The length of all [`encoded_frame`](Self::encoded_frame)s together.
    pub fn encoded_len(&self) -> u64 {
        (0..self.index.count()).map(|frame| self.encoded_frame_len(frame)).sum()
    }

    fn encoded_frame_len(&self, frame: usize) -> u64 {
        let stored = span_len(self.index.stored(frame));
        if self.key.is_none() {
            return stored;
        }
        let (body, plain) = (stored.saturating_sub(FRAME_OVERHEAD as u64), self.plain_len(frame));
        // Only a raw body is as long as its plaintext: a compressed one is shorter, or gzip.
        if self.codec == Codec::Zstd && body == plain as u64 { zstd_stored_len(plain) as u64 } else { body }
    }

    fn open_frame(&self, frame: usize, stored: Bytes) -> Result<TypedBody, FormatError> {
        let index = frame as u64;
        let Some(key) = &self.key else {
            if self.index.checksum(frame) != Some(xxh3_64(&stored)) {
                return Err(FormatError::Checksum { index });
            }
            return Ok(TypedBody { codec: self.codec, bytes: stored });
        };
        let kind = if frame + 1 == self.index.count() { FrameKind::Final } else { FrameKind::Data };
        let opened = key.open_frame(index, kind, &stored)?;
        let expected = self.plain_len(frame) as u64;
        if u64::from(opened.plain_len) != expected {
            return Err(FormatError::FrameLength { index, got: opened.plain_len.into(), expected });
        }
        let codec = Codec::from_id(opened.codec)
            .filter(|codec| *codec == Codec::Identity || codec.family() == key.header().family)
            .ok_or(FormatError::Frame { index })?;
        Ok(TypedBody { codec, bytes: opened.body.into() })
    }

    fn expect_len(&self, frame: usize, plain: Bytes) -> Result<Bytes, FormatError> {
        let (got, expected) = (plain.len() as u64, self.plain_len(frame) as u64);
        if got == expected { Ok(plain) } else { Err(FormatError::FrameLength { index: frame as u64, got, expected }) }
    }

    fn plain_len(&self, frame: usize) -> usize {
        span_len(self.index.plain(frame)) as usize
    }
}

struct TypedBody {
    codec: Codec,
    bytes: Bytes,
}

fn span_len(span: Range<u64>) -> u64 {
    span.end.saturating_sub(span.start)
}

/// The trailer's fields: `u64` plaintext length, `u32` frame count, SHA-256, `u64` offsets.
fn read_trailer(
    trailer: &[u8],
    facts: &SegmentFacts<'_>,
    frames: u64,
) -> Result<(FrameIndex, Sha256Digest), FormatError> {
    let (plain_len, rest) = trailer.split_first_chunk::<8>().ok_or(FormatError::Trailer)?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or(FormatError::Trailer)?;
    let (sha256, table) = rest.split_first_chunk::<32>().ok_or(FormatError::Trailer)?;
    let (offsets, rest) = table.as_chunks::<8>();
    let count = u64::from(u32::from_be_bytes(*count));
    if u64::from_be_bytes(*plain_len) != facts.plain_len || !rest.is_empty() {
        return Err(FormatError::Trailer);
    }
    if count != frames || offsets.len() as u64 != frames {
        return Err(FormatError::FrameCount { got: count, expected: frames });
    }
    let tail_len = (trailer.len() + TAG_LEN + TRAILER_SUFFIX_LEN) as u64;
    let end = facts.stored_len.checked_sub(tail_len).ok_or(FormatError::Trailer)?;
    let offsets = offsets.iter().map(|offset| u64::from_be_bytes(*offset)).collect();
    let index = FrameIndex::at(u64::from(facts.frame_len), facts.plain_len, offsets, end);
    let index = index.map_err(|_| FormatError::Trailer)?;
    if index.stored(0).start != SEALED_HEAD_LEN as u64 || !has_possible_frames(&index, FRAME_OVERHEAD as u64) {
        return Err(FormatError::Trailer);
    }
    Ok((index, Sha256Digest(*sha256)))
}

/// Whether every frame is as long as a stored frame can be, so that no number asks for memory that
/// no frame needs.
fn has_possible_frames(index: &FrameIndex, overhead: u64) -> bool {
    (0..index.count()).all(|frame| {
        let longest = overhead + 2 * span_len(index.plain(frame)) + BODY_SLACK;
        (overhead..=longest).contains(&span_len(index.stored(frame)))
    })
}
