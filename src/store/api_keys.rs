//! API keys as the database keeps them: a hash and what it allows. The secrets are never stored.

use mongodb::bson::{Binary, DateTime, doc};
use serde::{Deserialize, Serialize};

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
}

impl Store {
    /// Finds a key by the hash of what was presented.
    pub async fn find_api_key(&self, hash: [u8; 32]) -> StoreResult<Option<ApiKeyDoc>> {
        let keys = self.collection::<ApiKeyDoc>(API_KEYS);
        Ok(keys.find_one(doc! { "hash": binary(hash) }).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Inserts or replaces a key under its id.
    pub async fn put_api_key(&self, key: &ApiKeyDoc) -> StoreResult<()> {
        let keys = self.collection::<ApiKeyDoc>(API_KEYS);
        keys.replace_one(doc! { "_id": &key.id }, key).upsert(true).within(self.limit).await?;
        Ok(())
    }
}
