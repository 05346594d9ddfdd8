//! The driver's own GridFS streams: a peer that reads what we write and writes what we read, and
//! known bugs that our own module must not have (`docs/decisions`).

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the comparison with what the product does not use"
)]

use futures::io::{AsyncReadExt, AsyncWriteExt};
use gridgate::store::{Bson, Document, Id, StoreError, doc, new_id};
use mongodb::gridfs::GridFsBucket;
use mongodb::options::GridFsBucketOptions;

use crate::support::app::{TestApp, all_buckets, noise};
use crate::support::own_mongod::OwnMongod;
use crate::support::store::{BUCKET, TestStore, grid_file};

const CHUNK: usize = 255 << 10;

fn driver(db: &mongodb::Database, chunk_size: u32) -> GridFsBucket {
    let options = GridFsBucketOptions::builder().bucket_name(BUCKET.to_owned()).chunk_size_bytes(chunk_size).build();
    db.gridfs_bucket(options)
}

async fn driver_reads(bucket: &GridFsBucket, id: Bson) -> Vec<u8> {
    let mut read = Vec::new();
    bucket.open_download_stream(id).await.unwrap().read_to_end(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn the_driver_reads_what_we_write() {
    let test = TestStore::start().await;
    let bucket = driver(&test.db, CHUNK as u32);
    for len in [0, 1, 1023, 1024, 1025, 5000, 3_000_000] {
        let bytes = noise(len, 1);
        let file = test.write(if len > 10_000 { CHUNK as u32 } else { 1024 }, &bytes).await;
        assert!(driver_reads(&bucket, file.files_id.clone()).await == bytes, "{len} bytes");
        let listed = bucket.find_one(doc! { "_id": file.files_id }).await.unwrap().unwrap();
        assert_eq!((listed.length, listed.filename.as_deref()), (len as u64, Some("a name")));
    }
}

#[tokio::test]
async fn the_driver_reads_what_an_upload_over_http_stored() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let bucket = driver(&db, CHUNK as u32);
    for len in [0, 1, CHUNK, 3 * CHUNK + 5, 9 << 20] {
        let (bytes, name) = (noise(len, 2), format!("{len}.bin"));
        app.put(&format!("name={name}&encrypt=false&compress=none"), "application/x-noise", bytes.clone()).await;
        let mut read = Vec::new();
        bucket.open_download_stream_by_name(&name).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert!(read == bytes, "{len} bytes");
    }
}

#[tokio::test]
async fn we_read_what_the_driver_writes() {
    let test = TestStore::start().await;
    for (len, chunk_size) in [(0, 1000), (1, 1000), (999, 1000), (1000, 1000), (300_001, 1000), (1_000_000, CHUNK)] {
        let bytes = noise(len, 3);
        let bucket = driver(&test.db, chunk_size as u32);
        let id = Bson::from(format!("{len} in {chunk_size}"));
        let mut upload = bucket.open_upload_stream("theirs").id(id.clone()).await.unwrap();
        upload.write_all(&bytes).await.unwrap();
        upload.close().await.unwrap();
        let file = test.store.find_grid_file(BUCKET, &id).await.unwrap().unwrap();
        assert_eq!((file.stored_len, file.chunk_size as usize), (len as u64, chunk_size));
        assert!(test.read(&file, 0..len as u64).await.unwrap() == bytes, "{id}");
        let (a, b) = (len / 3, len / 3 * 2);
        assert!(test.read(&file, a as u64..b as u64).await.unwrap() == bytes[a..b], "{id}");
        assert!(test.store.rename_grid_file(BUCKET, &id, "ours").await.unwrap());
        assert!(bucket.find_one(doc! { "filename": "ours", "_id": id.clone() }).await.unwrap().is_some());
        assert!(test.store.delete_grid_file(BUCKET, &id).await.unwrap());
        assert!(bucket.open_download_stream(id).await.is_err());
    }
    assert_eq!(test.chunks().count_documents(doc! {}).await.unwrap(), 0);
}

/// The driver's upload stream with an id in use deletes that file's chunks when it is dropped.
#[tokio::test]
async fn a_writer_with_an_id_in_use_deletes_nothing() {
    let test = TestStore::start().await;
    let bytes = noise(3 << 20, 4);
    let file = test.write(CHUNK as u32, &bytes).await;
    let Bson::ObjectId(id) = file.files_id else { panic!("an odd id") };
    let opened = test.writer(id, CHUNK as u32);
    drop(opened);
    // The segment's row is the first to refuse it.
    let mut second = test.writer(id, CHUNK as u32);
    let refused = second.push(&noise(9 << 20, 5)).await;
    assert!(matches!(refused, Err(StoreError::Duplicate(_))), "{refused:?}");
    drop(second);
    // Without the row, the chunks are.
    let rows = test.db.collection::<Document>("segments");
    rows.delete_one(doc! { "_id": id }).await.unwrap();
    let mut dropped = test.writer(id, CHUNK as u32);
    dropped.push(&noise(9 << 20, 5)).await.unwrap();
    drop(dropped);
    settle().await;
    rows.delete_one(doc! { "_id": id }).await.unwrap();
    let mut finished = test.writer(id, CHUNK as u32);
    finished.push(&noise(3 << 20, 5)).await.unwrap();
    assert!(matches!(finished.finish().await, Err(StoreError::Duplicate(_))));
    settle().await;
    assert!(test.read(&file, 0..3 << 20).await.unwrap() == bytes);
}

/// The driver deletes the chunks of a stream that is dropped, in the background and by its id.
#[tokio::test]
async fn a_dropped_writer_leaves_no_visible_file_and_rows_that_lead_to_its_chunks() {
    let test = TestStore::start().await;
    let id = new_id();
    let mut writer = test.writer(id, CHUNK as u32);
    writer.push(&noise(17 << 20, 6)).await.unwrap();
    drop(writer);
    settle().await;
    assert_eq!(test.files().count_documents(doc! {}).await.unwrap(), 0);
    assert!(test.store.find_grid_file(BUCKET, &id.into()).await.unwrap().is_none());
    let row = test.db.collection::<Document>("segments").find_one(doc! { "_id": id }).await.unwrap().unwrap();
    assert_eq!(row.get_str("state").unwrap(), "pending");
    let blob = doc! { "_id": row.get_object_id("blob").unwrap(), "state": "pending" };
    assert!(test.db.collection::<Document>("blobs").find_one(blob).await.unwrap().is_some());
}

/// A small upload that is dropped has sent nothing at all.
#[tokio::test]
async fn a_dropped_small_writer_leaves_nothing() {
    let test = TestStore::start().await;
    let mut writer = test.writer(new_id(), CHUNK as u32);
    writer.push(&noise(700_000, 7)).await.unwrap();
    drop(writer.finish().await.unwrap());
    settle().await;
    for collection in ["files.files", "files.chunks", "segments", "blobs"] {
        let count = test.db.collection::<Document>(collection).count_documents(doc! {}).await.unwrap();
        assert_eq!(count, 0, "{collection}");
    }
}

/// The driver makes a chunk index that is not unique.
#[tokio::test]
async fn every_bucket_of_a_gateway_has_the_unique_index_even_before_its_first_file() {
    let app = TestApp::start_with(all_buckets).await;
    app.put("name=small.txt", "text/plain", "small").await;
    let db = app.mongo().await;
    for bucket in ["images", "videos", "documents", "archives", "files"] {
        let chunks = db.collection::<Document>(&format!("{bucket}.chunks"));
        let names = chunks.list_index_names().await.unwrap();
        assert!(names.contains(&"files_id_1_n_1".to_owned()), "{bucket}: {names:?}");
        let id = new_id();
        let twin = || doc! { "_id": new_id(), "files_id": id, "n": 0 };
        chunks.insert_one(twin()).await.unwrap();
        assert!(chunks.insert_one(twin()).await.unwrap_err().to_string().contains("E11000"), "{bucket}");
    }
}

/// The bucket that the driver made is put right when a gateway takes it over.
#[tokio::test]
async fn a_bucket_the_driver_made_gets_a_unique_index_and_keeps_its_files() {
    let test = TestStore::bare(|_| {}).await;
    let bytes = noise(5000, 8);
    let mut upload = driver(&test.db, 1000).open_upload_stream("theirs").id("theirs".into()).await.unwrap();
    upload.write_all(&bytes).await.unwrap();
    upload.close().await.unwrap();
    let twin = || doc! { "_id": new_id(), "files_id": 1, "n": 0 };
    test.chunks().insert_many([twin(), twin()]).await.expect("the driver's index takes two chunks at one place");
    test.chunks().delete_many(doc! { "files_id": 1 }).await.unwrap();
    test.store.ensure_bucket(BUCKET).await.unwrap();
    assert!(test.chunks().insert_many([twin(), twin()]).await.unwrap_err().to_string().contains("E11000"));
    let file = test.store.find_grid_file(BUCKET, &"theirs".into()).await.unwrap().unwrap();
    assert_eq!(test.read(&file, 0..5000).await.unwrap(), bytes);
}

/// The driver writes `metadata: null` where there is none.
#[tokio::test]
async fn a_files_document_never_has_null_metadata() {
    let test = TestStore::start().await;
    test.write(1024, b"ours").await;
    assert_eq!(test.files().count_documents(doc! { "metadata": { "$type": "null" } }).await.unwrap(), 0);
    let mut upload = driver(&test.db, 1000).open_upload_stream("theirs").await.unwrap();
    upload.write_all(b"theirs").await.unwrap();
    upload.close().await.unwrap();
    let theirs = test.files().find_one(doc! { "filename": "theirs" }).await.unwrap().unwrap();
    let file = test.store.find_grid_file(BUCKET, theirs.get("_id").unwrap()).await.unwrap().unwrap();
    assert_eq!(test.read(&file, 0..6).await.unwrap(), b"theirs");
}

/// A write-concern error after the driver's last insert leaves a listed file without chunks: the
/// files document was stored, the error says it was not, and the stream takes its chunks away.
#[tokio::test]
async fn a_files_document_that_no_majority_confirmed_keeps_its_chunks() {
    let own = OwnMongod::fallible().await;
    let test = TestStore::on(&own.uri(), |_| {}).await;
    test.store.ensure_bucket(BUCKET).await.unwrap();
    let fail = async |times: i32| {
        let error = doc! { "code": 64, "errmsg": "timed out" };
        let namespace = format!("{}.files.files", test.db.name());
        let fail = doc! { "failCommands": ["insert"], "namespace": namespace, "writeConcernError": error };
        own.fail(times, fail).await;
    };
    let bytes = noise(2 << 20, 9);
    // Not confirmed at first, and confirmed when it is asked for again.
    fail(2).await;
    let file = test.write(CHUNK as u32, &bytes).await;
    assert!(driver_reads(&driver(&test.db, CHUNK as u32), file.files_id).await == bytes);
    // Never confirmed by the insert itself: a majority read shows that the document is there.
    fail(1000).await;
    let id: Id = new_id();
    let mut writer = test.writer(id, CHUNK as u32);
    writer.push(&bytes).await.unwrap();
    let chunks = writer.finish().await.unwrap();
    let files = gridgate::store::gridfs::FilesDocument {
        file: grid_file(id, CHUNK as u32, bytes.len()),
        filename: "unknown".to_owned(),
        metadata: doc! {},
    };
    test.store.insert_files_document(&files).await.unwrap();
    drop(chunks);
    settle().await;
    assert!(test.read(&files.file, 0..2 << 20).await.unwrap() == bytes);
    // The driver loses them.
    let mut upload = driver(&test.db, CHUNK as u32).open_upload_stream("lost").await.unwrap();
    upload.write_all(&bytes).await.unwrap();
    assert!(upload.close().await.is_err());
    drop(upload);
    settle().await;
    let lost = test.files().find_one(doc! { "filename": "lost" }).await.unwrap().expect("the file is listed");
    let of_lost = doc! { "files_id": lost.get("_id").unwrap() };
    assert_eq!(test.chunks().count_documents(of_lost).await.unwrap(), 0, "the driver no longer loses chunks");
}

/// Gives what runs in the background its time.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
}
