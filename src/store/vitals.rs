//! The deployment's vital signs: free disk space and how far back the oplog reaches.
//!
//! Measures and judges nothing; what is too little is `files/space.rs`'s decision.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::limit::Within;
use super::{Store, StoreResult};

/// An oplog fuller than this drops its oldest entries for new ones: only then its window means anything.
const FULL: f64 = 0.9;

impl Store {
    /// Free bytes on the disk of the primary's data; none where the deployment does not say.
    pub async fn free_disk(&self) -> StoreResult<Option<u64>> {
        let stats = self.meta.run_command(doc! { "dbStats": 1 }).within(self.limit).await?;
        let (used, total) = (number(&stats, "fsUsedSize"), number(&stats, "fsTotalSize"));
        Ok(used.zip(total).map(|(used, total)| (total - used).max(0.0) as u64))
    }

    /// How far back a full oplog reaches: a member that is away for longer has to be synchronized anew.
    ///
    /// None for a set of one member, for an oplog that is not full, and where the user may not read it.
    pub async fn oplog_window(&self) -> StoreResult<Option<Duration>> {
        let hello = self.meta.run_command(doc! { "hello": 1 }).within(self.limit).await?;
        if hello.get_array("hosts").map_or(0, Vec::len) < 2 {
            return Ok(None);
        }
        let local = self.meta.client().database("local");
        let stats = local.run_command(doc! { "collStats": "oplog.rs" }).within(self.limit).await;
        let Ok(stats) = stats else { return Ok(None) };
        let is_full =
            number(&stats, "size").zip(number(&stats, "maxSize")).is_some_and(|(size, most)| size > most * FULL);
        if !is_full {
            return Ok(None);
        }
        let oplog = local.collection::<Document>("oplog.rs");
        let end = async |direction: i32| -> StoreResult<Option<u32>> {
            let entry = oplog.find_one(doc! {}).sort(doc! { "$natural": direction }).max_time(self.query_timeout);
            let entry = entry.within(self.limit).await?;
            Ok(entry.and_then(|entry| entry.get_timestamp("ts").ok()).map(|ts| ts.time))
        };
        let (first, last) = (end(1).await?, end(-1).await?);
        Ok(first.zip(last).map(|(first, last)| Duration::from_secs(last.saturating_sub(first).into())))
    }
}

fn number(stats: &Document, key: &str) -> Option<f64> {
    match stats.get(key)? {
        Bson::Double(n) => Some(*n),
        Bson::Int32(n) => Some(f64::from(*n)),
        Bson::Int64(n) => Some(*n as f64),
        _ => None,
    }
}
