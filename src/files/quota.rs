//! Quotas: room for an upload is taken when it starts, trued up before it is published, and given
//! back if it makes no file. Counting is `store/usage.rs`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use super::access::{Action, Principal, Resource, permit};
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::store::audit::AuditDoc;
use crate::store::uploads::UploadDoc;
use crate::store::usage::{Limits, UsageDoc, UsageSums};
use crate::store::{Id, StoreError, doc, new_id};

/// How long an answer about limits is believed: the time a new limit takes to work.
const CACHE_TIME: Duration = Duration::from_millis(900);
const CACHE_ENTRIES: usize = 4096;
/// Plaintext bytes after which an upload of unknown length reserves what it has grown to.
const GROWTH: u64 = 8 << 20;
/// Pause between two counts of what changed.
pub const FOLD_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between two recounts.
pub const RECOUNT_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// Which tenants had limits a moment ago.
#[derive(Debug, Default)]
pub struct LimitCache(Mutex<HashMap<String, (Instant, bool)>>);

impl LimitCache {
    fn get(&self, tenant: &str) -> Option<bool> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(tenant).filter(|(seen, _)| seen.elapsed() < CACHE_TIME).map(|(_, is_limited)| *is_limited)
    }

    fn put(&self, tenant: &str, is_limited: bool) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(tenant.to_owned(), (Instant::now(), is_limited));
    }
}

/// Room reserved for one upload, kept alive while this is.
pub(super) struct Room {
    tenant: String,
    hold: Id,
    bytes: u64,
    _renewing: AbortOnDropHandle<()>,
}

impl Room {
    /// The hold that the upload's entry frees.
    pub(super) fn hold(&self) -> Id {
        self.hold
    }
}

impl Files {
    /// What a tenant uses and may use, counted up to now.
    ///
    /// # Errors
    /// `forbidden`, `unavailable`, `timeout`.
    pub async fn usage(&self, principal: &Principal, tenant: &str) -> Result<UsageDoc> {
        permit(principal, Action::Administer, Resource::Deployment)?;
        let fail = |error: StoreError| error.doing("look the quota up");
        self.store.fold_usage(tenant).await.map_err(fail)?;
        let found = self.store.find_usage(tenant).await.map_err(fail)?;
        Ok(found.unwrap_or_else(|| UsageDoc { tenant: tenant.to_owned(), ..UsageDoc::default() }))
    }

    /// Sets what a tenant may use; files that are there stay, however many.
    ///
    /// # Errors
    /// `forbidden`, `unavailable`, `timeout`.
    pub async fn set_limits(
        &self,
        principal: &Principal,
        tenant: &str,
        limits: Limits,
        request_id: Option<String>,
    ) -> Result<UsageDoc> {
        permit(principal, Action::Administer, Resource::Deployment)?;
        let audit = AuditDoc {
            id: new_id(),
            at: self.now(),
            tenant: tenant.to_owned(),
            actor: principal.actor.clone(),
            action: "quota.set".to_owned(),
            file: None,
            request_id,
            details: doc! { "maxBytes": limits.max_bytes, "maxFiles": limits.max_files,
            "maxOpenUploads": limits.max_open_uploads },
        };
        let (files, of) = (self.clone(), tenant.to_owned());
        let setting = tokio::spawn(async move { files.store.set_limits(&of, limits, &audit).await });
        let set = setting.await.map_err(|error| Error::internal("set the quota", error))?;
        set.map_err(|e| e.doing("set the quota"))?;
        self.usage(principal, tenant).await
    }

    /// Reserves room for an upload; none where the tenant has no limits.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub(super) async fn take_room(&self, tenant: &str, announced_len: Option<u64>) -> Result<Option<Room>> {
        if !self.is_limited(tenant).await? {
            return Ok(None);
        }
        let fail = |error: StoreError| error.doing(RESERVING);
        let (hold, bytes, lease) = (new_id(), announced_len.unwrap_or(0), self.settings.lease());
        let take = async || self.store.take_hold(tenant, hold, number(bytes)?, lease).await.map_err(fail);
        if !take().await? {
            // What was deleted a moment ago may not be counted yet.
            self.store.fold_usage(tenant).await.map_err(fail)?;
            if !take().await? {
                return Err(self.exceeded(tenant, bytes).await);
            }
        }
        let (store, of) = (self.store.clone(), tenant.to_owned());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                if let Err(error) = store.renew_hold(&of, hold, lease).await {
                    tracing::warn!(error = %error, "could not renew the room of an upload");
                }
            }
        });
        Ok(Some(Room { tenant: tenant.to_owned(), hold, bytes, _renewing: AbortOnDropHandle::new(renewing) }))
    }

    /// Reserves what an upload of unknown length has grown to, every few MiB.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub(super) async fn grow_room(&self, room: &mut Option<Room>, plain_len: u64) -> Result<()> {
        match room {
            Some(room) if plain_len >= room.bytes.saturating_add(GROWTH) => self.resize(room, plain_len).await,
            _ => Ok(()),
        }
    }

    /// Reserves exactly what an upload turned out to be, before it is published, and makes sure that the
    /// room is still its own.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub(super) async fn settle_room(&self, room: &mut Option<Room>, plain_len: u64) -> Result<()> {
        match room {
            Some(room) => self.resize(room, plain_len).await,
            None => Ok(()),
        }
    }

    async fn resize(&self, room: &mut Room, plain_len: u64) -> Result<()> {
        self.reserve(&room.tenant, room.hold, plain_len, self.settings.lease()).await?;
        room.bytes = plain_len;
        Ok(())
    }

    /// Makes a hold exactly so large, and live so long from now.
    async fn reserve(&self, tenant: &str, hold: Id, plain_len: u64, lease: Duration) -> Result<()> {
        let fail = |error: StoreError| error.doing(RESERVING);
        let bytes = number(plain_len)?;
        let grow = async || self.store.grow_hold(tenant, hold, bytes, lease).await.map_err(fail);
        if !grow().await? {
            self.store.fold_usage(tenant).await.map_err(fail)?;
            // A hold that nobody could renew in time is gone, and taken anew.
            let is_held = self.store.has_hold(tenant, hold).await.map_err(fail)?;
            let has_room = match is_held {
                true => grow().await?,
                false => self.store.take_hold(tenant, hold, bytes, lease).await.map_err(fail)?,
            };
            if !has_room {
                return Err(self.exceeded(tenant, plain_len).await);
            }
        }
        Ok(())
    }

    /// Reserves room for an upload, for as long as it is open.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub(super) async fn hold_upload(&self, upload: &UploadDoc) -> Result<()> {
        if !self.is_limited(&upload.tenant).await? {
            return Ok(());
        }
        self.reserve(&upload.tenant, upload.id, upload.size.unwrap_or(0).unsigned_abs(), self.upload_life()).await
    }

    /// Keeps the room of an upload alive, and reserves what one of unknown length has grown to.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub(super) async fn grow_upload(&self, upload: &UploadDoc, end: u64) -> Result<()> {
        if !self.is_limited(&upload.tenant).await? {
            return Ok(());
        }
        let bytes = match upload.size {
            Some(size) => size.unsigned_abs(),
            None => end.max(self.held_bytes(upload).await?),
        };
        self.reserve(&upload.tenant, upload.id, bytes, self.upload_life()).await
    }

    /// Reserves exactly what an upload turned out to be; gives the hold that its entry frees.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub(super) async fn settle_upload(&self, upload: &UploadDoc, size: u64) -> Result<Option<Id>> {
        if !self.is_limited(&upload.tenant).await? {
            return Ok(None);
        }
        self.reserve(&upload.tenant, upload.id, size, self.upload_life()).await.map(|()| Some(upload.id))
    }

    async fn held_bytes(&self, upload: &UploadDoc) -> Result<u64> {
        let usage = self.store.find_usage(&upload.tenant).await.map_err(|e| e.doing(RESERVING))?.unwrap_or_default();
        let held = usage.holds.iter().find(|hold| hold.id == upload.id);
        Ok(held.map_or(0, |hold| hold.bytes.unsigned_abs()))
    }

    /// Gives back the room of an upload that ended without a file.
    pub(super) async fn free_upload(&self, upload: &UploadDoc) {
        if let Err(error) = self.store.drop_hold(&upload.tenant, upload.id).await {
            tracing::debug!(error = %error, "the room of an ended upload is freed when its time is over");
        }
    }

    /// Gives back the room of an upload that made no file.
    pub(super) async fn give_room_back(&self, room: Option<Room>) {
        if let Some(room) = room
            && let Err(error) = self.store.drop_hold(&room.tenant, room.hold).await
        {
            tracing::debug!(error = %error, "the room of an ended upload is freed when its lease runs out");
        }
    }

    async fn is_limited(&self, tenant: &str) -> Result<bool> {
        if let Some(is_limited) = self.limits.get(tenant) {
            return Ok(is_limited);
        }
        let usage = self.store.find_usage(tenant).await.map_err(|e| e.doing("look the quota up"))?;
        let is_limited = usage.is_some_and(|usage| !usage.limits.is_empty());
        self.limits.put(tenant, is_limited);
        Ok(is_limited)
    }

    /// Says which limit an upload does not fit in.
    async fn exceeded(&self, tenant: &str, bytes: u64) -> Error {
        let usage = match self.store.find_usage(tenant).await {
            Ok(usage) => usage.unwrap_or_default(),
            Err(error) => return error.doing(RESERVING),
        };
        let (limits, open) = (usage.limits, usage.holds.len() as i64);
        let reserved: i64 = usage.holds.iter().map(|hold| hold.bytes).sum();
        let error = |detail| Error::new(ErrorCode::QuotaExceeded, detail);
        if let Some(most) = limits.max_open_uploads.filter(|most| open >= *most) {
            return error(format!("The tenant may have {most} uploads under way at once."));
        }
        if let Some(most) = limits.max_files.filter(|most| usage.files + open >= *most) {
            return error(format!("The tenant may have {most} files."));
        }
        let most = limits.max_bytes.unwrap_or_default();
        error(format!(
            "The tenant may store {most} bytes, {} are used or reserved, and {bytes} are too many.",
            usage.bytes + reserved
        ))
        .with("limitBytes", most)
    }

    /// Counts what changed, for every tenant.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn fold_usage(&self) -> Result<()> {
        let fail = |error: StoreError| error.doing("count what is used");
        let mut outcome = Ok(());
        for tenant in self.store.find_unfolded().await.map_err(fail)? {
            if let Err(error) = self.store.fold_usage(&tenant).await {
                outcome = Err(fail(error));
            }
        }
        outcome
    }

    /// Corrects every tenant's counters where something else than a gateway removed files.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn recount_usage(&self) -> Result<()> {
        let fail = |error: StoreError| error.doing("recount what is used");
        let mut outcome = Ok(());
        for tenant in self.store.find_tenants().await.map_err(fail)? {
            match self.store.recount_usage(&tenant).await {
                Ok(off) if off == UsageSums::default() => {}
                Ok(off) => tracing::warn!(tenant, ?off, "the counters were off and are corrected"),
                // One tenant's must not keep the others from theirs.
                Err(error) => outcome = Err(fail(error)),
            }
        }
        outcome
    }
}

const RESERVING: &str = "reserve room";

fn number(bytes: u64) -> Result<i64> {
    i64::try_from(bytes).map_err(|_| Error::too_large(i64::MAX as u64))
}
