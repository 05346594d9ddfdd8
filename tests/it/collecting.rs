//! Sweeps without a pause beside everything that makes, shares, reads and loses content, over two
//! gateways: no acknowledged file loses a byte, however short the quarantine.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use gridgate::jobs::sweep::{SweepReport, sweep};
use mongodb::bson::DateTime;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, content_path, noise};
use crate::support::model::{Dice, WAYS};
use crate::support::requests::{Reply, send};
use crate::support::witness::{ask, assert_sound};

const TYPE: &str = "application/x-noise";
/// Few, so that most uploads find their content there, or on its way out.
const LENS: [usize; 6] = [0, 700, 40_000, 300_000, 1_500_000, 9_000_000];
const CLIENTS: u64 = 3;
/// Files that a client keeps before it deletes its oldest.
const KEPT: usize = 6;
/// Acts of a client at least, however slow they are.
const ACTS: u64 = 8;
/// For a client that is told to come back later.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// How long the traffic lasts.
fn length() -> Duration {
    Duration::from_secs(std::env::var("GRIDGATE_COLLECT_SECS").map_or(4, |secs| secs.parse().unwrap()))
}

/// What happened in a house.
#[derive(Debug, Default)]
struct Tally {
    uploads: u64,
    shared: u64,
    deletes: u64,
    cuts: u64,
    reads: u64,
    sweeps: u64,
    condemned: u64,
    reaped: u64,
    /// Requests that were asked to come back later: the database was busy.
    refused: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.uploads += other.uploads;
        self.shared += other.shared;
        self.deletes += other.deletes;
        self.cuts += other.cuts;
        self.reads += other.reads;
        self.sweeps += other.sweeps;
        self.condemned += other.condemned;
        self.reaped += other.reaped;
        self.refused += other.refused;
    }
}

/// Two gateways of one database, and what is uploaded to it.
struct House {
    gateways: [TestApp; 2],
    contents: Vec<Bytes>,
}

impl House {
    /// With a quarantine, none for the default one.
    async fn open(quarantine_secs: Option<u64>) -> Self {
        let change = |settings: &mut gridgate::config::Settings| {
            settings.storage.lease_secs = 5;
            settings.storage.quarantine_secs = quarantine_secs.unwrap_or(settings.storage.quarantine_secs);
        };
        let first = TestApp::start_with(change).await;
        let second = TestApp::start_on(first.database.clone(), change).await;
        let contents = LENS.into_iter().map(|len| noise(len, len as u64).into()).collect();
        Self { gateways: [first, second], contents }
    }
}

/// A client and what it was told is there.
struct Client<'a> {
    house: &'a House,
    dice: Dice,
    kept: Vec<(Value, &'a Bytes)>,
    tally: Tally,
}

impl<'a> Client<'a> {
    fn new(house: &'a House, seed: u64) -> Self {
        Self { house, dice: Dice::new(seed), kept: Vec::new(), tally: Tally::default() }
    }

    async fn act(&mut self) {
        let gateway = &self.house.gateways[self.dice.below(2)];
        let bytes = &self.house.contents[self.dice.below(LENS.len())];
        let query = format!("name=a&{}", WAYS[self.dice.below(2)].1);
        match self.dice.below(6) {
            0 => {
                let file = self.upload(gateway, &query, || bytes.clone().into()).await;
                self.delete(&file).await;
            }
            1 => {
                let soon = DateTime::from_millis(DateTime::now().timestamp_millis() + 3000);
                let path = format!("/v1/files?{query}&expiresAt={}", soon.try_to_rfc3339_string().unwrap());
                let request = gateway.request("POST", &path).header("content-type", TYPE).body(bytes.clone());
                let reply = send(request).await;
                match reply.status {
                    201 => self.tally.uploads += 1,
                    // A machine that stood still for three seconds.
                    400 => assert_eq!(reply.json()["field"], "expiresAt"),
                    status => assert_eq!(status, 503),
                }
                self.tally.refused += u64::from(reply.status != 201);
            }
            2 => {
                let broken = stream::iter([Ok(bytes.clone()), Err(std::io::Error::other("cut"))]);
                let request = gateway.request("POST", &format!("/v1/files?{query}"));
                drop(request.body(reqwest::Body::wrap_stream(broken)).send().await);
                self.tally.cuts += 1;
            }
            3 if !self.kept.is_empty() => {
                let (file, bytes) = self.kept[self.dice.below(self.kept.len())].clone();
                self.assert_whole(gateway, &file, bytes).await;
                self.tally.reads += 1;
            }
            _ => {
                let file = self.upload(gateway, &query, || slowly(bytes)).await;
                self.kept.push((file, bytes));
                if self.kept.len() > KEPT {
                    let (oldest, bytes) = self.kept.remove(0);
                    self.assert_whole(gateway, &oldest, bytes).await;
                    self.delete(&oldest).await;
                }
            }
        }
    }

    /// What a client does that is told to come back later.
    async fn insist(&mut self, request: impl Fn() -> RequestBuilder) -> Reply {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = ask(request()).await {
                return reply;
            }
            assert!(Instant::now() < limit, "refused for ever");
            self.tally.refused += 1;
            tokio::time::sleep(PAUSE * 10).await;
        }
    }

    async fn assert_whole(&mut self, gateway: &TestApp, file: &Value, bytes: &Bytes) {
        let reply = self.insist(|| gateway.get(&content_path(file))).await;
        assert!(reply.body == *bytes, "an acknowledged file lost its bytes");
    }

    async fn upload(&mut self, gateway: &TestApp, query: &str, body: impl Fn() -> reqwest::Body) -> Value {
        let path = format!("/v1/files?{query}");
        let request = || gateway.request("POST", &path).header("content-type", TYPE).body(body());
        let file = self.insist(request).await.json();
        self.tally.uploads += 1;
        self.tally.shared += u64::from(file["deduplicated"] == json!(true));
        file
    }

    async fn delete(&mut self, file: &Value) {
        let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
        let gateway = &self.house.gateways[self.dice.below(2)];
        let (limit, mut is_sure) = (Instant::now() + PATIENCE, true);
        loop {
            match send(gateway.request("DELETE", &path)).await.status {
                204 => break,
                // What was refused may be done all the same.
                404 if !is_sure => break,
                status => assert_eq!(status, 503),
            }
            assert!(Instant::now() < limit, "refused for ever");
            is_sure = false;
            self.tally.refused += 1;
            tokio::time::sleep(PAUSE * 10).await;
        }
        self.tally.deletes += 1;
    }
}

/// A body that stands still for a while before its last part, as its content may go meanwhile.
fn slowly(bytes: &Bytes) -> reqwest::Body {
    let mut first = bytes.clone();
    let last = first.split_off(bytes.len() / 2);
    let later = stream::once(async move {
        tokio::time::sleep(PAUSE * 2).await;
        Ok(last)
    });
    reqwest::Body::wrap_stream(stream::iter([Ok::<_, std::io::Error>(first)]).chain(later))
}

async fn sweeps(gateway: &TestApp, over: &CancellationToken) -> Tally {
    let mut tally = Tally::default();
    while !over.is_cancelled() {
        match sweep(&gateway.app.files).await {
            Ok(SweepReport { condemned, reaped, .. }) => {
                tally.add(&Tally { sweeps: 1, condemned, reaped, ..Tally::default() });
            }
            Err(error) => {
                assert!(error.code.row().retryable, "{error}");
                tally.refused += 1;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    tally
}

async fn live(quarantine_secs: Option<u64>) -> Tally {
    let house = House::open(quarantine_secs).await;
    let gateways = &house.gateways;
    let (begun, over) = (Instant::now(), CancellationToken::new());
    let clients = async {
        let _over = over.clone().drop_guard();
        let clients = (0..CLIENTS).map(async |seed| {
            let (mut client, mut acts) = (Client::new(&house, seed + 1), 0);
            while begun.elapsed() < length() || acts < ACTS {
                client.act().await;
                acts += 1;
            }
            client
        });
        join_all(clients).await
    };
    let (clients, one, other) = tokio::join!(clients, sweeps(&gateways[0], &over), sweeps(&gateways[1], &over));

    let mut tally = Tally::default();
    [&one, &other].into_iter().chain(clients.iter().map(|client| &client.tally)).for_each(|part| tally.add(part));
    let kept: Vec<_> = clients.iter().flat_map(|client| &client.kept).collect();
    assert_sound(&gateways[0]).await;
    for (file, bytes) in kept {
        assert!(gateways[1].content(file).await == **bytes, "quarantine {quarantine_secs:?}");
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_file_loses_a_byte_to_a_sweep_whatever_the_quarantine() {
    let quarantines = [Some(0), Some(1), None];
    for (quarantine_secs, tally) in quarantines.into_iter().zip(join_all(quarantines.map(live)).await) {
        eprintln!("quarantine {quarantine_secs:?}: {tally:?}");
        let Tally { uploads, shared, deletes, sweeps, condemned, reaped, .. } = tally;
        assert!(uploads > 10 && shared > 0 && deletes > 0 && sweeps > 0 && condemned > 0, "{tally:?}");
        assert_eq!(reaped > 0, quarantine_secs.is_some(), "{tally:?}");
    }
}
