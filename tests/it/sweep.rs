//! What nothing names goes away, after the quarantine and not before; what is named stays.

use std::time::Duration;

use futures::StreamExt;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};

use crate::support::app::{TestApp, noise};
use crate::support::rows::Rows;

async fn chunks(app: &TestApp) -> u64 {
    app.mongo().await.collection::<Document>("files.chunks").count_documents(doc! {}).await.unwrap()
}

async fn delete(app: &TestApp, file: &serde_json::Value) -> u16 {
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    app.request("DELETE", &path).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn deleted_bytes_go_after_the_quarantine_and_others_stay() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 60).await;
    let kept = app.put("name=kept", "application/octet-stream", noise(1_000_000, 1)).await;
    let before = chunks(&app).await;
    let gone = app.put("name=gone", "application/octet-stream", noise(2_000_000, 2)).await;
    assert_eq!(delete(&app, &gone).await, 204);
    assert_eq!(sweep(&app.app.files).await.unwrap().reaped, 0);
    assert!(chunks(&app).await > before);
    app.clock.advance(Duration::from_secs(61));
    let report = sweep(&app.app.files).await.unwrap();
    assert_eq!(report.reaped, 1);
    assert_eq!(chunks(&app).await, before);
    assert!(app.content(&kept).await == noise(1_000_000, 1));
    assert!(fsck(&app.app.files).await.unwrap().ok);
}

#[tokio::test]
async fn content_that_cannot_be_reaped_holds_up_no_other() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    for seed in 0..8 {
        let file = app.put("name=a", "application/octet-stream", noise(300_000, seed)).await;
        assert_eq!(delete(&app, &file).await, 204);
    }
    // The rows of those condemned first cannot be read.
    let mongo = app.mongo().await;
    let (blobs, rows) = (mongo.collection::<Document>("blobs"), Rows::of(&mongo));
    let mut first = blobs.find(doc! {}).sort(doc! { "condemnedAt": 1 }).limit(2).await.unwrap();
    let (row, blob) = (first.next().await.unwrap().unwrap(), first.next().await.unwrap().unwrap());
    let spoil = doc! { "$set": { "gen": "one", "size": "many" } };
    blobs.update_one(doc! { "_id": row.get_object_id("_id").unwrap() }, spoil).await.unwrap();
    let spoil = doc! { "$set": { "storedLen": "long" } };
    assert!(rows.update_one(doc! { "blob": blob.get_object_id("_id").unwrap() }, spoil).await);

    let error = sweep(&app.app.files).await.expect_err("one of them fails");
    assert!(format!("{error:?}").contains("expected i64"), "{error:?}");
    assert_eq!(blobs.count_documents(doc! {}).await.unwrap(), 1, "the one whose segment cannot be read");
}

/// Twins of a document, more than a sweep looks at in a page, that come before it in every order and
/// cannot be read.
async fn plant(app: &TestApp, collection: &str, twin: Document, spoil: impl Fn(ObjectId) -> Document) -> Vec<ObjectId> {
    let ids: Vec<ObjectId> =
        (0..250_u128).map(|i| ObjectId::from_bytes((i << 32).to_be_bytes()[..12].try_into().unwrap())).collect();
    let twins = ids.iter().map(|id| {
        let mut twin = twin.clone();
        twin.insert("_id", *id);
        twin.extend(spoil(*id));
        twin
    });
    app.mongo().await.collection(collection).insert_many(twins).await.unwrap();
    ids
}

async fn only(app: &TestApp, collection: &str) -> Document {
    app.mongo().await.collection::<Document>(collection).find_one(doc! {}).await.unwrap().unwrap()
}

#[tokio::test]
async fn pages_of_content_that_cannot_be_reaped_hold_up_no_other() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let file = app.put("name=a", "application/octet-stream", noise(300_000, 1)).await;
    assert_eq!(delete(&app, &file).await, 204);
    let mut blob = only(&app, "blobs").await;
    let segment = Rows::of(&app.mongo().await).find_one(doc! {}).await.unwrap();
    blob.remove("segment");
    let bad = plant(&app, "blobs", blob.clone(), |_| doc! { "condemnedAt": DateTime::from_millis(0) }).await;
    let segments = bad.iter().map(|blob| {
        let mut segment = segment.clone();
        segment.extend(doc! { "_id": ObjectId::new(), "blob": blob, "storedLen": "long" });
        segment
    });
    app.mongo().await.collection("segments").insert_many(segments).await.unwrap();

    sweep(&app.app.files).await.expect_err("most of them fail");
    let good = doc! { "_id": blob.get_object_id("_id").unwrap() };
    assert_eq!(app.mongo().await.collection::<Document>("blobs").count_documents(good).await.unwrap(), 0);
    assert_eq!(chunks(&app).await, 0);
}

#[tokio::test]
async fn pages_of_content_that_cannot_be_condemned_hold_up_no_other() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    app.put("name=a", "application/octet-stream", noise(300_000, 1)).await;
    app.mongo().await.collection::<Document>("file_registry").delete_many(doc! {}).await.unwrap();
    let blob = only(&app, "blobs").await;
    plant(&app, "blobs", blob.clone(), |id| doc! { "sha256": id, "gen": "one" }).await;

    sweep(&app.app.files).await.expect_err("most of them fail");
    let good = doc! { "_id": blob.get_object_id("_id").unwrap() };
    assert_eq!(app.mongo().await.collection::<Document>("blobs").count_documents(good).await.unwrap(), 0);
    assert_eq!(chunks(&app).await, 0);
}

#[tokio::test]
async fn pages_of_files_that_cannot_be_read_hold_up_no_expiry() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    app.put("name=a&retentionDays=1", "application/octet-stream", noise(300_000, 1)).await;
    let file = only(&app, "file_registry").await;
    plant(
        &app,
        "file_registry",
        file,
        |id| doc! { "file": id, "version": "one", "expireAt": DateTime::from_millis(0) },
    )
    .await;
    app.clock.advance(Duration::from_secs(86_401));

    let report = sweep(&app.app.files).await.unwrap();
    assert_eq!(report.expired, 1, "{report:?}");
}

#[tokio::test]
async fn an_expired_file_is_removed_with_an_audit_entry() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let file = app.put("name=a&retentionDays=1", "application/octet-stream", noise(500_000, 3)).await;
    assert!(sweep(&app.app.files).await.unwrap().is_empty());
    app.clock.advance(Duration::from_secs(86_401));
    let report = sweep(&app.app.files).await.unwrap();
    assert_eq!((report.expired, report.reaped), (1, 1), "{report:?}");
    let mongo = app.mongo().await;
    let id = ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
    let actions = mongo.collection::<Document>("audit").distinct("action", doc! { "file": id }).await.unwrap();
    assert_eq!(actions.len(), 2, "{actions:?}");
    assert_eq!(chunks(&app).await, 0);
}

#[tokio::test]
async fn an_upload_that_was_cut_leaves_nothing_after_one_sweep() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let pieces = futures::stream::iter((0..12).map(|i| Ok(noise(1 << 20, i))))
        .chain(futures::stream::iter([Err(std::io::Error::other("cut"))]));
    let body = reqwest::Body::wrap_stream(pieces);
    let sent = app.request("POST", "/v1/files?name=a").body(body).send().await;
    assert!(sent.is_err() || !sent.unwrap().status().is_success());
    let mongo = app.mongo().await;
    let pending = mongo.collection::<Document>("blobs");
    for _ in 0..100 {
        let released = doc! { "state": "pending", "lease": DateTime::from_millis(0) };
        if pending.count_documents(released).await.unwrap() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(chunks(&app).await > 0, "the cut came after the first batch");
    let report = sweep(&app.app.files).await.unwrap();
    assert_eq!((report.condemned, report.reaped), (1, 1), "{report:?}");
    assert_eq!(chunks(&app).await, 0);
    assert!(fsck(&app.app.files).await.unwrap().ok);
}

#[tokio::test]
async fn a_writer_that_slept_past_its_lease_cannot_publish() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 3600).await;
    let (mut tell, hear) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(16);
    let request = app.request("POST", "/v1/files?name=a").body(reqwest::Body::wrap_stream(hear));
    let sent = tokio::spawn(request.send());
    for i in 0..10 {
        futures::SinkExt::send(&mut tell, Ok(noise(1 << 20, i))).await.unwrap();
    }
    let mongo = app.mongo().await;
    let blobs = mongo.collection::<Document>("blobs");
    while blobs.count_documents(doc! { "state": "pending" }).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As if the writer had been frozen: its lease ran out before it could renew it.
    let expired = doc! { "$set": { "lease": DateTime::from_millis(0) } };
    blobs.update_many(doc! {}, expired).await.unwrap();
    assert_eq!(sweep(&app.app.files).await.unwrap().condemned, 1);
    drop(tell);
    let response = sent.await.unwrap().unwrap();
    assert_eq!(response.status().as_u16(), 503);
    let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["retryable"], true);
    assert_eq!(mongo.collection::<Document>("file_registry").count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn files_of_other_programs_are_adopted_once_and_served() {
    let app = TestApp::start().await;
    let mongo = app.mongo().await;
    let bytes = noise(2_500, 9);
    for id in [mongodb::bson::Bson::String("a-name".into()), ObjectId::new().into()] {
        let files = doc! { "_id": id.clone(), "length": 2_500, "chunkSize": 1000.0, "filename": "old.log",
        "uploadDate": DateTime::now() };
        mongo.collection("fs.files").insert_one(files).await.unwrap();
        for (n, piece) in bytes.chunks(1000).enumerate() {
            let data =
                mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: piece.to_vec() };
            let chunk = doc! { "files_id": id.clone(), "n": n as i32, "data": data };
            mongo.collection("fs.chunks").insert_one(chunk).await.unwrap();
        }
    }
    let report = app.app.files.adopt("fs", "default").await.unwrap();
    assert_eq!((report.adopted, report.known, report.failures), (2, 0, 0), "{report:?}");
    let again = app.app.files.adopt("fs", "default").await.unwrap();
    assert_eq!((again.adopted, again.known), (0, 2), "{again:?}");
    let listed: serde_json::Value =
        serde_json::from_str(&app.get("/v1/files").send().await.unwrap().text().await.unwrap()).unwrap();
    for file in listed["items"].as_array().unwrap() {
        assert_eq!(file["bucket"], "fs");
        assert!(app.content(file).await == bytes);
        assert!(app.range(file, 999..2001).await == bytes[999..2001]);
    }
    assert!(fsck(&app.app.files).await.unwrap().ok);
}
