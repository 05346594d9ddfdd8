//! Presigned URLs: who may hand them out, and which of them are taken. Stateless: of a URL nothing is stored but that
//! it was made. How it is written is `http/presign.rs`, how it is signed `format/presign.rs`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::access::{Action, Principal, Resource, permit};
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::presign::{SignedRequest, is_signature, sign};
use crate::store::audit::AuditDoc;
use crate::store::presign::{LinkEpochs, Signed};
use crate::store::{DateTime, Document, Id, doc, new_id};

/// The longest life of a presigned URL.
pub const MAX_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// How long what the database says of epochs is believed: the time a revocation may take.
const CACHE_TIME: Duration = Duration::from_millis(900);
const CACHE_ENTRIES: usize = 4096;

/// Epochs seen in the last moment, by tenant.
#[derive(Default)]
pub struct EpochCache(Mutex<HashMap<String, (Instant, LinkEpochs)>>);

/// With what a URL is signed.
#[derive(Debug, Clone)]
pub struct Signer {
    /// Whose files it is for.
    pub tenant: String,
    /// Names the key.
    pub epoch: u64,
    /// Until when it is taken.
    pub expires_at: DateTime,
}

/// What a URL says of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose files it is for.
    pub tenant: String,
    /// Names the key.
    pub epoch: u64,
    /// Until when it is taken, in seconds since 1970.
    pub expires: u64,
    /// The signature.
    pub signature: [u8; 32],
}

impl Files {
    /// Allows a URL that reads a file's content.
    ///
    /// # Errors
    /// `forbidden`, `file_not_found`.
    pub async fn presign_download(
        &self,
        principal: &Principal,
        file: Id,
        life: Duration,
        request_id: Option<String>,
    ) -> Result<Signer> {
        let found = self.find(principal, Action::Share, file).await?;
        self.signer(principal, life, Some(found.file), request_id).await
    }

    /// Allows a URL that makes files. Who hands it out must be able to make them.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn presign_upload(
        &self,
        principal: &Principal,
        life: Duration,
        request_id: Option<String>,
    ) -> Result<Signer> {
        permit(principal, Action::Share, Resource::Tenant)?;
        permit(principal, Action::Write, Resource::Tenant)?;
        self.signer(principal, life, None, request_id).await
    }

    async fn signer(
        &self,
        principal: &Principal,
        life: Duration,
        file: Option<Id>,
        request_id: Option<String>,
    ) -> Result<Signer> {
        // Not the epoch of a moment ago: a URL made after a revocation must hold.
        let epochs = self.store.find_link_epochs(&principal.tenant).await.map_err(|e| e.doing("sign the URL"))?;
        // Not a moment less than was asked for.
        let whole_secs = (self.now().timestamp_millis() + 999).div_euclid(1000) + life.as_secs() as i64;
        let signer = Signer {
            tenant: principal.tenant.clone(),
            epoch: epochs.current.unsigned_abs(),
            expires_at: DateTime::from_millis(whole_secs * 1000),
        };
        let act = if file.is_some() { "presign.download" } else { "presign.upload" };
        let details = doc! { "expiresAt": signer.expires_at };
        let audit = AuditDoc { file, ..self.link_entry(principal, act, request_id, details) };
        self.store.record(&audit).await.map_err(|e| e.doing("record the URL"))?;
        Ok(signer)
    }

    /// Signs a request.
    pub fn sign(&self, signer: &Signer, request: SignedRequest<'_>) -> [u8; 32] {
        sign(&self.keys.roots.presign, &signer.tenant, signer.epoch, request)
    }

    /// Whether a presigned request is taken.
    ///
    /// # Errors
    /// `link_invalid` for a signature that is not of this request; else `link_revoked`, `link_expired`.
    pub async fn verify_link(&self, claim: &Claim, request: SignedRequest<'_>) -> Result<()> {
        let root = &self.keys.roots.presign;
        if !is_signature(root, &claim.tenant, claim.epoch, request, &claim.signature) {
            return Err(Error::new(ErrorCode::LinkInvalid, "The signature is not of this request."));
        }
        // Only now, when somebody here made it, is the database asked.
        let epochs = self.link_epochs(&claim.tenant).await?;
        if claim.epoch < epochs.oldest.unsigned_abs() {
            return Err(Error::new(ErrorCode::LinkRevoked, "The links of this time were revoked."));
        }
        let now = self.now().timestamp_millis().div_euclid(1000);
        if i64::try_from(claim.expires).map_or(true, |expires| expires <= now) {
            return Err(Error::new(ErrorCode::LinkExpired, "The link has expired."));
        }
        Ok(())
    }

    async fn link_epochs(&self, tenant: &str) -> Result<LinkEpochs> {
        if let Some(epochs) = self.epochs.get(tenant) {
            return Ok(epochs);
        }
        let asked = Instant::now();
        let found = self.store.find_link_epochs(tenant).await.map_err(|e| e.doing("check the link"))?;
        self.epochs.put(tenant, asked + CACHE_TIME, found);
        Ok(found)
    }

    /// Signs what is handed out from now on with another key. What is out is kept, or revoked on every gateway within
    /// a second.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn begin_link_epoch(
        &self,
        principal: &Principal,
        signed: Signed,
        request_id: Option<String>,
    ) -> Result<LinkEpochs> {
        permit(principal, Action::Administer, Resource::Tenant)?;
        let act = if signed == Signed::Revoked { "presign.revoke" } else { "presign.rotate" };
        let audit = self.link_entry(principal, act, request_id, doc! {});
        let (store, tenant) = (self.store.clone(), principal.tenant.clone());
        let beginning = tokio::spawn(async move { store.begin_link_epoch(&tenant, signed, &audit).await });
        let begun = beginning.await.map_err(|error| Error::internal("change the signing key", error))?;
        begun.map_err(|e| e.doing("change the signing key"))
    }

    fn link_entry(&self, principal: &Principal, act: &str, request_id: Option<String>, details: Document) -> AuditDoc {
        AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: principal.tenant.clone(),
            actor: principal.actor.clone(),
            action: act.to_owned(),
            file: None,
            request_id,
            details,
        }
    }
}

impl EpochCache {
    fn get(&self, tenant: &str) -> Option<LinkEpochs> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(tenant).filter(|(until, _)| Instant::now() < *until).map(|(_, epochs)| *epochs)
    }

    fn put(&self, tenant: &str, until: Instant, epochs: LinkEpochs) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(tenant.to_owned(), (until, epochs));
    }
}
