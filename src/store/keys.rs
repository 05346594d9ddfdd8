//! What the database remembers of keys: a check value for every key-encryption key it has seen,
//! and the wrapped roots. Key bytes come from the keyring above and are never stored here.

use futures::TryStreamExt;
use mongodb::bson::{Binary, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use super::import::parse;
use super::limit::Within;
use super::schema::KEYS;
use super::segments::{WrapDoc, binary};
use super::{Id, Store, StoreError, StoreResult};

#[derive(Serialize, Deserialize)]
struct KeyCheckDoc {
    #[serde(rename = "_id")]
    id: String,
    check: Binary,
}

/// One root key of the deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootDoc {
    /// `root:<purpose>`.
    #[serde(rename = "_id")]
    pub id: String,
    /// What its wrapping is bound to.
    pub binding: Id,
    /// The key, wrapped by the keyring.
    pub enc: WrapDoc,
}

/// What the documents of the collection say, wherever they were read.
#[derive(Debug, Default)]
pub struct KeyRecords {
    /// Key-check values by the keys' names.
    pub checks: Vec<(String, Vec<u8>)>,
    /// The roots.
    pub roots: Vec<RootDoc>,
}

impl KeyRecords {
    /// Reads documents; those of other kinds are left out.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when one of these kinds cannot be read.
    pub fn read(documents: &[RawDocumentBuf]) -> StoreResult<Self> {
        let mut records = Self::default();
        for document in documents {
            let id = document.get_str("_id").unwrap_or_default();
            if let Some(kid) = id.strip_prefix("kek:") {
                records.checks.push((kid.to_owned(), parse::<KeyCheckDoc>(document)?.check.bytes));
            } else if id.starts_with("root:") {
                records.roots.push(parse(document)?);
            }
        }
        Ok(records)
    }
}

/// The `_id` of a root.
pub fn root_id(purpose: &str) -> String {
    format!("root:{purpose}")
}

impl Store {
    /// Remembers a key's check value at first use and gives the one remembered.
    ///
    /// # Errors
    /// When the database fails; a differing value is the caller's to judge.
    pub async fn remember_key_check(&self, kid: &str, check: [u8; 8]) -> StoreResult<Vec<u8>> {
        let keys = self.collection::<KeyCheckDoc>(KEYS);
        let seen = keys
            .find_one_and_update(
                doc! { "_id": format!("kek:{kid}") },
                doc! { "$setOnInsert": { "check": binary(check) } },
            )
            .upsert(true)
            .return_document(mongodb::options::ReturnDocument::After)
            .within(self.limit)
            .await?
            .ok_or_else(|| StoreError::Damaged("an upsert returned nothing".into()))?;
        Ok(seen.check.bytes)
    }

    /// All roots.
    pub async fn find_roots(&self) -> StoreResult<Vec<RootDoc>> {
        let roots = doc! { "_id": { "$gte": "root:", "$lt": "root;" } };
        let found = self.collection::<RootDoc>(KEYS).find(roots).max_time(self.limit).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }

    /// Inserts a root unless another gateway was first.
    pub async fn insert_root(&self, root: &RootDoc) -> StoreResult<()> {
        match self.collection::<RootDoc>(KEYS).insert_one(root).within(self.limit).await.map_err(StoreError::from) {
            Ok(_) | Err(StoreError::Duplicate(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
