//! Downloads that are sent no faster than was asked for.

use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::support::app::{TestApp, content_path, noise};
use crate::support::requests::{Reply, send};

const KIB: usize = 1 << 10;

/// Asks for content and reads it to its end; gives how long that took, too.
async fn timed(request: reqwest::RequestBuilder) -> (Reply, Duration) {
    let begun = Instant::now();
    let reply = send(request).await;
    (reply, begun.elapsed())
}

#[tokio::test]
async fn a_download_takes_as_long_as_its_rate_says() {
    let app = TestApp::start().await;
    let bytes = noise(1 << 20, 1);
    let file = app.put("name=a", "application/octet-stream", bytes.clone()).await;
    let at = |rate: usize| format!("{}?throttle={rate}", content_path(&file));
    let (whole, elapsed) = timed(app.get(&at(512 * KIB))).await;
    println!("1 MiB at 512 KiB/s: {elapsed:?}");
    assert!(whole.status == 200 && whole.body == bytes);
    assert!((1_850..6_000).contains(&elapsed.as_millis()), "{elapsed:?}");
    let (part, elapsed) = timed(app.get(&at(256 * KIB)).header("range", "bytes=300000-562143")).await;
    println!("256 KiB of it at 256 KiB/s: {elapsed:?}");
    assert!(part.status == 206 && part.body == bytes[300_000..562_144]);
    assert!((900..5_000).contains(&elapsed.as_millis()), "{elapsed:?}");
    let (parts, elapsed) = timed(app.get(&at(128 * KIB)).header("range", "bytes=0-65535,900000-965535")).await;
    assert!(parts.status == 206 && parts.header("content-type").starts_with("multipart/byteranges"));
    assert_eq!(parts.header("content-length"), parts.body.len().to_string());
    assert!((900..5_000).contains(&elapsed.as_millis()), "{elapsed:?}");
    let (fast, elapsed) = timed(app.get(&at(1 << 30))).await;
    assert!(fast.body == bytes && elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test]
async fn a_throttled_download_comes_evenly() {
    let app = TestApp::start().await;
    let file = app.put("name=a", "application/octet-stream", noise(600 * KIB, 2)).await;
    let path = format!("{}?throttle={}", content_path(&file), 400 * KIB);
    let mut pieces = app.get(&path).send().await.unwrap().bytes_stream();
    let (begun, mut len) = (Instant::now(), 0);
    while let Some(piece) = pieces.next().await {
        len += piece.unwrap().len();
        // A twentieth of a second at once, another that makes up for a late timer.
        let most = 400.0 * 1024.0 * (begun.elapsed().as_secs_f64() + 0.1) + 1.0;
        assert!((len as f64) <= most, "{len} bytes after {:?}", begun.elapsed());
    }
    assert_eq!(len, 600 * KIB);
}

#[tokio::test]
async fn what_is_no_rate_is_refused_and_others_are_not_held_up() {
    let app = TestApp::start().await;
    let file = app.put("name=a&compress=zstd", "text/plain", "x".repeat(100_000)).await;
    for query in ["throttle=1023", "throttle=1073741825", "throttle=fast", "throttle=", "throttle=-1"] {
        let refused = send(app.get(&format!("{}?{query}", content_path(&file)))).await.refused(400, "bad_request");
        assert_eq!(refused["field"], "throttle", "{query}");
    }
    let twice = format!("{}?throttle=2048&throttle=2048", content_path(&file));
    assert_eq!(send(app.get(&twice)).await.refused(400, "bad_request")["field"], "throttle");
    let slow = format!("{}?throttle=1024", content_path(&file));
    let head = send(app.request("HEAD", &slow)).await;
    assert_eq!((head.status, head.header("content-length")), (200, "100000"));
    let _held = app.get(&slow).send().await.unwrap();
    let (other, elapsed) = timed(app.get(&content_path(&file))).await;
    assert!(other.body.len() == 100_000 && elapsed < Duration::from_secs(3), "{elapsed:?}");
    let (coded, _) = timed(app.get(&slow).header("accept-encoding", "zstd")).await;
    assert_eq!(coded.header("content-encoding"), "zstd");
}
