//! A restore is whole or nothing: a backup that is not what was written, another keyring, a database in use, and
//! another restore. Deaths are in `crash_jobs.rs`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gridgate::app::App;
use gridgate::backup::Place;
use gridgate::backup::manifest::MANIFEST;
use gridgate::config::Settings;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use tempfile::TempDir;

use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, all_buckets, noise};
use crate::support::backups::{Target, backup, command};
use crate::support::mongod;
use crate::support::rows::Rows;

const BINARY: &str = "application/octet-stream";

/// A gateway with a few files and its backup, as a folder `a` and as a tar `a.tar`.
async fn backed_up() -> (TestApp, TempDir) {
    let app = TestApp::start_with(all_buckets).await;
    app.put("name=a&encrypt=true", BINARY, noise(300_000, 1)).await;
    app.put("name=b&encrypt=false", "image/png", noise(70_000, 2)).await;
    app.request("POST", "/v1/files?name=c").header("idempotency-key", "k").body("c").send().await.unwrap();
    let folder = TempDir::new().unwrap();
    backup(&app, &Place::Directory(folder.path().join("a"))).await;
    backup(&app, &Place::Archive(folder.path().join("a.tar"))).await;
    (app, folder)
}

/// Whether a restore is refused, leaves nothing, and says this.
async fn refused(target: &Target, place: &Place, ring: &str, says: &str) {
    let error = target.restore_with(place, ring).await.unwrap_err();
    assert!(error.to_string().contains(says), "{place:?}: {says} is not in: {error}");
    assert!(target.is_empty().await, "{place:?}: something was left: {error}");
}

/// Flips a bit of the last value.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    // Within a value: past lengths and names, so that every document is still one.
    let at = bytes.len() - 4;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_is_not_what_was_written_is_refused() {
    let (_app, folder) = backed_up().await;
    let (whole, target) = (folder.path().join("a"), Target::new().await);
    let names: Vec<String> =
        fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() > 10, "{names:?}");
    let copy = |to: &str| {
        let to = folder.path().join(to);
        fs::create_dir(&to).unwrap();
        for name in &names {
            fs::copy(whole.join(name), to.join(name)).unwrap();
        }
        to
    };
    for (i, name) in names.iter().enumerate() {
        let damaged = copy(&format!("flipped-{i}"));
        flip(&damaged.join(name));
        let place = Place::Directory(damaged);
        let error = target.restore(&place).await.expect_err(name);
        assert!(target.is_empty().await, "{name}: something was left: {error}");
    }
    for name in ["keys.bson", "audit.bson", MANIFEST] {
        let missing = copy(&format!("without-{name}"));
        fs::remove_file(missing.join(name)).unwrap();
        refused(&target, &Place::Directory(missing), MASTER_KEY, name).await;
    }
    // A part that holds what another backup has there, and a manifest that says so.
    let forged = copy("forged");
    let manifest = fs::read_to_string(forged.join(MANIFEST)).unwrap();
    fs::write(forged.join(MANIFEST), manifest.replacen("\"documents\": 3", "\"documents\": 4", 1)).unwrap();
    refused(&target, &Place::Directory(forged), MASTER_KEY, "its manifest was changed").await;
    // After all that, the sound one.
    let manifest = target.restore(&Place::Directory(whole)).await.unwrap();
    assert!(target.serve(&manifest).await.1.ok);
}

#[tokio::test]
async fn a_tar_that_was_cut_or_reordered_is_refused() {
    let (_app, folder) = backed_up().await;
    let (whole, target) = (fs::read(folder.path().join("a.tar")).unwrap(), Target::new().await);
    let place = |name: &str, bytes: &[u8]| {
        let path: PathBuf = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        Place::Archive(path)
    };
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in tar::Archive::new(&whole[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        entries.push((entry.path().unwrap().to_string_lossy().into_owned(), bytes));
    }
    assert_eq!((entries[0].0.as_str(), entries.last().unwrap().0.as_str()), ("keys.bson", MANIFEST));
    for len in [0, 100, 512, 1500, whole.len() / 2, whole.len() - 6000] {
        refused(&target, &place("cut.tar", &whole[..len]), MASTER_KEY, "The backup cannot be restored").await;
    }
    let build = |order: &[usize]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in order.iter().map(|i| &entries[*i]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let last = entries.len() - 1;
    let all: Vec<usize> = (0..=last).collect();
    let order = |change: &dyn Fn(&mut Vec<usize>)| {
        let mut order = all.clone();
        change(&mut order);
        build(&order)
    };
    for (bytes, says) in [
        (order(&|order| order.swap(2, 3)), "is not what was written"),
        (order(&|order| order.swap(0, 1)), "does not begin with the key records"),
        (build(&[&all[..3], &all[4..]].concat()), "is not what was written"),
        (build(&all[..last]), "is missing"),
        (order(&|order| order.swap(last - 1, last)), "is not where a part"),
        (order(&|order| order.push(last)), "is not where a part"),
        (order(&|order| order.insert(2, 1)), "a document is in it twice"),
    ] {
        refused(&target, &place("ordered.tar", &bytes), MASTER_KEY, says).await;
    }
    target.restore(&place("sound.tar", &order(&|_| {}))).await.unwrap();
}

#[tokio::test]
async fn another_keyring_is_refused_before_anything_is_written() {
    let (app, folder) = backed_up().await;
    let (place, target) = (Place::Directory(folder.path().join("a")), Target::new().await);
    let other = "test:BAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    refused(&target, &place, other, "is not the key this database was used with").await;
    refused(&target, &place, &other.replace("test:", "new:"), "\"test\"").await;
    assert_eq!(target.db.list_collection_names().await.unwrap().len(), 0);

    // The roots open, but a file's key is under a name that the ring has not.
    let lost = doc! { "$set": { "enc.kid": "lost" } };
    assert!(Rows::of(&app.mongo().await).update_one(doc! { "enc": { "$exists": true } }, lost).await);
    let place = Place::Directory(folder.path().join("lost"));
    assert!(backup(&app, &place).await.kids.contains("lost"));
    refused(&target, &place, MASTER_KEY, "\"lost\"").await;
}

#[tokio::test]
async fn a_database_in_use_is_left_alone() {
    let (app, folder) = backed_up().await;
    let place = Place::Directory(folder.path().join("a"));
    let run = command(&["restore", "--input", folder.path().join("a").to_str().unwrap()], &app.database).output();
    let run = run.unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("is not empty"), "{run:?}");
    assert_eq!(app.mongo().await.collection::<Document>("guards").count_documents(doc! {}).await.unwrap(), 0);
    assert_eq!(crate::support::requests::count_files(&app).await, 3);

    let target = Target::new().await;
    target.db.collection("of_another").insert_one(doc! { "a": 1 }).await.unwrap();
    let error = target.restore(&place).await.unwrap_err();
    assert!(error.detail.contains("of_another"), "{error}");
    assert_eq!(target.db.list_collection_names().await.unwrap().len(), 2, "the guards' own, empty, and the other");
    assert!(!target.is_empty().await);
}

/// A gateway on a database.
pub async fn open(database: &str) -> Result<App, String> {
    let flags = [
        ("database.uri", mongod::uri().to_owned()),
        ("database.name", database.to_owned()),
        ("keys.master_key", MASTER_KEY.to_owned()),
        ("auth.admin_key", ADMIN_KEY.to_owned()),
    ];
    App::open(&Settings::load(None, &flags).unwrap()).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_runs_keeps_gateways_and_others_away() {
    let app = TestApp::start_with(all_buckets).await;
    let bytes = noise(18 << 20, 3);
    let file = app.put("name=a&encrypt=false", BINARY, bytes.clone()).await;
    let folder = TempDir::new().unwrap();
    let place = Place::Archive(folder.path().join("a.tar"));
    backup(&app, &place).await;
    let tar = fs::read(folder.path().join("a.tar")).unwrap();

    let target = Target::new().await;
    let mut running = command(&["restore", "--tar", "-"], target.db.name());
    let mut running = running.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = running.stdin.take().unwrap();
    let (half, rest) = tar.split_at(tar.len() / 2);
    let (half, rest) = (half.to_vec(), rest.to_vec());
    let writing = std::thread::spawn(move || input.write_all(&half).map(|()| input));
    let chunks = target.db.collection::<Document>("files.chunks");
    let begun = Instant::now();
    while chunks.count_documents(doc! {}).await.unwrap() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is restored");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refusal = open(target.db.name()).await.err().unwrap();
    assert!(refusal.contains("restore"), "{refusal}");
    let error = target.restore(&place).await.unwrap_err();
    assert!(error.detail.contains("running"), "{error}");

    let mut input = writing.join().unwrap().unwrap();
    std::thread::spawn(move || input.write_all(&rest)).join().unwrap().unwrap();
    assert!(running.wait().unwrap().success());
    let there = TestApp::start_on(target.db.name().to_owned(), all_buckets).await;
    assert!(there.content(&file).await == bytes);
}

#[tokio::test]
async fn the_report_names_what_is_wrong() {
    let (_app, folder) = backed_up().await;
    let target = Target::new().await;
    let manifest = target.restore(&Place::Directory(folder.path().join("a"))).await.unwrap();
    let chunks = target.db.collection::<Document>("images.chunks");
    let chunk = chunks.find_one(doc! {}).await.unwrap().unwrap();
    let mut bytes = chunk.get_binary_generic("data").unwrap().clone();
    bytes[100] ^= 1;
    let data = mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes };
    chunks.update_one(doc! {}, doc! { "$set": { "data": data } }).await.unwrap();
    let (there, report) = target.serve(&manifest).await;
    let content = report.content.unwrap();
    assert!(!report.ok && report.fsck.ok, "{:?}", report.fsck);
    assert_eq!((content.files, content.damaged, content.items.len()), (3, 1, 1), "{content:?}");
    Rows::of(&there.mongo().await).delete_one(doc! {}).await;
    assert!(!gridgate::backup::verify::verify(&there.app.files, &manifest, false).await.unwrap().ok);
}

/// A restore that was aimed at a database in use and died before it looked must not make the next one
/// remove what is there.
#[tokio::test]
async fn a_dead_restore_that_had_not_begun_puts_nothing_at_risk() {
    let (app, folder) = backed_up().await;
    let guards = app.mongo().await.collection::<Document>("guards");
    let past = mongodb::bson::DateTime::from_millis(0);
    let dead =
        doc! { "_id": "restore", "act": "restore", "owner": ObjectId::new(), "until": past, "respectedUntil": past };
    guards.insert_one(dead).await.unwrap();
    let arguments = ["restore", "--input", folder.path().join("a").to_str().unwrap()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = command(&arguments, &app.database).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("is not empty"), "{run:?}");
    assert_eq!(crate::support::requests::count_files(&app).await, 3);
    assert_eq!(guards.count_documents(doc! {}).await.unwrap(), 0, "and gateways may start again");
}
