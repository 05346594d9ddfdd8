//! From a bearer token to a principal. Stores hashes only; a token is compared by its hash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::access::{DEFAULT_TENANT, Principal, Role, Scope};
use super::api_keys::FIRST_KEY;
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::digest::Sha256Digest;
use crate::store::api_keys::ApiKeyDoc;
use crate::store::segments::binary;

/// How long an answer of the database is believed: the time a revocation may take.
const CACHE_TIME: Duration = Duration::from_millis(900);
const CACHE_ENTRIES: usize = 4096;
/// Longer tokens are no API keys.
const MAX_TOKEN_LEN: usize = 512;
/// Bytes an administrator's own key must have.
pub const MIN_ADMIN_KEY_LEN: usize = 16;

/// Keys seen in the last moment, and until when they are believed.
#[derive(Default)]
pub struct KeyCache(Mutex<HashMap<[u8; 32], (Instant, Principal)>>);

impl Files {
    /// The principal of an API key or a token.
    ///
    /// # Errors
    /// `unauthenticated` for one that is unknown, revoked or expired.
    pub async fn authenticate(&self, token: &str) -> Result<Principal> {
        if self.token_keys.is_for(token) {
            return self.token_keys.verify(token);
        }
        let refused = || Error::new(ErrorCode::Unauthenticated, "The API key is not valid.");
        if token.is_empty() || token.len() > MAX_TOKEN_LEN {
            return Err(refused());
        }
        let hash = Sha256Digest::of(token.as_bytes()).0;
        if let Some(principal) = self.key_cache.get(&hash) {
            return Ok(principal);
        }
        let asked = Instant::now();
        let found = self.store.find_api_key(hash).await.map_err(|e| e.doing("check the API key"))?;
        let key = found.ok_or_else(refused)?;
        let left = key.expires_at.map(|at| at.timestamp_millis() - self.now().timestamp_millis());
        if left.is_some_and(|left| left <= 0) {
            return Err(Error::new(ErrorCode::Unauthenticated, "The API key has expired."));
        }
        let left = left.map_or(CACHE_TIME, |left| Duration::from_millis(left.unsigned_abs()));
        let principal = Principal {
            actor: key.id,
            tenant: key.tenant,
            role: Role::Member(key.scopes.iter().filter_map(|name| Scope::from_name(name)).collect()),
        };
        self.key_cache.put(hash, asked + CACHE_TIME.min(left), principal.clone());
        Ok(principal)
    }

    /// Makes the first administrator's key valid.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ensure_admin_key(&self, token: &str) -> Result<()> {
        let key = ApiKeyDoc {
            id: FIRST_KEY.to_owned(),
            hash: binary(Sha256Digest::of(token.as_bytes()).0),
            tenant: DEFAULT_TENANT.to_owned(),
            scopes: vec!["admin".to_owned()],
            name: "first admin key".to_owned(),
            created_at: self.now(),
            expires_at: None,
            revoked_at: None,
        };
        self.store.put_api_key(&key).await.map_err(|e| e.doing("store the admin key"))
    }
}

impl KeyCache {
    fn get(&self, hash: &[u8; 32]) -> Option<Principal> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(hash).filter(|(until, _)| Instant::now() < *until).map(|(_, principal)| principal.clone())
    }

    fn put(&self, hash: [u8; 32], until: Instant, principal: Principal) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(hash, (until, principal));
    }
}
