//! What a check found, as it is printed. Finds nothing itself.

use serde::Serialize;

/// Findings of one kind that are listed; all are counted.
pub const LISTED: usize = 1000;

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Something named is not there.
    Missing,
    /// Two documents, or a document and its bytes, contradict each other.
    Mismatched,
    /// Bytes or rows whose owner is not there.
    Orphans,
    /// Something that a sweep should have taken away.
    Leaked,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    /// The collection or bucket.
    #[serde(rename = "where")]
    pub place: String,
    /// The document.
    pub id: String,
    /// What is wrong.
    pub what: String,
}

/// The outcome of a check.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FsckReport {
    /// Nothing is wrong.
    pub ok: bool,
    /// How many of each were looked at.
    pub checked: Checked,
    /// Named, but not there.
    pub missing: Findings,
    /// Contradicting each other.
    pub mismatched: Findings,
    /// Without an owner.
    pub orphans: Findings,
    /// Left behind.
    pub leaked: Findings,
}

/// Findings of one kind.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// All of them.
    pub count: u64,
    /// The first of them.
    pub items: Vec<Finding>,
}

/// How much was looked at.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Registry documents.
    pub files: u64,
    /// Blobs.
    pub blobs: u64,
    /// Segment rows.
    pub segments: u64,
    /// Files documents of ours.
    pub grid_files: u64,
    /// Chunk documents.
    pub chunks: u64,
    /// Files documents of other programs, which are left alone.
    pub foreign: u64,
}
