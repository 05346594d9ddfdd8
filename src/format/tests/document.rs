//! `docs/format.md` against the code: a number, label or name there that the code does not have,
//! or has otherwise, fails here.

use std::collections::BTreeMap;

use super::vectors::NAMES;
use crate::format::compress::ZSTD_BLOCK;
use crate::format::key_wrap::{WRAP_VERSION, WrapMode};
use crate::format::manifest::{self, Protection};
use crate::format::seal::{
    self, AES_256_GCM_ID, COMMITMENT_LEN, FRAME_HEADER_LEN, FRAME_OVERHEAD, FrameKind, HEADER_LEN, TAG_LEN,
    TRAILER_MAGIC, TRAILER_SUFFIX_LEN,
};
use crate::format::seek_table::{self, FOOTER_LEN, SEEKABLE_MAGIC, SKIPPABLE_HEAD_LEN, SKIPPABLE_MAGIC};
use crate::format::segment::{
    BODY_SLACK, Codec, FORMAT_VERSION, MAX_FRAME_LEN, SEALED_HEAD_LEN, TRAILER_FIELDS_LEN, TRAILER_OFFSET_LEN,
    WORTHWHILE_PERCENT,
};
use crate::format::{FormatError, index};

const DOCUMENT: &str = include_str!("../../../docs/format.md");

/// Where the labels of derivations stand.
const SOURCES: [&str; 7] = [
    include_str!("../seal.rs"),
    include_str!("../key.rs"),
    include_str!("../key_wrap.rs"),
    include_str!("../manifest.rs"),
    include_str!("../digest.rs"),
    include_str!("../segment.rs"),
    include_str!("../upload.rs"),
];

fn word(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("letters")
}

/// The constants the document names, under the names it uses.
fn constants() -> BTreeMap<&'static str, String> {
    let lengths = [
        ("HEADER_LEN", HEADER_LEN),
        ("COMMITMENT_LEN", COMMITMENT_LEN),
        ("SEALED_HEAD_LEN", SEALED_HEAD_LEN),
        ("FRAME_HEADER_LEN", FRAME_HEADER_LEN),
        ("FRAME_OVERHEAD", FRAME_OVERHEAD),
        ("TAG_LEN", TAG_LEN),
        ("TRAILER_FIELDS_LEN", TRAILER_FIELDS_LEN),
        ("TRAILER_OFFSET_LEN", TRAILER_OFFSET_LEN),
        ("TRAILER_SUFFIX_LEN", TRAILER_SUFFIX_LEN),
        ("MAX_FRAME_LEN", MAX_FRAME_LEN as usize),
        ("BODY_SLACK", BODY_SLACK as usize),
        ("WORTHWHILE_PERCENT", WORTHWHILE_PERCENT),
        ("ZSTD_BLOCK", ZSTD_BLOCK),
        ("index::HEAD_LEN", index::HEAD_LEN),
        ("index::ENTRY_LEN", index::ENTRY_LEN),
        ("seek_table::ENTRY_LEN", seek_table::ENTRY_LEN),
        ("SKIPPABLE_HEAD_LEN", SKIPPABLE_HEAD_LEN),
        ("FOOTER_LEN", FOOTER_LEN),
        ("FORMAT_VERSION", FORMAT_VERSION as usize),
        ("WRAP_VERSION", WRAP_VERSION as usize),
        ("seal::VERSION", seal::VERSION.into()),
        ("AES_256_GCM_ID", AES_256_GCM_ID.into()),
        ("Codec::Identity", Codec::Identity as usize),
        ("Codec::Zstd", Codec::Zstd as usize),
        ("Codec::Gzip", Codec::Gzip as usize),
        ("Codec::Identity.family", Codec::Identity.family().into()),
        ("Codec::Zstd.family", Codec::Zstd.family().into()),
        ("Codec::Gzip.family", Codec::Gzip.family().into()),
        ("FrameKind::Data", FrameKind::Data as usize),
        ("FrameKind::Final", FrameKind::Final as usize),
        ("FrameKind::Trailer", FrameKind::Trailer as usize),
        ("Protection::Plain", Protection::Plain as usize),
        ("Protection::Managed", Protection::Managed as usize),
        ("Protection::Customer", Protection::Customer as usize),
    ];
    let words = [
        ("seal::MAGIC", word(seal::MAGIC)),
        ("index::MAGIC", word(index::MAGIC)),
        ("manifest::MAGIC", word(manifest::MAGIC)),
        ("TRAILER_MAGIC", word(TRAILER_MAGIC)),
        ("SKIPPABLE_MAGIC", format!("0x{SKIPPABLE_MAGIC:08X}")),
        ("SEEKABLE_MAGIC", format!("0x{SEEKABLE_MAGIC:08X}")),
        ("WrapMode::Managed", WrapMode::Managed.name().to_owned()),
        ("WrapMode::Customer", WrapMode::Customer.name().to_owned()),
    ];
    lengths.into_iter().map(|(name, len)| (name, len.to_string())).chain(words).collect()
}

/// The `` `NAME` = `value` `` pairs of the document.
fn named_values() -> Vec<(&'static str, &'static str)> {
    DOCUMENT
        .match_indices("` = `")
        .map(|(at, middle)| {
            let name = DOCUMENT[..at].rsplit('`').next().expect("a name");
            let value = DOCUMENT[at + middle.len()..].split('`').next().expect("a value");
            (name, value)
        })
        .collect()
}

#[test]
fn every_number_the_document_names_is_the_code_s() {
    let constants = constants();
    let named = named_values();
    for (name, value) in &named {
        let ours = constants.get(name).unwrap_or_else(|| panic!("{name} is not compared with the code"));
        assert_eq!(value, ours, "{name}");
    }
    for name in constants.keys() {
        assert!(named.iter().any(|(known, _)| known == name), "the document does not name {name}");
    }
}

#[test]
fn every_label_of_the_document_is_in_the_code_and_the_other_way_round() {
    let labels = |text: &str, quote: char| -> Vec<String> {
        let starts = text.match_indices(&format!("{quote}gridgate/")).map(|(at, _)| at + 1).collect::<Vec<_>>();
        starts.into_iter().map(|at| text[at..].split(quote).next().expect("a label").to_owned()).collect()
    };
    let documented = labels(DOCUMENT, '`');
    let coded: Vec<String> = SOURCES.iter().flat_map(|source| labels(source, '"')).collect();
    assert!(coded.len() >= 5, "{coded:?}");
    assert!(documented.iter().all(|label| coded.contains(label)), "{documented:?} {coded:?}");
    assert!(coded.iter().all(|label| documented.contains(label)), "{documented:?} {coded:?}");
}

#[test]
fn every_offset_of_a_layout_follows_from_the_sizes_before_it() {
    let mut layouts = 0;
    let mut end: Option<usize> = None;
    for line in DOCUMENT.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        match cells[..] {
            ["Offset", "Size", "Type", "Meaning", "Source"] => {
                layouts += 1;
                end = Some(0);
            }
            [offset, size, _, _, _] if end.is_some() => {
                if let Ok(offset) = offset.parse::<usize>() {
                    assert_eq!(Some(offset), end, "{line}");
                    end = Some(offset + size.parse::<usize>().unwrap_or(0));
                }
            }
            _ if !line.starts_with('|') => end = None,
            _ => {}
        }
    }
    assert_eq!(layouts, 7, "a layout was added or is no longer recognised");
    let sizes = |heading: &str| -> usize {
        let section = DOCUMENT.split(&format!("### {heading}\n")).nth(1).expect("the section is there");
        let section = section.split("\n#").next().expect("it ends");
        let size = |line: &str| line.split(" | ").nth(1).and_then(|size| size.trim().parse::<usize>().ok());
        section.lines().filter_map(size).sum()
    };
    assert_eq!(sizes("Head"), SEALED_HEAD_LEN);
    assert_eq!(sizes("Frame"), FRAME_OVERHEAD);
    assert_eq!(sizes("Sealed trailer"), TRAILER_FIELDS_LEN);
    assert_eq!(sizes("Suffix"), TRAILER_SUFFIX_LEN);
    assert_eq!(sizes("Frame index record"), index::HEAD_LEN + index::ENTRY_LEN);
}

#[test]
fn every_refusal_has_its_line_and_every_codec_its_name() {
    for name in NAMES {
        assert!(DOCUMENT.contains(&format!("\n| `{name}` |")), "{name}");
    }
    for codec in Codec::ALL {
        assert!(DOCUMENT.contains(&format!("name `{}`", codec.name())), "{codec:?}");
        assert_eq!(Codec::try_from(codec.name()), Ok(codec));
    }
    assert_eq!(Codec::try_from("lz4"), Err(FormatError::Index));
}
