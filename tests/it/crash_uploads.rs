//! A gateway dies, as by a SIGKILL, at every step of a resumable upload that leaves something behind. What was
//! acknowledged is there, the upload goes on through another gateway, and its file is what was sent.

use std::process::Command;
use std::time::{Duration, Instant};

use gridgate::jobs::digests;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use tempfile::TempDir;

use crate::starting::{Gateway, gridgate};
use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, noise};
use crate::support::mongod;
use crate::support::requests::send;
use crate::support::tus::{self, partial};
use crate::support::uploads::{begin, complete, part_request, path, progress};

const SIGABRT: i32 = 6;
/// Chunks are inserted before the transaction.
const LARGE_PART: usize = 3 << 20;
/// Chunks are in the transaction.
const SMALL_PART: usize = 256 << 10;
const PARTS: usize = 2;

/// What a gateway is asked to do when it dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Begin,
    LargePart,
    SmallPart,
    Complete,
    /// Of content that is there.
    CompleteShared,
    /// Partial uploads of tus.
    Concatenate,
    Abort,
}

impl Act {
    const fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin an upload",
            Self::LargePart => "large part",
            Self::SmallPart => "small part",
            Self::Complete => "complete",
            Self::CompleteShared => "complete shared content",
            Self::Concatenate => "concatenate",
            Self::Abort => "abort",
        }
    }

    fn request(self, url: &str, upload: &Value, said: &Value, first: &[u8]) -> reqwest::RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let at = |end: &str| format!("{url}{}{end}", path(upload));
        match self {
            Self::Begin => client.post(format!("{url}/v1/uploads")).json(said),
            Self::LargePart | Self::SmallPart => client.put(at("/parts/0")).body(first.to_vec()),
            Self::Complete | Self::CompleteShared => client.post(at("/complete")),
            Self::Concatenate => {
                let of = upload["of"].as_str().unwrap();
                client.post(format!("{url}/tus/")).header("tus-resumable", "1.0.0").header("upload-concat", of)
            }
            Self::Abort => client.delete(at("")),
        }
    }

    fn part_len(self) -> usize {
        if self == Self::LargePart { LARGE_PART } else { SMALL_PART }
    }
}

/// Whether the act took place all the same.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Done,
    Undone,
}
use Outcome::{Done, Undone};

/// One death: where, in which act, and whether that took place.
struct Death(&'static str, Act, Outcome);

const DEATHS: [Death; 22] = [
    Death("transaction.ready", Act::Begin, Undone),
    Death("transaction.committed", Act::Begin, Done),
    Death("upload.reserved", Act::LargePart, Undone),
    Death("upload.batch", Act::LargePart, Undone),
    Death("upload.chunks", Act::LargePart, Undone),
    Death("upload.files", Act::LargePart, Undone),
    Death("part.before", Act::LargePart, Undone),
    Death("transaction.ready", Act::LargePart, Undone),
    Death("transaction.committed", Act::LargePart, Done),
    Death("part.before", Act::SmallPart, Undone),
    Death("transaction.ready", Act::SmallPart, Undone),
    Death("transaction.committed", Act::SmallPart, Done),
    Death("commit.before", Act::Complete, Undone),
    Death("transaction.ready", Act::Complete, Undone),
    Death("transaction.committed", Act::Complete, Done),
    Death("attach.before", Act::CompleteShared, Undone),
    Death("transaction.committed", Act::CompleteShared, Done),
    Death("transaction.ready", Act::Concatenate, Undone),
    Death("transaction.committed", Act::Concatenate, Undone),
    Death("commit.before", Act::Concatenate, Undone),
    Death("transaction.ready", Act::Abort, Undone),
    Death("transaction.committed", Act::Abort, Done),
];

/// Every death here: point and act.
pub fn deaths() -> impl Iterator<Item = (&'static str, &'static str)> {
    DEATHS.iter().map(|Death(point, act, _)| (*point, act.name()))
}

#[tokio::test]
async fn an_upload_goes_on_after_a_death_at_any_step() {
    let houses = DEATHS.chunks(11).map(async |deaths| {
        let mut house = House::build().await;
        for death in deaths {
            house.suffer(death).await;
        }
    });
    futures::future::join_all(houses).await;
}

/// In the middle of a transaction over an upload, which the database would keep open for a minute.
#[tokio::test]
async fn what_a_gateway_holds_that_died_or_froze_is_free_within_a_second() {
    let house = House::build().await;
    let app = &house.app;
    for freezes in [false, true] {
        let (lost, bytes) = (noise(10_000, 1), noise(10_000, 2));
        let path = tus::create(app, bytes.len(), "a").await;
        house.leave_nothing_to_do().await;
        let mut command = house.program("transaction.ready");
        if freezes {
            command.env("GRIDGATE_FAILPOINT_FREEZES", "1");
        }
        let mut gateway = Gateway::run(&mut command, &house.folder.path().join(freezes.to_string())).await;
        let patch = reqwest::Client::builder().no_proxy().build().unwrap().patch(format!("{}{path}", gateway.url));
        let patch = patch.bearer_auth(ADMIN_KEY).header("tus-resumable", "1.0.0").header("upload-offset", "0");
        let patch = patch.header("content-type", "application/offset+octet-stream").body(lost);
        let hanging = tokio::spawn(patch.send());
        match freezes {
            true => {
                while !is_stopped(gateway.pid()) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            false => assert_eq!(gateway.ended().await.signal(), Some(SIGABRT)),
        }
        let begun = Instant::now();
        assert_eq!(tus::patch(app, &path, 0, &bytes[..100]).await, 100);
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(3), "after {waited:?}");
        eprintln!("freezes: {freezes}; free after {waited:?}");
        if freezes {
            gateway.signal("CONT");
            assert_eq!(hanging.await.unwrap().unwrap().status(), 409, "it committed what it held");
        }
        let last = send(tus::patch_request(app, &path, 100, bytes[100..].to_vec())).await;
        let content = format!("/v1/files/{}/content", last.header("gridgate-file-id"));
        assert!(send(app.get(&content)).await.body == bytes);
    }
}

/// Whether a process stands still (`man 5 proc`).
fn is_stopped(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// A database, and a gateway beside the one that dies.
struct House {
    app: TestApp,
    folder: TempDir,
    restarts: u32,
    /// Segments of the files that are there.
    segments: u64,
}

impl House {
    async fn build() -> Self {
        let app = TestApp::start_with(|settings| {
            (settings.storage.quarantine_secs, settings.storage.lease_secs) = (0, 1);
        });
        Self { app: app.await, folder: TempDir::new().unwrap(), restarts: 0, segments: 0 }
    }

    fn program(&self, point: &str) -> Command {
        let mut command = gridgate(&[]);
        command.envs([
            ("GRIDGATE_MONGODB_URI", mongod::uri()),
            ("GRIDGATE_DATABASE", &self.app.database),
            ("GRIDGATE_MASTER_KEY", MASTER_KEY),
            ("GRIDGATE_ADMIN_KEY", ADMIN_KEY),
            ("GRIDGATE_LISTEN", "127.0.0.1:0"),
            ("GRIDGATE__STORAGE__QUARANTINE_SECS", "0"),
            ("GRIDGATE__STORAGE__LEASE_SECS", "1"),
            ("GRIDGATE__STORAGE__SWEEP_INTERVAL_SECS", "86400"),
            ("GRIDGATE_FAILPOINT", point),
        ]);
        command.env("GRIDGATE_DATA_DIR", self.folder.path());
        command
    }

    async fn suffer(&mut self, Death(point, act, outcome): &Death) {
        let place = format!("{point} in {}", act.name());
        self.restarts += 1;
        let (len, app) = (act.part_len(), &self.app);
        let bytes = noise(len + len / 2, self.restarts.into());
        let part = |n: usize| &bytes[n * len..bytes.len().min((n + 1) * len)];
        let said = json!({ "name": place, "size": bytes.len(), "partSize": len });
        let mut upload = match act {
            Act::Begin => Value::Null,
            Act::Concatenate => {
                let of = [partial(app, part(0)).await, partial(app, part(1)).await];
                json!({ "id": "", "of": format!("final;{}", of.join(" ")) })
            }
            _ => begin(app, said.clone()).await,
        };
        let before = match act {
            Act::Begin | Act::LargePart | Act::SmallPart | Act::Concatenate => 0,
            Act::Abort => 1,
            Act::Complete | Act::CompleteShared => PARTS,
        };
        for n in 0..before {
            send(part_request(app, &upload, n, part(n))).await.expect(200);
        }
        if *act == Act::CompleteShared {
            app.put("name=first", "application/octet-stream", bytes.clone()).await;
            self.segments += 1;
        }
        self.leave_nothing_to_do().await;
        self.die(point, &place, |url| act.request(url, &upload, &said, part(0))).await;

        if *act == Act::Concatenate {
            let again = || act.request(&app.url, &upload, &said, &[]).bearer_auth(ADMIN_KEY);
            assert_joined(app, again, &bytes, &place).await;
            self.segments += PARTS as u64;
            return self.assert_sound(&place).await;
        }
        let listed = send(app.get("/v1/uploads")).await.expect(200);
        let open = listed["items"].as_array().unwrap();
        match (act, outcome) {
            (Act::Begin, Done) => upload = open[0].clone(),
            (Act::Begin, Undone) => {
                assert_eq!(open.len(), 0, "{place}");
                upload = begin(app, said).await;
            }
            _ => {}
        }
        let after = progress(app, &upload).await;
        let (received, status) = (after["partsReceived"].as_u64().unwrap() as usize, after["status"].as_str().unwrap());
        let expected = match (act, outcome) {
            (Act::LargePart | Act::SmallPart, Done) => (1, "open"),
            (Act::Complete | Act::CompleteShared, Done) => (PARTS, "completed"),
            (Act::Abort, Done) => (0, "aborted"),
            _ => (before, "open"),
        };
        if expected.1 == "aborted" {
            assert_eq!(status, "aborted", "{place}");
        } else {
            assert_eq!((received, status), expected, "{place}");
            for n in received..PARTS {
                send(part_request(app, &upload, n, part(n))).await.expect(200);
            }
            let file = complete(app, &upload).await.expect(201);
            assert!(app.content(&file).await == bytes, "{place}: not exact");
            assert_eq!(complete(app, &upload).await.expect(201)["id"], file["id"], "{place}");
            let is_shared = *act == Act::CompleteShared;
            assert_eq!(file["deduplicated"], is_shared, "{place}");
            self.segments += if is_shared { 0 } else { PARTS as u64 };
        }
        self.assert_sound(&place).await;
    }

    /// Runs a gateway that dies at a point, of this request.
    async fn die(&self, point: &str, place: &str, request: impl FnOnce(&str) -> reqwest::RequestBuilder) {
        let folder = self.folder.path().join(self.restarts.to_string());
        let mut gateway = Gateway::run(&mut self.program(point), &folder).await;
        let sent = request(&gateway.url).bearer_auth(ADMIN_KEY).send().await;
        assert!(sent.is_err(), "{place}: an answer: {:?}", sent.map(|answer| answer.status()));
        assert_eq!(gateway.ended().await.signal(), Some(SIGABRT), "it did not die at {place}");
    }

    /// So that a gateway dies in the act alone, and not while it counts or hashes.
    async fn leave_nothing_to_do(&self) {
        self.app.app.files.fold_usage().await.unwrap();
        digests::run(&self.app.app.files).await.unwrap();
    }

    /// Once the leases of the dead are over, one sweep leaves what files need, and nothing else.
    async fn assert_sound(&self, place: &str) {
        let (blobs, begun) = (self.app.mongo().await.collection::<Document>("blobs"), Instant::now());
        let leased = doc! { "state": "pending", "$expr": { "$gt": ["$lease", "$$NOW"] } };
        while blobs.count_documents(leased.clone()).await.unwrap() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "a lease is renewed after {place}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sweep(&self.app.app.files).await.unwrap();
        self.app.app.files.fold_usage().await.unwrap();
        let report = fsck(&self.app.app.files).await.unwrap();
        assert!(report.ok && report.usage.is_empty(), "after {place}: {report:?}");
        let counted = (report.checked.segments, report.checked.grid_files);
        assert_eq!(counted, (self.segments, self.segments), "left after {place}");
        assert_eq!(blobs.count_documents(doc! { "state": { "$ne": "live" } }).await.unwrap(), 0, "left after {place}");
    }
}

/// The same final upload, asked for again and again, is one and has its file.
async fn assert_joined(app: &TestApp, again: impl Fn() -> reqwest::RequestBuilder, bytes: &[u8], place: &str) {
    let (first, second) = (send(again()).await, send(again()).await);
    assert_eq!((first.status, second.status), (201, 201), "{place}");
    let (file, same) = (first.header("gridgate-file-id"), second.header("gridgate-file-id"));
    assert_eq!((first.header("location"), file), (second.header("location"), same), "{place}");
    assert!(send(app.get(&format!("/v1/files/{file}/content"))).await.body == bytes, "{place}: not exact");
}
