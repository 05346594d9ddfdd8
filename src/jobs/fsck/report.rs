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
    /// A document that no gateway writes like this.
    Shape,
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
    /// Left behind while a sweep that is under way has not come to it: no finding yet.
    pub awaiting_sweep: u64,
    /// Of another shape than gateways write.
    pub shape: Findings,
    /// Tenants whose counters are not what a recount gives; a repair has corrected them.
    pub usage: Vec<OffUsage>,
    /// What a repair condemned; those are no findings any more.
    pub repaired: Repaired,
}

impl FsckReport {
    /// The kinds of findings by their names.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &Findings)> {
        let Self { missing, mismatched, orphans, leaked, shape, .. } = self;
        let kinds = [
            ("missing", missing),
            ("mismatched", mismatched),
            ("orphans", orphans),
            ("leaked", leaked),
            ("shape", shape),
        ];
        kinds.into_iter()
    }

    pub(super) fn add(&mut self, (fault, finding): (Fault, Finding)) {
        let findings = match fault {
            Fault::Missing => &mut self.missing,
            Fault::Mismatched => &mut self.mismatched,
            Fault::Orphans => &mut self.orphans,
            Fault::Leaked => &mut self.leaked,
            Fault::Shape => &mut self.shape,
        };
        findings.count += 1;
        if findings.items.len() < LISTED {
            findings.items.push(finding);
        }
    }
}

/// By how much a tenant's counters are above a recount.
#[derive(Debug, Serialize)]
pub struct OffUsage {
    /// The tenant.
    pub tenant: String,
    /// Plaintext bytes.
    pub bytes: i64,
    /// Files.
    pub files: i64,
}

/// How much a repair condemned.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repaired {
    /// GridFS files of which only chunks were left.
    pub chunks: u64,
    /// GridFS files without a segment.
    pub grid_files: u64,
    /// Segments without a blob.
    pub segments: u64,
    /// Blobs that nothing named.
    pub blobs: u64,
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
