//! Resumable uploads: begun, asked about, ended. What comes in them is `uploads/part.rs`, the end as a file
//! `uploads/complete.rs`, the hash over what came out of order `uploads/hash.rs`.
//!
//! An upload is a row of parts of one length, the last of which may be shorter. They come in any order, several at
//! once, through any gateway; one that comes again takes the place of the earlier one.

mod append;
mod body;
mod complete;
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
pub use part::PartRequest;
pub use writers::Writers;

use super::access::{Action, Principal, permit};
use super::describe::later;
use super::options::PutOptions;
use super::protection::wished;
use super::publish::idempotency_id;
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, wrap};
use crate::format::manifest::Protection;
use crate::random;
use crate::store::audit::AuditDoc;
use crate::store::blobs::BlobDoc;
use crate::store::commit::IdempotencyDoc;
use crate::store::segments::{WrapDoc, binary};
use crate::store::uploads::{HashedDoc, TailSpan, UploadDoc, UploadStatus};
use crate::store::{DateTime, Document, Id, StoreError, doc, new_id};

/// Bytes of a part, where the client may choose.
pub const PART_SIZES: std::ops::RangeInclusive<u64> = 256 << 10..=256 << 20;
/// Bytes of a part where nobody chooses, unless that makes too many.
const USUAL_PART_SIZE: u64 = 8 << 20;
/// Parts of an upload: all of them are read when it is completed.
pub const MAX_PARTS: u64 = 10_000;

/// A request to begin an upload.
#[derive(Debug, Default)]
pub struct UploadRequest {
    /// What the client says about the file, by option, as text.
    pub said: Vec<(String, String)>,
    /// The declared media type.
    pub declared_type: Option<String>,
    /// What a client of tus said, as it was sent.
    pub metadata: Option<String>,
    /// Bytes of the file; none if they are not known yet.
    pub size: Option<u64>,
    /// Bytes of a part, where the client chooses.
    pub part_size: Option<u64>,
    /// What the whole content must hash to.
    pub sha256: Option<Sha256Digest>,
    /// The client's name for this request.
    pub idempotency_key: Option<String>,
    /// For the audit.
    pub request_id: Option<String>,
    /// The client's own key, for this request only.
    pub customer_key: Option<Key>,
}

/// An upload that a request began, or an earlier one with the same idempotency key.
#[derive(Debug)]
pub struct Begun {
    /// The upload.
    pub upload: UploadDoc,
    /// Whether this request began it.
    pub is_new: bool,
}

const BEGIN: &str = "begin the upload";
const FIND: &str = "look the upload up";
/// The act of beginning, in the audit and in idempotency keys.
const CREATE: &str = "upload.create";

impl Files {
    /// Begins an upload.
    ///
    /// # Errors
    /// `forbidden`, `key_required`, `invalid` for sizes that do not go together, `bad_request` for an option,
    /// `too_large`, `quota_exceeded`, `too_many_uploads`, `idempotency_conflict`, `insufficient_storage`, `unavailable`.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop it.
    pub async fn create_upload(&self, principal: &Principal, request: UploadRequest) -> Result<Begun> {
        permit(principal, Action::Write)?;
        let (files, principal) = (self.clone(), principal.clone());
        let running = tokio::spawn(async move { files.run_create(&principal, request).await });
        running.await.map_err(|error| Error::internal(BEGIN, error))?
    }

    async fn run_create(&self, principal: &Principal, request: UploadRequest) -> Result<Begun> {
        let now = self.now();
        let options = parse(request.said.iter().map(|(name, value)| (name.as_str(), value.as_str())), now)?;
        let encrypt = wished(options.encrypt, request.customer_key.as_ref())?;
        if request.size.is_some_and(|size| size > self.routing.max_bytes()) {
            return Err(Error::too_large(self.routing.max_bytes()));
        }
        let part_size = part_size(request.size, request.part_size)?;
        self.require_space(request.size.unwrap_or(0))?;
        let upload = self.new_upload(principal, &request, encrypt, part_size, now)?;
        let idempotency = request.idempotency_key.as_deref().map(|key| IdempotencyDoc {
            id: idempotency_id(CREATE, principal, key),
            fingerprint: binary(self.upload_fingerprint(&upload)),
            file: upload.id,
            purge_at: later(now, self.settings.idempotency_secs),
        });
        if let Some(key) = &idempotency
            && let Some(earlier) = self.repeat_upload(principal, key).await?
        {
            return Ok(Begun { upload: earlier, is_new: false });
        }
        self.require_few_uploads(principal, now).await?;
        self.hold_upload(&upload).await?;
        let blob = BlobDoc::pending(upload.blob, upload.scope());
        let audit = self.upload_entry(&upload, principal.actor.clone(), CREATE, request.request_id);
        let inserted = self.store.insert_upload(&upload, &blob, self.upload_life(), &audit, idempotency.as_ref()).await;
        let Err(error) = inserted else { return Ok(Begun { upload, is_new: true }) };
        // Should it be there after all, its parts take the room again.
        self.free_upload(&upload).await;
        match (error, &idempotency) {
            (StoreError::Duplicate(cause), Some(key)) => {
                let earlier = self.repeat_upload(principal, key).await?;
                let upload = earlier.ok_or_else(|| StoreError::Duplicate(cause).doing(BEGIN))?;
                Ok(Begun { upload, is_new: false })
            }
            (error, _) => Err(error.doing(BEGIN)),
        }
    }

    fn new_upload(
        &self,
        principal: &Principal,
        request: &UploadRequest,
        encrypt: Option<Protection>,
        part_size: u64,
        now: DateTime,
    ) -> Result<UploadDoc> {
        let (id, sent) = (new_id(), request.customer_key.as_ref());
        let number = |n| i64::try_from(n).map_err(|error| Error::internal(BEGIN, error));
        let mut said: Document = request.said.iter().map(|(name, value)| (name.clone(), value.into())).collect();
        if encrypt == Some(Protection::Customer) {
            said.insert("encrypt", "customer");
        }
        let enc = sent.map(|sent| {
            let binding = WrapBinding { tenant: &principal.tenant, id: &id.bytes() };
            wrap(&Key::new(random::bytes()), sent, WrapMode::Customer, "", random::bytes(), binding)
        });
        Ok(UploadDoc {
            id,
            tenant: principal.tenant.clone(),
            owner: principal.actor.clone(),
            blob: new_id(),
            file: new_id(),
            status: UploadStatus::Open,
            size: request.size.map(number).transpose()?,
            part_size: number(part_size)?,
            declared_type: request.declared_type.clone(),
            said,
            metadata: request.metadata.clone(),
            announced: request.sha256.map(|digest| self.stand_in(&principal.tenant, digest, sent)),
            enc: enc.as_ref().map(WrapDoc::from),
            storing: None,
            recognised: None,
            offset: Some(0),
            epoch: 0,
            tail: TailSpan::default(),
            hashed: HashedDoc::default(),
            behind: false,
            revision: 0,
            created_at: now,
            updated_at: now,
            expire_at: later(now, self.settings.upload_life_secs),
            purge_at: None,
        })
    }

    /// Stands for a request to begin an upload, to tell it from another with the same idempotency key.
    fn upload_fingerprint(&self, upload: &UploadDoc) -> [u8; 32] {
        let said = doc! {
            "said": &upload.said,
            "size": upload.size,
            "partSize": upload.part_size,
            "declaredType": &upload.declared_type,
            "announced": upload.announced.clone(),
        };
        self.keys.roots.dedup.mac(&[b"idempotency", said.to_string().as_bytes()])
    }

    /// The upload that an earlier request with the same idempotency key began.
    async fn repeat_upload(&self, principal: &Principal, key: &IdempotencyDoc) -> Result<Option<UploadDoc>> {
        let found = self.store.find_idempotency(&key.id).await.map_err(|e| e.doing("look the idempotency key up"))?;
        let Some(found) = found else { return Ok(None) };
        if found.fingerprint != key.fingerprint {
            let detail = "The idempotency key came with another upload before.";
            return Err(Error::new(ErrorCode::IdempotencyConflict, detail));
        }
        self.find_upload(principal, found.file).await.map(Some)
    }

    /// A limit against uploads that are begun and left, not a budget: requests at the same moment may surpass it.
    async fn require_few_uploads(&self, principal: &Principal, now: DateTime) -> Result<()> {
        let open = self.store.count_uploads(&principal.tenant, now).await.map_err(|e| e.doing(BEGIN))?;
        let most = self.settings.max_open_uploads;
        if open < most {
            return Ok(());
        }
        let detail = format!("The tenant has {open} uploads open: complete or abort one of them first.");
        Err(Error::new(ErrorCode::TooManyUploads, detail).with("limit", most))
    }

    /// Finds an upload, whatever became of it.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found` for an absent or foreign one alike.
    pub async fn find_upload(&self, principal: &Principal, upload: Id) -> Result<UploadDoc> {
        permit(principal, Action::Write)?;
        let found = self.store.find_upload(&principal.tenant, upload).await.map_err(|e| e.doing(FIND))?;
        let not_found =
            || Error::new(ErrorCode::UploadNotFound, "No upload with this id is visible to this credential.");
        let mut upload = found.ok_or_else(not_found)?;
        if upload.status == UploadStatus::Open && upload.expire_at <= self.now() {
            upload.status = UploadStatus::Expired;
        }
        Ok(upload)
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
        permit(principal, Action::Write)?;
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

fn completed(upload: &UploadDoc) -> Error {
    let detail = "The upload was completed; its file is there to be changed.";
    Error::new(ErrorCode::UploadCompleted, detail).with("fileId", upload.file.to_hex())
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

/// The length of the parts: as chosen, or such that there are not too many.
fn part_size(size: Option<u64>, chosen: Option<u64>) -> Result<u64> {
    let least = size.unwrap_or(0).div_ceil(MAX_PARTS).next_multiple_of(1 << 20);
    let part_size = chosen.unwrap_or_else(|| USUAL_PART_SIZE.max(least).min(*PART_SIZES.end()));
    if !PART_SIZES.contains(&part_size) {
        let detail = format!("partSize is not between {} and {} bytes.", PART_SIZES.start(), PART_SIZES.end());
        return Err(Error::invalid("partSize", detail));
    }
    if size.unwrap_or(0).div_ceil(part_size) > MAX_PARTS {
        return Err(Error::invalid("partSize", format!("An upload has at most {MAX_PARTS} parts: make them longer.")));
    }
    Ok(part_size)
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_are_never_too_many_nor_of_a_forbidden_length() {
        assert_eq!(part_size(None, None).expect("usual"), 8 * MIB);
        assert_eq!(part_size(Some(0), None).expect("usual"), 8 * MIB);
        assert_eq!(part_size(Some(100_000 * MIB), None).expect("longer"), 10 * MIB);
        assert_eq!(part_size(Some(1), Some(256 << 10)).expect("least"), 256 << 10);
        for (size, chosen) in [
            (None, Some((256 << 10) - 1)),
            (None, Some(256 * MIB + 1)),
            (None, Some(0)),
            (Some(10_001 * MIB), Some(MIB)),
            (Some(2_560_001 * MIB), None),
        ] {
            assert_eq!(part_size(size, chosen).expect_err("refused").code, ErrorCode::Invalid, "{size:?} {chosen:?}");
        }
    }
}
