//! Blob documents: content, apart from what users call it. There are no reference counters; a
//! blob is in use exactly while a registry document names it.

use mongodb::bson::{Binary, DateTime, doc};
use serde::{Deserialize, Serialize};

use super::limit::Within;
use super::schema::BLOBS;
use super::segments::State;
use super::{Id, Store, StoreResult};

/// One content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobDoc {
    /// Random.
    #[serde(rename = "_id")]
    pub id: Id,
    /// Which uploads may share it: those of one tenant that are stored in one way.
    pub scope: String,
    /// HMAC of the plaintext's SHA-256 under the tenant's root; absent until it is known, and in
    /// content that is never shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Binary>,
    /// Plaintext bytes.
    pub size: i64,
    /// Where it is in its life.
    pub state: State,
    /// Counts the changes that decide between attaching and condemning.
    #[serde(rename = "gen")]
    pub generation: i64,
    /// Until when a pending blob is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<DateTime>,
    /// Since when nothing names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condemned_at: Option<DateTime>,
}

/// The scope of what a tenant stores in one way: only that is shared. `domain` says who holds the key.
pub fn scope(tenant: &str, domain: &str, bucket: &str, codec: &str) -> String {
    format!("{tenant}/{domain}/{bucket}/{codec}")
}

/// The tenant of a [`scope`].
pub fn tenant_of(scope: &str) -> Option<&str> {
    scope.rsplitn(4, '/').nth(3)
}

impl BlobDoc {
    /// Content about to be written.
    pub fn pending(id: Id, scope: String) -> Self {
        Self { id, scope, sha256: None, size: 0, state: State::Pending, generation: 0, lease: None, condemned_at: None }
    }
}

impl Store {
    /// The live content that `blob` would repeat.
    pub async fn find_same(&self, blob: &BlobDoc) -> StoreResult<Option<BlobDoc>> {
        let same = doc! { "scope": &blob.scope, "sha256": blob.sha256.clone(), "state": State::Live.name() };
        Ok(self.collection::<BlobDoc>(BLOBS).find_one(same).max_time(self.query_timeout).within(self.limit).await?)
    }
}
