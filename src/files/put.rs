//! One-shot upload as a recipe: permit, sniff, route, encode, write, commit.
//!
//! Runs in a task of its own: a client that goes away ends its body, not the recipe, which then
//! gives its reservation up on purpose.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha512};

use super::access::{Action, Principal, permit};
use super::describe::{Description, PlainFacts, Stored};
use super::options::{Compress, PutOptions};
use super::protection::{self, CustomerKeys, wished};
use super::publish::Put;
use super::quota::Room;
use super::{Files, Result};
use crate::content::Route;
use crate::content::sniff::{SNIFF_LEN, Sniffed, sniff};
use crate::error::{Error, ErrorCode};
use crate::format::compress::compress;
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrappedKey};
use crate::format::manifest::Protection;
use crate::format::seal::{SegmentHeader, SegmentKey};
use crate::format::segment::{Codec, Layout, SegmentEncoder, is_worthwhile};
use crate::pipeline::encode::{Encoded, Encoding};
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream};
use crate::random;
use crate::store::blobs::{BlobDoc, scope};
use crate::store::gridfs::write::ChunkWriter;
use crate::store::segments::{Pending, SegmentDoc, WrapDoc, binary};
use crate::store::{Id, StoreError, new_id};

/// Plaintext that is compressed on trial to decide about `compress=auto`.
const PROBE_LEN: usize = 128 << 10;
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
        permit(&principal, Action::Write)?;
        request.options.encrypt = wished(request.options.encrypt, request.customer_key.as_ref())?;
        let files = self.clone();
        let running = tokio::spawn(async move { files.run_put(principal, request, body).await });
        running.await.map_err(|error| Error::internal("store the file", error))?
    }

    async fn run_put(&self, principal: Principal, request: PutRequest, body: BodyStream) -> Result<Put> {
        let most = self.routing.max_bytes();
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
        check_route(&route, &sniffed, request.announced_len)?;

        let codec = choose_codec(&request.options, &route, &mut source).await?;
        let bucket_days = route.settings.retention_days;
        let plan = self.plan(&principal, &request, route, codec)?;
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
            let stored = self.write(plan, source, request.announced_len, &mut room).await?;
            check_digests(&request.digests, stored.plain.sha256, &sha512)?;
            self.settle_room(&mut room, stored.plain_len).await?;
            let said = Description {
                name,
                options: request.options,
                bucket_days,
                sniffed,
                created_at: self.now(),
                action: "file.put",
                idempotency_key: request.idempotency_key,
                request_id: request.request_id,
                hold: room.as_ref().map(Room::hold),
            };
            if is_repeated {
                return self.repeat(&principal, &stored, &said).await;
            }
            self.publish(&principal, stored, &said).await
        }
        .await;
        // Where the outcome is unknown nothing is taken back: leases run out by themselves.
        let (made_none, is_unnamed) = match &outcome {
            Ok(put) => (!put.is_new, put.file.blob != pending.blob.id),
            Err(error) => (error.code.row().has_no_side_effects, error.code.row().has_no_side_effects),
        };
        if made_none {
            self.give_room_back(room).await;
        }
        if is_unnamed {
            self.give_up(&pending).await;
        }
        outcome
    }

    /// Ids, keys and rows of the segment to be written.
    fn plan(&self, principal: &Principal, request: &PutRequest, route: Route<'_>, codec: Codec) -> Result<Plan> {
        let protection = protection::choose(route.settings.encryption, request.options.encrypt)?;
        let is_sealed = protection != Protection::Plain;
        let (segment_id, blob_id) = (new_id(), new_id());
        let chunk_size = route.settings.chunk_size(request.announced_len);
        let stores_as_is = codec == Codec::Identity && !is_sealed;
        let frame_len = if stores_as_is { chunk_size } else { route.settings.frame_len() };
        let layout = Layout { codec, level: route.settings.level_of(codec), frame_len };
        let sent = request.customer_key.as_ref();
        let sealing = is_sealed.then(|| self.seal(&principal.tenant, segment_id, layout, sent));
        let (salt, enc) = sealing.as_ref().map_or((None, None), |s| (Some(s.salt), Some(&s.wrapped)));
        let domain = protection.mode().unwrap_or("plain");
        let scope = scope(&principal.tenant, domain, route.bucket, codec.name());
        let segment = SegmentDoc::pending(segment_id, blob_id, route.bucket, chunk_size, layout);
        let segment = SegmentDoc {
            salt: salt.map(binary),
            enc: enc.map(WrapDoc::from),
            ..segment.map_err(|e| e.doing("plan the upload"))?
        };
        let pending = Pending { blob: BlobDoc::pending(blob_id, scope), segment, lease: self.settings.lease() };
        let limit = route.settings.max_bytes;
        let (key, customer) = sealing.map_or((None, None), |s| (Some(s.key), s.customer));
        Ok(Plan { pending, encoder: SegmentEncoder::new(layout, key), customer, limit })
    }

    fn seal(&self, tenant: &str, segment_id: Id, layout: Layout, sent: Option<&Key>) -> Sealing {
        let (data_key, salt) = (Key::new(random::bytes()), random::bytes());
        let header = SegmentHeader {
            family: layout.codec.family(),
            frame_log2: layout.frame_len.trailing_zeros() as u8,
            segment_id: segment_id.bytes(),
            salt,
        };
        let wrapped = self.wrap_data_key(&data_key, sent, WrapBinding { tenant, id: &segment_id.bytes() });
        let key = SegmentKey::derive(&data_key, header, tenant);
        let customer = sent.map(|sent| CustomerKeys { sent: sent.clone(), data: data_key });
        Sealing { key, salt, wrapped, customer }
    }

    /// Encodes the body into chunks.
    async fn write(
        &self,
        plan: Plan,
        source: FrameSource<BodyStream>,
        announced_len: Option<u64>,
        room: &mut Option<Room>,
    ) -> Result<Stored> {
        let layout = plan.encoder.layout();
        let expected = announced_len.filter(|_| layout.codec == Codec::Identity);
        let mut writer = ChunkWriter::new(&self.store, plan.pending.clone(), expected);
        let head = plan.encoder.head();
        let encoding = Encoding::new(source, plan.encoder, announced_len, plan.limit);
        let Encoded { end, plain_len, sha256 } = match self.encode_into(&mut writer, &head, encoding, room).await {
            Ok(encoded) => encoded,
            Err(error) => {
                if error.code.row().has_no_side_effects {
                    self.abandon(writer, &plan.pending).await;
                }
                return Err(error);
            }
        };
        let stored_len = writer.stored_len();
        let chunks = writer.finish().await.map_err(|e| e.doing(STORING))?;
        let plain = PlainFacts { sha256, customer: plan.customer };
        Ok(Stored { pending: plan.pending, end, plain_len, stored_len, plain, chunks })
    }

    /// Pushes a whole segment: head, frames, tail.
    async fn encode_into(
        &self,
        writer: &mut ChunkWriter,
        head: &[u8],
        mut encoding: Encoding,
        room: &mut Option<Room>,
    ) -> Result<Encoded> {
        let fail = |error: StoreError| error.doing(STORING);
        writer.push(head).await.map_err(fail)?;
        while let Some(frame) = encoding.next().await? {
            self.require_space(0)?;
            self.grow_room(room, encoding.plain_len()).await?;
            if let Some(spare) = writer.push_frame(frame.bytes).await.map_err(fail)? {
                encoding.give_back(spare);
            }
        }
        let encoded = encoding.finish().await?;
        writer.push(&encoded.end.tail).await.map_err(fail)?;
        Ok(encoded)
    }

    /// Ends an upload that will not be published.
    async fn abandon(&self, mut writer: ChunkWriter, pending: &Pending) {
        let settled = writer.settle().await;
        if writer.has_reserved() {
            self.give_up(pending).await;
            if let Err(error) = self.store.remove_late_chunks(pending).await {
                tracing::warn!(error = %error, segment = %pending.segment.id, "chunks of an ended upload may be left");
            }
        }
        if let Err(error) = settled {
            tracing::debug!(error = %error, "an insert of an ended upload failed");
        }
    }

    async fn give_up(&self, pending: &Pending) {
        if let Err(error) = self.store.release(pending).await {
            tracing::debug!(error = %error, "the lease of an ended upload runs out by itself");
        }
    }
}

struct Plan {
    pending: Pending,
    encoder: SegmentEncoder,
    customer: Option<CustomerKeys>,
    limit: u64,
}

struct Sealing {
    key: SegmentKey,
    salt: [u8; 32],
    wrapped: WrappedKey,
    customer: Option<CustomerKeys>,
}

const STORING: &str = "store the content";

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
