//! MongoDB: the only module that names the driver, but for `mongod`, which starts one.
//!
//! [`Store`] holds the two clients and the bucket names; each file beneath holds one collection's
//! documents and the operations on them. No policy lives here: who may see a file, what is
//! encrypted and when bytes go is decided above.

pub mod api_keys;
pub mod audit;
mod audited;
pub mod blobs;
pub mod census;
pub mod chunks;
pub mod commit;
pub mod concat;
pub mod damage;
pub mod gridfs;
mod group;
pub mod guards;
pub mod hashing;
pub mod import;
pub mod keys;
pub mod leases;
mod limit;
pub mod orphans;
pub mod parts;
pub mod presign;
pub mod reclaim;
pub mod registry;
pub mod rekey;
pub mod row_copy;
pub mod rows;
pub mod runs;
pub mod schema;
pub mod segments;
pub mod shape;
pub mod shares;
pub mod shred;
pub mod snapshot;
mod standing;
pub mod tails;
pub mod transaction;
pub mod upload_memory;
pub mod uploads;
pub mod usage;
pub mod vitals;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use mongodb::bson::RawDocumentBuf;
pub use mongodb::bson::doc;
pub use mongodb::bson::oid::ObjectId as Id;
pub use mongodb::bson::{Binary, Bson, DateTime, Document};
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, Collection, Database};
use serde::Deserialize;
use thiserror::Error;

use commit::Commit;
use gridfs::read::SmallChunk;
use group::Group;
use limit::Within;
use registry::{FileDoc, Sought};
use rows::RowGroups;
use upload_memory::UploadMemory;

use crate::error::{Error, ErrorCode};
use crate::metrics;
use crate::secret::Secret;

/// How to reach and use the database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// An existing MongoDB; empty: embedded.
    pub uri: Secret,
    /// Database name.
    pub name: String,
    /// Connections for chunk documents, 4 to 1,000.
    pub data_pool: u32,
    /// Connections for everything else, 4 to 1,000.
    pub meta_pool: u32,
    /// How long to look for a primary, 1 to 120 seconds.
    pub selection_timeout_secs: u64,
    /// How long the gateway waits for one operation, 1 to 3,600 seconds.
    pub operation_timeout_secs: u64,
    /// How long one metadata query may run on the server, 100 to 600,000 ms.
    pub query_timeout_ms: u64,
    /// Chunk bytes that all uploads together may have on their way, 16 to 65,536 MiB.
    pub upload_budget_mib: u32,
    /// Of that, what the uploads of one credential may have while nobody else uploads, 10 to 100 percent.
    pub credential_budget_percent: u32,
}

impl DatabaseSettings {
    /// Names the first setting out of its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("database.data_pool", u64::from(self.data_pool), 4..=1000),
            ("database.meta_pool", u64::from(self.meta_pool), 4..=1000),
            ("database.selection_timeout_secs", self.selection_timeout_secs, 1..=120),
            ("database.operation_timeout_secs", self.operation_timeout_secs, 1..=3600),
            ("database.query_timeout_ms", self.query_timeout_ms, 100..=600_000),
            ("database.upload_budget_mib", u64::from(self.upload_budget_mib), 16..=65_536),
            ("database.credential_budget_percent", u64::from(self.credential_budget_percent), 10..=100),
        ];
        let forbidden = ['/', '\\', '.', ' ', '"', '$', '\0'];
        if self.name.is_empty() || self.name.len() > 63 || self.name.contains(forbidden) {
            return Err("database.name: 1 to 63 bytes without / \\ . \" $ or spaces".into());
        }
        match ranges.into_iter().find(|(_, value, range)| !range.contains(value)) {
            Some((key, value, range)) => {
                Err(format!("{key}: {value} is not between {} and {}", range.start(), range.end()))
            }
            None => Ok(()),
        }
    }
}

/// What a database operation ran into, as far as callers branch on it.
#[derive(Debug, Clone, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("a document with the same unique key exists")]
    Duplicate(#[source] mongodb::error::Error),
    #[error("the document is no longer in the state the operation needs")]
    Stale,
    #[error("the same content is stored already")]
    Taken,
    #[error("the database cannot be reached or has no primary")]
    Unavailable(#[source] mongodb::error::Error),
    #[error("more is being stored at once than the memory for it holds")]
    Busy,
    #[error("the operation did not finish in its time")]
    Timeout(#[source] mongodb::error::Error),
    #[error("the database has no disk space left")]
    NoSpace(#[source] mongodb::error::Error),
    #[error("the task that did it for several at once panicked")]
    Lost,
    #[error("stored documents contradict each other: {0}")]
    Damaged(String),
    #[error("the deployment cannot hold the store: {0}")]
    Unfit(String),
    #[error("{0}")]
    Other(#[source] mongodb::error::Error),
}

/// MaxTimeMSExpired, ExceededTimeLimit.
const TIMEOUT_CODES: [i32; 2] = [50, 262];
/// What a replica set answers while it changes its primary or shuts down: HostUnreachable,
/// HostNotFound, NetworkTimeout, ShutdownInProgress, PrimarySteppedDown,
/// NotWritablePrimary, InterruptedAtShutdown, InterruptedDueToReplStateChange, NotPrimaryNoSecondaryOk,
/// NotPrimaryOrSecondary.
const PASSING_CODES: [i32; 10] = [6, 7, 89, 91, 189, 10_107, 11_600, 11_602, 13_435, 13_436];
/// OutOfDiskSpace.
const OUT_OF_DISK_SPACE: i32 = 14_031;
/// DuplicateKey.
pub(crate) const DUPLICATE_KEY: i32 = 11_000;

impl From<mongodb::error::Error> for StoreError {
    fn from(error: mongodb::error::Error) -> Self {
        let error = Self::classify(error);
        match &error {
            // An answer that is expected.
            Self::Duplicate(_) => {}
            Self::Unavailable(_) => metrics::database_error("unavailable"),
            Self::Timeout(_) => metrics::database_error("timeout"),
            Self::NoSpace(_) => metrics::database_error("no_space"),
            _ => metrics::database_error("other"),
        }
        error
    }
}

impl StoreError {
    fn classify(error: mongodb::error::Error) -> Self {
        let code = server_code(&error);
        if code == Some(OUT_OF_DISK_SPACE) || error.to_string().contains("No space left on device") {
            return Self::NoSpace(error);
        }
        match (code, error.kind.as_ref()) {
            (Some(DUPLICATE_KEY), _) => Self::Duplicate(error),
            (Some(code), _) if TIMEOUT_CODES.contains(&code) => Self::Timeout(error),
            (Some(code), _) if PASSING_CODES.contains(&code) => Self::Unavailable(error),
            _ if limit::is_cut(&error) => Self::Timeout(error),
            (_, ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. }) => {
                Self::Unavailable(error)
            }
            // Done, but perhaps not by a majority.
            (_, ErrorKind::Write(mongodb::error::WriteFailure::WriteConcernError(_))) => Self::Unavailable(error),
            (_, ErrorKind::InsertMany(many)) if many.write_concern_error.is_some() => Self::Unavailable(error),
            _ if error.contains_label(mongodb::error::RETRYABLE_WRITE_ERROR)
                || error.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR) =>
            {
                Self::Unavailable(error)
            }
            _ => Self::Other(error),
        }
    }
}

fn server_code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(mongodb::error::WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(mongodb::error::WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        ErrorKind::InsertMany(many) => {
            many.write_errors.as_ref().and_then(|errors| errors.first()).map(|error| error.code)
        }
        _ => None,
    }
}

impl StoreError {
    /// The use case's error, with what it was doing.
    pub fn doing(self, doing: &'static str) -> Error {
        let code = match &self {
            Self::Unavailable(_) | Self::Stale | Self::Taken | Self::Busy => ErrorCode::Unavailable,
            Self::Timeout(_) => ErrorCode::Timeout,
            Self::NoSpace(_) => ErrorCode::InsufficientStorage,
            Self::Damaged(_) => return Error::damaged(doing, self),
            Self::Duplicate(_) | Self::Lost | Self::Unfit(_) | Self::Other(_) => ErrorCode::Internal,
        };
        Error::new(code, format!("Could not {doing}.")).because(self)
    }

    /// Whether the same operation may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_) | Self::Lost)
    }
}

/// A fresh id: the second, as in every ObjectId, and 64 random bits. What is inserted together lies together in an index,
/// so a large one is not touched all over (decision 0034). Walks over everything go from the newest to
/// the oldest, so that they end.
pub fn new_id() -> Id {
    let mut id = Id::new().bytes();
    id[4..].copy_from_slice(&crate::random::bytes::<8>());
    Id::from_bytes(id)
}

/// Where requests meet that look one document up.
fn look_ups<I: Send + 'static, O: Send + 'static>() -> Group<I, O> {
    Group::of_reads(64, |_| 1, group::READ_PATIENCE)
}

/// The result of a database operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// The database, as the product uses it: majority writes, majority reads from the primary.
#[derive(Clone)]
pub struct Store {
    meta: Database,
    data: Database,
    limit: Duration,
    query_timeout: Duration,
    upload_memory: Arc<UploadMemory>,
    commits: Group<Commit, (Commit, StoreResult<()>)>,
    files: Group<Sought, StoreResult<Option<FileDoc>>>,
    rows: RowGroups,
    small_chunks: Group<SmallChunk, StoreResult<Bytes>>,
}

/// By what the server names the two clients; transactions are the first one's.
const META_APP: &str = "gridgate-meta";
const DATA_APP: &str = "gridgate-data";

impl Store {
    /// Connects the two clients; nothing is sent to the server yet.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] for a URI that asks for weaker writes than `w: majority`.
    pub async fn connect(uri: &str, settings: &DatabaseSettings) -> StoreResult<Self> {
        let client = async |pool: u32, name: &str| -> StoreResult<Database> {
            let mut options = ClientOptions::parse(uri).await.map_err(|error| StoreError::Unfit(error.to_string()))?;
            require_majority(&options)?;
            options.app_name = Some(name.to_owned());
            options.max_pool_size = Some(pool);
            options.retry_writes = Some(true);
            options.retry_reads = Some(true);
            options.write_concern = Some(durable());
            options.read_concern = Some(ReadConcern::majority());
            options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
            options.server_selection_timeout = Some(Duration::from_secs(settings.selection_timeout_secs));
            options.connect_timeout = Some(Duration::from_secs(10));
            Ok(Client::with_options(options)?.database(&settings.name))
        };
        let budget_len = (settings.upload_budget_mib as usize) << 20;
        Ok(Self {
            meta: client(settings.meta_pool, META_APP).await?,
            data: client(settings.data_pool, DATA_APP).await?,
            limit: Duration::from_secs(settings.operation_timeout_secs),
            query_timeout: Duration::from_millis(settings.query_timeout_ms),
            upload_memory: Arc::new(UploadMemory::new(budget_len, settings.credential_budget_percent)),
            commits: commit::commits(),
            files: look_ups(),
            rows: RowGroups::new(),
            small_chunks: gridfs::read::small_chunks(),
        })
    }

    /// Whether a writable primary answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when not.
    pub async fn ping(&self) -> StoreResult<()> {
        self.meta.run_command(doc! { "ping": 1 }).within(self.limit).await?;
        Ok(())
    }

    fn collection<T: Send + Sync>(&self, name: &str) -> Collection<T> {
        self.meta.collection(name)
    }

    fn documents(&self, name: &str) -> Collection<Document> {
        self.meta.collection(name)
    }
}

/// What an answer depends on: a majority has it in its journal.
fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

fn require_majority(options: &ClientOptions) -> StoreResult<()> {
    let Some(concern) = &options.write_concern else { return Ok(()) };
    let is_majority = matches!(concern.w, None | Some(Acknowledgment::Majority));
    if is_majority && concern.journal != Some(false) {
        return Ok(());
    }
    Err(StoreError::Unfit(
        "the MongoDB URI asks for writes weaker than w=majority with journal; acknowledged files could be lost".into(),
    ))
}
