//! Every collection, index and size the database must have, made and verified at start.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use futures::future::join_all;
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

use super::rows::RowPlace;
use super::segments::State;
use super::{Store, StoreError, StoreResult};

/// What users name: one document a version.
pub const REGISTRY: &str = "file_registry";
/// Content: what registry documents point to.
pub const BLOBS: &str = "blobs";
/// One row for each immutable GridFS file.
pub const SEGMENTS: &str = "segments";
/// One entry for each change, written in its transaction, and for each denied access.
pub const AUDIT: &str = "audit";
/// Credentials, as hashes.
pub const API_KEYS: &str = "api_keys";
/// Key-check values and wrapped roots.
pub const KEYS: &str = "keys";
/// What each tenant uses and may use.
pub const USAGE: &str = "usage";
/// Changes of it that are not counted yet.
pub const USAGE_ENTRIES: &str = "usage_entries";
/// Who does which job; see `leases.rs`.
pub const LEASES: &str = "leases";
/// Answers to repeat for an idempotency key.
pub const IDEMPOTENCY: &str = "idempotency";
/// Resumable uploads, open and ended.
pub const UPLOADS: &str = "uploads";
/// Bytes at the end of uploads that are too few for a segment.
pub const TAILS: &str = "upload_tails";
/// Links to files with terms.
pub const SHARES: &str = "file_shares";
/// One entry for each access to a share.
pub const SHARE_LOG: &str = "share_log";
/// What visitors of shares said.
pub const SHARE_COMMENTS: &str = "share_comments";
/// How far jobs came that take long.
pub const JOBS: &str = "jobs";

/// Running backups, and a restore that has not finished.
pub const GUARDS: &str = "guards";

/// What a backup does with a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It holds every document.
    Whole,
    /// It holds the live documents whose blob, in this field, a registry document names.
    Named(&'static str),
    /// It holds none, because of this.
    LeftOut(&'static str),
}

/// Every collection but those of the buckets, in the order in which a backup holds them: what a restore checks
/// first comes first.
pub const COLLECTIONS: [(&str, Keeping); 17] = [
    (KEYS, Keeping::Whole),
    (SEGMENTS, Keeping::Named("blob")),
    (BLOBS, Keeping::Named("_id")),
    (REGISTRY, Keeping::Whole),
    (API_KEYS, Keeping::Whole),
    (IDEMPOTENCY, Keeping::Whole),
    (AUDIT, Keeping::Whole),
    (SHARES, Keeping::Whole),
    (SHARE_LOG, Keeping::Whole),
    (SHARE_COMMENTS, Keeping::Whole),
    (USAGE, Keeping::Whole),
    (USAGE_ENTRIES, Keeping::Whole),
    (UPLOADS, Keeping::LeftOut("its parts are no content yet; what is under way is begun anew after a restore")),
    (TAILS, Keeping::LeftOut("they belong to uploads")),
    (LEASES, Keeping::LeftOut("it says which gateway does what at this moment")),
    (JOBS, Keeping::LeftOut("it says how far jobs came on this database")),
    (GUARDS, Keeping::LeftOut("it says what runs on this database at this moment")),
];

/// Whether a backup holds documents of a collection of this name: one of [`COLLECTIONS`], or of a bucket.
pub fn is_kept(collection: &str) -> bool {
    let bucket = ["files", "chunks"].iter().find_map(|end| collection.strip_suffix(end)?.strip_suffix('.'));
    match COLLECTIONS.iter().find(|(name, _)| *name == collection) {
        Some((_, keeping)) => !matches!(keeping, Keeping::LeftOut(_)),
        None => bucket.is_some_and(|name| {
            !name.is_empty()
                && name.len() <= MAX_BUCKET_NAME
                && !name.starts_with("system.")
                && !name.contains(['$', '\0'])
        }),
    }
}

/// Bytes of a bucket's name, whoever made it: what MongoDB allows for a collection, less the database and the ending.
const MAX_BUCKET_NAME: usize = 180;

/// The files collection of a bucket.
pub fn files_of(bucket: &str) -> String {
    format!("{bucket}.files")
}

/// The chunks collection of a bucket.
pub fn chunks_of(bucket: &str) -> String {
    format!("{bucket}.chunks")
}

struct Index {
    collection: &'static str,
    keys: Document,
    unique: bool,
    partial: Option<Document>,
    is_ttl: bool,
}

fn index(collection: &'static str, keys: Document) -> Index {
    Index { collection, keys, unique: false, partial: None, is_ttl: false }
}

fn indexes() -> Vec<Index> {
    vec![
        Index {
            unique: true,
            partial: Some(doc! { "latest": false }),
            ..index(REGISTRY, doc! { "file": 1, "version": 1 })
        },
        Index { unique: true, partial: Some(doc! { "latest": true }), ..index(REGISTRY, doc! { "file": 1 }) },
        index(REGISTRY, doc! { "tenant": 1, "latest": 1, "createdAt": -1, "_id": -1 }),
        index(REGISTRY, doc! { "tenant": 1, "latest": 1, "name": 1, "_id": 1 }),
        index(REGISTRY, doc! { "tenant": 1, "latest": 1, "content.size": 1, "_id": 1 }),
        index(REGISTRY, doc! { "tenant": 1, "latest": 1, "folder": 1, "createdAt": -1, "_id": -1 }),
        index(REGISTRY, doc! { "blob": 1 }),
        Index { partial: Some(doc! { "expireAt": { "$type": "date" } }), ..index(REGISTRY, doc! { "expireAt": 1 }) },
        // What cannot be read as "no legal hold" is held.
        Index {
            is_ttl: true,
            partial: Some(doc! { "retention.legalHold": false, "purgeAt": { "$exists": true } }),
            ..index(REGISTRY, doc! { "purgeAt": 1 })
        },
        index(SEGMENTS, doc! { "blob": 1, "off": 1 }),
        Index {
            unique: true,
            partial: Some(doc! { "filesId": { "$exists": true } }),
            ..index(SEGMENTS, doc! { "bucket": 1, "filesId": 1 })
        },
        Index {
            unique: true,
            partial: Some(doc! { "state": State::Live.name(), "sha256": { "$exists": true } }),
            ..index(BLOBS, doc! { "scope": 1, "sha256": 1 })
        },
        wrapped_by(RowPlace::Segments),
        wrapped_by(RowPlace::Blob),
        Index { partial: Some(in_state(State::Pending)), ..index(BLOBS, doc! { "state": 1, "lease": 1 }) },
        Index { partial: Some(in_state(State::Condemned)), ..index(BLOBS, doc! { "state": 1, "condemnedAt": 1 }) },
        index(UPLOADS, doc! { "tenant": 1, "status": 1, "createdAt": -1 }),
        Index { unique: true, ..index(UPLOADS, doc! { "file": 1 }) },
        Index { partial: Some(doc! { "status": "open" }), ..index(UPLOADS, doc! { "status": 1, "expireAt": 1 }) },
        Index { partial: Some(doc! { "behind": true }), ..index(UPLOADS, doc! { "behind": 1, "_id": 1 }) },
        Index { is_ttl: true, ..index(UPLOADS, doc! { "purgeAt": 1 }) },
        Index { unique: true, ..index(TAILS, doc! { "upload": 1, "off": 1 }) },
        Index { partial: Some(doc! { "content.digestDue": true }), ..index(REGISTRY, doc! { "content.digestDue": 1 }) },
        index(USAGE_ENTRIES, doc! { "tenant": 1 }),
        Index { partial: Some(doc! { "damagedAt": { "$type": "date" } }), ..index(BLOBS, doc! { "damagedAt": 1 }) },
        index(AUDIT, doc! { "tenant": 1, "at": -1 }),
        index(AUDIT, doc! { "file": 1, "at": -1 }),
        Index { unique: true, ..index(API_KEYS, doc! { "hash": 1 }) },
        Index { unique: true, ..index(SHARES, doc! { "token": 1 }) },
        index(SHARES, doc! { "file": 1, "createdAt": -1, "_id": -1 }),
        Index { is_ttl: true, ..index(SHARES, doc! { "purgeAt": 1 }) },
        index(SHARE_LOG, doc! { "share": 1, "at": -1, "_id": -1 }),
        Index { is_ttl: true, ..index(SHARE_LOG, doc! { "purgeAt": 1 }) },
        index(SHARE_COMMENTS, doc! { "share": 1, "at": -1, "_id": -1 }),
        Index { is_ttl: true, ..index(SHARE_COMMENTS, doc! { "purgeAt": 1 }) },
        Index { is_ttl: true, ..index(IDEMPOTENCY, doc! { "purgeAt": 1 }) },
        Index { is_ttl: true, ..index(GUARDS, doc! { "purgeAt": 1 }) },
    ]
}

/// Rows by the key that wraps theirs; those of plain segments are in none of these.
fn wrapped_by(place: RowPlace) -> Index {
    let kid = place.field("enc.kid");
    let partial = Some(doc! { &kid: { "$exists": true } });
    Index { partial, ..index(place.collection(), doc! { kid: 1, "_id": 1 }) }
}

/// Most content is live: what is looked for only on its way in or out costs a live document nothing.
fn in_state(state: State) -> Document {
    doc! { "state": state.name() }
}

fn model(keys: Document, options: IndexOptions) -> IndexModel {
    IndexModel::builder().keys(keys).options(options).build()
}

impl Store {
    /// Refuses a deployment without transactions: a standalone mongod.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] for a standalone, [`StoreError::Unavailable`] when nothing answers.
    pub async fn require_replica_set(&self) -> StoreResult<()> {
        let hello = self.meta.run_command(doc! { "hello": 1 }).await?;
        if hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
            return Ok(());
        }
        Err(StoreError::Unfit(
            "MongoDB runs as a standalone, which has no transactions; start it with --replSet and run rs.initiate()"
                .into(),
        ))
    }

    /// Makes what is missing and verifies the rest; may be repeated and run by several gateways.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] when a bucket's chunk index exists but is not unique and cannot be
    /// made so.
    pub async fn ensure_schema(&self, buckets: &[String]) -> StoreResult<()> {
        let mut by_collection: BTreeMap<&str, Vec<IndexModel>> = BTreeMap::new();
        for index in indexes() {
            let options = IndexOptions::builder()
                .unique(index.unique.then_some(true))
                .partial_filter_expression(index.partial)
                .expire_after(index.is_ttl.then_some(std::time::Duration::ZERO))
                .build();
            by_collection.entry(index.collection).or_default().push(model(index.keys, options));
        }
        let ours = by_collection.into_iter().map(|(collection, indexes)| self.ensure_indexes(collection, indexes));
        // Each to its end, whatever becomes of the others: between dropping an index and making it anew
        // none may stop.
        join_all(ours).await.into_iter().collect::<StoreResult<()>>()?;
        join_all(buckets.iter().map(|bucket| self.ensure_bucket(bucket))).await.into_iter().collect()
    }

    /// Makes the indexes of a collection of ours: together, and one by one where one of them is in the way.
    async fn ensure_indexes(&self, collection: &str, indexes: Vec<IndexModel>) -> StoreResult<()> {
        let Err(error) = self.documents(collection).create_indexes(indexes.clone()).await else { return Ok(()) };
        if !is_index_conflict(&error) {
            return Err(error.into());
        }
        for index in indexes {
            self.ensure_index(collection, index).await?;
        }
        Ok(())
    }

    /// Makes an index of a collection of ours, in the place of one with the same keys and other options.
    async fn ensure_index(&self, collection: &str, index: IndexModel) -> StoreResult<()> {
        let documents = self.documents(collection);
        let Err(error) = documents.create_index(index.clone()).await else { return Ok(()) };
        if !is_index_conflict(&error) {
            return Err(error.into());
        }
        let name = index.keys.iter().map(|(key, direction)| format!("{key}_{direction}")).collect::<Vec<_>>().join("_");
        tracing::warn!(collection, name, "an index has other options than this version's; making it anew");
        match documents.drop_index(name).await {
            // Another gateway that starts was quicker.
            Err(error) if super::server_code(&error) == Some(INDEX_NOT_FOUND) => {}
            dropped => dropped?,
        }
        documents.create_index(index).await?;
        Ok(())
    }

    /// Makes a bucket's collections and the two indexes of the GridFS specification.
    ///
    /// # Errors
    /// As [`ensure_schema`](Self::ensure_schema).
    pub async fn ensure_bucket(&self, bucket: &str) -> StoreResult<()> {
        let existing = self.meta.list_collection_names().filter(doc! { "name": chunks_of(bucket) }).await?;
        if existing.is_empty() {
            let uncompressed = doc! { "storageEngine": { "wiredTiger": { "configString": "block_compressor=none" } } };
            let mut create = doc! { "create": chunks_of(bucket) };
            create.extend(uncompressed);
            tolerate_existing(self.meta.run_command(create).await)?;
        }
        let by_name = doc! { "filename": 1, "uploadDate": 1 };
        if self.find_indexes(&files_of(bucket), &by_name).await?.is_empty() {
            self.documents(&files_of(bucket)).create_index(model(by_name, IndexOptions::default())).await?;
        }
        self.ensure_unique_chunk_index(bucket).await
    }

    /// The indexes on these keys, whatever their name.
    async fn find_indexes(&self, collection: &str, keys: &Document) -> StoreResult<Vec<IndexOptions>> {
        let indexes = match self.documents(collection).list_indexes().await {
            Err(error) if super::server_code(&error) == Some(NAMESPACE_NOT_FOUND) => return Ok(Vec::new()),
            indexes => indexes?,
        };
        let indexes: Vec<IndexModel> = indexes.try_collect().await?;
        let found = indexes.into_iter().filter(|index| same_keys(&index.keys, keys));
        Ok(found.map(|index| index.options.unwrap_or_default()).collect())
    }

    async fn ensure_unique_chunk_index(&self, bucket: &str) -> StoreResult<()> {
        let keys = doc! { "files_id": 1, "n": 1 };
        let found = self.find_indexes(&chunks_of(bucket), &keys).await?;
        let is_whole = |index: &IndexOptions| index.partial_filter_expression.is_none();
        if found.iter().any(|index| is_whole(index) && index.unique == Some(true)) {
            return Ok(());
        }
        if found.is_empty() {
            let unique = IndexOptions::builder().unique(true).build();
            self.documents(&chunks_of(bucket)).create_index(model(keys, unique)).await?;
            return Ok(());
        }
        if !found.iter().all(is_whole) {
            let message = format!("the chunk index of bucket {bucket} is a partial one; drop it, and it is made anew");
            return Err(StoreError::Unfit(message));
        }
        tracing::warn!(bucket, "the chunk index is not unique; making it so");
        for change in ["prepareUnique", "unique"] {
            let command = doc! {
                "collMod": chunks_of(bucket),
                "index": { "keyPattern": keys.clone(), change: true },
            };
            self.meta.run_command(command).await.map_err(|error| {
                StoreError::Unfit(format!("the chunk index of bucket {bucket} cannot be made unique: {error}"))
            })?;
        }
        Ok(())
    }
}

fn is_index_conflict(error: &mongodb::error::Error) -> bool {
    super::server_code(error).is_some_and(|code| INDEX_CONFLICTS.contains(&code))
}

/// Other programs store the direction as Int32, Int64 or Double.
fn same_keys(a: &Document, b: &Document) -> bool {
    let plain = |keys: &Document| -> Vec<(String, i64)> {
        let direction = |value: &mongodb::bson::Bson| {
            value.as_i64().or_else(|| value.as_i32().map(i64::from)).or_else(|| value.as_f64().map(|n| n as i64))
        };
        keys.iter().map(|(name, value)| (name.clone(), direction(value).unwrap_or(0))).collect()
    };
    plain(a) == plain(b)
}

/// IndexOptionsConflict, IndexKeySpecsConflict.
const INDEX_CONFLICTS: [i32; 2] = [85, 86];
/// IndexNotFound.
const INDEX_NOT_FOUND: i32 = 27;
/// NamespaceNotFound.
const NAMESPACE_NOT_FOUND: i32 = 26;
/// NamespaceExists.
const NAMESPACE_EXISTS: i32 = 48;

fn tolerate_existing(outcome: mongodb::error::Result<Document>) -> StoreResult<()> {
    match outcome {
        Err(error) if super::server_code(&error) == Some(NAMESPACE_EXISTS) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
