//! The check is exact whatever runs beside it, and a repair takes what nothing names and nothing else.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use gridgate::jobs::fsck::report::{Findings, FsckReport};
use gridgate::jobs::fsck::{Mode, fsck, run};
use gridgate::jobs::progress::Progress;
use gridgate::jobs::scrub::{Scrub, scrub};
use gridgate::jobs::sweep::sweep;
use mongodb::Database;
use mongodb::bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, noise};
use crate::support::model::{Dice, WAYS, prose};
use crate::support::mongod;
use crate::support::program;
use crate::support::rows::Rows;
use crate::support::store::chunk;
use crate::support::uploads::{PART, begin, complete, put_part};

/// How long the traffic lasts at least, and how many checks must run beside it.
const TRAFFIC: Duration = Duration::from_secs(6);
const CHECKS: usize = 3;

async fn repair(app: &TestApp) -> FsckReport {
    run(&app.app.files, Mode::Repair, &Progress::default()).await.unwrap()
}

fn names(findings: &Findings, id: impl ToString) -> bool {
    findings.items.iter().any(|finding| finding.id == id.to_string())
}

/// Uploads, expires, cuts and deletes until the traffic is over; gives what must be there.
async fn client(app: &TestApp, seed: u64, over: &CancellationToken) -> Vec<(Value, Vec<u8>)> {
    let (mut dice, mut kept) = (Dice::new(seed), Vec::new());
    while !over.is_cancelled() {
        let len = [0, 10, 5_000, 5_000, 300_000, 300_000, 1_500_000, 9_000_000][dice.below(8)];
        let (_, options) = WAYS[dice.below(WAYS.len())];
        let bytes =
            if len > 2_000_000 || dice.below(2) == 0 { noise(len, seed) } else { prose(len, dice.below(1000) as u64) };
        match dice.below(4) {
            0 => {
                let soon =
                    DateTime::from_millis(DateTime::now().timestamp_millis() + 2500).try_to_rfc3339_string().unwrap();
                app.put(&format!("name=a&{options}&expiresAt={soon}"), "application/x-noise", bytes).await;
            }
            1 => {
                let body = futures::stream::iter([Ok(bytes), Err(std::io::Error::other("cut"))]);
                let body = reqwest::Body::wrap_stream(body);
                drop(app.request("POST", &format!("/v1/files?name=a&{options}")).body(body).send().await);
            }
            2 => {
                let file = app.put(&format!("name=a&{options}"), "application/x-noise", bytes).await;
                let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
                assert_eq!(app.request("DELETE", &path).send().await.unwrap().status().as_u16(), 204);
            }
            _ if kept.len() < 8 => {
                kept.push((app.put(&format!("name=a&{options}"), "application/x-noise", bytes.clone()).await, bytes));
            }
            _ => {
                let (file, bytes): &(Value, Vec<u8>) = &kept[dice.below(kept.len())];
                assert!(app.content(file).await == *bytes);
            }
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_of_every_kind_is_no_finding() {
    let app = TestApp::start_with(|settings| {
        (settings.storage.quarantine_secs, settings.storage.sweep_interval_secs) = (0, 1);
    })
    .await;
    let (begun, over) = (Instant::now(), CancellationToken::new());
    let sweeps = async {
        let mut swept = 0;
        loop {
            let was_over = over.is_cancelled();
            let report = sweep(&app.app.files).await.unwrap();
            swept += report.reaped;
            if was_over && report.is_empty() {
                return swept;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let checks = async {
        let _over = over.clone().drop_guard();
        let mut runs = 0;
        while begun.elapsed() < TRAFFIC || runs < CHECKS {
            let report = fsck(&app.app.files).await.unwrap();
            assert!(report.ok, "{report:?}");
            runs += 1;
        }
        runs
    };
    let scrubs = async {
        while !over.is_cancelled() {
            let wanted = Scrub { bucket: None, mib_per_sec: 10_240, every: Duration::ZERO };
            let report = scrub(&app.app.files, &wanted, &Progress::default()).await.unwrap().unwrap();
            assert!(report.ok, "{report:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let clients = async { tokio::join!(client(&app, 1, &over), client(&app, 2, &over), client(&app, 3, &over)) };
    let (swept, checks, (), (a, b, c)) = tokio::join!(sweeps, checks, scrubs, clients);
    println!("{checks} checks beside the traffic, {swept} contents reaped");
    assert!(swept >= 5, "{swept} contents reaped");
    for (file, bytes) in a.iter().chain(&b).chain(&c) {
        assert!(app.content(file).await == *bytes);
    }
    assert!(fsck(&app.app.files).await.unwrap().ok);
}

/// The rows of a file: registry document, blob, segment.
async fn rows(db: &Database, file: &Value) -> [Document; 3] {
    let one = async |name: &str, filter| db.collection::<Document>(name).find_one(filter).await.unwrap().unwrap();
    let registry =
        one("file_registry", doc! { "file": ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap() }).await;
    let blob = one("blobs", doc! { "_id": registry.get_object_id("blob").unwrap() }).await;
    let segment = Rows::of(db).only_of(blob.get_object_id("_id").unwrap()).await;
    [registry, blob, segment]
}

fn with(document: &Document, fields: Document) -> Document {
    let mut changed = document.clone();
    changed.extend(fields);
    changed
}

async fn insert(db: &Database, collection: &str, document: Document) -> String {
    let id = document.get("_id").unwrap().to_string();
    db.collection(collection).insert_one(document).await.unwrap();
    id.trim_start_matches("ObjectId(\"").trim_end_matches("\")").to_owned()
}

/// A blob that nothing else can share, without a row.
fn unshared(blob: &Document) -> Document {
    let mut blob = blob.clone();
    blob.remove("sha256");
    blob.remove("segment");
    blob
}

/// A files document of this program's.
fn files_document(id: ObjectId) -> Document {
    doc! { "_id": id, "length": 3_i64, "chunkSize": 261_120, "metadata": { "gridgate": { "format": 1 } } }
}

/// A chunk as this program numbers it.
fn own_chunk(files_id: ObjectId, n: u8) -> Document {
    with(
        &chunk(&files_id.into(), i32::from(n), b"abc"),
        doc! { "_id": ObjectId::from_bytes([7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, n]) },
    )
}

#[tokio::test]
async fn each_kind_of_violation_is_found_in_one_run() {
    let app = TestApp::start_with(|settings| {
        (settings.storage.quarantine_secs, settings.storage.sweep_interval_secs) = (0, 1);
    })
    .await;
    let db = app.mongo().await;
    let options = "name=a&encrypt=false&compress=none";
    let mut files = Vec::new();
    for seed in 0..6 {
        files.push(rows(&db, &app.put(options, "application/x-noise", noise(900_000, seed)).await).await);
    }
    let id = |row: &Document| row.get_object_id("_id").unwrap();
    let remove = async |name: &str, filter: Document| {
        assert_eq!(db.collection::<Document>(name).delete_one(filter).await.unwrap().deleted_count, 1);
    };
    let [registry, blob, segment] = &files[0];
    // Missing: a blob, a files document, all chunks, a segment.
    remove("blobs", doc! { "_id": id(&files[1][1]) }).await;
    remove("files.files", doc! { "_id": id(&files[2][2]) }).await;
    db.collection::<Document>("files.chunks").delete_many(doc! { "files_id": id(&files[3][2]) }).await.unwrap();
    Rows::of(&db).delete_one(doc! { "_id": id(&files[4][2]) }).await;
    // Mismatched: one chunk of several.
    remove("files.chunks", doc! { "files_id": id(&files[5][2]), "n": 1 }).await;
    // Orphans: chunks, a files document, a segment.
    let nobody = ObjectId::new();
    db.collection("files.chunks").insert_one(own_chunk(nobody, 0)).await.unwrap();
    let lone = insert(&db, "files.files", files_document(ObjectId::new())).await;
    let unheld = insert(&db, "segments", with(segment, doc! { "_id": ObjectId::new(), "blob": ObjectId::new() })).await;
    // Leaked: live without a name, pending without a writer, condemned and forgotten.
    let past = DateTime::from_millis(1_000_000);
    let copy = |fields: Document| with(&unshared(blob), with(&doc! { "_id": ObjectId::new() }, fields));
    let leaked = [
        insert(&db, "blobs", copy(doc! {})).await,
        insert(&db, "blobs", copy(doc! { "state": "pending", "lease": past })).await,
        insert(&db, "blobs", copy(doc! { "state": "condemned", "condemnedAt": past })).await,
    ];
    let held =
        insert(&db, "blobs", copy(doc! { "state": "pending", "lease": DateTime::from_millis(i64::MAX / 2) })).await;
    // Shape: an expiry that is none.
    let fields = doc! { "_id": ObjectId::new(), "file": ObjectId::new(), "expireAt": "soon" };
    let odd = insert(&db, "file_registry", with(registry, fields)).await;

    let report = fsck(&app.app.files).await.unwrap();
    assert!(!report.ok);
    assert!(names(&report.missing, id(&files[1][0])), "{report:?}");
    assert!(names(&report.missing, id(&files[2][2])), "{report:?}");
    assert!(report.missing.items.iter().any(|f| f.id.contains(&id(&files[3][2]).to_hex())), "{report:?}");
    assert!(names(&report.mismatched, id(&files[4][0])), "{report:?}");
    assert!(report.mismatched.items.iter().any(|f| f.id.contains(&id(&files[5][2]).to_hex())), "{report:?}");
    assert!(report.orphans.items.iter().any(|f| f.id.contains(&nobody.to_hex())), "{report:?}");
    assert!(report.orphans.items.iter().any(|f| f.id.contains(&lone)), "{report:?}");
    assert!(names(&report.orphans, &unheld), "{report:?}");
    for blob in &leaked {
        assert!(names(&report.leaked, blob), "{blob}: {report:?}");
    }
    assert!(!names(&report.leaked, held), "its writer lives: {report:?}");
    assert!(names(&report.shape, odd), "{report:?}");
}

/// Takes as long as a check gives a sweep that is under way: half a minute.
#[tokio::test]
async fn what_a_running_sweep_has_yet_to_reach_is_counted_and_is_no_finding() {
    let app = TestApp::start_with(|settings| {
        (settings.storage.quarantine_secs, settings.storage.sweep_interval_secs) = (0, 1);
    })
    .await;
    let file = app.put("name=a", "application/x-noise", noise(1000, 1)).await;
    let deleted = app.request("DELETE", &format!("/v1/files/{}", file["id"].as_str().unwrap())).send().await.unwrap();
    assert_eq!(deleted.status().as_u16(), 204);
    app.clock.advance(Duration::from_secs(2));
    let (store, sweeper) = (&app.app.files.store, ObjectId::new());
    assert!(store.hold("sweep", sweeper, Duration::from_secs(600)).await.unwrap());

    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok && report.awaiting_sweep == 1, "{report:?}");
    store.let_go("sweep", sweeper).await.unwrap();
    let report = fsck(&app.app.files).await.unwrap();
    assert_eq!((report.ok, report.leaked.count, report.awaiting_sweep), (false, 1, 0), "{report:?}");
}

#[tokio::test]
async fn documents_of_other_shapes_are_named_and_stop_nothing() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let [registry, blob, segment] = rows(&db, &app.put("name=a", "text/plain", "x").await).await;
    let blob = unshared(&blob);
    let (later, latest) = (DateTime::from_millis(4_000_000_000_000), DateTime::from_millis(4_100_000_000_000));
    let mut planted = Vec::new();
    for fields in [
        doc! { "expireAt": "2030-01-01T00:00:00Z" },
        doc! { "expireAt": 4_000_000_000_000_i64 },
        doc! { "expireAt": [later] },
        doc! { "expireAt": null },
        doc! { "expireAt": later, "purgeAt": "later" },
        doc! { "expireAt": later, "purgeAt": [latest] },
        doc! { "purgeAt": latest },
        doc! { "expireAt": latest, "purgeAt": later },
        doc! { "retention": { "legalHold": "true" } },
        doc! { "retention": { "legalHold": 1 } },
        doc! { "retention": { "legalHold": true }, "purgeAt": latest, "expireAt": later },
        doc! { "retention": "for ever" },
        doc! { "name": 7 },
        doc! { "blob": null },
    ] {
        let ids = doc! { "_id": ObjectId::new(), "file": ObjectId::new() };
        let id = insert(&db, "file_registry", with(&with(&registry, ids), fields.clone())).await;
        planted.push((id, fields.to_string()));
    }
    for (collection, row, field) in [("blobs", &blob, "scope"), ("segments", &segment, "bucket")] {
        let id = insert(&db, collection, with(row, doc! { "_id": ObjectId::new(), field: 7 })).await;
        planted.push((id, collection.to_owned()));
    }
    for (collection, row) in [("file_registry", &registry), ("blobs", &blob), ("segments", &segment)] {
        let odd = doc! { "_id": "a text", "file": ObjectId::new(), "filesId": ObjectId::new(), "scope": "odd" };
        insert(&db, collection, with(row, odd)).await;
    }
    let report = fsck(&app.app.files).await.unwrap();
    for (id, what) in &planted {
        assert!(names(&report.shape, id), "{what}: {report:?}");
    }
    assert_eq!(report.shape.count, planted.len() as u64 + 3, "{report:?}");
    assert!(
        report.shape.items.iter().all(|finding| finding.what != "cannot be read" || finding.place != "file_registry")
    );
    let sound = rows(&db, &app.put("name=b&retentionDays=3", "text/plain", "y").await).await;
    assert!(!names(&fsck(&app.app.files).await.unwrap().shape, sound[0].get_object_id("_id").unwrap()));
}

/// Every document of the collections, for comparison.
async fn dump(db: &Database, collections: &[&str], filter: Document) -> Vec<Document> {
    let mut all = Vec::new();
    for name in collections {
        let found = db.collection::<Document>(name).find(filter.clone()).sort(doc! { "_id": 1 }).await.unwrap();
        all.extend(found.try_collect::<Vec<_>>().await.unwrap());
    }
    all
}

/// Files of other programs: in a bucket of theirs, in one of ours, and one whose upload has only begun.
async fn plant_foreign(db: &Database) -> (ObjectId, Bson) {
    let (theirs, begun) = (ObjectId::new(), Bson::ObjectId(ObjectId::new()));
    for bucket in ["fs", "files"] {
        let document = doc! { "_id": theirs, "length": 3, "chunkSize": 1024, "metadata": { "by": "another" } };
        db.collection(&format!("{bucket}.files")).insert_one(document).await.unwrap();
        db.collection(&format!("{bucket}.chunks")).insert_one(chunk(&theirs.into(), 0, b"abc")).await.unwrap();
    }
    db.collection("files.chunks").insert_many([chunk(&begun, 0, b"abc"), chunk(&begun, 1, b"def")]).await.unwrap();
    (theirs, begun)
}

/// One orphan of each kind, made of the rows of a file; gives a filter for all of them and their condemned owners.
async fn plant_orphans(db: &Database, file: &Value) -> Document {
    let [_, blob, segment] = rows(db, file).await;
    let (lone_chunks, lone_file) = (ObjectId::new(), ObjectId::new());
    db.collection("files.chunks").insert_many([own_chunk(lone_chunks, 0), own_chunk(lone_chunks, 1)]).await.unwrap();
    db.collection("files.files").insert_one(files_document(lone_file)).await.unwrap();
    db.collection("files.chunks").insert_one(with(&own_chunk(lone_file, 2), doc! { "n": 0 })).await.unwrap();
    let (gone, unnamed) = (ObjectId::new(), ObjectId::new());
    for _ in 0..2 {
        insert(db, "segments", with(&segment, doc! { "_id": ObjectId::new(), "blob": gone })).await;
    }
    insert(db, "blobs", with(&unshared(&blob), doc! { "_id": unnamed })).await;
    doc! { "$or": [
        { "_id": { "$in": [lone_file, gone, unnamed] } },
        { "files_id": { "$in": [lone_file, lone_chunks] } },
        { "filesId": { "$in": [lone_file, lone_chunks] } },
        { "blob": gone },
    ] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_takes_what_nothing_names_and_nothing_else() {
    let app = TestApp::start_with(|settings| {
        (settings.storage.quarantine_secs, settings.storage.sweep_interval_secs) = (600, 1);
    })
    .await;
    let db = app.mongo().await;
    let mut healthy = Vec::new();
    for (i, (_, options)) in WAYS.iter().enumerate() {
        let bytes = prose(700_000 * (i % 3), i as u64);
        healthy.push((app.put(&format!("name=a&{options}"), "application/x-noise", bytes.clone()).await, bytes));
    }
    // An upload that stands still, with chunks stored already.
    let (mut tell, hear) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(16);
    let upload = app.request("POST", "/v1/files?name=slow").body(reqwest::Body::wrap_stream(hear));
    let upload = tokio::spawn(upload.send());
    let pieces: Vec<Vec<u8>> = (0..12).map(|i| noise(1 << 20, 50 + i)).collect();
    for piece in &pieces[..10] {
        futures::SinkExt::send(&mut tell, Ok(piece.clone())).await.unwrap();
    }
    let segments = db.collection::<Document>("segments");
    while segments.count_documents(doc! { "state": "pending" }).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (theirs, begun) = plant_foreign(&db).await;
    let of_others = doc! { "$or": [{ "_id": theirs }, { "files_id": theirs }, { "files_id": begun.clone() }] };
    let foreign =
        async || dump(&db, &["fs.files", "fs.chunks", "files.files", "files.chunks"], of_others.clone()).await;
    let foreign_before = foreign().await;
    assert_eq!(foreign_before.len(), 6);

    let orphans = plant_orphans(&db, &healthy[1].0).await;
    let places = ["blobs", "segments", "files.files", "files.chunks"];
    assert_eq!(dump(&db, &places, orphans.clone()).await.len(), 7);

    let before = fsck(&app.app.files).await.unwrap();
    assert_eq!((before.orphans.count, before.leaked.count), (5, 1), "{before:?}");
    assert_eq!(before.repaired, Default::default());
    let report = repair(&app).await;
    let repaired = &report.repaired;
    assert_eq!((repaired.chunks, repaired.grid_files, repaired.segments, repaired.blobs), (1, 1, 2, 1), "{report:?}");
    assert!(!report.ok && report.orphans.count == 1, "what another program began is reported and left: {report:?}");
    assert_eq!(
        report.missing.count + report.mismatched.count + report.leaked.count + report.shape.count,
        0,
        "{report:?}"
    );
    assert!(dump(&db, &places, orphans.clone()).await.len() >= 7, "the quarantine is kept");
    let again = repair(&app).await;
    assert_eq!(again.repaired, Default::default(), "{again:?}");

    // The other program ends its upload; the quarantine passes.
    let document = doc! { "_id": begun.clone(), "length": 6, "chunkSize": 3 };
    db.collection("files.files").insert_one(document).await.unwrap();
    app.clock.advance(Duration::from_secs(601));
    assert!(sweep(&app.app.files).await.unwrap().reaped >= 4);
    assert_eq!(dump(&db, &places, orphans).await, Vec::<Document>::new(), "the orphans are gone");
    assert_eq!(foreign().await, foreign_before, "what others wrote is untouched");
    for piece in &pieces[10..] {
        futures::SinkExt::send(&mut tell, Ok(piece.clone())).await.unwrap();
    }
    drop(tell);
    let response = upload.await.unwrap().unwrap();
    assert_eq!(response.status().as_u16(), 201);
    let slow: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert!(app.content(&slow).await == pieces.concat(), "what was under way is whole");
    for (file, bytes) in &healthy {
        assert!(app.content(file).await == *bytes);
    }
    let after = fsck(&app.app.files).await.unwrap();
    assert!(after.ok, "{after:?}");
}

#[tokio::test]
async fn the_commands_print_one_report_and_say_it_by_their_status() {
    let app = TestApp::start().await;
    let file = app.put("name=a&encrypt=false&compress=none", "application/x-noise", noise(900_000, 1)).await;
    let db = app.mongo().await;
    let command = async |arguments: &'static [&'static str]| {
        let mut command = program::command_at(mongod::uri(), &app.database, arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr).matches('\u{1b}').count(), 0, "no bar where no terminal is");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report)
    };
    let (code, report) = command(&["scrub", "--json", "--rate", "1000", "--bucket", "files"]).await;
    assert_eq!((code, &report["ok"], &report["bytes"]), (Some(0), &true.into(), &900_000.into()), "{report}");
    let orphan = ObjectId::new();
    db.collection("files.chunks").insert_one(own_chunk(orphan, 0)).await.unwrap();
    let (code, report) = command(&["fsck", "--json"]).await;
    assert_eq!((code, &report["ok"], &report["orphans"]["count"]), (Some(1), &false.into(), &1.into()), "{report}");
    let (code, report) = command(&["fsck", "--json", "--repair"]).await;
    assert_eq!((code, &report["ok"], &report["repaired"]["chunks"]), (Some(0), &true.into(), &1.into()), "{report}");
    let [_, _, segment] = rows(&db, &file).await;
    let damage = doc! { "$set": { "data": chunk(&Bson::Null, 0, &noise(261_120, 9)).get("data").cloned() } };
    let first = doc! { "files_id": segment.get_object_id("_id").unwrap(), "n": 0 };
    db.collection::<Document>("files.chunks").update_one(first, damage).await.unwrap();
    let (code, report) = command(&["scrub", "--json"]).await;
    assert_eq!((code, &report["ok"], &report["damaged"]), (Some(1), &false.into(), &1.into()), "{report}");
    assert_eq!(report["damages"][0]["file"], file["id"]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_still_owns_its_bytes() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    // By itself, and in its blob.
    for len in [2 << 20, 300_000] {
        let bytes = noise(len, 77);
        let file = app.put("name=a", "application/octet-stream", bytes.clone()).await;
        let db = app.mongo().await;
        let [.., sound] = rows(&db, &file).await;
        let (segments, id) = (Rows::of(&db), doc! { "_id": sound.get("_id").unwrap() });
        assert!(segments.update_one(id, doc! { "$set": { "storedLen": "a text" } }).await);
        let report = repair(&app).await;
        assert_eq!((report.ok, report.repaired.grid_files, report.repaired.chunks), (false, 0, 0), "{report:?}");
        sweep(&app.app.files).await.unwrap();
        segments.put_back(&sound).await;
        assert!(app.content(&file).await == bytes, "mended, it is whole");
        assert!(fsck(&app.app.files).await.unwrap().ok);
    }
}

/// Plain content is read by the copy of its row: where the row is lost, the file is whole, and its bytes are not for a repair.
#[tokio::test]
async fn what_has_lost_its_row_and_is_still_read_is_not_taken_for_an_orphan() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let db = app.mongo().await;
    let part = noise(PART, 3);
    let said = json!({ "name": "a", "size": PART, "partSize": PART, "encrypt": false, "compress": "none" });
    let upload = begin(&app, said).await;
    put_part(&app, &upload, 0, &part).await;
    let mut files = vec![(complete(&app, &upload).await.expect(201), part)];
    for len in [50_000, 3 << 20] {
        let bytes = noise(len, len as u64);
        let put = app.put("name=a&encrypt=false&compress=none", "application/x-noise", bytes.clone());
        files.push((put.await, bytes));
    }
    for (file, bytes) in &files {
        let [registry, _, segment] = rows(&db, file).await;
        assert!(registry.get_document("content").unwrap().contains_key("row"));
        Rows::of(&db).delete_one(doc! { "_id": segment.get("_id").unwrap() }).await;
        let report = repair(&app).await;
        assert!(!report.ok && report.repaired == Default::default(), "{report:?}");
        app.clock.advance(Duration::from_secs(2));
        sweep(&app.app.files).await.unwrap();
        assert!(app.content(file).await == *bytes, "{} bytes", bytes.len());
    }
}
