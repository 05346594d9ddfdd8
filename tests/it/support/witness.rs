//! Clients that remember what they were told, to be held against what is there afterwards.

use std::time::{Duration, Instant};

use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use reqwest::RequestBuilder;
use serde_json::Value;

use super::app::{TestApp, content_path};
use super::requests::{Reply, send};

/// What a client knows of its change.
#[derive(Debug)]
pub enum Told {
    Done(Value),
    /// It was asked to come back: done or not.
    Unknown,
}

/// What a client has of a download, all of it right.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Whole,
    Cut,
    Refused,
}

/// The answer to a request that may be refused for a moment, and in no other way.
pub async fn ask(request: RequestBuilder) -> Option<Reply> {
    let reply = send(request).await;
    if reply.status == 503 {
        let problem = reply.json();
        assert!(problem["retryable"] == true, "{problem}");
        assert!(problem["code"] == "timeout" || problem["code"] == "unavailable", "{problem}");
        return None;
    }
    assert!(reply.status < 300, "{} {}", reply.status, String::from_utf8_lossy(&reply.body));
    Some(reply)
}

/// Uploads bytes under a name that is also the idempotency key.
pub async fn upload(app: &TestApp, key: &str, bytes: &[u8]) -> Told {
    let request = app.request("POST", &format!("/v1/files?name={key}")).header("idempotency-key", key);
    ask(request.body(bytes.to_vec())).await.map_or(Told::Unknown, |reply| Told::Done(reply.json()))
}

/// Uploads until it is known to be done.
pub async fn insist(app: &TestApp, key: &str, bytes: &[u8]) -> Value {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        match upload(app, key, bytes).await {
            Told::Done(file) => return file,
            Told::Unknown => assert!(Instant::now() < limit, "{key} is refused for ever"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn delete(app: &TestApp, file: &Value) -> Told {
    ask(app.request("DELETE", &path(file))).await.map_or(Told::Unknown, |_| Told::Done(Value::Null))
}

/// Whether a file is there.
pub async fn is_there(app: &TestApp, file: &Value) -> bool {
    let reply = send(app.get(&path(file))).await;
    assert!(reply.status == 200 || reply.status == 404, "{}", reply.status);
    reply.status == 200
}

/// Reads a file, comparing every piece as it comes.
pub async fn download(app: &TestApp, file: &Value, bytes: &[u8]) -> Read {
    let mut response = app.get(&content_path(file)).send().await.unwrap();
    if response.status().as_u16() == 503 {
        return Read::Refused;
    }
    assert_eq!(response.status().as_u16(), 200);
    let mut len = 0;
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => {
                assert!(bytes[len..].starts_with(&piece), "wrong bytes at {len}");
                len += piece.len();
            }
            Ok(None) => break,
            Err(_) => return Read::Cut,
        }
    }
    assert_eq!(len, bytes.len(), "ended cleanly, but short");
    Read::Whole
}

/// The status of `/readyz`.
pub async fn readiness(app: &TestApp) -> u16 {
    send(app.anonymous("GET", "/readyz")).await.status
}

/// Waits until the gateway is ready again and tells how long that took.
pub async fn recovery(app: &TestApp) -> Duration {
    let since = Instant::now();
    while readiness(app).await != 200 {
        assert!(since.elapsed() < Duration::from_secs(30), "it does not recover by itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    since.elapsed()
}

/// Checks the store once the leases of all uploads that were cut have run out, and a sweep came.
pub async fn assert_sound(app: &TestApp) {
    tokio::time::sleep(Duration::from_secs(app.app.files.settings.lease_secs) + Duration::from_millis(100)).await;
    // What one condemns the next may remove.
    for _ in 0..2 {
        app.clock.advance(Duration::from_secs(app.app.files.settings.quarantine_secs + 1));
        sweep(&app.app.files).await.unwrap();
    }
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
    let checked = &report.checked;
    let registry = app.mongo().await.collection::<Document>("file_registry");
    let named = registry.distinct("blob", doc! {}).await.unwrap().len() as u64;
    let kept = [checked.blobs, checked.segments, checked.grid_files];
    assert_eq!(kept, [named; 3], "nothing is left of what failed");
}

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}
