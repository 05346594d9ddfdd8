//! The only acts that make bytes visible: one transaction over metadata.
//!
//! [`commit`](Store::commit) publishes new content: a small file's chunks and files document are in
//! the same transaction, a large one's are stored before it begins. [`attach`](Store::attach) names
//! content that is there already.

use std::collections::BTreeMap;

use mongodb::ClientSession;
use mongodb::bson::raw::CStr;
use mongodb::bson::{Binary, DateTime, Document, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::blobs::BlobDoc;
use super::gridfs::FilesDocument;
use super::gridfs::write::WrittenChunks;
use super::group::{self, Group};
use super::limit::Within;
use super::reclaim::condemned;
use super::registry::FileDoc;
use super::rows::ROW;
use super::schema::{BLOBS, IDEMPOTENCY, REGISTRY, SEGMENTS, chunks_of, files_of};
use super::segments::{SegmentDoc, State};
use super::transaction::{StepError, Transaction, stale_unless};
use super::uploads::UploadEnd;
use super::usage::UsageEntry;
use super::{Id, Store, StoreError, StoreResult, server_code};
use crate::failpoint;

/// Complete content, ready to be published.
pub struct Commit {
    /// The content, live.
    pub blob: BlobDoc,
    /// Where its bytes are.
    pub content: Content,
    /// What names it.
    pub entry: Entry,
}

/// Where the bytes of new content are.
pub enum Content {
    /// In one segment, written under the rows of the blob.
    Segment(Box<NewSegment>),
    /// In the parts of an upload, which are live.
    Parts,
}

/// A segment, complete.
pub struct NewSegment {
    /// Its row, live.
    pub row: SegmentDoc,
    /// The GridFS files document.
    pub files: FilesDocument,
    /// The chunks.
    pub chunks: WrittenChunks,
}

impl NewSegment {
    /// Whether its bytes are stored in the transaction that publishes it.
    fn is_small(&self) -> bool {
        matches!(self.chunks, WrittenChunks::Unsent { .. })
    }

    /// Stores the files document of chunks that are stored: the last of the bytes.
    pub(super) async fn insert_files_document(&self, store: &Store) -> StoreResult<()> {
        if let WrittenChunks::Stored { .. } = self.chunks {
            store.insert_files_document(&self.files).await?;
            failpoint::hit("upload.files");
        }
        Ok(())
    }

    /// Removes it where a sweep had taken its rows away before the files document came.
    pub(super) async fn remove_late<T>(&self, store: &Store, outcome: &StoreResult<T>) -> StoreResult<()> {
        match (outcome, &self.chunks) {
            (Err(StoreError::Stale), WrittenChunks::Stored { .. }) => store.remove_late(&self.row).await,
            _ => Ok(()),
        }
    }
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
    /// The upload that ends with it.
    pub upload: Option<UploadEnd>,
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
    /// appear together or not at all. Small files that come at the same time share a transaction; one that is
    /// refused makes no other wait for long, and changes the outcome of none.
    ///
    /// Gives the commit back with its outcome.
    ///
    /// # Errors
    /// The outcome: [`StoreError::Duplicate`] when the idempotency key was used meanwhile;
    /// [`StoreError::Stale`] when the pending rows were taken away (the writer slept past its lease);
    /// [`StoreError::Taken`] when the scope has this content already. Without the commit:
    /// [`StoreError::Lost`].
    ///
    /// # Cancel safety
    /// **MUST** run in a task of its own: dropped in the middle, the outcome is unknown.
    pub async fn commit(&self, commit: Commit) -> StoreResult<(Commit, StoreResult<()>)> {
        if let Content::Segment(segment) = &commit.content
            && let Err(error) = segment.insert_files_document(self).await
        {
            return Ok((commit, Err(error)));
        }
        if !commit.is_small() {
            let outcome = self.commit_together(std::slice::from_ref(&commit)).await;
            if let Some(segment) = commit.segment() {
                segment.remove_late(self, &outcome).await?;
            }
            return Ok((commit, outcome));
        }
        let store = self.clone();
        let work = move |group| {
            let store = store.clone();
            async move { store.commit_group(group).await }
        };
        self.commits.join(commit, work).await.map_or_else(group::lost, Ok)
    }

    /// Commits small files together, or each for itself where the server refused one of them.
    async fn commit_group(&self, group: Vec<Commit>) -> Vec<(Commit, StoreResult<()>)> {
        let outcome = self.commit_together(&group).await;
        match &outcome {
            Err(StoreError::Stale) if group.len() > 1 => {
                let alone = group.into_iter().map(async |commit| {
                    let outcome = self.commit_together(std::slice::from_ref(&commit)).await;
                    (commit, outcome)
                });
                futures::future::join_all(alone).await
            }
            _ => group.into_iter().map(|commit| (commit, outcome.clone())).collect(),
        }
    }

    /// All of them in one transaction.
    ///
    /// # Errors
    /// Of several: [`StoreError::Stale`] where the server refused a document of one of them, for whatever reason: all
    /// are aborted, and which it was they find out alone.
    async fn commit_together(&self, commits: &[Commit]) -> StoreResult<()> {
        let segments: Vec<&NewSegment> = commits.iter().filter_map(Commit::segment).collect();
        let files = segments.iter().map(|segment| segment.files.to_document()).collect::<StoreResult<Vec<_>>>()?;
        let blobs = commits.iter().map(Commit::blob_document).collect::<StoreResult<Vec<_>>>()?;
        failpoint::hit("commit.before");
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                match commits {
                    [commit] if commit.is_reserved() => self.publish_reserved(commit, &mut *session).await?,
                    _ => {
                        let collection = self.collection::<RawDocumentBuf>(BLOBS);
                        collection.insert_many(&blobs).session(&mut *session).await.map_err(taken)?;
                        let alone = segments.iter().filter(|segment| !segment.is_small());
                        self.insert_rows(alone.map(|segment| &segment.row), &mut *session).await?;
                        self.insert_small_files(&segments, &files, &mut *session).await?;
                    }
                }
                let entries: Vec<_> = commits.iter().map(|commit| &commit.entry).collect();
                self.publish(&entries, session).await
            };
            let outcome = match steps.within(limit).await {
                Err(error) if commits.len() > 1 && is_refusal(&error) => Err(StepError::Final(StoreError::Stale)),
                outcome => outcome,
            };
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Rows that no reservation made before, and that are in no blob.
    pub(super) async fn insert_rows(
        &self,
        rows: impl Iterator<Item = &SegmentDoc>,
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        let rows: Vec<&SegmentDoc> = rows.collect();
        if !rows.is_empty() {
            self.collection::<SegmentDoc>(SEGMENTS).insert_many(rows).session(session).await?;
        }
        Ok(())
    }

    /// The chunks and files documents of small segments.
    pub(super) async fn insert_small_files(
        &self,
        segments: &[&NewSegment],
        files: &[Document],
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        let mut buckets = BTreeMap::<&str, (Vec<&RawDocumentBuf>, Vec<&Document>)>::new();
        for (segment, file) in segments.iter().zip(files) {
            if let WrittenChunks::Unsent { documents, .. } = &segment.chunks {
                let (chunks, files) = buckets.entry(&segment.row.bucket).or_default();
                chunks.extend(documents);
                files.push(file);
            }
        }
        for (bucket, (chunks, files)) in buckets {
            if !chunks.is_empty() {
                let collection = self.collection::<RawDocumentBuf>(&chunks_of(bucket));
                collection.insert_many(chunks).session(&mut *session).await?;
            }
            self.documents(&files_of(bucket)).insert_many(files).session(&mut *session).await?;
        }
        Ok(())
    }

    /// Rows that a reservation made.
    async fn publish_reserved(&self, commit: &Commit, session: &mut ClientSession) -> Result<(), StepError> {
        if let Some(segment) = commit.segment() {
            self.seal_reserved(&segment.row, session).await?;
        }
        let blobs = self.collection::<BlobDoc>(BLOBS);
        let live = blobs.replace_one(pending(commit.blob.id), &commit.blob).session(session).await.map_err(taken)?;
        stale_unless(live.matched_count == 1)
    }

    /// Makes the row of a segment live that is still pending.
    pub(super) async fn seal_reserved(&self, row: &SegmentDoc, session: &mut ClientSession) -> Result<(), StepError> {
        let segments = self.collection::<SegmentDoc>(SEGMENTS);
        let sealed = segments.replace_one(pending(row.id), row).session(session).await?;
        stale_unless(sealed.matched_count == 1)
    }

    async fn publish(&self, entries: &[&Entry], session: &mut ClientSession) -> Result<(), StepError> {
        let files = entries.iter().map(|entry| &entry.file);
        self.collection::<FileDoc>(REGISTRY).insert_many(files).session(&mut *session).await?;
        let audit: Vec<_> = entries.iter().map(|entry| &entry.audit).collect();
        self.append_audit(&audit, session).await?;
        let usage = UsageEntry::merged(entries.iter().map(|entry| &entry.usage));
        self.append_usage(&usage, session).await?;
        let keys: Vec<_> = entries.iter().filter_map(|entry| entry.idempotency.as_ref()).collect();
        if !keys.is_empty() {
            self.collection::<IdempotencyDoc>(IDEMPOTENCY).insert_many(keys).session(&mut *session).await?;
        }
        for end in entries.iter().filter_map(|entry| entry.upload.as_ref()) {
            self.end_upload(end, session).await?;
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
                stale_unless(attached.matched_count == 1)?;
                self.publish(&[entry], &mut *session).await?;
                if let Some(end) = &entry.upload {
                    // Its parts repeat what is there.
                    let blob = pending(end.blob);
                    self.condemn_and_shred_in(end.blob, blob, condemned(end.at), session).await?;
                }
                Ok(())
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
        Ok(keys.find_one(doc! { "_id": id }).max_time(self.query_timeout).within(self.limit).await?)
    }
}

/// Where small files meet: no more than 64 of them, nor more chunk bytes than one batch of a large file has.
pub(super) fn commits() -> Group<Commit, (Commit, StoreResult<()>)> {
    const MOST: usize = 4 << 20;
    Group::of_writes(MOST, |commit: &Commit| match commit.segment().map(|segment| &segment.chunks) {
        Some(WrittenChunks::Unsent { documents, .. }) => {
            documents.iter().map(|chunk| chunk.as_bytes().len()).sum::<usize>().max(MOST / 64)
        }
        Some(WrittenChunks::Adopted | WrittenChunks::Stored { .. }) | None => MOST,
    })
}

impl Commit {
    /// The blob; of a small segment with its row, which needs no document of its own then.
    fn blob_document(&self) -> StoreResult<RawDocumentBuf> {
        let document = |error: mongodb::bson::error::Error| StoreError::Damaged(error.to_string());
        let mut blob = mongodb::bson::serialize_to_raw_document_buf(&self.blob).map_err(document)?;
        if let Some(segment) = self.segment().filter(|segment| segment.is_small()) {
            let row = mongodb::bson::serialize_to_raw_document_buf(&segment.row).map_err(document)?;
            blob.append(<&CStr>::try_from(ROW).map_err(document)?, row);
        }
        Ok(blob)
    }

    fn segment(&self) -> Option<&NewSegment> {
        match &self.content {
            Content::Segment(segment) => Some(segment),
            Content::Parts => None,
        }
    }

    fn is_small(&self) -> bool {
        self.segment().is_some_and(NewSegment::is_small)
    }

    /// Whether its blob is there, pending.
    fn is_reserved(&self) -> bool {
        self.segment().is_none_or(|segment| matches!(segment.chunks, WrittenChunks::Stored { .. }))
    }
}

/// A row of this id that nobody took away from its writer.
pub(super) fn pending(id: Id) -> Document {
    doc! { "_id": id, "state": State::Pending.name() }
}

/// Whether the server answered, and with a no: not that it could not be reached.
fn is_refusal(error: &StepError) -> bool {
    match error {
        StepError::Driver(error) => server_code(error).is_some(),
        StepError::Final(_) => true,
    }
}

/// The only unique key of a blob that another writer can have taken is its content's.
fn taken(error: mongodb::error::Error) -> StepError {
    match StoreError::from(error.clone()) {
        StoreError::Duplicate(_) => StepError::Final(StoreError::Taken),
        _ => StepError::Driver(error),
    }
}
