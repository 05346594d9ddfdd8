//! Saying which rule will delete a file and when, without deleting anything.

use super::access::{Action, Principal, Resource, permit};
use super::describe::later;
use super::{Files, Result};
use crate::store::registry::FileDoc;
use crate::store::{DateTime, Id};

/// What decides about a file's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing deletes it while the hold lasts.
    LegalHold,
    /// What was said about the file.
    File,
    /// The bucket's days.
    Bucket,
    /// It is kept until somebody deletes it.
    None,
}

impl Rule {
    /// The word in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LegalHold => "legalHold",
            Self::File => "file",
            Self::Bucket => "bucket",
            Self::None => "none",
        }
    }

    fn of(file: &FileDoc) -> Self {
        let retention = &file.retention;
        match retention.expires_at {
            _ if retention.legal_hold => Self::LegalHold,
            None => Self::None,
            Some(_) if retention.by_bucket => Self::Bucket,
            Some(_) => Self::File,
        }
    }
}

/// The end of one file, as things are now.
pub struct Explanation {
    /// The file.
    pub file: FileDoc,
    /// What decides.
    pub rule: Rule,
    /// The instant from which no read sees it; a sweep removes its registry document then.
    pub expires_at: Option<DateTime>,
    /// When the TTL index removes the document if no sweep did.
    pub purged_at: Option<DateTime>,
    /// The earliest instant at which its bytes go; unknown where another file shares them.
    pub bytes_removed_at: Option<DateTime>,
    /// Other files with the same bytes.
    pub shared_with: u64,
}

/// What expires until an instant.
pub struct Preview {
    /// How many files.
    pub count: i64,
    /// Their plaintext bytes.
    pub bytes: i64,
    /// The first of them, soonest first.
    pub items: Vec<Explanation>,
}

impl Files {
    /// Explains the end of one file.
    ///
    /// # Errors
    /// `forbidden`, `file_not_found`.
    pub async fn explain_retention(&self, principal: &Principal, file: Id) -> Result<Explanation> {
        let file = self.find(principal, Action::Administer, file).await?;
        self.explain(file).await
    }

    /// Shows what would be deleted until an instant if nobody changed anything: a dry run.
    ///
    /// # Errors
    /// `forbidden`, `unavailable`, `timeout`.
    pub async fn preview_expiry(&self, principal: &Principal, until: DateTime, limit: i64) -> Result<Preview> {
        permit(principal, Action::Administer, Resource::Tenant)?;
        let (found, sums) = tokio::try_join!(
            self.store.find_expiring(&principal.tenant, until, limit),
            self.store.sum_expiring(&principal.tenant, until),
        )
        .map_err(|e| e.doing("look for what expires"))?;
        let mut items = Vec::with_capacity(found.files.len());
        for file in found.files {
            items.push(self.explain(file).await?);
        }
        Ok(Preview { count: sums.count, bytes: sums.bytes, items })
    }

    async fn explain(&self, file: FileDoc) -> Result<Explanation> {
        let sharing = self.store.count_sharing(file.blob).await.map_err(|e| e.doing("look for shared content"))?;
        let shared_with = sharing.saturating_sub(1);
        let expires_at = file.expire_at;
        let bytes_removed_at =
            expires_at.filter(|_| shared_with == 0).map(|at| later(at, self.settings.quarantine_secs));
        let (rule, purged_at) = (Rule::of(&file), file.purge_at);
        Ok(Explanation { file, rule, expires_at, purged_at, bytes_removed_at, shared_with })
    }
}
