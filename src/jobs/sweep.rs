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
/// Documents handled at once: others wait for the database meanwhile too. As many failures in a row
/// that may pass mean that the database is away.
const AT_ONCE: usize = 4;

/// What a sweep did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SweepReport {
    /// Files removed because they expired.
    pub expired: u64,
    /// Uploads ended that nobody went on with.
    pub closed: u64,
    /// Blobs condemned: nothing names them, or their writer is gone.
    pub condemned: u64,
    /// Blobs whose bytes were removed.
    pub reaped: u64,
    /// Stored bytes removed.
    pub freed_bytes: u64,
}

impl SweepReport {
    fn add(&mut self, other: &Self) {
        self.expired += other.expired;
        self.closed += other.closed;
        self.condemned += other.condemned;
        self.reaped += other.reaped;
        self.freed_bytes += other.freed_bytes;
    }

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
    let (mut waited, mut failed) = (Duration::ZERO, Ok(()));
    loop {
        let after = sweeper.after;
        match sweeper.sweep(files).await {
            Ok(None) if waited >= PATIENCE => {
                return Err(Error::new(ErrorCode::Unavailable, "Another gateway's sweep does not end."));
            }
            Ok(None) => {
                tokio::time::sleep(LOOK).await;
                waited += LOOK;
                continue;
            }
            Ok(Some(report)) => total.add(&report),
            // The database is away, or not even a page of what is there can be read.
            Err(error) if error.code.row().retryable || sweeper.after == after => return Err(error),
            Err(error) => failed = failed.and(Err(error)),
        }
        if sweeper.after.is_none() {
            return failed.map(|()| total);
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
        let closed = expire_uploads(files, &mut report).await;
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
        expired.and(closed).and(condemned).and(reaped).and(ended).map(|()| Some(report))
    }

    async fn hold(&self, files: &Files) -> Result<bool, Error> {
        files.store.hold(JOB, self.holder, files.settings.lease()).await.map_err(doing("take the sweeper's lease"))
    }

    async fn condemn(&mut self, files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
        let now = DateTime::from_system_time(files.clock.now());
        report.condemned += files.store.condemn_abandoned(now).await?;
        let mut failures = Failures::default();
        for _ in 0..PAGES {
            let page = files.store.find_unnamed(self.after, PAGE).await?;
            let acts = page.blobs.into_iter().map(|blob| files.store.condemn_unnamed(blob, now));
            let condemned = failures.pass(acts).await?;
            report.condemned += condemned.into_iter().map(u64::from).sum::<u64>();
            self.after = page.last;
            if self.after.is_none() {
                break;
            }
        }
        failures.first()
    }
}

fn doing(what: &'static str) -> impl Fn(StoreError) -> Error {
    move |error| error.doing(what)
}

async fn expire(files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
    let (mut failures, mut left) = (Failures::default(), 0);
    for _ in 0..PAGES {
        let now = DateTime::from_system_time(files.clock.now());
        let expired = files.store.find_expired(now, left, PAGE).await?;
        let remove = async |file: &FileDoc| {
            let is_removed = files.store.remove_expired(file, &audit_entry(file, now)).await?;
            if is_removed {
                files.store.condemn_unnamed(file.blob, now).await?;
            }
            Ok(is_removed)
        };
        let removed = failures.pass(expired.files.iter().map(remove)).await?;
        let removed: u64 = removed.into_iter().map(u64::from).sum();
        report.expired += removed;
        left += expired.seen.unsigned_abs() - removed;
        if expired.seen != PAGE {
            break;
        }
    }
    failures.first()
}

async fn expire_uploads(files: &Files, report: &mut SweepReport) -> Result<(), Error> {
    let mut outcome = Ok(());
    for _ in 0..PAGES {
        let now = DateTime::from_system_time(files.clock.now());
        let expired = files.store.find_expired_uploads(now, PAGE).await.map_err(doing("find expired uploads"))?;
        for upload in &expired {
            match files.expire_upload(upload).await {
                Ok(is_closed) => report.closed += u64::from(is_closed),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        if (expired.len() as i64) < PAGE || outcome.is_err() {
            break;
        }
    }
    outcome
}

/// What could not be done by itself, and held up nothing else.
#[derive(Default)]
struct Failures(Option<StoreError>);

impl Failures {
    /// Does several things, a few at once; gives what came of those that went well.
    ///
    /// # Errors
    /// The last of several failures in a row that are the database's.
    async fn pass<T>(
        &mut self,
        acts: impl Iterator<Item = impl Future<Output = Result<T, StoreError>>>,
    ) -> Result<Vec<T>, StoreError> {
        let mut outcomes = stream::iter(acts).buffer_unordered(AT_ONCE);
        let (mut done, mut away) = (Vec::new(), 0);
        while let Some(outcome) = outcomes.next().await {
            away = if outcome.as_ref().is_err_and(StoreError::is_transient) { away + 1 } else { 0 };
            match outcome {
                Ok(outcome) => done.push(outcome),
                Err(error) if away == AT_ONCE => return Err(error),
                Err(error) => {
                    self.0.get_or_insert(error);
                }
            }
        }
        Ok(done)
    }

    fn first(self) -> Result<(), StoreError> {
        self.0.map_or(Ok(()), Err)
    }
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
    let (mut failures, mut left) = (Failures::default(), 0);
    for _ in 0..PAGES {
        let before = DateTime::from_system_time(files.clock.now() - quarantine);
        let due = files.store.find_reapable(before, left, PAGE).await?;
        // After the list is read: what was condemned before a backup's guard is not in its snapshot.
        if files.store.is_reaping_paused().await? {
            break;
        }
        let seen = due.len();
        let freed = failures.pass(due.into_iter().map(|blob| files.store.reap(blob))).await?;
        report.reaped += freed.len() as u64;
        report.freed_bytes += freed.iter().sum::<u64>();
        left += (seen - freed.len()) as u64;
        if seen as i64 != PAGE {
            break;
        }
    }
    failures.first()
}
