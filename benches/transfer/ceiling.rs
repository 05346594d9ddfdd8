//! What the database itself can do: the same documents inserted and found by nobody but the driver.

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{RawBinaryRef, RawDocumentBuf, doc, oid::ObjectId, rawdoc, spec::BinarySubtype};
use mongodb::options::{IndexOptions, WriteConcern};
use mongodb::{Collection, Database, IndexModel};

use crate::Outcome;
use crate::content::Body;

/// One piece of a body is one chunk here.
pub const CHUNK_LEN: usize = 2 << 20;
const BATCH: usize = 4;
const IN_FLIGHT: usize = 2;

/// Makes the indexes of a GridFS bucket.
///
/// Drivers make them with the first file longer than a chunk and once a process: a bucket of small
/// files would have none, and its reads would be of no use as a comparison.
pub async fn make_indexes(database: &Database, bucket: &str) -> Outcome<()> {
    let unique = IndexOptions::builder().unique(true).build();
    let by_file = IndexModel::builder().keys(doc! { "files_id": 1, "n": 1 }).options(unique).build();
    chunks_of(database, bucket).create_index(by_file).await?;
    let by_name = IndexModel::builder().keys(doc! { "filename": 1, "uploadDate": 1 }).build();
    files_of(database, bucket).create_index(by_name).await?;
    Ok(())
}

/// Inserts a body's chunks, 8 MiB an insert, two inserts in flight.
pub async fn insert(database: &Database, body: &Body) -> Outcome<String> {
    let chunks = chunks_of(database, "raw");
    let id = ObjectId::new();
    let numbered: Vec<_> = body.pieces.iter().cloned().enumerate().collect();
    stream::iter(numbered.chunks(BATCH).map(<[_]>::to_vec).collect::<Vec<_>>())
        .map(|batch| {
            let chunks = chunks.clone();
            tokio::spawn(async move {
                let documents =
                    batch.iter().map(|(n, payload)| chunk(id, *n, payload)).collect::<Result<Vec<_>, _>>()?;
                chunks.insert_many(documents).ordered(false).write_concern(WriteConcern::majority()).await
            })
        })
        .buffer_unordered(IN_FLIGHT)
        .map(|done| Ok::<_, Box<dyn std::error::Error>>(done??))
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(id.to_hex())
}

/// Reads the chunks with one cursor, as the driver batches them.
pub async fn find(database: &Database, id: ObjectId) -> Outcome<()> {
    let mut batches = chunks_of(database, "raw").find(doc! { "files_id": id }).sort(doc! { "n": 1 }).batch().await?;
    while batches.try_next().await?.is_some() {}
    Ok(())
}

/// A small file as two documents, of which the second waits for the majority's journal.
pub async fn insert_small(database: &Database, body: &Body) -> Outcome<String> {
    let id = ObjectId::new();
    let one = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).build();
    chunks_of(database, "raw").insert_one(chunk(id, 0, &body.pieces[0])?).write_concern(one).await?;
    let file = rawdoc! { "_id": id, "filename": "bench", "length": body.len as i64, "chunkSize": CHUNK_LEN as i32 };
    files_of(database, "raw").insert_one(file).write_concern(WriteConcern::majority()).await?;
    Ok(id.to_hex())
}

/// Its two documents read.
pub async fn find_small(database: &Database, id: ObjectId) -> Outcome<()> {
    files_of(database, "raw").find_one(doc! { "_id": id }).await?.ok_or("a raw file is not there")?;
    chunks_of(database, "raw").find_one(doc! { "files_id": id, "n": 0 }).await?.ok_or("a raw chunk is not there")?;
    Ok(())
}

fn chunk(id: ObjectId, n: usize, payload: &[u8]) -> mongodb::bson::error::Result<RawDocumentBuf> {
    let mut document = rawdoc! { "_id": ObjectId::new(), "files_id": id, "n": i32::try_from(n).unwrap_or(i32::MAX) };
    document.append(mongodb::bson::cstr!("data"), RawBinaryRef { subtype: BinarySubtype::Generic, bytes: payload });
    Ok(document)
}

fn chunks_of(database: &Database, bucket: &str) -> Collection<RawDocumentBuf> {
    database.collection(&format!("{bucket}.chunks"))
}

fn files_of(database: &Database, bucket: &str) -> Collection<RawDocumentBuf> {
    database.collection(&format!("{bucket}.files"))
}
