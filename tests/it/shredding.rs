//! A deleted file's key is gone at once, its bytes later; who reads it at that moment reads on.

use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use gridgate::store::{Document, doc};
use serde_json::Value;
use std::time::Duration;

use crate::support::app::{ADMIN_KEY, TestApp, content_path, noise, secret};
use crate::support::own_mongod::OwnMongod;
use crate::support::rows::Rows;
use crate::support::wire::Wire;

async fn delete(app: &TestApp, file: &Value) -> u16 {
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    app.request("DELETE", &path).send().await.unwrap().status().as_u16()
}

async fn count(app: &TestApp, collection: &str, filter: Document) -> u64 {
    app.mongo().await.collection::<Document>(collection).count_documents(filter).await.unwrap()
}

#[tokio::test]
async fn a_delete_destroys_the_key_at_once_and_a_running_download_finishes() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 60).await;
    let bytes = noise(24 << 20, 1);
    let kept = app.put("name=kept&encrypt=true", "application/x-noise", bytes[..100_000].to_vec()).await;
    let file = app.put("name=gone&encrypt=true", "application/x-noise", bytes.clone()).await;
    let mut wire = Wire::connect(&app.url).await;
    let path = content_path(&file);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n")).await;
    assert_eq!(wire.head().await.status, 200);

    assert_eq!(delete(&app, &file).await, 204);
    let rows = Rows::of(&app.mongo().await);
    let with_key = doc! { "enc": { "$exists": true } };
    assert_eq!(rows.count(with_key).await, 1, "the kept file's key is the only one");
    assert_eq!(rows.count(doc! { "salt": { "$exists": true } }).await, 2, "both rows are there");
    assert_eq!(count(&app, "blobs", doc! { "state": "condemned" }).await, 1);
    assert_eq!(app.content_status(&file).await, 404);
    assert!(fsck(&app.app.files).await.unwrap().ok, "condemned content needs no key");
    assert!(wire.body(bytes.len()).await == bytes, "what was begun is finished");

    assert!(app.content(&kept).await == bytes[..100_000]);
    app.clock.advance(Duration::from_secs(61));
    assert_eq!(sweep(&app.app.files).await.unwrap().reaped, 1);
    assert_eq!(rows.count(doc! {}).await, 1);
}

#[tokio::test]
async fn an_expired_file_loses_its_key_with_the_sweep() {
    let app = TestApp::start().await;
    let lens = [5_000, 3 << 20];
    for len in lens {
        app.put("name=a&retentionDays=1&encrypt=true", "application/x-noise", noise(len, 3)).await;
    }
    app.clock.advance(Duration::from_secs(86_401));
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 2);
    let rows = Rows::of(&app.mongo().await);
    assert_eq!(rows.count(doc! {}).await, 2);
    assert_eq!(rows.count(doc! { "enc": { "$exists": true } }).await, 0);
}

/// The read has found the file and is held up before it finds the segments.
#[tokio::test]
async fn a_read_that_a_delete_overtakes_finds_nothing_and_no_damage() {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_with(|settings| settings.database.uri = secret(&own.uri())).await;
    for (len, collection) in [(3_000, "blobs"), (3 << 20, "segments")] {
        let file = app.put("name=a&encrypt=true", "application/x-noise", noise(len, 5)).await;
        let held = doc! { "failCommands": ["find"], "namespace": format!("{}.{collection}", app.database),
        "blockConnection": true, "blockTimeMS": 1500 };
        let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": held };
        own.client().await.database("admin").run_command(point).await.unwrap();
        let (read, deleted) = tokio::join!(app.content_status(&file), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            delete(&app, &file).await
        });
        assert_eq!((read, deleted), (404, 204), "{collection}");
        let rows = Rows::of(&own.client().await.database(&app.database));
        assert_eq!(rows.count(doc! { "enc": { "$exists": true } }).await, 0, "{collection}");
    }
}
