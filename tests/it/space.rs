//! A disk that is nearly full: uploads are refused before the database dies of it, the rest goes on.

use std::time::Duration;

use futures::stream;
use gridgate::jobs;
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, noise};
use crate::support::requests::send;

/// More than any disk has.
const ALL_MIB: u64 = 1 << 20;

#[tokio::test]
async fn uploads_are_refused_and_reading_and_deleting_go_on() {
    let roomy = TestApp::start().await;
    let bytes = noise(300_000, 1);
    let file = roomy.put("name=a", "application/octet-stream", bytes.clone()).await;
    assert_eq!(send(roomy.anonymous("GET", "/readyz")).await.status, 200);
    let full = TestApp::start_on(roomy.database.clone(), |settings| settings.storage.min_free_mib = ALL_MIB).await;
    let refused = send(full.request("POST", "/v1/files?name=b").body("x")).await;
    assert_eq!(refused.refused(507, "insufficient_storage")["retryable"], true);
    send(full.anonymous("GET", "/readyz")).await.refused(503, "unavailable");
    assert_eq!(send(full.anonymous("GET", "/livez")).await.status, 200);
    assert_eq!(full.content(&file).await, bytes);
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(send(full.request("DELETE", &path)).await.status, 204);
    assert_eq!(send(roomy.get("/v1/files")).await.expect(200)["total"], 0);
}

#[tokio::test]
async fn an_upload_that_does_not_fit_is_refused_by_its_announced_length() {
    let free_mib = {
        let app = TestApp::start().await;
        app.app.files.store.free_disk().await.unwrap().unwrap() >> 20
    };
    // A GiB may go or come while the test runs.
    let app = TestApp::start_with(|settings| settings.storage.min_free_mib = free_mib - 2048).await;
    app.put("name=small", "text/plain", "x").await;
    let body = reqwest::Body::wrap_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let announced = app.request("POST", "/v1/files?name=big").header("content-length", 4_u64 << 30).body(body);
    send(announced).await.refused(507, "insufficient_storage");
}

#[tokio::test]
async fn an_upload_under_way_is_stopped_when_the_disk_fills_up() {
    let app = TestApp::start().await;
    let full = app.app.files.clone();
    let endless = stream::unfold(0_u64, move |sent| {
        let full = full.clone();
        async move {
            if sent == 8 {
                full.space.note_free(1 << 20);
            }
            assert!(sent < 400, "the upload goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, std::io::Error>(noise(1 << 20, sent)), sent + 1))
        }
    });
    let upload = app.request("POST", "/v1/files?name=endless").body(reqwest::Body::wrap_stream(endless));
    send(upload).await.refused(507, "insufficient_storage");
    assert_eq!(send(app.get("/v1/files")).await.expect(200)["total"], 0);

    let stop = CancellationToken::new();
    let running = jobs::start(&app.app.files, &stop);
    let mut status = 0;
    for _ in 0..100 {
        status = send(app.anonymous("GET", "/readyz")).await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 200, "it recovers by itself");
    app.put("name=after", "text/plain", "x").await;
    stop.cancel();
    running.wait().await;
}
