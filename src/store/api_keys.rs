//! API keys as the database keeps them: a hash and what it allows. The secrets are never stored.

use futures::TryStreamExt;
use mongodb::bson::{Binary, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::commit::IdempotencyDoc;
use super::limit::Within;
use super::schema::API_KEYS;
use super::segments::binary;
use super::{Store, StoreResult};

/// One API key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyDoc {
    /// The public part of the key.
    #[serde(rename = "_id")]
    pub id: String,
    /// SHA-256 of the whole key.
    pub hash: Binary,
    /// Whose files it opens.
    pub tenant: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime>,
    /// Since when it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime>,
}

impl Store {
    /// Finds a key that is not revoked by the hash of what was presented.
    pub async fn find_api_key(&self, hash: [u8; 32]) -> StoreResult<Option<ApiKeyDoc>> {
        let keys = self.collection::<ApiKeyDoc>(API_KEYS);
        let valid = doc! { "hash": binary(hash), "revokedAt": { "$exists": false } };
        Ok(keys.find_one(valid).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Finds a key by its id, revoked or not.
    pub async fn find_key(&self, id: &str) -> StoreResult<Option<ApiKeyDoc>> {
        let keys = self.collection::<ApiKeyDoc>(API_KEYS);
        Ok(keys.find_one(doc! { "_id": { "$eq": id } }).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Keys by id, after one of them.
    pub async fn list_api_keys(&self, after: Option<&str>, limit: i64) -> StoreResult<Vec<ApiKeyDoc>> {
        let keys = self.collection::<ApiKeyDoc>(API_KEYS);
        let page = keys.find(doc! { "_id": { "$gt": after.unwrap_or_default() } }).sort(doc! { "_id": 1 }).limit(limit);
        let found = page.max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }

    /// Inserts or replaces a key under its id.
    pub async fn put_api_key(&self, key: &ApiKeyDoc) -> StoreResult<()> {
        let keys = self.collection::<ApiKeyDoc>(API_KEYS);
        keys.replace_one(doc! { "_id": &key.id }, key).upsert(true).within(self.limit).await?;
        Ok(())
    }

    /// Inserts a key with its audit entry and the memory of the request.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`](super::StoreError::Duplicate) when the idempotency key was used before.
    pub async fn insert_api_key(
        &self,
        key: &ApiKeyDoc,
        audit: &AuditDoc,
        idempotency: Option<&IdempotencyDoc>,
    ) -> StoreResult<()> {
        self.insert_audited(API_KEYS, key, audit, idempotency).await
    }

    /// Revokes a key with its audit entry.
    ///
    /// # Errors
    /// [`StoreError::Stale`](super::StoreError::Stale) when it is revoked already.
    pub async fn revoke_api_key(&self, id: &str, at: DateTime, audit: &AuditDoc) -> StoreResult<()> {
        let valid = doc! { "_id": { "$eq": id }, "revokedAt": { "$exists": false } };
        let revoke = doc! { "$set": { "revokedAt": at } };
        self.update_audited::<Document>(API_KEYS, &valid, revoke, audit).await.map(drop)
    }
}
