//! A segment: how frames, and what indexes them, form the stored bytes of one GridFS file.
//!
//! [`SegmentEncoder`] makes them, [`SegmentDecoder`] reads them; both work a frame at a time and
//! hold no frame. Where the bytes go to and come from is the callers' business.

mod decoder;

use xxhash_rust::xxh3::xxh3_64;

use super::FormatError;
use super::compress::{append_compressed, append_zstd_stored};
use super::digest::Sha256Digest;
use super::frame::FrameBuf;
use super::index::{self, FrameEntry};
use super::seal::{COMMITMENT_LEN, FrameKind, HEADER_LEN, SegmentKey, TRAILER_MAGIC};
use super::seek_table::{self, SeekEntry};
#[cfg(test)]
pub(super) use decoder::BODY_SLACK;
pub use decoder::{SegmentDecoder, SegmentFacts};

/// The version of the stored format; every row that describes stored bytes carries it.
pub const FORMAT_VERSION: i32 = 1;
/// The longest frame a reader takes: what a row says decides how much memory a frame may need.
///
/// # Units
/// Plaintext bytes.
pub const MAX_FRAME_LEN: u32 = 16 << 20;
/// Where the first frame of a sealed segment lies.
pub(super) const SEALED_HEAD_LEN: usize = HEADER_LEN + COMMITMENT_LEN;
/// The sealed trailer's fields before its offsets.
pub(super) const TRAILER_FIELDS_LEN: usize = 44;
/// One offset in the sealed trailer.
pub(super) const TRAILER_OFFSET_LEN: usize = 8;

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

    /// The codec of a stored number.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| *codec as u8 == id)
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
    /// The stored bytes.
    pub bytes: FrameBuf,
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
pub(super) const WORTHWHILE_PERCENT: usize = 3;

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
    ///
    /// # Panics
    /// When the frame length is not one a reader takes, or not the one the key's header names.
    pub fn new(layout: Layout, key: Option<SegmentKey>) -> Self {
        assert!((1..=MAX_FRAME_LEN).contains(&layout.frame_len), "no reader takes frames of this length");
        if let Some(key) = &key {
            let named = 1_u32.checked_shl(key.header().frame_log2.into());
            assert_eq!(named, Some(layout.frame_len), "the header names another frame length");
        }
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

    /// Encodes the frame at `index`, given as plaintext; where it is compressed, into `spare`'s memory, for
    /// which `spare` gets that of the plaintext.
    pub fn encode_frame(&self, index: u64, position: Position, plain: FrameBuf, spare: &mut FrameBuf) -> StoredFrame {
        let plain_len = narrow(plain.len());
        let mut bytes = plain;
        let codec = self.compress(&mut bytes, spare);
        let checksum = match &self.key {
            None => xxh3_64(&bytes),
            Some(key) => {
                let kind = if position == Position::Last { FrameKind::Final } else { FrameKind::Data };
                key.seal_frame(index, kind, codec as u8, plain_len, &mut bytes);
                0
            }
        };
        StoredFrame { entry: FrameEntry { stored_len: narrow(bytes.len()), checksum }, bytes }
    }

    /// Compresses the frame, or leaves it where it is to be stored raw; gives its codec.
    fn compress(&self, frame: &mut FrameBuf, spare: &mut FrameBuf) -> Codec {
        let Layout { codec, level, .. } = self.layout;
        if codec == Codec::Identity {
            return codec;
        }
        spare.clear();
        append_compressed(codec, level, frame, spare.memory_mut());
        if codec == Codec::Zstd && !is_worthwhile(frame.len(), spare.len()) {
            if self.key.is_some() {
                return Codec::Identity;
            }
            spare.clear();
            append_zstd_stored(frame, spare.memory_mut());
        }
        std::mem::swap(frame, spare);
        codec
    }

    /// Ends the segment.
    ///
    /// `entries` are those of the encoded frames in order; `sha256` is that of the plaintext.
    pub fn finish(&self, entries: &[FrameEntry], plain_len: u64, sha256: Sha256Digest) -> SegmentEnd {
        let Some(key) = &self.key else {
            let Layout { codec, frame_len, .. } = self.layout;
            let record = index::encode(codec, frame_len, entries);
            let tail = if codec == Codec::Zstd { self.seek_table(entries, plain_len) } else { Vec::new() };
            return SegmentEnd { tail, commitment: index::commitment(&record), record };
        };
        let mut trailer = Vec::with_capacity(TRAILER_FIELDS_LEN + entries.len() * TRAILER_OFFSET_LEN);
        trailer.extend_from_slice(&plain_len.to_be_bytes());
        trailer.extend_from_slice(&narrow(entries.len()).to_be_bytes());
        trailer.extend_from_slice(&sha256.0);
        let mut offset = SEALED_HEAD_LEN as u64;
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

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("a frame, a trailer and a frame count fit 32 bits")
}

#[cfg(test)]
mod tests;
