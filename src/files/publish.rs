//! From stored bytes to a file users see, in one commit: of new content, or, where the tenant has the
//! same content stored the same way, of a further name for that.

use super::access::{Action, Principal};
use super::describe::{Description, PlainFacts, Stored, files_document, later};
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::digest::Sha256Digest;
use crate::store::audit::AuditDoc;
use crate::store::blobs::BlobDoc;
use crate::store::commit::{Commit, Content, Entry, IdempotencyDoc, NewSegment};
use crate::store::registry::FileDoc;
use crate::store::rows::RowPlace;
use crate::store::segments::{SegmentDoc, binary};
use crate::store::usage::UsageEntry;
use crate::store::{StoreError, doc, new_id};

/// How often publishing is tried against concurrent deletes of the same content.
const TRIES: u32 = 20;

/// What became of an upload.
#[derive(Debug)]
pub struct Put {
    /// The file.
    pub file: FileDoc,
    /// Whether this request made it, or an earlier one with the same idempotency key.
    pub is_new: bool,
}

/// What became of an attempt to share content.
enum Sharing {
    Done(Box<Put>),
    /// It was condemned meanwhile.
    Gone,
    /// It is there, but does not open or is not whole.
    Unreadable,
}

impl Files {
    /// Makes a file of stored bytes.
    ///
    /// # Errors
    /// `idempotency_conflict`, `unavailable`; nothing is visible then.
    pub(super) async fn publish(&self, principal: &Principal, stored: Stored, said: &Description) -> Result<Put> {
        let (blob, row) = self.live_rows(&principal.tenant, &stored)?;
        let entry = self.entry(principal, std::slice::from_ref(&row), &stored.plain, said)?;
        let files = files_document(&row, &entry.file.name, &entry.file.content_type)?;
        let content = Content::Segment(Box::new(NewSegment { row, files, chunks: stored.chunks }));
        self.publish_commit(principal, Commit { blob, content, entry }, &stored.plain, said).await
    }

    /// Makes a file of complete content, or another name for the same content.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub(super) async fn publish_commit(
        &self,
        principal: &Principal,
        mut commit: Commit,
        plain: &PlainFacts,
        said: &Description,
    ) -> Result<Put> {
        let look_up = commit.blob.sha256.as_ref().map(|look_up| look_up.bytes.clone());
        let _turn = match &look_up {
            Some(look_up) => self.turns.wait(look_up).await,
            None => None,
        };
        for _ in 0..TRIES {
            let (tried, outcome) = self.store.commit(commit).await.map_err(|e| e.doing(PUBLISHING))?;
            commit = tried;
            match outcome {
                Ok(()) => return Ok(Put { file: commit.entry.file, is_new: true }),
                Err(StoreError::Taken) => {}
                Err(error) => return self.after_refusal(principal, &commit.entry, error).await,
            }
            match self.share(principal, &commit.blob, plain, said).await? {
                Sharing::Done(put) => return Ok(*put),
                Sharing::Gone => {}
                Sharing::Unreadable => commit.blob.sha256 = None,
            }
        }
        Err(StoreError::Stale.doing(PUBLISHING))
    }

    /// Names content that is there instead of `blob`, which holds the same.
    async fn share(
        &self,
        principal: &Principal,
        blob: &BlobDoc,
        plain: &PlainFacts,
        said: &Description,
    ) -> Result<Sharing> {
        let fail = |error: StoreError| error.doing(PUBLISHING);
        let Some(same) = self.store.find_same(blob).await.map_err(fail)? else { return Ok(Sharing::Gone) };
        let entry = match self.store.find_segments(same.id, RowPlace::likely(same.size)).await {
            Ok(segments) => self.readable_entry(principal, &same, segments, plain, said).await,
            Err(error) => Err(fail(error)),
        };
        let entry = match entry {
            Err(error) if matches!(error.code, ErrorCode::Damaged | ErrorCode::KeyUnavailable) => {
                // What was condemned meanwhile has lost its keys; that is no damage.
                let again = self.store.find_same(blob).await.map_err(fail)?;
                if again.is_none_or(|again| again.id != same.id) {
                    return Ok(Sharing::Gone);
                }
                tracing::error!(blob = %same.id, %error, cause = ?error.cause, "content that cannot be read is not shared");
                return Ok(Sharing::Unreadable);
            }
            entry => entry?,
        };
        match self.store.attach(&entry, &same).await {
            Ok(()) => Ok(Sharing::Done(Box::new(Put { file: entry.file, is_new: true }))),
            Err(StoreError::Stale) => Ok(Sharing::Gone),
            Err(error) => self.after_refusal(principal, &entry, error).await.map(|put| Sharing::Done(Box::new(put))),
        }
    }

    /// The entry of content that is there, as far as keys, indexes and the number of chunks tell.
    async fn readable_entry(
        &self,
        principal: &Principal,
        same: &BlobDoc,
        segments: Vec<SegmentDoc>,
        plain: &PlainFacts,
        said: &Description,
    ) -> Result<Entry> {
        if segments.is_empty() {
            return Err(Error::damaged("share the content", "it has no segment"));
        }
        let mut entry = self.entry(principal, &segments, plain, said)?;
        entry.file.deduplicated = true;
        if entry.file.content.size != same.size {
            return Err(Error::damaged("share the content", "its segments are not as long as it is"));
        }
        for segment in &segments {
            let file = segment.grid_file().map_err(|e| e.doing("share the content"))?;
            if !self.store.has_all_chunks(&file).await.map_err(|e| e.doing("share the content"))? {
                return Err(Error::damaged("share the content", "chunks are missing"));
            }
        }
        self.assemble(entry.file.clone(), segments)?.check_readable()?;
        Ok(entry)
    }

    /// What users see of segments, with its trace.
    pub(super) fn entry(
        &self,
        principal: &Principal,
        segments: &[SegmentDoc],
        plain: &PlainFacts,
        said: &Description,
    ) -> Result<Entry> {
        let file = self.file_doc(principal, segments, plain, said)?;
        let idempotency = said.idempotency_key.as_deref().map(|key| IdempotencyDoc {
            id: idempotency_id(said.action, principal, key),
            fingerprint: binary(self.fingerprint(&file, plain)),
            file: file.file,
            purge_at: later(self.now(), self.settings.idempotency_secs),
        });
        let mut details = doc! { "version": file.version, "size": file.content.size, "bucket": &file.content.bucket };
        if file.owner != principal.actor {
            details.insert("owner", &file.owner);
        }
        let audit = AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: principal.tenant.clone(),
            actor: principal.actor.clone(),
            action: said.action.to_owned(),
            file: Some(file.file),
            request_id: said.request_id.clone(),
            details,
        };
        let usage = UsageEntry::added(&file, said.hold);
        Ok(Entry { file, audit, usage, idempotency, upload: said.upload.clone() })
    }

    /// What follows when the database refused an entry: the first request's answer, where its idempotency
    /// key was used.
    async fn after_refusal(&self, principal: &Principal, entry: &Entry, error: StoreError) -> Result<Put> {
        match (&error, &entry.idempotency) {
            (StoreError::Duplicate(_), Some(ours)) => self.repeat_answer(principal, ours).await,
            _ => Err(error.doing(PUBLISHING)),
        }
    }

    /// Answers a request whose idempotency key is known to be used, and publishes nothing.
    ///
    /// # Errors
    /// `idempotency_conflict`.
    pub(super) async fn repeat(&self, principal: &Principal, stored: &Stored, said: &Description) -> Result<Put> {
        let (_, segment) = self.live_rows(&principal.tenant, stored)?;
        let entry = self.entry(principal, std::slice::from_ref(&segment), &stored.plain, said)?;
        let missing = || Error::internal("repeat the answer", "the request has no idempotency key");
        self.repeat_answer(principal, entry.idempotency.as_ref().ok_or_else(missing)?).await
    }

    /// Whether a request repeats an earlier one, as far as its idempotency key tells.
    pub(super) async fn is_repeated(&self, principal: &Principal, key: Option<&str>) -> Result<bool> {
        let Some(key) = key else { return Ok(false) };
        let found = self.store.find_idempotency(&idempotency_id(PUT, principal, key)).await;
        Ok(found.map_err(|e| e.doing("look the idempotency key up"))?.is_some())
    }

    /// Answers with what the first request with this idempotency key made.
    async fn repeat_answer(&self, principal: &Principal, ours: &IdempotencyDoc) -> Result<Put> {
        let found = self.store.find_idempotency(&ours.id).await.map_err(|e| e.doing("look the idempotency key up"))?;
        match found {
            Some(first) if first.fingerprint == ours.fingerprint => {
                let found = match principal.upload_terms() {
                    // The key is the link's own.
                    Some(terms) => self.find(&terms.owner_of(principal), Action::Write, first.file).await,
                    None => self.find(principal, Action::Write, first.file).await,
                };
                let file = found.map_err(|error| match error.code {
                    ErrorCode::FileNotFound => {
                        Error::new(ErrorCode::IdempotencyConflict, "The file that this idempotency key made is gone.")
                    }
                    _ => error,
                })?;
                Ok(Put { file, is_new: false })
            }
            _ => Err(Error::new(ErrorCode::IdempotencyConflict, "The idempotency key came with other content before.")),
        }
    }

    /// A keyed hash of the content and of what is said about it, so that a key used twice for
    /// different requests is noticed. Times that follow from the request's own moment are left out.
    fn fingerprint(&self, file: &FileDoc, plain: &PlainFacts) -> [u8; 32] {
        let said = doc! {
            "name": &file.name,
            "folder": &file.folder,
            "description": file.description.clone(),
            "tags": &file.tags,
            "category": file.category.clone(),
            "custom": file.custom.clone(),
            "access": &file.access,
            "contentType": &file.content_type,
            "declaredType": file.declared_type.clone(),
            "days": file.retention.days,
            "expiresAt": file.retention.expires_at.filter(|_| file.retention.days.is_none()),
            "codec": &file.content.codec,
            "mode": file.content.mode.clone(),
        };
        let likeness = plain.likeness().unwrap_or_default();
        self.keys.roots.dedup.mac(&[b"idempotency", &likeness, said.to_string().as_bytes()])
    }
}

const PUBLISHING: &str = "publish the file";

/// The act of a one-shot upload, in the audit and in idempotency keys.
pub(super) const PUT: &str = "file.put";

/// The id under which a use of an idempotency key is remembered.
pub(super) fn idempotency_id(act: &str, principal: &Principal, key: &str) -> String {
    let (tenant, actor) = (principal.tenant.as_bytes(), principal.actor.as_bytes());
    Sha256Digest::of(&[act.as_bytes(), b"\0", tenant, b"\0", actor, b"\0", key.as_bytes()].concat()).to_string()
}
