//! Small files at once: what meets in the gateway goes to the database together, and everybody still gets
//! their own.

use futures::future::join_all;
use gridgate::jobs::fsck::fsck;
use serde_json::Value;

use crate::auth::key;
use crate::support::app::{TestApp, content_path, noise};
use crate::support::profiler;
use crate::support::requests::send;

/// Requests at once.
const CROWD: usize = 64;
const TYPE: &str = "application/octet-stream";

async fn put_many(app: &TestApp, bodies: &[Vec<u8>]) -> Vec<Value> {
    join_all(bodies.iter().map(|body| app.put("name=a", TYPE, body.clone()))).await
}

fn bodies() -> Vec<Vec<u8>> {
    (0..CROWD).map(|i| noise(100 + 61 * i, i as u64 + 1)).collect()
}

#[tokio::test]
async fn uploads_at_once_share_transactions_and_reads_at_once_share_finds() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let bodies = bodies();
    profiler::start(&db).await;
    let files = put_many(&app, &bodies).await;
    let inserts = profiler::stop(&db, "file_registry").await;
    let inserts: Vec<_> = inserts.into_iter().filter(|act| act.get_str("op").is_ok_and(|op| op == "insert")).collect();
    assert_eq!(profiler::sum(&inserts, "ninserted"), CROWD as i64);
    assert!(inserts.len() <= CROWD / 4, "{} inserts of {CROWD} files", inserts.len());

    profiler::start(&db).await;
    let contents = join_all(files.iter().map(|file| app.content(file))).await;
    let finds = profiler::stop(&db, "files.chunks").await;
    assert!(contents == bodies, "somebody got another's content");
    assert_eq!(profiler::sum(&finds, "docsExamined"), CROWD as i64, "each chunk is read once");
    assert!(finds.len() <= CROWD / 4, "{} finds of {CROWD} files", finds.len());
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test]
async fn uploads_that_are_refused_take_no_others_with_them() {
    let app = TestApp::start().await;
    let bodies = bodies();
    // A third repeats one idempotency key with other content, a third has the same content.
    let upload = async |i: usize| {
        let body = if i % 3 == 1 { bodies[1].clone() } else { bodies[i].clone() };
        let mut request = app.request("POST", "/v1/files?name=a").header("content-type", TYPE).body(body.clone());
        if i.is_multiple_of(3) {
            request = request.header("idempotency-key", "only-one");
        }
        (i, body, send(request).await)
    };
    let mut keyed = 0;
    for (i, body, reply) in join_all((0..CROWD).map(upload)).await {
        match (reply.status, i % 3) {
            (201, kind) => {
                assert!(app.content(&reply.json()).await == body, "upload {i}");
                keyed += usize::from(kind == 0);
            }
            (422, 0) => {}
            (status, _) => panic!("upload {i} is {status}: {}", String::from_utf8_lossy(&reply.body)),
        }
    }
    assert_eq!(keyed, 1, "uploads under one idempotency key");
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test]
async fn readers_at_once_see_only_what_is_theirs() {
    let app = TestApp::start().await;
    let other = key(&app, "other", "other", &["files:read"], None).await;
    let bodies = bodies();
    let files = put_many(&app, &bodies).await;
    let gone = send(app.request("DELETE", &format!("/v1/files/{}", files[7]["id"].as_str().unwrap()))).await;
    assert_eq!(gone.status, 204);
    let read = async |i: usize| {
        let path = content_path(&files[i / 2]);
        let request =
            if i.is_multiple_of(2) { app.get(&path) } else { app.anonymous("GET", &path).bearer_auth(&other) };
        (i, send(request).await)
    };
    for (i, reply) in join_all((0..2 * CROWD).map(read)).await {
        let is_seen = i % 2 == 0 && i / 2 != 7;
        assert_eq!(reply.status, if is_seen { 200 } else { 404 }, "reader {i}");
        assert!(!is_seen || reply.body == bodies[i / 2], "reader {i}");
    }
}
