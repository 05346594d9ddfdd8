//! A whole segment and its row: what was stored comes back frame by frame; whatever is changed in either, a reader
//! gets the original bytes or an error, and never others.

#![no_main]

use bytes::Bytes;
use gridgate::format::FormatError;
use gridgate::format::digest::Sha256Digest;
use gridgate::format::frame::FrameBuf;
use gridgate::format::key::Key;
use gridgate::format::seal::{SegmentHeader, SegmentKey};
use gridgate::format::segment::{Codec, Layout, Position, SegmentDecoder, SegmentEncoder, SegmentFacts};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Case {
    plain: Vec<u8>,
    /// Plaintext that compresses.
    repeat: u8,
    codec: u8,
    is_sealed: bool,
    frame_log2: u8,
    changes: Vec<Change>,
}

#[derive(Debug, Arbitrary)]
enum Change {
    Byte { at: usize, xor: u8 },
    Cut(usize),
    Append(Vec<u8>),
    Swap { a: usize, b: usize, len: u8 },
    Record { at: usize, xor: u8 },
    Commitment { at: usize, xor: u8 },
    PlainLen(u64),
    StoredLen(u64),
    FrameLen(u32),
    Codec(u8),
}

#[derive(Clone, PartialEq)]
struct Stored {
    bytes: Vec<u8>,
    codec: Codec,
    frame_len: u32,
    plain_len: u64,
    stored_len: u64,
    record: Vec<u8>,
    commitment: Vec<u8>,
}

fn codec(id: u8) -> Codec {
    Codec::ALL[usize::from(id) % Codec::ALL.len()]
}

fn key(codec: Codec, frame_len: u32) -> SegmentKey {
    let frame_log2 = frame_len.trailing_zeros() as u8;
    let header = SegmentHeader { family: codec.family(), frame_log2, segment_id: [7; 12], salt: [9; 32] };
    SegmentKey::derive(&Key::new([3; 32]), header, "tenant")
}

fn store(codec: Codec, is_sealed: bool, frame_len: u32, plain: &[u8]) -> Stored {
    let encoder = SegmentEncoder::new(Layout { codec, level: 1, frame_len }, is_sealed.then(|| key(codec, frame_len)));
    let mut bytes = encoder.head();
    let count = plain.len().div_ceil(frame_len as usize).max(1);
    let mut entries = Vec::new();
    for i in 0..count {
        let piece = &plain[i * frame_len as usize..plain.len().min((i + 1) * frame_len as usize)];
        let position = if i + 1 == count { Position::Last } else { Position::Inner };
        let frame = encoder.encode_frame(i as u64, position, FrameBuf::from(piece), &mut FrameBuf::with_capacity(0));
        bytes.extend_from_slice(&frame.bytes);
        entries.push(frame.entry);
    }
    let end = encoder.finish(&entries, plain.len() as u64, Sha256Digest::of(plain));
    bytes.extend_from_slice(&end.tail);
    let (stored_len, plain_len) = (bytes.len() as u64, plain.len() as u64);
    let (record, commitment) = (end.record, end.commitment.to_vec());
    Stored { bytes, codec, frame_len, plain_len, stored_len, record, commitment }
}

fn read(stored: &Stored, is_sealed: bool) -> Result<Vec<u8>, FormatError> {
    let facts = SegmentFacts {
        codec: stored.codec,
        frame_len: stored.frame_len,
        plain_len: stored.plain_len,
        stored_len: stored.stored_len,
        record: &stored.record,
        commitment: &stored.commitment,
    };
    let decoder = SegmentDecoder::open(facts, is_sealed.then(|| key(stored.codec, stored.frame_len)))?;
    assert!(decoder.index().count() <= stored.record.len(), "an index is no longer than what it came from");
    let at = |n: u64| stored.bytes.len().min(usize::try_from(n).unwrap_or(usize::MAX));
    let cut = |span: std::ops::Range<u64>| Bytes::copy_from_slice(&stored.bytes[at(span.start)..at(span.end)]);
    decoder.check_head(&cut(decoder.head_span()))?;
    let (mut plain, mut encoded_len) = (Vec::new(), 0);
    for frame in 0..decoder.index().count() {
        let bytes = cut(decoder.index().stored(frame));
        plain.extend_from_slice(&decoder.decode_frame(frame, bytes.clone())?);
        encoded_len += decoder.encoded_frame(frame, bytes)?.len() as u64;
    }
    assert_eq!(encoded_len, decoder.encoded_len(), "what is announced is what is sent");
    decoder.check_tail(&cut(decoder.tail_span().start..u64::MAX))?;
    Ok(plain)
}

fn change(stored: &mut Stored, change: Change) {
    let flip = |bytes: &mut Vec<u8>, at: usize, xor: u8| {
        if let Some(place) = at.checked_rem(bytes.len()) {
            bytes[place] ^= xor;
        }
    };
    match change {
        Change::Byte { at, xor } => flip(&mut stored.bytes, at, xor),
        Change::Cut(at) => stored.bytes.truncate(at % (stored.bytes.len() + 1)),
        Change::Append(more) => stored.bytes.extend_from_slice(&more),
        Change::Swap { a, b, len } => {
            let len = usize::from(len).min(stored.bytes.len() / 2);
            let room = stored.bytes.len() - len + 1;
            let (a, b) = (a % room, b % room);
            if a + len <= b {
                let (left, right) = stored.bytes.split_at_mut(b);
                left[a..a + len].swap_with_slice(&mut right[..len]);
            }
        }
        Change::Record { at, xor } => flip(&mut stored.record, at, xor),
        Change::Commitment { at, xor } => flip(&mut stored.commitment, at, xor),
        Change::PlainLen(len) => stored.plain_len = len,
        Change::StoredLen(len) => stored.stored_len = len,
        Change::FrameLen(len) => stored.frame_len = len,
        Change::Codec(id) => stored.codec = codec(id),
    }
}

fuzz_target!(|case: Case| {
    let codec = codec(case.codec);
    let plain = case.plain.repeat(usize::from(case.repeat % 32) + 1);
    let frame_len = 1 << (5 + case.frame_log2 % 8);
    let original = store(codec, case.is_sealed, frame_len, &plain);
    assert_eq!(read(&original, case.is_sealed).as_ref(), Ok(&plain), "what is stored is read");
    let mut changed = original.clone();
    case.changes.into_iter().for_each(|one| change(&mut changed, one));
    match read(&changed, case.is_sealed) {
        Ok(read) => {
            assert!(read == plain, "other bytes");
            assert!(!case.is_sealed || changed.bytes == original.bytes, "a change of sealed bytes was not seen");
        }
        Err(error) => assert!(changed != original, "{error}"),
    }
});
