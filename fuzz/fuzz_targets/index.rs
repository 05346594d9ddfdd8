//! The index record of a segment, its seek table, and a row that lies: what is taken is exactly what would be written,
//! and no number in it leads out of the segment.

#![no_main]

use gridgate::format::index::{self, FrameEntry, FrameIndex};
use gridgate::format::seek_table::{self, SeekEntry};
use gridgate::format::segment::{Codec, SegmentDecoder, SegmentFacts};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Case {
    bytes: Vec<u8>,
    entries: Vec<(u32, u64)>,
    codec: u8,
    frame_len: u32,
    plain_len: u64,
    stored_len: u64,
    start: u64,
    asked: (u64, u64),
    at: usize,
    xor: u8,
}

/// What is taken is what would be written, byte for byte.
fn assert_one_form(bytes: &[u8]) {
    if let Ok(record) = index::decode(bytes) {
        assert_eq!(index::encode(record.codec, record.frame_len, &record.entries), bytes);
    }
    if let Ok(table) = seek_table::decode(bytes) {
        assert_eq!(seek_table::encode(&table), bytes);
    }
}

/// Frames follow each other, cover the plaintext, and are found by it.
fn assert_sound(index: &FrameIndex, plain_len: u64, asked: (u64, u64)) {
    let last = index.count() - 1;
    assert_eq!((index.plain(0).start, index.plain(last).end), (0, plain_len));
    for frame in 0..last {
        assert_eq!(index.plain(frame).end, index.plain(frame + 1).start);
        assert_eq!(index.stored(frame).end, index.stored(frame + 1).start);
    }
    let (start, end) = (asked.0.min(asked.1).min(plain_len), asked.0.max(asked.1).min(plain_len));
    let frames = index.frames(&(start..end));
    assert!(frames.end <= index.count());
    if start < end {
        assert!(index.plain(frames.start).contains(&start) && index.plain(frames.end - 1).contains(&(end - 1)));
        let span = index.stored_span(&frames);
        assert_eq!((span.start, span.end), (index.stored(frames.start).start, index.stored(frames.end - 1).end));
    }
}

fuzz_target!(|case: Case| {
    let Case { bytes, entries, codec, frame_len, plain_len, stored_len, start, asked, at, xor } = case;
    assert_one_form(&bytes);
    let codec = Codec::ALL[usize::from(codec) % Codec::ALL.len()];
    let entries: Vec<_> =
        entries.into_iter().map(|(stored_len, checksum)| FrameEntry { stored_len, checksum }).collect();
    let record = index::encode(codec, frame_len, &entries);
    assert_eq!(index::decode(&record).expect("it was just written").entries, entries);
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| SeekEntry { stored_len: entry.stored_len, plain_len: entry.checksum as u32 })
        .collect();
    let table = seek_table::encode(&rows);
    assert_eq!(seek_table::decode(&table).expect("it was just written"), rows);
    // What random bytes seldom are: nearly right.
    for written in [&record, &table] {
        let mut changed = written.clone();
        changed[at % written.len()] ^= xor;
        assert_one_form(&changed);
        assert_one_form(&[written.as_slice(), &bytes].concat());
        assert_one_form(&written[..at % written.len()]);
    }
    if let Ok(index) = FrameIndex::new(frame_len.into(), plain_len, start, &entries) {
        assert_eq!(index.count(), entries.len());
        assert_sound(&index, plain_len, asked);
    }
    for record in [&record, &bytes] {
        let commitment = index::commitment(record);
        // What random numbers seldom are: as many bytes as the record's frames may have.
        let count = record.len().saturating_sub(9) as u64 / 12;
        for plain_len in [plain_len, u64::from(frame_len).saturating_mul(count)] {
            let facts = SegmentFacts { codec, frame_len, plain_len, stored_len, record, commitment: &commitment };
            if let Ok(decoder) = SegmentDecoder::open(facts, None) {
                assert!(decoder.tail_span().end == stored_len && decoder.tail_span().start <= stored_len);
                assert!(decoder.encoded_len() <= stored_len);
                assert_sound(decoder.index(), plain_len, asked);
            }
        }
    }
});
