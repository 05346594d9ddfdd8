//! The checker finds what is planted and nothing else.

use std::time::Duration;

use gridgate::jobs::fsck::fsck;
use gridgate::jobs::fsck::report::FsckReport;
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use serde_json::Value;

use crate::support::app::{TestApp, all_buckets, content_path, noise};
use crate::support::rows::Rows;
use crate::support::store::chunk;

async fn check(app: &TestApp) -> FsckReport {
    fsck(&app.app.files).await.unwrap()
}

/// A file whose row is in its blob, and one whose row is not.
const SMALL: usize = 900_000;
const LARGE: usize = 3_000_000;

/// A gateway with one file of several chunks, plain and identity so that its parts are easy to name.
async fn one_file(len: usize) -> (TestApp, mongodb::Database) {
    let app = TestApp::start_with(all_buckets).await;
    app.put("name=a.bin&encrypt=false&compress=none", "application/octet-stream", noise(len, 5)).await;
    let mongo = app.mongo().await;
    (app, mongo)
}

#[tokio::test]
async fn a_sound_store_has_no_findings_and_everything_is_counted() {
    let app = TestApp::start().await;
    for (len, query) in
        [(0, ""), (10, ""), (900_000, "&encrypt=false"), (3_000_000, "&compress=zstd"), (40_000, "&compress=gzip")]
    {
        app.put(&format!("name=a{query}"), "application/octet-stream", noise(len, 7)).await;
    }
    let report = check(&app).await;
    assert!(report.ok, "{report:?}");
    let checked = &report.checked;
    assert_eq!((checked.files, checked.blobs, checked.segments, checked.grid_files), (5, 5, 5, 5));
    let chunks: u64 = app.mongo().await.collection::<Document>("files.chunks").count_documents(doc! {}).await.unwrap();
    assert_eq!(checked.chunks, chunks);
}

#[tokio::test]
async fn every_missing_part_is_named() {
    for (collection, key) in [("blobs", "_id"), ("segments", "_id"), ("files.files", "_id"), ("files.chunks", "n")] {
        let (app, mongo) = one_file(LARGE).await;
        let parts = mongo.collection::<Document>(collection);
        let victim = parts.find_one(doc! {}).sort(doc! { key: 1 }).await.unwrap().unwrap();
        parts.delete_one(doc! { "_id": victim.get("_id").cloned() }).await.unwrap();
        let report = check(&app).await;
        assert!(!report.ok, "{collection}");
        assert!(report.missing.count + report.mismatched.count > 0, "{collection}: {report:?}");
    }
}

#[tokio::test]
async fn a_row_that_is_missing_in_its_blob_is_named() {
    let (app, mongo) = one_file(SMALL).await;
    let unset = doc! { "$unset": { "segment": "" } };
    assert_eq!(mongo.collection::<Document>("blobs").update_one(doc! {}, unset).await.unwrap().modified_count, 1);
    let report = check(&app).await;
    // The copy is of no row, and so are the bytes; a repair leaves them (`repair.rs`).
    assert_eq!((report.mismatched.count, report.orphans.count), (1, 1), "{report:?}");
}

#[tokio::test]
async fn bytes_and_rows_without_an_owner_are_orphans() {
    let (app, mongo) = one_file(SMALL).await;
    let lone = doc! { "_id": ObjectId::new(), "files_id": ObjectId::new(), "n": 0, "data": Bson::Binary(mongodb::bson::Binary {
    subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] }) };
    mongo.collection("files.chunks").insert_one(lone).await.unwrap();
    mongo
        .collection("files.files")
        .insert_one(
            doc! { "_id": ObjectId::new(), "length": 0_i64, "chunkSize": 261_120, "metadata": { "gridgate": {} } },
        )
        .await
        .unwrap();
    let mut row = Rows::of(&mongo).find_one(doc! {}).await.unwrap();
    row.insert("_id", ObjectId::new());
    row.insert("blob", ObjectId::new());
    mongo.collection("segments").insert_one(row).await.unwrap();
    let report = check(&app).await;
    assert_eq!(report.orphans.count, 3, "{report:?}");
    assert_eq!(report.missing.count + report.mismatched.count + report.leaked.count, 0, "{report:?}");
}

#[tokio::test]
async fn contradictions_are_mismatches() {
    let changes = [
        ("file_registry", doc! { "$inc": { "content.size": 1_i64 } }),
        ("file_registry", doc! { "$set": { "tenant": "other" } }),
        ("blobs", doc! { "$inc": { "size": 1_i64 } }),
        ("segments", doc! { "$inc": { "storedLen": 1_i64 } }),
        ("segments", doc! { "$inc": { "len": -1_i64 } }),
        ("blobs", doc! { "$inc": { "segment.storedLen": 1_i64 } }),
        ("blobs", doc! { "$inc": { "segment.len": -1_i64 } }),
        ("blobs", doc! { "$inc": { "segment.chunkSize": 1 } }),
        ("files.files", doc! { "$inc": { "length": 1_i64 } }),
        (
            "files.chunks",
            doc! { "$set": { "data": Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![0; 10] }) } },
        ),
    ];
    for (collection, change) in changes {
        let (app, mongo) = one_file(if collection == "segments" { LARGE } else { SMALL }).await;
        let changed = mongo.collection::<Document>(collection).update_one(doc! {}, change.clone()).await.unwrap();
        assert_eq!(changed.modified_count, 1, "{collection} {change}");
        let report = check(&app).await;
        assert!(report.mismatched.count > 0, "{collection} {change}: {report:?}");
    }
}

#[tokio::test]
async fn files_of_other_programs_are_left_alone() {
    let (app, mongo) = one_file(SMALL).await;
    let id = ObjectId::new();
    mongo.collection("fs.files").insert_one(doc! { "_id": id, "length": 1, "chunkSize": 1 }).await.unwrap();
    mongo.collection("fs.chunks").insert_one(doc! { "files_id": id, "n": 0 }).await.unwrap();
    let report = check(&app).await;
    assert!(report.ok && report.checked.foreign == 1, "{report:?}");
}

#[tokio::test]
async fn uploads_and_deletes_that_run_meanwhile_are_no_findings() {
    let app = TestApp::start().await;
    let work = async {
        for round in 0..40_u64 {
            let file = app.put("name=a&encrypt=false", "application/octet-stream", noise(1_500_000, round)).await;
            let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
            app.request("DELETE", &path).send().await.unwrap();
        }
    };
    let checks = async {
        for _ in 0..4 {
            let report = check(&app).await;
            assert!(report.ok, "{report:?}");
        }
    };
    tokio::join!(work, checks);
}

async fn segment_of(mongo: &mongodb::Database, file: &Value) -> ObjectId {
    let id = ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
    let registry = mongo.collection::<Document>("file_registry").find_one(doc! { "file": id }).await.unwrap().unwrap();
    let of_blob = doc! { "blob": registry.get_object_id("blob").unwrap() };
    Rows::of(mongo).find_one(of_blob).await.unwrap().get_object_id("_id").unwrap()
}

/// A files document of ours says something else of the bytes than their row, or says it twice.
#[tokio::test]
async fn what_a_writer_did_to_gridfs_is_named_and_nobody_reads_wrong_bytes() {
    let app = TestApp::start().await;
    let mongo = app.mongo().await;
    let changes: [(&str, Document); 9] = [
        ("a length that is text", doc! { "$set": { "length": "900000" } }),
        ("a negative length", doc! { "$set": { "length": -1_i64 } }),
        ("a length no file has", doc! { "$set": { "length": i64::MAX } }),
        ("no length", doc! { "$unset": { "length": "" } }),
        ("a chunk size of nothing", doc! { "$set": { "chunkSize": 0 } }),
        ("a negative chunk size", doc! { "$set": { "chunkSize": -261_120 } }),
        ("a chunk size of 2 GiB", doc! { "$set": { "chunkSize": 1_i64 << 31 } }),
        ("an extra chunk", doc! {}),
        ("a files document in another bucket", doc! {}),
    ];
    let mut victims = Vec::new();
    for (seed, (what, change)) in (1..).zip(changes) {
        let bytes = noise(900_000, seed);
        let file = app.put("name=a&encrypt=false&compress=none", "application/x-noise", bytes.clone()).await;
        let id = segment_of(&mongo, &file).await;
        let files = mongo.collection::<Document>("files.files");
        let document = files.find_one(doc! { "_id": id }).await.unwrap().unwrap();
        match what {
            "an extra chunk" => {
                let extra = chunk(&id.into(), 4, &bytes[..1000]);
                mongo.collection("files.chunks").insert_one(extra).await.unwrap();
            }
            "a files document in another bucket" => {
                mongo.collection("images.files").insert_one(document).await.unwrap();
            }
            _ => assert_eq!(files.update_one(doc! { "_id": id }, change).await.unwrap().modified_count, 1),
        }
        victims.push((what, file, bytes, id));
    }
    for (what, file, bytes, _) in &victims {
        let path = content_path(file);
        for range in ["bytes=0-", "bytes=0-9", "bytes=899990-"] {
            let response = app.get(&path).header("range", range).send().await.unwrap();
            let status = response.status().as_u16();
            let start = if range == "bytes=899990-" { 899_990 } else { 0 };
            match response.bytes().await {
                Ok(read) if status == 206 => assert!(bytes[start..].starts_with(&read), "{what}: wrong bytes"),
                _ => assert!(status >= 500 || *what == "an extra chunk", "{what}: {status}"),
            }
        }
    }
    let report = check(&app).await;
    let findings: Vec<_> = report.kinds().flat_map(|(_, findings)| &findings.items).collect();
    for (what, .., id) in &victims {
        let is_named = findings.iter().any(|finding| finding.id.contains(&id.to_hex()));
        assert!(is_named, "{what} is not found: {findings:?}");
    }
}

#[tokio::test]
async fn impossible_files_of_other_programs_are_not_adopted_and_stop_nothing() {
    let app = TestApp::start().await;
    let files = app.mongo().await.collection::<Document>("old.files");
    let impossible: [(Bson, Bson); 7] = [
        ("3".into(), 1024.into()),
        ((-3).into(), 1024.into()),
        (i64::MAX.into(), 1024.into()),
        (3.into(), 0.into()),
        (3.into(), (-1).into()),
        (3.into(), (1_i64 << 31).into()),
        (3.into(), i32::MAX.into()),
    ];
    let count = impossible.len() as u64;
    for (length, chunk_size) in impossible {
        files.insert_one(doc! { "_id": ObjectId::new(), "length": length, "chunkSize": chunk_size }).await.unwrap();
    }
    let sound = ObjectId::new();
    files.insert_one(doc! { "_id": sound, "length": 3, "chunkSize": 1024 }).await.unwrap();
    let stored = chunk(&sound.into(), 0, b"abc");
    app.mongo().await.collection("old.chunks").insert_one(stored).await.unwrap();
    let adopting = tokio::time::timeout(Duration::from_secs(60), app.app.files.adopt("old", "default"));
    let report = adopting.await.expect("it does not loop").unwrap();
    assert_eq!((report.adopted, report.failures), (1, count), "{report:?}");
}
