//! One sweep: expire files, condemn what nothing names, reap what was condemned long enough ago.
//!
//! One gateway at a time sweeps, by a lease that any other takes over when it runs out. That only
//! saves work: every step may be repeated and run by several gateways at once.

use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;

use crate::error::{Error, ErrorCode};
use crate::failpoint;
use crate::files::Files;
use crate::store::audit::AuditDoc;
use crate::store::registry::FileDoc;
use crate::store::{DateTime, Id, StoreError, doc, new_id};

/// Documents of one kind handled by one query.
const PAGE: i64 = 200;
/// Pages of one kind handled by one sweep.
const PAGES: usize = 20;
/// Documents handled at once: others wait for the database meanwhile too.
const AT_ONCE: usize = 4;

/// What a sweep did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SweepReport {
    /// Files removed because they expired.
    pub expired: u64,
    /// Blobs condemned: nothing names them, or their writer is gone.
    pub condemned: u64,
    /// Blobs whose bytes were removed.
    pub reaped: u64,
    /// Stored bytes removed.
    pub freed_bytes: u64,
}

impl SweepReport {
    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Sweeps again and again; remembers how far the search for unnamed content came.
#[derive(Debug)]
pub struct Sweeper {
    holder: Id,
    after: Option<Id>,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self { holder: new_id(), after: None }
    }
}

/// The job's name among the leases.
pub const JOB: &str = "sweep";
/// How long a sweep that was asked for waits for another's to end, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// Runs one sweep over everything, after another gateway's if one is running.
///
/// # Errors
/// The first step that failed; the others ran. `unavailable` when another gateway's sweep does not end.
pub async fn sweep(files: &Files) -> Result<SweepReport, Error> {
    let (mut sweeper, mut total) = (Sweeper::default(), SweepReport::default());
    let mut waited = Duration::ZERO;
    loop {
        let Some(report) = sweeper.sweep(files).await? else {
            if waited >= PATIENCE {
                return Err(Error::new(ErrorCode::Unavailable, "Another gateway's sweep does not end."));
            }
            tokio::time::sleep(LOOK).await;
            waited += LOOK;
            continue;
        };
        total.expired += report.expired;
        total.condemned += report.condemned;
        total.reaped += report.reaped;
        total.freed_bytes += report.freed_bytes;
        if sweeper.after.is_none() {
            return Ok(total);
        }
    }
}

impl Sweeper {
    /// Runs one sweep of bounded length; none while another gateway sweeps.
    ///
    /// # Errors
    /// The first step that failed; the others ran.
    pub async fn sweep(&mut self, files: &Files) -> Result<Option<SweepReport>, Error> {
        if !self.hold(files).await? {
            return Ok(None);
        }
        failpoint::hit("sweep.leased");
        let mut report = SweepReport::default();
        let expired = expire(files, &mut report).await.map_err(doing("expire files"));
        // Between the steps the lease is renewed; whoever lost it leaves the rest to its new holder.
        let condemned = match self.hold(files).await? {
            true => self.condemn(files, &mut report).await.map_err(doing("condemn unnamed content")),
            false => Ok(()),
        };
        let reaped = match self.hold(files).await? {
            true => reap(files, &mut report).await.map_err(doing("reap condemned content")),
            false => Ok(()),
        };
        let ended = files.store.let_go(JOB, self.holder).await.map_err(doing("end the sweep"));
        expired.and(condemned).and(reaped).and(ended).map(|()| Some(report))
    }

    async fn hold(&self, files: &Files) -> Result<bool, Error> {
        files.store.hold(JOB, self.holder, files.settings.lease()).await.map_err(doing("take the sweeper's lease"))
    }

    async fn condemn(&mut self, files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
        let now = DateTime::from_system_time(files.clock.now());
        report.condemned += files.store.condemn_abandoned(now).await?;
        for _ in 0..PAGES {
            let page = files.store.find_unnamed(self.after, PAGE).await?;
            let acts = page.blobs.into_iter().map(|blob| files.store.condemn_unnamed(blob, now));
            each(acts, |is_condemned| report.condemned += u64::from(is_condemned)).await?;
            self.after = page.last;
            if self.after.is_none() {
                break;
            }
        }
        Ok(())
    }
}

fn doing(what: &'static str) -> impl Fn(StoreError) -> Error {
    move |error| error.doing(what)
}

async fn expire(files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
    for _ in 0..PAGES {
        let now = DateTime::from_system_time(files.clock.now());
        let expired = files.store.find_expired(now, PAGE).await?;
        let is_last = expired.seen != PAGE || expired.files.is_empty();
        let remove = async |file: &FileDoc| {
            let is_removed = files.store.remove_expired(file, &audit_entry(file, now)).await?;
            if is_removed {
                files.store.condemn_unnamed(file.blob, now).await?;
            }
            Ok(is_removed)
        };
        each(expired.files.iter().map(remove), |is_removed| report.expired += u64::from(is_removed)).await?;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Does several things, a few at once. What fails by itself holds up none of the others; a
/// database that is away ends it.
///
/// # Errors
/// The first failure.
async fn each<T>(
    acts: impl Iterator<Item = impl Future<Output = Result<T, StoreError>>>,
    mut done: impl FnMut(T),
) -> Result<(), StoreError> {
    let mut outcomes = stream::iter(acts).buffer_unordered(AT_ONCE);
    let mut failed = Ok(());
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(outcome) => done(outcome),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    failed
}

fn audit_entry(file: &FileDoc, now: DateTime) -> AuditDoc {
    AuditDoc {
        id: new_id(),
        at: now,
        tenant: file.tenant.clone(),
        actor: "system".to_owned(),
        action: "file.expire".to_owned(),
        file: Some(file.file),
        request_id: None,
        details: doc! { "version": file.version, "size": file.content.size, "expireAt": file.expire_at },
    }
}

async fn reap(files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
    let quarantine = Duration::from_secs(files.settings.quarantine_secs);
    for _ in 0..PAGES {
        let before = DateTime::from_system_time(files.clock.now() - quarantine);
        let due = files.store.find_reapable(before, PAGE).await?;
        // After the list is read: what was condemned before a backup's guard is not in its snapshot.
        if files.store.is_reaping_paused().await? {
            return Ok(());
        }
        let is_last = due.len() as i64 != PAGE;
        let count = |freed| {
            report.freed_bytes += freed;
            report.reaped += 1;
        };
        each(due.into_iter().map(|blob| files.store.reap(blob)), count).await?;
        if is_last {
            break;
        }
    }
    Ok(())
}
