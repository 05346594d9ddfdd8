//! A visitor of a share: from a token to what its terms let them do, and the download that they take.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::log::{Act, enter};
use super::passes::{ENTRY_SECS, Pass};
use super::{not_found, token_hash};
use crate::error::{Error, ErrorCode};
use crate::files::access::{Link, Principal, Refusal, Role};
use crate::files::{Files, Result};
use crate::network::parse_network;
use crate::store::registry::FileDoc;
use crate::store::shares::{ShareDoc, TermsDoc};
use crate::store::{Id, StoreError};

/// Characters of a token: 32 bytes in base64url.
const TOKEN_LEN: usize = 43;

/// Who comes with a link, as far as they say and show it.
#[derive(Default)]
pub struct Visitor {
    /// From where.
    pub address: Option<IpAddr>,
    /// The host of the page they come from, in lower case.
    pub page: Option<String>,
    /// Who they are, if they sent a credential.
    pub principal: Option<Principal>,
    /// What they were given for the page they came from.
    pub page_pass: Option<String>,
    /// What they were given for the password.
    pub entry: Option<String>,
    /// A grant they were given.
    pub grant: Option<String>,
    /// With what they ask.
    pub user_agent: Option<String>,
}

/// A share that is open to a visitor.
pub struct Visit {
    /// The share.
    pub share: ShareDoc,
    /// Its file.
    pub file: FileDoc,
    /// Whether the password is still to be given.
    pub is_locked: bool,
    /// Whether they come from an allowed page just now.
    pub is_from_page: bool,
    /// Whether a download is under way that was counted.
    pub has_grant: bool,
}

/// What a visitor comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The page, or a comment.
    Page,
    /// The content, for which a grant is enough.
    Content,
}

impl Visit {
    /// The visitor, as far as content is concerned.
    pub fn principal(&self) -> Principal {
        Principal {
            actor: format!("share:{}", self.share.id.to_hex()),
            tenant: self.share.tenant.clone(),
            role: Role::Link(Link::Download(self.share.file)),
        }
    }

    /// Whether content is shown rather than saved, where a browser can show it.
    ///
    /// # Errors
    /// `share_forbidden` where the share allows neither of what would do.
    pub fn is_shown(&self, wants_file: bool, can_be_shown: bool) -> Result<bool> {
        let terms = &self.share.terms;
        let forbidden = |why: &'static str| Err(Error::new(ErrorCode::ShareForbidden, why));
        match (wants_file, terms.allow_view, terms.allow_download) {
            (true, _, false) => forbidden("The share is for viewing only."),
            (true, _, true) | (false, false, true) => Ok(false),
            (false, true, false) if !can_be_shown => {
                forbidden("The share is for viewing only, and browsers do not show this.")
            }
            (false, true, _) => Ok(can_be_shown),
            (false, false, false) => forbidden("The share allows neither viewing nor downloading."),
        }
    }

    /// Downloads that are left, where they are counted down.
    pub fn downloads_left(&self) -> Option<i64> {
        self.share.terms.max_downloads.map(|most| (most - self.share.downloads).max(0))
    }
}

impl Files {
    /// Opens a share for a visitor, all but its password.
    ///
    /// # Errors
    /// `share_not_found` for an unknown token and for a file that is gone; `share_revoked`, `share_expired`;
    /// `unauthenticated` and `share_forbidden` by its terms.
    pub async fn visit(&self, token: &str, visitor: &Visitor, purpose: Purpose) -> Result<Visit> {
        if token.len() != TOKEN_LEN {
            return Err(not_found());
        }
        let found = self.store.find_share_by_token(token_hash(token)).await;
        let share = found.map_err(|e| e.doing("look the share up"))?.ok_or_else(not_found)?;
        if share.purge_at <= self.now() {
            return Err(not_found());
        }
        let has = |pass, text: &Option<String>| text.as_ref().is_some_and(|text| self.holds(pass, &share, text));
        let has_grant = has(Pass::Grant, &visitor.grant);
        let is_granted = has_grant && purpose == Purpose::Content;
        let has_entry = is_granted || has(Pass::Entry, &visitor.entry);
        let has_page = is_granted || has(Pass::Page, &visitor.page_pass);
        if let Err(refused) = self.require_open(&share).and_then(|()| require_terms(&share, visitor, has_page)) {
            return Err(self.refused(&share, visitor, refused).await);
        }
        let file = self.store.find_file(&share.tenant, share.file, self.now()).await;
        let file = file.map_err(|e| e.doing("look the file up"))?.ok_or_else(not_found)?;
        let is_locked = share.terms.password.is_some() && !has_entry;
        let is_from_page = is_of_domain(&share, visitor);
        Ok(Visit { share, file, is_locked, is_from_page, has_grant })
    }

    /// Takes the password, where one is still to be given. `attempt` is asked before it is checked.
    ///
    /// # Errors
    /// `password_required`, `password_mismatch`, and what `attempt` says.
    pub async fn unlock(
        &self,
        visit: &mut Visit,
        visitor: &Visitor,
        password: Option<Zeroizing<String>>,
        attempt: impl FnOnce(Id) -> Result<()>,
    ) -> Result<()> {
        if !visit.is_locked {
            return Ok(());
        }
        let Some(password) = password else {
            return Err(Error::new(ErrorCode::PasswordRequired, "Send the header Gridgate-Share-Password."));
        };
        match self.check_password(&visit.share, password, attempt).await {
            Err(error) => Err(self.refused(&visit.share, visitor, error).await),
            Ok(()) => {
                visit.is_locked = false;
                Ok(())
            }
        }
    }

    /// What a visitor comes back with: the code, and for how many seconds it is good.
    pub fn pass(&self, pass: Pass, visit: &Visit) -> (String, u64) {
        (self.issue(pass, &visit.share, ENTRY_SECS), ENTRY_SECS)
    }

    /// Makes sure that there is a download left, without taking it.
    ///
    /// # Errors
    /// `share_spent`.
    pub async fn require_download(&self, visit: &Visit, visitor: &Visitor) -> Result<()> {
        if visit.has_grant || visit.downloads_left() != Some(0) {
            return Ok(());
        }
        Err(self.refused(&visit.share, visitor, spent()).await)
    }

    /// Takes a download, and gives the grant that goes with it and its seconds; none where one is under way.
    ///
    /// # Errors
    /// `share_spent`, `share_revoked`, `share_expired`, `unavailable`. A download that was taken is not given back.
    pub async fn take_download(&self, visit: &Visit, visitor: &Visitor, act: Act) -> Result<Option<(String, u64)>> {
        if visit.has_grant {
            return Ok(None);
        }
        let share = &visit.share;
        let (store, id, now, access) = (self.store.clone(), share.id, self.now(), self.access(share, visitor, act));
        // In a task of its own: what was taken is entered, too, where the client goes away now.
        let taking = tokio::spawn(async move {
            let is_taken = store.take_download(id, now).await?;
            if let Some(access) = access.filter(|_| is_taken) {
                enter(&store, &access).await;
            }
            Ok::<_, StoreError>(is_taken)
        });
        let taken = taking.await.map_err(|error| Error::internal("count the download", error))?;
        if !taken.map_err(|e| e.doing("count the download"))? {
            let now = self.store.find_share(&share.tenant, share.id).await.map_err(|e| e.doing("look the share up"))?;
            let why = now.ok_or_else(not_found).and_then(|share| self.require_open(&share)).err().unwrap_or_else(spent);
            return Err(self.refused(share, visitor, why).await);
        }
        let secs = self.grant_secs(visit.file.content.size.unsigned_abs());
        Ok(Some((self.issue(Pass::Grant, share, secs), secs)))
    }

    pub(super) fn require_open(&self, share: &ShareDoc) -> Result<()> {
        if share.revoked_at.is_some() {
            return Err(Error::new(ErrorCode::ShareRevoked, "The share was revoked."));
        }
        if share.expire_at <= self.now() {
            return Err(Error::new(ErrorCode::ShareExpired, "The share has expired."));
        }
        Ok(())
    }

    /// The refusal, once it is in the log.
    async fn refused(&self, share: &ShareDoc, visitor: &Visitor, error: Error) -> Error {
        self.log_access(share, visitor, Act::Refused(error.code.row().code)).await;
        error
    }
}

fn spent() -> Error {
    Error::new(ErrorCode::ShareSpent, "The share has no download left.")
}

/// Whether the terms are met, all but the password.
fn require_terms(share: &ShareDoc, visitor: &Visitor, has_page: bool) -> Result<()> {
    let terms = &share.terms;
    let forbidden = |why: &'static str| Err(Error::new(ErrorCode::ShareForbidden, why));
    if !terms.allowed_cidrs.is_empty() && !is_from(terms, visitor.address) {
        return forbidden("The share is not open to this address.");
    }
    // Who hands a link to users, says that they be known.
    let needs_user = terms.require_auth || !terms.allowed_users.is_empty();
    match &visitor.principal {
        None if needs_user => return Err(Refusal::Unknown.into()),
        Some(principal) if needs_user && principal.tenant != share.tenant => {
            return forbidden("The share is for others.");
        }
        Some(principal) if !terms.allowed_users.is_empty() && !terms.allowed_users.contains(&principal.actor) => {
            return forbidden("The share is for others.");
        }
        _ => {}
    }
    if !terms.allowed_domains.is_empty() && !has_page && !is_of_domain(share, visitor) {
        return forbidden("The share is not open to who comes from this page.");
    }
    Ok(())
}

fn is_from(terms: &TermsDoc, address: Option<IpAddr>) -> bool {
    let Some(address) = address else { return false };
    // What is stored and does not parse lets nobody in.
    terms.allowed_cidrs.iter().any(|text| parse_network(text).is_ok_and(|network| network.contains(&address)))
}

/// Whether somebody comes from a page of an allowed host, or is a user with an address there.
fn is_of_domain(share: &ShareDoc, visitor: &Visitor) -> bool {
    let known = visitor.principal.as_ref().filter(|principal| principal.tenant == share.tenant);
    let user = known.and_then(|principal| principal.actor.strip_prefix("user:"));
    let mail = user.and_then(|user| user.rsplit_once('@')).map(|(_, host)| host.to_ascii_lowercase());
    let is_within =
        |host: &str, domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    share.terms.allowed_domains.iter().any(|domain| {
        mail.as_deref() == Some(domain) || visitor.page.as_deref().is_some_and(|page| is_within(page, domain))
    })
}
