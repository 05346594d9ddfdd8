//! The long jobs die, as by a SIGKILL, at every step that leaves something behind: the rotation of keys, a backup, a
//! restore. No file is lost by it, nothing half is taken for whole, and the job begun anew does all of it.
//!
//! Leases of the dead are ended by hand, so that what waits for them is seen to wait on a slow machine, too; that
//! they end by themselves is in `backup.rs`.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use futures::{StreamExt, stream};
use gridgate::backup::Place;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use gridgate::keyring::KeyRing;
use gridgate::store::schema::is_kept;
use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::crash::die_at;
use crate::restore::{flip, open};
use crate::rotation::{chunks, run};
use crate::support::app::{TestApp, all_buckets, new_database, noise};
use crate::support::backups::{self, Target, backup};
use crate::support::model::prose;
use crate::support::program;
use crate::support::requests::send;

const TYPE: &str = "application/octet-stream";

/// Files with their bytes.
type Files = Vec<(Value, Vec<u8>)>;

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Rekey,
    BackupToFolder,
    BackupToTar,
    Restore,
    /// A restore over what one left that died.
    RestoreAnew,
    RestoreOfDamaged,
}

impl Act {
    const fn name(self) -> &'static str {
        match self {
            Self::Rekey => "rekey",
            Self::BackupToFolder => "backup to a folder",
            Self::BackupToTar => "backup to a tar file",
            Self::Restore => "restore",
            Self::RestoreAnew => "restore begun anew",
            Self::RestoreOfDamaged => "restore of a damaged backup",
        }
    }
}

/// A death in a rotation: where, and how many roots and segments are under the new key then.
struct Rotation(&'static str, u64, RangeInclusive<u64>);

/// More than are read together.
const ROTATED: u64 = 210;
/// As many as there are purposes.
const ROOTS: u64 = 6;

const ROTATIONS: [Rotation; 4] = [
    Rotation("rekey.root", 1, 0..=0),
    // Eight are on their way at once.
    Rotation("rekey.record", ROOTS, 1..=8),
    Rotation("rekey.page", ROOTS, 200..=200),
    Rotation("rekey.records", ROOTS, ROTATED..=ROTATED),
];

/// A death in a backup, and what it leaves.
struct Backup(&'static str, Act, Written);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Written {
    /// Nothing that can be restored, under the name for the time being.
    Part,
    /// Everything, under that name.
    Unnamed,
    /// Everything, under its own.
    Named,
}

const BACKUPS: [Backup; 7] = [
    Backup("backup.guarded", Act::BackupToFolder, Written::Part),
    Backup("backup.part:4", Act::BackupToFolder, Written::Part),
    Backup("backup.parts", Act::BackupToFolder, Written::Part),
    Backup("backup.manifest", Act::BackupToFolder, Written::Unnamed),
    Backup("backup.named", Act::BackupToFolder, Written::Named),
    Backup("backup.parts", Act::BackupToTar, Written::Part),
    Backup("backup.manifest", Act::BackupToTar, Written::Part),
];

/// A death in a restore, and what it leaves in the database beside its guard.
struct Restore(&'static str, Act, Inserted);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Inserted {
    Nothing,
    Part,
    /// Some of the chunks.
    PartOfBytes,
    Everything,
    /// Everything, and no guard.
    Finished,
}

const RESTORES: [Restore; 10] = [
    Restore("restore.guarded", Act::Restore, Inserted::Nothing),
    Restore("restore.empty", Act::Restore, Inserted::Nothing),
    Restore("restore.batch", Act::Restore, Inserted::Part),
    Restore("restore.batch:11", Act::Restore, Inserted::PartOfBytes),
    Restore("restore.inserted", Act::Restore, Inserted::Everything),
    Restore("restore.checked", Act::Restore, Inserted::Everything),
    Restore("restore.released", Act::Restore, Inserted::Finished),
    Restore("import.dropped", Act::RestoreAnew, Inserted::Part),
    Restore("import.dropped", Act::RestoreOfDamaged, Inserted::Part),
    Restore("restore.checked", Act::RestoreOfDamaged, Inserted::Nothing),
];

/// Every death here: point and act.
pub fn deaths() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rotations = ROTATIONS.iter().map(|Rotation(point, ..)| (*point, Act::Rekey.name()));
    let backups = BACKUPS.iter().map(|Backup(point, act, _)| (*point, act.name()));
    let restores = RESTORES.iter().map(|Restore(point, act, _)| (*point, act.name()));
    rotations.chain(backups).chain(restores)
}

async fn read_all(app: &TestApp, files: &Files, place: &str) {
    let reads = stream::iter(files).map(async |(file, bytes)| {
        assert!(app.content(file).await == *bytes, "{} is not exact after {place}", file["name"]);
    });
    reads.buffer_unordered(8).collect::<()>().await;
}

async fn count(db: &Database, collection: &str, filter: Document) -> u64 {
    db.collection::<Document>(collection).count_documents(filter).await.unwrap()
}

/// A few files of different kinds, one of them long.
async fn fill(app: &TestApp, long_len: usize) -> Files {
    let mut files = Vec::new();
    for (query, bytes) in [
        ("name=sealed&encrypt=true", noise(300_000, 1)),
        ("name=plain&encrypt=false&compress=none", noise(long_len, 2)),
        ("name=text&compress=gzip", prose(200_000, 3)),
        ("name=empty", Vec::new()),
    ] {
        files.push((app.put(query, TYPE, bytes.clone()).await, bytes));
    }
    files
}

/// A command of the program with a lease that no test outlasts.
fn long_leased(arguments: &[&str], database: &str) -> Command {
    let mut command = backups::command(arguments, database);
    command.env("GRIDGATE__STORAGE__LEASE_SECS", "3600");
    command
}

/// Lets the time pass for which the dead one's guard is respected.
async fn end_the_guard_of_the_dead(db: &Database) {
    let past = DateTime::from_millis(0);
    let over = doc! { "$set": { "until": past, "respectedUntil": past } };
    let guards = db.collection::<Document>("guards").update_many(doc! {}, over).await.unwrap();
    assert_eq!(guards.modified_count, 1, "the dead one's guard");
}

/// Each death is in the rotation to one key more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_a_rotation_leaves_every_file_to_the_two_keys_and_the_next_run_to_the_new_one() {
    let database = new_database();
    let keys: Vec<String> =
        (0..=ROTATIONS.len()).map(|n| KeyRing::generate().replacen("k1", &format!("key{n}"), 1)).collect();
    let app = TestApp::start_with_ring(&database, &keys[0]).await;
    let uploads = stream::iter(0..ROTATED).map(async |n| {
        let bytes = noise(if n % 70 == 0 { 300_000 } else { 100 }, n);
        (app.put(&format!("name={n}&encrypt=true"), TYPE, bytes.clone()).await, bytes)
    });
    let files: Files = uploads.buffer_unordered(8).collect().await;
    let db = app.mongo().await;
    let before = chunks(&db).await;
    for (death, keys) in ROTATIONS.iter().zip(keys.windows(2)) {
        die_rotating(&database, &db, &files, death, &keys[0], &keys[1]).await;
    }
    assert!(chunks(&db).await == before, "a chunk was touched");
    assert!(fsck(&app.app.files).await.unwrap().ok);
}

async fn die_rotating(
    database: &str,
    db: &Database,
    files: &Files,
    Rotation(point, roots, segments): &Rotation,
    old: &str,
    new: &str,
) {
    let (both, kid) = (format!("{new},{old}"), new.split(':').next().unwrap());
    die_at(point, program::command(database, &both, &["rekey"])).await;
    let of_new = async |collection: &str, field: &str| count(db, collection, doc! { field: kid }).await;
    assert_eq!(of_new("keys", "enc.kid").await, *roots, "roots under the new key after {point}");
    assert_eq!(of_new("file_registry", "content.kid").await, 0, "files that name the new key after {point}");

    // What was on its way may still arrive.
    let expected = roots + segments.start()..=roots + segments.end();
    let is_left = |rewrapped: Option<u64>| rewrapped.is_some_and(|rewrapped| expected.contains(&rewrapped));
    let (_, status) = run(database, &both, &["rekey", "--status"]).await;
    assert!(is_left(status["uses"][kid].as_u64()), "after {point}: {status}");

    let restarted = TestApp::start_with_ring(database, &both).await;
    read_all(&restarted, files, point).await;
    restarted.leave();
    let (ended, report) = run(database, &both, &["rekey"]).await;
    assert_eq!((ended.code, &report["failed"], &report["remaining"]), (Some(0), &json!(0), &json!({})), "{report}");
    assert!(is_left(report["rewrapped"].as_u64().map(|rest| ROTATED + ROOTS - rest)), "after {point}: {report}");

    let alone = TestApp::start_with_ring(database, new).await;
    read_all(&alone, files, point).await;
    let id = files[0].0["id"].as_str().unwrap();
    let seen = send(alone.get(&format!("/v1/files/{id}"))).await.expect(200);
    assert_eq!(seen["encryption"], json!({ "mode": "managed", "keyId": kid }), "after {point}");
    alone.leave();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_a_backup_leaves_nothing_that_hides_as_one_and_holds_nobody_up() {
    let houses = BACKUPS.chunks(4).map(async |deaths| {
        let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
        // More than is held back before it is written to a tar file.
        let files = fill(&app, 2 << 20).await;
        for death in deaths {
            die_backing_up(&app, &files, death).await;
        }
    });
    futures::future::join_all(houses).await;
}

async fn die_backing_up(app: &TestApp, files: &Files, Backup(point, act, written): &Backup) {
    let (place, folder, db) = (format!("{point} in a {}", act.name()), TempDir::new().unwrap(), app.mongo().await);
    let (target, partial) = (folder.path().join("a"), folder.path().join("a.partial"));
    let is_tar = *act == Act::BackupToTar;
    let at = |path: &Path| if is_tar { Place::Archive(path.into()) } else { Place::Directory(path.into()) };
    let again = || {
        let flag = if is_tar { "--tar" } else { "--output" };
        long_leased(&["backup", flag, target.to_str().unwrap()], &app.database)
    };
    die_at(point, again()).await;

    // Reaping waits for the dead, and nothing else does.
    let doomed = app.put("name=doomed", TYPE, noise(100_000, 9)).await;
    let deleted = app.request("DELETE", &format!("/v1/files/{}", doomed["id"].as_str().unwrap()));
    assert_eq!(send(deleted).await.status, 204);
    read_all(app, files, &place).await;
    assert_eq!(sweep(&app.app.files).await.unwrap().reaped, 0, "the guard is respected after {place}");
    end_the_guard_of_the_dead(&db).await;
    assert_eq!(sweep(&app.app.files).await.unwrap().reaped, 1, "the dead one holds it up after {place}");

    assert_eq!(
        (target.exists(), partial.exists()),
        (*written == Written::Named, *written != Written::Named),
        "{place}"
    );
    let left = if partial.exists() { &partial } else { &target };
    if *written == Written::Part {
        let nowhere = Target::new().await;
        let refused = nowhere.restore(&at(left)).await.unwrap_err();
        assert!(refused.detail.starts_with("The backup cannot be restored"), "after {place}: {refused}");
        assert!(nowhere.is_empty().await, "something of it is there after {place}");
    } else {
        assert_restorable(&at(left), files, &place).await;
    }

    let refused = program::run(again()).await;
    let named = left.to_str().unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains(named), "after {place}: {refused:?}");
    if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) }.unwrap();
    backup(app, &at(&target)).await;
    assert_restorable(&at(&target), files, &place).await;
}

async fn assert_restorable(backup: &Place, files: &Files, place: &str) {
    let target = Target::new().await;
    let manifest = target.restore(backup).await.unwrap();
    let (there, report) = target.serve(&manifest).await;
    assert!(report.ok && report.fsck.ok, "after {place}: {report:?}");
    read_all(&there, files, place).await;
}

/// The part that holds most bytes.
const CHUNKS: &str = "files.chunks.bson";

/// A backup as a folder, and the same with a flipped bit.
struct Source {
    files: Files,
    documents: u64,
    chunks: u64,
    folder: TempDir,
}

impl Source {
    async fn new() -> Self {
        let (app, folder) = (TestApp::start_with(all_buckets).await, TempDir::new().unwrap());
        // Several batches.
        let files = fill(&app, 5 << 20).await;
        let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
        let manifest = backup(&app, &Place::Directory(whole.clone())).await;
        fs::create_dir(&damaged).unwrap();
        for part in fs::read_dir(whole).unwrap().map(|entry| entry.unwrap()) {
            fs::copy(part.path(), damaged.join(part.file_name())).unwrap();
        }
        flip(&damaged.join(CHUNKS));
        let chunks = manifest.parts.iter().find(|part| part.name == CHUNKS).unwrap().documents;
        Self { files, documents: manifest.documents, chunks, folder }
    }

    fn restore(&self, of: &str, into: &Target) -> Command {
        let of = self.folder.path().join(of);
        long_leased(&["restore", "--json", "--input", of.to_str().unwrap()], into.db.name())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_a_restore_keeps_gateways_away_until_one_begun_anew_is_through() {
    let source = &Source::new().await;
    let houses = RESTORES.chunks(4).map(async |deaths| {
        for death in deaths {
            die_restoring(source, death).await;
        }
    });
    futures::future::join_all(houses).await;
}

async fn die_restoring(source: &Source, Restore(point, act, inserted): &Restore) {
    let (place, target) = (format!("{point} in a {}", act.name()), Target::new().await);
    if *act == Act::RestoreAnew {
        die_at("restore.inserted", source.restore("whole", &target)).await;
        end_the_guard_of_the_dead(&target.db).await;
    }
    let of = if *act == Act::RestoreOfDamaged { "damaged" } else { "whole" };
    die_at(point, source.restore(of, &target)).await;

    let is_left = match count_restored(&target.db).await {
        0 => Inserted::Nothing,
        some if some < source.documents => {
            let chunks = count(&target.db, "files.chunks", doc! {}).await;
            if (1..source.chunks).contains(&chunks) { Inserted::PartOfBytes } else { Inserted::Part }
        }
        _ if count(&target.db, "guards", doc! {}).await == 0 => Inserted::Finished,
        _ => Inserted::Everything,
    };
    assert_eq!(is_left, *inserted, "after {place}");
    if *inserted != Inserted::Finished {
        let refused = open(target.db.name()).await.err().unwrap_or_else(|| panic!("a gateway starts after {place}"));
        assert!(refused.contains("gridgate restore"), "after {place}: {refused}");
        let refused = program::run(source.restore("whole", &target)).await;
        assert!(refused.code == Some(1) && refused.stderr.contains("died a moment ago"), "{place}: {refused:?}");
        end_the_guard_of_the_dead(&target.db).await;
        let anew = program::run(source.restore("whole", &target)).await;
        let report: Value = serde_json::from_str(&anew.stdout).unwrap_or_else(|_| panic!("after {place}: {anew:?}"));
        assert_eq!((&report["ok"], &report["fsck"]["ok"]), (&json!(true), &json!(true)), "after {place}: {report}");
        assert_eq!(count(&target.db, "guards", doc! {}).await, 0, "after {place}");
    }
    let there = TestApp::start_on(target.db.name().to_owned(), all_buckets).await;
    read_all(&there, &source.files, &place).await;
    assert!(fsck(&there.app.files).await.unwrap().ok, "after {place}");
    assert_eq!(count_restored(&there.mongo().await).await, source.documents, "after {place}");
}

/// Documents that came from a backup.
async fn count_restored(db: &Database) -> u64 {
    let mut restored = 0;
    for name in db.list_collection_names().await.unwrap().iter().filter(|name| is_kept(name)) {
        restored += count(db, name, doc! {}).await;
    }
    restored
}
