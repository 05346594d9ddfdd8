//! Shares: links to a file with terms, found by the hash of their token. Who may pass is decided above.

pub mod comments;
pub mod log;

use futures::TryStreamExt;
use mongodb::bson::{Binary, DateTime, Document, doc};
use mongodb::{ClientSession, Collection};
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::commit::IdempotencyDoc;
use super::limit::Within;
use super::schema::SHARES;
use super::segments::binary;
use super::{Id, Store, StoreError, StoreResult};

/// One share.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareDoc {
    /// Random; no secret.
    #[serde(rename = "_id")]
    pub id: Id,
    /// SHA-256 of the token.
    pub token: Binary,
    /// Whose file it is.
    pub tenant: String,
    /// The file.
    pub file: Id,
    /// Who made it.
    pub owner: String,
    /// For its owner.
    pub name: String,
    /// For who opens it.
    pub note: String,
    /// On what terms.
    pub terms: TermsDoc,
    /// Downloads that were begun.
    pub downloads: i64,
    /// Comments that were made.
    pub comments: i64,
    /// When it was made.
    pub created_at: DateTime,
    /// Of its terms.
    pub updated_at: DateTime,
    /// Of the last download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_accessed_at: Option<DateTime>,
    /// From when on it is refused.
    pub expire_at: DateTime,
    /// Since when it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime>,
    /// When it is forgotten.
    pub purge_at: DateTime,
}

/// On what terms a share is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct TermsDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downloads: Option<i64>,
    /// Argon2id, as a PHC string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    pub allow_view: bool,
    pub allow_download: bool,
    pub allow_comment: bool,
    pub require_auth: bool,
    pub allowed_users: Vec<String>,
    pub allowed_domains: Vec<String>,
    pub allowed_cidrs: Vec<String>,
}

/// A place in a list by time, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeMark {
    /// When.
    pub at: DateTime,
    /// Which of that time.
    pub id: Id,
}

/// What comes after a mark in the order newest first, of what `filter` finds, by a field of times.
fn beyond(mut filter: Document, field: &str, after: Option<TimeMark>) -> Document {
    if let Some(TimeMark { at, id }) = after {
        let earlier = doc! { field: { "$lt": at } };
        let same_time = doc! { field: at, "_id": { "$lt": id } };
        filter.insert("$or", vec![earlier, same_time]);
    }
    filter
}

impl Store {
    fn shares(&self) -> Collection<ShareDoc> {
        self.collection(SHARES)
    }

    /// Finds a share by the hash of what was presented, in whatever state.
    pub async fn find_share_by_token(&self, hash: [u8; 32]) -> StoreResult<Option<ShareDoc>> {
        let shares = self.shares();
        let found = shares.find_one(doc! { "token": binary(hash) }).max_time(self.query_timeout);
        Ok(found.within(self.limit).await?)
    }

    /// Finds a share of a tenant by its id, in whatever state.
    pub async fn find_share(&self, tenant: &str, id: Id) -> StoreResult<Option<ShareDoc>> {
        let (shares, filter) = (self.shares(), doc! { "_id": id, "tenant": { "$eq": tenant } });
        Ok(shares.find_one(filter).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Shares of a file, newest first.
    pub async fn list_shares(&self, file: Id, after: Option<TimeMark>, limit: i64) -> StoreResult<Vec<ShareDoc>> {
        let (shares, filter) = (self.shares(), beyond(doc! { "file": file }, "createdAt", after));
        let page = shares.find(filter).sort(doc! { "createdAt": -1, "_id": -1 }).limit(limit);
        let found = page.max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }

    /// How many shares a file has, those that ended too until they are forgotten.
    pub async fn count_shares(&self, file: Id) -> StoreResult<u64> {
        let shares = self.documents(SHARES);
        Ok(shares.count_documents(doc! { "file": file }).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Inserts a share with its audit entry and the memory of the request.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when the idempotency key was used before.
    pub async fn insert_share(
        &self,
        share: &ShareDoc,
        audit: &AuditDoc,
        idempotency: Option<&IdempotencyDoc>,
    ) -> StoreResult<()> {
        self.insert_audited(SHARES, share, audit, idempotency).await
    }

    /// Changes what is said of a share, with its audit entry; what is counted stays as it is meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when it is no longer as `before`.
    pub async fn update_share(&self, before: &ShareDoc, after: &ShareDoc, audit: &AuditDoc) -> StoreResult<ShareDoc> {
        let terms =
            mongodb::bson::serialize_to_bson(&after.terms).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let mut set = doc! {
            "name": &after.name,
            "note": &after.note,
            "terms": terms,
            "updatedAt": after.updated_at,
            "expireAt": after.expire_at,
            "purgeAt": after.purge_at,
        };
        if let Some(at) = after.revoked_at {
            set.insert("revokedAt", at);
        }
        let unchanged = doc! { "_id": before.id, "updatedAt": before.updated_at };
        self.update_audited(SHARES, &unchanged, doc! { "$set": set }, audit).await
    }

    /// Takes one download of a share that is open and has one left; false where it is not or has none.
    pub async fn take_download(&self, share: Id, now: DateTime) -> StoreResult<bool> {
        let most = doc! { "$ifNull": ["$terms.maxDownloads", i64::MAX] };
        let has_one = doc! {
            "_id": share,
            "revokedAt": { "$exists": false },
            "expireAt": { "$gt": now },
            "$expr": { "$lt": ["$downloads", most] },
        };
        let take = doc! { "$inc": { "downloads": 1_i64 }, "$max": { "lastAccessedAt": now } };
        let taken = self.documents(SHARES).update_one(has_one, take).within(self.limit).await?;
        Ok(taken.matched_count == 1)
    }

    /// Removes the shares of a file that goes.
    pub(super) async fn remove_shares_of(&self, file: Id, session: &mut ClientSession) -> mongodb::error::Result<()> {
        self.documents(SHARES).delete_many(doc! { "file": file }).session(session).await.map(drop)
    }
}
