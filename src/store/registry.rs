//! Registry documents: what users name, one a version. Finding and changing them; they appear only
//! through `commit.rs`.

pub mod list;

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, doc};
use serde::{Deserialize, Deserializer, Serialize};

use super::audit::AuditDoc;
use super::group;
use super::limit::Within;
use super::row_copy::{self, RowCopy};
use super::schema::{BLOBS, REGISTRY};
use super::segments::State;
use super::transaction::{StepError, Transaction};
use super::usage::UsageEntry;
use super::{Id, Store, StoreError, StoreResult};
use crate::failpoint;

/// What is fixed with the bytes.
///
/// # Units
/// Bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentDoc {
    /// Plaintext bytes.
    pub size: i64,
    /// Bytes in GridFS.
    pub stored_size: i64,
    /// Where plain and in one segment: a copy of that one's row.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "row_copy::lenient")]
    pub row: Option<RowCopy>,
    /// Without such a copy, its only segment, where that is one small chunk: a hint, so that both can be looked for at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Id>,
    /// The bucket.
    pub bucket: String,
    /// The codec's name.
    pub codec: String,
    /// The codec's level.
    pub level: i32,
    /// Where encrypted: `managed` or `customer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Where encrypted: the name of the wrapping key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The plaintext's SHA-256; sealed where the content is encrypted; empty while it is not known.
    pub digest: Binary,
    /// The digest is to be found out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub digest_due: bool,
    /// The manifest's authentication code.
    pub mac: Binary,
}

/// How long a file is kept, as its owner said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionDoc {
    /// Days from creation, if it was said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<i64>,
    /// The instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime>,
    /// The days are the bucket's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_bucket: bool,
    /// Nothing may delete the file. What cannot be read counts as held.
    #[serde(default = "held", deserialize_with = "hold")]
    pub legal_hold: bool,
}

fn held() -> bool {
    true
}

fn hold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Bson::deserialize(deserializer)? != Bson::Boolean(false))
}

/// One version of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileDoc {
    /// Of the version.
    #[serde(rename = "_id")]
    pub id: Id,
    /// Of the file, the same for all its versions.
    pub file: Id,
    /// From 1.
    pub version: i64,
    /// Whether it is the version the file's id means.
    pub latest: bool,
    /// Whose it is.
    pub tenant: String,
    /// Who uploaded it.
    pub owner: String,
    /// The content.
    pub blob: Id,
    /// What is fixed with the bytes.
    pub content: ContentDoc,
    /// Display name.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// One label of a kind.
    #[serde(default)]
    pub category: Option<String>,
    /// An absolute path of names.
    pub folder: String,
    /// The client's own members.
    pub custom: Document,
    /// `private`, `internal` or `public`.
    pub access: String,
    /// By the bytes, else as declared.
    pub content_type: String,
    /// As declared, where the bytes said otherwise.
    #[serde(default)]
    pub declared_type: Option<String>,
    /// Derived from the type.
    pub kind: String,
    /// As said.
    pub retention: RetentionDoc,
    /// The instant from which no read sees the file; absent under legal hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<DateTime>,
    /// When the TTL index removes the document, if nothing did before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<DateTime>,
    /// Whether the content was there already.
    pub deduplicated: bool,
    /// Accesses to the content that began at its first byte.
    pub downloads: i64,
    /// Of the last access to the content.
    #[serde(default)]
    pub last_accessed_at: Option<DateTime>,
    /// Of the version.
    pub created_at: DateTime,
    /// Of the metadata.
    pub updated_at: DateTime,
}

/// How often and when content was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accesses {
    /// Downloads.
    pub downloads: i64,
    /// The last access.
    pub last: DateTime,
}

/// A file as somebody asks for it.
pub(super) struct Sought {
    tenant: String,
    file: Id,
    now: DateTime,
}

impl Sought {
    /// The file, if it is among documents that were found for several.
    fn among(&self, found: &[(Id, RawDocumentBuf)]) -> StoreResult<Option<FileDoc>> {
        let is_there = |document: &RawDocumentBuf| match document.get("expireAt") {
            Ok(None) => true,
            // What is no time is not one to come.
            Ok(Some(at)) => at.as_datetime().is_some_and(|at| at > self.now),
            Err(_) => false,
        };
        let is_it = |(file, document): &&(Id, RawDocumentBuf)| {
            *file == self.file
                && document.get_str("tenant").is_ok_and(|tenant| tenant == self.tenant)
                && is_there(document)
        };
        let mut own = found.iter().filter(is_it);
        let Some((_, document)) = own.next() else { return Ok(None) };
        let read = mongodb::bson::deserialize_from_slice(document.as_bytes());
        read.map(Some).map_err(|error| StoreError::from(mongodb::error::Error::from(error)))
    }
}

/// What every read of files is restricted to.
fn visible(tenant: Document, now: DateTime) -> Document {
    doc! {
        "tenant": tenant,
        "latest": true,
        "$and": [{ "$or": [{ "expireAt": { "$exists": false } }, { "expireAt": { "$gt": now } }] }],
    }
}

/// Registry documents without those no gateway wrote: one of them must not hide the others.
pub(super) async fn readable(mut found: Cursor<RawDocumentBuf>) -> StoreResult<Found> {
    let (mut files, mut seen) = (Vec::new(), 0);
    while let Some(document) = found.try_next().await? {
        seen += 1;
        match mongodb::bson::deserialize_from_slice(document.as_bytes()) {
            Ok(file) => files.push(file),
            Err(error) => {
                let id = document.get("_id").ok().flatten();
                tracing::error!(?id, %error, "a registry document cannot be read and is left out");
            }
        }
    }
    Ok(Found { files, seen })
}

/// Registry documents a query found.
#[derive(Debug)]
pub struct Found {
    /// Those that can be read.
    pub files: Vec<FileDoc>,
    /// How many there were in all.
    pub seen: i64,
}

/// What to change in a registry document.
#[derive(Debug, Clone, Default)]
pub struct FileChange {
    /// Fields to set.
    pub set: Document,
    /// Fields to remove.
    pub unset: Document,
}

impl Store {
    /// Files whose digest is to be found out, by id.
    pub async fn find_digests_due(&self, after: Option<Id>, limit: i64) -> StoreResult<Vec<FileDoc>> {
        let mut due = doc! { "content.digestDue": true };
        if let Some(after) = after {
            due.insert("_id", doc! { "$gt": after });
        }
        let registry = self.collection::<RawDocumentBuf>(REGISTRY);
        let found = registry.find(due).sort(doc! { "_id": 1 }).limit(limit).max_time(self.query_timeout);
        Ok(readable(found.within(self.limit).await?).within(self.limit).await?.files)
    }

    /// Sets the digest of a file that had none, and by what equal content is found, unless other content has that
    /// already. False when the file is another by now.
    pub async fn settle_digest(
        &self,
        file: &FileDoc,
        known: &ContentDoc,
        look_up: Option<Binary>,
    ) -> StoreResult<bool> {
        let content = mongodb::bson::serialize_to_document(known).map_err(|e| StoreError::Damaged(e.to_string()))?;
        let unchanged = doc! { "_id": file.id, "content.digestDue": true, "content.mac": &file.content.mac };
        let (registry, settle) = (self.documents(REGISTRY), doc! { "$set": { "content": content } });
        let settled = registry.update_one(unchanged, settle);
        if settled.within(self.limit).await?.matched_count == 0 {
            return Ok(false);
        }
        if let Some(look_up) = look_up {
            let found_by_none = doc! { "_id": file.blob, "state": State::Live.name(), "sha256": { "$exists": false } };
            let set = doc! { "$set": { "sha256": look_up } };
            let found = self.documents(BLOBS).update_one(found_by_none, set).within(self.limit).await;
            match found.map_err(StoreError::from) {
                Ok(_) | Err(StoreError::Duplicate(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Finds the version a file's id means, unless it is expired; together with others that are asked for now.
    pub async fn find_file(&self, tenant: &str, file: Id, now: DateTime) -> StoreResult<Option<FileDoc>> {
        let store = self.clone();
        let find = move |group| {
            let store = store.clone();
            async move { store.find_group(group).await }
        };
        let sought = Sought { tenant: tenant.to_owned(), file, now };
        async { self.files.join(sought, find).await.unwrap_or_else(group::lost) }.within(self.limit).await
    }

    /// Finds a file of any tenant that is for everybody, unless it is expired.
    pub async fn find_public_file(&self, file: Id, now: DateTime) -> StoreResult<Option<FileDoc>> {
        let mut filter = visible(doc! { "$exists": true }, now);
        filter.extend(doc! { "file": { "$eq": file }, "access": { "$eq": "public" } });
        let registry = self.collection::<FileDoc>(REGISTRY);
        Ok(registry.find_one(filter).max_time(self.query_timeout).within(self.limit).await?)
    }

    async fn find_group(&self, group: Vec<Sought>) -> Vec<StoreResult<Option<FileDoc>>> {
        let found = match self.find_documents(&group).await {
            Ok(found) => found,
            Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
        };
        group.iter().map(|sought| sought.among(&found)).collect()
    }

    /// The documents of all files of a group, for whom of them it may be, each with its file's id.
    async fn find_documents(&self, group: &[Sought]) -> StoreResult<Vec<(Id, RawDocumentBuf)>> {
        let tenants: BTreeSet<_> = group.iter().map(|sought| sought.tenant.as_str()).collect();
        // Whose each is and whether it is expired is looked at once more for each of the group, and only there.
        let filter = doc! {
            "file": { "$in": group.iter().map(|sought| sought.file).collect::<Vec<_>>() },
            "latest": true,
            "tenant": { "$in": tenants.into_iter().collect::<Vec<_>>() },
        };
        let registry = self.collection::<RawDocumentBuf>(REGISTRY);
        let found = registry.find(filter).max_time(self.query_timeout).within(self.limit).await?;
        let documents: Vec<RawDocumentBuf> = found.try_collect().within(self.limit).await?;
        Ok(documents
            .into_iter()
            .filter_map(|document| Some((document.get_object_id("file").ok()?, document)))
            .collect())
    }

    /// Whether there is no file at all.
    pub async fn is_registry_empty(&self) -> StoreResult<bool> {
        let registry = self.documents(REGISTRY);
        let any =
            registry.find_one(doc! {}).projection(doc! { "_id": 1 }).max_time(self.limit).within(self.limit).await?;
        Ok(any.is_none())
    }

    /// Changes a file's metadata with its audit entry; `before` is the document the change was
    /// decided on.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the document is no longer as `before`.
    pub async fn update_file(&self, before: &FileDoc, change: &FileChange, audit: &AuditDoc) -> StoreResult<FileDoc> {
        let mut update = doc! { "$set": change.set.clone() };
        if !change.unset.is_empty() {
            update.insert("$unset", change.unset.clone());
        }
        let unchanged = doc! { "_id": before.id, "updatedAt": before.updated_at };
        self.update_audited(REGISTRY, &unchanged, update, audit).await
    }

    /// Adds accesses to a version; nothing if it is gone. Not a change of the file: `updatedAt` stays.
    pub async fn add_accesses(&self, version: Id, accesses: Accesses) -> StoreResult<()> {
        let add = doc! { "$inc": { "downloads": accesses.downloads }, "$max": { "lastAccessedAt": accesses.last } };
        self.documents(REGISTRY).update_one(doc! { "_id": version }, add).within(self.limit).await?;
        Ok(())
    }

    /// Removes a file with its audit entry; its bytes are `reclaim.rs`'s.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the document is no longer as `before`.
    pub async fn remove_file(&self, before: &FileDoc, audit: &AuditDoc) -> StoreResult<()> {
        let less = UsageEntry::removed(before);
        failpoint::hit("remove.before");
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let unchanged = doc! { "_id": before.id, "updatedAt": before.updated_at };
                let removed = self.documents(REGISTRY).delete_one(unchanged).session(&mut *session).await?;
                if removed.deleted_count == 0 {
                    return Err(StepError::Final(StoreError::Stale));
                }
                self.remove_shares_of(before.file, session).await?;
                self.append_audit(&[audit], session).await?;
                self.append_usage(std::slice::from_ref(&less), session).await
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }
}
