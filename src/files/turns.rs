//! Turns for uploads of the same content: through one gateway they publish one after the other
//! instead of aborting each other's transactions. Between gateways the database decides.

use tokio::sync::{Mutex, MutexGuard};

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
    /// Waits for the turn of a content, by its look-up value.
    pub async fn wait(&self, look_up: &[u8]) -> MutexGuard<'_, ()> {
        self.0[usize::from(look_up.first().copied().unwrap_or_default()) % TURNS].lock().await
    }
}
