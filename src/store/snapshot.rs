//! Everything at one instant: the collections of metadata, as they were together, for a backup.
//!
//! The server keeps the past for `minSnapshotHistoryWindowInSeconds`, 300 s if not set otherwise: a snapshot
//! is read at once and quickly. Bytes are not read here; they do not change (`gridfs/export.rs`).

use std::time::Duration;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{DatabaseOptions, ReadConcern};
use mongodb::{ClientSession, Database, SessionCursor};

use super::limit::Within;
use super::schema::{COLLECTIONS, Keeping, REGISTRY};
use super::segments::State;
use super::{Store, StoreError, StoreResult};

/// Bytes of documents given at once.
pub const BATCH_LEN: usize = 4 << 20;
/// Documents given at once.
pub const BATCH_DOCUMENTS: usize = 1000;

/// SnapshotUnavailable: a collection was made or changed a moment ago.
const SNAPSHOT_UNAVAILABLE: i32 = 246;
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// How long the server keeps an instant, unless it is told otherwise: no read of it takes longer.
const KEPT: Duration = Duration::from_secs(300);

/// One instant of the database.
pub struct Snapshot {
    database: Database,
    session: ClientSession,
}

/// The documents of one collection at that instant.
pub struct SnapshotScan<'a> {
    cursor: SessionCursor<RawDocumentBuf>,
    session: &'a mut ClientSession,
}

impl Store {
    /// The instant at which all of [`COLLECTIONS`] can be read: after everything acknowledged before the call.
    ///
    /// # Errors
    /// When collections are made or changed all the time, and when the database fails.
    pub async fn snapshot(&self) -> StoreResult<Snapshot> {
        for _ in 1..TRIES {
            match self.try_snapshot().await {
                Err(error) if super::server_code(&error) == Some(SNAPSHOT_UNAVAILABLE) => {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return Self::require_instant(outcome?),
            }
        }
        Self::require_instant(self.try_snapshot().await?)
    }

    fn require_instant(snapshot: Snapshot) -> StoreResult<Snapshot> {
        match snapshot.session.snapshot_time() {
            Some(_) => Ok(snapshot),
            None => Err(StoreError::Unfit("it gives no snapshots, which need MongoDB 5.0 or later".into())),
        }
    }

    async fn try_snapshot(&self) -> mongodb::error::Result<Snapshot> {
        let mut session = self.meta.client().start_session().snapshot(true).within(self.limit).await?;
        // The driver lets a database's own read concern stand, and then no read is of the snapshot.
        let options = DatabaseOptions::builder().read_concern(ReadConcern::snapshot()).build();
        let database = self.meta.client().database_with_options(self.meta.name(), options);
        for (name, _) in COLLECTIONS {
            let collection = database.collection::<Document>(name);
            collection.find_one(doc! {}).projection(doc! { "_id": 1 }).session(&mut session).within(KEPT).await?;
        }
        Ok(Snapshot { database, session })
    }

    /// The collections of the database that a backup leaves out, by name.
    pub async fn list_left_out(&self) -> StoreResult<Vec<String>> {
        let mut names = self.meta.list_collection_names().within(self.limit).await?;
        names.retain(|name| !super::schema::is_kept(name) && !name.starts_with("system."));
        names.sort();
        Ok(names)
    }
}

impl Snapshot {
    /// The database's name.
    pub fn database(&self) -> &str {
        self.database.name()
    }

    /// Begins to read a collection.
    pub async fn scan(&mut self, collection: &str, keeping: Keeping) -> StoreResult<SnapshotScan<'_>> {
        let pipeline = match keeping {
            Keeping::Whole => Vec::new(),
            Keeping::Named(field) => named(field),
            Keeping::LeftOut(_) => vec![doc! { "$match": { "$expr": false } }],
        };
        let documents = self.database.collection::<Document>(collection);
        let cursor = documents.aggregate(pipeline).allow_disk_use(true).session(&mut self.session).within(KEPT).await?;
        Ok(SnapshotScan { cursor: cursor.with_type(), session: &mut self.session })
    }
}

/// Live documents whose blob a registry document names.
fn named(field: &str) -> Vec<Document> {
    vec![
        doc! { "$match": { "state": State::Live.name() } },
        doc! { "$lookup": { "from": REGISTRY, "localField": field, "foreignField": "blob", "as": "named",
        "pipeline": [{ "$limit": 1 }, { "$project": { "_id": 1 } }] } },
        doc! { "$match": { "named": { "$ne": [] } } },
        doc! { "$unset": "named" },
    ]
}

impl SnapshotScan<'_> {
    /// The next few; none at the end.
    ///
    /// # Errors
    /// [`StoreError::Other`] when the server no longer keeps the instant.
    pub async fn next(&mut self) -> StoreResult<Vec<RawDocumentBuf>> {
        let (mut found, mut len) = (Vec::new(), 0);
        while len < BATCH_LEN && found.len() < BATCH_DOCUMENTS {
            let next = async { self.cursor.next(self.session).await.transpose() };
            let Some(document) = next.within(KEPT).await? else { break };
            len += document.as_bytes().len();
            found.push(document);
        }
        Ok(found)
    }
}
