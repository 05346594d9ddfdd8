//! Round trips of anything, and refusal of every change to a sealed segment.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use proptest::prelude::*;

use super::made::{Made, Sealing};
use crate::format::segment::Codec;

/// Plaintext that compression shrinks, and plaintext it does not.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..2000);
    let text = proptest::collection::vec(proptest::sample::select(&b"ab "[..]), 0..2000);
    prop_oneof![noise, text]
}

fn codec() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&Codec::ALL[..])
}

/// What `zstd -d` and `gzip -d` do: all frames, stepping over skippable ones.
fn stock_decode(codec: Codec, stored: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match codec {
        Codec::Identity => plain.extend_from_slice(stored),
        Codec::Zstd => zstd::stream::copy_decode(stored, &mut plain).expect("zstd reads it"),
        Codec::Gzip => {
            MultiGzDecoder::new(stored).read_to_end(&mut plain).expect("gzip reads it");
        }
    }
    plain
}

proptest! {
    #[test]
    fn any_segment_comes_back_frame_by_frame_in_any_order(
        plain in plain(),
        codec in codec(),
        frame_log2 in 5..12_u32,
        odd_len in 30..700_u32,
        is_sealed in any::<bool>(),
        from in any::<proptest::sample::Index>(),
    ) {
        let frame_len = if is_sealed { 1 << frame_log2 } else { odd_len };
        let made = Made::new(codec, is_sealed.then(Sealing::fixed), frame_len, &plain);
        let stored = made.stored();
        let whole = made.row.read_all(&stored);
        prop_assert_eq!(whole.as_ref(), Ok(&plain));

        let decoder = made.row.open().expect("the row is whole");
        let count = decoder.index().count();
        let mut encoded = vec![Bytes::new(); count];
        for step in 0..count {
            // From somewhere, backwards, around.
            let frame = (from.index(count) + count - step) % count;
            let (held, span) = (decoder.index().stored(frame), decoder.index().plain(frame));
            let bytes = Bytes::copy_from_slice(&stored[held.start as usize..held.end as usize]);
            let back = decoder.decode_frame(frame, bytes.clone()).expect("the frame is whole");
            prop_assert_eq!(&back[..], &plain[span.start as usize..span.end as usize]);
            encoded[frame] = decoder.encoded_frame(frame, bytes).expect("the frame is whole");
        }
        prop_assert_eq!(encoded.concat().len() as u64, decoder.encoded_len());
        prop_assert_eq!(&stock_decode(codec, &encoded.concat()), &plain);
        if !is_sealed {
            prop_assert_eq!(&stock_decode(codec, &stored), &plain);
        }
    }

    #[test]
    fn any_change_of_a_byte_of_a_sealed_segment_is_refused(
        plain in plain(),
        codec in codec(),
        frame_log2 in 5..12_u32,
        at in any::<proptest::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let made = Made::new(codec, Some(Sealing::fixed()), 1 << frame_log2, &plain);
        let mut stored = made.stored();
        let at = at.index(stored.len());
        stored[at] ^= change;
        prop_assert!(made.row.read_all(&stored).is_err(), "a change of byte {} was not seen", at);
    }

    #[test]
    fn any_change_of_a_byte_of_a_row_is_refused(
        plain in plain(),
        codec in codec(),
        is_sealed in any::<bool>(),
        at in any::<proptest::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let made = Made::new(codec, is_sealed.then(Sealing::fixed), 64, &plain);
        let mut row = made.row.clone();
        let at_record = at.index(row.record.len());
        row.record[at_record] ^= change;
        prop_assert!(row.open().is_err());
        let mut row = made.row.clone();
        let at_commitment = at.index(row.commitment.len());
        row.commitment[at_commitment] ^= change;
        prop_assert!(row.open().is_err());
    }
}

#[test]
fn every_change_of_a_bit_every_truncation_and_every_extension_is_refused() {
    for codec in Codec::ALL {
        let plain: Vec<u8> = b"abcabcab".iter().copied().cycle().take(150).chain(0..75).collect();
        let made = Made::new(codec, Some(Sealing::fixed()), 64, &plain);
        let stored = made.stored();
        for at in 0..stored.len() {
            for bit in 0..8 {
                let mut changed = stored.clone();
                changed[at] ^= 1 << bit;
                assert!(made.row.read_all(&changed).is_err(), "{codec:?}: bit {bit} of byte {at}");
            }
            assert!(made.row.read_all(&stored[..at]).is_err(), "{codec:?}: cut at {at}");
        }
        for more in [vec![0], made.tail.clone(), stored.clone()] {
            let longer = [stored.clone(), more].concat();
            assert!(made.row.read_all(&longer).is_err());
            let mut row = made.row.clone();
            row.stored_len = longer.len() as u64;
            assert!(row.read_all(&longer).is_err());
        }
    }
}

#[test]
fn frames_of_another_segment_version_of_the_key_or_place_are_refused() {
    let plain = [5; 130];
    let ours = Made::new(Codec::Identity, Some(Sealing::fixed()), 64, &plain);
    let others = [
        Sealing { salt: [8; 32], ..Sealing::fixed() },
        Sealing { tenant: "tenant-b".to_owned(), ..Sealing::fixed() },
        Sealing { segment_id: [1; 12], ..Sealing::fixed() },
        Sealing { data_key: [1; 32], ..Sealing::fixed() },
    ];
    for other in others {
        let other = Made::new(Codec::Identity, Some(other), 64, &plain);
        for frame in 0..3 {
            let mut spliced = ours.clone();
            spliced.frames[frame].clone_from(&other.frames[frame]);
            assert!(spliced.row.read_all(&spliced.stored()).is_err());
        }
    }
}
