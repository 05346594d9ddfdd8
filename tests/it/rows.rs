//! Small content has its row in its blob: one command less an upload. What was stored with a row of its own, by resumable
//! uploads and by earlier builds, is the same to everybody.

use std::time::Duration;

use gridgate::jobs::fsck::fsck;
use gridgate::jobs::rekey::rekey;
use gridgate::jobs::sweep::sweep;
use gridgate::store::new_id;
use gridgate::store::rows::{RowPlace, segment_id};
use mongodb::Database;
use mongodb::bson::{Document, doc};

use crate::scrub::scrubbed;
use crate::support::app::{TestApp, content_path, noise};
use crate::support::model::{WAYS, prose};
use crate::support::profiler;
use crate::support::requests::send;

const TYPE: &str = "application/x-noise";

#[tokio::test]
async fn a_small_upload_is_six_inserts_and_no_row_of_its_own() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    for (way, options) in WAYS {
        // Whether the tenant has limits is known then.
        app.put("name=a", TYPE, noise(10, 1)).await;
        profiler::start(&db).await;
        let bytes = noise(1_000_000, 2);
        let file = app.put(&format!("name=a&{options}"), TYPE, bytes.clone()).await;
        let acts = profiler::stop_all(&db).await;
        let inserts = acts.iter().filter(|act| act.get_str("op").is_ok_and(|op| op == "insert"));
        let mut places: Vec<_> = inserts.map(|act| act.get_str("ns").unwrap().split_once('.').unwrap().1).collect();
        places.sort_unstable();
        let all = ["audit", "blobs", "file_registry", "files.chunks", "files.files", "usage_entries"];
        assert_eq!(places, all, "{way}");
        assert!(app.content(&file).await == bytes, "{way}");
    }
    let blobs = db.collection::<Document>("blobs");
    let blob = blobs.find_one(doc! {}).await.unwrap().unwrap();
    let id = blob.get_object_id("_id").unwrap();
    assert_eq!(blob.get_document("segment").unwrap().get_object_id("_id").unwrap(), segment_id(id));
}

#[tokio::test]
async fn rows_beyond_one_reply_are_all_read_in_order() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    app.put("name=a", TYPE, noise(2 << 20, 3)).await;
    let rows = db.collection::<Document>("segments");
    let row = rows.find_one(doc! {}).await.unwrap().unwrap();
    let (blob, count) = (new_id(), 10_500_i64);
    let copies = (0..count).rev().map(|off| {
        let mut row = row.clone();
        row.extend(doc! { "_id": new_id(), "blob": blob, "off": off });
        row
    });
    rows.insert_many(copies).await.unwrap();
    profiler::start(&db).await;
    let found = app.app.files.store.find_segments(blob, RowPlace::Segments).await.unwrap();
    let replies = profiler::stop(&db, "segments").await.len();
    assert!(found.iter().map(|row| row.off).eq(0..count), "{} rows", found.len());
    assert_eq!(replies, 2);
}

/// Gives all rows documents of their own.
async fn take_rows_out(db: &Database) {
    let with_row = doc! { "$match": { "segment": { "$exists": true } } };
    let taken = [with_row, doc! { "$replaceWith": "$segment" }, doc! { "$merge": "segments" }];
    db.collection::<Document>("blobs").aggregate(taken).await.unwrap();
    let unset = doc! { "$unset": { "segment": "" } };
    assert!(db.collection::<Document>("blobs").update_many(doc! {}, unset).await.unwrap().modified_count > 0);
}

#[tokio::test]
async fn content_with_a_row_of_its_own_is_read_shared_checked_rewrapped_and_reaped_as_any() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 60).await;
    let db = app.mongo().await;
    let bytes = prose(300_000, 1);
    let mut files = Vec::new();
    for (_, options) in WAYS {
        files.push(app.put(&format!("name=a&{options}"), TYPE, bytes.clone()).await);
    }
    let sealed = WAYS.iter().filter(|(_, options)| options.contains("encrypt=true")).count() as u64;
    let before = rekey(&app.app.files, |_, _| {}).await.unwrap().already;
    take_rows_out(&db).await;
    for (file, (way, options)) in files.iter().zip(WAYS) {
        assert!(app.content(file).await == bytes, "{way}");
        let again = app.put(&format!("name=b&{options}"), TYPE, bytes.clone()).await;
        assert_eq!(again["deduplicated"], true, "{way}");
        assert!(app.content(&again).await == bytes, "{way}");
    }
    assert_eq!(rekey(&app.app.files, |_, _| {}).await.unwrap().already, before);
    assert!(before > sealed);
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok && report.checked.segments == WAYS.len() as u64, "{report:?}");
    let report = scrubbed(&app).await;
    assert!(report.ok && report.blobs == WAYS.len() as u64, "{report:?}");
    let listed = send(app.get("/v1/files")).await.expect(200);
    for file in listed["items"].as_array().unwrap() {
        let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
        assert_eq!(app.request("DELETE", &path).send().await.unwrap().status().as_u16(), 204);
    }
    app.clock.advance(Duration::from_secs(61));
    assert_eq!(sweep(&app.app.files).await.unwrap().reaped, WAYS.len() as u64);
    for collection in ["blobs", "segments", "files.files", "files.chunks"] {
        assert_eq!(db.collection::<Document>(collection).count_documents(doc! {}).await.unwrap(), 0, "{collection}");
    }
}

#[tokio::test]
async fn a_row_of_other_bytes_is_not_read_and_not_reaped_by() {
    for what in ["another's", "of another's id", "of another's bytes"] {
        plant_and_reap(what).await;
    }
}

async fn plant_and_reap(what: &str) {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let db = app.mongo().await;
    let mut blobs = Vec::new();
    let mut files = Vec::new();
    for seed in [1, 2] {
        let file = app.put("name=a&encrypt=true", TYPE, noise(50_000, seed)).await;
        let id = mongodb::bson::oid::ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
        let known = db.collection::<Document>("file_registry").find_one(doc! { "file": id }).await.unwrap().unwrap();
        let of_file = doc! { "_id": known.get_object_id("blob").unwrap() };
        blobs.push(db.collection::<Document>("blobs").find_one(of_file).await.unwrap().unwrap());
        files.push(file);
    }
    let others = blobs[0].get_document("segment").unwrap();
    let planted = doc! { "$set": match what {
        "another's" => doc! { "segment": others },
        "of another's id" => doc! { "segment._id": others.get("_id").unwrap() },
        _ => doc! { "segment.filesId": others.get("_id").unwrap() },
    } };
    let second = doc! { "_id": blobs[1].get_object_id("_id").unwrap() };
    db.collection::<Document>("blobs").update_one(second.clone(), planted).await.unwrap();
    assert_eq!(app.get(&content_path(&files[1])).send().await.unwrap().status().as_u16(), 500, "{what}");
    let report = fsck(&app.app.files).await.unwrap();
    assert!(!report.ok && report.shape.count == 1, "{report:?}");
    let again = app.put("name=a&encrypt=true", TYPE, noise(50_000, 2)).await;
    assert_eq!(again["deduplicated"], false, "{what}: it is stored anew");
    assert!(app.content(&again).await == noise(50_000, 2), "{what}");
    let path = format!("/v1/files/{}", files[1]["id"].as_str().unwrap());
    assert_eq!(app.request("DELETE", &path).send().await.unwrap().status().as_u16(), 204);
    sweep(&app.app.files).await.expect_err("it is not its row");
    assert!(app.content(&files[0]).await == noise(50_000, 1), "{what}: the other's bytes are there");
}

#[tokio::test]
async fn wrapped_keys_are_found_by_an_index_wherever_they_are() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    app.put("name=a&encrypt=true", TYPE, noise(1000, 1)).await;
    for (collection, field) in [("segments", "enc.kid"), ("blobs", "segment.enc.kid")] {
        let has_it = doc! { field: { "$gte": "" } };
        let distinct = doc! { "distinct": collection, "key": field, "query": has_it };
        let mut of_kid = doc! { field: { "$eq": "test" } };
        let count = doc! { "count": collection, "query": of_kid.clone() };
        of_kid.insert("state", "live");
        let page = doc! { "find": collection, "filter": of_kid, "sort": { "_id": 1 } };
        for command in [distinct, count, page] {
            let explained = db.run_command(doc! { "explain": command.clone() }).await.unwrap().to_string();
            let index = format!("{field}_1__id_1");
            assert!(explained.contains(&index) && !explained.contains("COLLSCAN"), "{command}: {explained}");
        }
    }
}
