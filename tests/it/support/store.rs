//! A store without a gateway: its own database with one bucket, and the same database past it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use gridgate::config::Settings;
use gridgate::store::blobs::BlobDoc;
use gridgate::store::gridfs::write::{ChunkWriter, WrittenChunks};
use gridgate::store::gridfs::{FilesDocument, GridFile};
use gridgate::store::segments::{Pending, SegmentDoc, State, binary};
use gridgate::store::{DatabaseSettings, Id, Store, StoreResult, new_id};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection, Database};

use super::mongod;

/// The one bucket.
pub const BUCKET: &str = "files";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A store on a database of its own, which goes with it.
pub struct TestStore {
    pub store: Store,
    pub db: Database,
    is_in_run: bool,
}

impl TestStore {
    /// A store with its bucket made.
    pub async fn start() -> Self {
        let test = Self::bare(|_| {}).await;
        test.store.ensure_bucket(BUCKET).await.unwrap();
        test
    }

    /// A store with changed settings and an empty database.
    pub async fn bare(change: impl FnOnce(&mut DatabaseSettings)) -> Self {
        Self::on(mongod::uri(), change).await
    }

    /// A store on a server of the test's own.
    pub async fn on(uri: &str, change: impl FnOnce(&mut DatabaseSettings)) -> Self {
        let name = format!("store_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut settings = settings(&name);
        change(&mut settings);
        let store = Store::connect(uri, &settings).await.unwrap();
        let db = Client::with_uri_str(uri).await.unwrap().database(&name);
        Self { store, db, is_in_run: uri == mongod::uri() }
    }

    pub fn files(&self) -> Collection<Document> {
        self.db.collection("files.files")
    }

    pub fn chunks(&self) -> Collection<Document> {
        self.db.collection("files.chunks")
    }

    /// A new writer of a segment with this id.
    pub fn writer(&self, id: Id, chunk_size: u32) -> ChunkWriter {
        ChunkWriter::new(&self.store, pending(id, chunk_size), None, "a test".into())
    }

    /// Stores a file through the writer, as an upload does.
    pub async fn write(&self, chunk_size: u32, bytes: &[u8]) -> GridFile {
        let id = new_id();
        let mut writer = self.writer(id, chunk_size);
        for piece in bytes.chunks(100_003) {
            writer.push(piece).await.unwrap();
        }
        assert_eq!(writer.stored_len(), bytes.len() as u64);
        let file = grid_file(id, chunk_size, bytes.len());
        self.publish(&file, writer.finish().await.unwrap()).await;
        file
    }

    /// Does to the chunks and the files document what the commit does.
    pub async fn publish(&self, file: &GridFile, chunks: WrittenChunks) {
        if let WrittenChunks::Unsent { documents, .. } = &chunks
            && !documents.is_empty()
        {
            self.db.collection::<RawDocumentBuf>("files.chunks").insert_many(documents).await.unwrap();
        }
        let metadata = doc! { "for": "a test" };
        let files = FilesDocument { file: file.clone(), filename: "a name".to_owned(), metadata };
        self.store.insert_files_document(&files).await.unwrap();
    }

    /// Stored bytes of a file, read to their end.
    pub async fn read(&self, file: &GridFile, span: Range<u64>) -> StoreResult<Vec<u8>> {
        let pieces: Vec<_> = self.store.read_chunks(file.clone(), span).try_collect().await?;
        Ok(pieces.concat())
    }

    /// Stores chunks as another program would.
    pub async fn plant_chunks(&self, files_id: &Bson, chunk_size: usize, bytes: &[u8]) {
        let chunks = bytes.chunks(chunk_size).zip(0..).map(|(data, n)| chunk(files_id, n, data));
        let chunks: Vec<_> = chunks.collect();
        if !chunks.is_empty() {
            self.chunks().insert_many(chunks).await.unwrap();
        }
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        if self.is_in_run {
            mongod::drop_database(self.db.name());
        }
    }
}

/// The default settings, for a database.
pub fn settings(name: &str) -> DatabaseSettings {
    let flags = [("database.uri", mongod::uri().to_owned()), ("database.name", name.to_owned())];
    Settings::load(None, &flags).unwrap().database
}

/// A chunk document as other programs make it.
pub fn chunk(files_id: &Bson, n: impl Into<Bson>, data: &[u8]) -> Document {
    let data = Binary { subtype: BinarySubtype::Generic, bytes: data.to_vec() };
    doc! { "_id": new_id(), "files_id": files_id.clone(), "n": n, "data": data }
}

/// What a reader knows of a file.
pub fn grid_file(id: Id, chunk_size: u32, stored_len: usize) -> GridFile {
    GridFile { bucket: BUCKET.to_owned(), files_id: Bson::ObjectId(id), chunk_size, stored_len: stored_len as u64 }
}

/// The rows of a segment about to be written.
pub fn pending(id: Id, chunk_size: u32) -> Pending {
    let blob = BlobDoc {
        id: new_id(),
        scope: "default/plain".to_owned(),
        sha256: None,
        size: 0,
        state: State::Pending,
        generation: 0,
        lease: None,
        condemned_at: None,
    };
    let segment = SegmentDoc {
        id,
        blob: blob.id,
        bucket: BUCKET.to_owned(),
        files_id: None,
        off: 0,
        len: 0,
        stored_len: 0,
        chunk_size: i32::try_from(chunk_size).unwrap(),
        format: 1,
        codec: "identity".to_owned(),
        level: 0,
        frame_len: i32::try_from(chunk_size).unwrap(),
        seek: binary([]),
        commit: binary([]),
        likeness: None,
        salt: None,
        enc: None,
        state: State::Pending,
        lease: None,
    };
    Pending { blob, segment, lease: Duration::from_secs(60) }
}
