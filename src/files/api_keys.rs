//! API keys made, listed and revoked. What a key opens is decided in `access.rs`, whose a token is in
//! `authenticate.rs`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::access::{Action, Principal, Resource, Scope, permit};
use super::describe::later;
use super::repeats::secret_bytes;
use super::{Files, Result};
use crate::clock::rfc3339;
use crate::error::{Error, ErrorCode};
use crate::format::digest::Sha256Digest;
use crate::store::api_keys::ApiKeyDoc;
use crate::store::audit::AuditDoc;
use crate::store::commit::IdempotencyDoc;
use crate::store::segments::binary;
use crate::store::{DateTime, Id, StoreError, doc, new_id};

/// The key that the settings name; it is changed there.
pub const FIRST_KEY: &str = "admin";
/// The longest life of a key that has an end.
pub const MAX_LIFE: Duration = Duration::from_secs(3650 * 86_400);

const CREATE: &str = "key.create";
/// Keeps the texts of keys apart from what else the root makes: look-up values, in which 32 bytes follow the first zero
/// byte and not 76, and fingerprints, which begin otherwise.
const API_KEY: &[u8] = b"gridgate/api-key/v1\0";

/// A request for a key.
#[derive(Debug)]
pub struct ApiKeyRequest {
    /// Whose files it opens.
    pub tenant: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// For people.
    pub name: String,
    /// How long it is valid; for ever if not said.
    pub life: Option<Duration>,
    /// The client's name for this request.
    pub idempotency_key: Option<String>,
    /// For the audit.
    pub request_id: Option<String>,
}

/// A key, as it is shown this once.
pub struct MadeKey {
    /// What is kept of it.
    pub key: ApiKeyDoc,
    /// The key itself.
    pub token: Zeroizing<String>,
}

/// What is shown of a key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as the document's fields")]
pub struct ApiKeyView {
    pub id: String,
    pub tenant: String,
    pub scopes: Vec<String>,
    pub name: String,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
    /// The key itself, in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Zeroizing<String>>,
}

impl From<&ApiKeyDoc> for ApiKeyView {
    fn from(key: &ApiKeyDoc) -> Self {
        let text = |at: DateTime| rfc3339(at.to_system_time());
        Self {
            id: key.id.clone(),
            tenant: key.tenant.clone(),
            scopes: key.scopes.clone(),
            name: key.name.clone(),
            created_at: text(key.created_at),
            expires_at: key.expires_at.map(text),
            revoked_at: key.revoked_at.map(text),
            key: None,
        }
    }
}

impl MadeKey {
    /// What is shown of it, this once with itself.
    pub fn view(&self) -> ApiKeyView {
        ApiKeyView { key: Some(self.token.clone()), ..ApiKeyView::from(&self.key) }
    }
}

impl Files {
    /// Makes a key. The same request with the same idempotency key gives the same key again.
    ///
    /// # Errors
    /// `forbidden`, `idempotency_conflict`, `unavailable`.
    pub async fn create_api_key(&self, principal: &Principal, request: ApiKeyRequest) -> Result<MadeKey> {
        permit(principal, Action::Administer, Resource::Deployment)?;
        let (files, principal) = (self.clone(), principal.clone());
        let making = tokio::spawn(async move { files.run_create_key(&principal, request).await });
        making.await.map_err(|error| Error::internal("make the API key", error))?
    }

    async fn run_create_key(&self, principal: &Principal, request: ApiKeyRequest) -> Result<MadeKey> {
        let (id, now) = (new_id(), self.now());
        let scopes: Vec<_> = request.scopes.iter().map(|scope| scope.name()).collect();
        let life = request.life.map(|life| life.as_secs().to_string());
        let said = doc! { "tenant": &request.tenant, "scopes": &scopes, "name": &request.name, "life": life };
        let memory = self.memory_of(CREATE, principal, request.idempotency_key.as_deref(), id, &said);
        let token = self.token(id, memory.as_ref());
        let key = ApiKeyDoc {
            id: id.to_hex(),
            hash: binary(Sha256Digest::of(token.as_bytes()).0),
            tenant: request.tenant,
            scopes: scopes.into_iter().map(str::to_owned).collect(),
            name: request.name,
            created_at: now,
            expires_at: request.life.map(|life| later(now, life.as_secs())),
            revoked_at: None,
        };
        let audit = AuditDoc {
            id: new_id(),
            at: now,
            tenant: key.tenant.clone(),
            actor: principal.actor.clone(),
            action: CREATE.to_owned(),
            file: None,
            request_id: request.request_id,
            details: doc! { "key": &key.id, "scopes": &key.scopes, "expiresAt": key.expires_at },
        };
        match (self.store.insert_api_key(&key, &audit, memory.as_ref()).await, &memory) {
            (Ok(()), _) => Ok(MadeKey { key, token }),
            (Err(StoreError::Duplicate(_)), Some(ours)) => self.repeat_key(ours).await,
            (Err(error), _) => Err(error.doing("store the API key")),
        }
    }

    async fn repeat_key(&self, ours: &IdempotencyDoc) -> Result<MadeKey> {
        let first = self.first_memory(ours).await?;
        let key = self.store.find_key(&first.file.to_hex()).await.map_err(|e| e.doing("look the API key up"))?;
        let is_valid = |key: &ApiKeyDoc| key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > self.now());
        let over = || Error::new(ErrorCode::IdempotencyConflict, "The key that this request made has ended.");
        let key = key.filter(is_valid).ok_or_else(over)?;
        Ok(MadeKey { key, token: self.token(first.file, Some(&first)) })
    }

    fn token(&self, id: Id, memory: Option<&IdempotencyDoc>) -> Zeroizing<String> {
        let secret = secret_bytes(&self.keys.roots.dedup, API_KEY, id, memory);
        Zeroizing::new(format!("gg_{}_{}", id.to_hex(), URL_SAFE_NO_PAD.encode(*secret)))
    }

    /// Keys by id, after one of them, revoked ones too.
    ///
    /// # Errors
    /// `forbidden`, `unavailable`, `timeout`.
    pub async fn list_api_keys(
        &self,
        principal: &Principal,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<ApiKeyDoc>> {
        permit(principal, Action::Administer, Resource::Deployment)?;
        self.store.list_api_keys(after, limit).await.map_err(|e| e.doing("list the API keys"))
    }

    /// Revokes a key: every gateway refuses it within a second.
    ///
    /// # Errors
    /// `forbidden`, `api_key_not_found` for one that is revoked already, too; `invalid` for the key of the settings.
    pub async fn revoke_api_key(&self, principal: &Principal, id: &str, request_id: Option<String>) -> Result<()> {
        permit(principal, Action::Administer, Resource::Deployment)?;
        if id == FIRST_KEY {
            return Err(Error::invalid("id", "This key is the one of the settings: change GRIDGATE_ADMIN_KEY."));
        }
        let key = self.store.find_key(id).await.map_err(|e| e.doing("look the API key up"))?;
        let key = key.filter(|key| key.revoked_at.is_none()).ok_or_else(not_found)?;
        let audit = AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: key.tenant,
            actor: principal.actor.clone(),
            action: "key.revoke".to_owned(),
            file: None,
            request_id,
            details: doc! { "key": &key.id },
        };
        let (store, id, now) = (self.store.clone(), key.id, self.now());
        let revoking = tokio::spawn(async move { store.revoke_api_key(&id, now, &audit).await });
        let revoked = revoking.await.map_err(|error| Error::internal("revoke the API key", error))?;
        match revoked {
            Err(StoreError::Stale) => Err(not_found()),
            revoked => revoked.map_err(|e| e.doing("revoke the API key")),
        }
    }
}

fn not_found() -> Error {
    Error::new(ErrorCode::ApiKeyNotFound, "There is no valid API key with this id.")
}
