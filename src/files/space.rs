//! Refusing content while the database's disk is nearly full: a full disk ends a mongod, so uploads
//! stop before. Reading and deleting go on.
//!
//! Every gateway looks for itself; between two looks uploads may use up some of what is kept free.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Files, Result};
use crate::error::{Error, ErrorCode};

/// Pause between two looks at the disk.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// An oplog that reaches back less far is worth a warning.
const SHORT_OPLOG: Duration = Duration::from_secs(3600);

/// What is known of the disk.
#[derive(Debug)]
pub struct Space {
    /// At the last look; as much as there can be before the first and where the deployment does not say.
    free: AtomicU64,
}

impl Default for Space {
    fn default() -> Self {
        Self { free: AtomicU64::new(u64::MAX) }
    }
}

impl Space {
    /// Notes what is free and gives what was before.
    pub fn note_free(&self, len: u64) -> u64 {
        self.free.swap(len, Ordering::Relaxed)
    }
}

impl Files {
    /// Whether `len` more bytes leave the free space that is to be kept.
    ///
    /// # Errors
    /// `insufficient_storage`.
    pub fn require_space(&self, len: u64) -> Result<()> {
        let free = self.space.free.load(Ordering::Relaxed);
        if free == u64::MAX || free >= self.settings.min_free_len().saturating_add(len) {
            return Ok(());
        }
        let detail = "The disk of the database is nearly full; reading and deleting go on.";
        Err(Error::new(ErrorCode::InsufficientStorage, detail))
    }

    /// Looks how much space is free.
    ///
    /// # Errors
    /// `unavailable`, `timeout`; what was known before stays.
    pub async fn look_at_disk(&self) -> Result<()> {
        let free = self.store.free_disk().await.map_err(|e| e.doing("look at the disk"))?.unwrap_or(u64::MAX);
        let before = self.space.note_free(free);
        let floor = self.settings.min_free_len();
        match (before < floor, free < floor) {
            (false, true) => {
                tracing::error!(free, floor, "the disk of the database is nearly full: uploads are refused")
            }
            (true, false) => tracing::info!(free, floor, "the disk of the database has room again"),
            _ => {}
        }
        Ok(())
    }

    /// Warns of an oplog in which other members are soon lost.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn look_at_oplog(&self) -> Result<()> {
        let window = self.store.oplog_window().await.map_err(|e| e.doing("look at the oplog"))?;
        if let Some(window) = window.filter(|window| *window < SHORT_OPLOG) {
            tracing::warn!(?window, "the oplog reaches back less than an hour; enlarge it with replSetResizeOplog");
        }
        Ok(())
    }
}
