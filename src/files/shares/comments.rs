//! Comments on shares: by whoever the share allows, under the name that they give themselves.

use super::log::{Act, enter};
use super::not_found;
use super::visit::{Visit, Visitor};
use crate::error::{Error, ErrorCode};
use crate::files::access::Principal;
use crate::files::describe::later;
use crate::files::{Files, Result};
use crate::store::shares::comments::{CommentDoc, MAX_COMMENTS};
use crate::store::shares::{ShareDoc, TimeMark};
use crate::store::{Id, StoreError, new_id};

/// Characters of an author's name.
const MAX_AUTHOR_LEN: usize = 80;
/// Bytes of a comment.
const MAX_TEXT_LEN: usize = 4000;

impl Files {
    /// Adds a comment.
    ///
    /// # Errors
    /// `share_forbidden` where the share takes none; `bad_request`; `invalid` where it has too many.
    pub async fn comment(&self, visit: &Visit, visitor: &Visitor, author: &str, text: &str) -> Result<CommentDoc> {
        if !visit.share.terms.allow_comment {
            return Err(Error::new(ErrorCode::ShareForbidden, "The share takes no comments."));
        }
        let (author, text) = (author.trim(), text.trim());
        if author.chars().count() > MAX_AUTHOR_LEN || author.chars().any(char::is_control) {
            return Err(Error::bad_request(
                "author",
                format!("author is not a text of at most {MAX_AUTHOR_LEN} characters."),
            ));
        }
        let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        if !(1..=MAX_TEXT_LEN).contains(&text.len()) || text.chars().any(is_control) {
            return Err(Error::bad_request("text", format!("text is not a text of 1 to {MAX_TEXT_LEN} bytes.")));
        }
        let now = self.now();
        let comment = CommentDoc {
            id: new_id(),
            share: visit.share.id,
            at: now,
            author: author.to_owned(),
            text: text.to_owned(),
            purge_at: later(now, self.settings.share_log_days * 86_400),
        };
        self.require_space(0)?;
        let access = self.access(&visit.share, visitor, Act::Comment);
        let (store, new) = (self.store.clone(), comment.clone());
        let inserting = tokio::spawn(async move {
            store.insert_comment(&new).await?;
            if let Some(access) = access {
                enter(&store, &access).await;
            }
            Ok(())
        });
        match inserting.await.map_err(|error| Error::internal("store the comment", error))? {
            Err(StoreError::Stale) => Err(self.why_no_comment(&visit.share).await?),
            inserted => inserted.map(|()| comment).map_err(|e| e.doing("store the comment")),
        }
    }

    /// Why a share takes no comment that seemed to take one a moment ago.
    async fn why_no_comment(&self, share: &ShareDoc) -> Result<Error> {
        let found = self.store.find_share(&share.tenant, share.id).await.map_err(|e| e.doing("look the share up"))?;
        let ended = found.ok_or_else(not_found).and_then(|share| self.require_open(&share));
        let full = || Error::invalid("text", format!("The share has had {MAX_COMMENTS} comments and takes no more."));
        Ok(ended.err().unwrap_or_else(full))
    }

    /// The last comments, for a visitor of a share that takes them.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn last_comments(&self, visit: &Visit, limit: i64) -> Result<Vec<CommentDoc>> {
        if !visit.share.terms.allow_comment {
            return Ok(Vec::new());
        }
        self.store.list_comments(visit.share.id, None, limit).await.map_err(|e| e.doing("list the comments"))
    }

    /// Comments on a share, newest first, for its owner.
    ///
    /// # Errors
    /// `forbidden`, `share_not_found`.
    pub async fn list_comments(
        &self,
        principal: &Principal,
        share: Id,
        after: Option<TimeMark>,
        limit: i64,
    ) -> Result<Vec<CommentDoc>> {
        let share = self.find_share(principal, share).await?;
        self.store.list_comments(share.id, after, limit).await.map_err(|e| e.doing("list the comments"))
    }
}
