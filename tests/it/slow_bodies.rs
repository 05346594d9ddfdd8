//! Bodies that trickle: given up below the least rate, and what came of a resumable upload is kept.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::support::app::{ADMIN_KEY, TestApp};
use crate::support::requests::Form;
use crate::support::tus;
use crate::support::wire::{Answer, Wire};

const PAUSE: Duration = Duration::from_millis(100);

fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{fields}\r\n\r\n")
}

/// Sends a head and drips a body until there is an answer; gives how long that took, too.
async fn drip(app: &TestApp, head: &str, piece: &[u8], most: usize) -> (Answer, Duration) {
    let mut wire = Wire::connect(&app.url).await;
    let begun = Instant::now();
    wire.send(head).await;
    wire.drip(piece, PAUSE, most).await;
    let answer = wire.answer().await.unwrap();
    if answer.status >= 400 {
        assert!(wire.is_closed().await, "what comes late is no new request");
    }
    (answer, begun.elapsed())
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_as_one_that_stands_still() {
    let app = TestApp::start_with(|settings| settings.server.body_idle_secs = 1).await;
    let form = Form::new().field("name", "a").file("a", "text/plain", b"half").unfinished();
    let form = head(
        "POST",
        "/v1/files",
        "Content-Type: multipart/form-data; boundary=----gridgate-tests-0123456789\r\nContent-Length: 100000",
    ) + std::str::from_utf8(&form).unwrap();
    let sent: [(String, &[u8]); 4] = [
        (head("POST", "/v1/files", "Content-Length: 100000"), b"0123456789"),
        (head("POST", "/v1/files", "Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
        (head("POST", "/v1/uploads", "Content-Type: application/json\r\nContent-Length: 60000"), b" "),
        (form, b"0123456789"),
    ];
    let app = &app;
    join_all(sent.into_iter().map(|(head, piece)| async move {
        let (answer, elapsed) = drip(app, &head, piece, 200).await;
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (408, "body_timeout"), "{head}");
        assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&elapsed), "{head}: {elapsed:?}");
    }))
    .await;
    assert!(app.get("/v1/files").send().await.unwrap().text().await.unwrap().contains("\"total\":0"));
}

#[tokio::test]
async fn a_body_that_is_slow_but_not_that_slow_is_taken() {
    let app = TestApp::start_with(|settings| settings.server.body_idle_secs = 1).await;
    // 5,000 bytes a second at most, and a loaded machine may be late by far.
    let (answer, elapsed) = drip(&app, &head("POST", "/v1/files", "Content-Length: 12500"), &[b'x'; 500], 25).await;
    assert_eq!((answer.status, answer.json()["size"].as_u64()), (201, Some(12_500)), "{answer:?}");
    assert!(elapsed > Duration::from_secs(2), "it was judged: {elapsed:?}");
}

#[tokio::test]
async fn without_a_least_rate_a_body_may_trickle() {
    let app = TestApp::start_with(|settings| {
        (settings.server.body_idle_secs, settings.server.min_body_bytes_per_sec) = (1, 0);
    });
    let (answer, elapsed) = drip(&app.await, &head("POST", "/v1/files", "Content-Length: 25"), b"x", 25).await;
    assert_eq!((answer.status, answer.json()["size"].as_u64()), (201, Some(25)), "{answer:?}");
    assert!(elapsed > Duration::from_secs(2), "{elapsed:?}");
}

#[tokio::test]
async fn what_trickled_in_of_a_resumable_upload_is_kept() {
    let app = TestApp::start_with(|settings| settings.server.body_idle_secs = 1).await;
    let path = tus::create(&app, 1000, "a.txt").await;
    let fields = "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: 1000";
    let (answer, _) = drip(&app, &head("PATCH", &path, fields), b"0123456789", 100).await;
    assert_eq!(answer.status, 408, "{answer:?}");
    let offset = tus::offset(&app, &path).await;
    assert!((50..1000).contains(&offset) && offset % 10 == 0, "{offset} bytes are kept");
    let rest = &b"0123456789".repeat(100)[offset..];
    assert_eq!(tus::patch(&app, &path, offset, rest).await, 1000);
}
