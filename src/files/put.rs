//! One-shot upload as a recipe: permit, sniff, route, encode, write, commit.
//!
//! Runs in a task of its own: a client that goes away ends its body, not the recipe, which then
//! gives its reservation up on purpose.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha512};

use super::access::{Action, Principal, Resource, permit};
use super::describe::Description;
use super::options::{Compress, PutOptions};
use super::protection::{self, wished};
use super::publish::{PUT, Put};
use super::quota::Room;
use super::write::SegmentWish;
use super::{Files, Result};
use crate::content::Route;
use crate::content::media_type::MediaType;
use crate::content::sniff::{SNIFF_LEN, Sniffed, sniff};
use crate::error::{Error, ErrorCode};
use crate::format::compress::compress;
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
use crate::format::segment::{Codec, is_worthwhile};
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream, compute};
use crate::store::new_id;

/// Plaintext that is compressed on trial to decide about `compress=auto`.
const PROBE_LEN: usize = 128 << 10;
/// The name of a file whose upload gives none.
pub(super) const UNNAMED: &str = "unnamed";

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
    /// The client's own key, for this request only.
    pub customer_key: Option<Key>,
}

/// Digests a client announced (RFC 9530).
#[derive(Debug, Default, Clone)]
pub struct ExpectedDigests {
    /// SHA-256.
    pub sha256: Vec<[u8; 32]>,
    /// SHA-512.
    pub sha512: Vec<[u8; 64]>,
}

impl Files {
    /// Stores a body as a new file.
    ///
    /// # Errors
    /// `forbidden`, `key_required`, `too_large`, `quota_exceeded`, `kind_not_accepted`,
    /// `checksum_mismatch`, `idempotency_conflict`, `invalid` for options the bucket does not allow, the body's own errors, `unavailable`.
    /// In every case nothing of the upload is visible.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the upload; ending the body does.
    pub async fn put(&self, principal: Principal, mut request: PutRequest, body: BodyStream) -> Result<Put> {
        permit(&principal, Action::Write, Resource::Tenant)?;
        request.options.encrypt = wished(request.options.encrypt, request.customer_key.as_ref())?;
        let files = self.clone();
        let running = tokio::spawn(async move { files.run_put(principal, request, body).await });
        running.await.map_err(|error| Error::internal("store the file", error))?
    }

    async fn run_put(&self, principal: Principal, request: PutRequest, body: BodyStream) -> Result<Put> {
        let most = principal.max_upload().min(self.routing.max_bytes());
        if request.announced_len.is_some_and(|len| len > most) {
            return Err(Error::too_large(most));
        }
        self.require_space(request.announced_len.unwrap_or(0))?;
        let (body, sha512) = hash_sha512(body, !request.digests.sha512.is_empty());
        let mut source = FrameSource::new(body);
        source.fill(SNIFF_LEN).await.map_err(BodyError::into_error)?;
        let name = request.options.name.clone().unwrap_or_else(|| UNNAMED.to_owned());
        let sniffed = sniff(&source.peek(SNIFF_LEN), request.declared_type.as_deref(), &name);
        let route = self.routing.route(&sniffed.media_type);
        check_route(&route, &sniffed, request.announced_len).and_then(|()| check_terms(&principal, &sniffed))?;

        let codec = choose_codec(&request.options, &route, &mut source).await?;
        let bucket_days = route.settings.retention_days;
        let plan = self.plan_segment(&SegmentWish {
            tenant: &principal.tenant,
            actor: &principal.actor,
            route,
            codec,
            protection: protection::choose(route.settings.encryption, request.options.encrypt)?,
            customer_key: request.customer_key.as_ref(),
            file_len: request.announced_len,
            announced_len: request.announced_len,
            limit: route.settings.max_bytes.min(most),
        })?;
        let pending = plan.pending.clone();
        let (mut room, is_repeated) = match self.take_room(&principal.tenant, request.announced_len).await {
            // The first of a repeated request may have taken the last room: it is answered, and makes nothing.
            Err(full)
                if full.code == ErrorCode::QuotaExceeded
                    && self.is_repeated(&principal, request.idempotency_key.as_deref()).await? =>
            {
                (None, true)
            }
            room => (room?, false),
        };
        let outcome = async {
            let stored = self.write_segment(plan, source, None, &mut room).await?;
            check_digests(&request.digests, stored.plain.sha256, &sha512)?;
            self.settle_room(&mut room, stored.plain_len).await?;
            let said = Description {
                name,
                options: request.options,
                bucket_days,
                sniffed,
                owner: principal.owner().to_owned(),
                file: new_id(),
                created_at: self.now(),
                action: PUT,
                idempotency_key: request.idempotency_key,
                request_id: request.request_id,
                hold: room.as_ref().map(Room::hold),
                upload: None,
            };
            if is_repeated {
                return self.repeat(&principal, &stored, &said).await;
            }
            self.publish(&principal, stored, &said).await
        }
        .await;
        // Where the outcome is unknown nothing is taken back: leases run out by themselves.
        let is_untouched = |error: &Error| error.code.row().has_no_side_effects;
        let is_unnamed = outcome.as_ref().map_or_else(is_untouched, |put| put.file.blob != pending.blob.id);
        if outcome.as_ref().map_or_else(is_untouched, |put| !put.is_new) {
            self.give_room_back(room).await;
        }
        if is_unnamed {
            self.give_up(&pending).await;
        }
        outcome
    }
}

/// Whether the bucket takes such content.
pub(super) fn check_route(route: &Route<'_>, sniffed: &Sniffed, announced_len: Option<u64>) -> Result<()> {
    if !route.settings.accepts(&sniffed.media_type) {
        let detail = format!("The bucket {} does not accept {}.", route.bucket, sniffed.media_type);
        return Err(Error::new(ErrorCode::KindNotAccepted, detail).with("mediaType", sniffed.media_type.to_string()));
    }
    match announced_len {
        Some(len) if len > route.settings.max_bytes => Err(Error::too_large(route.settings.max_bytes)),
        _ => Ok(()),
    }
}

/// Whether content is of the type that a link is for; any is of a link for unknown bytes.
fn check_terms(principal: &Principal, sniffed: &Sniffed) -> Result<()> {
    let wanted = principal.upload_terms().and_then(|terms| terms.content_type.as_deref()).and_then(MediaType::parse);
    let wanted = wanted.filter(|wanted| *wanted != MediaType::octet_stream());
    match wanted {
        Some(wanted) if wanted.essence() != sniffed.media_type.essence() => {
            let detail = format!("The link is for {wanted}, and this is {}.", sniffed.media_type);
            Err(Error::new(ErrorCode::KindNotAccepted, detail).with("mediaType", sniffed.media_type.to_string()))
        }
        _ => Ok(()),
    }
}

/// The codec asked for, or with `auto` the bucket's where a probe of the content says it is worth it.
pub(super) async fn choose_codec(
    options: &PutOptions,
    route: &Route<'_>,
    source: &mut FrameSource<BodyStream>,
) -> Result<Codec> {
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
    let sample_len = sample.len();
    let probe = move || is_worthwhile(sample.len(), compress(Codec::Zstd, 1, &sample).len());
    let is_worth_it = compute(sample_len, "probe the content", probe).await?;
    Ok(if is_worth_it { codec } else { Codec::Identity })
}

/// Whether the content is what the client said it would be.
pub(super) fn check_digests(
    expected: &ExpectedDigests,
    sha256: Option<Sha256Digest>,
    sha512: &Sha512Tap,
) -> Result<()> {
    let mismatch = |algorithm: &str| {
        let detail = format!("The content's {algorithm} is not the announced one; nothing was stored.");
        Err(Error::new(ErrorCode::ChecksumMismatch, detail).with("field", algorithm))
    };
    if expected.sha256.iter().any(|digest| Some(Sha256Digest(*digest)) != sha256) {
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
pub(super) type Sha512Tap = Option<Arc<Mutex<Sha512>>>;

/// Hashes a body as it passes.
pub(super) fn hash_sha512(body: BodyStream, is_wanted: bool) -> (BodyStream, Sha512Tap) {
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
