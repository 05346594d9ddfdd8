//! Counting downloads: in memory first, into the registry every few seconds, so that no reader
//! waits for a write. Not exact: what a gateway has not written when it is killed is lost, a write whose
//! answer is lost counts twice. Nothing but the two members `downloads` and `lastAccessedAt` depends on it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Files, Result};
use crate::store::Id;
use crate::store::registry::{Accesses, FileDoc};

/// Pause between two writes of what was counted.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// Files with something to write; accesses to more of them are not counted until some are written.
const MAX_FILES: usize = 10_000;

/// What was counted since the last write, by version.
#[derive(Debug, Default)]
pub struct Downloads(Mutex<HashMap<Id, Accesses>>);

impl Downloads {
    fn add(&self, version: Id, more: Accesses) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() < MAX_FILES || counted.contains_key(&version) {
            let seen = counted.entry(version).or_insert(Accesses { downloads: 0, last: more.last });
            *seen = Accesses { downloads: seen.downloads + more.downloads, last: seen.last.max(more.last) };
        }
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn pop(&self) -> Option<(Id, Accesses)> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = *counted.keys().next()?;
        counted.remove_entry(&version)
    }
}

impl Files {
    /// Counts an access to content. It is a download if it begins at the first byte: the ranges that
    /// a player or a download manager fetches after that belong to the same one.
    pub fn count_access(&self, file: &FileDoc, first_byte: u64) {
        self.downloads.add(file.id, Accesses { downloads: i64::from(first_byte == 0), last: self.now() });
    }

    /// Writes what was counted.
    ///
    /// # Errors
    /// `unavailable`, `timeout`; what was not written is kept for the next time.
    pub async fn write_downloads(&self) -> Result<()> {
        // No more than there are now: counting may keep up with writing.
        for _ in 0..self.downloads.len() {
            let Some((version, accesses)) = self.downloads.pop() else { break };
            if let Err(error) = self.store.add_accesses(version, accesses).await {
                self.downloads.add(version, accesses);
                return Err(error.doing("count downloads"));
            }
        }
        Ok(())
    }
}
