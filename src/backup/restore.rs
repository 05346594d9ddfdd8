//! A restore as a recipe: keys first, then everything, then the proof that it was everything; all of it or nothing.
//!
//! Only into an empty database. A guard in it keeps gateways away until the end; if the restore dies, the guard tells
//! the next one to begin anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::manifest::{Manifest, Part};
use super::parts::{Batch, Source, read_part};
use super::{Place, Progress, READING, Tell, kid_of, row_in, unsound};
use crate::error::{Error, ErrorCode};
use crate::failpoint;
use crate::format::key::Key;
use crate::keyring::KeyRing;
use crate::store::guards::{Guard, RestoreStart};
use crate::store::keys::KeyRecords;
use crate::store::schema::KEYS;
use crate::store::{RawDocumentBuf, Store, StoreError};

/// Batches between reading and inserting.
const QUEUE: usize = 2;
/// Key records of a deployment; far more than one has.
const MAX_KEY_RECORDS: usize = 100_000;

/// Everything that was read, once it was read to its end.
type Reading = JoinHandle<Result<(Vec<Part>, Vec<u8>), Error>>;

/// Restores a backup into an empty database; gives its manifest.
///
/// # Errors
/// `invalid` for a database that is not empty or a backup that is not whole, `key_unavailable` for a keyring that cannot
/// open it. The database is as empty as it was then; if that fails too, the next restore sees to it.
pub async fn restore(
    store: &Store,
    ring: &KeyRing,
    lease: Duration,
    place: &Place,
    tell: Tell<'_>,
) -> Result<Manifest, Error> {
    let source = place.open()?;
    let total = source.total_len();
    let (out, queue) = channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || read_all(source, &out));
    let mut queue = Queue { queue, done: 0, total, tell };
    let (keys, next) = read_keys(&mut queue).await?;
    if keys.is_empty() {
        if next.is_none() {
            finish(reading).await?;
        }
        return Err(unsound("it does not begin with the key records of a deployment"));
    }
    let records = KeyRecords::read(&keys).map_err(failed)?;
    let roots = ring.check_records(&records)?;
    let guard = begin(store, lease).await?;
    let mut import = Import { store, ring, guard: &guard, counts: BTreeMap::new(), buckets: BTreeSet::new() };
    let outcome = async {
        import.insert(Batch { collection: KEYS.to_owned(), documents: keys }).await?;
        import.insert_all(next, &mut queue).await?;
        failpoint::hit("restore.inserted");
        let (parts, manifest) = finish(reading).await?;
        import.finish(&Manifest::read(&manifest)?, &parts, &roots.manifest).await
    }
    .await;
    if let Err(reason) = &outcome {
        // Without the guard what is there may be another restore's, or in use.
        if let Err(error) = guard.confirm().await {
            tracing::warn!(%reason, "the restore failed and lost its guard; what it inserted is left to the next one");
            return Err(failed(error));
        }
        if let Err(error) = store.remove_import().await {
            tracing::warn!(%reason, "the restore failed, and what it inserted cannot be removed");
            return Err(failed(error));
        }
    }
    failpoint::hit("restore.checked");
    guard.release().await.map_err(failed)?;
    failpoint::hit("restore.released");
    outcome
}

fn failed(error: StoreError) -> Error {
    match error {
        StoreError::Duplicate(error) => unsound("a document is in it twice, or the database is in use").because(error),
        error => error.doing("restore the backup"),
    }
}

fn read_all(source: Box<dyn Source>, out: &Sender<Batch>) -> Result<(Vec<Part>, Vec<u8>), Error> {
    let mut parts = Vec::new();
    let mut send = |batch| out.blocking_send(batch).map_err(|_| Error::internal(READING, "the restore ended"));
    let manifest = source.visit(&mut |name, bytes| {
        parts.push(read_part(name, bytes, &mut send)?);
        Ok(())
    })?;
    Ok((parts, manifest))
}

async fn finish(reading: Reading) -> Result<(Vec<Part>, Vec<u8>), Error> {
    reading.await.map_err(|error| Error::internal(READING, error))?
}

struct Queue<'a> {
    queue: Receiver<Batch>,
    done: u64,
    total: Option<u64>,
    tell: Tell<'a>,
}

impl Queue<'_> {
    async fn next(&mut self) -> Option<Batch> {
        let batch = self.queue.recv().await?;
        self.done += batch.documents.iter().map(|document| document.as_bytes().len() as u64).sum::<u64>();
        (self.tell)(Progress { done: self.done, total: self.total });
        Some(batch)
    }
}

/// The key records, which come first, and the batch after them.
async fn read_keys(queue: &mut Queue<'_>) -> Result<(Vec<RawDocumentBuf>, Option<Batch>), Error> {
    let mut keys = Vec::new();
    loop {
        match queue.next().await {
            Some(batch) if batch.collection == KEYS => keys.extend(batch.documents),
            next => return Ok((keys, next)),
        }
        if keys.len() > MAX_KEY_RECORDS {
            return Err(unsound("it has more key records than a deployment"));
        }
    }
}

/// Marks the database, which must be empty, or what a restore left that died.
async fn begin(store: &Store, lease: Duration) -> Result<Guard, Error> {
    let guard = match store.begin_restore(lease).await.map_err(failed)? {
        RestoreStart::New(guard) => guard,
        RestoreStart::TakenOver { guard, had_begun: false } => guard,
        RestoreStart::TakenOver { guard, had_begun: true } => {
            tracing::warn!("a restore died here; what it left is removed");
            guard.confirm().await.map_err(failed)?;
            store.remove_import().await.map_err(failed)?;
            guard
        }
        RestoreStart::Refused => {
            let detail = "Another restore into this database is running, or died a moment ago.";
            return Err(Error::new(ErrorCode::Unavailable, detail));
        }
    };
    failpoint::hit("restore.guarded");
    // After the mark: of a gateway that starts and a restore, at least one sees the other.
    let Some(occupied) = store.find_occupied().await.map_err(failed)? else {
        guard.note_empty().await.map_err(failed)?;
        failpoint::hit("restore.empty");
        return Ok(guard);
    };
    guard.release().await.map_err(failed)?;
    let detail =
        format!("The database is not empty: {occupied} has documents. Restore into a new one (database.name).");
    Err(Error::invalid("database.name", detail))
}

struct Import<'a> {
    store: &'a Store,
    ring: &'a KeyRing,
    guard: &'a Guard,
    counts: BTreeMap<String, u64>,
    buckets: BTreeSet<String>,
}

impl Import<'_> {
    async fn insert_all(&mut self, first: Option<Batch>, queue: &mut Queue<'_>) -> Result<(), Error> {
        let mut next = first;
        while let Some(batch) = next {
            self.insert(batch).await?;
            next = queue.next().await;
        }
        Ok(())
    }

    async fn insert(&mut self, batch: Batch) -> Result<(), Error> {
        self.guard.check().map_err(failed)?;
        self.check_keys(&batch)?;
        let bucket = batch.collection.strip_suffix(".files").or(batch.collection.strip_suffix(".chunks"));
        if let Some(bucket) = bucket.filter(|bucket| !self.buckets.contains(*bucket)) {
            self.store.ensure_bucket(bucket).await.map_err(failed)?;
            self.buckets.insert(bucket.to_owned());
        }
        self.store.import(&batch.collection, &batch.documents).await.map_err(failed)?;
        failpoint::hit("restore.batch");
        *self.counts.entry(batch.collection).or_default() += batch.documents.len() as u64;
        Ok(())
    }

    /// Whether the ring has every key that the segments need.
    fn check_keys(&self, batch: &Batch) -> Result<(), Error> {
        for document in &batch.documents {
            let Some(segment) = row_in(&batch.collection, document).map_err(failed)? else { continue };
            if let Some(kid) = kid_of(&segment)?.filter(|kid| !self.ring.has(kid)) {
                let detail =
                    format!("Files of the backup are encrypted under the key {kid:?}, which is not in the keyring.");
                return Err(Error::new(ErrorCode::KeyUnavailable, detail));
            }
        }
        Ok(())
    }

    /// Whether what was read is what was written, and what was inserted is there, and nothing else.
    async fn finish(&self, manifest: &Manifest, parts: &[Part], root: &Key) -> Result<Manifest, Error> {
        manifest.verify(root, parts)?;
        for (collection, inserted) in &self.counts {
            let found = self.store.count(collection).await.map_err(failed)?;
            if found != *inserted {
                let detail = format!("{inserted} documents of {collection} were restored, {found} are there.");
                return Err(Error::new(ErrorCode::Internal, detail));
            }
        }
        self.guard.confirm().await.map_err(failed)?;
        Ok(manifest.clone())
    }
}
