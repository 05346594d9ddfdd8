//! Listing a tenant's files, a page at a time, newest first unless asked otherwise.

use super::access::{Action, Principal, Resource, permit};
use super::{Files, Result};
use crate::store::DateTime;
use crate::store::registry::FileDoc;
use crate::store::registry::list::{FileFilter, PageMark, PageQuery};

/// One page.
pub struct Page {
    /// The files.
    pub items: Vec<FileDoc>,
    /// Where the next page starts, if there is one.
    pub next: Option<PageMark>,
    /// How many files all pages show together.
    pub total: Total,
}

/// How many files a list is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// So many, or at least so many.
    pub count: u64,
    /// Whether each was counted now.
    pub is_exact: bool,
}

/// Files that a list counts one by one.
const MOST_COUNTED: u64 = 1000;

impl Files {
    /// Lists files.
    ///
    /// # Errors
    /// `forbidden`, `unavailable`, `timeout`.
    pub async fn list(&self, principal: &Principal, mut query: PageQuery) -> Result<Page> {
        permit(principal, Action::Read, Resource::Tenant)?;
        let now = self.now();
        query.filter.visible_to = (!principal.is_admin()).then(|| principal.actor.clone());
        let one_more = PageQuery { limit: query.limit + 1, ..query.clone() };
        let find = async {
            let found = self.store.list_files(&principal.tenant, &one_more, now).await;
            found.map_err(|e| e.doing(LISTING))
        };
        let (found, total) = tokio::try_join!(find, self.total(&principal.tenant, &query.filter, now))?;
        let (mut items, has_more) = (found.files, found.seen > query.limit);
        items.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let last = items.last().filter(|_| has_more);
        let next = last.map(|file| PageMark { value: query.sort.value(file), id: file.id });
        Ok(Page { items, next, total })
    }

    /// Of a long list of everything the tenant's counter, of another long one what was counted until it was enough.
    async fn total(&self, tenant: &str, filter: &FileFilter, now: DateTime) -> Result<Total> {
        let counted =
            self.store.count_files(tenant, filter, now, MOST_COUNTED + 1).await.map_err(|e| e.doing(LISTING))?;
        if counted <= MOST_COUNTED {
            return Ok(Total { count: counted, is_exact: true });
        }
        let usage = match filter.is_empty() {
            true => self.store.find_usage(tenant).await.map_err(|e| e.doing(LISTING))?,
            false => None,
        };
        let count = usage.and_then(|usage| u64::try_from(usage.files).ok()).unwrap_or_default();
        Ok(Total { count: count.max(MOST_COUNTED), is_exact: false })
    }
}

const LISTING: &str = "list the files";
