//! One-shot upload as a recipe: permit, sniff, route, encode, write, commit.
//!
//! Runs in a task of its own: a client that goes away ends its body, not the recipe, which then
//! gives its reservation up on purpose.

use bytes::Bytes;
use sha2::{Digest, Sha512};

use super::access::{Action, Principal, permit};
use super::options::{Compress, PutOptions};
use super::{Files, Result};
use crate::content::sniff::{SNIFF_LEN, Sniffed, sniff};
use crate::content::{ContentKind, EncryptionPolicy, Route};
use crate::error::{Error, ErrorCode};
use crate::format::compress::compress;
use crate::format::digest::{Sha256Digest, seal_digest};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrappedKey};
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::seal::{SegmentHeader, SegmentKey};
use crate::format::segment::{Codec, FORMAT_VERSION, Layout, SegmentEncoder, is_worthwhile};
use crate::pipeline::encode::{Encoded, Encoding};
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream};
use crate::random;
use crate::store::audit::AuditDoc;
use crate::store::blobs::BlobDoc;
use crate::store::commit::{Commit, IdempotencyDoc};
use crate::store::gridfs::{ChunkWriter, FilesDocument, WrittenChunks};
use crate::store::registry::{ContentDoc, FileDoc, RetentionDoc};
use crate::store::segments::{Pending, SegmentDoc, State, WrapDoc, binary};
use crate::store::{DateTime, Document, Id, StoreError, new_id};
use futures::StreamExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Plaintext that is compressed on trial to decide about `compress=auto`.
const PROBE_LEN: usize = 128 << 10;
const DAY_MS: i64 = 86_400_000;
const UNNAMED: &str = "unnamed";

/// A request to make a file.
#[derive(Debug, Default)]
pub struct PutRequest {
    /// What the client says about it.
    pub options: PutOptions,
    /// The declared media type, as sent.
    pub declared_type: Option<String>,
    /// The announced length of the body.
    pub announced_len: Option<u64>,
    /// What the content must hash to.
    pub digests: ExpectedDigests,
    /// The client's name for this request.
    pub idempotency_key: Option<String>,
    /// For the audit.
    pub request_id: Option<String>,
}

/// Digests a client announced (RFC 9530).
#[derive(Debug, Default, Clone)]
pub struct ExpectedDigests {
    /// SHA-256.
    pub sha256: Vec<[u8; 32]>,
    /// SHA-512.
    pub sha512: Vec<[u8; 64]>,
}

/// What became of an upload.
#[derive(Debug)]
pub struct Put {
    /// The file.
    pub file: FileDoc,
    /// Whether this request made it, or an earlier one with the same idempotency key.
    pub is_new: bool,
}

impl Files {
    /// Stores a body as a new file.
    ///
    /// # Errors
    /// `forbidden`, `too_large`, `kind_not_accepted`, `checksum_mismatch`, `idempotency_conflict`,
    /// `invalid` for options the bucket does not allow, the body's own errors, `unavailable`.
    /// In every case nothing of the upload is visible.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the upload; ending the body does.
    pub async fn put(&self, principal: Principal, request: PutRequest, body: BodyStream) -> Result<Put> {
        permit(&principal, Action::Write)?;
        let files = self.clone();
        let running = tokio::spawn(async move { files.run_put(principal, request, body).await });
        running.await.map_err(|error| Error::internal("store the file", error))?
    }

    async fn run_put(&self, principal: Principal, request: PutRequest, body: BodyStream) -> Result<Put> {
        let (body, sha512) = hash_sha512(body, !request.digests.sha512.is_empty());
        let mut source = FrameSource::new(body);
        source.fill(SNIFF_LEN).await.map_err(BodyError::into_error)?;
        let name = request.options.name.clone().unwrap_or_else(|| UNNAMED.to_owned());
        let sniffed = sniff(&source.peek(SNIFF_LEN), request.declared_type.as_deref(), &name);
        let route = self.routing.route(&sniffed.media_type);
        check_route(&route, &sniffed, request.announced_len)?;

        let codec = choose_codec(&request.options, &route, &mut source).await?;
        let plan = self.plan(&principal, &request, route, codec)?;
        let store = plan.pending.clone();
        let written = self.write(plan, source, &request).await;
        let outcome = match written {
            Ok(written) => self.publish(&principal, request, name, sniffed, written, sha512).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.give_up(&store).await;
        }
        outcome
    }

    /// Ids, keys and rows of the segment to be written.
    fn plan(&self, principal: &Principal, request: &PutRequest, route: Route<'_>, codec: Codec) -> Result<Plan> {
        let is_sealed = is_encrypted(route.settings.encryption, request.options.encrypt)?;
        let (segment_id, blob_id) = (new_id(), new_id());
        let chunk_size = route.settings.chunk_size(request.announced_len);
        let stores_as_is = codec == Codec::Identity && !is_sealed;
        let frame_len = if stores_as_is { chunk_size } else { route.settings.frame_len() };
        let layout = Layout { codec, level: route.settings.level, frame_len };
        let sealing = is_sealed.then(|| self.seal(&principal.tenant, segment_id, layout));
        let (key, salt, enc) = sealing.map_or((None, None, None), |s| (Some(s.key), Some(s.salt), Some(s.wrapped)));
        let pending = Pending {
            blob: BlobDoc {
                id: blob_id,
                scope: format!("{}/{}", principal.tenant, if is_sealed { "managed" } else { "plain" }),
                sha256: None,
                size: 0,
                state: State::Pending,
                generation: 0,
                lease: None,
                condemned_at: None,
            },
            segment: SegmentDoc {
                id: segment_id,
                blob: blob_id,
                bucket: route.bucket.to_owned(),
                files_id: None,
                off: 0,
                len: 0,
                stored_len: 0,
                chunk_size: i32::try_from(chunk_size).map_err(|error| Error::internal("plan the upload", error))?,
                format: FORMAT_VERSION,
                codec: codec.name().to_owned(),
                frame_len: i32::try_from(frame_len).map_err(|error| Error::internal("plan the upload", error))?,
                seek: binary([]),
                commit: binary([]),
                salt: salt.map(binary),
                enc: enc.as_ref().map(WrapDoc::from),
                state: State::Pending,
                lease: None,
            },
            lease: self.lease(),
        };
        let limit = route.settings.max_bytes;
        Ok(Plan { pending, encoder: SegmentEncoder::new(layout, key), level: layout.level, limit })
    }

    fn seal(&self, tenant: &str, segment_id: Id, layout: Layout) -> Sealing {
        let (data_key, salt) = (Key::new(random::bytes()), random::bytes());
        let header = SegmentHeader {
            family: layout.codec.family(),
            frame_log2: layout.frame_len.trailing_zeros() as u8,
            segment_id: segment_id.bytes(),
            salt,
        };
        let wrapped = self.keys.ring.wrap(&data_key, WrapBinding { tenant, id: &segment_id.bytes() });
        Sealing { key: SegmentKey::derive(&data_key, header, tenant), salt, wrapped }
    }

    /// Encodes the body into chunks.
    async fn write(&self, plan: Plan, source: FrameSource<BodyStream>, request: &PutRequest) -> Result<Written> {
        let is_plain = plan.encoder.layout().codec == Codec::Identity;
        let expected = request.announced_len.filter(|_| is_plain);
        let level = plan.level;
        let pending = plan.pending;
        let mut writer = ChunkWriter::new(&self.store, pending.clone(), expected);
        let fail = |error: StoreError| error.doing("store the content");
        writer.push(&plan.encoder.head()).await.map_err(fail)?;
        let mut encoding = Encoding::new(source, plan.encoder, plan.limit);
        while let Some(frame) = encoding.next().await? {
            for piece in frame.pieces {
                writer.push(&piece).await.map_err(fail)?;
            }
        }
        let encoded = encoding.finish().await?;
        writer.push(&encoded.end.tail).await.map_err(fail)?;
        let stored_len = writer.stored_len();
        let chunks = writer.finish().await.map_err(fail)?;
        Ok(Written { pending, level, encoded, stored_len, chunks })
    }

    async fn publish(
        &self,
        principal: &Principal,
        request: PutRequest,
        name: String,
        sniffed: Sniffed,
        written: Written,
        sha512: Sha512Tap,
    ) -> Result<Put> {
        check_digests(&request.digests, written.encoded.sha256, &sha512)?;
        let now = self.now();
        let sha256 = written.encoded.sha256;
        let (blob, segment) = self.live_rows(&principal.tenant, &written)?;
        let file = self.file_doc(principal, &request, name, sniffed, &written, &segment, now)?;
        let idempotency = request.idempotency_key.as_deref().map(|key| IdempotencyDoc {
            id: self.idempotency_id(&principal.tenant, key),
            fingerprint: binary(self.fingerprint(&file, sha256)),
            file: file.file,
            purge_at: DateTime::from_millis(
                now.timestamp_millis() + i64::try_from(self.settings.idempotency_secs * 1000).unwrap_or(i64::MAX),
            ),
        });
        let commit = Commit {
            files: FilesDocument {
                file: segment.grid_file().map_err(|e| e.doing("publish the file"))?,
                filename: file.name.clone(),
                metadata: grid_metadata(&segment, &file),
            },
            audit: audit_entry(principal, &file, request.request_id.clone(), now),
            blob,
            segment,
            chunks: written.chunks,
            file,
            idempotency,
        };
        match self.store.commit(&commit).await {
            Ok(()) => Ok(Put { file: commit.file, is_new: true }),
            Err(StoreError::Duplicate(cause)) => match &commit.idempotency {
                Some(ours) => self.repeat_answer(principal, ours).await,
                None => Err(StoreError::Duplicate(cause).doing("publish the file")),
            },
            Err(error) => Err(error.doing("publish the file")),
        }
    }

    /// The rows as they are once the bytes are complete.
    fn live_rows(&self, tenant: &str, written: &Written) -> Result<(BlobDoc, SegmentDoc)> {
        let plain_len = stored_number(written.encoded.plain_len)?;
        let look_up = self.keys.roots.dedup.mac(&[tenant.as_bytes(), b"\0", &written.encoded.sha256.0]);
        let blob = BlobDoc {
            sha256: Some(binary(look_up)),
            size: plain_len,
            state: State::Live,
            generation: 1,
            ..written.pending.blob.clone()
        };
        let segment = SegmentDoc {
            len: plain_len,
            stored_len: stored_number(written.stored_len)?,
            seek: binary(written.encoded.end.record.clone()),
            commit: binary(written.encoded.end.commitment),
            state: State::Live,
            ..written.pending.segment.clone()
        };
        Ok((blob, segment))
    }

    #[expect(clippy::too_many_arguments, reason = "the document joins what every stage found out")]
    fn file_doc(
        &self,
        principal: &Principal,
        request: &PutRequest,
        name: String,
        sniffed: Sniffed,
        written: &Written,
        segment: &SegmentDoc,
        now: DateTime,
    ) -> Result<FileDoc> {
        let (file_id, sha256) = (new_id(), written.encoded.sha256);
        let is_sealed = segment.enc.is_some();
        let lines = [ManifestSegment {
            id: segment.id.bytes(),
            plain_len: written.encoded.plain_len,
            commitment: written.encoded.end.commitment,
            protection: if is_sealed { Protection::Managed } else { Protection::Plain },
        }];
        let manifest = Manifest {
            tenant: &principal.tenant,
            file_id: &file_id.bytes(),
            version: 1,
            plain_len: written.encoded.plain_len,
            sha256,
            segments: &lines,
        };
        let digest = if is_sealed {
            seal_digest(sha256, &self.keys.roots.digest, &segment.blob.bytes())
        } else {
            sha256.0.to_vec()
        };
        let options = &request.options;
        let retention = RetentionDoc {
            days: options.retention.days,
            expires_at: expiry(options.retention.days, options.retention.expires_at, now),
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
            content: ContentDoc {
                size: segment.len,
                stored_size: segment.stored_len,
                bucket: segment.bucket.clone(),
                codec: segment.codec.clone(),
                level: written.level,
                mode: is_sealed.then(|| "managed".to_owned()),
                kid: is_sealed.then(|| self.keys.ring.primary().to_owned()),
                digest: binary(digest),
                mac: binary(manifest.mac(&self.keys.roots.manifest)),
            },
            name,
            description: options.description.clone(),
            tags: options.tags.clone(),
            category: options.category.clone(),
            folder: options.folder.clone().unwrap_or_else(|| "/".to_owned()),
            custom: options.custom.clone(),
            access: options.access.name().to_owned(),
            kind: ContentKind::of(&sniffed.media_type).name().to_owned(),
            content_type: sniffed.media_type.to_string(),
            declared_type: sniffed.declared.map(|declared| declared.to_string()),
            retention: RetentionDoc::default(),
            expire_at: None,
            purge_at: None,
            deduplicated: false,
            downloads: 0,
            last_accessed_at: None,
            created_at: now,
            updated_at: now,
        };
        self.apply_retention(&mut file, retention);
        Ok(file)
    }

    /// Sets what follows from a file's retention.
    pub(super) fn apply_retention(&self, file: &mut FileDoc, retention: RetentionDoc) {
        file.expire_at = retention.expires_at.filter(|_| !retention.legal_hold);
        let grace_ms = i64::try_from(self.settings.purge_grace_secs * 1000).unwrap_or(i64::MAX);
        file.purge_at = file.expire_at.map(|at| DateTime::from_millis(at.timestamp_millis().saturating_add(grace_ms)));
        file.retention = retention;
    }

    /// Answers a repeated request with what the first one made.
    async fn repeat_answer(&self, principal: &Principal, ours: &IdempotencyDoc) -> Result<Put> {
        let found = self.store.find_idempotency(&ours.id).await.map_err(|e| e.doing("look the idempotency key up"))?;
        match found {
            Some(first) if first.fingerprint == ours.fingerprint => {
                Ok(Put { file: self.find(principal, first.file).await?, is_new: false })
            }
            _ => Err(Error::new(ErrorCode::IdempotencyConflict, "The idempotency key came with other content before.")),
        }
    }

    fn idempotency_id(&self, tenant: &str, key: &str) -> String {
        Sha256Digest::of(&[b"file.put\0", tenant.as_bytes(), b"\0", key.as_bytes()].concat()).to_string()
    }

    /// A keyed hash of content and name, so that a key used twice for different files is noticed.
    fn fingerprint(&self, file: &FileDoc, sha256: Sha256Digest) -> [u8; 32] {
        let size = file.content.size.to_be_bytes();
        self.keys.roots.dedup.mac(&[
            b"idempotency",
            &sha256.0,
            &size,
            file.name.as_bytes(),
            b"\0",
            file.folder.as_bytes(),
        ])
    }

    async fn give_up(&self, pending: &Pending) {
        if let Err(error) = self.store.release(pending.blob.id, pending.segment.id).await {
            tracing::debug!(error = %error, "the lease of an ended upload runs out by itself");
        }
    }
}

struct Plan {
    pending: Pending,
    encoder: SegmentEncoder,
    level: i32,
    limit: u64,
}

struct Sealing {
    key: SegmentKey,
    salt: [u8; 32],
    wrapped: WrappedKey,
}

struct Written {
    pending: Pending,
    level: i32,
    encoded: Encoded,
    stored_len: u64,
    chunks: WrittenChunks,
}

fn stored_number(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|error| Error::internal("store a length", error))
}

fn check_route(route: &Route<'_>, sniffed: &Sniffed, announced_len: Option<u64>) -> Result<()> {
    if !route.settings.accepts(&sniffed.media_type) {
        let detail = format!("The bucket {} does not accept {}.", route.bucket, sniffed.media_type);
        return Err(Error::new(ErrorCode::KindNotAccepted, detail).with("mediaType", sniffed.media_type.to_string()));
    }
    match announced_len {
        Some(len) if len > route.settings.max_bytes => Err(Error::too_large(route.settings.max_bytes)),
        _ => Ok(()),
    }
}

/// The codec asked for, or with `auto` the bucket's where a probe of the content says it is worth it.
async fn choose_codec(options: &PutOptions, route: &Route<'_>, source: &mut FrameSource<BodyStream>) -> Result<Codec> {
    match options.compress {
        Compress::None => return Ok(Codec::Identity),
        Compress::Zstd => return Ok(Codec::Zstd),
        Compress::Gzip => return Ok(Codec::Gzip),
        Compress::Auto => {}
    }
    let codec = route.settings.codec().unwrap_or(Codec::Identity);
    if codec == Codec::Identity {
        return Ok(codec);
    }
    source.fill(PROBE_LEN).await.map_err(BodyError::into_error)?;
    let sample = source.peek(PROBE_LEN);
    let probe =
        tokio::task::spawn_blocking(move || is_worthwhile(sample.len(), compress(Codec::Zstd, 1, &sample).len()));
    let is_worth_it = probe.await.map_err(|error| Error::internal("probe the content", error))?;
    Ok(if is_worth_it { codec } else { Codec::Identity })
}

fn is_encrypted(policy: EncryptionPolicy, wish: Option<bool>) -> Result<bool> {
    match (policy, wish) {
        (EncryptionPolicy::Required, Some(false)) => {
            Err(Error::invalid("encrypt", "Files of this type are always encrypted here."))
        }
        (EncryptionPolicy::Required, _) => Ok(true),
        (EncryptionPolicy::On, wish) => Ok(wish.unwrap_or(true)),
        (EncryptionPolicy::Off, wish) => Ok(wish.unwrap_or(false)),
    }
}

/// The instant a file expires at.
pub(super) fn expiry(days: Option<i64>, at: Option<DateTime>, from: DateTime) -> Option<DateTime> {
    at.or_else(|| days.map(|days| DateTime::from_millis(from.timestamp_millis() + days * DAY_MS)))
}

fn grid_metadata(segment: &SegmentDoc, file: &FileDoc) -> Document {
    crate::store::doc! {
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

fn audit_entry(principal: &Principal, file: &FileDoc, request_id: Option<String>, now: DateTime) -> AuditDoc {
    AuditDoc {
        id: new_id(),
        at: now,
        tenant: principal.tenant.clone(),
        actor: principal.actor.clone(),
        action: "file.put".to_owned(),
        file: file.file,
        request_id,
        details: crate::store::doc! { "version": file.version, "size": file.content.size, "bucket": &file.content.bucket },
    }
}

fn check_digests(expected: &ExpectedDigests, sha256: Sha256Digest, sha512: &Sha512Tap) -> Result<()> {
    let mismatch = |algorithm: &str| {
        let detail = format!("The content's {algorithm} is not the announced one; nothing was stored.");
        Err(Error::new(ErrorCode::ChecksumMismatch, detail).with("field", algorithm))
    };
    if expected.sha256.iter().any(|digest| *digest != sha256.0) {
        return mismatch("sha-256");
    }
    let sha512: Option<[u8; 64]> =
        sha512.as_ref().map(|tap| tap.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize().into());
    if expected.sha512.iter().any(|digest| Some(*digest) != sha512) {
        return mismatch("sha-512");
    }
    Ok(())
}

/// The SHA-512 of what passed, where a client announced one.
type Sha512Tap = Option<Arc<Mutex<Sha512>>>;

fn hash_sha512(body: BodyStream, is_wanted: bool) -> (BodyStream, Sha512Tap) {
    if !is_wanted {
        return (body, None);
    }
    let tap = Arc::new(Mutex::new(Sha512::new()));
    let hasher = Arc::clone(&tap);
    let hashed = body.inspect(move |piece: &std::result::Result<Bytes, BodyError>| {
        if let Ok(piece) = piece {
            hasher.lock().unwrap_or_else(PoisonError::into_inner).update(piece);
        }
    });
    (Box::pin(hashed), Some(tap))
}
