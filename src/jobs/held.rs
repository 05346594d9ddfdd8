//! Jobs that take long and that one gateway at a time does: begun when due, held while they work.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::files::Files;
use crate::store::StoreError;
use crate::store::runs::{Note, Run, SILENCE};

/// Does a job's work if a run of it is due, `every` after the end of the last one, or was left behind
/// by a silent gateway; none if not.
///
/// # Errors
/// The work's, and `unavailable` when another gateway took the run over.
pub async fn if_due<T>(
    files: &Files,
    job: &str,
    every: Duration,
    work: impl AsyncFnOnce(&Run) -> Result<T>,
) -> Result<Option<T>> {
    let begun = files.store.begin_run(job, every).await;
    let Some(run) = begun.map_err(|error| error.doing("begin a run"))? else { return Ok(None) };
    let outcome = hold(files, &run, work(&run)).await;
    let note = if outcome.is_ok() { Note::Finished } else { Note::Left };
    let noted = files.store.note_run(&run, note).await.map_err(|error| error.doing("end a run"));
    let done = outcome?;
    noted.map(|()| Some(done))
}

/// Says again and again that the run is alive, until the work is done or the run is another's.
async fn hold<T>(files: &Files, run: &Run, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut beat = tokio::time::interval(SILENCE / 4);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = beat.tick() => match files.store.note_run(run, Note::Alive).await {
                Err(lost @ StoreError::Stale) => return Err::<T, Error>(lost.doing("hold the run")),
                Err(error) => tracing::warn!(%error, "could not say that a run is alive"),
                Ok(()) => {}
            },
        }
    }
}
