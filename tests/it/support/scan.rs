//! A database searched byte by byte, as somebody who stole it would.

use futures::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{RawDocumentBuf, doc};

/// The collections of which a document holds these bytes.
pub async fn find_bytes(db: &Database, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let names = db.list_collection_names().await.unwrap();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let mut documents = db.collection::<RawDocumentBuf>(&name).find(doc! {}).await.unwrap();
        while let Some(document) = documents.try_next().await.unwrap() {
            if document.as_bytes().windows(needle.len()).any(|window| window == needle) {
                found.push(name.clone());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}
