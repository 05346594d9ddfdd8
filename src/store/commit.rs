//! The only acts that make bytes visible: one transaction over metadata.
//!
//! [`commit`](Store::commit) publishes new content: a small file's chunks and files document are in
//! the same transaction, a large one's are stored before it begins. [`attach`](Store::attach) names
//! content that is there already.

use mongodb::ClientSession;
use mongodb::bson::{Binary, DateTime, Document, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::blobs::BlobDoc;
use super::gridfs::FilesDocument;
use super::gridfs::write::WrittenChunks;
use super::limit::Within;
use super::registry::FileDoc;
use super::schema::{BLOBS, IDEMPOTENCY, REGISTRY, SEGMENTS, chunks_of, files_of};
use super::segments::{SegmentDoc, State};
use super::transaction::{StepError, Transaction};
use super::usage::UsageEntry;
use super::{Id, Store, StoreError, StoreResult};
use crate::failpoint;

/// What one upload made, ready to be published.
pub struct Commit {
    /// The content, live.
    pub blob: BlobDoc,
    /// Its segment, live.
    pub segment: SegmentDoc,
    /// The GridFS files document.
    pub files: FilesDocument,
    /// The chunks.
    pub chunks: WrittenChunks,
    /// What names it.
    pub entry: Entry,
}

/// What users see of content, with its trace.
pub struct Entry {
    /// The file.
    pub file: FileDoc,
    /// Who did it.
    pub audit: AuditDoc,
    /// What the tenant uses more.
    pub usage: UsageEntry,
    /// The idempotency key the request carried.
    pub idempotency: Option<IdempotencyDoc>,
}

/// The memory of a creating request: the same key answers with the same file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdempotencyDoc {
    /// Hash over tenant, principal, route and key.
    #[serde(rename = "_id")]
    pub id: String,
    /// Keyed hash over what the request asked for, body included.
    pub fingerprint: Binary,
    /// What it made.
    pub file: Id,
    /// When it is forgotten.
    pub purge_at: DateTime,
}

impl Store {
    /// Publishes an upload: segment, blob, registry document, audit entry and idempotency key
    /// appear together or not at all.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when the idempotency key was used meanwhile; [`StoreError::Stale`]
    /// when the pending rows were taken away (the writer slept past its lease);
    /// [`StoreError::Taken`] when the scope has this content already.
    ///
    /// # Cancel safety
    /// **MUST** run in a task of its own: dropped in the middle, the outcome is unknown.
    pub async fn commit(&self, commit: &Commit) -> StoreResult<()> {
        if let WrittenChunks::Stored { .. } = commit.chunks {
            self.insert_files_document(&commit.files).await?;
            failpoint::hit("upload.files");
        }
        let files = commit.files.to_document()?;
        failpoint::hit("commit.before");
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                match &commit.chunks {
                    WrittenChunks::Unsent { documents, .. } => {
                        self.publish_small(commit, &files, documents, session).await
                    }
                    WrittenChunks::Adopted => self.publish_new(commit, session).await,
                    WrittenChunks::Stored { .. } => self.publish_stored(commit, session).await,
                }
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }

    async fn publish_small(
        &self,
        commit: &Commit,
        files: &Document,
        chunks: &[RawDocumentBuf],
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        self.publish_new(commit, &mut *session).await?;
        let bucket = &commit.segment.bucket;
        if !chunks.is_empty() {
            let collection = self.collection::<RawDocumentBuf>(&chunks_of(bucket));
            collection.insert_many(chunks).session(&mut *session).await?;
        }
        self.documents(&files_of(bucket)).insert_one(files).session(session).await?;
        Ok(())
    }

    /// Rows that no reservation made before.
    async fn publish_new(&self, commit: &Commit, session: &mut ClientSession) -> Result<(), StepError> {
        let blobs = self.collection::<BlobDoc>(BLOBS);
        blobs.insert_one(&commit.blob).session(&mut *session).await.map_err(taken)?;
        self.collection::<SegmentDoc>(SEGMENTS).insert_one(&commit.segment).session(&mut *session).await?;
        self.publish(&commit.entry, session).await
    }

    async fn publish_stored(&self, commit: &Commit, session: &mut ClientSession) -> Result<(), StepError> {
        let pending = |id: Id| doc! { "_id": id, "state": State::Pending.name() };
        let segments = self.collection::<SegmentDoc>(SEGMENTS);
        let sealed = segments.replace_one(pending(commit.segment.id), &commit.segment).session(&mut *session).await?;
        let blobs = self.collection::<BlobDoc>(BLOBS);
        let live = blobs.replace_one(pending(commit.blob.id), &commit.blob).session(&mut *session).await;
        let live = live.map_err(taken)?;
        if sealed.matched_count + live.matched_count != 2 {
            return Err(StepError::Final(StoreError::Stale));
        }
        self.publish(&commit.entry, session).await
    }

    async fn publish(&self, entry: &Entry, session: &mut ClientSession) -> Result<(), StepError> {
        self.collection::<FileDoc>(REGISTRY).insert_one(&entry.file).session(&mut *session).await?;
        self.append_audit(&entry.audit, session).await?;
        self.append_usage(&entry.usage, session).await?;
        if let Some(key) = &entry.idempotency {
            self.collection::<IdempotencyDoc>(IDEMPOTENCY).insert_one(key).session(session).await?;
        }
        Ok(())
    }

    /// Names live content that was found by its look-up value and still has it, and changes its generation,
    /// so that nobody who found it unnamed before can condemn it.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the content is not live any more; [`StoreError::Duplicate`] when
    /// the idempotency key was used meanwhile.
    ///
    /// # Cancel safety
    /// As [`commit`](Self::commit).
    pub async fn attach(&self, entry: &Entry, same: &BlobDoc) -> StoreResult<()> {
        failpoint::hit("attach.before");
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let live = doc! { "_id": same.id, "state": State::Live.name(), "sha256": same.sha256.clone() };
                let attach = doc! { "$inc": { "gen": 1_i64 } };
                let attached = self.documents(BLOBS).update_one(live, attach).session(&mut *session).await?;
                if attached.matched_count != 1 {
                    return Err(StepError::Final(StoreError::Stale));
                }
                self.publish(entry, session).await
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// What an idempotency key was used for.
    pub async fn find_idempotency(&self, id: &str) -> StoreResult<Option<IdempotencyDoc>> {
        let keys = self.collection::<IdempotencyDoc>(IDEMPOTENCY);
        Ok(keys.find_one(doc! { "_id": id }).within(self.limit).await?)
    }
}

/// The only unique key of a blob that another writer can have taken is its content's.
fn taken(error: mongodb::error::Error) -> StepError {
    match StoreError::from(error.clone()) {
        StoreError::Duplicate(_) => StepError::Final(StoreError::Taken),
        _ => StepError::Driver(error),
    }
}
