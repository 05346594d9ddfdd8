//! The parts of an open upload: live segments of its blob, which is pending until the upload is completed.
//!
//! A part is written under rows of its own, as any content is, and handed over to its upload by
//! [`commit_part`](Store::commit_part). So a writer that dies, or sleeps past its lease, leaves what the sweep knows
//! already, and of two writers of one part the one that commits last has it, wholly.

use std::ops::Range;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use serde::Deserialize;

use super::blobs::BlobDoc;
use super::commit::{NewSegment, pending};
use super::gridfs::write::WrittenChunks;
use super::limit::Within;
use super::schema::{BLOBS, SEGMENTS, UPLOADS};
use super::segments::{ROWS_AT_ONCE, State};
use super::transaction::{StepError, Transaction, stale_unless};
use super::uploads::{HashedDoc, RecognisedDoc, UploadDoc, UploadStatus, document};
use super::{Id, Store, StoreResult, new_id};
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

/// A part that is complete.
pub struct PartCommit {
    /// Its upload, as it was found.
    pub upload: UploadDoc,
    /// The pending blob that it was written under.
    pub attempt: Id,
    /// Its segment, live, of the upload's blob.
    pub segment: NewSegment,
    /// The place it takes: whatever lies in it goes.
    pub place: Range<i64>,
    /// As what its first bytes are recognised, where they are the content's.
    pub recognised: Option<RecognisedDoc>,
    /// Where it continued the running hash.
    pub hashing: Option<Hashing>,
    /// Whether a gateway can hash later what comes too early now.
    pub can_catch_up: bool,
    /// Now.
    pub at: DateTime,
    /// How long the upload lives from now on, if nobody goes on with it.
    pub life: Duration,
}

/// A step of the running hash.
#[derive(Debug, Clone)]
pub struct Hashing {
    /// What it continued.
    pub from: HashedDoc,
    /// What it came to.
    pub to: HashedDoc,
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

    /// Hands a part over to its upload, in the place of what lies there.
    ///
    /// # Errors
    /// [`StoreError::Stale`](super::StoreError::Stale) when the upload is not open any more, or the part was taken
    /// away from its writer.
    ///
    /// # Cancel safety
    /// **MUST** run in a task of its own: dropped in the middle, the outcome is unknown.
    pub async fn commit_part(&self, part: &PartCommit) -> StoreResult<()> {
        part.segment.insert_files_document(self).await?;
        let outcome = self.hand_over(part).await;
        part.segment.remove_late(self, &outcome).await?;
        outcome
    }

    async fn hand_over(&self, part: &PartCommit) -> StoreResult<()> {
        let files = part.segment.files.to_document()?;
        failpoint::hit("part.before");
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let is_changed = self.condemn_parts(part, &mut *session).await?;
                self.note_part(part, is_changed, &mut *session).await?;
                self.lease_upload(part.upload.blob, part.life, &mut *session).await?;
                if let WrittenChunks::Unsent { .. } = part.segment.chunks {
                    return self.insert_segments(&[&part.segment], std::slice::from_ref(&files), session).await;
                }
                self.seal_reserved(&part.segment.row, &mut *session).await?;
                let attempt = self.documents(BLOBS).delete_one(pending(part.attempt)).session(session).await?;
                stale_unless(attempt.deleted_count == 1)
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Gives what lies in a part's place to a condemned blob and destroys its keys; whether there was anything.
    async fn condemn_parts(&self, part: &PartCommit, session: &mut ClientSession) -> Result<bool, StepError> {
        let condemned = BlobDoc {
            state: State::Condemned,
            condemned_at: Some(part.at),
            generation: 1,
            ..BlobDoc::pending(new_id(), part.upload.tenant.clone())
        };
        let give = doc! { "$set": { "blob": condemned.id }, "$unset": { "enc": "" } };
        let lying = lying_in(part.upload.blob, &part.place);
        let given = self.documents(SEGMENTS).update_many(lying, give).session(&mut *session).await?;
        if given.matched_count == 0 {
            return Ok(false);
        }
        self.collection::<BlobDoc>(BLOBS).insert_one(condemned).session(session).await?;
        Ok(true)
    }

    /// Notes in an open upload that a part came, so that of two acts on one upload at once one has to come after
    /// the other.
    async fn note_part(
        &self,
        part: &PartCommit,
        is_changed: bool,
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        let open = doc! {
            "_id": part.upload.id,
            "status": UploadStatus::Open.name(),
            "expireAt": { "$gt": part.at },
        };
        let change = part.change(is_changed).map_err(StepError::Final)?;
        let noted = self.documents(UPLOADS).update_one(open, vec![doc! { "$set": change }]).session(session).await?;
        stale_unless(noted.matched_count == 1)
    }

    /// Open uploads with parts that the running hash did not see, by id.
    pub async fn find_behind(&self, after: Option<Id>, limit: i64) -> StoreResult<Vec<UploadDoc>> {
        let mut behind = doc! { "behind": true };
        if let Some(after) = after {
            behind.insert("_id", doc! { "$gt": after });
        }
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let found = uploads.find(behind).sort(doc! { "_id": 1 }).limit(limit).max_time(self.query_timeout);
        Ok(found.within(self.limit).await?.try_collect().within(self.limit).await?)
    }

    /// Notes that the running hash of an upload went on over these parts. False when it, or one of them, is another
    /// by now.
    pub async fn note_hashed(&self, upload: &UploadDoc, hashing: &Hashing, parts: &[Id]) -> StoreResult<bool> {
        let (from, to) = (document(&hashing.from)?, document(&hashing.to)?);
        let unchanged = doc! {
            "_id": upload.id,
            "$expr": { "$eq": ["$hashed", { "$literal": from }] },
        };
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let segments = self.documents(SEGMENTS);
                let there = doc! { "_id": { "$in": parts }, "blob": upload.blob };
                if segments.count_documents(there).session(&mut *session).await? != parts.len() as u64 {
                    return Ok(false);
                }
                let more = lying_in(upload.blob, &(hashing.to.len..i64::MAX));
                let more = segments.count_documents(more).limit(1).session(&mut *session).await? > 0;
                let note = doc! { "$set": { "hashed": &to, "behind": more } };
                let noted = self.documents(UPLOADS).update_one(unchanged.clone(), note).session(session).await?;
                Ok(noted.matched_count == 1)
            };
            let outcome = steps.within(limit).await;
            if let Some(is_noted) = transaction.conclude(outcome).await? {
                return Ok(is_noted);
            }
        }
    }
}

impl PartCommit {
    /// What it changes in its upload; `is_changed`: something else lay in its place.
    fn change(&self, is_changed: bool) -> StoreResult<Document> {
        let (mut hashed, mut is_seen) = (Bson::from("$hashed"), Bson::from(false));
        if let Some(Hashing { from, to }) = &self.hashing {
            let continues = doc! { "$eq": ["$hashed", { "$literal": document(from)? }] };
            hashed = doc! { "$cond": [continues.clone(), { "$literal": document(to)? }, hashed] }.into();
            is_seen = continues.into();
        }
        if is_changed {
            // A hash over what lay here before is of no use; at the beginning a new one is at hand.
            let afresh = self.hashing.as_ref().filter(|_| self.place.start == 0).map(|hashing| hashing.to.clone());
            let afresh = document(&afresh.unwrap_or_default())?;
            let is_over = doc! { "$gt": ["$hashed.len", self.place.start] };
            hashed = doc! { "$cond": [is_over, { "$literal": afresh }, hashed] }.into();
        }
        let is_behind = doc! { "$or": [{ "$ifNull": ["$behind", false] }, { "$not": [is_seen] }] };
        let lives_until = self.at.timestamp_millis().saturating_add(self.life.as_millis() as i64);
        let mut change = doc! {
            "revision": { "$add": ["$revision", 1_i64] },
            "updatedAt": self.at,
            "expireAt": DateTime::from_millis(lives_until),
            "hashed": hashed,
            "behind": if self.can_catch_up { is_behind.into() } else { Bson::from(false) },
        };
        if let Some(recognised) = &self.recognised {
            change.insert("recognised", doc! { "$literal": document(recognised)? });
        }
        Ok(change)
    }
}

fn lying_in(blob: Id, place: &Range<i64>) -> Document {
    doc! { "blob": blob, "off": { "$gte": place.start, "$lt": place.end } }
}
