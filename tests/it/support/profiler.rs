//! What the server says it did: MongoDB's profiler, which counts exactly and for one database.

use futures::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Document, doc};

/// Starts counting.
pub async fn start(db: &Database) {
    db.run_command(doc! { "profile": 2 }).await.unwrap();
}

/// Stops counting and gives the operations on a collection, in order; forgets them.
pub async fn stop(db: &Database, collection: &str) -> Vec<Document> {
    stop_and_find(db, doc! { "ns": format!("{}.{collection}", db.name()) }).await
}

/// Stops counting and gives all operations, in order; forgets them.
pub async fn stop_all(db: &Database) -> Vec<Document> {
    stop_and_find(db, doc! { "ns": { "$ne": format!("{}.system.profile", db.name()) } }).await
}

async fn stop_and_find(db: &Database, filter: Document) -> Vec<Document> {
    db.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = db.collection::<Document>("system.profile");
    let found = profile.find(filter).sort(doc! { "ts": 1 }).await.unwrap().try_collect().await.unwrap();
    profile.drop().await.unwrap();
    found
}

/// The sum of a counter such as `docsExamined`.
pub fn sum(operations: &[Document], counter: &str) -> i64 {
    let number = |operation: &Document| {
        operation.get_i64(counter).or_else(|_| operation.get_i32(counter).map(i64::from)).unwrap_or(0)
    };
    operations.iter().map(number).sum()
}
