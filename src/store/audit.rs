//! Audit entries: one for each change, inserted in the change's own transaction, and one for each denied access.
//! Reading them back is not offered yet.

use mongodb::ClientSession;
use mongodb::bson::{DateTime, Document};
use serde::{Deserialize, Serialize};

use super::limit::Within;
use super::schema::AUDIT;
use super::{Id, Store, StoreResult};

/// One change or denied access, by whom and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditDoc {
    /// Random.
    #[serde(rename = "_id")]
    pub id: Id,
    /// When.
    pub at: DateTime,
    /// Whose.
    pub tenant: String,
    /// Who: a key's id, or `system`.
    pub actor: String,
    /// What, such as `file.put`.
    pub action: String,
    /// To which file, if to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Id>,
    /// The request it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What changed, without secrets.
    pub details: Document,
}

impl Store {
    /// Adds an entry about what changed nothing.
    ///
    /// # Cancel safety
    /// Dropped, it may be there or not.
    pub async fn record(&self, entry: &AuditDoc) -> StoreResult<()> {
        self.collection::<AuditDoc>(AUDIT).insert_one(entry).within(self.limit).await?;
        Ok(())
    }

    pub(super) async fn append_audit(
        &self,
        entries: &[&AuditDoc],
        session: &mut ClientSession,
    ) -> mongodb::error::Result<()> {
        self.collection::<AuditDoc>(AUDIT).insert_many(entries.iter().copied()).session(session).await.map(drop)
    }
}
