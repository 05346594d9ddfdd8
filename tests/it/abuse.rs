//! Clients that mean harm or mean nothing: slow, endless, silent. Others are served meanwhile.

use std::time::Duration;

use crate::support::app::{ADMIN_KEY, TestApp, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap()
}

async fn closes_within(mut stream: TcpStream, limit: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_connection_that_never_sends_a_request_is_closed() {
    let app = TestApp::start_with(|settings| settings.server.head_timeout_secs = 1).await;
    for beginning in ["", "P", "PRI * HT", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut stream = connect(&app).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        assert!(closes_within(stream, Duration::from_secs(4)).await, "{beginning:?}");
    }
}

#[tokio::test]
async fn a_connection_that_has_been_answered_may_rest() {
    let app = TestApp::start_with(|settings| settings.server.head_timeout_secs = 1).await;
    let mut stream = connect(&app).await;
    let request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut buffer = [0; 2048];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    tokio::time::sleep(Duration::from_millis(600)).await;
    stream.write_all(request).await.unwrap();
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
}

#[tokio::test]
async fn readers_that_stall_do_not_keep_others_from_reading() {
    let app = TestApp::start_with(|settings| settings.database.data_pool = 4).await;
    let file = app.put("name=big&encrypt=false", "application/octet-stream", noise(24 << 20, 1)).await;
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut stream = connect(&app).await;
        let path = crate::support::app::content_path(&file);
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 100]).await.unwrap();
        stalled.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let other = tokio::time::timeout(Duration::from_secs(5), app.range(&file, 5_000_000..5_000_100)).await;
    assert!(other.is_ok_and(|bytes| bytes == noise(24 << 20, 1)[5_000_000..5_000_100]));
}

#[tokio::test]
async fn an_endless_part_head_of_a_form_is_refused() {
    let app = TestApp::start().await;
    let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; x=\"".to_vec();
    let pieces = std::iter::once(head).chain((0..400).map(|_| vec![b'a'; 16 << 10]));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces.map(Ok::<_, std::io::Error>)));
    let request = app.request("POST", "/v1/files").header("content-type", "multipart/form-data; boundary=b").body(body);
    // The answer comes while the body is still being sent, which some clients report as an error.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status().as_u16(), 400);
    }
    assert!(app.get("/v1/files").send().await.unwrap().text().await.unwrap().contains("\"total\":0"));
}

#[tokio::test]
async fn a_document_nobody_can_read_hides_no_other_and_stops_no_sweep() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    app.put("name=good&retentionDays=1", "text/plain", "x").await;
    let mongo = app.mongo().await;
    let poison = mongodb::bson::doc! { "tenant": "default", "latest": true, "file": 7, "version": "x",
    "createdAt": mongodb::bson::DateTime::now(), "expireAt": mongodb::bson::DateTime::from_millis(4_102_444_800_000) };
    mongo.collection("file_registry").insert_one(poison).await.unwrap();
    let listed = app.get("/v1/files").send().await.unwrap();
    assert_eq!(listed.status().as_u16(), 200);
    let listed: serde_json::Value = serde_json::from_str(&listed.text().await.unwrap()).unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    app.clock.advance(Duration::from_secs(100 * 365 * 86_400));
    let report = gridgate::jobs::sweep::sweep(&app.app.files).await.unwrap();
    assert_eq!((report.expired, report.reaped), (1, 1), "{report:?}");
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_free_connection_slot() {
    let app = TestApp::start_with(|settings| {
        settings.server.max_connections = 1;
        settings.server.drain_secs = 1;
    })
    .await;
    let held = connect(&app).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    app.stop_serving();
    assert!(closes_within(held, Duration::from_secs(4)).await);
}
