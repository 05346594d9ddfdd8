//! Reads `tests/vectors/v1`: files that say of themselves what must become of them.
//!
//! Header lines `key: value`, an empty line, then the bytes as hexadecimal digits. A released
//! vector is never edited; `docs/format.md` describes the form.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::made::{Made, Row, Sealing};
use super::{fixed, from_hex};
use crate::format::FormatError;
use crate::format::digest::{Sha256Digest, open_digest, seal_digest};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, WrappedKey, unwrap, wrap};
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::segment::Codec;

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/v1")
}

/// The name vectors call an error by.
fn name_of(error: FormatError) -> &'static str {
    match error {
        FormatError::Header => "Header",
        FormatError::SegmentId => "SegmentId",
        FormatError::Commitment => "Commitment",
        FormatError::Trailer => "Trailer",
        FormatError::FrameCount { .. } => "FrameCount",
        FormatError::Frame { .. } => "Frame",
        FormatError::FrameLength { .. } => "FrameLength",
        FormatError::Checksum { .. } => "Checksum",
        FormatError::Index => "Index",
        FormatError::WrapRecord => "WrapRecord",
        FormatError::WrongKey => "WrongKey",
        FormatError::Manifest => "Manifest",
        FormatError::Digest => "Digest",
    }
}

/// Every name above: each needs a vector that provokes it.
pub const NAMES: [&str; 13] = [
    "Header",
    "SegmentId",
    "Commitment",
    "Trailer",
    "FrameCount",
    "Frame",
    "FrameLength",
    "Checksum",
    "Index",
    "WrapRecord",
    "WrongKey",
    "Manifest",
    "Digest",
];

struct Vector {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Vector {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").expect("an empty line ends the header");
        let field = |line: &str| {
            let (key, value) = line.split_once(':').expect("a header line is key: value");
            (key.to_owned(), value.trim().to_owned())
        };
        Self { fields: head.lines().map(field).collect(), body: from_hex(body) }
    }

    fn get(&self, key: &str) -> &str {
        let mut values = self.fields.iter().filter(|(k, _)| k == key).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_else(|| panic!("the field {key} is missing"));
        assert!(values.next().is_none(), "the field {key} is there twice");
        value
    }

    fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} is not a number"))
    }

    fn digest(&self) -> Sha256Digest {
        Sha256Digest(fixed(self.get("plain-sha256")))
    }

    /// Fails on a key that means nothing, which would be a check that does not happen.
    fn knows_only(&self, keys: &[&str]) {
        for (key, _) in &self.fields {
            let known = ["expect", "kind", "name", "note"].contains(&key.as_str()) || keys.contains(&key.as_str());
            assert!(known, "the field {key} is unknown");
        }
    }

    fn run(&self) -> Result<(), FormatError> {
        match self.get("kind") {
            "segment" => self.run_segment(),
            "wrap" => self.run_wrap(),
            "manifest" => self.run_manifest(),
            "digest" => self.run_digest(),
            "check-value" => {
                self.knows_only(&["key"]);
                assert_eq!(Key::new(fixed(self.get("key"))).check_value().as_slice(), self.body);
                Ok(())
            }
            other => panic!("the kind {other} is unknown"),
        }
    }

    fn run_segment(&self) -> Result<(), FormatError> {
        let row = ["codec", "frame-length", "plain-length", "stored-length", "record", "commitment", "plain-sha256"];
        let sealing = ["sealed", "data-key", "segment-id", "tenant", "salt"];
        self.knows_only(&[row.as_slice(), &sealing].concat());
        let sealing = match self.get("sealed") {
            "no" => None,
            "yes" => Some(Sealing {
                data_key: fixed(self.get("data-key")),
                segment_id: fixed(self.get("segment-id")),
                tenant: self.get("tenant").to_owned(),
                salt: fixed(self.get("salt")),
            }),
            other => panic!("sealed: {other}"),
        };
        let row = Row {
            codec: Codec::try_from(self.get("codec"))?,
            frame_len: self.number("frame-length").try_into().expect("a frame length has 32 bits"),
            plain_len: self.number("plain-length"),
            stored_len: self.number("stored-length"),
            record: from_hex(self.get("record")),
            commitment: from_hex(self.get("commitment")),
            sealing,
        };
        let plain = row.read_all(&self.body)?;
        assert_eq!(Sha256Digest::of(&plain), self.digest());
        assert!(row.open()?.sha256().is_none_or(|sha256| sha256 == self.digest()));
        let again = Made::new(row.codec, row.sealing.clone(), row.frame_len, &plain);
        assert_eq!(again.row.read_all(&again.stored())?, plain);
        // Another release of a compressor may compress otherwise; everything else is frozen.
        if row.codec == Codec::Identity {
            assert_eq!(hex::encode(again.stored()), hex::encode(&self.body), "writing it again gives other bytes");
            assert_eq!(again.row.record, row.record);
            assert_eq!(again.row.commitment, row.commitment);
        }
        Ok(())
    }

    fn run_wrap(&self) -> Result<(), FormatError> {
        self.knows_only(&["version", "mode", "kid", "salt", "commit", "key", "tenant", "id", "data-key"]);
        let record = WrappedKey {
            v: self.get("version").parse().expect("a version is a number"),
            mode: WrapMode::try_from(self.get("mode"))?,
            kid: self.get("kid").to_owned(),
            salt: fixed(self.get("salt")),
            commit: fixed(self.get("commit")),
            ct: self.body.clone(),
        };
        let (key, id) = (Key::new(fixed(self.get("key"))), fixed(self.get("id")));
        let binding = WrapBinding { tenant: self.get("tenant"), id: &id };
        let data_key = unwrap(&record, &key, binding)?;
        assert_eq!(hex::encode(data_key.reveal()), self.get("data-key"));
        assert_eq!(wrap(&data_key, &key, record.mode, &record.kid, record.salt, binding), record);
        Ok(())
    }

    fn run_manifest(&self) -> Result<(), FormatError> {
        self.knows_only(&["root", "tenant", "file-id", "version", "plain-length", "plain-sha256", "segment"]);
        let line = |line: &str| {
            let parts: Vec<&str> = line.split(' ').collect();
            let [id, plain_len, commitment, protection] = parts[..] else { panic!("a segment line has four parts") };
            ManifestSegment {
                id: fixed(id),
                plain_len: plain_len.parse().expect("a length is a number"),
                commitment: fixed(commitment),
                protection: match protection {
                    "0" => Protection::Plain,
                    "1" => Protection::Managed,
                    "2" => Protection::Customer,
                    other => panic!("the protection {other} is unknown"),
                },
            }
        };
        let segments: Vec<_> = self.fields.iter().filter(|(key, _)| key == "segment").map(|(_, v)| line(v)).collect();
        let manifest = Manifest {
            tenant: self.get("tenant"),
            file_id: &fixed(self.get("file-id")),
            version: self.number("version"),
            plain_len: self.number("plain-length"),
            sha256: self.digest(),
            segments: &segments,
        };
        manifest.verify(&Key::new(fixed(self.get("root"))), &self.body)
    }

    fn run_digest(&self) -> Result<(), FormatError> {
        self.knows_only(&["root", "content-id", "plain-sha256"]);
        let (root, id) = (Key::new(fixed(self.get("root"))), fixed(self.get("content-id")));
        let digest = open_digest(&self.body, &root, &id)?;
        assert_eq!(digest, self.digest());
        assert_eq!(seal_digest(digest, &root, &id), self.body);
        Ok(())
    }
}

#[test]
fn every_vector_meets_what_it_expects() {
    let mut failures = Vec::new();
    let mut provoked = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).expect("the vectors are part of the repository") {
        let path = entry.expect("a readable folder").path();
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        let vector = Vector::parse(&std::fs::read_to_string(&path).expect("a readable file"));
        assert_eq!(file, format!("{}.txt", vector.get("name")));
        let expected = vector.get("expect").to_owned();
        let outcome = std::panic::catch_unwind(|| vector.run());
        let got = match outcome {
            Ok(Ok(())) => "ok",
            Ok(Err(error)) => name_of(error),
            Err(_) => "a panic",
        };
        if got != expected {
            failures.push(format!("{file}: expected {expected}, got {got}"));
        }
        provoked.insert(got);
        kinds.insert((vector.get("kind").to_owned(), got == "ok"));
    }
    assert!(failures.is_empty(), "{failures:#?}");
    for name in NAMES.iter().chain(&["ok"]) {
        assert!(provoked.contains(name), "no vector provokes {name}");
    }
    for kind in ["segment", "wrap", "manifest", "digest", "check-value"] {
        assert!(kinds.contains(&(kind.to_owned(), true)), "no good vector of the kind {kind}");
    }
}
