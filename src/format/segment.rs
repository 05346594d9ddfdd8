//! A segment: how frames, and what indexes them, form the stored bytes of one GridFS file.
//!
//! [`SegmentEncoder`] makes them, [`SegmentDecoder`] reads them; both work a frame at a time and
//! hold no frame. Where the bytes go to and come from is the callers' business.

use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::FormatError;
use super::compress::{compress, decompress, zstd_store, zstd_stored_len};
use super::digest::Sha256Digest;
use super::index::{self, FrameEntry, FrameIndex, frame_count};
use super::seal::{
    COMMITMENT_LEN, FRAME_OVERHEAD, FrameKind, HEADER_LEN, SegmentKey, TAG_LEN, TRAILER_MAGIC, TRAILER_SUFFIX_LEN,
};
use super::seek_table::{self, SeekEntry};

/// The version of the stored format; every row that describes stored bytes carries it.
pub const FORMAT_VERSION: i32 = 1;

/// How a segment's frames are compressed. The numbers are frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all: stored bytes are the file.
    Identity = 0,
    /// Independent zstd frames.
    Zstd = 1,
    /// Independent gzip members.
    Gzip = 2,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 3] = [Self::Identity, Self::Zstd, Self::Gzip];

    /// The name in documents, settings and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The codec family a sealed segment's header names.
    pub const fn family(self) -> u8 {
        match self {
            Self::Identity | Self::Zstd => 1,
            Self::Gzip => 2,
        }
    }
}

impl TryFrom<&str> for Codec {
    type Error = FormatError;

    fn try_from(name: &str) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or(FormatError::Index)
    }
}

/// How plaintext becomes frames.
///
/// # Units
/// `frame_len` in plaintext bytes; a power of two where frames are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The codec.
    pub codec: Codec,
    /// The codec's level.
    pub level: i32,
    /// Plaintext bytes of every frame but the last.
    pub frame_len: u32,
}

/// Whether a frame is the last of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Another frame follows.
    Inner,
    /// The last frame.
    Last,
}

/// One frame ready to be stored.
#[derive(Debug, Clone)]
pub struct StoredFrame {
    /// The stored bytes, in order.
    pub pieces: Vec<Bytes>,
    /// Its line in the index.
    pub entry: FrameEntry,
}

/// What ends a segment and describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Stored after the last frame: the sealed trailer, the seek table or nothing.
    pub tail: Vec<u8>,
    /// Kept beside the segment: the sealed trailer or the frame index.
    pub record: Vec<u8>,
    /// What the manifest commits to.
    pub commitment: [u8; 32],
}

/// A frame that compression shrinks by less than this many percent is stored raw.
const WORTHWHILE_PERCENT: usize = 3;

/// Whether compression of so many bytes to so few is worth its decoding.
pub fn is_worthwhile(plain_len: usize, compressed_len: usize) -> bool {
    compressed_len * 100 <= plain_len * (100 - WORTHWHILE_PERCENT)
}

/// Encodes the frames of one segment; frames may be encoded in parallel and stored in order.
pub struct SegmentEncoder {
    layout: Layout,
    key: Option<SegmentKey>,
}

impl SegmentEncoder {
    /// An encoder; sealed if there is a key.
    pub fn new(layout: Layout, key: Option<SegmentKey>) -> Self {
        Self { layout, key }
    }

    /// How plaintext becomes frames.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Stored before the first frame: header and key commitment, or nothing.
    pub fn head(&self) -> Vec<u8> {
        self.key.as_ref().map_or_else(Vec::new, |key| [key.header().encode().as_slice(), &key.commitment()].concat())
    }

    /// Encodes the frame at `index`, given as pieces of plaintext.
    pub fn encode_frame(&self, index: u64, position: Position, plain: Vec<Bytes>) -> StoredFrame {
        let plain_len: usize = plain.iter().map(Bytes::len).sum();
        let compressed = self.compress(&plain, plain_len);
        let Some(key) = &self.key else {
            return unsealed_frame(compressed.unwrap_or(Body { codec: 0, pieces: plain }).pieces);
        };
        let kind = if position == Position::Last { FrameKind::Final } else { FrameKind::Data };
        let body = compressed.unwrap_or(Body { codec: 0, pieces: plain });
        let frame = key.seal_frame(index, kind, body.codec, narrow(plain_len), &body.pieces);
        StoredFrame {
            entry: FrameEntry { stored_len: narrow(frame.len()), checksum: 0 },
            pieces: vec![Bytes::from(frame)],
        }
    }

    /// The compressed body, or none where the frame is to be stored raw.
    fn compress(&self, plain: &[Bytes], plain_len: usize) -> Option<Body> {
        let Layout { codec, level, .. } = self.layout;
        if codec == Codec::Identity {
            return None;
        }
        let plain = gather(plain, plain_len);
        let compressed = compress(codec, level, &plain);
        let worthwhile = is_worthwhile(plain_len, compressed.len());
        let pieces = match (codec, &self.key) {
            _ if worthwhile => compressed,
            (Codec::Gzip, _) => compressed,
            (_, Some(_)) => return None,
            (_, None) => zstd_store(&plain),
        };
        Some(Body { codec: codec as u8, pieces: vec![pieces.into()] })
    }

    /// Ends the segment.
    ///
    /// `entries` are those of the encoded frames in order; `sha256` is that of the plaintext.
    pub fn finish(&self, entries: &[FrameEntry], plain_len: u64, sha256: Sha256Digest) -> SegmentEnd {
        let Some(key) = &self.key else {
            let record = index::encode(entries);
            let tail = if self.layout.codec == Codec::Zstd { self.seek_table(entries, plain_len) } else { Vec::new() };
            return SegmentEnd { tail, commitment: index::commitment(&record), record };
        };
        let mut trailer = Vec::with_capacity(44 + entries.len() * 8);
        trailer.extend_from_slice(&plain_len.to_be_bytes());
        trailer.extend_from_slice(&narrow(entries.len()).to_be_bytes());
        trailer.extend_from_slice(&sha256.0);
        let mut offset = (HEADER_LEN + COMMITMENT_LEN) as u64;
        for entry in entries {
            trailer.extend_from_slice(&offset.to_be_bytes());
            offset += u64::from(entry.stored_len);
        }
        let record = key.seal_trailer(&trailer, entries.len() as u64);
        let tail = [&record, narrow(record.len()).to_be_bytes().as_slice(), TRAILER_MAGIC].concat();
        SegmentEnd { tail, record, commitment: key.commitment() }
    }

    fn seek_table(&self, entries: &[FrameEntry], plain_len: u64) -> Vec<u8> {
        let frame_len = u64::from(self.layout.frame_len);
        let plain = |i: usize| (plain_len - i as u64 * frame_len).min(frame_len);
        let entries: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(i, entry)| SeekEntry { stored_len: entry.stored_len, plain_len: narrow(plain(i) as usize) })
            .collect();
        seek_table::encode(&entries)
    }
}

struct Body {
    codec: u8,
    pieces: Vec<Bytes>,
}

fn unsealed_frame(pieces: Vec<Bytes>) -> StoredFrame {
    let mut checksum = Xxh3::new();
    pieces.iter().for_each(|piece| checksum.update(piece));
    let stored_len = narrow(pieces.iter().map(Bytes::len).sum());
    StoredFrame { pieces, entry: FrameEntry { stored_len, checksum: checksum.digest() } }
}

fn gather(pieces: &[Bytes], len: usize) -> Bytes {
    if let [piece] = pieces {
        return piece.clone();
    }
    let mut whole = Vec::with_capacity(len);
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.into()
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("a frame, a trailer and a frame count fit 32 bits")
}

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
}

impl SegmentDecoder {
    /// Opens a segment: verifies its record before any frame is asked for.
    ///
    /// # Errors
    /// [`FormatError::Commitment`], [`FormatError::Trailer`], [`FormatError::Index`] or
    /// [`FormatError::FrameCount`] when the row is not the one the writer made.
    pub fn open(facts: SegmentFacts<'_>, key: Option<SegmentKey>) -> Result<Self, FormatError> {
        let frame_len = u64::from(facts.frame_len);
        if frame_len == 0 {
            return Err(FormatError::Index);
        }
        let Some(key) = key else {
            if index::commitment(facts.record) != facts.commitment {
                return Err(FormatError::Commitment);
            }
            let entries = index::decode(facts.record)?;
            let index = FrameIndex::new(frame_len, facts.plain_len, 0, &entries)?;
            if index.stored_span(&(0..index.count())).end > facts.stored_len {
                return Err(FormatError::Index);
            }
            return Ok(Self { codec: facts.codec, key: None, index, sha256: None });
        };
        if !key.is_committed_by(facts.commitment) || 1 << key.header().frame_log2 != frame_len {
            return Err(FormatError::Commitment);
        }
        let frames = frame_count(facts.plain_len, frame_len);
        let trailer = key.open_trailer(facts.record, frames)?;
        let (index, sha256) = read_trailer(&trailer, &facts, frames)?;
        Ok(Self { codec: facts.codec, key: Some(key), index, sha256: Some(sha256) })
    }

    /// Where the frames lie.
    pub fn index(&self) -> &FrameIndex {
        &self.index
    }

    /// The SHA-256 of the segment's plaintext, where a sealed trailer holds it.
    pub fn sha256(&self) -> Option<Sha256Digest> {
        self.sha256
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
        if body.codec == Codec::Identity && self.codec == Codec::Zstd {
            return Ok(zstd_store(&self.expect_len(frame, body.bytes)?).into());
        }
        Ok(body.bytes)
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
        let codec = match opened.codec {
            0 => Codec::Identity,
            1 => Codec::Zstd,
            2 => Codec::Gzip,
            _ => return Err(FormatError::Frame { index }),
        };
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
    let index = FrameIndex::at(u64::from(facts.frame_len), facts.plain_len, offsets, end)?;
    Ok((index, Sha256Digest(*sha256)))
}

#[cfg(test)]
mod tests;
