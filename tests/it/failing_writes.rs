//! The database answers, but cannot write: its disk is full, or no majority confirms.

use mongodb::bson::{DateTime, Document, doc};
use serde_json::Value;

use crate::support::app::{TestApp, noise};
use crate::support::own_mongod::OwnMongod;
use crate::support::requests::{Reply, count_files, send};
use crate::support::witness::assert_sound;

/// OutOfDiskSpace.
const DISK_FULL: i32 = 14_031;
/// WriteConcernFailed, by a timeout.
const UNCONFIRMED: i32 = 64;
const EVER: i32 = 1_000_000;
/// Stored by the commit alone.
const SMALL: usize = 10_000;
/// Stored in chunks of their own first.
const LARGE: usize = 3 << 20;

async fn start() -> (OwnMongod, TestApp) {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "writes".to_owned(), |settings| {
        settings.database.operation_timeout_secs = 1;
        settings.storage.lease_secs = 1;
        settings.storage.quarantine_secs = 0;
    })
    .await;
    (own, app)
}

async fn upload(app: &TestApp, len: usize) -> Reply {
    send(app.request("POST", "/v1/files?name=a").body(noise(len, len as u64))).await
}

/// Uploads of both ways of writing are as they were before the fault.
async fn assert_recovered(app: &TestApp) {
    for len in [SMALL, LARGE] {
        let file: Value = upload(app, len).await.expect(201);
        assert!(app.content(&file).await == noise(len, len as u64));
    }
    assert_sound(app).await;
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_leaves_nothing() {
    let (own, app) = start().await;
    let steps = [
        ("insert", SMALL),
        ("insert", LARGE),
        // Of the rows that lead a sweep to what was written.
        ("update", LARGE),
        ("commitTransaction", SMALL),
        ("commitTransaction", LARGE),
    ];
    for (command, len) in steps {
        own.fail(EVER, doc! { "failCommands": [command], "errorCode": DISK_FULL }).await;
        upload(&app, len).await.refused(507, "insufficient_storage");
        own.heal().await;
        assert_eq!(count_files(&app).await, 0, "{command}");
    }
    assert_recovered(&app).await;
}

#[tokio::test]
async fn writes_that_no_majority_confirms_are_unknown() {
    let (own, app) = start().await;
    let segments = app.mongo().await.collection::<Document>("segments");
    let released = doc! { "lease": { "$lt": DateTime::from_millis(1) } };
    let error = doc! { "code": UNCONFIRMED, "errmsg": "waiting for replication timed out" };
    for (command, count) in [("insert", 0), ("update", 0), ("commitTransaction", 1)] {
        own.fail(EVER, doc! { "failCommands": [command], "writeConcernError": error.clone() }).await;
        let unknown = upload(&app, LARGE).await.expect(503);
        assert!(unknown["code"] == "timeout" || unknown["code"] == "unavailable", "{command}: {unknown}");
        own.heal().await;
        assert_eq!(count_files(&app).await, count, "whole or absent: {command}");
        assert_eq!(segments.count_documents(released.clone()).await.unwrap(), 0, "taken back on a guess: {command}");
    }
    assert!(segments.count_documents(doc! { "state": "pending" }).await.unwrap() > 0, "there was something to guess");
    assert_recovered(&app).await;
}
