//! Requests that make something and carry an idempotency key: how the first is remembered, and how it is known again.
//! Files themselves are known again by their content: `publish.rs`.

use zeroize::Zeroizing;

use super::access::Principal;
use super::describe::later;
use super::publish::idempotency_id;
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::key::Key;
use crate::random;
use crate::store::commit::IdempotencyDoc;
use crate::store::segments::binary;
use crate::store::{Document, Id, StoreError};

const REPEAT: &str = "look the idempotency key up";

impl Files {
    /// The memory of a request that makes `made`, where it carries a key; `said` is what another request would say
    /// otherwise.
    pub(super) fn memory_of(
        &self,
        act: &str,
        principal: &Principal,
        key: Option<&str>,
        made: Id,
        said: &Document,
    ) -> Option<IdempotencyDoc> {
        key.map(|key| IdempotencyDoc {
            id: idempotency_id(act, principal, key),
            fingerprint: binary(self.keys.roots.dedup.mac(&[b"idempotency", said.to_string().as_bytes()])),
            file: made,
            purge_at: later(self.now(), self.settings.idempotency_secs),
        })
    }

    /// The memory of the first request with this key.
    ///
    /// # Errors
    /// `idempotency_conflict` where that said something else.
    pub(super) async fn first_memory(&self, ours: &IdempotencyDoc) -> Result<IdempotencyDoc> {
        let found = self.store.find_idempotency(&ours.id).await.map_err(|e| e.doing(REPEAT))?;
        let first = found.ok_or_else(|| StoreError::Stale.doing(REPEAT))?;
        if first.fingerprint == ours.fingerprint {
            return Ok(first);
        }
        Err(Error::new(ErrorCode::IdempotencyConflict, "The idempotency key came with another request before."))
    }
}

/// 32 secret bytes that are shown once: random, but for a request that may be repeated, whose answer has to be known
/// again although only a hash of it is kept. Its label keeps what a root makes apart.
pub(super) fn secret_bytes(root: &Key, label: &[u8], made: Id, memory: Option<&IdempotencyDoc>) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(match memory {
        None => random::bytes(),
        Some(memory) => root.mac(&[label, memory.id.as_bytes(), &made.bytes()]),
    })
}
