//! One mongod for the whole run: the one named by `GRIDGATE_TEST_MONGODB`, else one started here,
//! which ends and takes its folder with it when the test process ends, however it ends.

use std::sync::{OnceLock, mpsc};

use gridgate::mongod::{Mongod, MongodSettings, OnExit};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use tokio::runtime::{Builder, Handle};

use super::data::new_folder;

/// With less, eviction threads take much of the processors.
const CACHE_MIB: u64 = 2048;
/// Seconds for which snapshots of the past are kept, and dropped content with them; five minutes by default.
const HISTORY_SECS: i32 = 60;
/// Content that is not worth a drop: mongod drops a file in about 15 ms, one after the other, and makes none meanwhile.
const KEPT_LEN: i64 = 2 << 20;
/// Files of databases whose tests are over are closed soon; each test leaves 50.
const CLOSE_IDLE: &str = "file_manager=(close_idle_time=10,close_scan_interval=10,close_handle_minimum=100)";

static RUN: OnceLock<Run> = OnceLock::new();

struct Run {
    uri: String,
    client: Client,
    /// Started here, and gone with the run.
    is_own: bool,
    /// Outlives every test's own runtime.
    runtime: Handle,
}

/// The address of the run's mongod.
pub fn uri() -> &'static str {
    &run().uri
}

fn run() -> &'static Run {
    RUN.get_or_init(start)
}

fn start() -> Run {
    let (tell, hear) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let named = std::env::var("GRIDGATE_TEST_MONGODB").ok();
            let own = if named.is_none() { Some(start_mongod().await) } else { None };
            let uri = named.or(own.as_ref().map(|own| own.uri().to_owned())).unwrap();
            let client = Client::with_uri_str(&uri).await.unwrap();
            if own.is_some() {
                tune(&client).await;
            }
            tell.send(Run { uri, client, is_own: own.is_some(), runtime: Handle::current() }).unwrap();
            std::future::pending::<()>().await;
            drop(own);
        });
    });
    hear.recv().expect("the test mongod starts")
}

async fn start_mongod() -> Mongod {
    let settings = MongodSettings { cache_mib: CACHE_MIB, oplog_mib: 1024 };
    Mongod::start(&settings, &new_folder("gridgate-test-"), OnExit::RemoveFiles).await.unwrap()
}

async fn tune(client: &Client) {
    let parameters = doc! {
        "setParameter": 1,
        "minSnapshotHistoryWindowInSeconds": HISTORY_SECS,
        "wiredTigerEngineRuntimeConfig": CLOSE_IDLE,
    };
    client.database("admin").run_command(parameters).await.unwrap();
}

/// Takes what is large of a test's database away, and all of it from a mongod that outlives the run. On the runtime
/// that outlives the test's own: that one may be ending.
pub fn drop_database(name: &str) {
    let Run { client, is_own, runtime, .. } = run();
    let (database, is_own) = (client.database(name), *is_own);
    let (tell, hear) = mpsc::channel();
    runtime.spawn(async move {
        if is_own {
            drop_content(&database).await;
        } else {
            database.drop().await.unwrap();
        }
        tell.send(()).unwrap();
    });
    hear.recv().expect("the run's mongod is there");
}

async fn drop_content(database: &Database) {
    let names = database.list_collection_names().await.unwrap();
    for chunks in names.iter().filter(|name| name.ends_with(".chunks")) {
        let stats = database.run_command(doc! { "collStats": chunks }).await.unwrap();
        let len = stats.get_i64("size").or_else(|_| stats.get_i32("size").map(i64::from)).unwrap();
        if len > KEPT_LEN {
            database.collection::<Document>(chunks).drop().await.unwrap();
        }
    }
}
