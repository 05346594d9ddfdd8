//! Proof that registry, blobs, segments, files and chunks belong together, both ways.
//!
//! Reads documents and sums of chunk lengths, not contents (that is `scrub.rs`), and changes nothing
//! unless it is to repair. A finding is looked at again until looks change nothing any more, so
//! uploads, deletes and sweeps that run meanwhile are no findings.

mod judge;
mod repair;
pub mod report;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use super::held::if_due;
use super::progress::Progress;
use super::sweep::JOB as SWEEP;
use crate::error::Error;
use crate::files::Files;
use crate::metrics;
use crate::store::census::Which;
use crate::store::rows::{RowPlace, blob_id};
use crate::store::schema::{BLOBS, REGISTRY, SEGMENTS, files_of};
use crate::store::usage::UsageSums;
use crate::store::{Bson, Id, StoreError};
use report::{Checked, Fault, Finding, FsckReport, LISTED, OffUsage};

/// Documents looked at together.
const PAGE: usize = 500;
/// Suspects kept until they are looked at again.
const SUSPECTS: usize = 10_000;
/// Pause before the first look at suspects; each later one is longer, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Looks in a row that clear no suspect and see no sweep that may, before the others are findings.
const CALM_LOOKS: u32 = 2;
/// How long looks may go on otherwise.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
/// The longest wait for a sweep that takes away what looks leaked.
const SWEEP_LIMIT: Duration = Duration::from_secs(60);

/// Whether to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Look only.
    Check,
    /// Condemn what provably nothing names.
    Repair,
}

/// Checks everything and changes nothing.
///
/// # Errors
/// When the database fails; nothing is known then.
pub async fn fsck(files: &Files) -> Result<FsckReport, Error> {
    run(files, Mode::Check, &Progress::default()).await
}

/// Checks everything.
///
/// # Errors
/// As [`fsck`].
pub async fn run(files: &Files, mode: Mode, progress: &Progress) -> Result<FsckReport, Error> {
    let mut check = Check {
        files,
        mode,
        progress,
        checked: Checked::default(),
        suspects: Vec::new(),
        report: FsckReport::default(),
    };
    check.run().await.map_err(|error| error.doing("check the store"))?;
    let report = check.report;
    metrics::checked(report.kinds().map(|(kind, findings)| (kind, findings.count)));
    Ok(report)
}

/// Runs the scheduled check when it is due.
///
/// # Errors
/// As [`fsck`].
pub async fn scheduled(files: &Files) -> Result<(), Error> {
    let every = Duration::from_secs(files.settings.fsck_interval_secs);
    let outcome = if_due(files, "fsck", every, async |_| fsck(files).await).await;
    match &outcome {
        Ok(None) => return Ok(()),
        Ok(Some(report)) if report.ok => tracing::info!(checked = ?report.checked, "the store belongs together"),
        Ok(Some(report)) => {
            for (kind, findings) in report.kinds().filter(|(_, findings)| findings.count > 0) {
                let first = findings.items.first();
                tracing::error!(kind, findings.count, ?first, "the store needs attention");
            }
        }
        Err(_) => {}
    }
    metrics::job_ended("fsck", outcome.is_ok());
    outcome.map(drop)
}

/// Something to look at, and to look at again.
#[derive(Debug, Clone)]
enum Subject {
    File(Id),
    Blob(Id),
    Segment(Id),
    GridFile(String, Bson),
    Chunks(String, Bson),
    /// A document that has no id by which it could be looked at again.
    Odd,
}

struct Suspect {
    subject: Subject,
    found: (Fault, Finding),
}

struct Check<'a> {
    files: &'a Files,
    mode: Mode,
    progress: &'a Progress,
    checked: Checked,
    suspects: Vec<Suspect>,
    report: FsckReport,
}

type Step<T> = Result<T, StoreError>;

impl Check<'_> {
    async fn run(&mut self) -> Step<()> {
        let buckets = self.files.store.list_buckets().await?;
        for collection in [REGISTRY, BLOBS, SEGMENTS] {
            self.progress.expect(self.files.store.estimate(collection).await?);
        }
        for bucket in &buckets {
            // Once for the files documents, once for their chunks.
            self.progress.expect(2 * self.files.store.estimate(&files_of(bucket)).await?);
        }
        self.check_ids().await?;
        self.check_registry().await?;
        self.check_blobs().await?;
        self.check_segments().await?;
        for bucket in &buckets {
            self.check_files(bucket).await?;
            self.check_chunks(bucket).await?;
        }
        self.confirm().await?;
        self.check_usage().await?;
        self.report.checked = std::mem::take(&mut self.checked);
        let is_ok = self.report.kinds().all(|(_, findings)| findings.count == 0);
        self.report.ok = is_ok;
        Ok(())
    }

    /// Counters beside a recount, each tenant's at one instant. No fault of the store: the TTL index and
    /// operators remove files without counting. A repair corrects them.
    async fn check_usage(&mut self) -> Step<()> {
        for tenant in self.files.store.find_tenants().await? {
            let off = match self.mode {
                Mode::Check => self.files.store.measure_usage(&tenant).await,
                Mode::Repair => self.files.store.recount_usage(&tenant).await,
            };
            let off = match off {
                Ok(off) => off,
                Err(error) => {
                    tracing::warn!(tenant, %error, "the files of a tenant cannot be counted at one instant");
                    continue;
                }
            };
            if off != UsageSums::default() && self.report.usage.len() < LISTED {
                self.report.usage.push(OffUsage { tenant, bytes: off.bytes, files: off.files });
            }
        }
        Ok(())
    }

    /// Documents whose `_id` no walk by id comes across.
    async fn check_ids(&mut self) -> Step<()> {
        for collection in [REGISTRY, BLOBS, SEGMENTS] {
            for id in self.files.store.find_odd_ids(collection, LISTED as i64).await? {
                let what = "has an _id of another type".to_owned();
                self.suspect(Subject::Odd, Fault::Shape, collection, id.to_string(), what);
            }
        }
        Ok(())
    }

    async fn check_registry(&mut self) -> Step<()> {
        let mut after = None;
        loop {
            let page = self.files.store.list_registry(Which::Below(after, PAGE as i64)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            self.checked.files += page.len() as u64;
            self.progress.advance(page.len() as u64);
            self.judge_files(page).await?;
            self.confirm_many().await?;
        }
    }

    async fn check_blobs(&mut self) -> Step<()> {
        let mut after = None;
        loop {
            let page = self.files.store.list_blobs(Which::Below(after, PAGE as i64)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            self.checked.blobs += page.len() as u64;
            self.progress.advance(page.len() as u64);
            let ids: Vec<Id> = page.iter().map(|entry| entry.id).collect();
            let rows = self.files.store.list_rows_in_blobs(&ids).await?;
            self.checked.segments += rows.len() as u64;
            self.judge_segments(RowPlace::Blob, rows).await?;
            self.judge_blobs(page).await?;
            self.confirm_many().await?;
        }
    }

    async fn check_segments(&mut self) -> Step<()> {
        let mut after = None;
        loop {
            let page = self.files.store.list_segments(Which::Below(after, PAGE as i64)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            self.checked.segments += page.len() as u64;
            self.progress.advance(page.len() as u64);
            self.judge_segments(RowPlace::Segments, page).await?;
            self.confirm_many().await?;
        }
    }

    async fn check_files(&mut self, bucket: &str) -> Step<()> {
        let mut scan = self.files.store.scan_files_documents(bucket, None).await?;
        loop {
            let page = scan.next(PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            self.progress.advance(page.len() as u64);
            self.judge_grid_files(bucket, page).await?;
            self.confirm_many().await?;
        }
    }

    async fn check_chunks(&mut self, bucket: &str) -> Step<()> {
        let mut scan = self.files.store.scan_chunks(bucket, None).await?;
        loop {
            let page = scan.next(PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            self.progress.advance(page.len() as u64);
            self.checked.chunks += page.iter().map(|sums| sums.count.unsigned_abs()).sum::<u64>();
            self.judge_chunks(bucket, page).await?;
            self.confirm_many().await?;
        }
    }

    fn suspect(&mut self, subject: Subject, fault: Fault, place: &str, id: String, what: String) {
        self.suspects.push(Suspect { subject, found: (fault, Finding { place: place.to_owned(), id, what }) });
    }

    async fn confirm_many(&mut self) -> Step<()> {
        if self.suspects.len() < SUSPECTS { Ok(()) } else { self.confirm().await }
    }

    /// Looks at every suspect again and again; what is found each time is a finding.
    async fn confirm(&mut self) -> Step<()> {
        let mut suspects = std::mem::take(&mut self.suspects);
        let checked = std::mem::take(&mut self.checked);
        let sweep = Duration::from_secs(self.files.settings.sweep_interval_secs.saturating_add(2)).min(SWEEP_LIMIT);
        let (begun, mut pause, mut calm, mut is_backlog) = (Instant::now(), FIRST_PAUSE, 0, false);
        while !suspects.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let before = suspects.len();
            suspects = self.look_again(suspects).await?;
            let awaits_sweep = suspects.iter().any(|suspect| suspect.found.0 == Fault::Leaked);
            let is_sweeping = awaits_sweep && self.files.store.is_held(SWEEP).await?;
            calm = if suspects.len() == before && !is_sweeping { calm + 1 } else { 0 };
            let is_swept = !awaits_sweep || begun.elapsed() >= sweep;
            let is_over = begun.elapsed() >= sweep.max(BUSY_LIMIT);
            if is_over || (is_swept && calm >= CALM_LOOKS) {
                is_backlog = is_sweeping;
                break;
            }
        }
        self.checked = checked;
        if self.mode == Mode::Repair {
            suspects = self.repair(suspects).await?;
        }
        if is_backlog {
            // A sweep that has more to do than it can in this time is at it.
            let before = suspects.len();
            suspects.retain(|suspect| suspect.found.0 != Fault::Leaked);
            self.report.awaiting_sweep += (before - suspects.len()) as u64;
        }
        suspects.into_iter().for_each(|suspect| self.report.add(suspect.found));
        Ok(())
    }

    /// Judges suspects once more and keeps those of which the same is found.
    async fn look_again(&mut self, suspects: Vec<Suspect>) -> Step<Vec<Suspect>> {
        let (mut files, mut blobs, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        let (mut grid_files, mut chunks) = (BTreeMap::<_, Vec<Bson>>::new(), BTreeMap::<_, Vec<Bson>>::new());
        for suspect in &suspects {
            match &suspect.subject {
                Subject::File(id) => files.push(*id),
                Subject::Blob(id) => blobs.push(*id),
                Subject::Segment(id) => segments.push(*id),
                Subject::GridFile(bucket, id) => grid_files.entry(bucket).or_default().push(id.clone()),
                Subject::Chunks(bucket, id) => chunks.entry(bucket).or_default().push(id.clone()),
                Subject::Odd => {}
            }
        }
        let store = &self.files.store;
        for ids in files.chunks(PAGE) {
            self.judge_files(store.list_registry(Which::Of(ids)).await?).await?;
        }
        for ids in blobs.chunks(PAGE) {
            self.judge_blobs(store.list_blobs(Which::Of(ids)).await?).await?;
        }
        for ids in segments.chunks(PAGE) {
            let in_blobs: Vec<Id> = ids.iter().copied().map(blob_id).collect();
            self.judge_segments(RowPlace::Segments, store.list_segments(Which::Of(ids)).await?).await?;
            self.judge_segments(RowPlace::Blob, store.list_rows_in_blobs(&in_blobs).await?).await?;
        }
        for (bucket, ids) in grid_files {
            for ids in ids.chunks(PAGE) {
                let page = store.scan_files_documents(bucket, Some(ids)).await?.next(PAGE).await?;
                self.judge_grid_files(bucket, page).await?;
            }
        }
        for (bucket, ids) in chunks {
            for ids in ids.chunks(PAGE) {
                let page = store.scan_chunks(bucket, Some(ids)).await?.next(PAGE).await?;
                self.judge_chunks(bucket, page).await?;
            }
        }
        let again: HashSet<_> = self.suspects.drain(..).map(|suspect| suspect.found).collect();
        let is_found = |suspect: &Suspect| matches!(suspect.subject, Subject::Odd) || again.contains(&suspect.found);
        Ok(suspects.into_iter().filter(is_found).collect())
    }
}
