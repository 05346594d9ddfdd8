//! Work that no request waits for: run again and again until the server stops.

pub mod digests;
pub mod fsck;
mod held;
pub mod progress;
pub mod rekey;
pub mod scrub;
pub mod sweep;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::files::{Files, downloads, quota, space};
use crate::metrics;

/// Pause between two looks at the oplog.
const OPLOG_INTERVAL: Duration = Duration::from_secs(300);
/// Longest pause between two looks whether a job of a longer interval is due.
const DUE_INTERVAL: Duration = Duration::from_secs(60);

/// Starts every job; they end when `stop` is cancelled.
pub fn start(files: &Files, stop: &CancellationToken) -> TaskTracker {
    let jobs = TaskTracker::new();
    let sweep_interval = Duration::from_secs(files.settings.sweep_interval_secs);
    let (files, mut sweeper) = (files.clone(), sweep::Sweeper::default());
    let disk = files.clone();
    jobs.spawn(repeat("look at the disk", space::LOOK_INTERVAL, stop.clone(), async move || disk.look_at_disk().await));
    let oplog = files.clone();
    jobs.spawn(repeat("look at the oplog", OPLOG_INTERVAL, stop.clone(), async move || oplog.look_at_oplog().await));
    let counts = files.clone();
    jobs.spawn(repeat("count downloads", downloads::WRITE_INTERVAL, stop.clone(), async move || {
        counts.write_downloads().await
    }));
    let usage = files.clone();
    jobs.spawn(repeat("count usage", quota::FOLD_INTERVAL, stop.clone(), async move || usage.fold_usage().await));
    let hashing = files.clone();
    jobs.spawn(repeat("hash uploads", digests::INTERVAL, stop.clone(), async move || digests::run(&hashing).await));
    let recount = files.clone();
    jobs.spawn(repeat("see to the recount", DUE_INTERVAL, stop.clone(), async move || {
        let every = quota::RECOUNT_INTERVAL;
        held::if_due(&recount, "recount usage", every, async |_| recount.recount_usage().await).await.map(drop)
    }));
    let (scrubbing, checking) = (files.clone(), files.clone());
    if let Some(pause) = due_interval(files.settings.scrub_interval_secs) {
        jobs.spawn(repeat("see to the scrub", pause, stop.clone(), async move || scrub::scheduled(&scrubbing).await));
    }
    if let Some(pause) = due_interval(files.settings.fsck_interval_secs) {
        jobs.spawn(repeat("see to the check", pause, stop.clone(), async move || fsck::scheduled(&checking).await));
    }
    jobs.spawn(repeat("sweep", sweep_interval, stop.clone(), async move || {
        let Some(report) = sweeper.sweep(&files).await? else { return Ok(()) };
        metrics::swept(report.expired, report.condemned, report.reaped, report.freed_bytes);
        if !report.is_empty() {
            tracing::info!(?report, "swept");
        }
        Ok(())
    }));
    jobs.close();
    jobs
}

/// How often to see whether a job of a longer interval is due; none where it never is.
fn due_interval(interval_secs: u64) -> Option<Duration> {
    (interval_secs > 0).then(|| Duration::from_secs(interval_secs).min(DUE_INTERVAL))
}

/// Runs a job after every pause; one that is cut by the end, or failed, goes on with its next run.
async fn repeat(job: &'static str, pause: Duration, stop: CancellationToken, mut run: impl AsyncFnMut() -> Result<()>) {
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let Some(outcome) = stop.run_until_cancelled(run()).await else { continue };
        metrics::job_ended(job, outcome.is_ok());
        if let Err(error) = outcome {
            tracing::warn!(job, %error, cause = ?error.cause, "a job failed");
        }
    }
}
