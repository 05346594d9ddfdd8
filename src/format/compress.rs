//! One frame compressed or restored. Output is bounded by the declared length; streams of frames
//! are `segment.rs`.

use std::cell::RefCell;
use std::io::{Cursor, Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, compress_bound, find_frame_compressed_size};

use super::segment::{Codec, MAX_FRAME_LEN};

thread_local! {
    /// A context costs more to make than a small frame to compress, so each thread keeps one, for every level.
    static ZSTD: RefCell<Compressor<'static>> = RefCell::new(zstd_compressor());
    /// As above, to restore. Each frame begins anew, whatever became of the one before.
    static UNZSTD: RefCell<Decompressor<'static>> =
        RefCell::new(Decompressor::new().expect("there is memory for a context"));
}

/// Compresses one frame.
///
/// # Shape
/// `zstd`: one frame with content size and checksum (RFC 8878). `gzip`: one member (RFC 1952).
/// `identity`: the bytes themselves.
pub fn compress(codec: Codec, level: i32, plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_compressed(codec, level, plain, &mut frame);
    frame
}

/// Appends to `out` what [`compress`] gives.
pub fn append_compressed(codec: Codec, level: i32, plain: &[u8], out: &mut Vec<u8>) {
    match codec {
        Codec::Identity => out.extend_from_slice(plain),
        Codec::Zstd => ZSTD.with_borrow_mut(|compressor| {
            compressor.set_compression_level(level).expect("settings allow only levels zstd knows");
            out.reserve(compress_bound(plain.len()));
            let end = out.len() as u64;
            let mut out = Cursor::new(out);
            out.set_position(end);
            compressor.compress_to_buffer(plain, &mut out).expect("a buffer of the worst-case size holds any frame");
        }),
        Codec::Gzip => {
            let level = Compression::new(level.clamp(0, 9).unsigned_abs());
            let mut encoder = GzEncoder::new(out, level);
            encoder.write_all(plain).expect("writing to memory does not fail");
            encoder.finish().expect("writing to memory does not fail");
        }
    }
}

fn zstd_compressor() -> Compressor<'static> {
    let mut compressor = Compressor::default();
    compressor.set_parameter(CParameter::ChecksumFlag(true)).expect("every zstd knows the checksum flag");
    compressor
}

/// Restores one frame of exactly `plain_len` bytes; `None` when the stored bytes are anything but
/// one whole frame of that length.
pub fn decompress(codec: Codec, stored: &[u8], plain_len: usize) -> Option<Vec<u8>> {
    if plain_len > MAX_FRAME_LEN as usize {
        return None;
    }
    let plain = match codec {
        Codec::Identity => (stored.len() == plain_len).then(|| stored.to_vec())?,
        Codec::Zstd => {
            // The library would also take several frames, skippable ones, and no bytes at all.
            let is_one_frame = stored.starts_with(&ZSTD_MAGIC.to_le_bytes())
                && find_frame_compressed_size(stored).is_ok_and(|len| len == stored.len());
            is_one_frame.then(|| UNZSTD.with_borrow_mut(|zstd| zstd.decompress(stored, plain_len).ok()))??
        }
        Codec::Gzip => {
            let mut plain = Vec::with_capacity(plain_len + 1);
            let mut decoder = GzDecoder::new(stored);
            // One byte more than announced, so that the member's end, and with it its CRC, is reached.
            decoder.by_ref().take(plain_len as u64 + 1).read_to_end(&mut plain).ok()?;
            decoder.into_inner().is_empty().then_some(plain)?
        }
    };
    (plain.len() == plain_len).then_some(plain)
}

/// Wraps bytes in a zstd frame of raw blocks, without compressing them.
///
/// # Shape
/// Length [`zstd_stored_len`], a function of `plain.len()` alone.
///
/// # Source
/// RFC 8878 §3.1.1.
pub fn zstd_store(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_zstd_stored(plain, &mut frame);
    frame
}

/// Appends to `frame` what [`zstd_store`] gives.
pub fn append_zstd_stored(plain: &[u8], frame: &mut Vec<u8>) {
    let len = u32::try_from(plain.len()).expect("a frame is shorter than 4 GiB");
    frame.reserve(zstd_stored_len(plain.len()));
    frame.extend_from_slice(&ZSTD_MAGIC.to_le_bytes());
    frame.push(SINGLE_SEGMENT_SIZE_U32);
    frame.extend_from_slice(&len.to_le_bytes());
    let blocks = plain.len().div_ceil(ZSTD_BLOCK).max(1);
    for block in 0..blocks {
        let piece = &plain[block * ZSTD_BLOCK..plain.len().min((block + 1) * ZSTD_BLOCK)];
        let size = u32::try_from(piece.len()).expect("a block is at most 128 KiB");
        let header = size << 3 | u32::from(block + 1 == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(piece);
    }
}

/// The length of [`zstd_store`]'s frame for so many bytes.
pub const fn zstd_stored_len(plain_len: usize) -> usize {
    let blocks = if plain_len == 0 { 1 } else { plain_len.div_ceil(ZSTD_BLOCK) };
    9 + 3 * blocks + plain_len
}

const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// Frame header descriptor: content size in 4 bytes, single segment, no checksum.
const SINGLE_SEGMENT_SIZE_U32: u8 = 0b1010_0000;
pub(super) const ZSTD_BLOCK: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_codec_gives_back_what_it_took(plain in proptest::collection::vec(any::<u8>(), 0..5000), level in 1..6) {
            for codec in [Codec::Identity, Codec::Zstd, Codec::Gzip] {
                let stored = compress(codec, level, &plain);
                prop_assert_eq!(decompress(codec, &stored, plain.len()), Some(plain.clone()));
                prop_assert_eq!(decompress(codec, &stored, plain.len() + 1), None);
                if !plain.is_empty() {
                    prop_assert_eq!(decompress(codec, &stored, plain.len() - 1), None);
                }
            }
        }
    }

    #[test]
    fn the_frame_before_says_nothing_about_the_next() {
        let plain: Vec<u8> = (0..5000_u32).flat_map(|i| (i * i % 9973).to_string().into_bytes()).collect();
        let alone = |level, plain: Vec<u8>| {
            let compress = move || compress(Codec::Zstd, level, &plain);
            std::thread::spawn(compress).join().expect("it does not panic")
        };
        let levels = [1, 3, 19, 6, 1];
        let expected = levels.map(|level| alone(level, plain.clone()));
        assert_ne!(expected[0], expected[2], "levels differ");
        assert_eq!(levels.map(|level| compress(Codec::Zstd, level, &plain)), expected);
    }

    #[test]
    fn a_refused_frame_leaves_nothing_behind_for_the_next() {
        let plain = b"gridgate keeps files. ".repeat(100);
        let stored = compress(Codec::Zstd, 3, &plain);
        let mut damaged = stored.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        for _ in 0..3 {
            assert_eq!(decompress(Codec::Zstd, &damaged, plain.len()), None);
            assert_eq!(decompress(Codec::Zstd, &stored, plain.len() - 1), None);
            assert_eq!(decompress(Codec::Zstd, &stored, plain.len()).as_ref(), Some(&plain));
        }
    }

    #[test]
    fn a_frame_of_raw_blocks_is_a_zstd_frame_of_the_announced_length() {
        for len in [0, 1, ZSTD_BLOCK - 1, ZSTD_BLOCK, ZSTD_BLOCK + 1, 3 * ZSTD_BLOCK] {
            let plain: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let frame = zstd_store(&plain);
            assert_eq!(frame.len(), zstd_stored_len(len));
            assert_eq!(decompress(Codec::Zstd, &frame, len), Some(plain));
        }
    }
}
