//! The use cases of files. [`Files`] is the handle that all of them share; each act is a file
//! beneath. HTTP is above, MongoDB below.

pub mod access;
pub mod adopt;
pub mod api_keys;
pub mod authenticate;
pub mod custom;
pub mod delete;
pub mod denials;
mod describe;
pub mod downloads;
pub mod edit;
pub mod json;
pub mod list;
pub mod open;
pub mod options;
pub mod presign;
pub mod protection;
pub mod publish;
pub mod put;
pub mod quota;
pub mod read;
mod repeats;
pub mod retention;
pub mod shares;
pub mod space;
pub mod tokens;
pub mod turns;
pub mod uploads;
pub mod verify;
mod write;

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::clock::Clock;
use crate::content::Routing;
use crate::error::{Error, ErrorCode, Result};
use crate::keyring::{KeyRing, Roots};
use crate::store::registry::FileDoc;
use crate::store::{DateTime, Id, Store};
use access::{Access, Action, Principal, Refusal, Resource, Role, permit};
use authenticate::KeyCache;
use denials::Denials;
use downloads::Downloads;
use presign::EpochCache;
use quota::LimitCache;
use shares::passwords::Passwords;
use space::Space;
use tokens::TokenKeys;
use turns::Turns;
use uploads::Writers;

/// How long things are kept.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSettings {
    /// How long condemned bytes are kept, 0 to 30 days.
    pub quarantine_secs: u64,
    /// How long a silent writer keeps its lease, 1 second to 1 hour.
    pub lease_secs: u64,
    /// How long after expiry the TTL index removes what the sweeper did not, 1 minute to 30 days.
    pub purge_grace_secs: u64,
    /// How long an idempotency key is remembered, 1 minute to 30 days.
    pub idempotency_secs: u64,
    /// Pause between two sweeps, 1 second to 1 day.
    pub sweep_interval_secs: u64,
    /// Pause between two scrubs, 0 (never) to 1 year.
    pub scrub_interval_secs: u64,
    /// How fast a scrub reads, 1 to 10,240 MiB a second.
    pub scrub_mib_per_sec: u64,
    /// Pause between two checks of the store, 0 (never) to 1 year.
    pub fsck_interval_secs: u64,
    /// How long an upload waits for its next part, and how long it is remembered once it ended, 1 second to 30 days.
    pub upload_life_secs: u64,
    /// Uploads that a tenant may have open, 1 to 1,000,000.
    pub max_open_uploads: u64,
    /// Disk space of the database that uploads leave free, 0 to 1,048,576 MiB.
    pub min_free_mib: u64,
    /// How long ranges and retries belong to a download of a share, at least, 60 seconds to 7 days.
    pub share_grant_secs: u64,
    /// How long accesses to shares and comments on them are kept, 1 to 3,650 days.
    pub share_log_days: u64,
}

impl StorageSettings {
    /// Names the first setting out of its range.
    pub fn check(&self) -> std::result::Result<(), String> {
        const DAY: u64 = 86_400;
        let ranges = [
            ("storage.quarantine_secs", self.quarantine_secs, 0..=30 * DAY),
            ("storage.lease_secs", self.lease_secs, 1..=3600),
            ("storage.purge_grace_secs", self.purge_grace_secs, 60..=30 * DAY),
            ("storage.idempotency_secs", self.idempotency_secs, 60..=30 * DAY),
            ("storage.sweep_interval_secs", self.sweep_interval_secs, 1..=DAY),
            ("storage.scrub_interval_secs", self.scrub_interval_secs, 0..=365 * DAY),
            ("storage.scrub_mib_per_sec", self.scrub_mib_per_sec, 1..=10_240),
            ("storage.fsck_interval_secs", self.fsck_interval_secs, 0..=365 * DAY),
            ("storage.upload_life_secs", self.upload_life_secs, 1..=30 * DAY),
            ("storage.max_open_uploads", self.max_open_uploads, 1..=1_000_000),
            ("storage.min_free_mib", self.min_free_mib, 0..=1 << 20),
            ("storage.share_grant_secs", self.share_grant_secs, 60..=7 * DAY),
            ("storage.share_log_days", self.share_log_days, 1..=3650),
        ];
        match ranges.into_iter().find(|(_, value, range)| !range.contains(value)) {
            Some((key, value, range)) => {
                Err(format!("{key}: {value} is not between {} and {}", range.start(), range.end()))
            }
            None => Ok(()),
        }
    }

    /// How long a silent holder keeps its lease.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_secs)
    }

    fn min_free_len(&self) -> u64 {
        self.min_free_mib << 20
    }
}

/// What every use case works with.
#[derive(Clone)]
pub struct Files {
    /// The database.
    pub store: Store,
    /// The keys.
    pub keys: Arc<Keys>,
    /// The buckets.
    pub routing: Arc<Routing>,
    /// How long things are kept.
    pub settings: StorageSettings,
    /// The time.
    pub clock: Clock,
    /// Keys seen in the last moment.
    pub key_cache: Arc<KeyCache>,
    /// Epochs of presigned URLs seen in the last moment.
    pub epochs: Arc<EpochCache>,
    /// The keys of tokens.
    pub token_keys: Arc<TokenKeys>,
    /// Entries of denied accesses.
    pub denials: Arc<Denials>,
    /// Entries in the logs of shares.
    pub share_entries: Arc<Denials>,
    /// Passwords of shares.
    pub passwords: Arc<Passwords>,
    /// Downloads to be counted.
    pub downloads: Arc<Downloads>,
    /// Which tenants have limits.
    pub limits: Arc<LimitCache>,
    /// Whose turn it is to publish.
    pub turns: Arc<Turns>,
    /// Who appends to which upload.
    pub writers: Arc<Writers>,
    /// Free space of the database.
    pub space: Arc<Space>,
}

/// The keyring and the roots it opened.
#[derive(Debug)]
pub struct Keys {
    /// Wraps data keys.
    pub ring: KeyRing,
    /// Everything else.
    pub roots: Roots,
}

impl Files {
    /// The instant reads and writes of this request take for now.
    pub fn now(&self) -> DateTime {
        DateTime::from_system_time(self.clock.now())
    }

    /// Finds a file for something that its principal may do with it.
    ///
    /// # Errors
    /// `forbidden`, `unauthenticated`; `file_not_found` for an absent, expired, foreign or hidden file alike.
    async fn find(&self, principal: &Principal, action: Action, file: Id) -> Result<FileDoc> {
        match self.find_as(principal, action, file).await {
            // What anybody may read is not kept from who is known.
            Err(refused)
                if action == Action::Download
                    && principal.role != Role::Anonymous
                    && matches!(refused.code, ErrorCode::Forbidden | ErrorCode::FileNotFound) =>
            {
                self.find_as(&Principal::anonymous(), action, file).await.map_err(|_| refused)
            }
            found => found,
        }
    }

    async fn find_as(&self, principal: &Principal, action: Action, file: Id) -> Result<FileDoc> {
        permit(principal, action, Resource::Tenant)?;
        let found = match principal.role {
            Role::Member(_) | Role::Link(_) => self.store.find_file(&principal.tenant, file, self.now()).await,
            Role::Anonymous => self.store.find_public_file(file, self.now()).await,
        };
        let found = found.map_err(|e| e.doing("look the file up"))?;
        let Some(found) = found else {
            return Err(match principal.role {
                Role::Member(_) | Role::Link(_) => Error::file_not_found(),
                // Told the same of what is there.
                Role::Anonymous => Refusal::Unknown.into(),
            });
        };
        // What no gateway wrote there is for its owner.
        let access = Access::from_name(&found.access).unwrap_or_default();
        let (tenant, owner) = (&*found.tenant, &*found.owner);
        permit(principal, action, Resource::File { id: found.file, tenant, owner, access })?;
        Ok(found)
    }

    /// The strong entity tag of a file's content: changes with the version, not with metadata.
    ///
    /// # Shape
    /// 32 hexadecimal digits, without quotes.
    pub fn etag(&self, file: &FileDoc) -> String {
        let mac = self.keys.roots.etag.mac(&[&file.file.bytes(), &file.version.to_be_bytes()]);
        hex::encode(&mac[..16])
    }
}
