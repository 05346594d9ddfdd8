//! An upload begins: its options are checked, its limits, and its room is taken.

use super::{Files, MAX_PARTS, Result, parse};
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, Resource, permit};
use crate::files::describe::later;
use crate::files::protection::wished;
use crate::files::publish::idempotency_id;
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, wrap};
use crate::format::manifest::Protection;
use crate::random;
use crate::store::blobs::BlobDoc;
use crate::store::commit::IdempotencyDoc;
use crate::store::concat::ConcatDoc;
use crate::store::segments::{WrapDoc, binary};
use crate::store::uploads::{HashedDoc, NewUpload, TailSpan, UploadDoc, UploadStatus};
use crate::store::{DateTime, Document, StoreError, doc, new_id};

/// Bytes of a part, where the client may choose.
pub const PART_SIZES: std::ops::RangeInclusive<u64> = 256 << 10..=256 << 20;
/// Bytes of a part where nobody chooses, unless that makes too many.
const USUAL_PART_SIZE: u64 = 8 << 20;

/// A request to begin an upload.
#[derive(Debug, Default)]
pub struct UploadRequest {
    /// What the client says about the file, by option, as text.
    pub said: Vec<(String, String)>,
    /// The declared media type.
    pub declared_type: Option<String>,
    /// What a client of tus said, as it was sent.
    pub metadata: Option<String>,
    /// Whether it becomes no file by itself, but a piece of one.
    pub is_partial: bool,
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
        permit(principal, Action::Write, Resource::Tenant)?;
        let (files, principal) = (self.clone(), principal.clone());
        let running = tokio::spawn(async move { files.run_create(&principal, request).await });
        running.await.map_err(|error| Error::internal(BEGIN, error))?
    }

    async fn run_create(&self, principal: &Principal, request: UploadRequest) -> Result<Begun> {
        if request.size.is_some_and(|size| size > self.routing.max_bytes()) {
            return Err(Error::too_large(self.routing.max_bytes()));
        }
        let upload = self.new_upload(principal, &request)?;
        self.require_space(request.size.unwrap_or(0))?;
        self.begin(principal, upload, &[], &request).await
    }

    /// Begins an upload, unless an earlier request with the same idempotency key did; of partial uploads, which end.
    pub(super) async fn begin(
        &self,
        principal: &Principal,
        upload: UploadDoc,
        partials: &[UploadDoc],
        request: &UploadRequest,
    ) -> Result<Begun> {
        let (now, idempotency) = (upload.created_at, self.idempotency(principal, &upload, request));
        if let Some(earlier) = self.repeated(principal, &upload, request).await? {
            return Ok(Begun { upload: earlier, is_new: false });
        }
        if partials.is_empty() {
            self.require_few_uploads(principal, now).await?;
            self.hold_upload(&upload).await?;
        }
        let audit = self.upload_entry(&upload, principal.actor.clone(), CREATE, request.request_id.clone());
        let new = NewUpload {
            upload: &upload,
            blob: &BlobDoc::pending(upload.blob, upload.scope()),
            life: self.upload_life(),
            audit: &audit,
            idempotency: idempotency.as_ref(),
            partials,
        };
        let Err(error) = self.store.insert_upload(&new).await else { return Ok(Begun { upload, is_new: true }) };
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

    fn idempotency(
        &self,
        principal: &Principal,
        upload: &UploadDoc,
        request: &UploadRequest,
    ) -> Option<IdempotencyDoc> {
        request.idempotency_key.as_deref().map(|key| IdempotencyDoc {
            id: idempotency_id(CREATE, principal, key),
            fingerprint: binary(self.upload_fingerprint(upload)),
            file: upload.id,
            purge_at: later(upload.created_at, self.settings.idempotency_secs),
        })
    }

    /// The upload that an earlier request with the same idempotency key began.
    ///
    /// # Errors
    /// `idempotency_conflict` where that was another request.
    pub(super) async fn repeated(
        &self,
        principal: &Principal,
        upload: &UploadDoc,
        request: &UploadRequest,
    ) -> Result<Option<UploadDoc>> {
        match self.idempotency(principal, upload, request) {
            Some(key) => self.repeat_upload(principal, &key).await,
            None => Ok(None),
        }
    }

    pub(super) fn new_upload(&self, principal: &Principal, request: &UploadRequest) -> Result<UploadDoc> {
        let now = self.now();
        let options = parse(request.said.iter().map(|(name, value)| (name.as_str(), value.as_str())), now)?;
        let encrypt = wished(options.encrypt, request.customer_key.as_ref())?;
        let part_size = part_size(request.size, request.part_size)?;
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
            concat: request.is_partial.then_some(ConcatDoc::Partial { of: None }),
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
            "isPartial": upload.is_partial(),
            "partials": upload.partials(),
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
