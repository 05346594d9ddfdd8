//! Deleting a file: it is gone for every reader at once; its bytes go after the quarantine.

use super::access::{Action, Principal};
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::store::audit::AuditDoc;
use crate::store::{Id, StoreError, doc, new_id};

/// How often a delete is tried against concurrent changes of the same file.
const TRIES: u32 = 5;

impl Files {
    /// Deletes a file.
    ///
    /// # Errors
    /// `forbidden`, `file_not_found`, `held` under legal hold.
    ///
    /// # Cancel safety
    /// Once begun it goes on in a task of its own.
    pub async fn delete(&self, principal: &Principal, file: Id, request_id: Option<String>) -> Result<()> {
        let (files, principal) = (self.clone(), principal.clone());
        let running = tokio::spawn(async move { files.run_delete(&principal, file, request_id).await });
        running.await.map_err(|error| Error::internal("delete the file", error))?
    }

    async fn run_delete(&self, principal: &Principal, file: Id, request_id: Option<String>) -> Result<()> {
        for _ in 0..TRIES {
            let doc = self.find(principal, Action::Write, file).await?;
            if doc.retention.legal_hold {
                return Err(Error::new(ErrorCode::Held, "The file is under legal hold and cannot be deleted."));
            }
            let audit = AuditDoc {
                id: new_id(),
                at: self.now(),
                tenant: doc.tenant.clone(),
                actor: principal.actor.clone(),
                action: "file.delete".to_owned(),
                file: Some(doc.file),
                request_id: request_id.clone(),
                details: doc! { "version": doc.version, "size": doc.content.size },
            };
            match self.store.remove_file(&doc, &audit).await {
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.doing("delete the file")),
                Ok(()) => {
                    if let Err(error) = self.store.condemn_unnamed(doc.blob, self.now()).await {
                        tracing::debug!(error = %error, "the next sweep condemns the deleted content");
                    }
                    return Ok(());
                }
            }
        }
        Err(StoreError::Stale.doing("delete the file"))
    }
}
