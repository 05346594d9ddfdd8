//! How far a long job came, for whoever watches it. Draws nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one job, shared with its watchers.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// So much more is to be done.
    pub fn expect(&self, more: u64) {
        self.0.total.fetch_add(more, Ordering::Relaxed);
    }

    /// So much more is done.
    pub fn advance(&self, more: u64) {
        self.0.done.fetch_add(more, Ordering::Relaxed);
    }

    /// So much of so much is done.
    pub fn show(&self, done: u64, total: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// What is done, and all there is as far as is known.
    pub fn read(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }
}
