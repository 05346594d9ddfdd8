//! Work that no request waits for: run again and again until the server stops.

pub mod fsck;
pub mod rekey;
pub mod sweep;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::files::{Files, downloads, quota, space};

/// Pause between two looks at the oplog.
const OPLOG_INTERVAL: Duration = Duration::from_secs(300);

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
    let recount = files.clone();
    jobs.spawn(repeat("recount usage", quota::RECOUNT_INTERVAL, stop.clone(), async move || {
        recount.recount_usage().await
    }));
    jobs.spawn(repeat("sweep", sweep_interval, stop.clone(), async move || {
        if let Some(report) = sweeper.sweep(&files).await?.filter(|report| !report.is_empty()) {
            tracing::info!(?report, "swept");
        }
        Ok(())
    }));
    jobs.close();
    jobs
}

/// Runs a job after every pause; one that is cut by the end, or failed, goes on with its next run.
async fn repeat(job: &str, pause: Duration, stop: CancellationToken, mut run: impl AsyncFnMut() -> Result<()>) {
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(run()).await {
            tracing::warn!(job, %error, cause = ?error.cause, "a job failed");
        }
    }
}
