//! Transactions that stand still. A gateway that died or froze in the middle of one leaves it open, and until MongoDB
//! ends it (`transactionLifetimeLimitSeconds`, a minute) nobody can change what it changed. Whoever waits for that
//! looks twice, and ends those of gateways in which nothing happened in between. A transaction that was
//! ended so is tried again by its gateway, should that wake up.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;

use super::limit::Within;
use super::{META_APP, Store, StoreResult};

/// Between two looks, and before the first.
const LOOK: Duration = Duration::from_millis(400);

/// A transaction as it is seen from outside.
#[derive(Debug, Clone, PartialEq)]
struct Standing {
    session: Bson,
    number: Bson,
    /// Microseconds in which it did something.
    active: Bson,
}

/// Looks at transactions now and then, for somebody who waits.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Vec<Standing>,
    at: Instant,
}

impl Watch {
    /// For somebody who begins to wait.
    pub(super) fn new() -> Self {
        Self { seen: Vec::new(), at: Instant::now() }
    }

    /// Ends what stands still since the last look, if that is long enough ago.
    pub(super) async fn look(&mut self, store: &Store) {
        if self.at.elapsed() < LOOK {
            return;
        }
        match store.end_standing(&self.seen).await {
            Ok(seen) => self.seen = seen,
            Err(error) => tracing::warn!(%error, "could not look for transactions that stand still"),
        }
        self.at = Instant::now();
    }
}

impl Store {
    /// Waits for a change of a document that a transaction may hold.
    pub(super) async fn unhindered<T>(&self, change: impl Future<Output = T>) -> T {
        let (mut change, mut watch) = (pin!(change), Watch::new());
        loop {
            match tokio::time::timeout(LOOK, &mut change).await {
                Ok(changed) => return changed,
                Err(_) => watch.look(self).await,
            }
        }
    }

    /// Ends the transactions that are as they were before; gives those that are idle now.
    async fn end_standing(&self, before: &[Standing]) -> StoreResult<Vec<Standing>> {
        let admin = self.meta.client().database("admin");
        let idle = doc! { "type": "idleSession", "appName": META_APP, "transaction": { "$exists": true } };
        let look = [doc! { "$currentOp": { "idleSessions": true } }, doc! { "$match": idle }];
        // It knows no other.
        let found =
            admin.aggregate(look).read_concern(ReadConcern::local()).max_time(self.limit).within(self.limit).await?;
        let found: Vec<Document> = found.try_collect().within(self.limit).await?;
        let seen: Vec<_> = found.iter().filter_map(Standing::read).collect();
        let still: Vec<_> = seen.iter().filter(|standing| before.contains(standing)).collect();
        if !still.is_empty() {
            let sessions: Vec<_> = still.iter().map(|standing| doc! { "id": &standing.session }).collect();
            tracing::warn!(transactions = sessions.len(), "ending transactions of a gateway that died or froze");
            admin.run_command(doc! { "killSessions": sessions }).within(self.limit).await?;
        }
        Ok(seen)
    }
}

impl Standing {
    fn read(found: &Document) -> Option<Self> {
        let transaction = found.get_document("transaction").ok()?;
        Some(Self {
            session: found.get_document("lsid").ok()?.get("id")?.clone(),
            number: transaction.get_document("parameters").ok()?.get("txnNumber")?.clone(),
            active: transaction.get("timeActiveMicros")?.clone(),
        })
    }
}
