//! The documents that describe stored bytes: rows, registry document, manifest, GridFS metadata.
//! Makes them; storing them is `publish.rs`.

use super::access::Principal;
use super::open::manifest_line;
use super::options::PutOptions;
use super::protection::{CustomerKeys, protection};
use super::{Files, Result};
use crate::content::ContentKind;
use crate::content::sniff::Sniffed;
use crate::error::Error;
use crate::format::digest::{Sha256Digest, Sha256Stream, likeness};
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::segment::{FORMAT_VERSION, SegmentEnd};
use crate::store::blobs::BlobDoc;
use crate::store::gridfs::FilesDocument;
use crate::store::gridfs::read::SMALL_CHUNK_LEN;
use crate::store::gridfs::write::WrittenChunks;
use crate::store::registry::{ContentDoc, FileDoc, RetentionDoc};
use crate::store::row_copy::RowCopy;
use crate::store::segments::{Pending, SegmentDoc, State, binary};
use crate::store::uploads::UploadEnd;
use crate::store::{Binary, DateTime, Id, doc};

const DAY_MS: i64 = 86_400_000;

/// Complete bytes in GridFS that nothing names yet.
pub(super) struct Stored {
    /// The rows they were written under.
    pub pending: Pending,
    /// How the segment ends.
    pub end: SegmentEnd,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Bytes in GridFS.
    pub stored_len: u64,
    /// What is known of the plaintext.
    pub plain: PlainFacts,
    /// What its hash was made of, to go on with.
    pub running: Sha256Stream,
    /// The hash of something longer that it goes on with.
    pub whole: Option<Sha256Stream>,
    /// Their chunks.
    pub chunks: WrittenChunks,
}

/// What is known of content while it is stored, and is not all kept.
pub(super) struct PlainFacts {
    /// Of the plaintext; none while it is not known.
    pub sha256: Option<Sha256Digest>,
    /// Where the client holds the key.
    pub customer: Option<CustomerKeys>,
}

impl PlainFacts {
    /// Stands for the content where requests are compared; with a client's key, for both.
    pub(super) fn likeness(&self) -> Option<[u8; 32]> {
        let sha256 = self.sha256?;
        Some(self.customer.as_ref().map_or(sha256.0, |keys| likeness(sha256, &keys.sent)))
    }
}

/// What is said about the bytes.
pub(super) struct Description {
    /// Display name.
    pub name: String,
    /// What the client said.
    pub options: PutOptions,
    /// Days the bucket keeps files for whose upload says nothing; 0: for ever.
    pub bucket_days: i64,
    /// What they are taken for.
    pub sniffed: Sniffed,
    /// Who it belongs to.
    pub owner: String,
    /// The id it gets.
    pub file: Id,
    /// Since when the file is there.
    pub created_at: DateTime,
    /// What happened, for the audit: `file.put`, `file.adopt`.
    pub action: &'static str,
    /// The client's name for the request.
    pub idempotency_key: Option<String>,
    /// For the audit.
    pub request_id: Option<String>,
    /// The room reserved for it.
    pub hold: Option<Id>,
    /// The upload that ends with it.
    pub upload: Option<UploadEnd>,
}

impl Description {
    fn retention(&self) -> RetentionDoc {
        let said = &self.options.retention;
        let by_bucket = said.days.is_none() && said.expires_at.is_none() && self.bucket_days > 0;
        let days = if by_bucket { Some(self.bucket_days) } else { said.days };
        let expires_at = expiry(days, said.expires_at, self.created_at);
        RetentionDoc { days, expires_at, by_bucket, legal_hold: false }
    }
}

impl Files {
    /// By what equal content of a tenant is found: not what a client's key locks, nor what is not hashed yet.
    pub(super) fn look_up_value(&self, tenant: &str, plain: &PlainFacts) -> Option<Binary> {
        let sha256 = plain.sha256.filter(|_| plain.customer.is_none())?;
        Some(binary(self.keys.roots.dedup.mac(&[tenant.as_bytes(), b"\0", &sha256.0])))
    }

    /// The rows as they are once the bytes are complete. What another program stored is not shared: its bytes are
    /// not where and how ours would be.
    pub(super) fn live_rows(&self, tenant: &str, stored: &Stored) -> Result<(BlobDoc, SegmentDoc)> {
        let number = |n| i64::try_from(n).map_err(|error| Error::internal("store a length", error));
        let is_shared = !matches!(stored.chunks, WrittenChunks::Adopted);
        let blob = BlobDoc {
            sha256: self.look_up_value(tenant, &stored.plain).filter(|_| is_shared),
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

    /// The registry document of a new file over the segments of one blob.
    pub(super) fn file_doc(
        &self,
        principal: &Principal,
        segments: &[SegmentDoc],
        plain: &PlainFacts,
        said: &Description,
    ) -> Result<FileDoc> {
        let first = segments.first().ok_or_else(|| Error::damaged("describe the file", "it has no segment"))?;
        let (file_id, options) = (said.file, &said.options);
        let mut file = FileDoc {
            id: file_id,
            file: file_id,
            version: 1,
            latest: true,
            tenant: principal.tenant.clone(),
            owner: said.owner.clone(),
            blob: first.blob,
            content: self.content_doc(&principal.tenant, first, segments, plain, &file_id.bytes())?,
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
        self.apply_retention(&mut file, said.retention());
        Ok(file)
    }

    /// What is fixed with the bytes of a file.
    pub(super) fn content_doc(
        &self,
        tenant: &str,
        first: &SegmentDoc,
        segments: &[SegmentDoc],
        plain: &PlainFacts,
        file_id: &[u8; 12],
    ) -> Result<ContentDoc> {
        let protection = protection(first)?;
        let digest = self.digest_record(plain.sha256, first.blob, protection, plain.customer.as_ref());
        let lines: Vec<ManifestSegment> = segments.iter().map(manifest_line).collect::<Result<_>>()?;
        let manifest = Manifest {
            tenant,
            file_id,
            version: 1,
            plain_len: lines.iter().map(|line| line.plain_len).sum(),
            sha256: digest.bound,
            segments: &lines,
        };
        let row = RowCopy::of(segments);
        Ok(ContentDoc {
            size: segments.iter().map(|segment| segment.len).sum(),
            stored_size: segments.iter().map(|segment| segment.stored_len).sum(),
            segment: only_small(segments).filter(|_| row.is_none()).map(|segment| segment.id),
            row,
            bucket: first.bucket.clone(),
            codec: first.codec.clone(),
            level: first.level,
            mode: protection.mode().map(str::to_owned),
            kid: first.enc.as_ref().filter(|_| protection == Protection::Managed).map(|enc| enc.kid().to_owned()),
            digest_due: digest.bytes.is_empty(),
            digest: binary(digest.bytes),
            mac: binary(manifest.mac(&self.keys.roots.manifest)),
        })
    }

    /// Sets what follows from a file's retention.
    pub(super) fn apply_retention(&self, file: &mut FileDoc, retention: RetentionDoc) {
        file.expire_at = retention.expires_at.filter(|_| !retention.legal_hold);
        file.purge_at = file.expire_at.map(|at| later(at, self.settings.purge_grace_secs));
        file.retention = retention;
    }
}

/// The segment of content that is one small chunk of ours.
fn only_small(segments: &[SegmentDoc]) -> Option<&SegmentDoc> {
    let [segment] = segments else { return None };
    let most = (SMALL_CHUNK_LEN as i64).min(segment.chunk_size.into());
    let is_small = segment.len > 0 && segment.stored_len <= most;
    (is_small && segment.files_id.is_none()).then_some(segment)
}

/// So many seconds later.
pub(super) fn later(at: DateTime, secs: u64) -> DateTime {
    let millis = i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    DateTime::from_millis(at.timestamp_millis().saturating_add(millis))
}

/// The instant a file expires at.
pub(super) fn expiry(days: Option<i64>, at: Option<DateTime>, from: DateTime) -> Option<DateTime> {
    at.or_else(|| days.map(|days| DateTime::from_millis(from.timestamp_millis().saturating_add(days * DAY_MS))))
}

/// The GridFS files document of a segment of ours.
pub(super) fn files_document(segment: &SegmentDoc, name: &str, content_type: &str) -> Result<FilesDocument> {
    let metadata = doc! {
        "contentType": content_type,
        "gridgate": {
            "format": FORMAT_VERSION,
            "codec": &segment.codec,
            "sealed": segment.enc.is_some(),
            "frameLen": segment.frame_len,
            "plainLen": segment.len,
        },
    };
    let file = segment.grid_file().map_err(|e| e.doing("describe the segment"))?;
    Ok(FilesDocument { file, filename: name.to_owned(), metadata })
}
