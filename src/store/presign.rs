//! Which epochs of a tenant's presigned URLs count. The key that signs them is a root (`keys.rs`).

use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::audit::AuditDoc;
use super::limit::Within;
use super::schema::KEYS;
use super::{Store, StoreResult};

/// The epochs of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct LinkEpochs {
    /// In which URLs are signed.
    pub current: i64,
    /// From which on URLs are taken.
    pub oldest: i64,
}

/// Those of a tenant that never changed them.
const FIRST: LinkEpochs = LinkEpochs { current: 1, oldest: 1 };

/// What becomes of the URLs that are out when an epoch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// They are taken until they expire.
    Kept,
    /// They are taken no more.
    Revoked,
}

fn epochs_of(tenant: &str) -> Document {
    doc! { "_id": { "$eq": format!("links:{tenant}") } }
}

impl Store {
    /// The epochs of a tenant.
    pub async fn find_link_epochs(&self, tenant: &str) -> StoreResult<LinkEpochs> {
        let keys = self.collection::<LinkEpochs>(KEYS);
        let found = keys.find_one(epochs_of(tenant)).max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.unwrap_or(FIRST))
    }

    /// Begins the next epoch of a tenant, with its audit entry.
    pub async fn begin_link_epoch(&self, tenant: &str, signed: Signed, audit: &AuditDoc) -> StoreResult<LinkEpochs> {
        let next = doc! { "$add": [{ "$ifNull": ["$current", FIRST.current] }, 1_i64] };
        let oldest = match signed {
            Signed::Kept => doc! { "$ifNull": ["$oldest", FIRST.oldest] },
            Signed::Revoked => next.clone(),
        };
        let begin = vec![doc! { "$set": { "current": next, "oldest": oldest } }];
        self.upsert_audited(KEYS, &epochs_of(tenant), begin, audit).await
    }
}
