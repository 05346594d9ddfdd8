//! Listing a tenant's files, a page at a time, newest first unless asked otherwise.

use super::access::{Action, Principal, Resource, permit};
use super::{Files, Result};
use crate::store::registry::FileDoc;
use crate::store::registry::list::{PageMark, PageQuery};

/// One page.
pub struct Page {
    /// The files.
    pub items: Vec<FileDoc>,
    /// Where the next page starts, if there is one.
    pub next: Option<PageMark>,
    /// How many files all pages show together.
    pub total: u64,
}

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
        let (found, total) = tokio::try_join!(
            self.store.list_files(&principal.tenant, &one_more, now),
            self.store.count_files(&principal.tenant, &query.filter, now),
        )
        .map_err(|e| e.doing("list the files"))?;
        let (mut items, has_more) = (found.files, found.seen > query.limit);
        items.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let last = items.last().filter(|_| has_more);
        let next = last.map(|file| PageMark { value: query.sort.value(file), id: file.id });
        Ok(Page { items, next, total })
    }
}
