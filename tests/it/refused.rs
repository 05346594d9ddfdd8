//! An upload that is refused leaves nothing: no file, no room taken, and after a sweep no byte. A client that goes
//! away is no fault of the gateway's.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{DateTime, Document, doc};
use reqwest::RequestBuilder;
use serde_json::json;
use tempfile::TempDir;

use crate::starting::Gateway;
use crate::support::app::{ADMIN_KEY, TestApp, noise};
use crate::support::requests::{Form, assert_nothing_stored, form_request, send};
use crate::support::wire::Wire;
use crate::support::{mongod, program};

const LEN: usize = 5 << 20;

async fn count(app: &TestApp, collection: &str, filter: Document) -> u64 {
    app.mongo().await.collection::<Document>(collection).count_documents(filter).await.unwrap()
}

/// Waits until no upload is under way any more, and sweeps.
async fn assert_left_nothing(app: &TestApp, what: &str) {
    for _ in 0..200 {
        if count(app, "blobs", doc! { "state": "pending", "lease": { "$gt": DateTime::from_millis(0) } }).await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..2 {
        sweep(&app.app.files).await.unwrap();
    }
    for collection in ["files.chunks", "files.files", "segments", "blobs", "file_registry"] {
        assert_eq!(count(app, collection, doc! {}).await, 0, "{what} leaves something in {collection}");
    }
    let usage = send(app.get("/v1/admin/quotas/default")).await.expect(200);
    for figure in ["usedBytes", "usedFiles", "reservedBytes", "openUploads"] {
        assert_eq!(usage[figure], 0, "{what} leaves {figure}");
    }
}

#[tokio::test]
async fn a_refused_upload_leaves_no_byte_and_takes_no_room() {
    let app = TestApp::start_with(|settings| {
        settings.storage.quarantine_secs = 0;
        settings.buckets.values_mut().for_each(|bucket| bucket.max_bytes = LEN as u64);
    })
    .await;
    send(app.request("PUT", "/v1/admin/quotas/default").json(&json!({ "maxBytes": 1 << 30 }))).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = noise(LEN, 1);
    let wrong = format!("sha-256=:{}:", STANDARD.encode([7; 32]));
    let post = || app.request("POST", "/v1/files?name=a&compress=none");
    let form = |len: usize| Form::new().file("a", "application/x-noise", &noise(len, 2));
    let stream = |len: usize| {
        let pieces: Vec<_> =
            noise(len, 3).chunks(1 << 16).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    let broken = || {
        let pieces = vec![Ok(noise(4 << 20, 4)), Err(std::io::Error::other("cut"))];
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    let refused: [(&str, u16, RequestBuilder); 8] = [
        ("a wrong Repr-Digest", 422, post().header("repr-digest", &wrong).body(bytes.clone())),
        ("a wrong Content-Digest", 422, post().header("content-digest", &wrong).body(bytes.clone())),
        ("a wrong digest of a form", 422, form(LEN).request(&app, "compress=none").header("repr-digest", &wrong)),
        ("one byte too many", 413, post().body(noise(LEN + 1, 5))),
        ("one byte too many, unannounced", 413, post().body(stream(LEN + 1))),
        ("one byte too many in a form", 413, form(LEN + 1).request(&app, "compress=none")),
        ("a form without an end", 400, form_request(&app, "compress=none").body(form(4 << 20).unfinished())),
        ("a client that breaks off", 499, post().body(broken())),
    ];
    for (what, status, request) in refused {
        // A server that answers before it has the body may close under the client's hands.
        match request.send().await {
            Ok(answer) => assert_eq!(answer.status().as_u16(), status, "{what}"),
            Err(error) => assert!([413, 499].contains(&status), "{what}: {error}"),
        }
        assert_left_nothing(&app, what).await;
    }
    assert_eq!(send(post().body(bytes)).await.expect(201)["size"], LEN, "what may be is taken");
}

/// The program's own log of clients that close, and of those that only say that nothing more comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_off_is_logged_as_such_and_never_as_a_fault() {
    let beside = TestApp::start().await;
    let folder = TempDir::new().unwrap();
    let mut command = program::command_at(mongod::uri(), &beside.database, &[]);
    command.env("GRIDGATE__LOG__FILTER", "gridgate=debug");
    let gateway = Gateway::run(&mut command, &folder.path().join("log")).await;
    let head = |framing: &str| {
        format!("POST /v1/files?name=a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{framing}\r\n\r\n")
    };
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        for is_half in [false, true] {
            let mut wire = Wire::connect(&gateway.url).await;
            wire.send(head(framing)).await;
            wire.send([b"64\r\n".as_slice(), &noise(96, 1)].concat()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            if is_half {
                wire.send_no_more().await;
                assert!(wire.answer().await.is_none_or(|answer| answer.status == 499));
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = gateway.log();
    assert!(log.contains("client_hangup"), "{log}");
    for level in [" WARN ", " ERROR "] {
        assert!(!log.contains(level), "{log}");
    }
    let metrics = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}/metrics", gateway.url));
    assert!(!metrics.send().await.unwrap().text().await.unwrap().contains("status=\"5xx\""));
    assert_nothing_stored(&beside).await;
}
