//! Writing one segment: ids, keys and rows, then the body through the pipeline into chunks. Whoever writes one
//! decides where and how it is stored, and publishes it; nothing names it until then.

use super::describe::{PlainFacts, Stored};
use super::protection::CustomerKeys;
use super::quota::Room;
use super::{Files, Result};
use crate::content::Route;
use crate::format::digest::Sha256Stream;
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrappedKey};
use crate::format::manifest::Protection;
use crate::format::seal::{SegmentHeader, SegmentKey};
use crate::format::segment::{Codec, Layout, SegmentEncoder};
use crate::pipeline::BodyStream;
use crate::pipeline::encode::{Encoded, Encoding};
use crate::pipeline::frames::FrameSource;
use crate::random;
use crate::store::blobs::{BlobDoc, scope};
use crate::store::gridfs::write::ChunkWriter;
use crate::store::rows::segment_id;
use crate::store::segments::{Pending, SegmentDoc, WrapDoc, binary};
use crate::store::upload_memory::Holder;
use crate::store::{Id, StoreError, new_id};

/// How a segment is to be stored.
pub(super) struct SegmentWish<'a> {
    /// Whose it is.
    pub tenant: &'a str,
    /// The actor who brings it.
    pub actor: &'a str,
    /// Where.
    pub route: Route<'a>,
    /// How it is compressed.
    pub codec: Codec,
    /// Who holds the key.
    pub protection: Protection,
    /// The client's key, where it does.
    pub customer_key: Option<&'a Key>,
    /// How long the file is, where that is known: the larger, the longer its chunks.
    pub file_len: Option<u64>,
    /// How long the segment is, where that is known.
    pub announced_len: Option<u64>,
    /// Plaintext bytes that are taken.
    pub limit: u64,
}

/// A segment to be written.
pub(super) struct SegmentPlan {
    /// Its rows.
    pub pending: Pending,
    encoder: SegmentEncoder,
    customer: Option<CustomerKeys>,
    announced_len: Option<u64>,
    limit: u64,
    holder: Holder,
    /// It is handed over later, so that its chunks must not wait for that in memory.
    pub is_held: bool,
}

struct Sealing {
    key: SegmentKey,
    salt: [u8; 32],
    wrapped: WrappedKey,
    customer: Option<CustomerKeys>,
}

const STORING: &str = "store the content";

impl Files {
    /// Ids, keys and rows of a segment.
    pub(super) fn plan_segment(&self, wish: &SegmentWish<'_>) -> Result<SegmentPlan> {
        let &SegmentWish { tenant, actor, route, codec, protection, customer_key, file_len, announced_len, limit } =
            wish;
        let is_sealed = protection != Protection::Plain;
        let blob_id = new_id();
        let segment_id = segment_id(blob_id);
        let chunk_size = route.settings.chunk_size(file_len);
        let stores_as_is = codec == Codec::Identity && !is_sealed;
        let frame_len = if stores_as_is { chunk_size } else { route.settings.frame_len() };
        let layout = Layout { codec, level: route.settings.level_of(codec), frame_len };
        let sealing = is_sealed.then(|| self.seal(tenant, segment_id, layout, customer_key));
        let (salt, enc) = sealing.as_ref().map_or((None, None), |s| (Some(s.salt), Some(&s.wrapped)));
        let domain = protection.mode().unwrap_or("plain");
        let scope = scope(tenant, domain, route.bucket, codec.name());
        let segment = SegmentDoc::pending(segment_id, blob_id, route.bucket, chunk_size, layout);
        let segment = SegmentDoc {
            salt: salt.map(binary),
            enc: enc.map(WrapDoc::from),
            ..segment.map_err(|e| e.doing("plan the upload"))?
        };
        let pending = Pending { blob: BlobDoc::pending(blob_id, scope), segment, lease: self.settings.lease() };
        let (key, customer) = sealing.map_or((None, None), |s| (Some(s.key), s.customer));
        Ok(SegmentPlan {
            pending,
            encoder: SegmentEncoder::new(layout, key),
            customer,
            announced_len,
            limit,
            holder: format!("{tenant}\n{actor}").into(),
            is_held: false,
        })
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

    /// Encodes the body into chunks; where it goes on with something longer, hashes it into that `whole`, too.
    ///
    /// # Errors
    /// The body's own, `too_large`, `quota_exceeded`, the database's. Nothing names what was written.
    pub(super) async fn write_segment(
        &self,
        plan: SegmentPlan,
        source: FrameSource<BodyStream>,
        whole: Option<Sha256Stream>,
        room: &mut Option<Room>,
    ) -> Result<Stored> {
        let SegmentPlan { pending, encoder, customer, announced_len, limit, holder, is_held } = plan;
        let expected = announced_len.filter(|_| encoder.layout().codec == Codec::Identity);
        let mut writer = ChunkWriter::new(&self.store, pending.clone(), expected, holder);
        if is_held {
            writer.store_always();
        }
        let head = encoder.head();
        let encoding = Encoding::new(source, encoder, announced_len, limit).continue_hash(whole);
        let encoded = match self.encode_into(&mut writer, &head, encoding, room).await {
            Ok(encoded) => encoded,
            Err(error) => {
                self.abandon(writer, &pending, error.code.row().has_no_side_effects).await;
                return Err(error);
            }
        };
        let Encoded { end, plain_len, sha256, running, whole } = encoded;
        let stored_len = writer.stored_len();
        let chunks = match writer.finish().await {
            Ok(chunks) => chunks,
            Err(error) => {
                self.remove_late(&pending.segment).await;
                return Err(error.doing(STORING));
            }
        };
        let plain = PlainFacts { sha256: Some(sha256), customer };
        Ok(Stored { pending, end, plain_len, stored_len, plain, running, whole, chunks })
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
            let plain_len = encoding.plain_len();
            let store = async {
                self.require_space(0)?;
                self.grow_room(room, plain_len).await?;
                writer.push_frame(frame.bytes).await.map_err(fail)
            };
            if let Some(spare) = encoding.meanwhile(store).await? {
                encoding.give_back(spare);
            }
        }
        let encoded = encoding.finish()?;
        writer.push(&encoded.end.tail).await.map_err(fail)?;
        Ok(encoded)
    }

    /// Ends an upload that will not be published; its lease only where no outcome is unknown.
    async fn abandon(&self, mut writer: ChunkWriter, pending: &Pending, is_certain: bool) {
        let settled = writer.settle().await;
        if writer.has_reserved() {
            if is_certain {
                self.give_up(pending).await;
            }
            self.remove_late(&pending.segment).await;
        }
        if let Err(error) = settled {
            tracing::debug!(error = %error, "an insert of an ended upload failed");
        }
    }

    async fn remove_late(&self, segment: &SegmentDoc) {
        if let Err(error) = self.store.remove_late(segment).await {
            tracing::warn!(error = %error, segment = %segment.id, "chunks of an ended upload may be left");
        }
    }

    /// Ends the lease of rows that nothing will name.
    pub(super) async fn give_up(&self, pending: &Pending) {
        if let Err(error) = self.store.release(pending).await {
            tracing::debug!(error = %error, "the lease of an ended upload runs out by itself");
        }
    }
}
