//! Leases of jobs: one gateway at a time does a job, and any other takes over when it dies.
//!
//! In the database's own time, so clocks of gateways do not matter. A lease keeps gateways from
//! repeating each other's work; what a job does **MUST** be safe without it.

use std::time::Duration;

use mongodb::bson::{Bson, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;

use super::limit::Within;
use super::schema::LEASES;
use super::segments::lease_end;
use super::{Id, Store, StoreResult};

#[derive(Deserialize)]
struct LeaseDoc {
    holder: Id,
}

impl Store {
    /// Takes or renews the lease of a job; false while another holder has it.
    pub async fn hold(&self, job: &str, holder: Id, length: Duration) -> StoreResult<bool> {
        let is_free = doc! { "$or": [
            { "$eq": ["$holder", holder] },
            { "$lte": ["$until", "$$NOW"] },
        ] };
        let change = |to: Bson, field: &str| doc! { "$cond": [is_free.clone(), to, field] };
        let hold = doc! { "holder": change(holder.into(), "$holder"), "until": change(lease_end(length), "$until") };
        let lease = self
            .collection::<LeaseDoc>(LEASES)
            .find_one_and_update(doc! { "_id": job }, vec![doc! { "$set": hold }])
            .upsert(true)
            .return_document(ReturnDocument::After)
            .within(self.limit)
            .await?;
        Ok(lease.is_some_and(|lease| lease.holder == holder))
    }

    /// Whether a holder is at a job.
    pub async fn is_held(&self, job: &str) -> StoreResult<bool> {
        let held = doc! { "_id": job, "$expr": { "$gt": ["$until", "$$NOW"] } };
        Ok(self.collection::<LeaseDoc>(LEASES).find_one(held).max_time(self.limit).within(self.limit).await?.is_some())
    }

    /// Gives a lease back before it runs out; another holder's stays.
    pub async fn let_go(&self, job: &str, holder: Id) -> StoreResult<()> {
        self.documents(LEASES).delete_one(doc! { "_id": job, "holder": holder }).within(self.limit).await?;
        Ok(())
    }
}
