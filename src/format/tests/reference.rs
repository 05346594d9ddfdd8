//! The independent reference: another implementation of the sealed segment, the wrapped key, the
//! manifest and the key-check value, whose bytes ours must equal.
//!
//! The small cases are vectors too (`reference-*` in `tests/vectors/v1`), so that they are checked
//! where the reference's own file is not at hand.

use std::path::PathBuf;

use serde_json::Value;

use super::fixed;
use super::made::{Made, Sealing};
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, wrap};
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::segment::Codec;

fn long_plain() -> Vec<u8> {
    Sha256Digest::of(b"x").0.repeat(4100)
}

#[test]
fn frames_of_64_kib_are_those_of_the_reference() {
    let made = Made::new(Codec::Identity, Some(Sealing::fixed()), 1 << 16, &long_plain());
    assert_eq!(made.stored().len(), 131_451);
    let sha256 = Sha256Digest::of(&made.stored()).to_string();
    assert_eq!(sha256, "4ffcc6149cd63d7df69a50bbc129fececf19ba6035c98e42452442de65d0c9f1");
}

#[test]
fn every_value_of_the_reference_file_is_ours() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/crypto/crypto_vectors.json");
    let Ok(text) = std::fs::read(path) else { return };
    let reference: Value = serde_json::from_slice(&text).expect("the reference is JSON");
    let word = |value: &Value| value.as_str().expect("a string").to_owned();

    let cases = reference["segment"].as_array().expect("a list");
    assert!(!cases.is_empty());
    for case in cases {
        let sealing = Sealing {
            data_key: fixed(&word(&case["dek"])),
            segment_id: fixed(&word(&case["segment_id"])),
            tenant: word(&case["tenant"]),
            salt: fixed(&word(&case["salt"])),
        };
        let plain = case["plain"].as_str().map_or_else(long_plain, super::from_hex);
        let frame_len = 1 << case["frame_log2"].as_u64().expect("a number");
        let made = Made::new(Codec::Identity, Some(sealing), frame_len, &plain);
        assert_eq!(Sha256Digest::of(&plain).to_string(), word(&case["plain_sha256"]));
        assert_eq!(Sha256Digest::of(&made.stored()).to_string(), word(&case["stored_sha256"]), "{}", case["case"]);
        if let Some(stored) = case["stored"].as_str() {
            assert_eq!(hex::encode(made.stored()), stored, "{}", case["case"]);
        }
        assert_eq!(made.row.read_all(&made.stored()).as_ref(), Ok(&plain));
    }

    let record = &reference["wrap"];
    let kek = Key::new(fixed(&word(&record["kek"])));
    let (tenant, id) = (word(&record["tenant"]), fixed(&word(&record["segment_id"])));
    let binding = WrapBinding { tenant: &tenant, id: &id };
    let mode = WrapMode::try_from(word(&record["mode"]).as_str()).expect("a mode of ours");
    let data_key = Key::new(fixed(&word(&record["dek"])));
    let wrapped = wrap(&data_key, &kek, mode, &word(&record["kid"]), fixed(&word(&record["salt"])), binding);
    assert_eq!(i64::from(wrapped.v), record["v"].as_i64().expect("a number"));
    assert_eq!(hex::encode(wrapped.commit), word(&record["commit"]));
    assert_eq!(hex::encode(&wrapped.ct), word(&record["ct"]));
    assert_eq!(hex::encode(kek.check_value()), word(&record["kcv"]));

    let manifest = &reference["manifest"];
    let line = |segment: &Value| ManifestSegment {
        id: fixed(&word(&segment[0])),
        plain_len: segment[1].as_u64().expect("a number"),
        commitment: fixed(&word(&segment[2])),
        protection: [Protection::Plain, Protection::Managed, Protection::Customer]
            .into_iter()
            .find(|protection| Some(*protection as u64) == segment[3].as_u64())
            .expect("a protection of ours"),
    };
    let segments: Vec<_> = manifest["segs"].as_array().expect("a list").iter().map(line).collect();
    let ours = Manifest {
        tenant: &word(&manifest["tenant"]),
        file_id: &fixed(&word(&manifest["file_id"])),
        version: manifest["version"].as_u64().expect("a number"),
        plain_len: manifest["total"].as_u64().expect("a number"),
        sha256: Sha256Digest(fixed(&word(&manifest["sha256"]))),
        segments: &segments,
    };
    assert_eq!(hex::encode(ours.mac(&Key::new(fixed(&word(&manifest["mac_key"]))))), word(&manifest["mac"]));
}
