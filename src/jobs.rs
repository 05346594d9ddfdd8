//! Work that no request waits for: run again and again until the server stops.

pub mod fsck;
pub mod sweep;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::files::Files;

/// Starts every job; they end when `stop` is cancelled.
pub fn start(files: &Files, stop: &CancellationToken) -> TaskTracker {
    let tracker = TaskTracker::new();
    let interval = Duration::from_secs(files.settings.sweep_interval_secs);
    let (files, stop) = (files.clone(), stop.clone());
    tracker.spawn(async move {
        let mut sweeper = sweep::Sweeper::default();
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            // A sweep that is cut in the middle goes on with the next.
            match stop.run_until_cancelled(sweeper.sweep(&files)).await {
                Some(Ok(report)) if !report.is_empty() => tracing::info!(?report, "swept"),
                Some(Err(error)) => tracing::warn!(error = %error, cause = ?error.cause, "a sweep failed"),
                Some(Ok(_)) | None => {}
            }
        }
    });
    tracker.close();
    tracker
}
