//! Backups made and restored by a test: databases to restore into, and what they hold compared.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use gridgate::backup::manifest::Manifest;
use gridgate::backup::verify::{RestoreReport, verify};
use gridgate::backup::{Place, Progress, restore, run};
use gridgate::error::Error;
use gridgate::keyring::KeyRing;
use gridgate::store::Store;
use gridgate::store::schema::is_kept;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use super::app::{ADMIN_KEY, MASTER_KEY, TestApp, all_buckets};
use super::{mongod, store};
use crate::starting::gridgate;

static NEXT: AtomicU64 = AtomicU64::new(0);

pub fn silent(_: Progress) {}

pub async fn backup(app: &TestApp, place: &Place) -> Manifest {
    run::backup(&app.app.files, place, &silent).await.unwrap()
}

/// A database to restore into; goes with its value.
pub struct Target {
    pub db: Database,
    pub store: Store,
}

impl Target {
    pub async fn new() -> Self {
        let name = format!("restored_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let store = Store::connect(mongod::uri(), &store::settings(&name)).await.unwrap();
        Self { db: Client::with_uri_str(mongod::uri()).await.unwrap().database(&name), store }
    }

    pub async fn restore(&self, place: &Place) -> Result<Manifest, Error> {
        self.restore_with(place, MASTER_KEY).await
    }

    pub async fn restore_with(&self, place: &Place, ring: &str) -> Result<Manifest, Error> {
        let ring = KeyRing::parse(ring).unwrap();
        restore::restore(&self.store, &ring, Duration::from_secs(2), place, &silent).await
    }

    /// A gateway on it, and the proof of what is in it; the gateway takes the database with it, too.
    pub async fn serve(&self, manifest: &Manifest) -> (TestApp, RestoreReport) {
        let app = TestApp::start_on(self.db.name().to_owned(), all_buckets).await;
        let report = verify(&app.app.files, manifest, true).await.unwrap();
        (app, report)
    }

    /// Whether there is no document at all.
    pub async fn is_empty(&self) -> bool {
        for name in self.db.list_collection_names().await.unwrap() {
            if self.db.collection::<Document>(&name).count_documents(doc! {}).await.unwrap() > 0 {
                return false;
            }
        }
        true
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        mongod::drop_database(self.db.name());
    }
}

/// Every document that a backup holds, by collection, in the order of the ids.
pub async fn contents(db: &Database) -> BTreeMap<String, Vec<Document>> {
    let mut found = BTreeMap::new();
    for name in db.list_collection_names().await.unwrap().into_iter().filter(|name| is_kept(name)) {
        let all = db.collection::<Document>(&name).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
        let documents: Vec<Document> = all.try_collect().await.unwrap();
        if !documents.is_empty() {
            found.insert(name, documents);
        }
    }
    found
}

/// A command of the program on a database of the run's mongod, with a lease of a second.
pub fn command(arguments: &[&str], database: &str) -> Command {
    let mut command = gridgate(arguments);
    command
        .env("GRIDGATE_MONGODB_URI", mongod::uri())
        .env("GRIDGATE_DATABASE", database)
        .env("GRIDGATE_MASTER_KEY", MASTER_KEY)
        .env("GRIDGATE_ADMIN_KEY", ADMIN_KEY)
        .env("GRIDGATE__STORAGE__LEASE_SECS", "1");
    command
}
