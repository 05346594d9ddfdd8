//! Everything in a database counted past the gateway, against what its files need.

use std::collections::HashMap;

use futures::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};

use super::app::TestApp;
use super::rows::Rows;

/// What a database holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// Registry documents.
    pub files: i64,
    /// Different blobs that they name.
    pub contents: i64,
    /// Plaintext bytes of all files.
    pub plain_len: i64,
    /// What there is beyond what the named blobs need.
    pub surplus: Surplus,
}

/// What no file needs; less than it needs is negative.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Surplus {
    pub blobs: i64,
    pub segments: i64,
    /// GridFS files documents.
    pub grid_files: i64,
    pub chunks: i64,
}

async fn all(app: &TestApp, collection: &str, fields: Document) -> Vec<Document> {
    let found = app.mongo().await.collection::<Document>(collection).find(doc! {}).projection(fields).await;
    found.unwrap().try_collect().await.unwrap()
}

/// Counts everything. Nothing may change meanwhile.
pub async fn recount(app: &TestApp) -> Recount {
    let registry = all(app, "file_registry", doc! { "blob": 1, "content.size": 1 }).await;
    let blobs: Vec<ObjectId> = registry.iter().map(|file| file.get_object_id("blob").unwrap()).collect();
    let sizes = registry.iter().map(|file| file.get_document("content").unwrap().get_i64("size").unwrap());
    let mut counted = Recount { files: registry.len() as i64, plain_len: sizes.sum(), ..Recount::default() };

    // What each segment needs: its blob, itself, its files document, its chunks.
    let segments = Rows::of(&app.mongo().await).find(doc! {}).await;
    let mut needed = HashMap::new();
    for segment in &segments {
        let stored_len = segment.get_i64("storedLen").unwrap();
        let chunks = stored_len.unsigned_abs().div_ceil(segment.get_i32("chunkSize").unwrap().unsigned_abs().into());
        needed.insert(segment.get_object_id("blob").unwrap(), chunks as i64);
    }
    let named: std::collections::HashSet<ObjectId> = blobs.into_iter().collect();
    counted.contents = named.len() as i64;
    let mut surplus = Surplus {
        blobs: all(app, "blobs", doc! { "_id": 1 }).await.len() as i64 - counted.contents,
        segments: segments.len() as i64 - counted.contents,
        grid_files: -counted.contents,
        chunks: -named.iter().map(|blob| needed.get(blob).copied().unwrap_or(0)).sum::<i64>(),
    };
    for bucket in app.app.files.routing.names() {
        surplus.grid_files += all(app, &format!("{bucket}.files"), doc! { "_id": 1 }).await.len() as i64;
        surplus.chunks += all(app, &format!("{bucket}.chunks"), doc! { "_id": 1 }).await.len() as i64;
    }
    counted.surplus = surplus;
    counted
}
