//! One mongod for the whole run: the one named by `GRIDGATE_TEST_MONGODB`, else one started here,
//! which ends and takes its folder with it when the test process ends, however it ends.

use gridgate::mongod::{Mongod, MongodSettings, OnExit};
use mongodb::bson::doc;
use std::sync::OnceLock;

use super::data::new_folder;

static URI: OnceLock<String> = OnceLock::new();

/// The address of the run's mongod.
pub fn uri() -> &'static str {
    URI.get_or_init(|| std::env::var("GRIDGATE_TEST_MONGODB").unwrap_or_else(|_| start()))
}

/// Starts it on a thread and a runtime that outlive every test's own.
fn start() -> String {
    let (tell, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = new_folder("gridgate-test-");
            let settings = MongodSettings { cache_mib: 512, oplog_mib: 1024 };
            let mongod = Mongod::start(&settings, &folder, OnExit::RemoveFiles).await.unwrap();
            forget_soon(mongod.uri()).await;
            tell.send(mongod.uri().to_owned()).unwrap();
            std::future::pending::<()>().await;
            drop(mongod);
        });
    });
    hear.recv().expect("the test mongod starts")
}

/// A dropped collection keeps its files for as long as snapshots of the past are kept, five minutes by
/// default: with two dozen collections a test, thousands of files would burden every checkpoint.
async fn forget_soon(uri: &str) {
    let admin = mongodb::Client::with_uri_str(uri).await.unwrap().database("admin");
    let keep = doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": 60 };
    admin.run_command(keep).await.unwrap();
}

/// Drops a test's database, from a runtime of its own: the test's may be ending.
pub fn drop_database(name: &str) {
    let name = name.to_owned();
    let dropping = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = mongodb::Client::with_uri_str(uri()).await.unwrap();
            client.database(&name).drop().await.unwrap();
        });
    });
    dropping.join().unwrap();
}
