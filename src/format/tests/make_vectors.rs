//! Makes the vectors of `tests/vectors/v1`: `cargo test --lib make_vectors -- --ignored`.
//!
//! A file that exists is left as it is, so a released vector cannot be edited here by mistake.

use super::made::{Made, Row, Sealing, sealed_frame};
use super::vectors::folder;
use crate::format::compress::compress;
use crate::format::digest::{Sha256Digest, seal_digest};
use crate::format::index::{self, FrameEntry};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, WrappedKey, wrap};
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::seal::{FrameKind, TRAILER_MAGIC};
use crate::format::seek_table::{self, SeekEntry};
use crate::format::segment::Codec;

const TENANT: &str = "tenant-a";
const SEGMENT_ID: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

fn kek() -> [u8; 32] {
    std::array::from_fn(|i| 0xA0 + (i as u8 & 15))
}

fn write(name: &str, expect: &str, note: &str, fields: &[(&str, String)], body: &[u8]) {
    let path = folder().join(format!("{name}.txt"));
    if path.exists() {
        return;
    }
    let mut text = format!("expect: {expect}\nname: {name}\n");
    for (key, value) in fields {
        text.push_str(&format!("{key}: {value}\n"));
    }
    text.push_str(&format!("note: {note}\n\n"));
    for line in body.chunks(32) {
        text.push_str(&hex::encode(line));
        text.push('\n');
    }
    std::fs::create_dir_all(folder()).expect("the folder can be made");
    std::fs::write(path, text).expect("the vector can be written");
}

fn write_segment(name: &str, expect: &str, note: &str, row: &Row, plain: &[u8], stored: &[u8]) {
    let mut fields = vec![
        ("kind", "segment".to_owned()),
        ("codec", row.codec.name().to_owned()),
        ("frame-length", row.frame_len.to_string()),
        ("plain-length", row.plain_len.to_string()),
        ("plain-sha256", Sha256Digest::of(plain).to_string()),
        ("stored-length", row.stored_len.to_string()),
        ("record", hex::encode(&row.record)),
        ("commitment", hex::encode(&row.commitment)),
        ("sealed", if row.sealing.is_some() { "yes" } else { "no" }.to_owned()),
    ];
    if let Some(sealing) = &row.sealing {
        fields.push(("data-key", hex::encode(sealing.data_key)));
        fields.push(("segment-id", hex::encode(sealing.segment_id)));
        fields.push(("tenant", sealing.tenant.clone()));
        fields.push(("salt", hex::encode(sealing.salt)));
    }
    write(name, expect, note, &fields, stored);
}

fn text(len: usize) -> Vec<u8> {
    b"gridgate keeps files. ".iter().copied().cycle().take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let block = |i: u32| Sha256Digest::of(&i.to_be_bytes()).0;
    (0..).flat_map(block).take(len).collect()
}

/// Forty bytes in frames of sixteen: those of the reference.
fn forty() -> Vec<u8> {
    (0..40_u32).map(|i| (i * 7) as u8).collect()
}

#[test]
#[ignore = "writes the vectors that do not exist yet"]
fn make_vectors() {
    good_segments();
    bad_stored_bytes();
    bad_sealed_rows();
    forgeries();
    bad_unsealed_bytes();
    bad_index_records();
    bad_unsealed_rows();
    bad_seek_tables();
    bad_compressed_frames();
    wrapped_keys();
    manifests();
    digests();
}

fn good_segments() {
    let references: [(&str, Vec<u8>); 5] = [
        ("empty", vec![]),
        ("one-byte", b"A".to_vec()),
        ("exactly-one-frame", b"0123456789abcdef".to_vec()),
        ("one-byte-more", b"0123456789abcdefG".to_vec()),
        ("three-frames", forty()),
    ];
    for (case, plain) in references {
        let made = Made::new(Codec::Identity, Some(Sealing::fixed()), 16, &plain);
        let note = "byte for byte what the independent reference makes";
        write_segment(&format!("reference-{case}"), "ok", note, &made.row, &plain, &made.stored());
    }
    let cases: [(&str, Vec<u8>); 6] = [
        ("empty", vec![]),
        ("one-byte", b"A".to_vec()),
        ("exactly-one-frame", text(256)),
        ("one-byte-more", text(257)),
        ("three-frames", text(600)),
        ("incompressible", noise(600)),
    ];
    for codec in Codec::ALL {
        for (protection, sealing) in [("plain", None), ("sealed", Some(Sealing::fixed()))] {
            for (case, plain) in &cases {
                let made = Made::new(codec, sealing.clone(), 256, plain);
                let name = format!("{}-{protection}-{case}", codec.name());
                let note = format!("{} {protection}: {}", codec.name(), case.replace('-', " "));
                write_segment(&name, "ok", &note, &made.row, plain, &made.stored());
            }
            let mixed = [text(256), noise(256), text(100)].concat();
            let made = Made::new(codec, sealing, 256, &mixed);
            let name = format!("{}-{protection}-mixed", codec.name());
            let note = "compressible and incompressible frames in one segment";
            write_segment(&name, "ok", note, &made.row, &mixed, &made.stored());
        }
    }
}

/// The row is right, the stored bytes are not. Frames lie at 84, 125 and 166, the trailer at 199.
fn bad_stored_bytes() {
    let plain = forty();
    let good = Made::new(Codec::Identity, Some(Sealing::fixed()), 16, &plain);
    let flips = [
        ("header-magic", "Header", 0),
        ("header-version", "Header", 4),
        ("header-family", "Header", 5),
        ("header-cipher", "Header", 6),
        ("header-frame-log2", "Header", 7),
        ("header-segment-id", "SegmentId", 8),
        ("header-salt", "Commitment", 20),
        ("stored-commitment", "Commitment", 52),
        ("frame-sealed-length", "Frame", 84),
        ("frame-codec", "Frame", 88),
        ("frame-plain-length", "Frame", 92),
        ("frame-body", "Frame", 93),
        ("frame-tag", "Frame", 124),
        ("inner-frame-body", "Frame", 140),
        ("last-frame-body", "Frame", 176),
        ("trailer-body", "Trailer", 199),
        ("trailer-tag", "Trailer", 282),
        ("suffix-length", "Trailer", 286),
        ("suffix-magic", "Trailer", 290),
    ];
    for (place, expect, at) in flips {
        let mut stored = good.stored();
        stored[at] ^= 1;
        let note = format!("bit 0 of byte {at} flipped: {}", place.replace('-', " "));
        write_segment(&format!("bad-sealed-{place}"), expect, &note, &good.row, &plain, &stored);
    }
    let changed = |name: &str, expect, note, change: &dyn Fn(&mut Made)| {
        let mut made = good.clone();
        change(&mut made);
        write_segment(&format!("bad-sealed-{name}"), expect, note, &made.row, &plain, &made.stored());
    };
    changed("swapped-frames", "Frame", "frames 0 and 1 change places", &|made| made.frames.swap(0, 1));
    changed("dropped-frame", "Frame", "frame 1 is missing", &|made| drop(made.frames.remove(1)));
    changed("duplicated-frame", "Frame", "frame 0 stands in the place of frame 1", &|made| {
        made.frames[1] = made.frames[0].clone();
    });
    changed("inserted-frame", "Frame", "frame 1 is there twice", &|made| made.frames.insert(1, made.frames[1].clone()));
    changed("last-marked-inner", "Frame", "the last frame was sealed as an inner one", &|made| {
        let key = made.row.key().expect("sealed");
        made.frames[2] = sealed_frame(&key, 2, FrameKind::Data, 0, 8, &plain[32..]);
    });
    changed("inner-marked-last", "Frame", "an inner frame was sealed as the last one", &|made| {
        let key = made.row.key().expect("sealed");
        made.frames[1] = sealed_frame(&key, 1, FrameKind::Final, 0, 16, &plain[16..32]);
    });
    changed("extended", "Trailer", "a byte follows the suffix", &|made| made.tail.push(0));
    changed("extended-with-its-row", "Frame", "a byte follows, and storedLen counts it", &|made| {
        made.tail.push(0);
        made.row.stored_len += 1;
    });
    let cuts = [("truncated", "Trailer", 290), ("truncated-tail", "Trailer", 199), ("truncated-frame", "Frame", 190)];
    for (name, expect, len) in cuts.into_iter().chain([("nothing-stored", "Header", 0)]) {
        let note = format!("only the first {len} bytes are there");
        write_segment(&format!("bad-sealed-{name}"), expect, &note, &good.row, &plain, &good.stored()[..len]);
    }
}

/// The stored bytes are right, the row is not.
fn bad_sealed_rows() {
    let plain = forty();
    let good = Made::new(Codec::Identity, Some(Sealing::fixed()), 16, &plain);
    let changed = |name: &str, expect, note, change: &dyn Fn(&mut Row)| {
        let mut row = good.row.clone();
        change(&mut row);
        write_segment(&format!("bad-sealed-{name}"), expect, note, &row, &plain, &good.stored());
    };
    let sealing = |row: &mut Row, change: &dyn Fn(&mut Sealing)| change(row.sealing.as_mut().expect("sealed"));
    changed("wrong-tenant", "Commitment", "opened for another tenant", &|row| {
        sealing(row, &|sealing| sealing.tenant = "tenant-b".to_owned());
    });
    changed("wrong-segment-id", "Commitment", "the row has another id", &|row| {
        sealing(row, &|sealing| sealing.segment_id[11] ^= 1);
    });
    changed("wrong-key", "Commitment", "the data key is another", &|row| {
        sealing(row, &|sealing| sealing.data_key[0] ^= 1);
    });
    changed("wrong-salt", "Commitment", "the row has another salt", &|row| {
        sealing(row, &|sealing| sealing.salt[0] ^= 1);
    });
    changed("row-codec", "Commitment", "the row names a codec of the other family", &|row| row.codec = Codec::Gzip);
    changed("row-frame-length", "Commitment", "the row has twice the frame length", &|row| row.frame_len = 32);
    changed("row-frame-length-odd", "Commitment", "the row's frame length is no power of two", &|row| {
        row.frame_len = 48;
    });
    changed("row-commitment", "Commitment", "bit 0 of the row's commitment flipped", &|row| row.commitment[0] ^= 1);
    changed("row-commitment-short", "Commitment", "the row's commitment is cut", &|row| row.commitment.truncate(31));
    changed("row-record", "Trailer", "bit 0 of the row's sealed trailer flipped", &|row| row.record[0] ^= 1);
    changed("row-record-empty", "Trailer", "the row has no sealed trailer", &|row| row.record.clear());
    changed("row-plain-length", "Trailer", "the row says a byte more, in as many frames", &|row| row.plain_len += 1);
    changed("row-frame-count", "Trailer", "the row says a frame more", &|row| row.plain_len += 16);
    changed("row-stored-length", "Frame", "storedLen is a byte short", &|row| row.stored_len -= 1);
    changed("row-stored-length-huge", "Trailer", "storedLen asks for a frame longer than any", &|row| {
        row.stored_len = i64::MAX.unsigned_abs();
    });
    changed("row-stored-length-zero", "Trailer", "storedLen leaves no place for the trailer", &|row| {
        row.stored_len = 0
    });
    changed("row-not-sealed", "Commitment", "the row was rolled back to not encrypted", &|row| row.sealing = None);
}

/// What only someone with the key can make.
fn forgeries() {
    let plain = forty();
    let good = Made::new(Codec::Identity, Some(Sealing::fixed()), 16, &plain);
    let forged = |name: &str, expect, note, change: &dyn Fn(&mut Made)| {
        let mut made = good.clone();
        change(&mut made);
        write_segment(&format!("bad-forged-{name}"), expect, note, &made.row, &plain, &made.stored());
    };
    let trailer = |made: &mut Made, len: u64, count: u32, offsets: &[u64]| {
        let key = made.row.key().expect("sealed");
        let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_be_bytes()).collect();
        let sha256 = Sha256Digest::of(&plain).0;
        let fields = [len.to_be_bytes().as_slice(), &count.to_be_bytes(), &sha256, &offsets].concat();
        made.row.record = key.seal_trailer(&fields, 3);
        let len = u32::try_from(made.row.record.len()).expect("short").to_be_bytes();
        made.tail = [made.row.record.as_slice(), &len, TRAILER_MAGIC].concat();
        made.row.stored_len = made.stored().len() as u64;
    };
    forged("frame-count", "FrameCount", "the trailer's count is not that of its length", &|made| {
        trailer(made, 40, 4, &[84, 125, 166]);
    });
    forged("offset-count", "FrameCount", "the trailer has an offset less than frames", &|made| {
        trailer(made, 40, 3, &[84, 125]);
    });
    forged("trailer-length", "Trailer", "the trailer's plaintext length is not the row's", &|made| {
        trailer(made, 41, 3, &[84, 125, 166]);
    });
    forged("offsets-fall", "Trailer", "the offsets do not rise", &|made| trailer(made, 40, 3, &[84, 166, 125]));
    forged("offset-in-header", "Trailer", "frame 0 begins in the header", &|made| {
        trailer(made, 40, 3, &[52, 125, 166]);
    });
    forged("offset-moved", "Frame", "frame 1 begins a byte late", &|made| trailer(made, 40, 3, &[84, 126, 166]));
    let frame = |made: &mut Made, codec: u8, len: u32, body: Vec<u8>| {
        let key = made.row.key().expect("sealed");
        made.frames[1] = sealed_frame(&key, 1, FrameKind::Data, codec, len, &body);
        let second = 125 + made.frames[1].len() as u64;
        trailer(made, 40, 3, &[84, 125, second]);
    };
    forged("frame-plain-length", "FrameLength", "a frame names another length than its place has", &|made| {
        frame(made, 0, 17, plain[16..33].to_vec());
    });
    forged("frame-plain-length-alone", "FrameLength", "a frame of the right length names another", &|made| {
        frame(made, 0, 17, plain[16..32].to_vec());
    });
    forged("raw-frame-short", "FrameLength", "a raw frame holds a byte less than it names", &|made| {
        frame(made, 0, 16, plain[16..31].to_vec());
    });
    forged("zstd-frame-long", "FrameLength", "a zstd frame holds a byte more than it names", &|made| {
        frame(made, 1, 16, compress(Codec::Zstd, 3, &text(17)));
    });
    forged(
        "zstd-frame-of-64-kib",
        "FrameLength",
        "a zstd frame of 64 KiB of zeros in the place of 16 bytes",
        &|made| {
            frame(made, 1, 16, compress(Codec::Zstd, 3, &vec![0; 1 << 16]));
        },
    );
    forged("frame-codec-other-family", "Frame", "a gzip frame in a segment of the zstd family", &|made| {
        frame(made, 2, 16, compress(Codec::Gzip, 3, &plain[16..32]));
    });
    forged("frame-codec-unknown", "Frame", "a frame of an unknown codec", &|made| {
        frame(made, 3, 16, plain[16..32].to_vec());
    });
}

fn save_unsealed(codec: Codec, name: &str, expect: &str, note: &str, change: &dyn Fn(&mut Made)) {
    let plain = text(600);
    let mut made = Made::new(codec, None, 256, &plain);
    change(&mut made);
    write_segment(&format!("bad-{}-{name}", codec.name()), expect, note, &made.row, &plain, &made.stored());
}

fn commit(row: &mut Row) {
    row.commitment = index::commitment(&row.record).to_vec();
}

fn identity(name: &str, expect: &str, note: &str, change: &dyn Fn(&mut Made)) {
    save_unsealed(Codec::Identity, name, expect, note, change);
}

fn bad_unsealed_bytes() {
    for codec in Codec::ALL {
        save_unsealed(codec, "frame-flipped", "Checksum", "bit 0 of the last byte of frame 1 flipped", &|made| {
            *made.frames[1].last_mut().expect("not empty") ^= 1;
        });
        save_unsealed(codec, "dropped-frame", "Checksum", "frame 1 is missing", &|made| drop(made.frames.remove(1)));
    }
    identity("swapped-frames", "Checksum", "frames 0 and 1 change places", &|made| made.frames.swap(0, 1));
    identity("truncated", "Checksum", "the last byte is missing", &|made| made.frames[2].truncate(87));
    identity("extended", "Index", "a byte follows", &|made| made.tail.push(0));
}

fn bad_index_records() {
    identity("record-length", "Commitment", "a length in the index record was changed", &|made| {
        made.row.record[12] ^= 1;
    });
    identity("record-checksum", "Commitment", "a checksum in the index record was changed", &|made| {
        made.row.record[20] ^= 1;
    });
    identity("record-length-committed", "Index", "a length was changed, and the commitment with it", &|made| {
        made.row.record[12] ^= 1;
        commit(&mut made.row);
    });
    identity("record-checksum-committed", "Checksum", "a checksum was changed, and the commitment with it", &|made| {
        made.row.record[20] ^= 1;
        commit(&mut made.row);
    });
    identity("record-entry-dropped", "FrameCount", "the record has a frame less than the length needs", &|made| {
        made.row.record.truncate(9 + 2 * 12);
        commit(&mut made.row);
    });
    identity("record-magic", "Index", "the record begins with other letters", &|made| {
        made.row.record[3] = b'2';
        commit(&mut made.row);
    });
    identity("record-half-entry", "Index", "the record ends within an entry", &|made| {
        made.row.record.truncate(9 + 2 * 12 + 5);
        commit(&mut made.row);
    });
    identity("record-head-cut", "Index", "the record ends within its head", &|made| {
        made.row.record.truncate(8);
        commit(&mut made.row);
    });
    identity("record-codec", "Commitment", "the codec in the index record was changed", &|made| {
        made.row.record[4] = 2;
    });
    identity("record-codec-committed", "Index", "the index record has another codec than the row", &|made| {
        made.row.record[4] = 2;
        commit(&mut made.row);
    });
    identity("record-codec-unknown", "Index", "the index record has an unknown codec", &|made| {
        made.row.record[4] = 3;
        commit(&mut made.row);
    });
    identity("record-frame-length", "Commitment", "the frame length in the index record was changed", &|made| {
        made.row.record[8] ^= 1;
    });
    identity(
        "record-frame-length-committed",
        "Index",
        "the index record has another frame length than the row",
        &|made| {
            made.row.record[8] ^= 1;
            commit(&mut made.row);
        },
    );
}

fn bad_unsealed_rows() {
    identity("row-frame-length-zero", "Index", "the row's frame length is 0", &|made| made.row.frame_len = 0);
    identity("row-frame-length-huge", "Index", "the row's frame length is beyond the limit", &|made| {
        made.row.frame_len = (16 << 20) + 1;
    });
    identity("row-frame-length", "Index", "the row's frame length is 200, in as many frames", &|made| {
        made.row.frame_len = 200;
    });
    identity("row-stored-length", "Index", "storedLen is a byte more than the frames", &|made| {
        made.row.stored_len += 1
    });
    identity("row-plain-length", "FrameCount", "the row says frames more", &|made| made.row.plain_len = 6000);
    identity("row-codec", "Index", "the row names zstd, which would have a seek table", &|made| {
        made.row.codec = Codec::Zstd;
    });
    identity("row-codec-with-its-tail", "Index", "the row names zstd, and a seek table is there", &|made| {
        made.row.codec = Codec::Zstd;
        let entry = |plain_len| SeekEntry { stored_len: plain_len, plain_len };
        made.tail = seek_table::encode(&[256, 256, 88].map(entry));
        made.row.stored_len = made.stored().len() as u64;
    });
    identity("row-codec-gzip", "Index", "the row names gzip, all lengths fit", &|made| made.row.codec = Codec::Gzip);
}

fn bad_seek_tables() {
    let zstd =
        |name: &str, expect, note, change: &dyn Fn(&mut Made)| save_unsealed(Codec::Zstd, name, expect, note, change);
    zstd("seek-table-count", "Index", "the seek table counts a frame more", &|made| {
        let at = made.tail.len() - 9;
        made.tail[at] += 1;
    });
    zstd("seek-table-entry", "Index", "the seek table has another stored length", &|made| made.tail[8] ^= 1);
    zstd("seek-table-plain-length", "Index", "the seek table has another plain length", &|made| made.tail[12] ^= 1);
    zstd("seek-table-magic", "Index", "the seek table ends with another number", &|made| {
        *made.tail.last_mut().expect("not empty") ^= 1;
    });
    zstd("seek-table-descriptor", "Index", "the seek table claims checksums", &|made| {
        let at = made.tail.len() - 5;
        made.tail[at] = 0x80;
    });
    zstd("seek-table-missing", "Index", "the seek table is missing", &|made| made.tail.clear());
}

fn bad_compressed_frames() {
    let plain = text(600);
    // The record and its commitment made anew, as a writer with a defect would.
    let replaced = |codec: Codec, name: &str, note, body: Vec<u8>| {
        save_unsealed(codec, name, "FrameLength", note, &|made| {
            made.frames[1] = body.clone();
            let entry = |frame: &Vec<u8>| FrameEntry {
                stored_len: u32::try_from(frame.len()).expect("short"),
                checksum: xxhash_rust::xxh3::xxh3_64(frame),
            };
            let entries: Vec<_> = made.frames.iter().map(entry).collect();
            made.row.record = index::encode(codec, made.row.frame_len, &entries);
            made.row.stored_len = made.stored().len() as u64;
            commit(&mut made.row);
        });
    };
    for codec in [Codec::Zstd, Codec::Gzip] {
        let whole = compress(codec, 3, &plain[256..512]);
        let halves = [compress(codec, 3, &plain[256..300]), compress(codec, 3, &plain[300..512])].concat();
        replaced(codec, "two-in-one-frame", "a frame holds two compressed streams", halves);
        replaced(codec, "garbage-after-frame", "bytes follow the compressed stream", [&whole[..], b"x"].concat());
        replaced(codec, "frame-cut", "the compressed stream is cut", whole[..whole.len() - 1].to_vec());
        replaced(codec, "frame-long", "a frame decodes to a byte more", compress(codec, 3, &text(257)));
        replaced(codec, "frame-short", "a frame decodes to a byte less", compress(codec, 3, &text(255)));
    }
    let skippable = [compress(Codec::Zstd, 3, &plain[256..512]).as_slice(), b"\x50\x2A\x4D\x18\x01\0\0\0x"].concat();
    replaced(Codec::Zstd, "skippable-in-frame", "a skippable frame hides in a frame", skippable);
}

fn wrapped_keys() {
    let binding = WrapBinding { tenant: TENANT, id: &SEGMENT_ID };
    let data_key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let wrapped = |mode, kid| wrap(&Key::new(data_key), &Key::new(kek()), mode, kid, [7; 32], binding);
    struct Case {
        record: WrappedKey,
        mode: String,
        key: [u8; 32],
        tenant: String,
        id: [u8; 12],
    }
    let case = |record: WrappedKey| {
        let mode = record.mode.name().to_owned();
        Case { record, mode, key: kek(), tenant: TENANT.to_owned(), id: SEGMENT_ID }
    };
    let save = |name: &str, expect, note, case: &Case| {
        let fields = [
            ("kind", "wrap".to_owned()),
            ("version", case.record.v.to_string()),
            ("mode", case.mode.clone()),
            ("kid", case.record.kid.clone()),
            ("salt", hex::encode(case.record.salt)),
            ("commit", hex::encode(case.record.commit)),
            ("key", hex::encode(case.key)),
            ("tenant", case.tenant.clone()),
            ("id", hex::encode(case.id)),
            ("data-key", hex::encode(data_key)),
        ];
        write(name, expect, note, &fields, &case.record.ct);
    };
    let managed = wrapped(WrapMode::Managed, "k1");
    save("reference-wrap", "ok", "byte for byte what the independent reference makes", &case(managed.clone()));
    save("wrap-customer", "ok", "a key the client sends; it has no name", &case(wrapped(WrapMode::Customer, "")));
    let changed = |name: &str, expect, note, change: &dyn Fn(&mut Case)| {
        let mut bad = case(managed.clone());
        change(&mut bad);
        save(&format!("bad-wrap-{name}"), expect, note, &bad);
    };
    changed("key", "WrongKey", "another wrapping key", &|case| case.key[31] ^= 1);
    changed("tenant", "WrongKey", "moved to another tenant", &|case| case.tenant = "tenant-b".to_owned());
    changed("segment-id", "WrongKey", "moved to another segment", &|case| case.id[0] ^= 1);
    changed("kid", "WrongKey", "the record names another key", &|case| case.record.kid = "k2".to_owned());
    changed("mode", "WrongKey", "the record claims a client's key", &|case| case.mode = "ssec".to_owned());
    changed("salt", "WrongKey", "another salt", &|case| case.record.salt[0] ^= 1);
    changed("commit", "WrongKey", "another commitment", &|case| case.record.commit[0] ^= 1);
    changed("mode-unknown", "WrapRecord", "a mode no writer knows", &|case| case.mode = "none".to_owned());
    changed("version-0", "WrapRecord", "version 0", &|case| case.record.v = 0);
    changed("version-2", "WrapRecord", "version 2", &|case| case.record.v = 2);
    changed("sealed-key", "WrapRecord", "bit 0 of the sealed key flipped: damage, not a wrong key", &|case| {
        case.record.ct[0] ^= 1;
    });
    changed("sealed-key-tag", "WrapRecord", "bit 0 of the sealed key's tag flipped", &|case| case.record.ct[47] ^= 1);
    changed("sealed-key-short", "WrapRecord", "the sealed key is cut", &|case| case.record.ct.truncate(47));
    changed("sealed-key-empty", "WrapRecord", "there is no sealed key", &|case| case.record.ct.clear());
    let check = Key::new(kek()).check_value();
    let key = [("kind", "check-value".to_owned()), ("key", hex::encode(kek()))];
    write("reference-check-value", "ok", "byte for byte what the independent reference makes", &key, &check);
}

#[derive(Clone)]
struct ManifestCase {
    root: [u8; 32],
    tenant: String,
    file_id: [u8; 12],
    version: u64,
    plain_len: u64,
    sha256: Sha256Digest,
    segments: Vec<ManifestSegment>,
    mac: Vec<u8>,
}

impl ManifestCase {
    fn sealed(mut self) -> Self {
        let manifest = Manifest {
            tenant: &self.tenant,
            file_id: &self.file_id,
            version: self.version,
            plain_len: self.plain_len,
            sha256: self.sha256,
            segments: &self.segments,
        };
        self.mac = manifest.mac(&Key::new(self.root)).to_vec();
        self
    }

    fn save(&self, name: &str, expect: &str, note: &str) {
        let mut fields = vec![
            ("kind", "manifest".to_owned()),
            ("root", hex::encode(self.root)),
            ("tenant", self.tenant.clone()),
            ("file-id", hex::encode(self.file_id)),
            ("version", self.version.to_string()),
            ("plain-length", self.plain_len.to_string()),
            ("plain-sha256", self.sha256.to_string()),
        ];
        for line in &self.segments {
            let (id, commitment) = (hex::encode(line.id), hex::encode(line.commitment));
            fields.push(("segment", format!("{id} {} {commitment} {}", line.plain_len, line.protection as u8)));
        }
        write(name, expect, note, &fields, &self.mac);
    }
}

fn manifests() {
    let plain: Vec<u8> = (0..75_u32).map(|i| (i * 11) as u8).collect();
    let made = Made::new(Codec::Identity, Some(Sealing::fixed()), 16, &plain);
    let line = ManifestSegment {
        id: SEGMENT_ID,
        plain_len: 75,
        commitment: made.row.commitment.try_into().expect("32 bytes"),
        protection: Protection::Managed,
    };
    let one = ManifestCase {
        root: kek(),
        tenant: TENANT.to_owned(),
        file_id: *b"FFFFFFFFFFFF",
        version: 3,
        plain_len: 75,
        sha256: Sha256Digest::of(&plain),
        segments: vec![line],
        mac: Vec::new(),
    };
    let one = one.sealed();
    one.save("reference-manifest", "ok", "byte for byte what the independent reference makes");
    let second = ManifestSegment { id: [0xEE; 12], plain_len: 25, protection: Protection::Plain, ..line };
    let third = ManifestSegment { id: [0xDD; 12], plain_len: 9, protection: Protection::Customer, ..line };
    let segments = vec![ManifestSegment { plain_len: 50, ..line }, second, third];
    let good = ManifestCase { segments, plain_len: 84, ..one }.sealed();
    good.save("manifest-three-segments", "ok", "one segment of each protection");
    let changed = |name: &str, note: &str, change: &dyn Fn(&mut ManifestCase)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.save(&format!("bad-manifest-{name}"), "Manifest", note);
    };
    changed("length", "the file's length was changed", &|case| case.plain_len += 1);
    changed("segment-length", "a segment's length was changed", &|case| case.segments[1].plain_len += 1);
    changed("order", "two segments change places", &|case| case.segments.swap(0, 1));
    changed("dropped", "a segment is missing", &|case| case.segments.truncate(2));
    changed("repeated", "a segment is there twice", &|case| case.segments.push(case.segments[2]));
    changed("protection", "a segment was rolled back to not encrypted", &|case| {
        case.segments[0].protection = Protection::Plain;
    });
    changed("commitment", "a segment's commitment was changed", &|case| case.segments[0].commitment[31] ^= 1);
    changed("segment-id", "a segment's id was changed", &|case| case.segments[0].id[0] ^= 1);
    changed("tenant", "moved to another tenant", &|case| case.tenant = "tenant-b".to_owned());
    changed("file-id", "moved to another file", &|case| case.file_id[0] ^= 1);
    changed("version", "given out as another version", &|case| case.version = 2);
    changed("sha256", "the file's hash was changed", &|case| case.sha256.0[0] ^= 1);
    changed("root", "another root key", &|case| case.root[0] ^= 1);
    changed("code", "bit 0 of the code flipped", &|case| case.mac[0] ^= 1);
    changed("code-short", "the code is cut", &|case| case.mac.truncate(31));
    changed("code-empty", "there is no code", &|case| case.mac.clear());
}

fn digests() {
    let (root, id) = (kek(), [0xCC; 12]);
    let digest = Sha256Digest::of(b"hello");
    let sealed = seal_digest(digest, &Key::new(root), &id);
    let save = |name: &str, expect: &str, note: &str, root: &[u8], id: &[u8], sealed: &[u8]| {
        let fields = [
            ("kind", "digest".to_owned()),
            ("root", hex::encode(root)),
            ("content-id", hex::encode(id)),
            ("plain-sha256", digest.to_string()),
        ];
        write(name, expect, note, &fields, sealed);
    };
    save("digest", "ok", "the SHA-256 of hello, sealed for one content", &root, &id, &sealed);
    save("bad-digest-content-id", "Digest", "the digest of other content", &root, &[0xCD; 12], &sealed);
    save("bad-digest-root", "Digest", "another root key", &[9; 32], &id, &sealed);
    let mut flipped = sealed.clone();
    flipped[0] ^= 1;
    save("bad-digest-flipped", "Digest", "bit 0 flipped", &root, &id, &flipped);
    save("bad-digest-short", "Digest", "the record is cut", &root, &id, &sealed[..47]);
    save("bad-digest-not-sealed", "Digest", "an open digest where a sealed one belongs", &root, &id, &digest.0);
}
