//! Concatenation of tus: partial uploads become one, without a byte that moves. Their segments change hands in the
//! transaction that begins the final upload.

use mongodb::ClientSession;
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};

use super::commit::pending;
use super::reclaim::condemned;
use super::schema::{BLOBS, SEGMENTS, UPLOADS};
use super::transaction::{StepError, stale_unless};
use super::uploads::{NewUpload, UploadDoc, UploadStatus, ended};
use super::{Id, Store};

/// What an upload is to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConcatDoc {
    /// To be a piece of another.
    Partial {
        /// Which one it became a piece of.
        #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
        of: Option<Id>,
    },
    /// Made of others.
    Final {
        /// In this order.
        partials: Vec<Id>,
        /// As its client said it.
        said: String,
    },
}

impl UploadDoc {
    /// Whether it becomes no file by itself.
    pub fn is_partial(&self) -> bool {
        matches!(self.concat, Some(ConcatDoc::Partial { .. }))
    }

    /// The final upload that it became a piece of.
    pub fn became_piece_of(&self) -> Option<Id> {
        match self.concat {
            Some(ConcatDoc::Partial { of }) => of,
            _ => None,
        }
    }

    /// The uploads that it is made of.
    pub fn partials(&self) -> Option<Vec<Id>> {
        match &self.concat {
            Some(ConcatDoc::Final { partials, .. }) => Some(partials.clone()),
            _ => None,
        }
    }

    /// The file that it became.
    pub fn made(&self) -> Option<Id> {
        (self.status == UploadStatus::Completed && !self.is_partial()).then_some(self.file)
    }
}

impl Store {
    /// Gives the segments of partial uploads to a new one, in order, and ends them. Each **MUST** still be open, whole
    /// and without a tail, as it was found.
    pub(super) async fn take_partials(
        &self,
        new: &NewUpload<'_>,
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        if new.partials.is_empty() {
            return Ok(());
        }
        let mut base = 0_i64;
        for partial in new.partials {
            let whole = doc! {
                "_id": partial.id,
                "status": UploadStatus::Open.name(),
                "revision": partial.revision,
                "size": partial.size,
                "tail.len": 0_i64,
                "expireAt": { "$gt": new.audit.at },
            };
            let mut end = ended(UploadStatus::Completed, new.audit.at, new.upload.expire_at);
            end.get_document_mut("$set").map_err(damaged)?.insert("concat.partial.final", new.upload.id);
            let taken = self.documents(UPLOADS).update_one(whole, end).session(&mut *session).await?;
            stale_unless(taken.matched_count == 1)?;
            if partial.size == Some(0) {
                // A row without a byte has no place among the others.
                let blob = pending(partial.blob);
                let condemned = condemned(new.audit.at);
                stale_unless(self.condemn_and_shred_in(partial.blob, blob, condemned, &mut *session).await?)?;
                continue;
            }
            let gone = self.documents(BLOBS).delete_one(pending(partial.blob)).session(&mut *session).await?;
            stale_unless(gone.deleted_count == 1)?;
            let given = doc! { "blob": new.upload.blob, "off": { "$add": ["$off", base] } };
            let segments = self.documents(SEGMENTS);
            let given = segments.update_many(doc! { "blob": partial.blob }, vec![doc! { "$set": given }]);
            given.session(&mut *session).await?;
            base += partial.size.unwrap_or_default();
        }
        self.merge_holds(new, session).await
    }
}

fn damaged(error: impl std::fmt::Display) -> StepError {
    StepError::Final(super::StoreError::Damaged(error.to_string()))
}
