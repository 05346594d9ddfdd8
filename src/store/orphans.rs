//! Giving what has no owner one that is condemned, so that the reap, which alone removes bytes, takes
//! it after the quarantine. Removes nothing itself; what to condemn is `jobs/fsck`'s decision.

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, RawDocumentBuf, doc};

use super::blobs::BlobDoc;
use super::chunks::{AttemptPrefix, whole_number};
use super::limit::Within;
use super::schema::{BLOBS, SEGMENTS, chunks_of};
use super::segments::{SegmentDoc, State};
use super::{Id, Store, StoreError, StoreResult, new_id};
use crate::format::segment::{Codec, Layout};

/// Whose the condemned blobs of orphans are.
const SCOPE: &str = "orphan";
/// Of chunks whose size nothing says any more.
const CHUNK_SIZE: u32 = 1;

impl Store {
    /// Condemns a GridFS file that no segment owns: its files document with its chunks, or chunks alone.
    /// False when it has an owner by now, or this program did not write it.
    ///
    /// An owner cannot come in between: a row is there before its chunks, or comes with them in one transaction, and of two
    /// rows of one file in `segments` the unique index refuses the second.
    pub async fn condemn_unowned(&self, bucket: &str, files_id: &Bson, now: DateTime) -> StoreResult<bool> {
        let ids = std::slice::from_ref(files_id);
        if self.is_owned(bucket, files_id).await? {
            return Ok(false);
        }
        let is_ours = match self.scan_files_documents(bucket, Some(ids)).await?.next(1).await?.first() {
            Some(head) => head.ours,
            None => self.are_own_chunks(bucket, files_id).await?,
        };
        if !is_ours {
            return Ok(false);
        }
        let blob = condemned(new_id(), now);
        let layout = Layout { codec: Codec::Identity, level: 0, frame_len: CHUNK_SIZE };
        let segment = SegmentDoc {
            files_id: Some(files_id.clone()),
            state: State::Condemned,
            ..SegmentDoc::pending(new_id(), blob.id, bucket, CHUNK_SIZE, layout)?
        };
        // A blob that gets no segment is reaped alone.
        self.collection::<BlobDoc>(BLOBS).insert_one(blob).within(self.limit).await?;
        match self
            .collection::<SegmentDoc>(SEGMENTS)
            .insert_one(segment)
            .within(self.limit)
            .await
            .map_err(StoreError::from)
        {
            Ok(_) => Ok(true),
            Err(StoreError::Duplicate(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Condemns the segments of a blob that is not there, unless a registry document names it. False
    /// when it is there by now.
    pub async fn condemn_unheld(&self, blob: Id, now: DateTime) -> StoreResult<bool> {
        if !self.find_named(&[blob]).await?.is_empty() {
            return Ok(false);
        }
        match self
            .collection::<BlobDoc>(BLOBS)
            .insert_one(condemned(blob, now))
            .within(self.limit)
            .await
            .map_err(StoreError::from)
        {
            Ok(_) => Ok(true),
            Err(StoreError::Duplicate(_)) => {
                let there = self.find_blobs(&[blob]).await?;
                Ok(!there.is_empty() && there.iter().all(|blob| blob.state == State::Condemned))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether every chunk has an `_id` as one attempt of this program gives them.
    async fn are_own_chunks(&self, bucket: &str, files_id: &Bson) -> StoreResult<bool> {
        let chunks = self.collection::<RawDocumentBuf>(&chunks_of(bucket));
        let mut found =
            chunks.find(doc! { "files_id": files_id.clone() }).projection(doc! { "n": 1 }).within(self.limit).await?;
        let mut attempt = None;
        while let Some(chunk) = found.try_next().within(self.limit).await? {
            let n = chunk.get("n").ok().flatten().and_then(whole_number).and_then(|n| u32::try_from(n).ok());
            let (Ok(id), Some(n)) = (chunk.get_object_id("_id"), n) else { return Ok(false) };
            let attempt: &AttemptPrefix = attempt.get_or_insert_with(|| AttemptPrefix::of(id));
            if attempt.chunk_id(n) != id {
                return Ok(false);
            }
        }
        Ok(attempt.is_some())
    }
}

fn condemned(id: Id, now: DateTime) -> BlobDoc {
    BlobDoc {
        state: State::Condemned,
        condemned_at: Some(now),
        generation: 1,
        ..BlobDoc::pending(id, SCOPE.to_owned())
    }
}
