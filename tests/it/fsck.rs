//! The checker finds what is planted and nothing else.

use gridgate::jobs::fsck::fsck;
use gridgate::jobs::fsck::report::FsckReport;
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};

use crate::support::app::{TestApp, noise};

async fn check(app: &TestApp) -> FsckReport {
    fsck(&app.app.files).await.unwrap()
}

/// A gateway with one file of several chunks, plain and identity so that its parts are easy to name.
async fn one_file() -> (TestApp, mongodb::Database) {
    let app = TestApp::start().await;
    app.put("name=a.bin&encrypt=false&compress=none", "application/octet-stream", noise(900_000, 5)).await;
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
        let (app, mongo) = one_file().await;
        let parts = mongo.collection::<Document>(collection);
        let victim = parts.find_one(doc! {}).sort(doc! { key: 1 }).await.unwrap().unwrap();
        parts.delete_one(doc! { "_id": victim.get("_id").cloned() }).await.unwrap();
        let report = check(&app).await;
        assert!(!report.ok, "{collection}");
        assert!(report.missing.count + report.mismatched.count > 0, "{collection}: {report:?}");
    }
}

#[tokio::test]
async fn bytes_and_rows_without_an_owner_are_orphans() {
    let (app, mongo) = one_file().await;
    let chunk = doc! { "_id": ObjectId::new(), "files_id": ObjectId::new(), "n": 0, "data": Bson::Binary(mongodb::bson::Binary {
    subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] }) };
    mongo.collection("files.chunks").insert_one(chunk).await.unwrap();
    mongo
        .collection("files.files")
        .insert_one(
            doc! { "_id": ObjectId::new(), "length": 0_i64, "chunkSize": 261_120, "metadata": { "gridgate": {} } },
        )
        .await
        .unwrap();
    let mut row = mongo.collection::<Document>("segments").find_one(doc! {}).await.unwrap().unwrap();
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
        ("files.files", doc! { "$inc": { "length": 1_i64 } }),
        (
            "files.chunks",
            doc! { "$set": { "data": Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![0; 10] }) } },
        ),
    ];
    for (collection, change) in changes {
        let (app, mongo) = one_file().await;
        mongo.collection::<Document>(collection).update_one(doc! {}, change.clone()).await.unwrap();
        let report = check(&app).await;
        assert!(report.mismatched.count > 0, "{collection} {change}: {report:?}");
    }
}

#[tokio::test]
async fn files_of_other_programs_are_left_alone() {
    let (app, mongo) = one_file().await;
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
