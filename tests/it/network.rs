//! The network between the gateway and its database goes silent, slow or away: requests end in their
//! time, nothing that was acknowledged is lost, and it goes on when the network is back.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::support::app::{TestApp, content_path, noise};
use crate::support::proxy::{Network, ProxiedMongod};
use crate::support::requests::send;
use crate::support::witness::{
    Read, Told, ask, assert_sound, delete, download, insist, is_there, readiness, recovery, upload,
};

/// Of one operation.
const LIMIT: Duration = Duration::from_secs(2);
/// Twice the limit, and what a slow machine takes for the rest.
const PATIENCE: Duration = Duration::from_secs(7);

async fn start() -> (ProxiedMongod, TestApp) {
    let mongod = ProxiedMongod::start().await;
    let app = TestApp::start_at(&mongod.own.uri(), "network".to_owned(), |settings| {
        settings.database.operation_timeout_secs = LIMIT.as_secs();
        settings.storage.lease_secs = 2;
        settings.storage.quarantine_secs = 0;
    })
    .await;
    (mongod, app)
}

/// What became of a request in a time that a client would wait.
async fn in_time<T>(what: &str, request: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = tokio::time::timeout(PATIENCE, request).await;
    eprintln!("{what}: {:?}", began.elapsed());
    outcome.unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn total(app: &TestApp) -> Value {
    send(app.get("/v1/files?limit=1")).await.expect(200)["total"].clone()
}

/// A body that stands still after its first part until it is told to go on.
fn halting(bytes: &[u8]) -> (reqwest::Body, oneshot::Sender<()>) {
    let (go_on, waiting) = oneshot::channel();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let (first, rest) = (first.to_vec(), rest.to_vec());
    let later = stream::once(async move {
        waiting.await.ok();
        Ok(rest)
    });
    (reqwest::Body::wrap_stream(stream::iter([Ok::<_, std::io::Error>(first)]).chain(later)), go_on)
}

#[tokio::test]
async fn a_silent_network_ends_requests_in_their_time() {
    let (mongod, app) = start().await;
    let bytes = noise(12 << 20, 1);
    let kept = app.put("name=kept", "application/octet-stream", bytes.clone()).await;
    let doomed = app.put("name=doomed", "application/octet-stream", noise(3 << 20, 2)).await;

    // In the middle of a download and of an upload.
    let mut reading = app.get(&content_path(&kept)).send().await.unwrap();
    assert_eq!(reading.status().as_u16(), 200);
    reading.chunk().await.unwrap();
    let large = noise(24 << 20, 3);
    let (body, go_on) = halting(&large);
    let uploading = app.request("POST", "/v1/files?name=large").header("idempotency-key", "large").body(body);
    let uploading = tokio::spawn(ask(uploading));
    tokio::time::sleep(Duration::from_millis(700)).await;

    mongod.set(Network::Silent);
    go_on.send(()).unwrap();
    let rest = async { while let Ok(Some(_)) = reading.chunk().await {} };
    let small = noise(10_000, 4);
    let (listed, deleted, stored, read, (), uploaded, ready) = tokio::join!(
        in_time("a list", ask(app.get("/v1/files"))),
        in_time("a delete", delete(&app, &doomed)),
        in_time("a small upload", upload(&app, "small", &small)),
        in_time("a download", download(&app, &kept, &bytes)),
        in_time("a running download", rest),
        in_time("a running upload", uploading),
        in_time("readiness", readiness(&app)),
    );
    assert!(listed.is_none() && uploaded.unwrap().is_none() && ready == 503);
    assert!(matches!((deleted, stored), (Told::Unknown, Told::Unknown)));
    assert_ne!(read, Read::Whole);

    mongod.set(Network::Sound);
    let recovered = recovery(&app).await;
    eprintln!("recovered after {recovered:?}");
    assert!(recovered < Duration::from_secs(5));
    for (key, bytes) in [("small", &small), ("large", &large)] {
        let file = insist(&app, key, bytes).await;
        assert!(app.content(&file).await == *bytes);
    }
    assert!(app.content(&kept).await == bytes);
    assert_eq!(total(&app).await, 3 + i32::from(is_there(&app, &doomed).await));
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_makes_one_file() {
    let (mongod, app) = start().await;
    for (number, len) in [(1, 10_000), (2, 3 << 20)] {
        // One answer is lost: the commit is asked for again.
        let (key, bytes) = (format!("once-{number}"), noise(len, number));
        mongod.lose_answers("commitTransaction", 1);
        let told = in_time("one lost answer", upload(&app, &key, &bytes)).await;
        assert!(!mongod.is_losing(), "an answer was lost");
        let Told::Done(file) = told else { panic!("the commit is not asked for again") };
        assert_eq!(insist(&app, &key, &bytes).await["id"], file["id"]);

        // All of them are: the client asks again.
        let (key, bytes) = (format!("ever-{number}"), noise(len, number + 10));
        mongod.lose_answers("commitTransaction", usize::MAX);
        let told = in_time("all answers lost", upload(&app, &key, &bytes)).await;
        assert!(matches!(told, Told::Unknown), "{told:?}");
        mongod.lose_answers("", 0);
        let file = insist(&app, &key, &bytes).await;
        assert!(app.content(&file).await == bytes);
    }
    assert_eq!(total(&app).await, 4);
    assert_sound(&app).await;
}

#[tokio::test]
async fn lost_answers_to_inserts_are_asked_for_again() {
    let (mongod, app) = start().await;
    let bytes = noise(20 << 20, 5);
    mongod.lose_answers("insert", 1);
    let told = in_time("a lost answer to an insert", upload(&app, "a", &bytes)).await;
    assert!(!mongod.is_losing(), "an answer was lost");
    let Told::Done(file) = told else { panic!("the insert is not repeated") };
    assert!(app.content(&file).await == bytes);
    assert_sound(&app).await;
}

#[tokio::test]
async fn broken_connections_are_replaced() {
    let (mongod, app) = start().await;
    let bytes = noise(16 << 20, 6);
    let (body, go_on) = halting(&bytes);
    let uploading = app.request("POST", "/v1/files?name=a").header("idempotency-key", "a").body(body);
    let uploading = tokio::spawn(ask(uploading));
    tokio::time::sleep(Duration::from_millis(500)).await;
    mongod.set(Network::Broken);
    go_on.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    mongod.set(Network::Sound);
    in_time("the upload", uploading).await.unwrap();
    recovery(&app).await;
    let file = insist(&app, "a", &bytes).await;
    assert!(app.content(&file).await == bytes);
    assert_eq!(total(&app).await, 1);
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_slow_network_only_makes_it_slow() {
    let (mongod, app) = start().await;
    mongod.set(Network::Slow(Duration::from_millis(100)));
    let bytes = noise(5 << 20, 7);
    // 200 ms to and fro, for each of its commands.
    let large = app.put("name=large", "application/octet-stream", bytes.clone()).await;
    let small = app.put("name=small", "text/plain", "x").await;
    assert!(app.content(&large).await == bytes);
    assert_eq!(total(&app).await, 2);
    assert!(matches!(delete(&app, &small).await, Told::Done(_)));
    mongod.set(Network::Sound);
    assert_sound(&app).await;
}
