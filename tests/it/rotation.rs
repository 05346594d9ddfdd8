//! Keys come, wrap everything anew while files are read and written, and go; no chunk is touched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use gridgate::app::App;
use gridgate::format::digest::Sha256Digest;
use gridgate::format::key::Key;
use gridgate::format::key_wrap::WrapBinding;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::rekey::{RekeyReport, key_uses, rekey};
use gridgate::store::rows::RowPlace;
use gridgate::store::segments::{WrapDoc, binary};
use gridgate::store::{Document, Id, doc, new_id};
use mongodb::Database;
use mongodb::bson::{RawDocumentBuf, serialize_to_document};
use serde_json::{Value, json};

use crate::support::app::{TestApp, content_path, new_database, noise, secret, settings_for};
use crate::support::mongod;
use crate::support::program::{self, Ended};
use crate::support::requests::send;
use crate::support::rows::Rows;
use crate::support::uploads::{PART, begin_sized, complete, part_of, put_part};

const OLD: &str = "old:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const NEW: &str = "new:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=";
const OTHER_BYTES: &str = "ERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzA=";

fn both(first: &str, second: &str) -> String {
    format!("{first},{second}")
}

/// Content that its number makes.
fn content(number: u64) -> Vec<u8> {
    noise([1, 10, 3_000, 70_000, 300_000][number as usize % 5], number + 1)
}

async fn upload(app: &TestApp, number: u64) -> Value {
    app.put("name=a&encrypt=true", "application/x-noise", content(number)).await
}

/// Every chunk document, as a hash of all its bytes.
pub async fn chunks(db: &Database) -> BTreeMap<Id, String> {
    let mut found = BTreeMap::new();
    let mut cursor = db.collection::<RawDocumentBuf>("files.chunks").find(doc! {}).await.unwrap();
    while let Some(chunk) = cursor.try_next().await.unwrap() {
        found.insert(chunk.get_object_id("_id").unwrap(), Sha256Digest::of(chunk.as_bytes()).to_string());
    }
    found
}

async fn count(db: &Database, filter: Document) -> u64 {
    Rows::of(db).count(filter).await
}

/// Segments without bytes, so many that a run takes its time.
async fn plant_crowd(app: &TestApp, size: usize) -> Id {
    let db = app.mongo().await;
    let blob = new_id();
    let mut row = db.collection::<Document>("blobs").find_one(doc! {}).await.unwrap().unwrap();
    row.insert("_id", blob);
    row.insert("sha256", binary(new_id().bytes()));
    db.collection("blobs").insert_one(row).await.unwrap();
    let segments = db.collection::<Document>("segments");
    let like = Rows::of(&db).find_one(doc! { "enc": { "$exists": true } }).await.unwrap();
    let crowd = (0..size).map(|_| {
        let (id, data_key) = (new_id(), Key::new(std::array::from_fn(|i| i as u8)));
        let binding = WrapBinding { tenant: "default", id: &id.bytes() };
        let enc = WrapDoc::from(&app.app.files.keys.ring.wrap(&data_key, binding));
        let mut row = like.clone();
        row.extend(doc! { "_id": id, "blob": blob, "enc": serialize_to_document(&enc).unwrap() });
        row
    });
    segments.insert_many(crowd).await.unwrap();
    blob
}

/// Runs a command of the program that prints JSON.
pub async fn run(database: &str, ring: &str, arguments: &[&str]) -> (Ended, Value) {
    let ended = program::run(program::command(database, ring, arguments)).await;
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended, report)
}

/// Reads and writes through a gateway until it is told to stop; gives what it wrote.
async fn traffic(
    app: &TestApp,
    known: &[(Value, u64)],
    from: u64,
    stop: &AtomicBool,
    reads: &AtomicU64,
) -> Vec<(Value, u64)> {
    let mut written = Vec::new();
    for round in from.. {
        let (file, number) = &known[(round * 7) as usize % known.len()];
        assert!(app.content(file).await == content(*number), "a file is another while keys rotate");
        reads.fetch_add(1, Ordering::Relaxed);
        if round % 3 == 0 {
            written.push((upload(app, round).await, round));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_and_written_while_keys_rotate() {
    const CROWD: usize = 1000;
    let database = new_database();
    let late = TestApp::start_with_ring(&database, &both(OLD, NEW)).await;
    let files: Vec<(Value, u64)> =
        stream::iter(0..100).map(async |n| (upload(&late, n).await, n)).buffered(8).collect().await;
    let crowd = plant_crowd(&late, CROWD).await;
    // Both know both keys; one still wraps with the old one.
    let early = TestApp::start_with_ring(&database, &both(NEW, OLD)).await;
    let db = late.mongo().await;
    let before = chunks(&db).await;

    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let rotation = async {
        let (_, report) = run(&database, &both(NEW, OLD), &["rekey"]).await;
        assert_eq!(report["failed"], 0, "{report}");
        assert_eq!(count(&db, doc! { "blob": crowd, "enc.kid": "old" }).await, 0);
        stop.store(true, Ordering::Relaxed);
        report
    };
    let (by_late, by_early, first) = tokio::join!(
        traffic(&late, &files, 1000, &stop, &reads),
        traffic(&early, &files, 2000, &stop, &reads),
        rotation
    );

    // The gateway that wrapped with the old key while the job ran has left the job something.
    let all: Vec<_> = files.iter().chain(&by_late).chain(&by_early).collect();
    let (second, report) = run(&database, &both(NEW, OLD), &["rekey"]).await;
    assert_eq!((second.code, &report["remaining"]), (Some(0), &json!({})), "{second:?}");
    let (_, again) = run(&database, &both(NEW, OLD), &["rekey"]).await;
    assert_eq!((&again["rewrapped"], &again["failed"]), (&json!(0), &json!(0)), "nothing is left to do");
    let (_, status) = run(&database, &both(NEW, OLD), &["rekey", "--status"]).await;
    assert_eq!(
        (&status["primary"], &status["uses"]["old"], &status["missing"]),
        (&json!("new"), &json!(0), &json!([]))
    );

    let after = chunks(&db).await;
    assert!(before.len() >= 80 && before.iter().all(|(id, hash)| after.get(id) == Some(hash)), "a chunk was touched");
    let alone = TestApp::start_with_ring(&database, NEW).await;
    for (file, number) in &all {
        assert!(alone.content(file).await == content(*number));
        let seen =
            send(alone.get(file["links"]["self"].as_str().unwrap().split_at(late.url.len()).1)).await.expect(200);
        assert_eq!(seen["encryption"], json!({ "mode": "managed", "keyId": "new" }));
        assert_eq!(seen["etag"], file["etag"], "an entity tag outlives the key");
    }
    db.collection::<Document>("segments").delete_many(doc! { "blob": crowd }).await.unwrap();
    db.collection::<Document>("blobs").delete_one(doc! { "_id": crowd }).await.unwrap();
    assert!(fsck(&alone.app.files).await.unwrap().ok);
    println!(
        "{first}; {} reads and {} uploads meanwhile",
        reads.load(Ordering::Relaxed),
        by_late.len() + by_early.len()
    );
}

/// What keeps a gateway with this keyring from starting.
async fn refusal(database: &str, ring: &str) -> String {
    let mut settings = settings_for(mongod::uri(), database);
    settings.keys.master_key = secret(ring);
    let error = App::open(&settings).await.err().unwrap_or_else(|| panic!("it starts with {ring:.4}"));
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_left_too_early_is_missed_by_its_files_only_and_wrong_bytes_never_start() {
    let database = new_database();
    // The roots are under `new`, which stays; some files are under `old`, which goes.
    let stays = TestApp::start_with_ring(&database, NEW).await;
    let goes = TestApp::start_with_ring(&database, &both(OLD, NEW)).await;
    let mut lost = Vec::new();
    for number in 0..5 {
        lost.push((upload(&goes, number).await, number));
    }
    let empty = goes.put("name=e&encrypt=true", "application/x-noise", "").await;
    let kept = upload(&stays, 9).await;
    let plain = stays.put("name=p&encrypt=false", "application/x-noise", content(13)).await;

    let db = stays.mongo().await;
    let without = TestApp::start_with_ring(&database, NEW).await;
    for app in [&stays, &without] {
        for (file, _) in &lost {
            for method in ["GET", "HEAD"] {
                assert_eq!(send(app.request(method, &content_path(file))).await.status, 503);
            }
            assert_eq!(send(app.get(&content_path(file))).await.refused(503, "key_unavailable")["retryable"], true);
            let id = file["id"].as_str().unwrap();
            assert_eq!(send(app.get(&format!("/v1/files/{id}"))).await.expect(200)["sha256"], file["sha256"]);
        }
        for method in ["GET", "HEAD"] {
            let status = send(app.request(method, &content_path(&empty))).await.status;
            assert_eq!(status, 200, "no byte needs no key: {method}");
        }
        assert!(app.content(&kept).await == content(9) && app.content(&plain).await == content(13));
        send(app.anonymous("GET", "/readyz")).await.expect(200);
    }
    assert!(fsck(&without.app.files).await.unwrap().ok, "a missing key is no damage");
    let uses = key_uses(&without.app.files).await.unwrap();
    assert_eq!((uses.uses["old"], uses.missing), (6, vec!["old".to_owned()]));
    let report = rekey(&without.app.files, |_, _| {}).await.unwrap();
    let remaining = BTreeMap::from([("old".to_owned(), 6)]);
    assert_eq!(report, RekeyReport { rewrapped: 0, already: 7, failed: 6, remaining });
    let started = program::run(program::command(&database, NEW, &["init-db"])).await;
    let warned = started.stderr.lines().find(|line| line.contains("not in the keyring")).unwrap_or_default();
    assert!(started.code == Some(0) && warned.contains("old") && warned.contains("records=6"), "{started:?}");

    // Other bytes under a known name, first or second in the ring.
    let before = serialized(&db, "keys").await;
    for ring in [format!("new:{OTHER_BYTES}"), both(NEW, &format!("old:{OTHER_BYTES}"))] {
        let said = refusal(&database, &ring).await;
        assert!(said.contains("is not the key this database was used with") && !said.contains(OTHER_BYTES), "{said}");
    }
    let said = refusal(&database, OLD).await;
    assert!(said.contains("\"new\"") && said.contains("key_unavailable"), "the roots are under it: {said}");
    assert_eq!(serialized(&db, "keys").await, before, "a refused start writes no key");

    let restored = TestApp::start_with_ring(&database, &both(NEW, OLD)).await;
    for (file, number) in &lost {
        assert!(restored.content(file).await == content(*number));
    }
    let report = rekey(&restored.app.files, |_, _| {}).await.unwrap();
    assert!(report.is_done() && report.rewrapped == 6, "{report:?}");
    for (file, number) in &lost {
        assert!(without.content(file).await == content(*number), "without a restart");
    }
}

async fn serialized(db: &Database, collection: &str) -> Vec<RawDocumentBuf> {
    let found = db.collection::<RawDocumentBuf>(collection).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

#[tokio::test]
async fn runs_at_once_share_the_work_and_a_damaged_record_stops_nothing() {
    let database = new_database();
    let old = TestApp::start_with_ring(&database, OLD).await;
    let mut files = Vec::new();
    for number in 0..30 {
        files.push(upload(&old, number).await);
    }
    let new = TestApp::start_with_ring(&database, &both(NEW, OLD)).await;
    let segments = Rows::of(&old.mongo().await);
    let (flipped, unset) = (&files[3], &files[4]);
    let segment_of = async |file: &Value| {
        let id = Id::parse_str(file["id"].as_str().unwrap()).unwrap();
        let registry = old.mongo().await.collection::<Document>("file_registry");
        let file = registry.find_one(doc! { "file": id }).await.unwrap().unwrap();
        doc! { "blob": file.get_object_id("blob").unwrap() }
    };
    let damaged = [segment_of(flipped).await, segment_of(unset).await];
    let flip = doc! { "$set": { "enc.ct": binary([7; 48]) } };
    assert!(segments.update_one(damaged[0].clone(), flip).await);
    assert!(segments.update_one(damaged[1].clone(), doc! { "$unset": { "enc.commit": "" } }).await);
    let mut before = Vec::new();
    for filter in &damaged {
        before.push(segments.find_one(filter.clone()).await.unwrap());
    }
    // A pending row is its writer's.
    let mut pending = segments.find_one(doc! { "state": "live", "enc.commit": { "$exists": true } }).await.unwrap();
    pending.extend(doc! { "_id": new_id(), "blob": new_id(), "state": "pending" });
    segments.insert(&pending).await;

    let mut shown = Vec::new();
    let (a, b) =
        tokio::join!(rekey(&new.app.files, |done, all| shown.push((done, all))), rekey(&new.app.files, |_, _| {}));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.rewrapped + b.rewrapped, 28 + 6, "each record once, roots too: {a:?} {b:?}");
    assert_eq!((a.failed, b.failed), (2, 2));
    assert_eq!(a.remaining, BTreeMap::from([("old".to_owned(), 3)]), "the damaged ones and the pending one");
    assert!(!a.is_done() && shown.iter().all(|(done, all)| done <= all) && shown.len() > 1, "{shown:?}");
    for (filter, row) in damaged.iter().zip(before) {
        assert_eq!(segments.find_one(filter.clone()).await.unwrap(), row, "it is as it was");
    }
    let same = segments.find_one(doc! { "_id": pending.get("_id").unwrap() }).await.unwrap();
    assert_eq!(same, pending);
    for (number, file) in files.iter().enumerate().filter(|(number, _)| ![3, 4].contains(number)) {
        assert!(old.content_status(file).await == 503, "the old gateway lacks the new key");
        assert!(new.content(file).await == content(number as u64));
    }
}

#[tokio::test]
async fn a_record_that_changed_meanwhile_is_not_overwritten() {
    let database = new_database();
    let app = TestApp::start_with_ring(&database, &both(NEW, OLD)).await;
    upload(&app, 2).await;
    let segments = Rows::of(&app.mongo().await);
    let store = &app.app.files.store;
    let mut read = Vec::new();
    for place in RowPlace::ALL {
        read.extend(store.page_wrapped(place, "new", None, 10).await.unwrap());
    }
    assert_eq!(read.len(), 1);
    let (id, place, holder) = (read[0].id, read[0].place, read[0].holder);
    let (old, tenant) = read[0].wrapped.clone().unwrap();
    let rewrapped = || app.app.files.keys.ring.rewrap(&old, WrapBinding { tenant: &tenant, id: &id.bytes() }).unwrap();
    assert!(store.rewrap_segment(place, holder, &old, &rewrapped()).await.unwrap());
    let row = segments.find_one(doc! { "_id": id }).await;
    assert!(!store.rewrap_segment(place, holder, &old, &rewrapped()).await.unwrap(), "it is no longer as it was read");
    assert_eq!(segments.find_one(doc! { "_id": id }).await, row);
}

#[tokio::test]
async fn a_record_under_an_older_key_or_of_another_tenant_opens_nothing() {
    let database = new_database();
    let (old, new) =
        (TestApp::start_with_ring(&database, OLD).await, TestApp::start_with_ring(&database, &both(NEW, OLD)).await);
    let (first, second) = (upload(&old, 4).await, upload(&new, 5).await);
    let db = new.mongo().await;
    let segments = Rows::of(&db);
    let row = async |kid: &str| segments.find_one(doc! { "enc.kid": kid }).await.unwrap();
    let (under_old, under_new) = (row("old").await, row("new").await);
    let foreign = {
        let (id, tenant) = (under_new.get_object_id("_id").unwrap(), "other");
        let wrapped = new.app.files.keys.ring.wrap(&Key::new([9; 32]), WrapBinding { tenant, id: &id.bytes() });
        serialize_to_document(&WrapDoc::from(&wrapped)).unwrap()
    };
    let id = doc! { "_id": under_new.get_object_id("_id").unwrap() };
    for enc in [
        doc! { "enc.kid": "old" },
        doc! { "enc": under_old.get_document("enc").unwrap().clone() },
        doc! { "enc": foreign },
        doc! { "enc.commit": under_old.get_document("enc").unwrap().get("commit").unwrap().clone() },
        doc! { "enc.v": 0 },
    ] {
        assert!(segments.update_one(id.clone(), doc! { "$set": enc.clone() }).await);
        assert_eq!(new.content_status(&second).await, 500, "{enc}");
        segments.put_back(&under_new).await;
    }
    assert!(segments.update_one(id, doc! { "$unset": { "enc.commit": "" } }).await);
    assert_eq!(new.content_status(&second).await, 500, "no commitment");
    segments.put_back(&under_new).await;
    assert!(new.content(&second).await == content(5) && new.content(&first).await == content(4));
}

/// Parts are there under the old key when it goes, and the rest comes afterwards.
#[tokio::test]
async fn an_open_upload_outlives_the_key_that_its_parts_were_stored_under() {
    let database = new_database();
    let old = TestApp::start_with_ring(&database, OLD).await;
    let bytes = noise(2 * PART + 10, 40);
    let upload = begin_sized(&old, bytes.len()).await;
    put_part(&old, &upload, 0, part_of(&bytes, 0)).await;
    let both = TestApp::start_with_ring(&database, &both(NEW, OLD)).await;
    put_part(&both, &upload, 1, part_of(&bytes, 1)).await;
    let report = rekey(&both.app.files, |_, _| {}).await.unwrap();
    assert!(report.is_done() && report.remaining.is_empty(), "{report:?}");
    let new = TestApp::start_with_ring(&database, NEW).await;
    put_part(&new, &upload, 2, part_of(&bytes, 2)).await;
    let file = complete(&new, &upload).await.expect(201);
    assert_eq!(file["sha256"], Sha256Digest::of(&bytes).to_string());
    assert!(new.content(&file).await == bytes);
    assert_eq!(file["encryption"], json!({ "mode": "managed", "keyId": "new" }));
}
