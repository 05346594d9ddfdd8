//! How far the content of uploads is hashed: what came in order, on the way ([`hand_over`](Store::hand_over)); what came
//! too early, later.

use futures::TryStreamExt;
use mongodb::bson::doc;

use super::limit::Within;
use super::parts::lying_in;
use super::schema::{SEGMENTS, UPLOADS};
use super::transaction::Transaction;
use super::uploads::{HashedDoc, UploadDoc, document};
use super::{Id, Store, StoreResult};

/// A step of the running hash.
#[derive(Debug, Clone)]
pub struct Hashing {
    /// What it continued.
    pub from: HashedDoc,
    /// What it came to.
    pub to: HashedDoc,
}

impl Store {
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
