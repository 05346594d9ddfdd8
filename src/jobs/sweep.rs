//! One sweep: expire files, condemn what nothing names, reap what was condemned long enough ago.
//! Every step may be repeated and run by several gateways at once.

use std::time::Duration;

use serde::Serialize;

use crate::error::Error;
use crate::files::Files;
use crate::store::audit::AuditDoc;
use crate::store::registry::FileDoc;
use crate::store::{DateTime, StoreError, doc, new_id};

/// Documents of one kind handled by one query.
const PAGE: i64 = 200;
/// Pages of one kind handled by one sweep.
const PAGES: usize = 50;

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

/// Runs one sweep.
///
/// # Errors
/// The first step that failed; what was done before stays done.
pub async fn sweep(files: &Files) -> Result<SweepReport, Error> {
    let mut report = SweepReport::default();
    expire(files, &mut report).await.map_err(doing("expire files"))?;
    condemn(files, &mut report).await.map_err(doing("condemn unnamed content"))?;
    reap(files, &mut report).await.map_err(doing("reap condemned content"))?;
    Ok(report)
}

fn doing(what: &'static str) -> impl Fn(StoreError) -> Error {
    move |error| error.doing(what)
}

async fn expire(files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
    for _ in 0..PAGES {
        let now = DateTime::from_system_time(files.clock.now());
        let expired = files.store.find_expired(now, PAGE).await?;
        for file in &expired {
            if files.store.remove_expired(file, &audit_entry(file, now)).await? {
                files.store.condemn_unnamed(file.blob, now).await?;
                report.expired += 1;
            }
        }
        if expired.len() as i64 != PAGE {
            break;
        }
    }
    Ok(())
}

fn audit_entry(file: &FileDoc, now: DateTime) -> AuditDoc {
    AuditDoc {
        id: new_id(),
        at: now,
        tenant: file.tenant.clone(),
        actor: "system".to_owned(),
        action: "file.expire".to_owned(),
        file: file.file,
        request_id: None,
        details: doc! { "version": file.version, "size": file.content.size, "expireAt": file.expire_at },
    }
}

async fn condemn(files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
    let now = DateTime::from_system_time(files.clock.now());
    report.condemned += files.store.condemn_abandoned(now).await?;
    let mut after = None;
    for _ in 0..PAGES {
        let page = files.store.find_unnamed(after, PAGE).await?;
        for blob in page.blobs {
            report.condemned += u64::from(files.store.condemn_unnamed(blob, now).await?);
        }
        after = page.last;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

async fn reap(files: &Files, report: &mut SweepReport) -> Result<(), StoreError> {
    let quarantine = Duration::from_secs(files.settings.quarantine_secs);
    for _ in 0..PAGES {
        let before = DateTime::from_system_time(files.clock.now() - quarantine);
        let due = files.store.find_reapable(before, PAGE).await?;
        let is_last = due.len() as i64 != PAGE;
        for blob in due {
            report.freed_bytes += files.store.reap(blob).await?;
            report.reaped += 1;
        }
        if is_last {
            break;
        }
    }
    Ok(())
}
