//! Where each frame of a segment lies: arithmetic between plaintext offsets and stored offsets.
//!
//! Holds and checks numbers only; it neither reads frames nor knows chunks.

use std::ops::Range;

use super::FormatError;
use super::digest::Sha256Digest;
use super::segment::Codec;

/// Magic of the index record of an unsealed segment.
pub(super) const MAGIC: &[u8; 4] = b"GGI1";
/// Magic, codec and `u32` frame length.
pub(super) const HEAD_LEN: usize = 9;
/// `u32` stored length and `u64` checksum.
pub(super) const ENTRY_LEN: usize = 12;

/// One frame as it was stored.
///
/// # Units
/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Stored bytes of the frame.
    pub stored_len: u32,
    /// XXH3-64 of the stored frame; 0 for a sealed frame, whose tag says more.
    pub checksum: u64,
}

/// The frames of one segment.
///
/// All frames but the last hold exactly `frame_len` plaintext bytes, so the frame of an offset is
/// arithmetic; an empty segment has one empty frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameIndex {
    frame_len: u64,
    plain_len: u64,
    /// The start of each frame and the end of the last, in stored bytes.
    offsets: Vec<u64>,
    checksums: Vec<u64>,
}

/// The number of frames that so many plaintext bytes need.
pub fn frame_count(plain_len: u64, frame_len: u64) -> u64 {
    plain_len.div_ceil(frame_len).max(1)
}

impl FrameIndex {
    /// An index over frames that begin at `start` and follow each other.
    ///
    /// # Errors
    /// [`FormatError::FrameCount`] when the frames are not as many as the length needs;
    /// [`FormatError::Index`] when they reach past what can be numbered.
    pub fn new(frame_len: u64, plain_len: u64, start: u64, entries: &[FrameEntry]) -> Result<Self, FormatError> {
        let mut offsets = Vec::with_capacity(entries.len() + 1);
        let mut end = start;
        offsets.push(end);
        for entry in entries {
            end = end.checked_add(entry.stored_len.into()).ok_or(FormatError::Index)?;
            offsets.push(end);
        }
        let checksums = entries.iter().map(|entry| entry.checksum).collect();
        Self { frame_len, plain_len, offsets, checksums }.checked()
    }

    /// An index over frames at known offsets, the last ending at `end`.
    ///
    /// # Errors
    /// [`FormatError::FrameCount`] as in [`new`](Self::new); [`FormatError::Index`] when the
    /// offsets do not rise.
    pub fn at(frame_len: u64, plain_len: u64, mut offsets: Vec<u64>, end: u64) -> Result<Self, FormatError> {
        offsets.push(end);
        Self { frame_len, plain_len, offsets, checksums: Vec::new() }.checked()
    }

    fn checked(self) -> Result<Self, FormatError> {
        if self.frame_len == 0 || !self.offsets.is_sorted() {
            return Err(FormatError::Index);
        }
        let (got, expected) = (self.count() as u64, frame_count(self.plain_len, self.frame_len));
        if got == expected { Ok(self) } else { Err(FormatError::FrameCount { got, expected }) }
    }

    /// The number of frames, at least 1.
    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Plaintext bytes of every frame but the last.
    pub fn frame_len(&self) -> u64 {
        self.frame_len
    }

    /// The frames that hold a plaintext range; none for an empty range.
    pub fn frames(&self, plain: &Range<u64>) -> Range<usize> {
        if plain.is_empty() {
            return 0..0;
        }
        let frame = |offset: u64| usize::try_from(offset / self.frame_len).unwrap_or(usize::MAX);
        frame(plain.start).min(self.count())..frame(plain.end - 1).saturating_add(1).min(self.count())
    }

    /// The stored bytes of a frame.
    pub fn stored(&self, frame: usize) -> Range<u64> {
        self.offsets[frame]..self.offsets[frame + 1]
    }

    /// The stored bytes of neighbouring frames.
    pub fn stored_span(&self, frames: &Range<usize>) -> Range<u64> {
        self.offsets[frames.start]..self.offsets[frames.end]
    }

    /// The plaintext bytes of a frame.
    pub fn plain(&self, frame: usize) -> Range<u64> {
        let start = frame as u64 * self.frame_len;
        start..start.saturating_add(self.frame_len).min(self.plain_len)
    }

    /// The checksum of a stored frame, where the segment has checksums.
    pub fn checksum(&self, frame: usize) -> Option<u64> {
        self.checksums.get(frame).copied()
    }
}

/// What an index record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRecord {
    /// The codec of every frame.
    pub codec: Codec,
    /// Plaintext bytes of every frame but the last.
    pub frame_len: u32,
    /// The frames in order.
    pub entries: Vec<FrameEntry>,
}

/// Encodes the index record of an unsealed segment.
pub fn encode(codec: Codec, frame_len: u32, entries: &[FrameEntry]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD_LEN + entries.len() * ENTRY_LEN);
    record.extend_from_slice(MAGIC);
    record.push(codec as u8);
    record.extend_from_slice(&frame_len.to_be_bytes());
    for entry in entries {
        record.extend_from_slice(&entry.stored_len.to_be_bytes());
        record.extend_from_slice(&entry.checksum.to_be_bytes());
    }
    record
}

/// Decodes an index record.
///
/// # Errors
/// [`FormatError::Index`] for anything [`encode`] does not make.
pub fn decode(record: &[u8]) -> Result<IndexRecord, FormatError> {
    let (head, entries) = record.split_first_chunk::<HEAD_LEN>().ok_or(FormatError::Index)?;
    let [magic @ .., codec, l0, l1, l2, l3] = head;
    let codec = Codec::from_id(*codec).filter(|_| magic == MAGIC).ok_or(FormatError::Index)?;
    let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() {
        return Err(FormatError::Index);
    }
    let entry = |&[a, b, c, d, e, f, g, h, i, j, k, l]: &[u8; ENTRY_LEN]| FrameEntry {
        stored_len: u32::from_be_bytes([a, b, c, d]),
        checksum: u64::from_be_bytes([e, f, g, h, i, j, k, l]),
    };
    let frame_len = u32::from_be_bytes([*l0, *l1, *l2, *l3]);
    Ok(IndexRecord { codec, frame_len, entries: entries.iter().map(entry).collect() })
}

/// The commitment of an unsealed segment: SHA-256 of its index record, so that the manifest binds
/// codec, frame length, and every frame's length and checksum.
pub fn commitment(record: &[u8]) -> [u8; 32] {
    Sha256Digest::of(record).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_plain_offset_lies_in_the_frame_that_claims_it(plain_len in 1..5000u64, frame_len in 1..300u64, at in any::<u64>()) {
            let count = frame_count(plain_len, frame_len);
            let entries: Vec<_> = (0..count).map(|i| FrameEntry { stored_len: i as u32 + 1, checksum: i }).collect();
            let index = FrameIndex::new(frame_len, plain_len, 7, &entries).expect("the count is right");
            let at = at % plain_len;
            let frames = index.frames(&(at..at + 1));
            prop_assert_eq!(frames.len(), 1);
            prop_assert!(index.plain(frames.start).contains(&at));
            prop_assert_eq!(index.frames(&(0..plain_len)), 0..index.count());
        }

        #[test]
        fn a_record_gives_back_what_it_took(
            codec in proptest::sample::select(&Codec::ALL[..]),
            frame_len in any::<u32>(),
            entries in proptest::collection::vec((any::<u32>(), any::<u64>()), 0..5),
            cut in any::<proptest::sample::Index>(),
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(stored_len, checksum)| FrameEntry { stored_len, checksum }).collect();
            let record = encode(codec, frame_len, &entries);
            let cut = cut.index(record.len());
            let is_whole = cut >= HEAD_LEN && (cut - HEAD_LEN).is_multiple_of(ENTRY_LEN);
            prop_assert_eq!(decode(&record[..cut]).is_ok(), is_whole, "cut at {}", cut);
            prop_assert_eq!(decode(&record), Ok(IndexRecord { codec, frame_len, entries }));
        }
    }

    #[test]
    fn a_wrong_number_of_frames_is_refused() {
        let entry = FrameEntry { stored_len: 10, checksum: 0 };
        assert_eq!(FrameIndex::new(10, 21, 0, &[entry, entry]), Err(FormatError::FrameCount { got: 2, expected: 3 }));
        assert_eq!(FrameIndex::at(10, 20, vec![9, 3], 20), Err(FormatError::Index));
    }

    #[test]
    fn a_record_of_an_unknown_codec_is_refused() {
        let mut record = encode(Codec::Gzip, 64, &[]);
        record[4] = 3;
        assert_eq!(decode(&record), Err(FormatError::Index));
    }
}
