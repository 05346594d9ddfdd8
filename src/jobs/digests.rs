//! Hashing what came out of order: parts of open uploads ahead of their end, and the rest of completed ones after it.
//! One upload at a time, by one gateway; how is `files/uploads/hash.rs`.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::error::Result;
use crate::files::Files;
use crate::store::{Id, new_id};

/// Pause between two runs.
pub const INTERVAL: Duration = Duration::from_secs(2);
const JOB: &str = "hash uploads";
/// Documents of one query.
const PAGE: i64 = 50;

/// Hashes what is there, unless another gateway is at it.
///
/// # Errors
/// The first upload or file that could not be hashed; the others were.
pub async fn run(files: &Files) -> Result<()> {
    let (holder, lease) = (new_id(), files.settings.lease());
    let hold = async |files: &Files| files.store.hold(JOB, holder, lease).await.map_err(|e| e.doing("begin to hash"));
    if !is_due(files).await? || !hold(files).await? {
        return Ok(());
    }
    let keeping = files.clone();
    let _kept = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(lease / 3).await;
            if let Err(error) = keeping.store.hold(JOB, holder, lease).await {
                tracing::warn!(error = %error, "could not renew the lease of a job");
            }
        }
    }));
    let outcome = hash(files).await;
    let ended = files.store.let_go(JOB, holder).await.map_err(|e| e.doing("end to hash"));
    outcome.and(ended)
}

async fn is_due(files: &Files) -> Result<bool> {
    let fail = |e: crate::store::StoreError| e.doing("look for what is to be hashed");
    let open = files.store.find_behind(None, 1).await.map_err(fail)?;
    Ok(!open.is_empty() || !files.store.find_digests_due(None, 1).await.map_err(fail)?.is_empty())
}

async fn hash(files: &Files) -> Result<()> {
    let fail = |e: crate::store::StoreError| e.doing("look for what is to be hashed");
    let mut outcome = Ok(());
    let mut after: Option<Id> = None;
    loop {
        // Completed ones first: somebody waits for those.
        let due = files.store.find_digests_due(after, PAGE).await.map_err(fail)?;
        for file in &due {
            outcome = outcome.and(files.settle_digest(file).await.map(drop));
        }
        after = due.last().map(|file| file.id);
        if (due.len() as i64) < PAGE {
            break;
        }
    }
    after = None;
    loop {
        let open = files.store.find_behind(after, PAGE).await.map_err(fail)?;
        for upload in &open {
            outcome = outcome.and(files.catch_up(upload).await.map(drop));
        }
        after = open.last().map(|upload| upload.id);
        if (open.len() as i64) < PAGE {
            return outcome;
        }
    }
}
