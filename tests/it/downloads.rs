//! Counting downloads: which requests count, that nothing is lost but in a crash, and that counting changes no file.

use std::time::Duration;

use gridgate::jobs;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, content_path, noise};
use crate::support::requests::send;

async fn counted(app: &TestApp, file: &Value) -> Value {
    app.app.files.write_downloads().await.unwrap();
    let file = send(app.get(&format!("/v1/files/{}", file["id"].as_str().unwrap()))).await.expect(200);
    json!([file["downloads"], file["lastAccessedAt"] != Value::Null])
}

#[tokio::test]
async fn a_download_is_a_get_from_the_first_byte() {
    let app = TestApp::start().await;
    let file = app.put("name=a", "text/plain", "some text, ".repeat(20_000)).await;
    assert_eq!((&file["downloads"], &file["lastAccessedAt"]), (&json!(0), &Value::Null));
    let path = content_path(&file);
    let etag = format!("\"{}\"", file["etag"].as_str().unwrap().trim_matches('"'));
    for (method, header, status) in [
        ("HEAD", ("x-none", ""), 200),
        ("GET", ("if-none-match", etag.as_str()), 304),
        ("GET", ("if-match", "\"other\""), 412),
        ("GET", ("range", "bytes=9999999-"), 416),
    ] {
        assert_eq!(send(app.request(method, &path).header(header.0, header.1)).await.status, status);
    }
    assert_eq!(counted(&app, &file).await, json!([0, false]));
    assert_eq!(send(app.get(&path).header("range", "bytes=5-9")).await.status, 206);
    assert_eq!(send(app.get(&path).header("range", "bytes=70000-70010,5-9")).await.status, 206);
    assert_eq!(counted(&app, &file).await, json!([0, true]));
    for (header, status) in [
        (("x-none", ""), 200),
        (("accept-encoding", "zstd"), 200),
        (("range", "bytes=0-9"), 206),
        (("range", "bytes=70000-70010,0-9"), 206),
    ] {
        assert_eq!(send(app.get(&path).header(header.0, header.1)).await.status, status);
    }
    assert_eq!(counted(&app, &file).await, json!([4, true]));
    assert_eq!(counted(&app, &file).await, json!([4, true]), "what was written is not written again");
}

#[tokio::test]
async fn counting_is_no_change_of_the_file_and_survives_one() {
    let app = TestApp::start().await;
    let file = app.put("name=a", "text/plain", "x").await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    app.clock.advance(Duration::from_secs(60));
    app.content(&file).await;
    app.app.files.write_downloads().await.unwrap();
    let after = send(app.get(&path)).await.expect(200);
    assert_eq!((&after["downloads"], &after["updatedAt"]), (&json!(1), &file["updatedAt"]));
    assert!(after["lastAccessedAt"].as_str().unwrap() > file["createdAt"].as_str().unwrap());
    send(app.request("PATCH", &path).json(&json!({ "name": "b" }))).await.expect(200);
    assert_eq!(counted(&app, &file).await, json!([1, true]));
    app.content(&file).await;
    assert_eq!(send(app.request("DELETE", &path)).await.status, 204);
    app.app.files.write_downloads().await.unwrap();
    let left = app.mongo().await.collection::<mongodb::bson::Document>("file_registry");
    assert_eq!(left.count_documents(mongodb::bson::doc! {}).await.unwrap(), 0, "a deleted file does not come back");
}

#[tokio::test]
async fn the_job_writes_what_many_gateways_counted() {
    let app = TestApp::start().await;
    let other = TestApp::start_on(app.database.clone(), |_| {}).await;
    let file = app.put("name=a", "application/octet-stream", noise(3 << 20, 1)).await;
    let stop = CancellationToken::new();
    let running = [jobs::start(&app.app.files, &stop), jobs::start(&other.app.files, &stop)];
    let downloads = (0..10).flat_map(|_| [app.content(&file), other.content(&file)]);
    futures::future::join_all(downloads).await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    let mut seen = Value::Null;
    for _ in 0..100 {
        seen = send(app.get(&path)).await.expect(200)["downloads"].clone();
        if seen == json!(20) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(seen, json!(20));
    stop.cancel();
    for job in running {
        job.wait().await;
    }
}
