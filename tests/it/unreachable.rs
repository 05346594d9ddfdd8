//! The database refuses, stands down, freezes or is gone: what clients read tells them nothing about
//! it, readiness follows it by itself, and liveness does not.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mongodb::bson::doc;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::auth::{self, Targets, is_of_links, is_of_uploads};
use crate::shares::share;
use crate::support::app::{ADMIN_KEY, TestApp, noise};
use crate::support::openapi::{Operation, operations};
use crate::support::own_mongod::OwnMongod;
use crate::support::requests::send;
use crate::support::uploads::begin;
use crate::support::witness::{readiness, recovery};

const EVER: i32 = 1_000_000;
/// InternalError, which no code of ours expects.
const UNFORESEEN: i32 = 1;
const DATABASE: &str = "hushed";
/// Until readiness says so.
const NOTICE: Duration = Duration::from_secs(30);

async fn start() -> (OwnMongod, TestApp) {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), DATABASE.to_owned(), |settings| {
        (settings.database.operation_timeout_secs, settings.database.selection_timeout_secs) = (1, 1);
    })
    .await;
    (own, app)
}

/// A request that would be granted.
fn request(app: &TestApp, operation: &Operation, targets: &Targets) -> RequestBuilder {
    let is_link = is_of_links(operation) || operation.path.starts_with("/s/");
    if is_of_uploads(operation) || is_link || operation.path.starts_with("/v1/admin/keys") {
        return auth::request(app, operation, targets).bearer_auth(ADMIN_KEY);
    }
    let path = operation.path.replace("{id}", targets.file["id"].as_str().unwrap()).replace("{tenant}", "default");
    let path = if path.ends_with("/explain") { format!("{path}?until=2099-01-01T00:00:00Z") } else { path };
    let request = app.request(&operation.method, &path);
    match operation.method.as_str() {
        "PATCH" => request.header("content-type", "application/json").body(r#"{"name":"b"}"#),
        "PUT" => request.header("content-type", "application/json").body(r#"{"maxFiles":7}"#),
        "POST" => request.header("content-type", "text/plain").body("x"),
        _ => request,
    }
}

/// Every operation that works with the database is refused, in words that are for clients.
async fn assert_discreet(own: &OwnMongod, app: &TestApp, targets: &Targets, statuses: &[u16]) {
    let uri = own.uri();
    let port = format!(":{}", uri.trim_end_matches('/').rsplit(':').next().unwrap());
    let private = [
        port.as_str(),
        "127.0.0.1",
        "localhost",
        "mongo",
        DATABASE,
        "file_registry",
        "api_keys",
        "segments",
        "blobs",
        "usage",
        "failpoint",
        "failCommand",
        "bson",
        "BSON",
        "Kind",
        "Error {",
        "Some(",
        "src/",
        ".rs",
        "panicked",
        "$",
        "topology",
        "errmsg",
    ];
    let needing = operations().into_iter().filter(|operation| !operation.is_public && operation.path != "/metrics");
    let needing: Vec<Operation> = needing.collect();
    assert!(needing.len() >= 8, "{needing:?}");
    let replies = join_all(needing.iter().map(|operation| send(request(app, operation, targets)))).await;
    for (operation, reply) in needing.iter().zip(replies) {
        let said = String::from_utf8_lossy(&reply.body);
        assert!(statuses.contains(&reply.status), "{operation:?}: {} {said}", reply.status);
        let headers = format!("{:?}", reply.headers);
        for word in private {
            assert!(!said.contains(word) && !headers.contains(word), "{operation:?} says {word:?}: {headers} {said}");
        }
        assert!(!reply.header("x-request-id").is_empty());
        assert_eq!(reply.header("retry-after").is_empty(), reply.status != 503, "{operation:?}");
    }
}

#[tokio::test]
async fn what_a_client_reads_of_a_fault_says_nothing_of_the_database() {
    let (own, app) = start().await;
    let file = app.put("name=a", "application/x-noise", noise(3 << 20, 1)).await;
    let share = share(&app, &file, json!({ "allowComment": true })).await;
    let targets = Targets { file, upload: begin(&app, json!({ "size": 1 })).await, share };
    let everything = ["find", "aggregate", "count", "insert", "update", "delete", "findAndModify", "commitTransaction"];
    own.fail(EVER, doc! { "failCommands": everything.to_vec(), "errorCode": UNFORESEEN }).await;
    assert_discreet(&own, &app, &targets, &[500]).await;
    own.heal().await;

    own.signal("KILL");
    assert_discreet(&own, &app, &targets, &[503]).await;
    send(app.anonymous("GET", "/readyz")).await.expect(503);
}

/// Liveness is asked all the while; gives the time until readiness was lost.
async fn assert_noticed(app: &TestApp, what: &str) {
    let since = Instant::now();
    while readiness(app).await == 200 {
        assert_eq!(send(app.anonymous("GET", "/livez")).await.status, 200, "{what}");
        assert!(since.elapsed() < NOTICE, "{what}: it is ready without a database");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{what}: noticed after {:?}", since.elapsed());
    assert_eq!(send(app.anonymous("GET", "/livez")).await.status, 200, "{what}");
}

async fn assert_recovered(app: &TestApp, file: &Value, bytes: &[u8], what: &str) {
    eprintln!("{what}: ready again after {:?}", recovery(app).await);
    assert!(app.content(file).await == bytes, "{what}");
    app.put("name=after", "text/plain", what.to_owned()).await;
}

#[tokio::test]
async fn readiness_follows_the_database_by_itself_and_liveness_does_not() {
    let (mut own, app) = start().await;
    let bytes = noise(300_000, 1);
    let file = app.put("name=a", "application/x-noise", bytes.clone()).await;

    let down = doc! { "replSetStepDown": 120, "secondaryCatchUpPeriodSecs": 0, "force": true };
    // The answer may be lost with the connection it came on.
    drop(own.client().await.database("admin").run_command(down).await);
    assert_noticed(&app, "no primary").await;
    own.client().await.database("admin").run_command(doc! { "replSetFreeze": 0 }).await.unwrap();
    assert_recovered(&app, &file, &bytes, "no primary").await;

    own.signal("STOP");
    assert_noticed(&app, "a frozen mongod").await;
    own.signal("CONT");
    assert_recovered(&app, &file, &bytes, "a frozen mongod").await;

    own.signal("KILL");
    assert_noticed(&app, "a stopped mongod").await;
    own.restart().await;
    assert_recovered(&app, &file, &bytes, "a stopped mongod").await;
}
