//! Passwords of shares: hashed with Argon2id, a few at a time, since each takes memory and time on purpose. Who may
//! try how often is decided above.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::terms::Draft;
use crate::error::{Error, ErrorCode};
use crate::files::{Files, Result};
use crate::format::digest::Sha256Digest;
use crate::random;
use crate::store::Id;
use crate::store::shares::{ShareDoc, TermsDoc};

/// Hashes at once: each takes 19 MiB.
const AT_ONCE: usize = 2;
/// How long one waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long a password that was right is not hashed again.
const KNOWN_TIME: Duration = Duration::from_secs(60);
const KNOWN: usize = 4096;

/// What is being hashed, and what was a moment ago.
pub struct Passwords {
    turns: Arc<Semaphore>,
    /// By share, the hash it has, and a keyed code of the password.
    known: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), known: Mutex::default() }
    }
}

impl Passwords {
    /// The terms of a draft, with its password hashed.
    pub(super) async fn settle(&self, draft: Draft) -> Result<TermsDoc> {
        let mut terms = draft.terms;
        match draft.password {
            None => {}
            Some(None) => terms.password = None,
            Some(Some(password)) => terms.password = Some(self.hash(password).await?),
        }
        Ok(terms)
    }

    async fn hash(&self, password: Zeroizing<String>) -> Result<String> {
        let hashed = self.run(move || {
            let salt: [u8; 16] = random::bytes();
            Argon2::default().hash_password_with_salt(password.as_bytes(), &salt).map(|hash| hash.to_string())
        });
        hashed.await?.map_err(|error| Error::internal("hash the password", error))
    }

    async fn verify(&self, password: Zeroizing<String>, hash: String) -> Result<bool> {
        let verified = self.run(move || {
            let hash = PasswordHash::new(&hash)?;
            match Argon2::default().verify_password(password.as_bytes(), &hash) {
                Ok(()) => Ok(true),
                Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            }
        });
        verified.await?.map_err(|error| Error::damaged("check the password", error))
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        let busy = |_| Error::new(ErrorCode::Unavailable, "Too many passwords are checked at once.");
        let turn = turn.map_err(busy)?.map_err(|error| Error::internal("hash the password", error))?;
        // The turn ends with the work, whoever still waits for it.
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        working.await.map_err(|error| Error::internal("hash the password", error))
    }

    fn knows(&self, code: &[u8; 32]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(code).is_some_and(|until| Instant::now() < *until)
    }

    fn note(&self, code: [u8; 32]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(code, Instant::now() + KNOWN_TIME);
    }
}

impl Files {
    /// Checks a password of a share. `attempt` is asked before anything is hashed.
    ///
    /// # Errors
    /// `password_mismatch`, and what `attempt` says.
    pub(super) async fn check_password(
        &self,
        share: &ShareDoc,
        password: Zeroizing<String>,
        attempt: impl FnOnce(Id) -> Result<()>,
    ) -> Result<()> {
        let Some(hash) = &share.terms.password else { return Ok(()) };
        let label: &[u8] = b"gridgate/share-password/v1\0";
        let of_share = Sha256Digest::of(hash.as_bytes()).0;
        let code = self.keys.roots.share.mac(&[label, &share.id.bytes(), &of_share, password.as_bytes()]);
        if self.passwords.knows(&code) {
            return Ok(());
        }
        attempt(share.id)?;
        if !self.passwords.verify(password, hash.clone()).await? {
            return Err(Error::new(ErrorCode::PasswordMismatch, "This is not the password of the share."));
        }
        self.passwords.note(code);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn few_are_hashed_at_once_whoever_hangs_up() {
        let (passwords, running, most) =
            (Passwords::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..20 {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            let hashing = passwords.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                running.fetch_sub(1, Ordering::SeqCst);
            });
            let hung_up = tokio::time::timeout(Duration::from_millis(5), hashing).await;
            assert!(hung_up.is_err(), "nobody waits for the end");
        }
        let after = passwords.run(|| ());
        after.await.expect("a turn");
        assert!((1..=AT_ONCE).contains(&most.load(Ordering::SeqCst)), "{most:?} at once");
    }
}
