//! Segments made and read again, frame by frame, and rows that lie.

use bytes::Bytes;

use super::*;
use crate::format::key::Key;
use crate::format::seal::SegmentHeader;

fn key(layout: Layout) -> SegmentKey {
    let header = SegmentHeader {
        family: layout.codec.family(),
        frame_log2: layout.frame_len.trailing_zeros() as u8,
        segment_id: [7; 12],
        salt: [9; 32],
    };
    SegmentKey::derive(&Key::new([3; 32]), header, "tenant")
}

/// Encodes, and decodes every frame again.
fn round_trip(layout: Layout, is_sealed: bool, plain: &[u8]) {
    let key_of = || is_sealed.then(|| key(layout));
    let encoder = SegmentEncoder::new(layout, key_of());
    let mut frames: Vec<&[u8]> = plain.chunks(layout.frame_len as usize).collect();
    if frames.is_empty() {
        frames.push(&[]);
    }
    let last = frames.len() - 1;
    let mut spare = FrameBuf::with_capacity(0);
    let stored: Vec<_> = frames
        .iter()
        .enumerate()
        .map(|(i, frame)| {
            let position = if i == last { Position::Last } else { Position::Inner };
            encoder.encode_frame(i as u64, position, FrameBuf::from(*frame), &mut spare)
        })
        .collect();
    let entries: Vec<_> = stored.iter().map(|frame| frame.entry).collect();
    let end = encoder.finish(&entries, plain.len() as u64, Sha256Digest::of(plain));
    let body: Vec<u8> = stored.iter().flat_map(|frame| frame.bytes.to_vec()).collect();
    let whole = [encoder.head(), body, end.tail].concat();
    let facts = SegmentFacts {
        codec: layout.codec,
        frame_len: layout.frame_len,
        plain_len: plain.len() as u64,
        stored_len: whole.len() as u64,
        record: &end.record,
        commitment: &end.commitment,
    };
    let decoder = SegmentDecoder::open(facts, key_of()).expect("the record is the writer's");
    let frame = |i| {
        let span = decoder.index().stored(i);
        Bytes::copy_from_slice(&whole[span.start as usize..span.end as usize])
    };
    let back: Vec<u8> = (0..decoder.index().count())
        .flat_map(|i| decoder.decode_frame(i, frame(i)).expect("the frame is whole"))
        .collect();
    assert_eq!(back, plain);
    let encoded: u64 = (0..decoder.index().count())
        .map(|i| decoder.encoded_frame(i, frame(i)).expect("the frame is whole").len() as u64)
        .sum();
    assert_eq!(encoded, decoder.encoded_len());
}

#[test]
fn every_codec_plain_and_sealed_gives_back_what_it_took_around_every_frame_border() {
    for codec in Codec::ALL {
        for is_sealed in [false, true] {
            for len in [0, 1, 63, 64, 65, 127, 128, 129, 1000] {
                let text: Vec<u8> = (0..len).map(|i| b"abcabcab"[i % 8]).collect();
                let noise: Vec<u8> = (0..len).map(|i| (i * i * 31 + i * 7) as u8).collect();
                for plain in [text, noise] {
                    round_trip(Layout { codec, level: 3, frame_len: 64 }, is_sealed, &plain);
                }
            }
        }
    }
}

#[test]
fn three_per_cent_saved_is_worth_it_and_less_is_not() {
    assert!(is_worthwhile(100, 97) && !is_worthwhile(100, 98));
    assert!(is_worthwhile(1000, 970) && !is_worthwhile(1000, 971));
    assert!(!is_worthwhile(0, 1) && !is_worthwhile(1, 1));
}
