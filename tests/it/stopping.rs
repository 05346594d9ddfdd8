//! SIGTERM to the real program in the middle of uploads and downloads: nobody new comes in, each
//! transfer is finished or cleanly cut, and the program ends well and in its time.

use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::channel::mpsc::{Sender, channel};
use futures::future::join_all;
use mongodb::bson::{Document, doc};
use reqwest::Response;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::starting::Gateway;
use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, content_path, noise};
use crate::support::mongod;
use crate::support::program;
use crate::support::requests::send;
use crate::support::wire::Wire;
use crate::support::witness::assert_sound;

/// Of each kind.
const TRANSFERS: usize = 10;
/// More than what the gateway and the sockets hold for a client that does not read.
const DOWNLOAD_LEN: usize = 32 << 20;
/// Of an upload's two halves: every other one has stored chunks when it is cut.
const HALF_LENS: [usize; 2] = [9 << 20, 50_000];
const PATIENCE: Duration = Duration::from_secs(60);

type Body = Sender<Result<Vec<u8>, std::io::Error>>;

/// The program on the database of a gateway that outlives it, and what its clients are in the middle of.
struct Busy {
    beside: TestApp,
    gateway: Gateway,
    client: reqwest::Client,
    file: Value,
    bytes: Vec<u8>,
    uploads: Vec<(Body, JoinHandle<reqwest::Result<Response>>)>,
    downloads: Vec<Wire>,
    resting: Wire,
    _folder: TempDir,
}

fn halves(number: usize) -> (Vec<u8>, Vec<u8>) {
    let half = HALF_LENS[number % 2];
    (noise(half, 10 + number as u64), noise(half, 50 + number as u64))
}

impl Busy {
    async fn begin(drain_secs: u64) -> Self {
        let beside = TestApp::start_with(|settings| {
            (settings.storage.lease_secs, settings.storage.quarantine_secs) = (2, 0);
        })
        .await;
        let folder = TempDir::new().unwrap();
        let mut command = program::command_at(mongod::uri(), &beside.database, &[]);
        command
            .env("GRIDGATE_MASTER_KEY", MASTER_KEY)
            .env("GRIDGATE__STORAGE__LEASE_SECS", "2")
            .env("GRIDGATE__SERVER__DRAIN_SECS", drain_secs.to_string());
        let gateway = Gateway::run(&mut command, &folder.path().join("log")).await;
        let bytes = noise(DOWNLOAD_LEN, 1);
        let file = beside.put("name=read&encrypt=false&compress=none", "application/x-noise", bytes.clone()).await;
        let mut resting = Wire::connect(&gateway.url).await;
        resting.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(resting.answer().await.unwrap().status, 200);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (uploads, downloads) = (Vec::new(), Vec::new());
        let mut busy = Self { beside, gateway, client, file, bytes, uploads, downloads, resting, _folder: folder };
        for number in 0..TRANSFERS {
            busy.begin_upload(number).await;
            busy.begin_download().await;
        }
        for direction in ["upload", "download"] {
            busy.await_transfers(direction).await;
        }
        busy.await_stored_chunks().await;
        busy
    }

    async fn begin_upload(&mut self, number: usize) {
        let (mut tell, hear) = channel(1);
        let request = self.client.post(format!("{}/v1/files?name=u{number}", self.gateway.url)).bearer_auth(ADMIN_KEY);
        let sent = tokio::spawn(request.body(reqwest::Body::wrap_stream(hear)).send());
        tell.send(Ok(halves(number).0)).await.unwrap();
        self.uploads.push((tell, sent));
    }

    /// Asks for the file and reads no byte of it.
    async fn begin_download(&mut self) {
        let mut wire = Wire::connect(&self.gateway.url).await;
        let path = content_path(&self.file);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n")).await;
        let head = wire.head().await;
        assert_eq!((head.status, head.header("content-length")), (200, Some(DOWNLOAD_LEN.to_string().as_str())));
        self.downloads.push(wire);
    }

    /// Waits until the program itself says that all transfers are under way.
    async fn await_transfers(&self, direction: &str) {
        let wanted = format!("gridgate_transfers_in_flight{{direction=\"{direction}\"}} {TRANSFERS}\n");
        let begun = Instant::now();
        loop {
            let shown = self.client.get(format!("{}/metrics", self.gateway.url)).send().await.unwrap();
            if shown.text().await.unwrap().contains(&wanted) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not all {direction}s are under way");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every other upload has stored chunks.
    async fn await_stored_chunks(&self) {
        let segments = self.beside.mongo().await.collection::<Document>("segments");
        let begun = Instant::now();
        while segments.count_documents(doc! { "state": "pending" }).await.unwrap() < TRANSFERS as u64 / 2 {
            assert!(begun.elapsed() < PATIENCE, "no chunks are stored");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks the program to end; returns when it takes nobody any more.
    async fn terminate(&mut self) -> Instant {
        let since = Instant::now();
        self.gateway.signal("TERM");
        let address = self.gateway.url.strip_prefix("http://").unwrap();
        while TcpStream::connect(address).await.is_ok() {
            assert!(since.elapsed() < PATIENCE, "it goes on accepting");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(self.resting.is_closed().await, "a connection that rests is closed");
        since
    }

    async fn assert_ended_well(&mut self) {
        assert_eq!(self.gateway.ended().await.code(), Some(0), "{}", self.gateway.log());
    }

    /// The names of the files that are there.
    async fn names(&self) -> Vec<String> {
        let listed = send(self.beside.get("/v1/files?limit=100&sort=name")).await.expect(200);
        listed["items"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_is_finished_and_then_it_ends() {
    const DRAIN_SECS: u64 = 120;
    let mut busy = Busy::begin(DRAIN_SECS).await;
    let since = busy.terminate().await;

    let uploads = join_all(busy.uploads.drain(..).enumerate().map(async |(number, (mut tell, sent))| {
        tell.send(Ok(halves(number).1)).await.unwrap();
        drop(tell);
        let response = sent.await.unwrap().unwrap();
        assert_eq!(response.status().as_u16(), 201, "upload {number}");
        response.json::<Value>().await.unwrap()
    }));
    let bytes = &busy.bytes;
    let downloads = join_all(busy.downloads.iter_mut().map(async |wire| {
        assert!(wire.body(DOWNLOAD_LEN).await == *bytes, "a download is finished");
    }));
    let (files, _) = tokio::join!(uploads, downloads);
    busy.assert_ended_well().await;
    assert!(since.elapsed() < Duration::from_secs(DRAIN_SECS), "it ends with the last transfer, not with its time");

    for (number, file) in files.iter().enumerate() {
        let (first, second) = halves(number);
        assert!(busy.beside.content(file).await == [first, second].concat(), "upload {number}");
    }
    assert_eq!(busy.names().await.len(), TRANSFERS + 1);
    assert_sound(&busy.beside).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_finish_in_the_drain_time_is_cut() {
    const DRAIN_SECS: u64 = 2;
    let mut busy = Busy::begin(DRAIN_SECS).await;
    let since = busy.terminate().await;
    busy.assert_ended_well().await;
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(DRAIN_SECS), "it gave them their time: {took:?}");
    assert!(took < Duration::from_secs(DRAIN_SECS + 20), "and no more: {took:?}");

    for (number, (tell, sent)) in busy.uploads.drain(..).enumerate() {
        let answer = sent.await.unwrap();
        assert!(answer.is_err(), "upload {number} is answered: {answer:?}");
        drop(tell);
    }
    for wire in &mut busy.downloads {
        let received = wire.body(DOWNLOAD_LEN).await;
        assert!(received.len() < DOWNLOAD_LEN, "a cut download is shorter than announced");
        assert!(busy.bytes.starts_with(&received), "and a true prefix");
    }
    assert_eq!(busy.names().await, ["read"], "no part of an upload is a file");
    assert_sound(&busy.beside).await;
}
