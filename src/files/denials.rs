//! Denied accesses in the audit: so many of a credential in a minute at most, so that none fills it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::access::Principal;
use super::{Files, Result};
use crate::store::audit::AuditDoc;
use crate::store::{doc, new_id};

/// Entries of one credential in a window.
const MOST: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Credentials watched at once.
const CREDENTIALS: usize = 4096;

/// An access that was refused.
#[derive(Debug, Clone)]
pub struct Denial {
    /// What was asked: a method and a route.
    pub asked: String,
    /// What it was asked of, as the client named it: it need not be there, nor be the tenant's.
    pub named: Option<String>,
    /// Why it was refused, as the client was told.
    pub code: &'static str,
    /// The request.
    pub request_id: Option<String>,
}

/// How many entries each credential has in its window.
#[derive(Default)]
pub struct Denials(Mutex<HashMap<String, (Instant, u32)>>);

impl Denials {
    pub(super) fn admits(&self, credential: &str) -> bool {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= CREDENTIALS {
            watched.retain(|_, (since, _)| since.elapsed() < WINDOW);
        }
        if watched.len() >= CREDENTIALS && !watched.contains_key(credential) {
            return false;
        }
        let (since, count) = watched.entry(credential.to_owned()).or_insert((Instant::now(), 0));
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count = count.saturating_add(1);
        *count <= MOST
    }
}

impl Files {
    /// Enters a denied access into the audit; false where the credential has enough entries already.
    ///
    /// # Errors
    /// What the database ran into, and `insufficient_storage`; the access stays denied.
    pub async fn record_denial(&self, principal: &Principal, denial: Denial) -> Result<bool> {
        if !self.denials.admits(&format!("{}\0{}", principal.tenant, principal.actor)) {
            return Ok(false);
        }
        self.require_space(0)?;
        let entry = AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: principal.tenant.clone(),
            actor: principal.actor.clone(),
            action: "access.deny".to_owned(),
            file: None,
            request_id: denial.request_id,
            details: doc! { "asked": denial.asked, "named": denial.named, "code": denial.code },
        };
        self.store.record(&entry).await.map_err(|error| error.doing("record a denied access"))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_has_more_than_its_share_nor_takes_anothers() {
        let denials = Denials::default();
        let admitted = (0..200).filter(|_| denials.admits("a")).count();
        assert_eq!(admitted, 60);
        assert!(denials.admits("b"));
        let others = (0..2 * CREDENTIALS).filter(|n| denials.admits(&n.to_string())).count();
        assert_eq!(others, CREDENTIALS - 2, "no more are watched");
    }
}
