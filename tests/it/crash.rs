//! The program dies, as by a SIGKILL, at every step that leaves something behind. What was
//! acknowledged is there and exact, what was not is whole or absent, and one sweep cleans up.
//!
//! The long jobs die in `crash_jobs.rs`. The tables in `docs/reliability.md` say the same in words; a test
//! compares them with the code.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use gridgate::config::Settings;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::Value;
use tempfile::TempDir;

use crate::starting::{Gateway, gridgate};
use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, noise};
use crate::support::model::prose;
use crate::support::mongod;
use crate::support::recount::{Surplus, recount};
use crate::support::requests::send;
use crate::tidy::files_with;
use crate::{crash_jobs, crash_uploads};

const TYPE: &str = "application/octet-stream";
const SIGABRT: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(30);

/// Above 8 MiB, so that a first batch goes out before the last byte has come.
const LARGE_LEN: usize = 10 << 20;
/// Committed in one transaction, chunks included.
const SMALL_LEN: usize = 1000;
/// In chunks of 64 KiB more than one window of a reap.
const MANY_CHUNKS_LEN: usize = 17 << 20;

/// What the program is asked to do when it dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    /// An upload of which 5 MiB come and no more.
    SlowUpload,
    LargeUpload,
    SmallUpload,
    /// Uploads of what is there.
    LargeShare,
    SmallShare,
    Delete,
    /// `gridgate sweep` over a file that expired.
    Expiry,
    /// `gridgate sweep` over a file that was deleted.
    Sweep,
    /// What a gateway does every two seconds with the changes of usage.
    Count,
}

impl Act {
    const fn name(self) -> &'static str {
        match self {
            Self::SlowUpload => "slow upload",
            Self::LargeUpload => "large upload",
            Self::SmallUpload => "small upload",
            Self::LargeShare => "large share",
            Self::SmallShare => "small share",
            Self::Delete => "delete",
            Self::Expiry => "expiry",
            Self::Sweep => "sweep",
            Self::Count => "count",
        }
    }
}

/// What became of the file that the act was about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Subject {
    Whole,
    Absent,
}
use Subject::{Absent, Whole};

/// One death: where, in which act, what became of its file, and what no file needs afterwards: blobs,
/// segments, files documents, chunks.
struct Death(&'static str, Act, Subject, [i64; 4]);

const NOTHING: [i64; 4] = [0; 4];

const UPLOADS: [Death; 9] = [
    Death("upload.reserved", Act::SlowUpload, Absent, [1, 1, 0, 0]),
    Death("upload.batch", Act::SlowUpload, Absent, [1, 1, 0, 2]),
    Death("upload.chunks", Act::LargeUpload, Absent, [1, 1, 0, 6]),
    Death("upload.files", Act::LargeUpload, Absent, [1, 1, 1, 6]),
    Death("commit.before", Act::SmallUpload, Absent, NOTHING),
    Death("transaction.ready", Act::SmallUpload, Absent, NOTHING),
    Death("transaction.ready", Act::LargeUpload, Absent, [1, 1, 1, 6]),
    Death("transaction.committed", Act::SmallUpload, Whole, NOTHING),
    Death("transaction.committed", Act::LargeUpload, Whole, NOTHING),
];

const SHARES: [Death; 4] = [
    Death("attach.before", Act::LargeShare, Absent, [1, 1, 1, 13]),
    Death("transaction.ready", Act::SmallShare, Absent, NOTHING),
    Death("transaction.committed", Act::SmallShare, Whole, NOTHING),
    Death("transaction.committed", Act::LargeShare, Whole, [1, 1, 1, 13]),
];

const DELETES: [Death; 5] = [
    Death("remove.before", Act::Delete, Whole, NOTHING),
    Death("transaction.ready", Act::Delete, Whole, NOTHING),
    Death("transaction.committed", Act::Delete, Absent, [1, 1, 1, 1]),
    Death("condemn.before", Act::Delete, Absent, [1, 1, 1, 1]),
    Death("condemn.after", Act::Delete, Absent, [1, 1, 1, 1]),
];

const SWEEPS: [Death; 10] = [
    Death("sweep.leased", Act::Sweep, Absent, [1, 1, 1, 272]),
    Death("reap.files", Act::Sweep, Absent, [1, 1, 0, 272]),
    Death("reap.window", Act::Sweep, Absent, [1, 1, 0, 16]),
    Death("reap.chunks", Act::Sweep, Absent, [1, 1, 0, 0]),
    Death("reap.rows", Act::Sweep, Absent, [1, 0, 0, 0]),
    Death("remove.before", Act::Expiry, Absent, NOTHING),
    Death("transaction.ready", Act::Expiry, Absent, NOTHING),
    Death("transaction.committed", Act::Expiry, Absent, [1, 1, 1, 1]),
    Death("condemn.before", Act::Expiry, Absent, [1, 1, 1, 1]),
    Death("condemn.after", Act::Expiry, Absent, [1, 1, 1, 1]),
];

const COUNTS: [Death; 3] = [
    Death("usage.added", Act::Count, Whole, NOTHING),
    Death("transaction.ready", Act::Count, Whole, NOTHING),
    Death("transaction.committed", Act::Count, Whole, NOTHING),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_an_upload_leaves_a_whole_file_or_none() {
    die_at_each(&UPLOADS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_an_upload_of_known_content_leaves_a_whole_file_or_none() {
    die_at_each(&SHARES, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_a_delete_leaves_the_file_or_what_a_sweep_takes() {
    die_at_each(&DELETES, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_a_sweep_is_made_good_by_the_next() {
    let small_chunks = |settings: &mut Settings| {
        let bucket = settings.buckets.get_mut("files").unwrap();
        (bucket.large_chunk_kib, bucket.max_bytes) = (64, 1 << 30);
    };
    die_at_each(&SWEEPS, small_chunks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_the_count_of_what_is_used_counts_nothing_twice() {
    die_at_each(&COUNTS, |_| {}).await;
}

/// Runs a command of the program, which dies at a point.
pub async fn die_at(point: &str, command: Command) {
    let mut dying = tokio::process::Command::from(command);
    let output = dying.env("GRIDGATE_FAILPOINT", point).output().await.unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT), "it did not die at {point}: {output:?}");
}

/// Dies at each point in turn, in two houses at once.
async fn die_at_each(deaths: &[Death], change: impl Fn(&mut Settings)) {
    let houses = deaths.chunks(5).map(|deaths| die_in_one_house(deaths, &change));
    futures::future::join_all(houses).await;
}

/// The program that is to die at a point is the one restarted after the last.
async fn die_in_one_house(deaths: &[Death], change: impl FnOnce(&mut Settings)) {
    let mut house = House::build(change).await;
    for death in deaths {
        house.suffer(death).await;
    }
    let gateway = house.restart(&mut house.program(&[])).await;
    house.read_all(&gateway).await;
}

/// A database with healthy files and a gateway beside the one that dies.
struct House {
    app: TestApp,
    folder: TempDir,
    /// What was acknowledged or found whole, with its bytes.
    files: Vec<(Value, Vec<u8>)>,
    restarts: u32,
}

impl House {
    async fn build(change: impl FnOnce(&mut Settings)) -> Self {
        let app = TestApp::start_with(|settings| {
            (settings.storage.quarantine_secs, settings.storage.lease_secs) = (0, 1);
            change(settings);
        });
        let mut house = Self { app: app.await, folder: TempDir::new().unwrap(), files: Vec::new(), restarts: 0 };
        let large = noise(3 << 20, 1);
        for (query, bytes) in [
            ("name=small", noise(SMALL_LEN, 2)),
            ("name=large", large.clone()),
            ("name=again", large),
            ("name=plain&encrypt=false&compress=none", noise(900_000, 3)),
            ("name=text&compress=gzip", prose(500_000, 4)),
            ("name=empty", Vec::new()),
        ] {
            let file = house.app.put(query, TYPE, bytes.clone()).await;
            house.files.push((file, bytes));
        }
        assert!(sweep(&house.app.app.files).await.is_ok());
        house
    }

    /// A command of the program on this database.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = gridgate(arguments);
        command.envs([
            ("GRIDGATE_MONGODB_URI", mongod::uri()),
            ("GRIDGATE_DATABASE", &self.app.database),
            ("GRIDGATE_MASTER_KEY", MASTER_KEY),
            ("GRIDGATE_ADMIN_KEY", ADMIN_KEY),
            ("GRIDGATE_LISTEN", "127.0.0.1:0"),
            ("GRIDGATE__STORAGE__QUARANTINE_SECS", "0"),
            ("GRIDGATE__STORAGE__LEASE_SECS", "1"),
            ("GRIDGATE__STORAGE__SWEEP_INTERVAL_SECS", "86400"),
        ]);
        command.env("GRIDGATE_DATA_DIR", self.folder.path());
        command
    }

    async fn restart(&mut self, command: &mut Command) -> Gateway {
        self.restarts += 1;
        Gateway::run(command, &self.folder.path().join(self.restarts.to_string())).await
    }

    async fn read_all(&self, gateway: &Gateway) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (file, bytes) in &self.files {
            let url = format!("{}/v1/files/{}/content", gateway.url, file["id"].as_str().unwrap());
            let reply = send(client.get(url).bearer_auth(ADMIN_KEY)).await;
            assert!(reply.status == 200 && reply.body == *bytes, "{} is {}", file["name"], reply.status);
        }
    }

    async fn suffer(&mut self, Death(point, act, becomes, left): &Death) {
        let place = format!("{point} in a {}", act.name());
        let (name, bytes) = (place.replace(' ', "-"), self.bytes_of(*act));
        self.prepare(*act, &name, &bytes).await;

        match act {
            Act::Expiry | Act::Sweep => die_at(point, self.program(&["sweep"])).await,
            _ => self.die_serving(point, *act, &name, &bytes).await,
        }

        let [blobs, segments, grid_files, chunks] = *left;
        let counted = recount(&self.app).await;
        assert_eq!(counted.surplus, Surplus { blobs, segments, grid_files, chunks }, "left by a death at {place}");
        self.note(&place, &name, bytes, *becomes).await;
        if *act == Act::Count {
            let is_counted = *point == "transaction.committed";
            assert_eq!(self.count_entries().await == 0, is_counted, "what is not counted yet after {place}");
        }

        self.outlive_leases().await;
        sweep(&self.app.app.files).await.unwrap();
        let counted = recount(&self.app).await;
        assert_eq!(counted.surplus, Surplus::default(), "left by the sweep after {place}");
        assert_eq!(counted.files, self.files.len() as i64, "{place}");
        assert_eq!(counted.plain_len, self.files.iter().map(|(_, bytes)| bytes.len() as i64).sum::<i64>(), "{place}");
        self.app.app.files.fold_usage().await.unwrap();
        let report = fsck(&self.app.app.files).await.unwrap();
        assert!(report.ok, "after {place}: {report:?}");
        assert!(report.usage.is_empty(), "counters equal a recount: {report:?}");
    }

    fn bytes_of(&self, act: Act) -> Vec<u8> {
        let seed = 100 + u64::from(self.restarts);
        match act {
            Act::SlowUpload | Act::LargeUpload => noise(LARGE_LEN, seed),
            Act::SmallUpload | Act::Delete | Act::Expiry | Act::Count => noise(SMALL_LEN, seed),
            Act::SmallShare => self.files[0].1.clone(),
            Act::LargeShare => self.files[1].1.clone(),
            Act::Sweep => noise(MANY_CHUNKS_LEN, seed),
        }
    }

    /// Brings about what the act needs.
    async fn prepare(&self, act: Act, name: &str, bytes: &[u8]) {
        let query = format!("name={name}&encrypt=false&compress=none");
        if matches!(act, Act::Delete | Act::Expiry | Act::Sweep | Act::Count) {
            let file = self.app.put(&query, TYPE, bytes.to_vec()).await;
            if act == Act::Sweep {
                let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
                assert_eq!(send(self.app.request("DELETE", &path)).await.status, 204);
            }
        }
        if act == Act::Expiry {
            let past = doc! { "$set": { "expireAt": DateTime::from_millis(1_000_000_000_000) } };
            let registry = self.app.mongo().await.collection::<Document>("file_registry");
            registry.update_one(doc! { "name": name }, past).await.unwrap();
        }
        if act != Act::Count {
            // So that the gateway has nothing to count, and dies in the act alone.
            self.app.app.files.fold_usage().await.unwrap();
        }
    }

    /// Changes of usage that are not in the counters.
    async fn count_entries(&self) -> u64 {
        let entries = self.app.mongo().await.collection::<Document>("usage_entries");
        entries.count_documents(doc! {}).await.unwrap()
    }

    /// A gateway dies at a point, by itself or while it answers a request; what it was restarted for is checked
    /// before.
    async fn die_serving(&mut self, point: &str, act: Act, name: &str, bytes: &[u8]) {
        let mut gateway = self.restart(self.program(&[]).env("GRIDGATE_FAILPOINT", point)).await;
        if act != Act::Count {
            self.read_all(&gateway).await;
            self.ask_the_dying(&gateway, act, name, bytes).await;
        }
        assert_eq!(gateway.ended().await.signal(), Some(SIGABRT), "it did not die at {point}");
    }

    /// Gets no answer.
    async fn ask_the_dying(&self, gateway: &Gateway, act: Act, name: &str, bytes: &[u8]) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = match act {
            Act::Delete => {
                let file = self.find(name).await.unwrap();
                client.delete(format!("{}/v1/files/{}", gateway.url, file["id"].as_str().unwrap()))
            }
            _ => {
                let upload = client.post(format!("{}/v1/files?name={name}", gateway.url)).header("content-type", TYPE);
                if act == Act::SlowUpload {
                    let come = stream::iter([Ok::<_, std::io::Error>(bytes[..5 << 20].to_vec())]);
                    upload.body(reqwest::Body::wrap_stream(come.chain(stream::pending())))
                } else {
                    upload.body(bytes.to_vec())
                }
            }
        };
        let sent = request.bearer_auth(ADMIN_KEY).send().await;
        assert!(sent.is_err(), "{name}: an answer: {:?}", sent.map(|answer| answer.status()));
    }

    /// The file of a name, as the other gateway shows it.
    async fn find(&self, name: &str) -> Option<Value> {
        let listed = send(self.app.get("/v1/files?limit=200")).await.expect(200);
        listed["items"].as_array().unwrap().iter().find(|file| file["name"] == name).cloned()
    }

    /// Checks what became of the act's file, and remembers it if it is there.
    async fn note(&mut self, place: &str, name: &str, bytes: Vec<u8>, becomes: Subject) {
        let found = self.find(name).await;
        let is = if found.is_some() { Whole } else { Absent };
        assert_eq!(is, becomes, "the file after {place}");
        if let Some(file) = found {
            assert!(self.app.content(&file).await == bytes, "{place}: not exact");
            self.files.push((file, bytes));
        }
    }

    /// Waits until no writer is left alone by a sweep any more.
    async fn outlive_leases(&self) {
        let blobs = self.app.mongo().await.collection::<Document>("blobs");
        let begun = Instant::now();
        let leased = doc! { "state": "pending", "$expr": { "$gt": ["$lease", "$$NOW"] } };
        while blobs.count_documents(leased.clone()).await.unwrap() > 0 {
            assert!(begun.elapsed() < PATIENCE, "a lease is renewed though its writer is dead");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The tables' rows: point and act.
fn documented() -> BTreeSet<(String, String)> {
    let text = include_str!("../../docs/reliability.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Crashes")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(point, rest)| (point.to_owned(), rest.split(" | ").next().unwrap().to_owned())).collect()
}

/// The points in the source.
fn placed() -> BTreeSet<String> {
    let sources = files_with("src", "rs");
    let calls = sources.iter().flat_map(|file| file.text.split("failpoint::hit(\"").skip(1));
    calls.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn every_point_is_documented_and_died_at() {
    let deaths = UPLOADS.iter().chain(&SHARES).chain(&DELETES).chain(&SWEEPS).chain(&COUNTS);
    let deaths = deaths.map(|Death(point, act, ..)| (*point, act.name())).chain(crash_jobs::deaths());
    let deaths = deaths.chain(crash_uploads::deaths());
    let died: BTreeSet<_> = deaths.map(|(point, act)| (point.to_owned(), act.to_owned())).collect();
    assert_eq!(documented(), died);
    // At which time it dies there, if not the first, stands behind a colon.
    assert_eq!(placed(), died.iter().map(|(point, _)| point.split(':').next().unwrap().to_owned()).collect());
}
