//! Registry documents: what users name, one a version. Finding, listing and changing them; they
//! appear only through `commit.rs`.

use futures::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::schema::REGISTRY;
use super::transaction::{StepError, Transaction};
use super::{Id, Store, StoreError, StoreResult};

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
    /// The plaintext's SHA-256; sealed where the content is encrypted.
    pub digest: Binary,
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
    /// Nothing may delete the file.
    #[serde(default)]
    pub legal_hold: bool,
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

/// The order of a list; ties are broken by id in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortField {
    /// By creation.
    CreatedAt,
    /// By name.
    Name,
    /// By plaintext size.
    Size,
}

impl SortField {
    fn key(self) -> &'static str {
        match self {
            Self::CreatedAt => "createdAt",
            Self::Name => "name",
            Self::Size => "content.size",
        }
    }

    /// The document's value in this order.
    pub fn value(self, file: &FileDoc) -> Bson {
        match self {
            Self::CreatedAt => Bson::DateTime(file.created_at),
            Self::Name => Bson::String(file.name.clone()),
            Self::Size => Bson::Int64(file.content.size),
        }
    }
}

/// The direction of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Which files a list shows. Every field is a literal; none is a pattern or an operator.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "named as the document's fields")]
pub struct FileFilter {
    pub kind: Option<String>,
    pub content_type: Option<String>,
    pub bucket: Option<String>,
    pub category: Option<String>,
    pub tags: Vec<String>,
    pub folder: Option<String>,
    pub owner: Option<String>,
    pub access: Option<String>,
    pub min_size: Option<i64>,
    pub max_size: Option<i64>,
    pub created_after: Option<DateTime>,
    pub created_before: Option<DateTime>,
}

impl FileFilter {
    fn to_document(&self, tenant: &str, now: DateTime) -> Document {
        let mut filter = visible(tenant, now);
        let literals = [
            ("kind", &self.kind),
            ("contentType", &self.content_type),
            ("content.bucket", &self.bucket),
            ("category", &self.category),
            ("folder", &self.folder),
            ("owner", &self.owner),
            ("access", &self.access),
        ];
        for (key, value) in literals {
            if let Some(value) = value {
                filter.insert(key, doc! { "$eq": value });
            }
        }
        if !self.tags.is_empty() {
            filter.insert("tags", doc! { "$all": &self.tags });
        }
        let mut bound = |key: &str, operator: &str, value: Option<Bson>| {
            if let Some(value) = value {
                let mut bounds = filter.get_document(key).cloned().unwrap_or_default();
                bounds.insert(operator, value);
                filter.insert(key, bounds);
            }
        };
        bound("content.size", "$gte", self.min_size.map(Bson::Int64));
        bound("content.size", "$lte", self.max_size.map(Bson::Int64));
        bound("createdAt", "$gt", self.created_after.map(Bson::DateTime));
        bound("createdAt", "$lt", self.created_before.map(Bson::DateTime));
        filter
    }
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct PageQuery {
    /// Which files.
    pub filter: FileFilter,
    /// In which order.
    pub sort: SortField,
    /// In which direction.
    pub direction: Direction,
    /// After this value and id, where it is not the first page.
    pub after: Option<PageMark>,
    /// How many.
    pub limit: i64,
}

/// The place of a document in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PageMark {
    /// The value it is sorted by.
    pub value: Bson,
    /// Its id.
    pub id: Id,
}

fn visible(tenant: &str, now: DateTime) -> Document {
    doc! {
        "tenant": { "$eq": tenant },
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
    /// Finds the version a file's id means, unless it is expired.
    pub async fn find_file(&self, tenant: &str, file: Id, now: DateTime) -> StoreResult<Option<FileDoc>> {
        let mut filter = visible(tenant, now);
        filter.insert("file", file);
        Ok(self.collection::<FileDoc>(REGISTRY).find_one(filter).max_time(self.query_timeout).await?)
    }

    /// Whether there is no file at all.
    pub async fn is_registry_empty(&self) -> StoreResult<bool> {
        Ok(self.documents(REGISTRY).find_one(doc! {}).projection(doc! { "_id": 1 }).await?.is_none())
    }

    /// One page of a tenant's files.
    pub async fn list_files(&self, tenant: &str, query: &PageQuery, now: DateTime) -> StoreResult<Found> {
        let mut filter = query.filter.to_document(tenant, now);
        let (sign, operator) = match query.direction {
            Direction::Ascending => (1, "$gt"),
            Direction::Descending => (-1, "$lt"),
        };
        let key = query.sort.key();
        if let Some(after) = &query.after {
            let later = doc! { "$or": [
                { key: { operator: after.value.clone() } },
                { key: { "$eq": after.value.clone() }, "_id": { operator: after.id } },
            ] };
            filter.get_array_mut("$and").map_err(|error| StoreError::Damaged(error.to_string()))?.push(later.into());
        }
        let found = self
            .collection::<RawDocumentBuf>(REGISTRY)
            .find(filter)
            .sort(doc! { key: sign, "_id": sign })
            .limit(query.limit)
            .max_time(self.query_timeout)
            .await?;
        readable(found).await
    }

    /// How many of a tenant's files the filter shows.
    pub async fn count_files(&self, tenant: &str, filter: &FileFilter, now: DateTime) -> StoreResult<u64> {
        let filter = filter.to_document(tenant, now);
        Ok(self.collection::<FileDoc>(REGISTRY).count_documents(filter).max_time(self.query_timeout).await?)
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
        let mut transaction = Transaction::new(self).await?;
        loop {
            let session = transaction.attempt().await?;
            let steps = async {
                let registry = self.collection::<FileDoc>(REGISTRY);
                let unchanged = doc! { "_id": before.id, "updatedAt": before.updated_at };
                let updated = registry
                    .find_one_and_update(unchanged, update.clone())
                    .return_document(mongodb::options::ReturnDocument::After)
                    .session(&mut *session)
                    .await?
                    .ok_or(StepError::Final(StoreError::Stale))?;
                self.append_audit(audit, session).await?;
                Ok(updated)
            };
            let outcome = steps.await;
            if let Some(updated) = transaction.conclude(outcome).await? {
                return Ok(updated);
            }
        }
    }

    /// Adds accesses to a version; nothing if it is gone. Not a change of the file: `updatedAt` stays.
    pub async fn add_accesses(&self, version: Id, accesses: Accesses) -> StoreResult<()> {
        let add = doc! { "$inc": { "downloads": accesses.downloads }, "$max": { "lastAccessedAt": accesses.last } };
        self.documents(REGISTRY).update_one(doc! { "_id": version }, add).await?;
        Ok(())
    }

    /// Removes a file with its audit entry; its bytes are `reclaim.rs`'s.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the document is no longer as `before`.
    pub async fn remove_file(&self, before: &FileDoc, audit: &AuditDoc) -> StoreResult<()> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let session = transaction.attempt().await?;
            let steps = async {
                let unchanged = doc! { "_id": before.id, "updatedAt": before.updated_at };
                let removed = self.documents(REGISTRY).delete_one(unchanged).session(&mut *session).await?;
                if removed.deleted_count == 0 {
                    return Err(StepError::Final(StoreError::Stale));
                }
                self.append_audit(audit, session).await?;
                Ok(())
            };
            let outcome = steps.await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }
}
