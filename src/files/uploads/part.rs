//! One part of an upload as a recipe: look up, sniff, decide, encode, write, hand over.
//!
//! Runs in a task of its own, as a one-shot upload does.

use std::ops::Range;
use std::time::Duration;

use super::{Files, Result, options, place_of, require_open};
use crate::content::sniff::{SNIFF_LEN, Sniffed, sniff};
use crate::content::{EncryptionPolicy, Route};
use crate::error::{Error, ErrorCode};
use crate::files::access::Principal;
use crate::files::describe::{Stored, files_document};
use crate::files::options::PutOptions;
use crate::files::protection::choose;
use crate::files::put::{ExpectedDigests, UNNAMED, check_digests, check_route, choose_codec, hash_sha512};
use crate::files::write::SegmentWish;
use crate::format::digest::{Sha256Stream, open_running, seal_running};
use crate::format::key::Key;
use crate::format::manifest::Protection;
use crate::format::segment::Codec;
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream};
use crate::random;
use crate::store::commit::NewSegment;
use crate::store::parts::{Hashing, PartCommit};
use crate::store::segments::{Pending, SegmentDoc, State, binary};
use crate::store::uploads::{HashedDoc, RecognisedDoc, StoringDoc, UploadDoc};
use crate::store::{Id, StoreError};

/// How long, and how often, a part looks whether the first one decides how all are stored.
const FIRST_PART_LOOKS: u32 = 20;
const FIRST_PART_LOOK: Duration = Duration::from_millis(50);
const STORING: &str = "store the part";

/// A request to store a part.
#[derive(Debug, Default)]
pub struct PartRequest {
    /// The announced length of the body.
    pub announced_len: Option<u64>,
    /// What the part must hash to.
    pub digests: ExpectedDigests,
    /// The client's own key, for this request only.
    pub customer_key: Option<Key>,
}

impl Files {
    /// Stores part `n` of an upload, in the place of an earlier one; gives its length. The same part again changes
    /// nothing.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found`, `upload_completed`, `upload_gone`, `too_large` for bytes beyond the part or the
    /// upload, `invalid` for too few, `checksum_mismatch`, `key_required`, `key_mismatch`, `kind_not_accepted`,
    /// `quota_exceeded`, the body's own errors, `unavailable`. The upload is then as it was.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the part; ending the body does.
    pub async fn put_part(
        &self,
        principal: Principal,
        upload: Id,
        n: u64,
        request: PartRequest,
        body: BodyStream,
    ) -> Result<u64> {
        let files = self.clone();
        let running = tokio::spawn(async move { files.run_put_part(&principal, upload, n, request, body).await });
        running.await.map_err(|error| Error::internal(STORING, error))?
    }

    pub(super) async fn run_put_part(
        &self,
        principal: &Principal,
        upload: Id,
        n: u64,
        request: PartRequest,
        body: BodyStream,
    ) -> Result<u64> {
        let upload = self.find_upload(principal, upload).await?;
        require_open(&upload)?;
        let key = self.upload_key(&upload, request.customer_key.as_ref())?;
        let place = place_of(&upload, n)?;
        check_len(&upload, &place, request.announced_len)?;
        self.require_space(place.end - place.start)?;
        let (body, sha512) = hash_sha512(body, !request.digests.sha512.is_empty());
        let mut source = FrameSource::new(body);
        source.fill(SNIFF_LEN).await.map_err(BodyError::into_error)?;
        let said = options(&upload)?;
        let first = (n == 0).then(|| sniff_as(&source.peek(SNIFF_LEN), &upload, &said));
        let upload = self.decide(upload, first.as_ref(), &said, &mut source).await?;
        let place = self.within_bucket(&upload, place)?;
        self.grow_upload(&upload, place.end).await?;

        let running = self.running_hash(&upload, place.start, &key)?;
        let plan = {
            let (route, codec, protection) = self.storing(&upload)?;
            self.plan_segment(&SegmentWish {
                tenant: &upload.tenant,
                route,
                codec,
                protection,
                customer_key: request.customer_key.as_ref(),
                file_len: upload.size.map(i64::unsigned_abs),
                announced_len: request.announced_len,
                limit: place.end - place.start,
            })?
        };
        let pending = plan.pending.clone();
        let part = Part { upload, place, pending, first, key };
        let continued = running.filter(|_| part.place.start > 0);
        let outcome = async {
            let stored = self.write_segment(plan, source, continued, &mut None).await?;
            check_digests(&request.digests, stored.plain.sha256, &sha512)?;
            self.hand_over(&part, stored, request.customer_key.as_ref()).await
        }
        .await;
        match outcome {
            Ok(Handed::Over(len)) => Ok(len),
            Ok(Handed::Known(len)) => {
                self.give_up(&part.pending).await;
                Ok(len)
            }
            Err(error) => {
                if error.code.row().has_no_side_effects {
                    self.give_up(&part.pending).await;
                }
                Err(error)
            }
        }
    }

    /// Decides with the first part that comes how all are stored. Any other waits a moment for that of the
    /// beginning, whose bytes say what the file is, and goes by the declared type if it does not come.
    async fn decide(
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
        if let Some(first) = first {
            check_route(&route, first, upload.size.map(i64::unsigned_abs))?;
        }
        if upload.storing.is_none() {
            // What comes before its beginning may turn out to be of a bucket that must encrypt.
            let policy = if first.is_none() && self.routing.requires_encryption() && said.encrypt.is_none() {
                EncryptionPolicy::Required
            } else {
                route.settings.encryption
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
    fn within_bucket(&self, upload: &UploadDoc, place: Range<u64>) -> Result<Range<u64>> {
        let most = self.storing(upload)?.0.settings.max_bytes;
        let is_beyond = place.start >= most || upload.size.is_some_and(|size| size.unsigned_abs() > most);
        if is_beyond { Err(Error::too_large(most)) } else { Ok(place.start..place.end.min(most)) }
    }

    /// How the parts of an upload are stored, once that is decided.
    fn storing<'a>(&'a self, upload: &'a UploadDoc) -> Result<(Route<'a>, Codec, Protection)> {
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

    /// The running hash, where it ends at the beginning of a place.
    fn running_hash(&self, upload: &UploadDoc, start: u64, key: &Key) -> Result<Option<Sha256Stream>> {
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

    /// Hands complete bytes over to the upload, unless it has the same already.
    async fn hand_over(&self, part: &Part, stored: Stored, sent: Option<&Key>) -> Result<Handed> {
        let Part { upload, place, first, key, .. } = part;
        let len = stored.plain_len;
        check_len(upload, place, Some(len))?;
        let off = number(place.start)?;
        let sha256 = stored.plain.sha256.ok_or_else(|| Error::internal(STORING, "the part was not hashed"))?;
        let (running, from) = match place.start {
            0 => (Some(stored.running.clone()), HashedDoc::default()),
            _ => (stored.whole.clone(), upload.hashed.clone()),
        };
        let hashing = running.map(|running| -> Result<Hashing> {
            let end = place.start + len;
            let state = seal_running(&running, end, key, &upload.id.bytes(), random::bytes());
            let to = HashedDoc { len: number(end)?, state: Some(binary(state)) };
            Ok(Hashing { from, to })
        });
        let (_, row) = self.live_rows(&upload.tenant, &stored)?;
        let likeness = Some(self.stand_in(&upload.tenant, sha256, sent));
        let row = SegmentDoc { blob: upload.blob, off, likeness, state: State::Live, ..row };
        let _turn = self.turns.wait(&upload.id.bytes()).await;
        let place = off..number(place.end)?;
        let lying = self.store.find_parts_within(upload.blob, &place).await.map_err(|e| e.doing(STORING))?;
        if let [same] = lying.as_slice()
            && (same.off, same.len, &same.likeness) == (row.off, row.len, &row.likeness)
        {
            return Ok(Handed::Known(len));
        }
        let name = upload.said.get_str("name").unwrap_or(UNNAMED);
        let content_type = first.as_ref().map(|first| first.media_type.to_string());
        let content_type = content_type.as_deref().or(upload.declared_type.as_deref()).unwrap_or_default();
        let files = files_document(&row, name, content_type)?;
        let commit = PartCommit {
            upload: upload.clone(),
            attempt: part.pending.blob.id,
            segment: NewSegment { row, files, chunks: stored.chunks },
            place,
            recognised: first.as_ref().map(RecognisedDoc::from),
            hashing: hashing.transpose()?,
            can_catch_up: upload.enc.is_none(),
            at: self.now(),
            life: self.upload_life(),
        };
        match self.store.commit_part(&commit).await {
            Ok(()) => Ok(Handed::Over(len)),
            Err(StoreError::Stale) => Err(self.why_stale(upload).await),
            Err(error) => Err(error.doing(STORING)),
        }
    }

    /// Why a part was not taken: the upload ended, or its writer slept.
    async fn why_stale(&self, upload: &UploadDoc) -> Error {
        let found = self.store.find_upload(&upload.tenant, upload.id).await;
        match found {
            Ok(Some(upload)) => require_open(&upload).err().unwrap_or_else(|| StoreError::Stale.doing(STORING)),
            Ok(None) => Error::new(ErrorCode::UploadGone, "The upload was ended."),
            Err(error) => error.doing(STORING),
        }
    }
}

/// A part that is being written.
struct Part {
    upload: UploadDoc,
    place: Range<u64>,
    pending: Pending,
    first: Option<Sniffed>,
    key: Key,
}

/// What became of complete bytes.
enum Handed {
    /// They are the upload's now.
    Over(u64),
    /// The upload had the same.
    Known(u64),
}

fn number(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|error| Error::internal(STORING, error))
}

fn sniff_as(head: &[u8], upload: &UploadDoc, said: &PutOptions) -> Sniffed {
    sniff(head, upload.declared_type.as_deref(), said.name.as_deref().unwrap_or(UNNAMED))
}

/// Whether a part is as long as its place: exactly, but for the last one of an upload of unknown length.
fn check_len(upload: &UploadDoc, place: &Range<u64>, len: Option<u64>) -> Result<()> {
    let (Some(len), most) = (len, place.end - place.start) else { return Ok(()) };
    if len > most {
        return Err(Error::too_large(most));
    }
    if len < most && upload.size.is_some() {
        let detail = format!("The part has {len} bytes and needs {most}.");
        return Err(Error::invalid("body", detail).with("expectedBytes", most));
    }
    Ok(())
}

impl From<&Sniffed> for RecognisedDoc {
    fn from(sniffed: &Sniffed) -> Self {
        Self {
            media_type: sniffed.media_type.to_string(),
            declared: sniffed.declared.as_ref().map(ToString::to_string),
        }
    }
}
