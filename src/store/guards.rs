//! Guards: an act that runs keeps others from theirs. A running backup pauses reaping; a restore that has not
//! finished keeps gateways and other restores away.
//!
//! Kept in the database's own time, so clocks do not matter. What a guard protects is its owner's business.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::limit::Within;
use super::schema::GUARDS;
use super::{Id, Store, StoreError, StoreResult, new_id};

/// The `_id` of a restore's guard: there is one.
const RESTORE: &str = "restore";

/// Set once the database was found empty.
const FOUND_EMPTY: &str = "foundEmpty";

/// Renewed until dropped or released; runs out by itself.
///
/// The owner may rely on it for one lease after a renewal, the others respect it for two: so a renewal that
/// succeeded proves that nobody acted in between.
pub struct Guard {
    store: Store,
    key: Document,
    lease: Duration,
    lost: CancellationToken,
    _renewing: AbortOnDropHandle<()>,
}

/// How a restore may begin.
pub enum RestoreStart {
    /// No restore was there.
    New(Guard),
    /// One was there and died; what it inserted is in the database if it had found that empty.
    TakenOver {
        /// The guard, the new restore's now.
        guard: Guard,
        /// Whether the dead one had begun to insert.
        had_begun: bool,
    },
    /// One is running.
    Refused,
}

impl Guard {
    fn start(store: &Store, key: Document, lease: Duration) -> Self {
        let lost = CancellationToken::new();
        let (renewer, owned, losing) = (store.clone(), key.clone(), lost.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                match renewer.renew_guard(&owned, lease).await {
                    Ok(true) => {}
                    Ok(false) => return losing.cancel(),
                    Err(error) => tracing::warn!(error = %error, "could not renew a guard"),
                }
            }
        });
        Self { store: store.clone(), key, lease, lost, _renewing: AbortOnDropHandle::new(renewing) }
    }

    /// Cheap; for every step of the act.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when it was seen to have run out.
    pub fn check(&self) -> StoreResult<()> {
        if self.lost.is_cancelled() { Err(StoreError::Stale) } else { Ok(()) }
    }

    /// Proves that it held from the beginning until now.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when it did not.
    pub async fn confirm(&self) -> StoreResult<()> {
        if self.store.renew_guard(&self.key, self.lease).await? { self.check() } else { Err(StoreError::Stale) }
    }

    /// Notes that the database was found empty: what is in it from now on is the restore's.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the guard ran out.
    pub async fn note_empty(&self) -> StoreResult<()> {
        self.confirm().await?;
        let guards = self.store.documents(GUARDS);
        let noted = guards.update_one(self.key.clone(), doc! { "$set": { FOUND_EMPTY: true } });
        match noted.within(self.store.limit).await?.matched_count {
            1 => Ok(()),
            _ => Err(StoreError::Stale),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the database fails; it runs out by itself then, but for a restore's.
    pub async fn release(self) -> StoreResult<()> {
        self.store.documents(GUARDS).delete_one(self.key).within(self.store.limit).await?;
        Ok(())
    }
}

impl Store {
    /// Pauses reaping everywhere until the guard ends.
    pub async fn begin_backup(&self, lease: Duration) -> StoreResult<Guard> {
        let id = new_id();
        self.insert_guard(&id.into(), "backup", id, lease, true).await?;
        Ok(Guard::start(self, key(&id.into(), id), lease))
    }

    /// Whether a backup reads what a reap could take. **MUST** be asked after what to reap was looked up.
    pub async fn is_reaping_paused(&self) -> StoreResult<bool> {
        let running = doc! { "act": "backup", "$expr": { "$gt": ["$respectedUntil", "$$NOW"] } };
        Ok(self.documents(GUARDS).find_one(running).max_time(self.limit).within(self.limit).await?.is_some())
    }

    /// Marks the database as being restored, until the guard is released.
    pub async fn begin_restore(&self, lease: Duration) -> StoreResult<RestoreStart> {
        let (id, owner) = (Bson::from(RESTORE), new_id());
        match self.insert_guard(&id, "restore", owner, lease, false).await {
            Ok(()) => return Ok(RestoreStart::New(Guard::start(self, key(&id, owner), lease))),
            Err(StoreError::Duplicate(_)) => {}
            Err(error) => return Err(error),
        }
        let dead = doc! { "_id": &id, "$expr": { "$lt": ["$respectedUntil", "$$NOW"] } };
        let mut taken = times(lease);
        taken.insert("owner", owner);
        let guards = self.documents(GUARDS);
        let taking = guards.find_one_and_update(dead, vec![doc! { "$set": taken }]);
        Ok(match taking.within(self.limit).await? {
            Some(dead) => RestoreStart::TakenOver {
                guard: Guard::start(self, key(&id, owner), lease),
                had_begun: dead.get_bool(FOUND_EMPTY).unwrap_or(false),
            },
            None => RestoreStart::Refused,
        })
    }

    /// Refuses a database that was only restored in part.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] while a restore runs, and after one died.
    pub async fn require_no_restore(&self) -> StoreResult<()> {
        match self.documents(GUARDS).find_one(doc! { "_id": RESTORE }).max_time(self.limit).within(self.limit).await? {
            None => Ok(()),
            Some(_) => {
                let what =
                    "a restore into this database runs or did not finish; if it died, run `gridgate restore` again";
                Err(StoreError::Unfit(what.into()))
            }
        }
    }

    async fn insert_guard(&self, id: &Bson, act: &str, owner: Id, lease: Duration, ends: bool) -> StoreResult<()> {
        let mut guard = doc! { "_id": id, "act": act, "owner": owner };
        guard.extend(times(lease));
        if ends {
            guard.insert("purgeAt", in_leases(lease, 2));
        }
        // Matches nothing, so that an id in use is a duplicate and not overwritten.
        let absent = doc! { "_id": id, "act": { "$exists": false } };
        self.documents(GUARDS)
            .update_one(absent, vec![doc! { "$replaceWith": guard }])
            .upsert(true)
            .within(self.limit)
            .await?;
        Ok(())
    }

    /// False when it ran out before.
    async fn renew_guard(&self, key: &Document, lease: Duration) -> StoreResult<bool> {
        let mut held = key.clone();
        held.insert("$expr", doc! { "$gt": ["$until", "$$NOW"] });
        let mut renewed = times(lease);
        renewed.insert("purgeAt", doc! { "$cond": ["$purgeAt", in_leases(lease, 2), "$$REMOVE"] });
        let renewal = self.documents(GUARDS).update_one(held, vec![doc! { "$set": renewed }]).within(lease / 3).await?;
        Ok(renewal.matched_count == 1)
    }
}

fn key(id: &Bson, owner: Id) -> Document {
    doc! { "_id": id, "owner": owner }
}

fn times(lease: Duration) -> Document {
    doc! { "until": in_leases(lease, 1), "respectedUntil": in_leases(lease, 2) }
}

/// The database's time and so many leases.
fn in_leases(lease: Duration, leases: i64) -> Document {
    let millis = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 2);
    doc! { "$add": ["$$NOW", millis.saturating_mul(leases)] }
}
