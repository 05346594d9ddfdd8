//! The tails of uploads: sealed bytes at their ends. They come and go with [`hand_over`](Store::hand_over).

use futures::TryStreamExt;
use mongodb::bson::{Binary, doc};
use serde::{Deserialize, Serialize};

use super::limit::Within;
use super::rows::ROWS_AT_ONCE;
use super::schema::TAILS;
use super::{Id, Store, StoreResult};

/// Bytes at the end of an upload that are too few for a segment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TailDoc {
    /// Random.
    #[serde(rename = "_id")]
    pub id: Id,
    /// Whose they are.
    pub upload: Id,
    /// Where they begin.
    pub off: i64,
    /// How many they are.
    pub len: i64,
    /// Sealed under the upload's key.
    pub data: Binary,
}

impl Store {
    /// The tail of an upload, in order.
    pub async fn find_tail(&self, upload: Id) -> StoreResult<Vec<TailDoc>> {
        let tails = self.collection::<TailDoc>(TAILS);
        let found = tails.find(doc! { "upload": upload }).sort(doc! { "off": 1 }).batch_size(ROWS_AT_ONCE);
        let found = found.max_time(self.query_timeout).within(self.limit).await?;
        Ok(found.try_collect().within(self.limit).await?)
    }
}
