//! Random sequences of acts on two gateways of one database, against a model in memory: names,
//! contents, ends and holds. A sequence that fails is shrunk and printed.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{DateTime, Document, doc};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::app::{TestApp, noise};
use crate::support::model::{WAYS, agree, prose};
use crate::support::recount::{Recount, recount};
use crate::support::requests::send;

const TYPE: &str = "application/octet-stream";
/// Sequences of an ordinary run.
const CASES: u32 = 12;
const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(30);

/// Few, so that most uploads repeat one.
static CONTENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    vec![Vec::new(), noise(1, 1), prose(40_000, 2), noise(300_000, 3), prose(1_400_000, 4), noise(3 << 20, 5)]
});

#[derive(Debug, Clone)]
enum Act {
    Put {
        content: usize,
        way: usize,
        days: Option<i64>,
    },
    /// An upload whose client breaks off, before or after a first batch is stored.
    Cut {
        is_large: bool,
    },
    Delete(usize),
    Rename(usize),
    Hold(usize, bool),
    Retain(usize, Option<i64>),
    Read(usize),
    Range(usize, usize, usize),
    List,
    /// Days go by.
    Wait(i64),
    Sweep,
    /// The gateway is dropped and another takes its place.
    Restart,
}

/// An act and the gateway it is done at. The first one's quarantine is 0, the second one's long.
type Step = (usize, Act);

/// Files are named by numbers, which mean one of those that ever were.
fn act() -> impl Strategy<Value = Act> {
    let (file, way) = (0..40_usize, 0..WAYS.len());
    let days = || prop::option::of(1..6_i64);
    prop_oneof![
        8 => (0..CONTENTS.len(), way, days()).prop_map(|(content, way, days)| Act::Put { content, way, days }),
        1 => any::<bool>().prop_map(|is_large| Act::Cut { is_large }),
        4 => file.clone().prop_map(Act::Delete),
        1 => file.clone().prop_map(Act::Rename),
        3 => (file.clone(), any::<bool>()).prop_map(|(file, is_on)| Act::Hold(file, is_on)),
        3 => (file.clone(), days()).prop_map(|(file, days)| Act::Retain(file, days)),
        2 => file.clone().prop_map(Act::Read),
        2 => (file, any::<usize>(), any::<usize>()).prop_map(|(file, from, len)| Act::Range(file, from, len)),
        1 => Just(Act::List),
        2 => (1..3_i64).prop_map(Act::Wait),
        3 => Just(Act::Sweep),
        1 => Just(Act::Restart),
    ]
}

/// What the model knows of a file.
#[derive(Debug)]
struct Known {
    path: String,
    name: String,
    content: usize,
    way: usize,
    /// In days of the world.
    born: i64,
    days: Option<i64>,
    is_held: bool,
    is_deleted: bool,
}

impl Known {
    fn is_there(&self, today: i64) -> bool {
        !self.is_deleted && (self.is_held || self.days.is_none_or(|days| today < self.born + days))
    }
}

struct World {
    gateways: [TestApp; 2],
    today: i64,
    files: Vec<Known>,
}

impl World {
    async fn begin() -> Self {
        let first = Self::gateway(None, 0).await;
        let second = Self::gateway(Some(first.database.clone()), 1).await;
        Self { gateways: [first, second], today: 0, files: Vec::new() }
    }

    async fn gateway(database: Option<String>, place: usize) -> TestApp {
        let quarantine_secs = [0, 30 * 86_400][place];
        let change = |settings: &mut gridgate::config::Settings| settings.storage.quarantine_secs = quarantine_secs;
        match database {
            Some(database) => TestApp::start_on(database, change).await,
            None => TestApp::start_with(change).await,
        }
    }

    fn there(&self) -> impl Iterator<Item = &Known> {
        self.files.iter().filter(|file| file.is_there(self.today))
    }

    /// Contents that are there, each as often as it is stored in another way.
    fn contents(&self) -> i64 {
        self.there().map(|file| (file.content, file.way)).collect::<HashSet<_>>().len() as i64
    }

    async fn live(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step).await;
            let listed = send(self.gateways[step.0].get("/v1/files?limit=1")).await.expect(200);
            assert_eq!(listed["total"], self.there().count(), "files after {step:?}");
        }
        self.check_everything().await;
        self.delete_everything().await;
    }

    async fn step(&mut self, (place, act): &Step) {
        let app = &self.gateways[*place];
        match act {
            Act::Put { content, way, days } => self.put(*place, *content, *way, *days).await,
            Act::Cut { is_large } => cut(app, *is_large).await,
            Act::Delete(file) => self.delete(*place, *file).await,
            Act::Rename(file) => self.rename(*place, *file).await,
            Act::Hold(file, is_on) => self.hold(*place, *file, *is_on).await,
            Act::Retain(file, days) => self.retain(*place, *file, *days).await,
            Act::Read(file) => self.read(*place, *file, None).await,
            Act::Range(file, from, len) => self.read(*place, *file, Some((*from, *len))).await,
            Act::List => self.check_list(app).await,
            Act::Wait(days) => self.wait(*days),
            Act::Sweep => self.sweep(*place).await,
            Act::Restart => {
                let fresh = Self::gateway(Some(app.database.clone()), *place).await;
                fresh.clock.advance(DAY * u32::try_from(self.today).unwrap());
                std::mem::replace(&mut self.gateways[*place], fresh).leave();
            }
        }
    }

    async fn put(&mut self, place: usize, content: usize, way: usize, days: Option<i64>) {
        let name = format!("file-{}", self.files.len());
        let days_said = days.map_or(String::new(), |days| format!("&retentionDays={days}"));
        let query = format!("name={name}&{}{days_said}", WAYS[way].1);
        let file = self.gateways[place].put(&query, TYPE, CONTENTS[content].clone()).await;
        assert_eq!(file["size"], CONTENTS[content].len());
        let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
        let born = self.today;
        self.files.push(Known { path, name, content, way, born, days, is_held: false, is_deleted: false });
    }

    /// One of the files that ever were, and whether it is there; none if there never was one.
    fn pick(&mut self, file: usize) -> Option<(&mut Known, bool)> {
        let (count, today) = (self.files.len(), self.today);
        let known = self.files.get_mut(file % count.max(1))?;
        let is_there = known.is_there(today);
        Some((known, is_there))
    }

    async fn delete(&mut self, place: usize, file: usize) {
        let Some((known, is_there)) = self.pick(file) else { return };
        let (path, is_held) = (known.path.clone(), known.is_held);
        known.is_deleted |= is_there && !is_held;
        let reply = send(self.gateways[place].request("DELETE", &path)).await;
        match (is_there, is_held) {
            (false, _) => drop(reply.refused(404, "file_not_found")),
            (true, true) => drop(reply.refused(409, "held")),
            (true, false) => drop(reply.expect(204)),
        }
    }

    /// Changes a file; gives its new state, or that it is not there.
    async fn patch(&mut self, place: usize, file: usize, patch: Value) -> Option<crate::support::requests::Reply> {
        let (known, is_there) = self.pick(file)?;
        let path = known.path.clone();
        let reply = send(self.gateways[place].request("PATCH", &path).json(&patch)).await;
        if is_there {
            return Some(reply);
        }
        reply.refused(404, "file_not_found");
        None
    }

    async fn rename(&mut self, place: usize, file: usize) {
        let Some(reply) = self.patch(place, file, json!({ "name": "another" })).await else { return };
        assert_eq!(reply.expect(200)["name"], "another");
        self.pick(file).unwrap().0.name = "another".to_owned();
    }

    async fn hold(&mut self, place: usize, file: usize, is_on: bool) {
        let Some(reply) = self.patch(place, file, json!({ "legalHold": is_on })).await else { return };
        // Without an end and a hold there is no retention to show.
        assert_eq!(reply.expect(200)["retention"]["legalHold"] == true, is_on);
        self.pick(file).unwrap().0.is_held = is_on;
    }

    async fn retain(&mut self, place: usize, file: usize, days: Option<i64>) {
        let retention = days.map_or(Value::Null, |days| json!({ "days": days }));
        let Some(reply) = self.patch(place, file, json!({ "retention": retention })).await else { return };
        let today = self.today;
        let known = self.pick(file).unwrap().0;
        if known.is_held {
            reply.refused(409, "held");
        } else if days.is_some_and(|days| known.born + days <= today) {
            reply.refused(400, "bad_request");
        } else {
            assert_eq!(reply.expect(200)["retention"]["days"], json!(days));
            known.days = days;
        }
    }

    async fn read(&mut self, place: usize, file: usize, part: Option<(usize, usize)>) {
        let Some((known, is_there)) = self.pick(file) else { return };
        let (path, whole) = (format!("{}/content", known.path), &CONTENTS[known.content]);
        let mut request = self.gateways[place].get(&path);
        let (mut expected, mut status) = (&whole[..], 200);
        if let Some((from, len)) = part.filter(|_| !whole.is_empty()) {
            let from = from % whole.len();
            let end = from + 1 + len % (whole.len() - from);
            request = request.header("range", format!("bytes={from}-{}", end - 1));
            (expected, status) = (&whole[from..end], 206);
        }
        let reply = send(request).await;
        if is_there {
            assert!(reply.status == status && reply.body == expected, "{path}: {}, or other bytes", reply.status);
        } else {
            reply.refused(404, "file_not_found");
        }
    }

    fn wait(&mut self, days: i64) {
        self.today += days;
        for app in &self.gateways {
            app.clock.advance(DAY * u32::try_from(days).unwrap());
        }
    }

    async fn sweep(&self, place: usize) {
        let app = &self.gateways[place];
        sweep(&app.app.files).await.unwrap();
        let blobs = app.mongo().await.collection::<Document>("blobs");
        let live = blobs.count_documents(doc! { "state": "live" }).await.unwrap();
        assert_eq!(live as i64, self.contents(), "live blobs after a sweep");
    }

    async fn check_list(&self, app: &TestApp) {
        let listed = send(app.get("/v1/files?limit=200")).await.expect(200);
        let pair = |file: &Value| (format!("/v1/files/{}", file["id"].as_str().unwrap()), file["name"].clone());
        let found: BTreeMap<_, _> = listed["items"].as_array().unwrap().iter().map(pair).collect();
        let expected: BTreeMap<_, _> = self.there().map(|file| (file.path.clone(), json!(file.name))).collect();
        assert_eq!(found, expected);
    }

    async fn check_everything(&mut self) {
        for place in 0..self.gateways.len() {
            self.check_list(&self.gateways[place]).await;
            for file in 0..self.files.len() {
                self.read(place, file, None).await;
            }
        }
        let len = |file: &Known| CONTENTS[file.content].len() as i64;
        let plain_len = self.there().map(len).sum();
        self.check_stored(self.there().count() as i64, plain_len).await;
    }

    /// Sweeps, and compares what is stored then.
    async fn check_stored(&self, files: i64, plain_len: i64) {
        self.sweep(0).await;
        let expected = Recount { files, contents: self.contents(), plain_len, ..Recount::default() };
        assert_eq!(recount(&self.gateways[0]).await, expected);
        let report = fsck(&self.gateways[0].app.files).await.unwrap();
        assert!(report.ok, "{report:?}");
        assert!(report.usage.is_empty(), "counters equal a recount: {report:?}");
    }

    async fn delete_everything(&mut self) {
        for file in 0..self.files.len() {
            self.hold(0, file, false).await;
            self.delete(0, file).await;
        }
        self.check_stored(0, 0).await;
        self.files.clear();
    }
}

/// Sends a part of an upload and breaks off; waits until what is stored of it is given up.
async fn cut(app: &TestApp, is_large: bool) {
    let blobs = app.mongo().await.collection::<Document>("blobs");
    let given_up = async || {
        let filter = doc! { "state": "pending", "lease": DateTime::from_millis(0) };
        blobs.count_documents(filter).await.unwrap()
    };
    let expected = given_up().await + u64::from(is_large);
    // A client and a server lose what they had not passed on yet when they end: less than 4 MiB.
    let sent = (0..if is_large { 12 } else { 1 }).map(|piece| Ok(noise(1 << 20, piece)));
    let pieces = stream::iter(sent).chain(stream::iter([Err(std::io::Error::other("cut"))]));
    let request = app.request("POST", "/v1/files?name=cut").header("content-type", TYPE);
    let reply = request.body(reqwest::Body::wrap_stream(pieces)).send().await;
    assert!(reply.is_err(), "a cut upload is not answered");
    let begun = Instant::now();
    while given_up().await < expected {
        assert!(begun.elapsed() < PATIENCE, "a cut upload is not given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn random_sequences_agree_with_the_model() {
    let steps = vec((0..2_usize, act()), 20..40);
    agree(CASES, &steps, World::begin, async |world: &mut World, steps| world.live(steps).await);
}
