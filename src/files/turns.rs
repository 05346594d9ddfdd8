//! Turns for those that publish the same content, or parts of the same upload: through one gateway they publish one after the other
//! instead of aborting each other's transactions. Between gateways the database decides.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// How long somebody waits for a turn.
const LIMIT: Duration = Duration::from_secs(5);
/// Contents that may be published at once; others share a turn by chance.
const TURNS: usize = 256;

/// The turns of one gateway.
#[derive(Debug)]
pub struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(TURNS).collect())
    }
}

impl Turns {
    /// Waits for the turn of a content, by its look-up value, or of an upload, by its id. Whoever waits for long goes
    /// on without: the database decides anyway.
    pub async fn wait(&self, of: &[u8]) -> Option<MutexGuard<'_, ()>> {
        let turn = &self.0[usize::from(of.first().copied().unwrap_or_default()) % TURNS];
        tokio::time::timeout(LIMIT, turn.lock()).await.ok()
    }
}
