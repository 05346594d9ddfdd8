//! A backup as a recipe: guard, snapshot of the metadata, then the bytes it names, then the manifest.
//!
//! What is read goes to a thread that hashes and writes it; two batches are on their way at most.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::manifest::{BACKUP_FORMAT, MANIFEST, Manifest, Part};
use super::parts::{Batch, PartWriter, Sink};
use super::spool::Spool;
use super::{Place, Progress, Tell, WRITING, kid_of, row_in};
use crate::error::{Error, ErrorCode};
use crate::failpoint;
use crate::files::Files;
use crate::store::gridfs::GridFile;
use crate::store::gridfs::export::{ChunkWindow, WindowPlan};
use crate::store::guards::Guard;
use crate::store::schema::{COLLECTIONS, KEYS, Keeping, chunks_of, files_of};
use crate::store::{DateTime, RawDocumentBuf, StoreError};

/// Batches between reading and writing.
const QUEUE: usize = 2;
/// Files documents read at once.
const PAGE: usize = 500;

enum Message {
    Batch(Batch),
    /// Everything was read; the manifest without its parts.
    Finish(Box<Manifest>),
}

/// Writes a backup while gateways serve; reaping pauses meanwhile, everywhere.
///
/// # Errors
/// `invalid` when the place is taken, `damaged` when a file is not whole in the database, `unavailable` when the guard
/// ran out. Nothing stands under the final name then.
pub async fn backup(files: &Files, place: &Place, tell: Tell<'_>) -> Result<Manifest, Error> {
    let sink = place.create()?;
    let lease = Duration::from_secs(files.settings.lease_secs);
    let guard = files.store.begin_backup(lease).await.map_err(failed)?;
    failpoint::hit("backup.guarded");
    let (out, queue) = channel(QUEUE);
    let root = files.keys.roots.manifest.clone();
    let writing = tokio::task::spawn_blocking(move || {
        write_all(sink, queue, |manifest, parts| Manifest { parts, ..manifest }.sign(&root))
    });
    let run = Run { files, guard: &guard, out, tell, done: 0, total: None };
    let read = run.read_all().await;
    let written = writing.await.map_err(|error| Error::internal(WRITING, error))?;
    if let Err(error) = guard.release().await {
        tracing::warn!(%error, "the guard of the backup runs out by itself");
    }
    match (read, written?) {
        (Ok(()), Some(manifest)) => Ok(manifest),
        (Err(error), _) => Err(error),
        (Ok(()), None) => Err(Error::internal(WRITING, "the writer ended early")),
    }
}

fn failed(error: StoreError) -> Error {
    match error {
        StoreError::Stale => {
            let detail =
                "The backup stood still for longer than storage.lease_secs, and its files may be gone; run it again.";
            Error::new(ErrorCode::Unavailable, detail)
        }
        error => error.doing("read the database for the backup"),
    }
}

/// None when the reader ended before everything was read.
fn write_all(
    sink: Box<dyn Sink>,
    mut queue: Receiver<Message>,
    sign: impl FnOnce(Manifest, Vec<Part>) -> Result<Manifest, Error>,
) -> Result<Option<Manifest>, Error> {
    let mut parts = PartWriter::new(sink);
    while let Some(message) = queue.blocking_recv() {
        match message {
            Message::Batch(batch) => parts.write(&batch)?,
            Message::Finish(manifest) => {
                let (parts, mut sink) = parts.finish()?;
                failpoint::hit("backup.parts");
                let sum = |count: fn(&Part) -> u64| parts.iter().map(count).sum();
                let (documents, bytes) = (sum(|part| part.documents), sum(|part| part.bytes));
                let manifest = sign(Manifest { documents, bytes, ..*manifest }, parts)?;
                sink.begin(MANIFEST)?;
                sink.write(&manifest.to_bytes()?)?;
                sink.end()?;
                failpoint::hit("backup.manifest");
                sink.finish()?;
                failpoint::hit("backup.named");
                return Ok(Some(manifest));
            }
        }
    }
    Ok(None)
}

struct Run<'a> {
    files: &'a Files,
    guard: &'a Guard,
    out: Sender<Message>,
    tell: Tell<'a>,
    done: u64,
    total: Option<u64>,
}

impl Run<'_> {
    async fn read_all(mut self) -> Result<(), Error> {
        let created_at = DateTime::from_system_time(self.files.clock.now());
        let created_at = created_at.try_to_rfc3339_string().map_err(|error| Error::internal(WRITING, error))?;
        let left_out = self.files.store.list_left_out().await.map_err(failed)?;
        let (mut spool, mut kids) = (Spool::new()?, BTreeSet::new());
        let database = self.read_metadata(&mut spool, &mut kids).await?;
        self.total = Some(self.done.saturating_add(spool.stored_len));
        let buckets = spool.buckets.clone();
        for bucket in &buckets {
            self.read_files_documents(bucket, &mut spool).await?;
        }
        for bucket in &buckets {
            self.read_chunks(bucket, &mut spool).await?;
        }
        self.guard.confirm().await.map_err(failed)?;
        let manifest = Manifest {
            format: BACKUP_FORMAT,
            gridgate: env!("CARGO_PKG_VERSION").to_owned(),
            created_at,
            database,
            kids,
            left_out,
            documents: 0,
            bytes: 0,
            parts: Vec::new(),
            mac: String::new(),
        };
        self.send(Message::Finish(Box::new(manifest))).await
    }

    /// Everything but the buckets, at one instant; gives the database's name.
    async fn read_metadata(&mut self, spool: &mut Spool, kids: &mut BTreeSet<String>) -> Result<String, Error> {
        let mut snapshot = self.files.store.snapshot().await.map_err(failed)?;
        for (collection, keeping) in COLLECTIONS {
            if let Keeping::LeftOut(_) = keeping {
                continue;
            }
            let mut scan = snapshot.scan(collection, keeping).await.map_err(failed)?;
            loop {
                let documents = scan.next().await.map_err(failed)?;
                if documents.is_empty() {
                    break;
                }
                if collection == KEYS {
                    let roots = documents.iter().filter_map(|record| record.get_document("enc").ok());
                    kids.extend(roots.filter_map(|enc| enc.get_str("kid").ok().map(str::to_owned)));
                }
                for document in &documents {
                    if let Some(segment) = row_in(collection, document).map_err(failed)? {
                        kids.extend(kid_of(&segment)?);
                        spool.push(segment.grid_file().map_err(failed)?)?;
                    }
                }
                self.send_batch(collection.to_owned(), documents).await?;
            }
        }
        Ok(snapshot.database().to_owned())
    }

    async fn read_files_documents(&mut self, bucket: &str, spool: &mut Spool) -> Result<(), Error> {
        let mut files = spool.files_of(bucket)?;
        loop {
            let page: Vec<GridFile> = files.by_ref().take(PAGE).collect::<Result<_, _>>()?;
            if page.is_empty() {
                return Ok(());
            }
            let documents = self.files.store.export_files_documents(&page).await.map_err(failed)?;
            self.send_batch(files_of(bucket), documents).await?;
        }
    }

    async fn read_chunks(&mut self, bucket: &str, spool: &mut Spool) -> Result<(), Error> {
        let mut plan = WindowPlan::default();
        for file in spool.files_of(bucket)? {
            let windows = plan.push(file?).map_err(failed)?;
            self.read_windows(bucket, windows).await?;
        }
        let windows = plan.finish().map_err(failed)?;
        self.read_windows(bucket, windows).await
    }

    async fn read_windows(&mut self, bucket: &str, windows: Vec<ChunkWindow>) -> Result<(), Error> {
        for window in windows {
            let documents = self.files.store.export_chunks(&window).await.map_err(failed)?;
            self.send_batch(chunks_of(bucket), documents).await?;
        }
        Ok(())
    }

    async fn send_batch(&mut self, collection: String, documents: Vec<RawDocumentBuf>) -> Result<(), Error> {
        self.guard.check().map_err(failed)?;
        self.done += documents.iter().map(|document| document.as_bytes().len() as u64).sum::<u64>();
        (self.tell)(Progress { done: self.done, total: self.total });
        self.send(Message::Batch(Batch { collection, documents })).await
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        self.out.send(message).await.map_err(|_| Error::internal(WRITING, "the writer ended"))
    }
}
