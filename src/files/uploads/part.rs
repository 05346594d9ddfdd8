//! One part of an upload as a recipe: look up, sniff, decide, encode, write, hand over.
//!
//! Runs in a task of its own, as a one-shot upload does.

use std::ops::Range;

use super::piece::{STORING, number, sniff_as};
use super::{Files, Result, options, place_of, require_no_final, require_open};
use crate::content::sniff::{SNIFF_LEN, Sniffed};
use crate::error::Error;
use crate::files::access::Principal;
use crate::files::describe::Stored;
use crate::files::put::{ExpectedDigests, check_digests, hash_sha512};
use crate::format::key::Key;
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream};
use crate::store::parts::{Act, Handover};
use crate::store::segments::Pending;
use crate::store::uploads::{HashedDoc, RecognisedDoc, UploadDoc};
use crate::store::{Id, StoreError};

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
        if upload.size != Some(0) {
            require_no_final(&upload)?;
        }
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
        self.grow_upload(&upload, place.start + request.announced_len.unwrap_or(0)).await?;

        let running = self.running_hash(&upload, place.start, &key)?;
        let most = place.end - place.start;
        let (actor, sent) = (&principal.actor, request.customer_key.as_ref());
        let plan = self.plan_piece(&upload, actor, most, request.announced_len, sent)?;
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

    /// Hands complete bytes over to the upload, unless it has the same already.
    async fn hand_over(&self, part: &Part, stored: Stored, sent: Option<&Key>) -> Result<Handed> {
        let Part { upload, place, first, key, .. } = part;
        let len = stored.plain_len;
        check_len(upload, place, Some(len))?;
        self.grow_upload(upload, place.start + len).await?;
        let (running, from) = match place.start {
            0 => (Some(stored.running.clone()), HashedDoc::default()),
            _ => (stored.whole.clone(), upload.hashed.clone()),
        };
        let hashing = running.map(|running| self.hashing(upload, from, &running, place.start + len, key));
        let row = self.live_row(upload, &stored, place.start, sent)?;
        let _turn = self.turns.wait(&upload.id.bytes()).await;
        let place = row.off..number(place.end)?;
        let lying = self.store.find_parts_within(upload.blob, &place).await.map_err(|e| e.doing(STORING))?;
        if let [same] = lying.as_slice()
            && (same.off, same.len, &same.likeness) == (row.off, row.len, &row.likeness)
        {
            let now = self.store.find_upload(&upload.tenant, upload.id).await.map_err(|e| e.doing(STORING))?;
            match now.filter(|now| require_open(now).is_ok()) {
                None => return Err(self.why_stale(upload).await),
                // The part is longer than that.
                Some(now) if now.tail.len > 0 && place.contains(&now.tail.off) => {}
                Some(_) => return Ok(Handed::Known(len)),
            }
        }
        let handover = Handover {
            pieces: vec![self.piece(upload, stored, row, first.as_ref())?],
            recognised: first.as_ref().map(RecognisedDoc::from),
            hashing: hashing.transpose()?,
            ..self.handover(upload, Act::Put(place))
        };
        match self.store.hand_over(&handover).await {
            Ok(_) => Ok(Handed::Over(len)),
            Err(StoreError::Stale) => Err(self.why_stale(upload).await),
            Err(error) => Err(error.doing(STORING)),
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
