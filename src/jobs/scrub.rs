//! Reading everything that is stored, slowly, to find bytes that no longer verify before somebody asks
//! for them. Marks what it finds; mends nothing.
//!
//! Content is read blob by blob from the newest id to the oldest. A run that was cut goes on after the last blob it
//! was done with; one gateway at a time runs.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::held::if_due;
use super::progress::Progress;
use crate::error::{Error, ErrorCode, Result};
use crate::files::Files;
use crate::files::verify::is_customers;
use crate::metrics;
use crate::store::audit::AuditDoc;
use crate::store::census::{ChunkSums, Which};
use crate::store::registry::FileDoc;
use crate::store::rows::RowPlace;
use crate::store::runs::{Note, Run};
use crate::store::segments::{SegmentDoc, State};
use crate::store::{DateTime, Id, StoreError, doc, new_id};

/// Blobs looked up together.
const PAGE: i64 = 200;
/// Pause between two notes of how far a run came.
const NOTE_PAUSE: Duration = Duration::from_secs(1);
/// Files of one damaged content that are named and audited.
const NAMING: i64 = 1000;
/// Files of one content of which the first that opens is read.
const TRIED: i64 = 16;
/// Damages that are listed; all are counted.
const LISTED: usize = 1000;

/// What to read and how fast.
#[derive(Debug, Clone)]
pub struct Scrub {
    /// Only the content of this bucket.
    pub bucket: Option<String>,
    /// MiB of stored bytes a second, at least 1.
    pub mib_per_sec: u64,
    /// How long after the end of the last run.
    pub every: Duration,
}

/// What a run found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubReport {
    /// Everything that could be read verifies.
    pub ok: bool,
    /// The run goes on where an earlier one was cut; the counts are of this part.
    pub is_resumed: bool,
    /// Contents read to their end.
    pub blobs: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// Contents under their clients' keys: their chunks were counted and measured only.
    pub skipped: u64,
    /// Contents whose key is not in the ring: not read.
    pub keyless: u64,
    /// Contents that were marked as damaged and verify again.
    pub cleared: u64,
    /// Contents that do not verify.
    pub damaged: u64,
    /// The files of the first of those.
    pub damages: Vec<Damage>,
}

/// A file whose content does not verify.
#[derive(Debug, Clone, Serialize)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Its content.
    pub blob: String,
    /// The first wrong place.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

/// Runs the scheduled scrub when it is due.
///
/// # Errors
/// As [`scrub`].
pub async fn scheduled(files: &Files) -> Result<()> {
    let settings = &files.settings;
    let every = Duration::from_secs(settings.scrub_interval_secs);
    let wanted = Scrub { bucket: None, mib_per_sec: settings.scrub_mib_per_sec, every };
    let outcome = scrub(files, &wanted, &Progress::default()).await;
    match &outcome {
        Ok(None) => return Ok(()),
        Ok(Some(report)) => tracing::info!(report.blobs, report.bytes, report.damaged, "scrubbed"),
        Err(_) => {}
    }
    metrics::job_ended("scrub", outcome.is_ok());
    outcome.map(drop)
}

/// Reads everything; none when another run is under way or none is due.
///
/// # Errors
/// `bad_request` for a bucket that is not there; the database's, `unavailable` when another gateway took
/// the run over. Damage is no error.
pub async fn scrub(files: &Files, wanted: &Scrub, progress: &Progress) -> Result<Option<ScrubReport>> {
    let job = match &wanted.bucket {
        None => "scrub".to_owned(),
        Some(bucket) => {
            let buckets = files.store.list_buckets().await.map_err(|error| error.doing("list the buckets"))?;
            if !buckets.contains(bucket) {
                return Err(Error::bad_request("bucket", format!("The database has no GridFS bucket {bucket:?}.")));
            }
            format!("scrub {bucket}")
        }
    };
    if_due(files, &job, wanted.every, async |run| {
        let expected = files.store.sum_stored(wanted.bucket.as_deref()).await.map_err(doing)?;
        progress.expect(expected);
        let pace = Pace { bytes_per_sec: wanted.mib_per_sec.max(1) << 20, next: Instant::now() };
        let report = ScrubReport { is_resumed: run.after.is_some(), ..ScrubReport::default() };
        let mut reading = Reading { files, wanted, progress, pace, marked: HashSet::new(), report };
        reading.run(run).await?;
        Ok(reading.report)
    })
    .await
}

/// Spreads reading over time, without making up for what was missed.
struct Pace {
    bytes_per_sec: u64,
    next: Instant,
}

impl Pace {
    async fn pause(&mut self, len: u64) {
        let share = Duration::from_secs_f64(len as f64 / self.bytes_per_sec as f64);
        self.next = self.next.max(Instant::now()) + share;
        tokio::time::sleep_until(self.next).await;
    }
}

struct Reading<'a> {
    files: &'a Files,
    wanted: &'a Scrub,
    progress: &'a Progress,
    pace: Pace,
    /// Of the page at hand, the blobs marked as damaged.
    marked: HashSet<Id>,
    report: ScrubReport,
}

fn doing(error: StoreError) -> Error {
    error.doing("scrub")
}

impl Reading<'_> {
    async fn run(&mut self, run: &Run) -> Result<()> {
        let (store, mut after, mut noted) = (&self.files.store, run.after, Instant::now());
        loop {
            let page = store.list_blobs(Which::Below(after, PAGE)).await.map_err(doing)?;
            let ids: Vec<Id> = page.iter().map(|entry| entry.id).collect();
            let Some(last) = ids.last() else { break };
            self.marked = store.find_marked(&ids).await.map_err(doing)?.into_iter().collect();
            for blob in page.into_iter().filter_map(|entry| entry.row).filter(|blob| blob.state == State::Live) {
                self.read_blob(blob.id, RowPlace::likely(blob.size)).await?;
                if noted.elapsed() >= NOTE_PAUSE {
                    store.note_run(run, Note::At(blob.id)).await.map_err(doing)?;
                    noted = Instant::now();
                }
            }
            after = Some(*last);
        }
        let marked = store.count_damaged().await.map_err(doing)?;
        metrics::damaged(marked);
        metrics::scrubbed(0, 0);
        // A run that was taken up again has not seen itself what its first part marked.
        self.report.ok = self.report.damaged == 0 && (marked == 0 || !self.report.is_resumed);
        Ok(())
    }

    async fn read_blob(&mut self, blob: Id, likely: RowPlace) -> Result<()> {
        let store = &self.files.store;
        let segments = match store.find_segments(blob, likely).await {
            Err(error) if error.is_transient() => return Err(doing(error)),
            Err(_) => return self.damaged(blob, "segments", "rows that cannot be read").await,
            Ok(segments) => segments,
        };
        let is_wanted = |segment: &SegmentDoc| self.wanted.bucket.as_ref().is_none_or(|name| *name == segment.bucket);
        if !segments.first().is_some_and(is_wanted) {
            return Ok(());
        }
        let mut naming = store.find_naming(blob, TRIED).await.map_err(doing)?.files;
        if naming.is_empty() {
            // Content that nothing names is the sweep's.
            return Ok(());
        }
        if segments.iter().any(is_customers) {
            return self.measure(blob, &segments).await;
        }
        // Shared content is not damaged where one of its files is: that is for fsck to say.
        let opens = |file: &FileDoc| self.files.assemble(file.clone(), segments.clone()).is_ok();
        let chosen = naming.iter().position(opens).unwrap_or(0);
        let file = naming.swap_remove(chosen);
        let mut verification = self.files.verify(file, segments);
        loop {
            match verification.next().await {
                Ok(Some(len)) => self.count(len).await,
                Ok(None) => return self.sound(blob).await,
                Err(error) if error.code == ErrorCode::Damaged => {
                    let what = error.cause.map_or_else(|| error.detail.into_owned(), |cause| cause.to_string());
                    return self.damaged(blob, verification.place(), &what).await;
                }
                Err(error) if error.code == ErrorCode::KeyUnavailable => {
                    self.report.keyless += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn count(&mut self, len: u64) {
        self.report.bytes += len;
        self.progress.advance(len);
        let (done, total) = self.progress.read();
        metrics::scrubbed(len, total.saturating_sub(done));
        self.pace.pause(len).await;
    }

    /// Counts and measures the chunks of content that only its client can open.
    async fn measure(&mut self, blob: Id, segments: &[SegmentDoc]) -> Result<()> {
        for segment in segments {
            let files_id = segment.grid_file().map_err(doing)?.files_id;
            let scan = self.files.store.scan_chunks(&segment.bucket, Some(std::slice::from_ref(&files_id))).await;
            let found = scan.map_err(doing)?.next(1).await.map_err(doing)?.pop();
            let expected = ChunkSums::expected(files_id, segment.stored_len, segment.chunk_size.into());
            if found.as_ref() != Some(&expected) && segment.stored_len > 0 {
                let place = format!("segment {}, chunks", segment.id);
                return self.damaged(blob, &place, "a chunk is missing or of a wrong length").await;
            }
        }
        self.report.skipped += 1;
        self.clear(blob).await
    }

    async fn sound(&mut self, blob: Id) -> Result<()> {
        self.report.blobs += 1;
        self.clear(blob).await
    }

    async fn clear(&mut self, blob: Id) -> Result<()> {
        if self.marked.contains(&blob) {
            self.report.cleared += u64::from(self.files.store.clear_damage(blob).await.map_err(doing)?);
        }
        Ok(())
    }

    /// Marks content and its files, unless it was on its way out while it was read.
    async fn damaged(&mut self, blob: Id, place: &str, what: &str) -> Result<()> {
        let store = &self.files.store;
        let now = store.find_blobs(&[blob]).await.map_err(doing)?;
        if now.iter().all(|blob| blob.state != State::Live) {
            return Ok(());
        }
        let naming = store.find_naming(blob, NAMING).await.map_err(doing)?.files;
        let finding = format!("{place}: {what}");
        let entries: Vec<AuditDoc> = naming.iter().map(|file| self.audit_entry(file, &finding)).collect();
        store.mark_damaged(blob, &finding, &entries).await.map_err(doing)?;
        tracing::error!(%blob, place, what, files = naming.len(), "stored bytes are damaged");
        self.report.damaged += 1;
        let room = LISTED.saturating_sub(self.report.damages.len());
        self.report.damages.extend(naming.iter().take(room).map(|file| Damage {
            file: file.file.to_hex(),
            blob: blob.to_hex(),
            place: place.to_owned(),
            what: what.to_owned(),
        }));
        Ok(())
    }

    fn audit_entry(&self, file: &FileDoc, finding: &str) -> AuditDoc {
        AuditDoc {
            id: new_id(),
            at: DateTime::from_system_time(self.files.clock.now()),
            tenant: file.tenant.clone(),
            actor: "system".to_owned(),
            action: "file.damaged".to_owned(),
            file: Some(file.file),
            request_id: None,
            details: doc! { "version": file.version, "finding": finding },
        }
    }
}
