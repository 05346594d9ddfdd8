//! From stored bytes to a file users see: the documents that describe them and the one commit.

use super::access::Principal;
use super::options::PutOptions;
use super::{Files, Result};
use crate::content::ContentKind;
use crate::content::sniff::Sniffed;
use crate::error::{Error, ErrorCode};
use crate::format::digest::{Sha256Digest, seal_digest};
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::segment::{FORMAT_VERSION, SegmentEnd};
use crate::store::audit::AuditDoc;
use crate::store::blobs::BlobDoc;
use crate::store::commit::{Commit, IdempotencyDoc};
use crate::store::gridfs::FilesDocument;
use crate::store::gridfs::write::WrittenChunks;
use crate::store::registry::{ContentDoc, FileDoc, RetentionDoc};
use crate::store::segments::{Pending, SegmentDoc, State, binary};
use crate::store::{DateTime, Document, StoreError, doc, new_id};

const DAY_MS: i64 = 86_400_000;

/// What became of an upload.
#[derive(Debug)]
pub struct Put {
    /// The file.
    pub file: FileDoc,
    /// Whether this request made it, or an earlier one with the same idempotency key.
    pub is_new: bool,
}

/// Complete bytes in GridFS that nothing names yet.
pub(super) struct Stored {
    /// The rows they were written under.
    pub pending: Pending,
    /// The codec's level.
    pub level: i32,
    /// How the segment ends.
    pub end: SegmentEnd,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Bytes in GridFS.
    pub stored_len: u64,
    /// Of the plaintext.
    pub sha256: Sha256Digest,
    /// Their chunks.
    pub chunks: WrittenChunks,
}

/// What is said about the bytes.
pub(super) struct Description {
    /// Display name.
    pub name: String,
    /// What the client said.
    pub options: PutOptions,
    /// What they are taken for.
    pub sniffed: Sniffed,
    /// Since when the file is there.
    pub created_at: DateTime,
    /// What happened, for the audit: `file.put`, `file.adopt`.
    pub action: &'static str,
    /// The client's name for the request.
    pub idempotency_key: Option<String>,
    /// For the audit.
    pub request_id: Option<String>,
}

impl Files {
    /// Makes a file of stored bytes.
    ///
    /// # Errors
    /// `idempotency_conflict`, `unavailable`; nothing is visible then.
    pub(super) async fn publish(&self, principal: &Principal, stored: Stored, said: Description) -> Result<Put> {
        let (blob, segment) = self.live_rows(&principal.tenant, &stored)?;
        let file = self.file_doc(principal, &stored, &segment, &said);
        let idempotency = said.idempotency_key.as_deref().map(|key| IdempotencyDoc {
            id: idempotency_id(principal, key),
            fingerprint: binary(self.fingerprint(&file, stored.sha256)),
            file: file.file,
            purge_at: later(self.now(), self.settings.idempotency_secs),
        });
        let commit = Commit {
            files: FilesDocument {
                file: segment.grid_file().map_err(|e| e.doing("publish the file"))?,
                filename: file.name.clone(),
                metadata: grid_metadata(&segment, &file),
            },
            audit: AuditDoc {
                id: new_id(),
                at: self.now(),
                tenant: principal.tenant.clone(),
                actor: principal.actor.clone(),
                action: said.action.to_owned(),
                file: file.file,
                request_id: said.request_id,
                details: doc! { "version": file.version, "size": file.content.size, "bucket": &file.content.bucket },
            },
            blob,
            segment,
            chunks: stored.chunks,
            file,
            idempotency,
        };
        match (self.store.commit(&commit).await, &commit.idempotency) {
            (Ok(()), _) => Ok(Put { file: commit.file, is_new: true }),
            (Err(StoreError::Duplicate(_)), Some(ours)) => self.repeat_answer(principal, ours).await,
            (Err(error), _) => Err(error.doing("publish the file")),
        }
    }

    /// The rows as they are once the bytes are complete.
    fn live_rows(&self, tenant: &str, stored: &Stored) -> Result<(BlobDoc, SegmentDoc)> {
        let number = |n| i64::try_from(n).map_err(|error| Error::internal("store a length", error));
        let look_up = self.keys.roots.dedup.mac(&[tenant.as_bytes(), b"\0", &stored.sha256.0]);
        let blob = BlobDoc {
            sha256: Some(binary(look_up)),
            size: number(stored.plain_len)?,
            state: State::Live,
            generation: 1,
            ..stored.pending.blob.clone()
        };
        let segment = SegmentDoc {
            len: number(stored.plain_len)?,
            stored_len: number(stored.stored_len)?,
            seek: binary(stored.end.record.clone()),
            commit: binary(stored.end.commitment),
            state: State::Live,
            ..stored.pending.segment.clone()
        };
        Ok((blob, segment))
    }

    fn file_doc(&self, principal: &Principal, stored: &Stored, segment: &SegmentDoc, said: &Description) -> FileDoc {
        let (file_id, options) = (new_id(), &said.options);
        let retention = RetentionDoc {
            days: options.retention.days,
            expires_at: expiry(options.retention.days, options.retention.expires_at, said.created_at),
            legal_hold: false,
        };
        let mut file = FileDoc {
            id: file_id,
            file: file_id,
            version: 1,
            latest: true,
            tenant: principal.tenant.clone(),
            owner: principal.actor.clone(),
            blob: segment.blob,
            content: self.content_doc(principal, stored, segment, &file_id.bytes()),
            name: said.name.clone(),
            description: options.description.clone(),
            tags: options.tags.clone(),
            category: options.category.clone(),
            folder: options.folder.clone().unwrap_or_else(|| "/".to_owned()),
            custom: options.custom.clone(),
            access: options.access.name().to_owned(),
            kind: ContentKind::of(&said.sniffed.media_type).name().to_owned(),
            content_type: said.sniffed.media_type.to_string(),
            declared_type: said.sniffed.declared.as_ref().map(ToString::to_string),
            retention: RetentionDoc::default(),
            expire_at: None,
            purge_at: None,
            deduplicated: false,
            downloads: 0,
            last_accessed_at: None,
            created_at: said.created_at,
            updated_at: said.created_at,
        };
        self.apply_retention(&mut file, retention);
        file
    }

    fn content_doc(
        &self,
        principal: &Principal,
        stored: &Stored,
        segment: &SegmentDoc,
        file_id: &[u8; 12],
    ) -> ContentDoc {
        let is_sealed = segment.enc.is_some();
        let lines = [ManifestSegment {
            id: segment.id.bytes(),
            plain_len: stored.plain_len,
            commitment: stored.end.commitment,
            protection: if is_sealed { Protection::Managed } else { Protection::Plain },
        }];
        let manifest = Manifest {
            tenant: &principal.tenant,
            file_id,
            version: 1,
            plain_len: stored.plain_len,
            sha256: stored.sha256,
            segments: &lines,
        };
        let digest = if is_sealed {
            seal_digest(stored.sha256, &self.keys.roots.digest, &segment.blob.bytes())
        } else {
            stored.sha256.0.to_vec()
        };
        ContentDoc {
            size: segment.len,
            stored_size: segment.stored_len,
            bucket: segment.bucket.clone(),
            codec: segment.codec.clone(),
            level: stored.level,
            mode: is_sealed.then(|| "managed".to_owned()),
            kid: is_sealed.then(|| self.keys.ring.primary().to_owned()),
            digest: binary(digest),
            mac: binary(manifest.mac(&self.keys.roots.manifest)),
        }
    }

    /// Sets what follows from a file's retention.
    pub(super) fn apply_retention(&self, file: &mut FileDoc, retention: RetentionDoc) {
        file.expire_at = retention.expires_at.filter(|_| !retention.legal_hold);
        file.purge_at = file.expire_at.map(|at| later(at, self.settings.purge_grace_secs));
        file.retention = retention;
    }

    /// Answers a repeated request with what the first one made.
    async fn repeat_answer(&self, principal: &Principal, ours: &IdempotencyDoc) -> Result<Put> {
        let found = self.store.find_idempotency(&ours.id).await.map_err(|e| e.doing("look the idempotency key up"))?;
        match found {
            Some(first) if first.fingerprint == ours.fingerprint => {
                let file = self.find(principal, first.file).await.map_err(|error| match error.code {
                    ErrorCode::FileNotFound => {
                        Error::new(ErrorCode::IdempotencyConflict, "The file that this idempotency key made is gone.")
                    }
                    _ => error,
                })?;
                Ok(Put { file, is_new: false })
            }
            _ => Err(Error::new(ErrorCode::IdempotencyConflict, "The idempotency key came with other content before.")),
        }
    }

    /// A keyed hash of the content and of what is said about it, so that a key used twice for
    /// different requests is noticed. Times that follow from the request's own moment are left out.
    fn fingerprint(&self, file: &FileDoc, sha256: Sha256Digest) -> [u8; 32] {
        let said = doc! {
            "name": &file.name,
            "folder": &file.folder,
            "description": file.description.clone(),
            "tags": &file.tags,
            "category": file.category.clone(),
            "custom": file.custom.clone(),
            "access": &file.access,
            "contentType": &file.content_type,
            "declaredType": file.declared_type.clone(),
            "days": file.retention.days,
            "expiresAt": file.retention.expires_at.filter(|_| file.retention.days.is_none()),
            "codec": &file.content.codec,
            "mode": file.content.mode.clone(),
        };
        self.keys.roots.dedup.mac(&[b"idempotency", &sha256.0, said.to_string().as_bytes()])
    }
}

fn idempotency_id(principal: &Principal, key: &str) -> String {
    let (tenant, actor) = (principal.tenant.as_bytes(), principal.actor.as_bytes());
    Sha256Digest::of(&[b"file.put\0", tenant, b"\0", actor, b"\0", key.as_bytes()].concat()).to_string()
}

fn later(at: DateTime, secs: u64) -> DateTime {
    let millis = i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    DateTime::from_millis(at.timestamp_millis().saturating_add(millis))
}

/// The instant a file expires at.
pub(super) fn expiry(days: Option<i64>, at: Option<DateTime>, from: DateTime) -> Option<DateTime> {
    at.or_else(|| days.map(|days| DateTime::from_millis(from.timestamp_millis().saturating_add(days * DAY_MS))))
}

fn grid_metadata(segment: &SegmentDoc, file: &FileDoc) -> Document {
    doc! {
        "contentType": &file.content_type,
        "gridgate": {
            "format": FORMAT_VERSION,
            "codec": &segment.codec,
            "sealed": segment.enc.is_some(),
            "frameLen": segment.frame_len,
            "plainLen": segment.len,
        },
    }
}
