//! What every segment of an upload has in common, whether it is a part or appended: where and how it is stored, how
//! it continues the running hash, and what hands it over.

use std::ops::Range;
use std::time::Duration;

use super::{Files, Result, require_open};
use crate::content::sniff::{Sniffed, sniff};
use crate::content::{EncryptionPolicy, Route};
use crate::error::{Error, ErrorCode};
use crate::files::describe::{Stored, files_document};
use crate::files::options::PutOptions;
use crate::files::protection::choose;
use crate::files::put::{UNNAMED, check_route, choose_codec};
use crate::files::write::{SegmentPlan, SegmentWish};
use crate::format::digest::Sha256Stream;
use crate::format::key::Key;
use crate::format::manifest::Protection;
use crate::format::segment::Codec;
use crate::format::upload::{open_running, seal_running};
use crate::pipeline::BodyStream;
use crate::pipeline::frames::FrameSource;
use crate::random;
use crate::store::StoreError;
use crate::store::commit::NewSegment;
use crate::store::hashing::Hashing;
use crate::store::parts::{Act, Handover, Piece};
use crate::store::segments::{SegmentDoc, State, binary};
use crate::store::uploads::{HashedDoc, RecognisedDoc, StoringDoc, UploadDoc};

/// How long, and how often, a part looks whether the first one decides how all are stored.
const FIRST_PART_LOOKS: u32 = 20;
const FIRST_PART_LOOK: Duration = Duration::from_millis(50);
/// How often, and how long between, the end of an upload is looked for.
const END_LOOKS: u32 = 10;
const END_LOOK: Duration = Duration::from_millis(50);
/// What a failure was about.
pub(super) const STORING: &str = "store the part";

impl Files {
    /// Decides with the first part that comes how all are stored. Any other waits a moment for that of the
    /// beginning, whose bytes say what the file is, and goes by the declared type if it does not come.
    pub(super) async fn decide(
        &self,
        mut upload: UploadDoc,
        first: Option<&Sniffed>,
        said: &PutOptions,
        source: &mut FrameSource<BodyStream>,
    ) -> Result<UploadDoc> {
        let fail = |error: StoreError| error.doing("decide how the upload is stored");
        let mut looks = if first.is_some() { 0 } else { FIRST_PART_LOOKS };
        while upload.storing.is_none() && looks > 0 {
            tokio::time::sleep(FIRST_PART_LOOK).await;
            let found = self.store.find_upload(&upload.tenant, upload.id).await.map_err(fail)?;
            upload = found.ok_or_else(|| fail(StoreError::Stale))?;
            looks -= 1;
        }
        let by_name = sniff_as(&[], &upload, said);
        let route = self.routing.route(&first.unwrap_or(&by_name).media_type);
        if let Some(first) = first.filter(|_| !upload.is_partial()) {
            check_route(&route, first, upload.size.map(i64::unsigned_abs))?;
        }
        if upload.storing.is_none() {
            // What comes without its beginning may turn out to be of a bucket that must encrypt.
            let policy = match (upload.is_partial(), first) {
                _ if said.encrypt.is_some() => route.settings.encryption,
                (true, _) if self.routing.may_encrypt() => EncryptionPolicy::Required,
                (false, None) if self.routing.requires_encryption() => EncryptionPolicy::Required,
                _ => route.settings.encryption,
            };
            let codec = choose_codec(said, &route, source).await?;
            let storing = StoringDoc {
                bucket: route.bucket.to_owned(),
                codec: codec.name().to_owned(),
                mode: choose(policy, said.encrypt)?.mode().map(str::to_owned),
            };
            let decided = self.store.decide_storing(upload.id, &storing).await.map_err(fail)?;
            upload = decided.ok_or_else(|| fail(StoreError::Stale))?;
        }
        let is_plain = upload.storing.as_ref().is_some_and(|storing| storing.mode.is_none());
        if first.is_some() && is_plain {
            choose(route.settings.encryption, Some(Protection::Plain))?;
        }
        Ok(upload)
    }

    /// A place, up to where the bucket takes no more.
    pub(super) fn within_bucket(&self, upload: &UploadDoc, place: Range<u64>) -> Result<Range<u64>> {
        // What bucket the file of a piece will be in is not known.
        let most = match upload.is_partial() {
            true => self.routing.max_bytes(),
            false => self.storing(upload)?.0.settings.max_bytes,
        };
        let is_beyond = place.start >= most || upload.size.is_some_and(|size| size.unsigned_abs() > most);
        if is_beyond { Err(Error::too_large(most)) } else { Ok(place.start..place.end.min(most)) }
    }

    /// How the parts of an upload are stored, once that is decided.
    pub(super) fn storing<'a>(&'a self, upload: &'a UploadDoc) -> Result<(Route<'a>, Codec, Protection)> {
        let gone = || Error::internal("store the part", "its bucket is not in the settings any more");
        let storing = upload.storing.as_ref().ok_or_else(gone)?;
        let settings = self.routing.bucket(&storing.bucket).ok_or_else(gone)?;
        let codec = Codec::try_from(storing.codec.as_str()).map_err(|error| Error::damaged(STORING, error))?;
        let protection = match (&storing.mode, &upload.enc) {
            (None, _) => Protection::Plain,
            (Some(_), None) => Protection::Managed,
            (Some(_), Some(_)) => Protection::Customer,
        };
        Ok((Route { bucket: &storing.bucket, settings }, codec, protection))
    }

    /// Ids, keys and rows of a segment that takes a place, brought by this actor.
    pub(super) fn plan_piece(
        &self,
        upload: &UploadDoc,
        actor: &str,
        limit: u64,
        announced_len: Option<u64>,
        sent: Option<&Key>,
    ) -> Result<SegmentPlan> {
        let (route, codec, protection) = self.storing(upload)?;
        self.plan_segment(&SegmentWish {
            tenant: &upload.tenant,
            actor,
            route,
            codec,
            protection,
            customer_key: sent,
            file_len: upload.size.map(i64::unsigned_abs),
            announced_len,
            limit,
        })
    }

    /// The running hash, where it ends at the beginning of a place.
    pub(super) fn running_hash(&self, upload: &UploadDoc, start: u64, key: &Key) -> Result<Option<Sha256Stream>> {
        if upload.hashed.len.unsigned_abs() != start {
            return Ok(None);
        }
        self.hash_state(upload, key).map(Some)
    }

    /// The running hash as it is.
    ///
    /// # Errors
    /// `damaged` when it does not open.
    pub(super) fn hash_state(&self, upload: &UploadDoc, key: &Key) -> Result<Sha256Stream> {
        let HashedDoc { len, state } = &upload.hashed;
        let Some(state) = state else { return Ok(Sha256Stream::default()) };
        open_running(&state.bytes, len.unsigned_abs(), key, &upload.id.bytes())
            .map_err(|error| Error::damaged("open the running hash", error))
    }

    /// A step of the running hash, sealed.
    pub(super) fn hashing(
        &self,
        upload: &UploadDoc,
        from: HashedDoc,
        running: &Sha256Stream,
        end: u64,
        key: &Key,
    ) -> Result<Hashing> {
        let state = seal_running(running, end, key, &upload.id.bytes(), random::bytes());
        Ok(Hashing { from, to: HashedDoc { len: number(end)?, state: Some(binary(state)) } })
    }

    /// The row of a stored segment, live at a place of the upload.
    pub(super) fn live_row(
        &self,
        upload: &UploadDoc,
        stored: &Stored,
        off: u64,
        sent: Option<&Key>,
    ) -> Result<SegmentDoc> {
        let (_, row) = self.live_rows(&upload.tenant, stored)?;
        let sha256 = stored.plain.sha256.ok_or_else(|| Error::internal(STORING, "it was not hashed"))?;
        let likeness = Some(self.stand_in(&upload.tenant, sha256, sent));
        Ok(SegmentDoc { blob: upload.blob, off: number(off)?, likeness, state: State::Live, ..row })
    }

    /// A stored segment, to be handed over.
    pub(super) fn piece(
        &self,
        upload: &UploadDoc,
        stored: Stored,
        row: SegmentDoc,
        first: Option<&Sniffed>,
    ) -> Result<Piece> {
        let name = upload.said.get_str("name").unwrap_or(UNNAMED);
        let content_type = first.map(|first| first.media_type.to_string());
        let content_type = content_type.as_deref().or(upload.declared_type.as_deref()).unwrap_or_default();
        let files = files_document(&row, name, content_type)?;
        let attempt = stored.pending.blob.id;
        Ok(Piece { attempt, segment: NewSegment { row, files, chunks: stored.chunks } })
    }

    /// A handing over of nothing yet.
    pub(super) fn handover(&self, upload: &UploadDoc, act: Act) -> Handover {
        Handover {
            upload: upload.clone(),
            pieces: Vec::new(),
            act,
            recognised: None,
            hashing: None,
            can_catch_up: upload.enc.is_none(),
            at: self.now(),
            life: self.upload_life(),
        }
    }

    /// Why a part was not taken: the upload ended, or its writer slept. A transaction may have seen the end before
    /// most of the servers have it, so this looks for a moment.
    pub(super) async fn why_stale(&self, upload: &UploadDoc) -> Error {
        for _ in 0..END_LOOKS {
            let found = self.store.find_upload(&upload.tenant, upload.id).await;
            let ended = match found {
                Ok(Some(upload)) => require_open(&upload).err(),
                Ok(None) => Some(Error::new(ErrorCode::UploadGone, "The upload was ended.")),
                Err(error) => return error.doing(STORING),
            };
            if let Some(error) = ended {
                // What a writer took again while it ended.
                self.free_upload(upload).await;
                return error;
            }
            tokio::time::sleep(END_LOOK).await;
        }
        StoreError::Stale.doing(STORING)
    }
}

pub(super) fn number(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|error| Error::internal(STORING, error))
}

/// As what the beginning of an upload is recognised.
pub(super) fn sniff_as(head: &[u8], upload: &UploadDoc, said: &PutOptions) -> Sniffed {
    sniff(head, upload.declared_type.as_deref(), said.name.as_deref().unwrap_or(UNNAMED))
}

impl From<&Sniffed> for RecognisedDoc {
    fn from(sniffed: &Sniffed) -> Self {
        Self {
            media_type: sniffed.media_type.to_string(),
            declared: sniffed.declared.as_ref().map(ToString::to_string),
        }
    }
}
