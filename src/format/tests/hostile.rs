//! What a database that lies, or a disk that rots, may hand to a reader.

use bytes::Bytes;
use proptest::prelude::*;

use super::made::sealed_frame;
use crate::format::FormatError;
use crate::format::compress::{compress, decompress};
use crate::format::index::{self, FrameEntry, FrameIndex};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, unwrap, wrap};
use crate::format::seal::{FRAME_OVERHEAD, FrameKind, SegmentHeader, SegmentKey};
use crate::format::segment::{Codec, SegmentDecoder, SegmentFacts};

fn header(codec: Codec, frame_log2: u8) -> SegmentHeader {
    SegmentHeader { family: codec.family(), frame_log2, segment_id: [7; 12], salt: [9; 32] }
}

fn key(codec: Codec, frame_log2: u8) -> SegmentKey {
    SegmentKey::derive(&Key::new([3; 32]), header(codec, frame_log2), "tenant")
}

fn refusal<T>(outcome: Result<T, FormatError>) -> FormatError {
    outcome.err().expect("it is refused")
}

#[test]
fn bytes_after_a_compressed_frame_are_refused() {
    let plain = b"one frame, and nothing else";
    for codec in [Codec::Zstd, Codec::Gzip] {
        let frame = compress(codec, 3, plain);
        assert_eq!(decompress(codec, &frame, plain.len()).as_deref(), Some(plain.as_slice()));
        for junk in [b"x".as_slice(), &compress(codec, 3, b""), &frame] {
            assert_eq!(decompress(codec, &[&frame, junk].concat(), plain.len()), None, "{codec:?}");
            assert_eq!(decompress(codec, &[&frame, junk].concat(), 2 * plain.len()), None, "{codec:?}");
        }
    }
    let skippable = [0x5E, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 0];
    let hidden = [compress(Codec::Zstd, 3, plain).as_slice(), &skippable].concat();
    assert_eq!(decompress(Codec::Zstd, &hidden, plain.len()), None);
}

#[test]
fn no_bytes_are_not_an_empty_frame() {
    for codec in [Codec::Zstd, Codec::Gzip] {
        assert_eq!(decompress(codec, &[], 0), None, "{codec:?}");
        assert_eq!(decompress(codec, &compress(codec, 3, b""), 0), Some(Vec::new()), "{codec:?}");
    }
}

#[test]
fn a_length_no_frame_can_have_is_refused_before_memory_is_asked_for() {
    for codec in Codec::ALL {
        for len in [usize::MAX, usize::MAX / 2, 1 << 40] {
            assert_eq!(decompress(codec, &compress(codec, 3, b"small"), len), None, "{codec:?}");
        }
    }
}

#[test]
fn a_frame_length_no_writer_makes_is_refused() {
    for frame_len in [0, u32::MAX, (16 << 20) + 1] {
        let record = index::encode(Codec::Identity, frame_len, &[FrameEntry { stored_len: 5, checksum: 0 }]);
        let commitment = index::commitment(&record);
        let facts = SegmentFacts {
            codec: Codec::Identity,
            frame_len,
            plain_len: 5,
            stored_len: 5,
            record: &record,
            commitment: &commitment,
        };
        assert_eq!(refusal(SegmentDecoder::open(facts, None)), FormatError::Index, "{frame_len}");
    }
}

#[test]
fn a_frame_logarithm_beyond_64_is_refused() {
    for frame_log2 in [32, 63, 64, 70, 200, 255] {
        let key = key(Codec::Zstd, frame_log2);
        let commitment = key.commitment();
        let facts = SegmentFacts {
            codec: Codec::Zstd,
            frame_len: 1 << (frame_log2 % 16),
            plain_len: 0,
            stored_len: 185,
            record: &[0; 68],
            commitment: &commitment,
        };
        assert_eq!(refusal(SegmentDecoder::open(facts, Some(key))), FormatError::Commitment, "{frame_log2}");
    }
}

#[test]
fn positions_near_the_end_of_the_number_line_do_not_overflow() {
    let entry = FrameEntry { stored_len: u32::MAX, checksum: 0 };
    let index = FrameIndex::new(1 << 63, u64::MAX, 0, &[entry, entry]).expect("two frames are needed");
    assert_eq!(index.plain(1), 1 << 63..u64::MAX);
    assert_eq!(FrameIndex::new(1, 1, u64::MAX, &[entry]), Err(FormatError::Index));
    assert_eq!(FrameIndex::at(1, 1, vec![u64::MAX], 5), Err(FormatError::Index));
}

#[test]
fn a_range_past_the_end_has_no_frames() {
    let index = FrameIndex::new(10, 15, 0, &[FrameEntry { stored_len: 1, checksum: 0 }; 2]).expect("two frames");
    for range in [15..16, 20..30, 1000..u64::MAX] {
        let frames = index.frames(&range);
        assert!(frames.is_empty() || range.start < 20, "{range:?}");
        assert!(index.stored_span(&frames).end <= 2, "{range:?}");
    }
}

#[test]
fn a_row_with_another_stored_length_is_refused() {
    for codec in Codec::ALL {
        let record = index::encode(codec, 64, &[FrameEntry { stored_len: 50, checksum: 0 }]);
        let commitment = index::commitment(&record);
        let tail_len = if codec == Codec::Zstd { 8 + 8 + 9 } else { 0 };
        let open = |stored_len| {
            let facts = SegmentFacts {
                codec,
                frame_len: 64,
                plain_len: 50,
                stored_len,
                record: &record,
                commitment: &commitment,
            };
            SegmentDecoder::open(facts, None).map(|decoder| decoder.index().count())
        };
        assert_eq!(open(50 + tail_len), Ok(1));
        for stored_len in [0, 49 + tail_len, 51 + tail_len, u64::MAX] {
            assert_eq!(open(stored_len), Err(FormatError::Index), "{codec:?} {stored_len}");
        }
    }
}

#[test]
fn a_row_of_another_codec_or_frame_length_than_its_record_is_refused() {
    for own in Codec::ALL {
        let record = index::encode(own, 64, &[FrameEntry { stored_len: 50, checksum: 0 }]);
        let commitment = index::commitment(&record);
        for (codec, frame_len) in Codec::ALL.into_iter().flat_map(|codec| [50, 64, 65].map(|len| (codec, len))) {
            // Every length fits: only the record tells.
            let stored_len = if codec == Codec::Zstd { 50 + 8 + 8 + 9 } else { 50 };
            let facts =
                SegmentFacts { codec, frame_len, plain_len: 50, stored_len, record: &record, commitment: &commitment };
            let opened = SegmentDecoder::open(facts, None).map(drop);
            let expected = if (codec, frame_len) == (own, 64) { Ok(()) } else { Err(FormatError::Index) };
            assert_eq!(opened, expected, "{own:?} as {codec:?}, {frame_len}");
        }
    }
}

/// A segment of one frame as whoever holds the key could make it, and its trailer.
fn forged(codec: Codec, frame: &[u8], offset: u64, count: u32) -> Result<SegmentDecoder, FormatError> {
    let key = key(codec, 6);
    let trailer = [5u64.to_be_bytes().as_slice(), &count.to_be_bytes(), &[0; 32], &offset.to_be_bytes()].concat();
    let (record, commitment) = (key.seal_trailer(&trailer, 1), key.commitment());
    let facts = SegmentFacts {
        codec,
        frame_len: 64,
        plain_len: 5,
        stored_len: 84 + (frame.len() + record.len() + 8) as u64,
        record: &record,
        commitment: &commitment,
    };
    SegmentDecoder::open(facts, Some(key))
}

#[test]
fn a_frame_of_another_family_is_refused() {
    for (codec, foreign) in [(Codec::Gzip, Codec::Zstd), (Codec::Zstd, Codec::Gzip), (Codec::Identity, Codec::Gzip)] {
        let body = compress(foreign, 3, b"hello");
        let frame = Bytes::from(sealed_frame(&key(codec, 6), 0, FrameKind::Final, foreign as u8, 5, &body));
        let decoder = forged(codec, &frame, 84, 1).expect("the trailer is right");
        assert_eq!(decoder.decode_frame(0, frame.clone()), Err(FormatError::Frame { index: 0 }), "{codec:?}");
        assert_eq!(decoder.encoded_frame(0, frame), Err(FormatError::Frame { index: 0 }), "{codec:?}");
    }
}

#[test]
fn a_raw_frame_is_never_sent_as_gzip() {
    let frame = Bytes::from(sealed_frame(&key(Codec::Gzip, 6), 0, FrameKind::Final, 0, 5, b"hello"));
    let decoder = forged(Codec::Gzip, &frame, 84, 1).expect("the trailer is right");
    assert_eq!(decoder.decode_frame(0, frame.clone()), Ok(Bytes::from_static(b"hello")));
    assert_eq!(decoder.encoded_frame(0, frame), Err(FormatError::Frame { index: 0 }));
}

#[test]
fn a_trailer_that_places_frames_where_none_can_lie_is_refused() {
    let frame = [0; FRAME_OVERHEAD + 5];
    for offset in [0, 83, 85, 84 + frame.len() as u64, u64::MAX] {
        assert_eq!(forged(Codec::Identity, &frame, offset, 1).err(), Some(FormatError::Trailer), "{offset}");
    }
    assert_eq!(forged(Codec::Identity, &frame[..24], 84, 1).err(), Some(FormatError::Trailer));
    let wrong_count = Some(FormatError::FrameCount { got: 2, expected: 1 });
    assert_eq!(forged(Codec::Identity, &frame, 84, 2).err(), wrong_count);
}

#[test]
fn a_damaged_wrapped_key_is_told_apart_from_a_wrong_key() {
    let (kek, binding) = (Key::new([1; 32]), WrapBinding { tenant: "t", id: &[2; 12] });
    let good = wrap(&Key::new([3; 32]), &kek, WrapMode::Customer, "", [4; 32], binding);
    let mut damaged = good.clone();
    damaged.ct[47] ^= 1;
    assert_eq!(unwrap(&damaged, &kek, binding).err(), Some(FormatError::WrapRecord));
    for len in [0, 15, 16, 47] {
        let short = crate::format::key_wrap::WrappedKey { ct: good.ct[..len].to_vec(), ..good.clone() };
        assert_eq!(unwrap(&short, &kek, binding).err(), Some(FormatError::WrapRecord), "{len}");
    }
    assert_eq!(unwrap(&good, &Key::new([5; 32]), binding).err(), Some(FormatError::WrongKey));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..300), len in 0..400usize, frame in any::<u64>()) {
        for codec in Codec::ALL {
            prop_assert!(decompress(codec, &bytes, len).is_none_or(|plain| plain.len() == len));
        }
        prop_assert!(index::decode(&bytes).is_err() || bytes.starts_with(b"GGI1"));
        let _ = crate::format::seek_table::decode(&bytes);
        let key = key(Codec::Zstd, 16);
        prop_assert_eq!(key.open_frame(frame, FrameKind::Data, &bytes), Err(FormatError::Frame { index: frame }));
        prop_assert_eq!(key.open_trailer(&bytes, frame), Err(FormatError::Trailer));
        let root = Key::new([1; 32]);
        prop_assert!(crate::format::digest::open_digest(&bytes, &root, &[2; 12]).is_err());
    }

    #[test]
    fn nearly_right_bytes_never_panic_a_decoder(plain in proptest::collection::vec(any::<u8>(), 0..300), at in any::<usize>(), to in any::<u8>(), len in 0..400usize) {
        for codec in [Codec::Zstd, Codec::Gzip] {
            let mut stored = compress(codec, 3, &plain);
            let at = at % stored.len();
            stored[at] = to;
            prop_assert!(decompress(codec, &stored, len).is_none_or(|plain| plain.len() == len));
            prop_assert_eq!(decompress(codec, &stored[..at], plain.len()), None);
        }
    }

    #[test]
    fn arbitrary_rows_never_panic_an_open(
        codec in proptest::sample::select(&Codec::ALL[..]),
        frame_len in any::<u32>(),
        frame_log2 in any::<u8>(),
        plain_len in any::<u64>(),
        stored_len in any::<u64>(),
        entries in proptest::collection::vec((any::<u32>(), any::<u64>()), 0..5),
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(stored_len, checksum)| FrameEntry { stored_len, checksum }).collect();
        let record = index::encode(codec, frame_len, &entries);
        let commitment = index::commitment(&record);
        let facts = SegmentFacts { codec, frame_len, plain_len, stored_len, record: &record, commitment: &commitment };
        if let Ok(decoder) = SegmentDecoder::open(facts, None) {
            let _ = (decoder.encoded_len(), decoder.index().plain(entries.len() - 1));
        }
        let key = key(codec, frame_log2);
        let commitment = key.commitment();
        let sealed = SegmentFacts { commitment: &commitment, ..facts };
        prop_assert!(SegmentDecoder::open(sealed, Some(key)).is_err());
    }
}
