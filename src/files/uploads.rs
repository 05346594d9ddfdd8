//! Resumable uploads: asked about, listed, ended without a file. How they begin is `uploads/begin.rs`, what comes in
//! them `uploads/part.rs` and `uploads/append.rs`, the end as a file `uploads/complete.rs`, the hash over what came
//! out of order `uploads/hash.rs`.
//!
//! An upload is a row of parts of one length, the last of which may be shorter. They come in any order, several at
//! once, through any gateway; one that comes again takes the place of the earlier one.

mod append;
mod begin;
mod body;
mod complete;
mod concat;
mod end;
mod hash;
mod keys;
mod part;
mod piece;
pub mod progress;
mod tail;
mod writers;

use std::ops::Range;
use std::time::Duration;

pub use append::{AppendRequest, Appended, Verdict};
pub use begin::{Begun, UploadRequest};
pub use concat::MAX_PARTIALS;
pub use part::PartRequest;
pub use writers::Writers;

use super::access::{Access, Action, Principal, Resource, permit};
use super::describe::later;
use super::options::PutOptions;
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::store::audit::AuditDoc;
use crate::store::uploads::{UploadDoc, UploadStatus};
use crate::store::{DateTime, Id, StoreError, doc, new_id};

/// Parts of an upload: all of them are read when it is completed.
pub const MAX_PARTS: u64 = 10_000;

const FIND: &str = "look the upload up";

impl Files {
    /// Finds an upload, whatever became of it.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found` for an absent or foreign one alike.
    pub async fn find_upload(&self, principal: &Principal, upload: Id) -> Result<UploadDoc> {
        permit(principal, Action::Write, Resource::Tenant)?;
        let found = self.store.find_upload(&principal.tenant, upload).await.map_err(|e| e.doing(FIND))?;
        let mut upload = found.ok_or_else(not_found)?;
        self.require_visible(principal, Action::Write, &upload).await?;
        if upload.status == UploadStatus::Open && upload.expire_at <= self.now() {
            upload.status = UploadStatus::Expired;
        }
        Ok(upload)
    }

    /// The file that an upload became.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found`; `parts_missing` while it is open, `upload_gone` where it ended without a file.
    pub async fn find_made(&self, principal: &Principal, upload: Id) -> Result<Id> {
        permit(principal, Action::Download, Resource::Tenant)?;
        let found = self.store.find_upload(&principal.tenant, upload).await.map_err(|e| e.doing(FIND))?;
        let upload = found.ok_or_else(not_found)?;
        self.require_visible(principal, Action::Download, &upload).await?;
        match (upload.made(), upload.status) {
            (Some(file), _) => Ok(file),
            (None, UploadStatus::Open) => {
                Err(Error::new(ErrorCode::PartsMissing, "The upload is not finished: it has no content yet."))
            }
            (None, _) => Err(Error::new(ErrorCode::UploadGone, "The upload was ended.")),
        }
    }

    /// Refuses who may not see the file that an upload became, or the one that it becomes.
    async fn require_visible(&self, principal: &Principal, action: Action, upload: &UploadDoc) -> Result<()> {
        let made = match upload.made() {
            Some(file) => self.store.find_file(&upload.tenant, file, self.now()).await.map_err(|e| e.doing(FIND))?,
            None => None,
        };
        let said = upload.said.get_str("access").ok();
        let (owner, access) = match &made {
            Some(file) => (&file.owner, Some(file.access.as_str())),
            None => (&upload.owner, said),
        };
        let access = access.and_then(Access::from_name).unwrap_or_default();
        let file = Resource::File { id: upload.file, tenant: &upload.tenant, owner, access };
        permit(principal, action, file).map_err(|refusal| refusal.or_hidden(not_found()))
    }

    /// Finds an upload that nobody appends to any more: whoever did has made way, so that what is told stays true.
    ///
    /// # Errors
    /// As [`Self::find_upload`].
    pub async fn find_quiet_upload(&self, principal: &Principal, upload: Id) -> Result<UploadDoc> {
        self.find_upload(principal, upload).await?;
        self.writers.interrupt(upload).await;
        self.find_upload(principal, upload).await
    }

    /// Open uploads that a principal began, newest first, after one of them.
    ///
    /// # Errors
    /// `forbidden`, `unavailable`, `timeout`.
    pub async fn list_uploads(
        &self,
        principal: &Principal,
        after: Option<(DateTime, Id)>,
        limit: i64,
    ) -> Result<Vec<UploadDoc>> {
        permit(principal, Action::Write, Resource::Tenant)?;
        let found = self.store.list_uploads(&principal.tenant, &principal.actor, self.now(), after, limit).await;
        found.map_err(|e| e.doing("list the uploads"))
    }

    /// Ends an upload; its parts go. One that was aborted, or expired, stays so.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found`, `upload_completed`, `unavailable`.
    pub async fn abort_upload(&self, principal: &Principal, upload: Id, request_id: Option<String>) -> Result<()> {
        let upload = self.find_upload(principal, upload).await?;
        if upload.status == UploadStatus::Completed {
            return Err(completed(&upload));
        }
        let audit = self.upload_entry(&upload, principal.actor.clone(), "upload.abort", request_id);
        let (files, of) = (self.clone(), upload.clone());
        let closing = tokio::spawn(async move { files.close_upload(&of, UploadStatus::Aborted, &audit).await });
        let is_closed = closing.await.map_err(|error| Error::internal("abort the upload", error))??;
        if !is_closed && self.find_upload(principal, upload.id).await?.status == UploadStatus::Completed {
            return Err(completed(&upload));
        }
        Ok(())
    }

    /// Ends an upload that nobody went on with in time; false when somebody did.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn expire_upload(&self, upload: &UploadDoc) -> Result<bool> {
        let audit = self.upload_entry(upload, "system".to_owned(), "upload.expire", None);
        self.close_upload(upload, UploadStatus::Expired, &audit).await
    }

    async fn close_upload(&self, upload: &UploadDoc, status: UploadStatus, audit: &AuditDoc) -> Result<bool> {
        let forgotten_at = later(self.now(), self.settings.upload_life_secs);
        let closed = self.store.close_upload(upload, status, audit, forgotten_at).await;
        let is_closed = closed.map_err(|e| e.doing("end the upload"))?;
        if is_closed {
            self.free_upload(upload).await;
        }
        Ok(is_closed)
    }

    fn upload_entry(
        &self,
        upload: &UploadDoc,
        actor: String,
        action: &'static str,
        request_id: Option<String>,
    ) -> AuditDoc {
        AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: upload.tenant.clone(),
            actor,
            action: action.to_owned(),
            file: None,
            request_id,
            details: doc! { "upload": upload.id, "size": upload.size },
        }
    }

    /// How long an upload waits for its next part.
    pub(super) fn upload_life(&self) -> Duration {
        Duration::from_secs(self.settings.upload_life_secs)
    }
}

fn not_found() -> Error {
    Error::new(ErrorCode::UploadNotFound, "No upload with this id is visible to this credential.")
}

/// Refuses an upload that takes nothing more.
///
/// # Errors
/// `upload_completed`, `upload_gone`.
fn require_open(upload: &UploadDoc) -> Result<()> {
    match upload.status {
        UploadStatus::Open => Ok(()),
        UploadStatus::Completed => Err(completed(upload)),
        UploadStatus::Aborted => Err(Error::new(ErrorCode::UploadGone, "The upload was aborted.")),
        UploadStatus::Expired => Err(Error::new(ErrorCode::UploadGone, "Nobody went on with the upload in time.")),
    }
}

/// Refuses bytes for an upload that is made of others.
///
/// # Errors
/// `final_upload`.
fn require_no_final(upload: &UploadDoc) -> Result<()> {
    match upload.partials() {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorCode::FinalUpload, "The upload is made of others, and takes no bytes.")),
    }
}

fn completed(upload: &UploadDoc) -> Error {
    let error =
        |detail| Error::new(ErrorCode::UploadCompleted, detail).with("fileId", upload.made().map(|file| file.to_hex()));
    match upload.is_partial() {
        true => error("The upload became a piece of another."),
        false => error("The upload was completed; its file is there to be changed."),
    }
}

/// Whether an upload was another than the one looked at, and not that the database is away.
fn is_stale(error: &Error) -> bool {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
    matches!(cause, Some(StoreError::Stale))
}

/// The options that were said when the upload began.
fn options(upload: &UploadDoc) -> Result<PutOptions> {
    let said = upload.said.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
    parse(said, upload.created_at).map_err(|error| Error::damaged("read the upload", error))
}

fn parse<'a>(said: impl Iterator<Item = (&'a str, &'a str)>, now: DateTime) -> Result<PutOptions> {
    let mut options = PutOptions::default();
    for (name, value) in said {
        if !options.set(name, value, now)? {
            return Err(Error::new(ErrorCode::BadRequest, format!("There is no option {name:?}.")).with("field", name));
        }
    }
    Ok(options)
}

/// Where a part lies, as far as that is known: up to the end of the upload, or of a whole part.
///
/// # Errors
/// `too_large` for a part that lies beyond the end.
fn place_of(upload: &UploadDoc, n: u64) -> Result<Range<u64>> {
    let (part_size, size) = (upload.part_size.unsigned_abs(), upload.size.map(i64::unsigned_abs));
    let start = n.checked_mul(part_size).filter(|_| n < MAX_PARTS);
    let start = start.filter(|start| size.is_none_or(|size| *start < size || (size == 0 && n == 0)));
    let start = start.ok_or_else(|| Error::too_large(size.unwrap_or(MAX_PARTS * part_size)))?;
    let end = start + part_size;
    Ok(start..size.map_or(end, |size| end.min(size)))
}
