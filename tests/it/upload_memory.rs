//! The memory that uploads share: who takes much of it leaves room for others.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::auth::key;
use crate::support::app::{ADMIN_KEY, TestApp, noise};
use crate::support::requests::send;
use crate::support::wire::Wire;

const MIB: usize = 1 << 20;

/// Begins a large upload and stands still once its first bytes are gathered.
async fn stall(app: &TestApp, head: &str) -> Wire {
    let mut wire = Wire::connect(&app.url).await;
    wire.send(format!(
        "{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 104857600\r\n"
    ))
    .await;
    wire.send("Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n\r\n")
        .await;
    wire.send(noise(600 << 10, 1)).await;
    wire
}

#[tokio::test]
async fn stalled_uploads_of_one_key_leave_room_for_those_of_another() {
    let app = TestApp::start_with(|settings| settings.database.upload_budget_mib = 16).await;
    let other = key(&app, "other", "default", &["files:read", "files:write"], None).await;
    let heads = ["POST /v1/files?encrypt=false", "POST /v1/files"].iter().cycle().take(18);
    let mut heads: Vec<String> = heads.map(|head| (*head).to_owned()).collect();
    for _ in 0..6 {
        let said = json!({ "name": "a", "size": 100 * MIB });
        let upload = send(app.request("POST", "/v1/uploads").json(&said)).await.expect(201);
        heads.push(format!("PATCH /tus/{}", upload["id"].as_str().unwrap()));
    }
    let stalled = join_all(heads.iter().map(|head| stall(&app, head))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = noise(9 * MIB, 2);
    let own = send(app.request("POST", "/v1/files?name=own").body(bytes.clone()));
    assert!(tokio::time::timeout(Duration::from_secs(3), own).await.is_err(), "its own memory is used up");
    let begun = Instant::now();
    let uploads = (0..4).map(|n| {
        let request = app.anonymous("POST", &format!("/v1/files?name={n}")).bearer_auth(&other);
        send(request.body(bytes.clone()))
    });
    for reply in join_all(uploads).await {
        assert_eq!(reply.expect(201)["size"], 9 * MIB);
    }
    println!("four uploads of 9 MiB beside {} stalled ones: {:?}", stalled.len(), begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn many_uploads_of_one_key_all_come_through() {
    let app = TestApp::start_with(|settings| {
        (settings.database.upload_budget_mib, settings.database.credential_budget_percent) = (16, 10);
    })
    .await;
    let bytes = noise(9 * MIB, 3);
    let uploads = (0..12).map(|n| send(app.request("POST", &format!("/v1/files?name={n}")).body(bytes.clone())));
    for reply in join_all(uploads).await {
        assert_eq!(reply.expect(201)["size"], 9 * MIB);
    }
}
