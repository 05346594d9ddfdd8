//! Rotation of key-encryption keys: every data key and every root wrapped anew under the ring's
//! primary, while gateways serve. Touches no chunk.
//!
//! May be killed and run again, and run by several at once: a record is replaced only where it is
//! still as it was read. Keys of clients are theirs to change.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::error::{Error, ErrorCode, Result};
use crate::failpoint;
use crate::files::Files;
use crate::format::key_wrap::WrapBinding;
use crate::store::rekey::WrappedSegment;
use crate::store::rows::RowPlace;

/// Records read together.
const PAGE: i64 = 200;
/// Records of a page under way at once.
const AT_ONCE: usize = 8;

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct RekeyReport {
    /// Records now wrapped by the primary that were not before.
    pub rewrapped: u64,
    /// Records that needed nothing: wrapped by the primary before, or changed by another meanwhile.
    pub already: u64,
    /// Records that could not be opened; each is in the log.
    pub failed: u64,
    /// Records wrapped by other keys when the run ended.
    pub remaining: BTreeMap<String, u64>,
}

impl RekeyReport {
    /// Whether only the primary is in use.
    pub fn is_done(&self) -> bool {
        self.failed == 0 && self.remaining.is_empty()
    }
}

/// How much each key is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyUses {
    /// The key that wraps.
    pub primary: String,
    /// Records by key; a key of the ring that wraps nothing is there with 0.
    pub uses: BTreeMap<String, u64>,
    /// Keys in use that the ring does not have.
    pub missing: Vec<String>,
}

/// Counts what each key wraps, uploads that run included.
///
/// # Errors
/// When the database fails.
pub async fn key_uses(files: &Files) -> Result<KeyUses> {
    let missing = find_missing(files).await?;
    let mut uses = count_all(files).await?;
    for kid in files.keys.ring.kids() {
        uses.entry(kid.to_owned()).or_default();
    }
    Ok(KeyUses { primary: files.keys.ring.primary().to_owned(), uses, missing })
}

/// Logs which keys the ring lacks, and how many records cannot be opened for it.
///
/// # Errors
/// When the database fails.
pub async fn warn_of_missing_keys(files: &Files) -> Result<()> {
    for kid in find_missing(files).await? {
        let records = count(files, &kid).await?;
        tracing::warn!(kid, records, "a key in use is not in the keyring: its files answer key_unavailable");
    }
    Ok(())
}

/// Rewraps everything; `watch` hears how many records are done, of how many.
///
/// # Errors
/// When the database fails: what was done stays done. A record that does not open is counted.
pub async fn rekey(files: &Files, mut watch: impl FnMut(u64, u64)) -> Result<RekeyReport> {
    let (primary, missing) = (files.keys.ring.primary(), find_missing(files).await?);
    let mut old = count_all(files).await?;
    let mut report = RekeyReport { already: old.remove(primary).unwrap_or(0), ..RekeyReport::default() };
    let total = old.values().sum();
    let mut done = rewrap_roots(files, &mut report).await?;
    for (kid, records) in &old {
        if missing.contains(kid) {
            report.failed += records;
            continue;
        }
        for place in RowPlace::ALL {
            let mut after = None;
            loop {
                watch(done, total);
                let page = files.store.page_wrapped(place, kid, after, PAGE).await.map_err(|e| e.doing(READING))?;
                let Some(last) = page.last() else { break };
                after = Some(last.holder);
                done += page.len() as u64;
                rewrap_page(files, page, &mut report).await?;
                failpoint::hit("rekey.page");
            }
        }
    }
    failpoint::hit("rekey.records");
    report.remaining = count_all(files).await?;
    let in_use: Vec<&str> = report.remaining.keys().map(String::as_str).chain([primary]).collect();
    let named = files.store.name_wrapping_key(primary, &in_use).await;
    named.map_err(|e| e.doing("name the new key in the registry"))?;
    report.remaining.remove(primary);
    Ok(report)
}

const READING: &str = "read the wrapped keys";
const WRITING: &str = "replace a wrapped key";

async fn count(files: &Files, kid: &str) -> Result<u64> {
    files.store.count_wrapped(kid).await.map_err(|e| e.doing(READING))
}

async fn count_all(files: &Files) -> Result<BTreeMap<String, u64>> {
    let mut uses = BTreeMap::new();
    for kid in files.store.find_wrapping_keys().await.map_err(|e| e.doing(READING))? {
        let records = count(files, &kid).await?;
        uses.insert(kid, records);
    }
    Ok(uses)
}

/// Keys in use that the ring does not have.
async fn find_missing(files: &Files) -> Result<Vec<String>> {
    let used = files.store.find_wrapping_keys().await.map_err(|e| e.doing(READING))?;
    Ok(used.into_iter().filter(|kid| files.keys.ring.kids().all(|known| known != kid)).collect())
}

/// What became of one record.
enum Outcome {
    Rewrapped,
    ChangedMeanwhile,
    Failed,
}

impl RekeyReport {
    fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Rewrapped => &mut self.rewrapped,
            Outcome::ChangedMeanwhile => &mut self.already,
            Outcome::Failed => &mut self.failed,
        } += 1;
    }
}

/// Gives how many it looked at.
async fn rewrap_roots(files: &Files, report: &mut RekeyReport) -> Result<u64> {
    let ring = &files.keys.ring;
    let mut roots = files.store.find_roots().await.map_err(|e| e.doing("read the root keys"))?;
    roots.retain(|root| root.enc.kid() != ring.primary());
    for root in &roots {
        let outcome = match ring.rewrap(&root.enc, WrapBinding { tenant: &root.id, id: &root.binding.bytes() }) {
            Err(error) => failed(&root.id, &error),
            Ok(new) => replaced(files.store.rewrap_root(root, &new).await.map_err(|e| e.doing(WRITING))?),
        };
        failpoint::hit("rekey.root");
        report.add(outcome);
    }
    Ok(roots.len() as u64)
}

async fn rewrap_page(files: &Files, page: Vec<WrappedSegment>, report: &mut RekeyReport) -> Result<()> {
    let mut outcomes = stream::iter(page).map(|segment| rewrap_segment(files, segment)).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.try_next().await? {
        report.add(outcome);
    }
    Ok(())
}

async fn rewrap_segment(files: &Files, segment: WrappedSegment) -> Result<Outcome> {
    let WrappedSegment { id, place, holder, wrapped } = segment;
    let Some((old, tenant)) = wrapped else {
        let error = Error::new(ErrorCode::Damaged, "The wrapped key or the blob's scope cannot be read.");
        return Ok(failed(&id.to_hex(), &error));
    };
    match files.keys.ring.rewrap(&old, WrapBinding { tenant: &tenant, id: &id.bytes() }) {
        Err(error) => Ok(failed(&id.to_hex(), &error)),
        Ok(new) => {
            let outcome = files.store.rewrap_segment(place, holder, &old, &new).await;
            failpoint::hit("rekey.record");
            Ok(replaced(outcome.map_err(|e| e.doing(WRITING))?))
        }
    }
}

fn replaced(is_replaced: bool) -> Outcome {
    if is_replaced { Outcome::Rewrapped } else { Outcome::ChangedMeanwhile }
}

fn failed(record: &str, error: &Error) -> Outcome {
    let cause = error.cause.as_deref().map(ToString::to_string);
    tracing::warn!(record, %error, cause, "a key cannot be rewrapped");
    Outcome::Failed
}
