//! One stored frame: what was sealed comes back at its own place only, what was changed never; restoring gives exactly
//! the announced length or nothing, and asks for no more memory than that.

#![no_main]

use gridgate::format::compress::{compress, decompress};
use gridgate::format::frame::FrameBuf;
use gridgate::format::key::Key;
use gridgate::format::seal::{FRAME_OVERHEAD, FrameKind, SegmentHeader, SegmentKey};
use gridgate::format::segment::{Codec, MAX_FRAME_LEN};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Case {
    body: Vec<u8>,
    codec: u8,
    index: u64,
    is_last: bool,
    plain_len: u32,
    at: usize,
    xor: u8,
    cut: usize,
}

fn key() -> SegmentKey {
    let header = SegmentHeader { family: 1, frame_log2: 16, segment_id: [7; 12], salt: [9; 32] };
    SegmentKey::derive(&Key::new([3; 32]), header, "tenant")
}

fn assert_restores_exactly(codec: Codec, stored: &[u8], len: usize) {
    if let Some(plain) = decompress(codec, stored, len) {
        assert!(plain.len() == len && plain.capacity() <= 2 * (len + 64), "{} of {len}", plain.capacity());
    }
}

fuzz_target!(|case: Case| {
    let Case { body, codec, index, is_last, plain_len, at, xor, cut } = case;
    let (key, kind) = (key(), if is_last { FrameKind::Final } else { FrameKind::Data });
    assert!(key.open_frame(index, kind, &body).is_err(), "nobody without the key makes a frame");
    assert!(key.open_trailer(&body, index).is_err(), "nor a trailer");

    let mut frame = FrameBuf::from(body.as_slice());
    key.seal_frame(index, kind, codec, plain_len, &mut frame);
    assert_eq!(frame.len(), body.len() + FRAME_OVERHEAD);
    let opened = key.open_frame(index, kind, &frame).expect("it is whole");
    assert_eq!((opened.codec, opened.plain_len, opened.body.as_slice()), (codec, plain_len, body.as_slice()));
    let other = if is_last { FrameKind::Data } else { FrameKind::Final };
    assert!(key.open_frame(index, other, &frame).is_err(), "of another kind");
    assert!(key.open_frame(index.wrapping_add(1), kind, &frame).is_err(), "at another place");
    let mut changed = frame.to_vec();
    let place = at % changed.len();
    changed[place] ^= xor.max(1);
    assert!(key.open_frame(index, kind, &changed).is_err(), "a change of byte {place}");
    assert!(key.open_frame(index, kind, &frame[..cut % frame.len()]).is_err(), "cut");

    for codec in Codec::ALL {
        for len in [0, cut % 4096, plain_len as usize % (MAX_FRAME_LEN as usize / 64), plain_len as usize, at] {
            assert_restores_exactly(codec, &body, len);
        }
        let mut stored = compress(codec, 3, &body);
        assert_eq!(decompress(codec, &stored, body.len()).as_ref(), Some(&body), "{codec:?}");
        assert_eq!(decompress(codec, &stored, body.len() + 1), None, "{codec:?}");
        if let Some(place) = at.checked_rem(stored.len()) {
            stored[place] ^= xor;
            assert_restores_exactly(codec, &stored, body.len());
        }
    }
});
