//! Comments that visitors of shares leave.

use futures::TryStreamExt;
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::super::limit::Within;
use super::super::schema::{SHARE_COMMENTS, SHARES};
use super::super::transaction::{Transaction, stale_unless};
use super::super::{Id, Store, StoreResult};
use super::{TimeMark, beyond};

/// Comments that one share takes.
pub const MAX_COMMENTS: i64 = 500;

/// One comment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommentDoc {
    /// Random.
    #[serde(rename = "_id")]
    pub id: Id,
    /// On which share.
    pub share: Id,
    /// When.
    pub at: DateTime,
    /// By whom, as they say themselves.
    pub author: String,
    /// What.
    pub text: String,
    /// When it is forgotten.
    pub purge_at: DateTime,
}

impl Store {
    /// Adds a comment.
    ///
    /// # Errors
    /// [`StoreError::Stale`](super::super::StoreError::Stale) where the share takes none, or no more.
    pub async fn insert_comment(&self, comment: &CommentDoc) -> StoreResult<()> {
        let has_room = doc! {
            "_id": comment.share,
            "revokedAt": { "$exists": false },
            "expireAt": { "$gt": comment.at },
            "terms.allowComment": true,
            "comments": { "$lt": MAX_COMMENTS },
        };
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let count = doc! { "$inc": { "comments": 1_i64 } };
                let counted = self.documents(SHARES).update_one(has_room.clone(), count).session(&mut *session).await?;
                stale_unless(counted.matched_count == 1)?;
                self.collection::<CommentDoc>(SHARE_COMMENTS).insert_one(comment).session(&mut *session).await?;
                Ok(())
            };
            let outcome = steps.within(limit).await;
            if transaction.conclude(outcome).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Comments on a share, newest first.
    pub async fn list_comments(&self, share: Id, after: Option<TimeMark>, limit: i64) -> StoreResult<Vec<CommentDoc>> {
        let comments = self.collection::<CommentDoc>(SHARE_COMMENTS);
        let page = comments.find(beyond(doc! { "share": share }, "at", after)).sort(doc! { "at": -1, "_id": -1 });
        let found = page.limit(limit).max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }
}
