//! The access log of shares: one entry an access, in a collection of its own.

use futures::TryStreamExt;
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::super::limit::Within;
use super::super::schema::SHARE_LOG;
use super::super::{Id, Store, StoreResult};
use super::{TimeMark, beyond};

/// One access to a share.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessDoc {
    /// Random.
    #[serde(rename = "_id")]
    pub id: Id,
    /// To which share.
    pub share: Id,
    /// When.
    pub at: DateTime,
    /// What: `page`, `view`, `download`, `comment`, `refused`.
    pub act: String,
    /// Why it was refused, as an error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// With what, as it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// By whom, where they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// When it is forgotten.
    pub purge_at: DateTime,
}

impl Store {
    /// Adds an entry.
    pub async fn log_access(&self, access: &AccessDoc) -> StoreResult<()> {
        self.collection::<AccessDoc>(SHARE_LOG).insert_one(access).within(self.limit).await?;
        Ok(())
    }

    /// Entries of a share, newest first.
    pub async fn list_accesses(&self, share: Id, after: Option<TimeMark>, limit: i64) -> StoreResult<Vec<AccessDoc>> {
        let log = self.collection::<AccessDoc>(SHARE_LOG);
        let page = log.find(beyond(doc! { "share": share }, "at", after)).sort(doc! { "at": -1, "_id": -1 });
        let found = page.limit(limit).max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }
}
