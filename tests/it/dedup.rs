//! Deduplication: equal content of one tenant that is stored the same way is stored once, and a file
//! that shares it lives and dies as if it did not.

use std::sync::Arc;

use futures::{StreamExt, stream};
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, content_path, noise};
use crate::support::requests::send;

const TYPE: &str = "application/octet-stream";

async fn count(app: &TestApp, collection: &str, filter: Document) -> u64 {
    app.mongo().await.collection::<Document>(collection).count_documents(filter).await.unwrap()
}

async fn chunks(app: &TestApp) -> u64 {
    count(app, "files.chunks", doc! {}).await
}

async fn delete(app: &TestApp, file: &Value) {
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(send(app.request("DELETE", &path)).await.status, 204);
}

async fn assert_sound(app: &TestApp) {
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test]
async fn equal_content_is_stored_once_and_each_file_lives_its_own_life() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    for (len, seed) in [(0, 1), (1000, 2), (3 << 20, 3), (20 << 20, 4)] {
        let bytes = noise(len, seed);
        let first = app.put("name=first&tags=a", TYPE, bytes.clone()).await;
        sweep(&app.app.files).await.unwrap();
        let stored = chunks(&app).await;
        let second = app.put("name=second&retentionDays=1", TYPE, bytes.clone()).await;
        assert_eq!((&first["deduplicated"], &second["deduplicated"]), (&json!(false), &json!(true)), "{len}");
        for member in ["sha256", "size", "storedSize", "bucket", "contentType", "compression", "encryption"] {
            assert_eq!(first[member], second[member], "{member}");
        }
        for member in ["id", "etag", "name", "retention"] {
            assert_ne!(first[member], second[member], "{member}");
        }
        sweep(&app.app.files).await.unwrap();
        assert_eq!(chunks(&app).await, stored, "nothing was added");
        assert!(app.content(&second).await == bytes);
        delete(&app, &first).await;
        sweep(&app.app.files).await.unwrap();
        assert!(app.content(&second).await == bytes, "the other still names it");
        if len > 1000 {
            assert!(app.range(&second, 500..900_000).await == bytes[500..900_000]);
        }
        app.clock.advance(std::time::Duration::from_secs(86_401));
        send(app.get(&content_path(&second))).await.refused(404, "file_not_found");
        let report = sweep(&app.app.files).await.unwrap();
        assert_eq!((report.expired, report.reaped), (1, 1), "{report:?}");
        assert_eq!(chunks(&app).await, 0);
        assert_sound(&app).await;
    }
}

/// What is said about one of several files with the same bytes, and what becomes of it, stays with it.
#[tokio::test]
async fn of_equal_files_none_shows_what_became_of_the_others() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let bytes = noise(300_000, 8);
    let upload = async |name: &str| app.put(&format!("name={name}&tags=t"), TYPE, bytes.clone()).await;
    let path = |file: &Value| format!("/v1/files/{}", file["id"].as_str().unwrap());
    let still = upload("still").await;
    let shown = async || send(app.get(&path(&still))).await.expect(200);
    let [renamed, held, expiring, deleted] =
        [upload("renamed").await, upload("held").await, upload("expiring").await, upload("deleted").await];
    assert!([&renamed, &held, &expiring, &deleted].iter().all(|file| file["deduplicated"] == true));
    let before = shown().await;
    for (file, change) in [
        (&renamed, json!({ "name": "b", "tags": ["u"], "access": "public", "custom": { "a": 1 } })),
        (&held, json!({ "legalHold": true })),
        (&expiring, json!({ "retention": { "days": 1 } })),
    ] {
        send(app.request("PATCH", &path(file)).json(&change)).await.expect(200);
        assert_eq!(shown().await, before, "{change}");
    }
    delete(&app, &deleted).await;
    app.clock.advance(std::time::Duration::from_secs(86_401));
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 1);
    assert_eq!(shown().await, before, "the others are gone");
    for (file, status) in [(&still, 200), (&renamed, 200), (&held, 200), (&expiring, 404), (&deleted, 404)] {
        assert_eq!(app.content_status(file).await, status, "{}", file["name"]);
    }
    // The hold of one of them is the bytes', not the other's.
    delete(&app, &still).await;
    delete(&app, &renamed).await;
    sweep(&app.app.files).await.unwrap();
    assert!(app.content(&held).await == bytes, "the hold keeps the bytes");
    assert_sound(&app).await;
}

#[tokio::test]
async fn what_is_stored_another_way_or_by_another_tenant_is_not_shared() {
    let app = TestApp::start().await;
    let text = "a line of text\n".repeat(30_000);
    let ways = ["name=a", "name=a&encrypt=false", "name=a&compress=none", "name=a&compress=gzip"];
    for way in ways {
        assert_eq!(app.put(way, "text/plain", text.clone()).await["deduplicated"], false, "{way}");
    }
    assert_eq!(count(&app, "blobs", doc! {}).await, ways.len() as u64);
    for way in ways {
        assert_eq!(app.put(way, "text/plain", text.clone()).await["deduplicated"], true, "{way}");
    }
    assert_eq!(count(&app, "blobs", doc! {}).await, ways.len() as u64);
    let bob = key(&app, "bob", "other", &["files:read", "files:write"], None).await;
    let upload = || app.anonymous("POST", "/v1/files?name=a").header("content-type", "text/plain").bearer_auth(&bob);
    let theirs = send(upload().body(text.clone())).await.expect(201);
    assert_eq!(theirs["deduplicated"], false, "another tenant learns nothing");
    let scopes = app.mongo().await.collection::<Document>("blobs").distinct("sha256", doc! {}).await.unwrap();
    assert_eq!(scopes.len(), 2, "the look-up value of a content differs by tenant");
    assert_eq!(send(upload().body(text)).await.expect(201)["deduplicated"], true);
    assert_sound(&app).await;
}

#[tokio::test]
async fn content_that_cannot_be_read_is_not_shared() {
    for (what, break_it) in [("a lost chunk", "files.chunks"), ("a lost segment row", "segments")] {
        let app = TestApp::start().await;
        let bytes = noise(3 << 20, 5);
        let damaged = app.put("name=damaged", TYPE, bytes.clone()).await;
        app.mongo().await.collection::<Document>(break_it).delete_one(doc! {}).await.unwrap();
        assert!(send(app.get(&content_path(&damaged))).await.status == 500);
        let fresh = app.put("name=fresh", TYPE, bytes.clone()).await;
        assert_eq!(fresh["deduplicated"], false, "{what}");
        assert!(app.content(&fresh).await == bytes, "{what}");
    }
}

#[tokio::test]
async fn of_equal_uploads_at_once_one_is_stored() {
    for len in [1000, 3 << 20] {
        let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
        let other = TestApp::start_on(app.database.clone(), |settings| settings.storage.quarantine_secs = 0).await;
        let bytes = noise(len, 6);
        let uploads = (0..16).map(|i| if i % 2 == 0 { &app } else { &other }.put("name=a", TYPE, bytes.clone()));
        let files: Vec<Value> = stream::iter(uploads).buffer_unordered(16).collect().await;
        assert_eq!(files.iter().filter(|file| file["deduplicated"] == false).count(), 1, "{len}");
        assert_eq!(count(&app, "blobs", doc! { "state": "live" }).await, 1);
        sweep(&app.app.files).await.unwrap();
        assert_eq!(count(&app, "blobs", doc! {}).await, 1, "what lost the race is gone");
        for file in &files {
            assert!(app.content(file).await == bytes);
        }
        assert_sound(&app).await;
    }
}

#[tokio::test]
async fn an_idempotency_key_repeats_a_shared_upload_too() {
    let app = TestApp::start().await;
    app.put("name=first", TYPE, "the same").await;
    let upload = || app.request("POST", "/v1/files?name=a").header("content-type", TYPE).header("idempotency-key", "k");
    let file = send(upload().body("the same")).await.expect(201);
    assert_eq!(file["deduplicated"], true);
    let again = send(upload().body("the same")).await.expect(201);
    assert_eq!(again["id"], file["id"]);
    send(upload().body("another")).await.refused(422, "idempotency_conflict");
    assert_eq!(send(app.get("/v1/files")).await.expect(200)["total"], 2);
}

/// Deletes race with uploads of the same content while it is swept without quarantine: no
/// acknowledged file may lose its bytes.
#[tokio::test]
async fn no_upload_loses_its_bytes_to_a_delete_of_the_same_content() {
    let rounds: u64 = std::env::var("GRIDGATE_RACE_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    const WRITERS: u64 = 16;
    let start = || TestApp::start_with(|settings| settings.storage.quarantine_secs = 0);
    let app = Arc::new(start().await);
    let other = TestApp::start_on(app.database.clone(), |settings| settings.storage.quarantine_secs = 0).await;
    let mut shared = 0;
    for round in 0..rounds {
        let bytes = noise(300 + (round as usize % 5) * 100_000, round);
        let before = app.put("name=before", TYPE, bytes.clone()).await;
        let turns = (0..WRITERS).map(|writer| {
            let (app, other, bytes, before) = (&app, &other, bytes.clone(), &before);
            async move {
                match writer {
                    0 => delete(app, before).await,
                    1 => drop(sweep(&other.app.files).await.unwrap()),
                    _ => {
                        let gateway = if writer % 2 == 0 { app } else { other };
                        let file = gateway.put("name=racing", TYPE, bytes).await;
                        if writer % 4 == 2 {
                            delete(gateway, &file).await;
                            return None;
                        }
                        return Some(file);
                    }
                }
                None
            }
        });
        let acknowledged: Vec<Option<Value>> = stream::iter(turns).buffer_unordered(WRITERS as usize).collect().await;
        sweep(&app.app.files).await.unwrap();
        for file in acknowledged.iter().flatten() {
            assert!(other.content(file).await == bytes, "round {round}");
            shared += u64::from(file["deduplicated"] == true);
        }
        for file in acknowledged.iter().flatten() {
            delete(&app, file).await;
        }
    }
    assert!(shared > rounds, "{shared} uploads shared: the race was run");
    sweep(&app.app.files).await.unwrap();
    assert_eq!((chunks(&app).await, count(&app, "blobs", doc! {}).await), (0, 0));
    assert_sound(&app).await;
}
