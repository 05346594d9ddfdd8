//! What content is and where it goes: kinds, buckets and the rule that routes a type to a bucket.
//!
//! Pure: looks at names and leading bytes only, stores nothing.

pub mod media_type;
pub mod sniff;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::format::segment::Codec;
use media_type::MediaType;

/// What a file is, coarsely, for people and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ContentKind {
    Image,
    Video,
    Audio,
    Document,
    Text,
    Data,
    Archive,
    Binary,
}

impl ContentKind {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::Image, Self::Video, Self::Audio, Self::Document, Self::Text, Self::Data, Self::Archive, Self::Binary];

    /// The word in documents and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Document => "document",
            Self::Text => "text",
            Self::Data => "data",
            Self::Archive => "archive",
            Self::Binary => "binary",
        }
    }

    /// The kind of a media type.
    pub fn of(media_type: &MediaType) -> Self {
        let essence = media_type.essence();
        match essence.split_once('/').unwrap_or_default() {
            ("image", _) => Self::Image,
            ("video", _) => Self::Video,
            ("audio", _) => Self::Audio,
            ("text", "csv" | "tab-separated-values") => Self::Data,
            ("text", "rtf") => Self::Document,
            ("text", _) => Self::Text,
            ("application", subtype) => Self::of_application(subtype),
            _ => Self::Binary,
        }
    }

    fn of_application(subtype: &str) -> Self {
        const ARCHIVES: [&str; 17] = [
            "zip",
            "gzip",
            "x-gzip",
            "x-tar",
            "x-bzip2",
            "x-xz",
            "zstd",
            "x-7z-compressed",
            "vnd.rar",
            "x-rar-compressed",
            "x-lzip",
            "x-lz4",
            "x-compress",
            "x-cpio",
            "vnd.ms-cab-compressed",
            "vnd.debian.binary-package",
            "java-archive",
        ];
        const DATA: [&str; 9] =
            ["json", "xml", "x-ndjson", "yaml", "toml", "sql", "vnd.sqlite3", "vnd.apache.parquet", "x-hdf5"];
        const DOCUMENTS: [&str; 8] =
            ["pdf", "msword", "rtf", "epub+zip", "postscript", "x-ole-storage", "x-mobipocket-ebook", "vnd.visio"];
        const OFFICE: [&str; 4] =
            ["vnd.openxmlformats-officedocument.", "vnd.oasis.opendocument.", "vnd.ms-excel", "vnd.ms-powerpoint"];
        const TEXTS: [&str; 3] = ["javascript", "x-sh", "x-www-form-urlencoded"];
        match subtype {
            _ if DOCUMENTS.contains(&subtype) || OFFICE.iter().any(|prefix| subtype.starts_with(prefix)) => {
                Self::Document
            }
            _ if ARCHIVES.contains(&subtype) => Self::Archive,
            _ if DATA.contains(&subtype) || subtype.ends_with("+json") || subtype.ends_with("+xml") => Self::Data,
            _ if TEXTS.contains(&subtype) => Self::Text,
            _ => Self::Binary,
        }
    }
}

/// Whether a bucket's files are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionPolicy {
    /// Always; a request cannot say otherwise.
    Required,
    /// Unless the request says otherwise.
    On,
    /// Only if the request says so.
    Off,
}

/// How a bucket stores its files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    /// Media types routed here: `type/subtype`, `type/*` or `*/*`; the most specific wins.
    pub types: Vec<String>,
    /// Media types accepted; others routed here are refused.
    pub accept: Vec<String>,
    /// The codec for `compress=auto`: `identity`, `zstd` or `gzip`.
    pub codec: String,
    /// The codec's level: zstd 1 to 6, gzip 1 to 9.
    pub level: i32,
    /// Plaintext KiB of a frame: a power of two, 64 to 1,024.
    pub frame_kib: u32,
    /// KiB of a chunk for files below 8 MiB, 64 to 2,048.
    pub small_chunk_kib: u32,
    /// KiB of a chunk for larger files and those of unknown length, 64 to 2,048.
    pub large_chunk_kib: u32,
    /// Whether files are encrypted.
    pub encryption: EncryptionPolicy,
    /// Largest file in bytes, 1 to 1 TiB.
    pub max_bytes: u64,
    /// Days a file is kept whose upload says nothing about it, 1 to 36,500; 0: for ever.
    pub retention_days: i64,
}

/// Bytes of a frame in a segment's index.
const INDEX_ENTRY_LEN: u64 = 12;
/// A segment's index lies in one document beside its row.
const MAX_INDEX_LEN: u64 = 12 << 20;
/// Files from this length on are stored in large chunks.
const LARGE_FILE_LEN: u64 = 8 << 20;

impl BucketSettings {
    /// Names the first setting out of its range.
    fn check(&self, name: &str) -> Result<(), String> {
        let key = |field: &str| format!("buckets.{name}.{field}");
        let level = match self.codec() {
            None => return Err(format!("{}: {:?} is not identity, zstd or gzip", key("codec"), self.codec)),
            Some(Codec::Identity) => 0..=9,
            Some(Codec::Zstd) => 1..=6,
            Some(Codec::Gzip) => 1..=9,
        };
        if !level.contains(&self.level) {
            return Err(format!(
                "{}: {} is not between {} and {}",
                key("level"),
                self.level,
                level.start(),
                level.end()
            ));
        }
        if !self.frame_kib.is_power_of_two() || !(64..=1024).contains(&self.frame_kib) {
            return Err(format!("{}: {} is not a power of two between 64 and 1024", key("frame_kib"), self.frame_kib));
        }
        for (field, kib) in [("small_chunk_kib", self.small_chunk_kib), ("large_chunk_kib", self.large_chunk_kib)] {
            if !(64..=2048).contains(&kib) {
                return Err(format!("{}: {kib} is not between 64 and 2048", key(field)));
            }
        }
        if !(1..=1 << 40).contains(&self.max_bytes) {
            return Err(format!("{}: {} is not between 1 and 1099511627776", key("max_bytes"), self.max_bytes));
        }
        if !(0..=36_500).contains(&self.retention_days) {
            return Err(format!("{}: {} is not between 0 and 36500", key("retention_days"), self.retention_days));
        }
        let smallest_frame = u64::from(self.frame_kib.min(self.small_chunk_kib).min(self.large_chunk_kib)) << 10;
        if self.max_bytes.div_ceil(smallest_frame) * INDEX_ENTRY_LEN > MAX_INDEX_LEN {
            return Err(format!("{}: files so large need larger frames and chunks than these", key("max_bytes")));
        }
        for (field, patterns) in [("types", &self.types), ("accept", &self.accept)] {
            if let Some(bad) = patterns.iter().find(|pattern| specificity(pattern).is_none()) {
                return Err(format!("{}: {bad:?} is not type/subtype, type/* or */*", key(field)));
            }
        }
        Ok(())
    }

    /// The codec for `compress=auto`.
    pub fn codec(&self) -> Option<Codec> {
        Codec::try_from(self.codec.as_str()).ok()
    }

    /// The level for a codec: the bucket's for its own, else one that is quick and good.
    pub fn level_of(&self, codec: Codec) -> i32 {
        match codec {
            _ if self.codec() == Some(codec) => self.level,
            Codec::Identity => 0,
            Codec::Zstd => 1,
            Codec::Gzip => 6,
        }
    }

    /// Bytes of a frame.
    pub fn frame_len(&self) -> u32 {
        self.frame_kib << 10
    }

    /// Bytes of a chunk for a file of this length.
    pub fn chunk_size(&self, plain_len: Option<u64>) -> u32 {
        let is_small = plain_len.is_some_and(|len| len < LARGE_FILE_LEN);
        (if is_small { self.small_chunk_kib } else { self.large_chunk_kib }) << 10
    }

    /// Whether files of this type may lie here.
    pub fn accepts(&self, media_type: &MediaType) -> bool {
        self.accept.iter().any(|pattern| matches(pattern, media_type))
    }
}

/// The buckets and which types go where.
#[derive(Debug, Clone)]
pub struct Routing {
    buckets: BTreeMap<String, BucketSettings>,
}

/// A bucket chosen for a file.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The GridFS bucket's name.
    pub bucket: &'a str,
    /// How it stores.
    pub settings: &'a BucketSettings,
}

impl Routing {
    /// Checks the settings.
    ///
    /// # Errors
    /// A sentence that names the key: a bad name, a value out of range, no bucket for `*/*`, or
    /// two buckets for one pattern.
    pub fn new(buckets: BTreeMap<String, BucketSettings>) -> Result<Self, String> {
        let mut seen = BTreeMap::new();
        for (name, settings) in &buckets {
            let is_plain =
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
            if name.is_empty() || name.len() > 32 || !is_plain || name.starts_with("system") {
                return Err(format!("buckets.{name}: a bucket's name is 1 to 32 of a-z, 0-9, _ and -"));
            }
            settings.check(name)?;
            for pattern in &settings.types {
                if let Some(other) = seen.insert(pattern.clone(), name) {
                    return Err(format!("buckets.{name}.types: {pattern:?} already goes to bucket {other}"));
                }
            }
        }
        if !seen.contains_key("*/*") {
            return Err("buckets: one of them must take \"*/*\"".into());
        }
        Ok(Self { buckets })
    }

    /// The bucket for a type: of all matching patterns the most specific decides.
    pub fn route(&self, media_type: &MediaType) -> Route<'_> {
        let candidates = self.buckets.iter().flat_map(|(bucket, settings)| {
            settings.types.iter().map(move |pattern| (pattern, Route { bucket, settings }))
        });
        let (_, route) = candidates
            .filter(|(pattern, _)| matches(pattern, media_type))
            .max_by_key(|(pattern, _)| specificity(pattern))
            .expect("`new` made sure that */* is routed");
        route
    }

    /// A bucket by its name.
    pub fn bucket(&self, name: &str) -> Option<&BucketSettings> {
        self.buckets.get(name)
    }

    /// Whether any bucket takes encrypted content only.
    pub fn requires_encryption(&self) -> bool {
        self.buckets.values().any(|settings| settings.encryption == EncryptionPolicy::Required)
    }

    /// Whether any bucket encrypts what comes without a wish.
    pub fn may_encrypt(&self) -> bool {
        self.buckets.values().any(|settings| settings.encryption != EncryptionPolicy::Off)
    }

    /// The largest file that any bucket takes.
    pub fn max_bytes(&self) -> u64 {
        self.buckets.values().map(|settings| settings.max_bytes).max().unwrap_or_default()
    }

    /// Every bucket's name.
    pub fn names(&self) -> Vec<String> {
        self.buckets.keys().cloned().collect()
    }
}

/// 0 for `*/*`, 1 for `type/*`, 2 for `type/subtype`; none for anything else.
fn specificity(pattern: &str) -> Option<u8> {
    let (kind, subtype) = pattern.split_once('/')?;
    match (kind, subtype) {
        ("*", "*") => Some(0),
        ("*", _) | ("", _) | (_, "") => None,
        (_, "*") => Some(1),
        _ if subtype.contains(['/', '*']) || pattern != pattern.to_ascii_lowercase() => None,
        _ => Some(2),
    }
}

fn matches(pattern: &str, media_type: &MediaType) -> bool {
    let essence = media_type.essence();
    match pattern.strip_suffix("/*") {
        Some("*") => true,
        Some(kind) => essence.split('/').next() == Some(kind),
        None => essence == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(types: &[&str]) -> BucketSettings {
        BucketSettings {
            types: types.iter().map(|t| (*t).to_owned()).collect(),
            accept: vec!["*/*".into()],
            codec: "zstd".into(),
            level: 3,
            frame_kib: 256,
            small_chunk_kib: 255,
            large_chunk_kib: 2048,
            encryption: EncryptionPolicy::On,
            max_bytes: 1 << 30,
            retention_days: 0,
        }
    }

    fn routing(buckets: &[(&str, BucketSettings)]) -> Result<Routing, String> {
        Routing::new(buckets.iter().map(|(name, bucket)| ((*name).to_owned(), bucket.clone())).collect())
    }

    #[test]
    fn the_most_specific_pattern_decides() {
        let routing = routing(&[
            ("files", bucket(&["*/*"])),
            ("images", bucket(&["image/*"])),
            ("vectors", bucket(&["image/svg+xml"])),
        ])
        .expect("the settings are sound");
        let bucket_of = |name: &str| routing.route(&MediaType::parse(name).expect("a type")).bucket.to_owned();
        assert_eq!(bucket_of("image/png"), "images");
        assert_eq!(bucket_of("image/svg+xml"), "vectors");
        assert_eq!(bucket_of("chemical/x-pdb"), "files");
    }

    #[test]
    fn unsafe_bucket_settings_are_refused_by_name() {
        let with = |change: fn(&mut BucketSettings)| {
            let mut changed = bucket(&["*/*"]);
            change(&mut changed);
            routing(&[("files", changed)]).expect_err("the setting is unsafe")
        };
        assert!(with(|b| b.large_chunk_kib = 4096).starts_with("buckets.files.large_chunk_kib"));
        assert!(with(|b| b.small_chunk_kib = 32).starts_with("buckets.files.small_chunk_kib"));
        assert!(with(|b| b.frame_kib = 100).starts_with("buckets.files.frame_kib"));
        assert!(with(|b| b.codec = "lzma".into()).starts_with("buckets.files.codec"));
        assert!(with(|b| b.level = 19).starts_with("buckets.files.level"));
        assert!(with(|b| b.max_bytes = 0).starts_with("buckets.files.max_bytes"));
        assert!(with(|b| b.retention_days = -1).starts_with("buckets.files.retention_days"));
        assert!(with(|b| b.types = vec!["image".into()]).starts_with("buckets.files.types"));
        assert!(routing(&[("a.files", bucket(&["*/*"]))]).is_err());
        assert!(routing(&[("a", bucket(&["*/*"])), ("b", bucket(&["*/*"]))]).is_err());
        assert!(routing(&[("a", bucket(&["image/*"]))]).is_err());
    }
}
