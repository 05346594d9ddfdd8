//! Appending to an upload as a recipe: become its only writer, take what comes, keep what came.
//!
//! Bytes become segments, which end where parts do. What is too short for a segment joins the tail, so that each byte
//! is written at most twice however small the pieces are that it comes in. A body that breaks off, or that a newer
//! writer makes way for, is kept as far as it came; only with a checksum it is all or nothing.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::Mutex;

use super::body::{digested, making_way, piece_of};
use super::end::mismatch;
use super::piece::{STORING, number, sniff_as};
use super::{Files, Result, options, place_of, require_no_final, require_open};
use crate::content::sniff::SNIFF_LEN;
use crate::error::Error;
use crate::files::access::Principal;
use crate::files::options::PutOptions;
use crate::files::put::ExpectedDigests;
use crate::format::digest::Sha256Stream;
use crate::format::key::Key;
use crate::format::upload::seal_tail;
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream};
use crate::random;
use crate::store::parts::{Act, Handover, Piece, TailChange};
use crate::store::segments::{Pending, binary};
use crate::store::tails::TailDoc;
use crate::store::uploads::{RecognisedDoc, TailSpan, UploadDoc};
use crate::store::{Id, StoreError, new_id};

/// Fewer bytes than these make no segment, unless they end a part or the upload.
const SEGMENT_LEN: u64 = 4 << 20;

/// A request to append.
#[derive(Default)]
pub struct AppendRequest {
    /// Where the body begins.
    pub offset: u64,
    /// The announced length of the body.
    pub announced_len: Option<u64>,
    /// The size of the upload, where it is told only now.
    pub size: Option<u64>,
    /// Whether all of it becomes segments, however short.
    pub flushes: bool,
    /// What the body must hash to.
    pub digests: ExpectedDigests,
    /// Whether the body is as announced, to be asked once all of it has come; nothing is kept of one that is not.
    pub verdict: Option<Verdict>,
    /// The client's own key, for this request only.
    pub customer_key: Option<Key>,
}

/// Judges a body that has passed.
pub type Verdict = Box<dyn FnOnce() -> Result<()> + Send>;

/// What became of an append.
pub struct Appended {
    /// The upload then.
    pub upload: UploadDoc,
    /// Where it ends then.
    pub offset: u64,
}

impl Files {
    /// Appends a body to an upload, which must end where it says. Whoever appended before makes way.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found`, `upload_completed`, `upload_gone`, `offset_mismatch`, `inconsistent_length`, `too_large`
    /// for a body beyond the end, `checksum_mismatch`, `key_required`, `key_mismatch`, `kind_not_accepted`, `quota_exceeded`, what the verdict says, the body's own
    /// errors (what came is kept), `unavailable`.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop it; ending the body does.
    pub async fn append(
        &self,
        principal: Principal,
        upload: Id,
        request: AppendRequest,
        body: BodyStream,
    ) -> Result<Appended> {
        let files = self.clone();
        let running = tokio::spawn(async move { files.run_append(&principal, upload, request, body).await });
        running.await.map_err(|error| Error::internal(STORING, error))?
    }

    pub(super) async fn run_append(
        &self,
        principal: &Principal,
        upload: Id,
        request: AppendRequest,
        body: BodyStream,
    ) -> Result<Appended> {
        let upload = self.find_upload(principal, upload).await?;
        if !request.flushes {
            require_no_final(&upload)?;
        }
        require_open(&upload)?;
        let key = self.upload_key(&upload, request.customer_key.as_ref())?;
        let turn = self.writers.enter(upload.id).await;
        // What the one before kept is there now.
        let upload = self.find_upload(principal, upload.id).await?;
        require_open(&upload)?;
        let offset = self.offset(&upload).await?;
        if request.offset != offset {
            return Err(mismatch(offset));
        }
        self.check_lengths(&upload, offset, request.size, request.announced_len)?;
        let upload = self.sized(upload, request.size).await?;
        self.require_space(request.announced_len.unwrap_or(0))?;
        let begun =
            self.store.begin_append(&upload, number(offset)?, self.now()).await.map_err(|e| e.doing(STORING))?;
        let Some(upload) = begun else { return Err(self.why_not_appended(&upload).await) };
        let said = options(&upload)?;
        let upload = match upload.tail {
            TailSpan { len: 1.., .. } if !upload.tail.is_followed_by(number(offset)?) => {
                self.settle_tail(upload, &key, &said, request.customer_key.as_ref()).await?
            }
            _ => upload,
        };
        let (body, digests) = digested(body, request.digests);
        let body = making_way(body, turn.interrupted.clone());
        let verdict = both(request.verdict, digests);
        let tail_len = match upload.tail.is_followed_by(number(offset)?) {
            true => upload.tail.len.unsigned_abs(),
            false => 0,
        };
        let start = offset - tail_len;
        let hash = (upload.hashed.len == number(start)?).then(|| self.hash_state(&upload, &key));
        let mut appending = Appending {
            files: self,
            actor: &principal.actor,
            key,
            said,
            sent: request.customer_key,
            end: self.end_of(&upload),
            start,
            tail_len,
            flushes: request.flushes,
            running: hash.transpose()?,
            body: Arc::new(Mutex::new(FrameSource::new(body))),
            is_kept: verdict.is_none(),
            written: Vec::new(),
            first: None,
            upload,
        };
        let outcome = appending.run().await;
        let outcome = match (outcome, verdict) {
            (Ok(cut), Some(verdict)) => match cut.map_or_else(verdict, |cut| Err(cut.into_error())) {
                Ok(()) => appending.keep_all().await.map(|()| None),
                Err(error) => Err(error),
            },
            (outcome, _) => outcome,
        };
        appending.give_up().await;
        match outcome? {
            Some(cut) => Err(cut.into_error()),
            None => Ok(Appended { offset: self.offset(&appending.upload).await?, upload: appending.upload }),
        }
    }
}

/// What two say of a body.
fn both(one: Option<Verdict>, other: Option<Verdict>) -> Option<Verdict> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Box::new(move || one().and_then(|()| other()))),
        (one, other) => one.or(other),
    }
}

/// An append under way.
struct Appending<'a> {
    files: &'a Files,
    actor: &'a str,
    upload: UploadDoc,
    key: Key,
    said: PutOptions,
    sent: Option<Key>,
    /// Where the next segment begins.
    start: u64,
    /// How many bytes are in the tail from there on.
    tail_len: u64,
    /// Whether all of it becomes segments.
    flushes: bool,
    /// Where the upload takes no more.
    end: u64,
    /// The hash up to `start`, where it is known.
    running: Option<Sha256Stream>,
    body: Arc<Mutex<FrameSource<BodyStream>>>,
    /// Whether bytes are handed over as they come, or all together at the end.
    is_kept: bool,
    /// Segments that are not handed over yet.
    written: Vec<(Pending, Piece)>,
    first: Option<RecognisedDoc>,
}

impl Appending<'_> {
    /// Takes the body to its end; gives how it broke off, if it did.
    async fn run(&mut self) -> Result<Option<BodyError>> {
        loop {
            if self.start >= self.end {
                return self.refuse_more().await;
            }
            let part_end = place_of(&self.upload, self.start / self.upload.part_size.unsigned_abs())?.end;
            let most = part_end.min(self.end).saturating_sub(self.start);
            if most == 0 {
                return self.refuse_more().await;
            }
            let (come, cut) = self.fill(SEGMENT_LEN.min(most)).await;
            let have = self.tail_len + come;
            let is_over = cut.is_some() || have < SEGMENT_LEN.min(most);
            let is_whole = self.upload.size.is_some_and(|size| self.start + have == size.unsigned_abs());
            let ends_upload = is_whole || self.flushes;
            if come == 0 && !(ends_upload && have > 0) {
                return Ok(cut);
            }
            if is_over && !ends_upload {
                if self.is_kept {
                    self.keep_all().await?;
                }
                return Ok(cut);
            }
            let cut = self.write(most).await?.or(cut);
            if self.start >= self.end {
                self.refuse_more().await?;
            }
            if self.is_kept {
                self.keep().await?;
            }
            if cut.is_some() {
                return Ok(cut);
            }
        }
    }

    /// Waits until so many bytes are there, with the tail; gives how many the body has at hand, and how it broke off.
    async fn fill(&self, wanted: u64) -> (u64, Option<BodyError>) {
        let wanted = usize::try_from(wanted.saturating_sub(self.tail_len)).unwrap_or(usize::MAX).max(1);
        let mut body = self.body.lock().await;
        match body.fill(wanted).await {
            Ok(come) => (come as u64, None),
            Err(cut) => (body.at_hand() as u64, Some(cut)),
        }
    }

    /// At the end of the upload nothing more may come.
    async fn refuse_more(&self) -> Result<Option<BodyError>> {
        match self.fill(1).await {
            (0, cut) => Ok(cut),
            _ => Err(Error::too_large(self.end)),
        }
    }

    /// Writes one segment, of the tail and up to `most` bytes; gives how the body broke off.
    async fn write(&mut self, most: u64) -> Result<Option<BodyError>> {
        let tail = match std::mem::take(&mut self.tail_len) {
            0 => Bytes::new(),
            _ => self.files.read_tail(&self.upload, &self.key).await?.into(),
        };
        let cut = Arc::new(std::sync::Mutex::new(None));
        let rest = most - tail.len() as u64;
        let body = piece_of(Arc::clone(&self.body), rest, Arc::clone(&cut));
        let whole = stream::iter((!tail.is_empty()).then_some(Ok(tail))).chain(body).boxed();
        let mut source = FrameSource::new(whole);
        source.fill(SNIFF_LEN).await.map_err(BodyError::into_error)?;
        let first = (self.start == 0).then(|| sniff_as(&source.peek(SNIFF_LEN), &self.upload, &self.said));
        let files = self.files;
        let (said, upload) = (&self.said, self.upload.clone());
        let upload = files.decide(upload, first.as_ref(), said, &mut source).await?;
        self.end = self.end.min(files.within_bucket(&upload, self.start..self.end)?.end);
        let mut plan = files.plan_piece(&upload, self.actor, most, None, self.sent.as_ref())?;
        plan.is_held = !self.is_kept;
        let pending = plan.pending.clone();
        let continued = self.running.clone().filter(|_| self.start > 0);
        let stored = files.write_segment(plan, source, continued, &mut None).await?;
        let (len, from_start) = (stored.plain_len, (self.start == 0).then(|| stored.running.clone()));
        self.running = from_start.or_else(|| stored.whole.clone());
        let row = files.live_row(&upload, &stored, self.start, self.sent.as_ref())?;
        self.written.push((pending, files.piece(&upload, stored, row, first.as_ref())?));
        self.first = first.as_ref().map(RecognisedDoc::from).or(self.first.take());
        self.start += len;
        files.grow_upload(&self.upload, self.start).await?;
        (self.upload.storing, self.upload.recognised) = (upload.storing, upload.recognised);
        Ok(cut.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take())
    }

    /// Hands over what was written, and what is at hand beyond that as a tail.
    async fn keep_all(&mut self) -> Result<()> {
        self.keep().await?;
        let mut body = self.body.lock().await;
        let come = body.at_hand();
        let bytes = body.take(come).concat();
        drop(body);
        if bytes.is_empty() {
            return Ok(());
        }
        let off = self.start + self.tail_len;
        let data = seal_tail(&bytes, off, &self.key, &self.upload.id.bytes(), random::bytes());
        let (off, len) = (number(off)?, number(bytes.len() as u64)?);
        let tail = TailDoc { id: new_id(), upload: self.upload.id, off, len, data: binary(data) };
        self.files.grow_upload(&self.upload, (off + len).unsigned_abs()).await?;
        let act = Act::Append { place: off..off + len, tail: TailChange::Grown(tail) };
        self.hand_over(self.files.handover(&self.upload, act)).await
    }

    /// Hands over what was written.
    async fn keep(&mut self) -> Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let from = self.upload.hashed.clone();
        let (end, first) = (self.start, self.written.first().map_or(0, |(_, piece)| piece.segment.row.off));
        let running = self.running.as_ref();
        let hashing = running.map(|running| self.files.hashing(&self.upload, from, running, end, &self.key));
        let act = Act::Append { place: first..number(end)?, tail: TailChange::Consumed };
        let handover = Handover {
            pieces: self.written.drain(..).map(|(_, piece)| piece).collect(),
            recognised: self.first.take(),
            hashing: hashing.transpose()?,
            ..self.files.handover(&self.upload, act)
        };
        self.hand_over(handover).await
    }

    async fn hand_over(&mut self, handover: Handover) -> Result<()> {
        let _turn = self.files.turns.wait(&self.upload.id.bytes()).await;
        self.upload = match self.files.store.hand_over(&handover).await {
            Ok(upload) => upload,
            Err(StoreError::Stale) => return Err(self.files.why_not_appended(&self.upload).await),
            Err(error) => return Err(error.doing(STORING)),
        };
        self.end = self.end.min(self.files.end_of(&self.upload));
        Ok(())
    }

    /// Ends the leases of segments that are not handed over.
    async fn give_up(&mut self) {
        for (pending, _) in self.written.drain(..) {
            self.files.give_up(&pending).await;
        }
    }
}
