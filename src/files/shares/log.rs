//! The access log of shares. What the terms of a share do not bound is entered so many times a minute at most, so that
//! nobody fills the log. No visitor is refused for the log's sake.

use super::visit::Visitor;
use crate::files::access::Principal;
use crate::files::describe::later;
use crate::files::{Files, Result};
use crate::store::shares::log::AccessDoc;
use crate::store::shares::{ShareDoc, TimeMark};
use crate::store::{Id, Store, new_id};

/// What a visitor did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Opened the page, or asked what is shared.
    Page,
    /// Began to look at the content.
    View,
    /// Began to download it.
    Download,
    /// Left a comment.
    Comment,
    /// Was refused, because of this.
    Refused(&'static str),
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::View => "view",
            Self::Download => "download",
            Self::Comment => "comment",
            Self::Refused(_) => "refused",
        }
    }
}

impl Files {
    /// Enters an access, unless the minute has enough of its kind.
    pub async fn log_access(&self, share: &ShareDoc, visitor: &Visitor, act: Act) {
        if let Some(access) = self.access(share, visitor, act) {
            enter(&self.store, &access).await;
        }
    }

    /// The entry of an access; none where the minute has enough of its kind.
    pub(super) fn access(&self, share: &ShareDoc, visitor: &Visitor, act: Act) -> Option<AccessDoc> {
        let is_bounded = match act {
            Act::View | Act::Download => share.terms.max_downloads.is_some(),
            Act::Comment => true,
            Act::Page | Act::Refused(_) => false,
        };
        if !is_bounded && !self.share_entries.admits(&format!("{}\0{}", act.name(), share.id)) {
            return None;
        }
        let code = if let Act::Refused(code) = act { Some(code.to_owned()) } else { None };
        let now = self.now();
        Some(AccessDoc {
            id: new_id(),
            share: share.id,
            at: now,
            act: act.name().to_owned(),
            code,
            address: visitor.address.map(|address| address.to_string()),
            user_agent: visitor.user_agent.clone(),
            actor: visitor.principal.as_ref().map(|principal| principal.actor.clone()),
            purge_at: later(now, self.settings.share_log_days * 86_400),
        })
    }

    /// Accesses to a share, newest first.
    ///
    /// # Errors
    /// `forbidden`, `share_not_found`.
    pub async fn list_accesses(
        &self,
        principal: &Principal,
        share: Id,
        after: Option<TimeMark>,
        limit: i64,
    ) -> Result<Vec<AccessDoc>> {
        let share = self.find_share(principal, share).await?;
        self.store.list_accesses(share.id, after, limit).await.map_err(|e| e.doing("list the accesses"))
    }
}

/// Adds an entry to the log, or says in ours that it is not there.
pub(super) async fn enter(store: &Store, access: &AccessDoc) {
    if let Err(error) = store.log_access(access).await {
        tracing::error!(share = %access.share, %error, "an access is not in the log of its share");
    }
}
