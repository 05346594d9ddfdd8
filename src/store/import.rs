//! Documents put into a database by a restore: into an empty one, and taken out again when it fails.

use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::options::Hint;

use super::limit::{SCAN_LIMIT, Within};
use super::schema::{GUARDS, is_kept};
use super::{Store, StoreError, StoreResult};
use crate::failpoint;

impl Store {
    /// A collection that has a document, other than the guards.
    pub async fn find_occupied(&self) -> StoreResult<Option<String>> {
        for name in self.meta.list_collection_names().within(self.limit).await? {
            let is_ours_now = name == GUARDS || name.starts_with("system.");
            if !is_ours_now
                && self
                    .documents(&name)
                    .find_one(doc! {})
                    .projection(doc! { "_id": 1 })
                    .max_time(self.limit)
                    .within(self.limit)
                    .await?
                    .is_some()
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Inserts documents as they are.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when one is there.
    pub async fn import(&self, collection: &str, documents: &[RawDocumentBuf]) -> StoreResult<()> {
        self.data
            .collection::<RawDocumentBuf>(collection)
            .insert_many(documents)
            .ordered(false)
            .within(self.limit)
            .await?;
        Ok(())
    }

    /// The documents of a collection, counted one by one.
    pub async fn count(&self, collection: &str) -> StoreResult<u64> {
        Ok(self.documents(collection).count_documents(doc! {}).hint(by_id()).within(SCAN_LIMIT).await?)
    }

    /// Removes every collection that a restore makes.
    ///
    /// **MUST** be of a database that was empty when the restore began.
    pub async fn remove_import(&self) -> StoreResult<()> {
        let mut names: Vec<String> = self.meta.list_collection_names().within(self.limit).await?;
        names.retain(|name| is_kept(name));
        for name in names {
            self.documents(&name).drop().within(SCAN_LIMIT).await?;
            failpoint::hit("import.dropped");
        }
        Ok(())
    }
}

/// The index that every collection has: counting by it reads no documents.
fn by_id() -> Hint {
    Hint::Name("_id_".to_owned())
}

/// Reads a document that came from outside.
///
/// # Errors
/// When the bytes are no document of this type.
pub fn parse<T: serde::de::DeserializeOwned>(document: &RawDocumentBuf) -> StoreResult<T> {
    mongodb::bson::deserialize_from_slice(document.as_bytes()).map_err(|error| StoreError::Damaged(error.to_string()))
}
