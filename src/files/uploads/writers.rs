//! Who appends to which upload in this gateway: whoever comes next has the one before make way, which keeps what came.
//! Between gateways the epoch of the upload decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{Id, new_id};

/// How long somebody waits for the one before to make way; then the epoch fences that off.
const PATIENCE: Duration = Duration::from_millis(800);

/// Those who append.
#[derive(Debug, Default)]
pub struct Writers(Mutex<HashMap<Id, Writer>>);

#[derive(Debug, Clone)]
struct Writer {
    id: Id,
    interrupted: CancellationToken,
    gone: CancellationToken,
}

/// A writer's place among them, until it is dropped.
pub struct Turn {
    writers: Arc<Writers>,
    upload: Id,
    id: Id,
    /// Somebody else wants to write.
    pub interrupted: CancellationToken,
    gone: CancellationToken,
}

impl Writers {
    /// Has whoever appends to an upload make way, and waits until it has, or for a moment.
    pub async fn interrupt(&self, upload: Id) {
        let before = self.lock().get(&upload).cloned();
        if let Some(before) = before {
            before.interrupted.cancel();
            // Whoever does not make way in time is fenced off by the epoch.
            let _ = tokio::time::timeout(PATIENCE, before.gone.cancelled()).await;
        }
    }

    /// Takes the place of whoever appends to an upload.
    pub async fn enter(self: &Arc<Self>, upload: Id) -> Turn {
        self.interrupt(upload).await;
        let (interrupted, gone) = (CancellationToken::new(), CancellationToken::new());
        let writer = Writer { id: new_id(), interrupted, gone };
        if let Some(before) = self.lock().insert(upload, writer.clone()) {
            before.interrupted.cancel();
        }
        Turn { writers: Arc::clone(self), upload, id: writer.id, interrupted: writer.interrupted, gone: writer.gone }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Writer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut writers = self.writers.lock();
        if writers.get(&self.upload).is_some_and(|writer| writer.id == self.id) {
            writers.remove(&self.upload);
        }
        self.gone.cancel();
    }
}
