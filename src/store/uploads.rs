//! Resumable uploads: begun, found, ended. What comes in them is `parts.rs`; the act that makes a file of one is
//! `commit.rs`.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{Binary, DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::blobs::{BlobDoc, scope};
use super::commit::{IdempotencyDoc, pending};
use super::concat::ConcatDoc;
use super::limit::Within;
use super::reclaim::condemned;
use super::schema::{BLOBS, IDEMPOTENCY, TAILS, UPLOADS};
use super::segments::{WrapDoc, lease_end};
use super::transaction::{StepError, Transaction, stale_unless};
use super::{Id, Store, StoreError, StoreResult};

/// Where an upload is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadStatus {
    /// It takes parts.
    Open,
    /// It became a file.
    Completed,
    /// Its client ended it.
    Aborted,
    /// Nobody went on with it in time.
    Expired,
}

/// How much longer than its upload a pending blob is left alone.
const LEASE_GRACE: Duration = Duration::from_secs(3600);

impl UploadStatus {
    /// The stored word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
        }
    }
}

/// One upload.
///
/// # Units
/// Bytes of plaintext.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadDoc {
    /// Random.
    #[serde(rename = "_id")]
    pub id: Id,
    /// Whose it is.
    pub tenant: String,
    /// Who began it.
    pub owner: String,
    /// The content that is gathered.
    pub blob: Id,
    /// The file that it becomes.
    pub file: Id,
    /// Where it is in its life.
    pub status: UploadStatus,
    /// As announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Of every part but the last.
    pub part_size: i64,
    /// As announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_type: Option<String>,
    /// What the client said about the file; `files` reads and writes it.
    pub said: Document,
    /// What a client of tus said, as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// What it is to others, where it is concatenated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concat: Option<ConcatDoc>,
    /// Stands for the SHA-256 that was announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Binary>,
    /// Where the client holds the key: a key of the upload, wrapped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enc: Option<WrapDoc>,
    /// How parts are stored; decided with the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storing: Option<StoringDoc>,
    /// As what the first bytes are recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recognised: Option<RecognisedDoc>,
    /// Where bytes may be appended: the end of what is there without a gap. Absent where the parts have to be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Counts the writers that appended, or wanted to: only the last one may.
    #[serde(default)]
    pub epoch: i64,
    /// What at the end is not in a segment yet.
    #[serde(default)]
    pub tail: TailSpan,
    /// How far the content is hashed.
    #[serde(default)]
    pub hashed: HashedDoc,
    /// Parts are there that the running hash did not see.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
    /// Counts the changes of its parts.
    pub revision: i64,
    /// When it began.
    pub created_at: DateTime,
    /// When its last part came.
    pub updated_at: DateTime,
    /// When it ends if nobody goes on with it.
    pub expire_at: DateTime,
    /// When the TTL index removes the document of an upload that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<DateTime>,
}

/// How the parts of an upload are stored: all in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoringDoc {
    /// The GridFS bucket.
    pub bucket: String,
    /// The codec's name.
    pub codec: String,
    /// Where encrypted: `managed` or `customer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// As what content is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecognisedDoc {
    /// The type it is stored and served as.
    pub media_type: String,
    /// The declared type where it was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
}

impl UploadDoc {
    /// The scope of its blob, and of those that its replaced parts get.
    pub fn scope(&self) -> String {
        scope(&self.tenant, "upload", "", "")
    }
}

/// Where a tail lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailSpan {
    /// Its beginning.
    pub off: i64,
    /// Its length; 0 where there is none.
    pub len: i64,
}

impl TailSpan {
    /// Whether bytes from there on make it longer.
    pub fn is_followed_by(&self, off: i64) -> bool {
        self.len > 0 && self.off + self.len == off
    }
}

/// A running hash over the beginning of the content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedDoc {
    /// Bytes hashed.
    pub len: i64,
    /// The sealed state; absent for none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Binary>,
}

/// An upload that begins.
pub struct NewUpload<'a> {
    /// It.
    pub upload: &'a UploadDoc,
    /// The content that is gathered.
    pub blob: &'a BlobDoc,
    /// How long it lives, if nobody goes on with it.
    pub life: Duration,
    /// Who did it.
    pub audit: &'a AuditDoc,
    /// The idempotency key the request carried.
    pub idempotency: Option<&'a IdempotencyDoc>,
    /// The uploads that it is made of, as they were found.
    pub partials: &'a [UploadDoc],
}

/// An upload that ends as a file.
#[derive(Debug, Clone)]
pub struct UploadEnd {
    /// The upload.
    pub id: Id,
    /// The content that was gathered.
    pub blob: Id,
    /// Its parts are still those that were looked at.
    pub revision: i64,
    /// Their bytes together.
    pub size: i64,
    /// Now.
    pub at: DateTime,
    /// When it is forgotten.
    pub purge_at: DateTime,
}

impl Store {
    /// Begins an upload, with its audit entry; nobody takes its blob for abandoned while it lives.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when the idempotency key was used meanwhile; [`StoreError::Stale`] when one of its
    /// partial uploads is another by now.
    pub async fn insert_upload(&self, new: &NewUpload<'_>) -> StoreResult<()> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                self.collection::<UploadDoc>(UPLOADS).insert_one(new.upload).session(&mut *session).await?;
                self.collection::<BlobDoc>(BLOBS).insert_one(new.blob).session(&mut *session).await?;
                self.lease_upload(new.blob.id, new.life, &mut *session).await?;
                self.take_partials(new, &mut *session).await?;
                if let Some(key) = new.idempotency {
                    self.collection::<IdempotencyDoc>(IDEMPOTENCY).insert_one(key).session(&mut *session).await?;
                }
                Ok(self.append_audit(&[new.audit], session).await?)
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// An upload of a tenant, whatever became of it.
    pub async fn find_upload(&self, tenant: &str, upload: Id) -> StoreResult<Option<UploadDoc>> {
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let found = uploads.find_one(doc! { "_id": upload, "tenant": tenant }).max_time(self.query_timeout);
        Ok(found.within(self.limit).await?)
    }

    /// Sets the size of an open upload that has none, and still has the parts it was found with; gives the upload as
    /// it is then, none when it is another by now.
    pub async fn set_upload_size(&self, upload: &UploadDoc, size: i64) -> StoreResult<Option<UploadDoc>> {
        let open = doc! {
            "_id": upload.id,
            "status": UploadStatus::Open.name(),
            "revision": upload.revision,
            "size": { "$exists": false },
        };
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let set = doc! { "$set": { "size": size }, "$inc": { "revision": 1_i64 } };
        let set = uploads.find_one_and_update(open, set);
        Ok(self.unhindered(set.return_document(ReturnDocument::After).within(self.limit)).await?)
    }

    /// The upload that became, or is to become, a file.
    pub async fn find_upload_of(&self, file: Id) -> StoreResult<Option<UploadDoc>> {
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        Ok(uploads.find_one(doc! { "file": file }).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Open uploads of an owner, newest first.
    pub async fn list_uploads(
        &self,
        tenant: &str,
        owner: &str,
        now: DateTime,
        after: Option<(DateTime, Id)>,
        limit: i64,
    ) -> StoreResult<Vec<UploadDoc>> {
        let mut filter = open_of(tenant, now);
        filter.insert("owner", owner);
        if let Some((at, id)) = after {
            let older = [doc! { "createdAt": { "$lt": at } }, doc! { "createdAt": at, "_id": { "$lt": id } }];
            filter.insert("$or", older.to_vec());
        }
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let found = uploads.find(filter).sort(doc! { "createdAt": -1, "_id": -1 }).limit(limit);
        let found = found.max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }

    /// How many uploads a tenant has open.
    pub async fn count_uploads(&self, tenant: &str, now: DateTime) -> StoreResult<u64> {
        let uploads = self.documents(UPLOADS);
        let open = uploads.count_documents(open_of(tenant, now));
        Ok(open.max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Decides how the parts of an upload are stored, unless that is decided; gives the upload as it is then, none
    /// when it is gone.
    pub async fn decide_storing(&self, upload: Id, storing: &StoringDoc) -> StoreResult<Option<UploadDoc>> {
        let storing = document(storing)?;
        let decided = doc! { "$set": { "storing": { "$ifNull": ["$storing", { "$literal": storing }] } } };
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let update = uploads.find_one_and_update(doc! { "_id": upload }, vec![decided]);
        Ok(self.unhindered(update.return_document(ReturnDocument::After).within(self.limit)).await?)
    }

    /// Leaves the blob of an upload alone for a while longer than the upload lives: it is the upload that expires.
    pub(super) async fn lease_upload(
        &self,
        blob: Id,
        life: Duration,
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        let lease = vec![doc! { "$set": { "lease": lease_end(life + LEASE_GRACE) } }];
        let leased = self.documents(BLOBS).update_one(pending(blob), lease).session(session).await?;
        stale_unless(leased.matched_count == 1)
    }

    /// Ends an upload as a file.
    pub(super) async fn end_upload(&self, end: &UploadEnd, session: &mut ClientSession) -> Result<(), StepError> {
        let open = doc! {
            "_id": end.id,
            "status": UploadStatus::Open.name(),
            "revision": end.revision,
            "expireAt": { "$gt": end.at },
        };
        let mut change = ended(UploadStatus::Completed, end.at, end.purge_at);
        change.insert("$max", doc! { "size": end.size });
        let ended = self.documents(UPLOADS).update_one(open, change).session(session).await?;
        stale_unless(ended.matched_count == 1)
    }

    /// Ends an open upload without a file: its parts are condemned, with their keys. False when it is not open.
    pub async fn close_upload(
        &self,
        upload: &UploadDoc,
        status: UploadStatus,
        audit: &AuditDoc,
        purge_at: DateTime,
    ) -> StoreResult<bool> {
        let mut open = doc! { "_id": upload.id, "status": UploadStatus::Open.name() };
        if status == UploadStatus::Expired {
            // Nobody went on with it meanwhile.
            open.insert("expireAt", upload.expire_at);
        }
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let change = ended(status, audit.at, purge_at);
                let closed = self.documents(UPLOADS).update_one(open.clone(), change).session(&mut *session).await?;
                if closed.matched_count == 0 {
                    return Ok(false);
                }
                self.documents(TAILS).delete_many(doc! { "upload": upload.id }).session(&mut *session).await?;
                let blob = pending(upload.blob);
                self.condemn_and_shred_in(upload.blob, blob, condemned(audit.at), &mut *session).await?;
                self.append_audit(&[audit], session).await?;
                Ok(true)
            };
            let outcome = steps.within(limit).await;
            if let Some(is_closed) = transaction.conclude(outcome).await? {
                return Ok(is_closed);
            }
        }
    }

    /// Open uploads that nobody went on with in time.
    pub async fn find_expired_uploads(&self, now: DateTime, limit: i64) -> StoreResult<Vec<UploadDoc>> {
        let expired = doc! { "status": UploadStatus::Open.name(), "expireAt": { "$lte": now } };
        let uploads = self.collection::<UploadDoc>(UPLOADS);
        let found = uploads
            .find(expired)
            .sort(doc! { "expireAt": 1 })
            .limit(limit)
            .max_time(self.limit)
            .within(self.limit)
            .await?;
        Ok(found.try_collect().within(self.limit).await?)
    }
}

fn open_of(tenant: &str, now: DateTime) -> Document {
    doc! { "tenant": tenant, "status": UploadStatus::Open.name(), "expireAt": { "$gt": now } }
}

pub(super) fn ended(status: UploadStatus, at: DateTime, purge_at: DateTime) -> Document {
    let set = doc! { "status": status.name(), "updatedAt": at, "purgeAt": purge_at };
    doc! { "$set": set, "$unset": { "enc": "", "behind": "" } }
}

pub(super) fn document(value: &impl Serialize) -> StoreResult<Document> {
    mongodb::bson::serialize_to_document(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::store::blobs::{scope, tenant_of};

    #[test]
    fn whose_an_uploads_content_is_can_be_read_from_its_scope() {
        assert_eq!(tenant_of(&scope("a/b", "upload", "", "")), Some("a/b"));
    }
}
