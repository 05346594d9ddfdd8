//! Shares as their owners see them: made, listed, changed and revoked. What a visitor gets is `shares/visit.rs`.

pub mod comments;
pub mod log;
pub mod passes;
pub mod passwords;
pub mod terms;
pub mod visit;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::access::{Action, Principal, Resource, permit};
use super::describe::later;
use super::repeats::secret_bytes;
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::digest::Sha256Digest;
use crate::store::audit::AuditDoc;
use crate::store::commit::IdempotencyDoc;
use crate::store::segments::binary;
use crate::store::shares::{ShareDoc, TimeMark};
use crate::store::{DateTime, Document, Id, StoreError, doc, new_id};
use terms::Draft;

const CREATE: &str = "share.create";
const TOKEN: &[u8] = b"gridgate/share-token/v1\0";
/// Shares that a file takes, or a few more where they are made at once: they go with it, in one transaction.
const MAX_SHARES: u64 = 1000;
/// How often a change is tried against concurrent changes of the same share.
const TRIES: u32 = 20;

/// A share, as it is shown this once.
pub struct MadeShare {
    /// What is kept of it.
    pub share: ShareDoc,
    /// What opens it.
    pub token: Zeroizing<String>,
}

/// What the database keeps of a token.
fn token_hash(token: &str) -> [u8; 32] {
    Sha256Digest::of(token.as_bytes()).0
}

impl Files {
    /// Makes a share of a file. The same request with the same idempotency key gives the same share again.
    ///
    /// # Errors
    /// `forbidden`, `file_not_found`, `idempotency_conflict`, `unavailable`.
    pub async fn create_share(
        &self,
        principal: &Principal,
        file: Id,
        draft: Draft,
        idempotency_key: Option<String>,
        request_id: Option<String>,
    ) -> Result<MadeShare> {
        let file = self.find(principal, Action::Share, file).await?.file;
        self.require_space(0)?;
        if self.store.count_shares(file).await.map_err(|e| e.doing("count the shares"))? >= MAX_SHARES {
            return Err(Error::invalid("file", format!("The file has {MAX_SHARES} shares and takes no more.")));
        }
        let said = draft.said(file);
        let (name, note, expire_at) = (draft.name.clone(), draft.note.clone(), draft.expire_at);
        let terms = self.passwords.settle(draft).await?;
        let (id, now) = (new_id(), self.now());
        let memory = self.memory_of(CREATE, principal, idempotency_key.as_deref(), id, &said);
        let token = self.share_token(id, memory.as_ref());
        let share = ShareDoc {
            id,
            token: binary(token_hash(&token)),
            tenant: principal.tenant.clone(),
            file,
            owner: principal.actor.clone(),
            name,
            note,
            terms,
            downloads: 0,
            comments: 0,
            created_at: now,
            updated_at: now,
            last_accessed_at: None,
            expire_at,
            revoked_at: None,
            purge_at: later(expire_at, self.settings.purge_grace_secs),
        };
        let audit = self.share_entry(principal, CREATE, &share, request_id);
        let store = self.store.clone();
        let inserting = tokio::spawn(async move {
            let outcome = store.insert_share(&share, &audit, memory.as_ref()).await;
            (outcome, share, memory)
        });
        let (outcome, share, memory) = inserting.await.map_err(|error| Error::internal("make the share", error))?;
        match (outcome, &memory) {
            (Ok(()), _) => Ok(MadeShare { share, token }),
            (Err(StoreError::Duplicate(_)), Some(ours)) => self.repeat_share(principal, ours).await,
            (Err(error), _) => Err(error.doing("store the share")),
        }
    }

    async fn repeat_share(&self, principal: &Principal, ours: &IdempotencyDoc) -> Result<MadeShare> {
        let first = self.first_memory(ours).await?;
        let over = || Error::new(ErrorCode::IdempotencyConflict, "The share that this request made has ended.");
        let share = self.load_share(&principal.tenant, first.file).await.map_err(|error| match error.code {
            ErrorCode::ShareNotFound => over(),
            _ => error,
        })?;
        if share.revoked_at.is_some() || share.expire_at <= self.now() {
            return Err(over());
        }
        Ok(MadeShare { share, token: self.share_token(first.file, Some(&first)) })
    }

    fn share_token(&self, id: Id, memory: Option<&IdempotencyDoc>) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret_bytes(&self.keys.roots.share, TOKEN, id, memory)))
    }

    /// Shares of a file, newest first, those that ended too until they are forgotten.
    ///
    /// # Errors
    /// `forbidden`, `file_not_found`.
    pub async fn list_shares(
        &self,
        principal: &Principal,
        file: Id,
        after: Option<TimeMark>,
        limit: i64,
    ) -> Result<Vec<ShareDoc>> {
        let file = self.find(principal, Action::Share, file).await?.file;
        self.store.list_shares(file, after, limit).await.map_err(|e| e.doing("list the shares"))
    }

    /// A share, for who may share its file.
    ///
    /// # Errors
    /// `forbidden`, `share_not_found`.
    pub async fn find_share(&self, principal: &Principal, id: Id) -> Result<ShareDoc> {
        permit(principal, Action::Share, Resource::Tenant)?;
        let share = self.load_share(&principal.tenant, id).await?;
        match self.find(principal, Action::Share, share.file).await {
            Err(error) if error.code == ErrorCode::FileNotFound => Err(not_found()),
            found => found.map(|_| share),
        }
    }

    async fn load_share(&self, tenant: &str, id: Id) -> Result<ShareDoc> {
        let found = self.store.find_share(tenant, id).await.map_err(|e| e.doing("look the share up"))?;
        found.filter(|share| share.purge_at > self.now()).ok_or_else(not_found)
    }

    /// Changes a share by a draft that is made of it.
    ///
    /// # Errors
    /// `forbidden`, `share_not_found`, `share_revoked`, and what `change` says.
    pub async fn edit_share(
        &self,
        principal: &Principal,
        id: Id,
        change: impl Fn(&mut Draft) -> Result<()>,
        request_id: Option<String>,
    ) -> Result<ShareDoc> {
        for _ in 0..TRIES {
            let before = self.find_share(principal, id).await?;
            if before.revoked_at.is_some() {
                return Err(Error::new(ErrorCode::ShareRevoked, "A share that was revoked stays so."));
            }
            let mut draft = Draft::of(&before);
            change(&mut draft)?;
            let mut after = ShareDoc {
                name: draft.name.clone(),
                note: draft.note.clone(),
                expire_at: draft.expire_at,
                purge_at: later(draft.expire_at, self.settings.purge_grace_secs),
                ..before.clone()
            };
            after.terms = self.passwords.settle(draft).await?;
            match self.replace_share(principal, "share.edit", &before, after, request_id.clone()).await {
                Err(StoreError::Stale) => {}
                outcome => return outcome.map_err(|e| e.doing("change the share")),
            }
        }
        Err(StoreError::Stale.doing("change the share"))
    }

    /// Revokes a share: every gateway refuses it from now on. Nothing where it is revoked already.
    ///
    /// # Errors
    /// `forbidden`, `share_not_found`.
    pub async fn revoke_share(&self, principal: &Principal, id: Id, request_id: Option<String>) -> Result<()> {
        for _ in 0..TRIES {
            let before = self.find_share(principal, id).await?;
            if before.revoked_at.is_some() {
                return Ok(());
            }
            let after = ShareDoc { revoked_at: Some(self.now()), ..before.clone() };
            match self.replace_share(principal, "share.revoke", &before, after, request_id.clone()).await {
                Err(StoreError::Stale) => {}
                outcome => return outcome.map(drop).map_err(|e| e.doing("revoke the share")),
            }
        }
        Err(StoreError::Stale.doing("revoke the share"))
    }

    async fn replace_share(
        &self,
        principal: &Principal,
        act: &str,
        before: &ShareDoc,
        mut after: ShareDoc,
        request_id: Option<String>,
    ) -> std::result::Result<ShareDoc, StoreError> {
        // `updatedAt` names the state a change was decided on, so it must move.
        after.updated_at = self.now().max(DateTime::from_millis(before.updated_at.timestamp_millis() + 1));
        let audit = self.share_entry(principal, act, &after, request_id);
        let (store, before) = (self.store.clone(), before.clone());
        let replacing = tokio::spawn(async move { store.update_share(&before, &after, &audit).await });
        replacing.await.map_err(|_| StoreError::Lost)?
    }

    fn share_entry(&self, principal: &Principal, act: &str, share: &ShareDoc, request_id: Option<String>) -> AuditDoc {
        AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: share.tenant.clone(),
            actor: principal.actor.clone(),
            action: act.to_owned(),
            file: Some(share.file),
            request_id,
            details: details(share),
        }
    }
}

/// The terms as the audit keeps them: that there is a password, and not which.
fn details(share: &ShareDoc) -> Document {
    let terms = &share.terms;
    doc! {
        "share": share.id,
        "expiresAt": share.expire_at,
        "maxDownloads": terms.max_downloads,
        "hasPassword": terms.password.is_some(),
        "allowView": terms.allow_view,
        "allowDownload": terms.allow_download,
        "allowComment": terms.allow_comment,
        "requireAuth": terms.require_auth,
        "allowedUsers": &terms.allowed_users,
        "allowedDomains": &terms.allowed_domains,
        "allowedCidrs": &terms.allowed_cidrs,
    }
}

fn not_found() -> Error {
    Error::new(ErrorCode::ShareNotFound, "There is no such share.")
}
