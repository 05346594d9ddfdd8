//! The access log of shares. What takes no download is entered so many times a minute at most, so that nobody fills
//! the log.

use super::visit::Visitor;
use crate::files::access::Principal;
use crate::files::describe::later;
use crate::files::{Files, Result};
use crate::store::shares::log::AccessDoc;
use crate::store::shares::{ShareDoc, TimeMark};
use crate::store::{Id, new_id};

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

    /// Whether it is counted, and so bounded by the share's own terms.
    fn is_counted(self) -> bool {
        matches!(self, Self::View | Self::Download | Self::Comment)
    }
}

impl Files {
    /// Enters an access.
    ///
    /// # Errors
    /// `unavailable`, `insufficient_storage`.
    pub async fn log_access(&self, share: &ShareDoc, visitor: &Visitor, act: Act) -> Result<()> {
        // No tenant's name begins so.
        if !act.is_counted() && !self.denials.admits(&format!("\0{}\0{}", act.name(), share.id)) {
            return Ok(());
        }
        self.require_space(0)?;
        self.store.log_access(&self.access(share, visitor, act)).await.map_err(|e| e.doing("log the access"))
    }

    pub(super) fn access(&self, share: &ShareDoc, visitor: &Visitor, act: Act) -> AccessDoc {
        let code = if let Act::Refused(code) = act { Some(code.to_owned()) } else { None };
        let now = self.now();
        AccessDoc {
            id: new_id(),
            share: share.id,
            at: now,
            act: act.name().to_owned(),
            code,
            address: visitor.address.map(|address| address.to_string()),
            user_agent: visitor.user_agent.clone(),
            actor: visitor.principal.as_ref().map(|principal| principal.actor.clone()),
            purge_at: later(now, self.settings.share_log_days * 86_400),
        }
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
