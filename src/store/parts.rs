//! The parts of an open upload: live segments of its blob, which is pending until the upload is completed.
//!
//! A part is written under rows of its own, as any content is, and handed over to its upload by
//! [`hand_over`](Store::hand_over). So a writer that dies, or sleeps past its lease, leaves what the sweep knows
//! already, and of two writers of one part the one that commits last has it, wholly.

use std::ops::Range;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;

use super::blobs::BlobDoc;
use super::commit::{NewSegment, pending};
use super::gridfs::write::WrittenChunks;
use super::hashing::Hashing;
use super::limit::Within;
use super::rows::ROWS_AT_ONCE;
use super::schema::{BLOBS, SEGMENTS, TAILS, UPLOADS};
use super::segments::State;
use super::tails::TailDoc;
use super::transaction::{StepError, Transaction, stale_unless};
use super::uploads::{RecognisedDoc, TailSpan, UploadDoc, UploadStatus, document};
use super::{Id, Store, StoreError, StoreResult, new_id};
use crate::failpoint;

/// A part as it lies in its upload.
#[derive(Debug, Clone, Deserialize)]
pub struct PartRow {
    /// The segment.
    #[serde(rename = "_id")]
    pub id: Id,
    /// Where it begins.
    pub off: i64,
    /// Its length.
    pub len: i64,
    /// Stands for its content.
    #[serde(default)]
    pub likeness: Option<Binary>,
}

/// Complete bytes for an upload.
pub struct Handover {
    /// The upload, as it was found.
    pub upload: UploadDoc,
    /// The bytes, by their place.
    pub pieces: Vec<Piece>,
    /// What they are to the upload.
    pub act: Act,
    /// As what the first bytes are recognised, where these are the content's.
    pub recognised: Option<RecognisedDoc>,
    /// Where they continued the running hash.
    pub hashing: Option<Hashing>,
    /// Whether a gateway can hash later what comes too early now.
    pub can_catch_up: bool,
    /// Now.
    pub at: DateTime,
    /// How long the upload lives from now on, if nobody goes on with it.
    pub life: Duration,
}

/// A segment of an upload.
pub struct Piece {
    /// The pending blob that it was written under.
    pub attempt: Id,
    /// The segment, live, of the upload's blob.
    pub segment: NewSegment,
}

/// What bytes are to their upload.
pub enum Act {
    /// A whole part: whatever lies in its place goes.
    Put(Range<i64>),
    /// They go on where the upload ended, which it still **MUST** do, with the writer of its epoch.
    Append {
        /// Where they are; whatever lies there already goes, and behind them in the same part.
        place: Range<i64>,
        /// What becomes of the tail.
        tail: TailChange,
    },
    /// The tail, behind a gap by now. Nobody **MUST** have appended since.
    Settle(Range<i64>),
}

/// What an append does with the tail.
pub enum TailChange {
    /// It is in the pieces.
    Consumed,
    /// It becomes longer.
    Grown(TailDoc),
}

/// What was there when bytes were handed over.
struct Found {
    /// Something else lay in their place.
    is_changed: bool,
    /// Something lies right behind it.
    is_met: bool,
}

impl Store {
    /// The parts of an upload, by their place.
    pub async fn find_parts(&self, blob: Id) -> StoreResult<Vec<PartRow>> {
        self.find_parts_within(blob, &(0..i64::MAX)).await
    }

    /// The parts that begin in a place, in its order.
    pub async fn find_parts_within(&self, blob: Id, place: &Range<i64>) -> StoreResult<Vec<PartRow>> {
        let parts = self.collection::<PartRow>(SEGMENTS);
        let found = parts.find(lying_in(blob, place)).sort(doc! { "blob": 1, "off": 1 });
        let found = found.projection(doc! { "off": 1, "len": 1, "likeness": 1 }).batch_size(ROWS_AT_ONCE);
        let found = found.max_time(self.query_timeout);
        Ok(found.within(self.limit).await?.try_collect().within(self.limit).await?)
    }

    /// Hands complete bytes over to their upload.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the upload is not open any more, or does not end any more
    /// where the bytes begin, or a piece was taken away from its writer.
    ///
    /// # Cancel safety
    /// **MUST** run in a task of its own: dropped in the middle, the outcome is unknown.
    pub async fn hand_over(&self, bytes: &Handover) -> StoreResult<UploadDoc> {
        for piece in &bytes.pieces {
            piece.segment.insert_files_document(self).await?;
        }
        let outcome = self.take_over(bytes).await;
        for piece in &bytes.pieces {
            piece.segment.remove_late(self, &outcome).await?;
        }
        outcome
    }

    async fn take_over(&self, bytes: &Handover) -> StoreResult<UploadDoc> {
        failpoint::hit("part.before");
        let condemned = bytes.condemned();
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let is_changed = self.condemn_parts(bytes, &condemned, &mut *session).await?;
                self.change_tail(bytes, &mut *session).await?;
                let found = Found { is_changed, is_met: self.is_met(bytes, &mut *session).await? };
                let upload = self.note_bytes(bytes, found, &mut *session).await?;
                self.lease_upload(bytes.upload.blob, bytes.life, &mut *session).await?;
                for piece in &bytes.pieces {
                    self.take_piece(piece, &mut *session).await?;
                }
                Ok(upload)
            };
            let outcome = steps.within(limit).await;
            if let Some(upload) = transaction.conclude(outcome).await? {
                return Ok(upload);
            }
        }
    }

    async fn take_piece(&self, piece: &Piece, session: &mut ClientSession) -> Result<(), StepError> {
        let segment = &piece.segment;
        if let WrittenChunks::Unsent { .. } = segment.chunks {
            let files = segment.files.to_document().map_err(StepError::Final)?;
            self.insert_rows(std::iter::once(&segment.row), &mut *session).await?;
            return self.insert_small_files(&[segment], &[files], session).await;
        }
        self.seal_reserved(&segment.row, &mut *session).await?;
        let attempt = self.documents(BLOBS).delete_one(pending(piece.attempt)).session(session).await?;
        stale_unless(attempt.deleted_count == 1)
    }

    /// Gives what lies in a part's place to a condemned blob and destroys its keys; whether there was anything.
    async fn condemn_parts(
        &self,
        bytes: &Handover,
        condemned: &BlobDoc,
        session: &mut ClientSession,
    ) -> Result<bool, StepError> {
        let give = doc! { "$set": { "blob": condemned.id }, "$unset": { "enc": "" } };
        let lying = lying_in(bytes.upload.blob, &bytes.replaced());
        let given = self.documents(SEGMENTS).update_many(lying, give).session(&mut *session).await?;
        if given.matched_count == 0 {
            return Ok(false);
        }
        self.collection::<BlobDoc>(BLOBS).insert_one(condemned).session(session).await?;
        Ok(true)
    }

    /// Whether appended bytes end where a part begins, so that the end of the upload is behind that.
    async fn is_met(&self, bytes: &Handover, session: &mut ClientSession) -> Result<bool, StepError> {
        let Act::Append { place, .. } = &bytes.act else { return Ok(false) };
        if place.end % bytes.upload.part_size != 0 {
            return Ok(false);
        }
        let next = lying_in(bytes.upload.blob, &(place.end..place.end.saturating_add(1)));
        Ok(self.documents(SEGMENTS).find_one(next).session(session).await?.is_some())
    }

    /// What of the tail does not stay goes, and what comes to it comes.
    async fn change_tail(&self, bytes: &Handover, session: &mut ClientSession) -> Result<(), StepError> {
        let tails = self.collection::<TailDoc>(TAILS);
        let mut gone = doc! { "upload": bytes.upload.id };
        if let Act::Put(place) | Act::Settle(place) = &bytes.act {
            gone.insert("off", doc! { "$gte": place.start, "$lt": place.end });
        }
        match &bytes.act {
            Act::Append { tail: TailChange::Grown(tail), .. } => {
                if !bytes.upload.tail.is_followed_by(tail.off) {
                    tails.delete_many(gone).session(&mut *session).await?;
                }
                tails.insert_one(tail).session(session).await?;
            }
            Act::Put(_) | Act::Append { .. } | Act::Settle(_) => {
                tails.delete_many(gone).session(session).await?;
            }
        }
        Ok(())
    }

    /// Notes in an open upload that bytes came, so that of two acts on one upload at once one has to come after
    /// the other; gives the upload as it is then.
    async fn note_bytes(
        &self,
        bytes: &Handover,
        found: Found,
        session: &mut ClientSession,
    ) -> Result<UploadDoc, StepError> {
        let mut open = open_upload(&bytes.upload, bytes.at);
        // What ends elsewhere by now was cut at the wrong place.
        open.insert("size", bytes.upload.size);
        if let Act::Append { .. } | Act::Settle(_) = bytes.act {
            open.insert("epoch", bytes.upload.epoch);
            open.extend(ending_as(&bytes.upload));
        }
        let change = bytes.change(found).map_err(StepError::Final)?;
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let note = uploads.find_one_and_update(open, vec![doc! { "$set": change }]);
        let noted = note.return_document(ReturnDocument::After).session(session).await?;
        noted.ok_or(StepError::Final(StoreError::Stale))
    }

    /// Becomes the only writer that may append to an upload, which ends at `offset` as it was found; gives the upload
    /// as it is then, none when it is another by now.
    pub async fn begin_append(&self, upload: &UploadDoc, offset: i64, at: DateTime) -> StoreResult<Option<UploadDoc>> {
        let mut unchanged = open_upload(upload, at);
        unchanged.extend(ending_as(upload));
        let begin = doc! { "$inc": { "epoch": 1_i64 }, "$set": { "offset": offset } };
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let begun = uploads.find_one_and_update(unchanged, begin).return_document(ReturnDocument::After);
        Ok(self.unhindered(begun.within(self.limit)).await?)
    }
}

impl Handover {
    /// Where the bytes are.
    fn place(&self) -> &Range<i64> {
        match &self.act {
            Act::Put(place) | Act::Append { place, .. } | Act::Settle(place) => place,
        }
    }

    /// Where what begins there goes: of the part that appended bytes end in, all that is behind them.
    fn replaced(&self) -> Range<i64> {
        let place = self.place();
        match self.act {
            Act::Append { .. } => {
                let over = place.end % self.upload.part_size;
                place.start..place.end + if over == 0 { 0 } else { self.upload.part_size - over }
            }
            Act::Put(_) | Act::Settle(_) => place.clone(),
        }
    }

    /// The blob of what lies there already.
    fn condemned(&self) -> BlobDoc {
        BlobDoc {
            state: State::Condemned,
            condemned_at: Some(self.at),
            generation: 1,
            ..BlobDoc::pending(new_id(), self.upload.scope())
        }
    }

    /// What it changes in its upload.
    fn change(&self, Found { is_changed, is_met }: Found) -> StoreResult<Document> {
        let lives_until = self.at.timestamp_millis().saturating_add(self.life.as_millis() as i64);
        let mut change = doc! {
            "revision": { "$add": ["$revision", 1_i64] },
            "updatedAt": self.at,
            "expireAt": DateTime::from_millis(lives_until),
        };
        match &self.act {
            Act::Put(place) => {
                let is_in =
                    doc! { "$and": [{ "$gte": ["$tail.off", place.start] }, { "$lt": ["$tail.off", place.end] }] };
                let none = document(&TailSpan::default())?;
                change.insert("offset", "$$REMOVE");
                change.insert("tail", doc! { "$cond": [is_in, { "$literal": none }, "$tail"] });
            }
            Act::Settle(_) => {
                change.insert("tail", doc! { "$literal": document(&TailSpan::default())? });
            }
            Act::Append { place, tail: TailChange::Consumed } => {
                change.insert("offset", place.end);
                change.insert("tail", doc! { "$literal": document(&TailSpan::default())? });
            }
            Act::Append { place, tail: TailChange::Grown(grown) } => {
                let before = Some(&self.upload.tail).filter(|before| before.is_followed_by(grown.off));
                let off = before.map_or(grown.off, |before| before.off);
                let tail = TailSpan { off, len: grown.off + grown.len - off };
                change.insert("offset", place.end);
                change.insert("tail", doc! { "$literal": document(&tail)? });
            }
        }
        if is_met {
            change.insert("offset", "$$REMOVE");
        }
        if is_changed || !self.pieces.is_empty() {
            self.change_hash(is_changed, &mut change)?;
        }
        if let Some(recognised) = &self.recognised {
            change.insert("recognised", doc! { "$literal": document(recognised)? });
        }
        Ok(change)
    }

    fn change_hash(&self, is_changed: bool, change: &mut Document) -> StoreResult<()> {
        let (mut hashed, mut is_seen) = (Bson::from("$hashed"), Bson::from(false));
        if let Some(Hashing { from, to }) = &self.hashing {
            let continues = doc! { "$eq": ["$hashed", { "$literal": document(from)? }] };
            hashed = doc! { "$cond": [continues.clone(), { "$literal": document(to)? }, hashed] }.into();
            is_seen = continues.into();
        }
        if is_changed {
            // A hash over what lay here before is of no use; at the beginning a new one is at hand.
            let afresh = self.hashing.as_ref().filter(|_| self.place().start == 0).map(|hashing| hashing.to.clone());
            let afresh = document(&afresh.unwrap_or_default())?;
            let is_over = doc! { "$gt": ["$hashed.len", self.place().start] };
            hashed = doc! { "$cond": [is_over, { "$literal": afresh }, hashed] }.into();
        }
        let is_behind = doc! { "$or": [{ "$ifNull": ["$behind", false] }, { "$not": [is_seen] }] };
        change.insert("hashed", hashed);
        change.insert("behind", if self.can_catch_up { is_behind.into() } else { Bson::from(false) });
        Ok(())
    }
}

fn open_upload(upload: &UploadDoc, at: DateTime) -> Document {
    doc! { "_id": upload.id, "status": UploadStatus::Open.name(), "expireAt": { "$gt": at } }
}

/// An upload that ends where it was found to. Where that was found out by looking at the parts, these are the same.
fn ending_as(upload: &UploadDoc) -> Document {
    match upload.offset {
        Some(offset) => doc! { "offset": offset },
        None => doc! { "revision": upload.revision },
    }
}

pub(super) fn lying_in(blob: Id, place: &Range<i64>) -> Document {
    doc! { "blob": blob, "off": { "$gte": place.start, "$lt": place.end } }
}
