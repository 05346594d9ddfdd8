//! What each tenant uses and may use.
//!
//! Three parts make up the truth. The tenant's *usage* document counts files and plaintext bytes. An
//! *entry* is a change not counted yet: written in the transaction that makes it, so that uploads of
//! one tenant do not abort each other on one document, and counted by the next [`fold`](Store::fold_usage).
//! A *hold* in the usage document reserves room for an upload until its entry is counted.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use super::audit::AuditDoc;
use super::limit::{SCAN_LIMIT, Within};
use super::registry::FileDoc;
use super::schema::{REGISTRY, USAGE, USAGE_ENTRIES};
use super::segments::lease_end;
use super::transaction::{StepError, Transaction};
use super::uploads::NewUpload;
use super::{Id, Store, StoreError, StoreResult, new_id};
use crate::failpoint;

/// Entries counted by one transaction.
const FOLD: i64 = 1000;

/// What a tenant may use; absent: as much as there is.
///
/// # Units
/// Plaintext bytes of all versions, whether stored once or often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Plaintext bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<i64>,
    /// Files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_files: Option<i64>,
    /// Uploads under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open_uploads: Option<i64>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Room reserved for one upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hold {
    /// The upload's.
    pub id: Id,
    /// Plaintext bytes.
    pub bytes: i64,
    /// When it counts as given up, unless renewed; in the database's time.
    pub until: DateTime,
}

/// What a tenant uses and may use.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageDoc {
    /// The tenant.
    #[serde(rename = "_id")]
    pub tenant: String,
    /// Plaintext bytes of its files.
    #[serde(default)]
    pub bytes: i64,
    /// Its files.
    #[serde(default)]
    pub files: i64,
    /// What it may use.
    #[serde(flatten)]
    pub limits: Limits,
    /// What its uploads under way reserve.
    #[serde(default)]
    pub holds: Vec<Hold>,
}

/// A change of what a tenant uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsageEntry {
    #[serde(rename = "_id")]
    id: Id,
    tenant: String,
    bytes: i64,
    files: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Id>,
}

impl UsageEntry {
    /// A file came, for which `hold` reserved room.
    pub fn added(file: &FileDoc, hold: Option<Id>) -> Self {
        Self { id: new_id(), tenant: file.tenant.clone(), bytes: file.content.size, files: 1, hold }
    }

    /// The same changes in as few entries as may be: those for which no room was reserved, in one a tenant.
    pub(super) fn merged<'a>(entries: impl Iterator<Item = &'a Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for entry in entries {
            let same = |other: &&mut Self| other.tenant == entry.tenant && other.hold.is_none() && entry.hold.is_none();
            match merged.iter_mut().find(same) {
                Some(other) => {
                    other.bytes += entry.bytes;
                    other.files += entry.files;
                }
                None => merged.push(entry.clone()),
            }
        }
        merged
    }

    /// A file went.
    pub fn removed(file: &FileDoc) -> Self {
        Self { id: new_id(), tenant: file.tenant.clone(), bytes: -file.content.size, files: -1, hold: None }
    }
}

/// The part of a tenant's use that is summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct UsageSums {
    /// Plaintext bytes.
    pub bytes: i64,
    /// Files.
    pub files: i64,
}

impl Store {
    pub(super) async fn append_usage(
        &self,
        entries: &[UsageEntry],
        session: &mut ClientSession,
    ) -> Result<(), StepError> {
        self.collection::<UsageEntry>(USAGE_ENTRIES).insert_many(entries).session(session).await?;
        Ok(())
    }

    /// What a tenant uses and may use, as far as it is counted.
    pub async fn find_usage(&self, tenant: &str) -> StoreResult<Option<UsageDoc>> {
        let usage = self.collection::<UsageDoc>(USAGE);
        Ok(usage.find_one(doc! { "_id": tenant }).max_time(self.query_timeout).within(self.limit).await?)
    }

    /// Sets what a tenant may use, with its audit entry.
    pub async fn set_limits(&self, tenant: &str, limits: Limits, audit: &AuditDoc) -> StoreResult<()> {
        let mut change = Document::new();
        let fields = [
            ("maxBytes", limits.max_bytes),
            ("maxFiles", limits.max_files),
            ("maxOpenUploads", limits.max_open_uploads),
        ];
        for (field, value) in fields {
            let (operator, value) = value.map_or(("$unset", Bson::Null), |value| ("$set", value.into()));
            change.entry(operator.to_owned()).or_insert_with(|| Bson::Document(Document::new()));
            change.get_document_mut(operator).map_err(|e| StoreError::Damaged(e.to_string()))?.insert(field, value);
        }
        self.upsert_audited::<Document>(USAGE, &doc! { "_id": tenant }, change, audit).await.map(drop)
    }

    /// Reserves room for an upload of a tenant with limits; false when there is not enough. One
    /// atomic step, so of many uploads at once exactly those that fit get room.
    pub async fn take_hold(&self, tenant: &str, hold: Id, bytes: i64, lease: Duration) -> StoreResult<bool> {
        let count = doc! { "$size": or("$holds", Bson::Array(Vec::new())) };
        let fits = doc! { "_id": tenant, "$expr": { "$and": [
            { "$lte": [{ "$add": [or("$bytes", 0_i64), { "$sum": "$holds.bytes" }, bytes] }, or("$maxBytes", i64::MAX)] },
            { "$lt": [{ "$add": [or("$files", 0_i64), count.clone()] }, or("$maxFiles", i64::MAX)] },
            { "$lt": [count, or("$maxOpenUploads", i64::MAX)] },
        ] } };
        let taken = doc! { "id": hold, "bytes": bytes, "until": lease_end(lease) };
        let take = doc! { "$set": { "holds": { "$concatArrays": [or("$holds", Bson::Array(Vec::new())), [taken]] } } };
        Ok(self.documents(USAGE).update_one(fits, vec![take]).within(self.limit).await?.matched_count == 1)
    }

    /// Reserves as much as an upload has grown to; false when there is not enough or the hold is gone.
    pub async fn grow_hold(&self, tenant: &str, hold: Id, bytes: i64, lease: Duration) -> StoreResult<bool> {
        let others = doc! { "$filter": { "input": "$holds", "cond": { "$ne": ["$$this.id", hold] } } };
        let used = doc! { "$let": { "vars": { "others": others }, "in": { "$sum": "$$others.bytes" } } };
        let fits = doc! { "_id": tenant, "holds.id": hold, "$expr": {
            "$lte": [{ "$add": [or("$bytes", 0_i64), used, bytes] }, or("$maxBytes", i64::MAX)],
        } };
        let grown = vec![set_hold(hold, doc! { "bytes": bytes, "until": lease_end(lease) })];
        Ok(self.documents(USAGE).update_one(fits, grown).within(self.limit).await?.matched_count == 1)
    }

    /// Whether a hold is there.
    pub async fn has_hold(&self, tenant: &str, hold: Id) -> StoreResult<bool> {
        let held = doc! { "_id": tenant, "holds.id": hold };
        Ok(self.documents(USAGE).count_documents(held).max_time(self.query_timeout).within(self.limit).await? == 1)
    }

    /// Renews a hold.
    pub async fn renew_hold(&self, tenant: &str, hold: Id, lease: Duration) -> StoreResult<()> {
        let held = doc! { "_id": tenant, "holds.id": hold };
        self.documents(USAGE)
            .update_one(held, vec![set_hold(hold, doc! { "until": lease_end(lease) })])
            .within(lease / 3)
            .await?;
        Ok(())
    }

    /// Gives back the room of an upload that made no file.
    pub async fn drop_hold(&self, tenant: &str, hold: Id) -> StoreResult<()> {
        let drop = doc! { "$pull": { "holds": { "id": hold } } };
        self.documents(USAGE).update_one(doc! { "_id": tenant }, drop).within(self.limit).await?;
        Ok(())
    }

    /// Makes one hold of those of partial uploads; where there are none, nothing is held.
    pub(super) async fn merge_holds(&self, new: &NewUpload<'_>, session: &mut ClientSession) -> Result<(), StepError> {
        let partials: Vec<Id> = new.partials.iter().map(|partial| partial.id).collect();
        let held = doc! { "_id": &new.upload.tenant, "holds.id": { "$in": &partials } };
        let others = doc! { "$filter": { "input": "$holds", "cond": { "$not": { "$in": ["$$this.id", &partials] } } } };
        let one = doc! { "id": new.upload.id, "bytes": new.upload.size, "until": lease_end(new.life) };
        let merge = doc! { "$set": { "holds": { "$concatArrays": [others, [one]] } } };
        self.documents(USAGE).update_one(held, vec![merge]).session(session).await?;
        Ok(())
    }

    /// Tenants with entries to count, or with holds that ran out.
    pub async fn find_unfolded(&self) -> StoreResult<Vec<String>> {
        let entries =
            self.documents(USAGE_ENTRIES).distinct("tenant", doc! {}).max_time(self.limit).within(self.limit).await?;
        let expired = doc! { "$expr": { "$anyElementTrue": { "$map": {
        "input": or("$holds", Bson::Array(Vec::new())), "in": { "$lt": ["$$this.until", "$$NOW"] } } } } };
        let stale =
            self.collection::<UsageDoc>(USAGE).find(expired).max_time(self.query_timeout).within(self.limit).await?;
        let mut tenants: Vec<String> = stale.map_ok(|usage| usage.tenant).try_collect().within(self.limit).await?;
        tenants.extend(entries.iter().filter_map(Bson::as_str).map(str::to_owned));
        tenants.sort_unstable();
        tenants.dedup();
        Ok(tenants)
    }

    /// Counts a tenant's entries, frees their holds and those that ran out. May be run by several
    /// gateways at once: each entry is counted once.
    pub async fn fold_usage(&self, tenant: &str) -> StoreResult<()> {
        while self.fold_some(tenant).await? == FOLD {}
        Ok(())
    }

    async fn fold_some(&self, tenant: &str) -> StoreResult<i64> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let rows = self.collection::<UsageEntry>(USAGE_ENTRIES);
                let mut found = rows.find(doc! { "tenant": tenant }).limit(FOLD).session(&mut *session).await?;
                let entries: Vec<UsageEntry> = found.stream(&mut *session).try_collect().within(limit).await?;
                let holds: Vec<Id> = entries.iter().filter_map(|entry| entry.hold).collect();
                let sum = |part: fn(&UsageEntry) -> i64| entries.iter().map(part).sum::<i64>();
                let kept = doc! { "$filter": { "input": or("$holds", Bson::Array(Vec::new())), "cond": { "$and": [
                    { "$not": { "$in": ["$$this.id", holds] } },
                    { "$gte": ["$$this.until", "$$NOW"] },
                ] } } };
                let count = doc! { "$set": {
                    "bytes": { "$add": [or("$bytes", 0_i64), sum(|entry| entry.bytes)] },
                    "files": { "$add": [or("$files", 0_i64), sum(|entry| entry.files)] },
                    "holds": kept,
                } };
                let usage = self.documents(USAGE);
                usage
                    .update_one(doc! { "_id": tenant }, vec![count])
                    .upsert(!entries.is_empty())
                    .session(&mut *session)
                    .await?;
                failpoint::hit("usage.added");
                let counted: Vec<Id> = entries.iter().map(|entry| entry.id).collect();
                rows.delete_many(doc! { "_id": { "$in": counted } }).session(session).await?;
                Ok(entries.len() as i64)
            };
            let outcome = steps.within(limit).await;
            if let Some(count) = transaction.conclude(outcome).await? {
                return Ok(count);
            }
        }
    }

    /// What a tenant's counters are off by, at one instant. They are off only where something else than
    /// a gateway removed files: the TTL index, or an operator.
    pub async fn measure_usage(&self, tenant: &str) -> StoreResult<UsageSums> {
        self.recount(tenant, false).await
    }

    /// Sets a tenant's counters to what its files add up to; gives what they were off by.
    pub async fn recount_usage(&self, tenant: &str) -> StoreResult<UsageSums> {
        self.recount(tenant, true).await
    }

    async fn recount(&self, tenant: &str, corrects: bool) -> StoreResult<UsageSums> {
        let mut transaction = Transaction::new(self).await?;
        loop {
            let (session, limit) = transaction.attempt().await?;
            let steps = async {
                let size = doc! { "$convert": { "input": "$content.size", "to": "long", "onError": 0, "onNull": 0 } };
                let of_file = doc! { "bytes": { "$sum": size }, "files": { "$sum": 1_i64 } };
                let files = self.sum(REGISTRY, tenant, of_file, &mut *session).await?;
                let of_entry = doc! { "bytes": { "$sum": "$bytes" }, "files": { "$sum": "$files" } };
                let entries = self.sum(USAGE_ENTRIES, tenant, of_entry, &mut *session).await?;
                let usage = self.collection::<UsageDoc>(USAGE);
                let found = usage.find_one(doc! { "_id": tenant }).session(&mut *session).await?.unwrap_or_default();
                let (bytes, files) = (files.bytes - entries.bytes, files.files - entries.files);
                let off = UsageSums { bytes: found.bytes - bytes, files: found.files - files };
                if corrects && off != UsageSums::default() {
                    let correct = doc! { "$set": { "bytes": bytes, "files": files } };
                    usage.update_one(doc! { "_id": tenant }, correct).upsert(true).session(session).await?;
                }
                Ok(off)
            };
            let outcome = steps.within(limit).await;
            if let Some(off) = transaction.conclude(outcome).await? {
                return Ok(off);
            }
        }
    }

    async fn sum(
        &self,
        collection: &str,
        tenant: &str,
        sums: Document,
        session: &mut ClientSession,
    ) -> Result<UsageSums, StepError> {
        let mut group = doc! { "_id": null };
        group.extend(sums);
        let pipeline = [doc! { "$match": { "tenant": tenant } }, doc! { "$group": group }];
        let documents = self.documents(collection);
        let mut found = documents.aggregate(pipeline).with_type::<UsageSums>().session(&mut *session).await?;
        Ok(found.next(session).await.transpose()?.unwrap_or_default())
    }

    /// Every tenant that has files or counters.
    pub async fn find_tenants(&self) -> StoreResult<Vec<String>> {
        let with_files = self.documents(REGISTRY).distinct("tenant", doc! {}).within(SCAN_LIMIT).await?;
        let with_usage = self.documents(USAGE).distinct("_id", doc! {}).within(SCAN_LIMIT).await?;
        let mut tenants: Vec<String> =
            with_files.iter().chain(&with_usage).filter_map(Bson::as_str).map(str::to_owned).collect();
        tenants.sort_unstable();
        tenants.dedup();
        Ok(tenants)
    }
}

/// A field, or what stands for its absence.
fn or(field: &str, absent: impl Into<Bson>) -> Document {
    doc! { "$ifNull": [field, absent.into()] }
}

/// A stage that changes one hold.
fn set_hold(hold: Id, change: Document) -> Document {
    let changed = doc! { "$mergeObjects": ["$$this", change] };
    let each = doc! { "$cond": [{ "$eq": ["$$this.id", hold] }, changed, "$$this"] };
    doc! { "$set": { "holds": { "$map": { "input": "$holds", "in": each } } } }
}
