//! A backup holds everything there was at one instant, whole, while gateways serve and sweep; and no key.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gridgate::app::App;
use gridgate::backup::manifest::{MANIFEST, Manifest};
use gridgate::backup::restore::restore;
use gridgate::backup::verify::verify;
use gridgate::backup::{Place, run};
use gridgate::config::Settings;
use gridgate::format::key_wrap::{WrapBinding, WrappedKey};
use gridgate::jobs::sweep::sweep;
use gridgate::store::StoreError;
use gridgate::store::rows::segment_id;
use gridgate::store::schema::{COLLECTIONS, is_kept};
use gridgate::store::segments::SegmentDoc;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc, spec::BinarySubtype};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, all_buckets, content_path, noise};
use crate::support::backups::{Target, backup, command, contents, silent};
use crate::support::model::{WAYS, prose};
use crate::support::own_mongod::OwnMongod;
use crate::support::rows::Rows;

const BINARY: &str = "application/octet-stream";

async fn delete(app: &TestApp, id: &str) {
    let deleted = app.request("DELETE", &format!("/v1/files/{id}")).send().await.unwrap();
    assert_eq!(deleted.status().as_u16(), 204);
}

fn id_of(file: &Value) -> &str {
    file["id"].as_str().unwrap()
}

/// What is said of a file, but for where it is said.
async fn metadata(app: &TestApp, file: &Value) -> (Value, String) {
    let mut said: Value = app.get(&format!("/v1/files/{}", id_of(file))).send().await.unwrap().json().await.unwrap();
    said.as_object_mut().unwrap().remove("links");
    let head = app.request("HEAD", &content_path(file)).send().await.unwrap();
    (said, head.headers()["etag"].to_str().unwrap().to_owned())
}

/// Files of every way of storing, several lengths each.
async fn fill(app: &TestApp) -> Vec<(Value, Vec<u8>)> {
    let mut files = Vec::new();
    for (i, (_, way)) in WAYS.iter().enumerate() {
        for len in [0, 11, 300_000, 3_000_000 + i] {
            let bytes = prose(len, 100 + i as u64);
            files.push((app.put(&format!("name=a&retentionDays=30&tags=x&{way}"), BINARY, bytes.clone()).await, bytes));
        }
    }
    files
}

/// A file that another program stored, adopted; and one beside it that was not.
async fn adopt(app: &TestApp) {
    let db = app.mongo().await;
    for (id, is_adopted) in [(Bson::from("a name"), true), (Bson::from(7), false)] {
        if !is_adopted {
            app.app.files.adopt("fs", "default").await.unwrap();
        }
        let files = doc! { "_id": &id, "length": 2_500.0, "chunkSize": 1000, "uploadDate": DateTime::now() };
        db.collection("fs.files").insert_one(files).await.unwrap();
        for (n, piece) in noise(2_500, 9).chunks(1000).enumerate() {
            let data = Binary { subtype: BinarySubtype::Generic, bytes: piece.to_vec() };
            let chunk = doc! { "files_id": &id, "n": n as i64, "data": data, "more": true };
            db.collection("fs.chunks").insert_one(chunk).await.unwrap();
        }
    }
}

/// Takes out the one deleted file's documents, and the file that is another program's.
fn remove_gone(contents: &mut BTreeMap<String, Vec<Document>>) {
    let blob = contents["blobs"].iter().find(|blob| blob.get("state") == Some(&Bson::from("condemned"))).unwrap();
    let blob = blob.get("_id").cloned();
    let segment = segment_id(blob.as_ref().and_then(Bson::as_object_id).unwrap());
    let files = [Some(Bson::from(segment)), Some(Bson::from(7))];
    for (name, documents) in contents {
        documents.retain(|document| match name.rsplit('.').next().unwrap() {
            "blobs" => document.get("_id") != blob.as_ref(),
            "segments" => document.get("blob") != blob.as_ref(),
            "files" => !files.contains(&document.get("_id").cloned()),
            "chunks" => !files.contains(&document.get("files_id").cloned()),
            _ => true,
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_on_another_server() {
    let app = TestApp::start_with(all_buckets).await;
    let files = fill(&app).await;
    adopt(&app).await;
    let gone = app.put("name=gone", BINARY, noise(50_000, 1)).await;
    delete(&app, id_of(&gone)).await;
    let keyed = app.request("POST", "/v1/files?name=keyed").header("idempotency-key", "k").body("once").send().await;
    assert_eq!(keyed.unwrap().status().as_u16(), 201);
    app.mongo().await.collection("elsewhere").insert_one(doc! { "of": "another program" }).await.unwrap();
    let folder = TempDir::new().unwrap();
    let place = Place::Directory(folder.path().join("a"));
    let manifest = backup(&app, &place).await;
    assert_eq!(manifest.left_out, ["elsewhere", "guards", "upload_tails", "uploads"]);
    assert_eq!(manifest.kids.iter().collect::<Vec<_>>(), ["test"]);

    let own = OwnMongod::fallible().await;
    let flags = [
        ("database.uri", own.uri()),
        ("database.name", "another".to_owned()),
        ("keys.master_key", MASTER_KEY.to_owned()),
        ("auth.admin_key", ADMIN_KEY.to_owned()),
    ];
    let settings = Settings::load(None, &flags).unwrap();
    let filling =
        App::fill(&settings, async |store, ring| restore(store, ring, Duration::from_secs(2), &place, &silent).await);
    let (opened, found) = filling.await.unwrap();
    assert_eq!(found, manifest);
    let report = verify(&opened.files, &found, true).await.unwrap();
    assert!(report.ok && report.fsck.ok, "{report:?}");
    let content = report.content.unwrap();
    assert_eq!((content.files, content.damaged, content.skipped), (files.len() as u64 + 2, 0, 0));

    // Every document that a backup holds, and none of what is gone or another program's.
    let there = own.client().await.database("another");
    let (mut expected, mut found) = (contents(&app.mongo().await).await, contents(&there).await);
    remove_gone(&mut expected);
    // A gateway that starts says its own key again.
    for keys in [&mut expected, &mut found] {
        keys.get_mut("api_keys").unwrap().iter_mut().for_each(|key| drop(key.remove("createdAt")));
    }
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (name, documents) in &expected {
        assert!(*documents == found[name], "{name}: {} and {}", documents.len(), found[name].len());
    }

    let there = TestApp::start_on("another".to_owned(), |its| its.database = settings.database.clone()).await;
    for (file, bytes) in &files {
        assert_eq!(metadata(&app, file).await, metadata(&there, file).await);
        assert!(there.content(file).await == *bytes);
        if bytes.len() > 200_000 {
            assert!(there.range(file, 99_999..200_001).await == bytes[99_999..200_001]);
        }
    }
    assert_eq!(there.get(&content_path(&gone)).send().await.unwrap().status().as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tar_holds_the_same_in_parts() {
    let app = TestApp::start().await;
    let bytes = noise(34 << 20, 4);
    let file = app.put("name=a&encrypt=false", BINARY, bytes.clone()).await;
    let sealed = app.put("name=b&encrypt=true", BINARY, bytes[..5_000_000].to_vec()).await;
    let folder = TempDir::new().unwrap();
    let place = Place::Archive(folder.path().join("a.tar"));
    let manifest = backup(&app, &place).await;
    let parts: Vec<&str> = manifest.parts.iter().map(|part| part.name.as_str()).collect();
    assert!(parts.contains(&"files.chunks.bson") && parts.contains(&"files.chunks.bson.2"), "{parts:?}");
    assert_eq!(parts[..2], ["keys.bson", "segments.bson"]);
    assert_eq!(fs::metadata(folder.path().join("a.tar")).unwrap().permissions().mode() & 0o777, 0o600);
    let target = Target::new().await;
    let restored = target.restore(&place).await.unwrap();
    let (there, report) = target.serve(&restored).await;
    assert!(report.ok && report.fsck.ok, "{report:?}");
    assert!(there.content(&file).await == bytes && there.content(&sealed).await == bytes[..5_000_000]);
    assert!(there.range(&file, 20_000_000..20_000_500).await == bytes[20_000_000..20_000_500]);

    // Unpacked it is a folder that can be restored, too.
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(folder.path().join("a.tar")).arg("-C").arg(&unpacked);
    assert!(tar.status().unwrap().success());
    let target = Target::new().await;
    assert_eq!(target.restore(&Place::Directory(unpacked)).await.unwrap(), manifest);
}

#[tokio::test]
async fn a_folder_is_for_its_owner_and_nothing_is_overwritten() {
    let app = TestApp::start().await;
    app.put("name=a", BINARY, noise(3_000, 1)).await;
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("a");
    let told = command(&["backup", "--json", "--output", target.to_str().unwrap()], &app.database).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let manifest: Manifest = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(Manifest::read(&fs::read(target.join(MANIFEST)).unwrap()).unwrap(), manifest);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&target), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path()) {
        assert_eq!(mode(&entry), 0o600, "{entry:?}");
        files += 1;
    }
    assert_eq!(files, manifest.parts.len() + 1);
    let before = fs::read(target.join(MANIFEST)).unwrap();
    for place in [Place::Directory(target.clone()), Place::Archive(target.join(MANIFEST))] {
        let refused = run::backup(&app.app.files, &place, &silent).await.unwrap_err();
        assert!(refused.detail.contains("exists"), "{refused}");
    }
    assert_eq!(fs::read(target.join(MANIFEST)).unwrap(), before);
    assert_eq!(app.mongo().await.collection::<Document>("guards").count_documents(doc! {}).await.unwrap(), 0);

    // What fails leaves nothing behind.
    let chunks = app.mongo().await.collection::<Document>("files.chunks");
    chunks.delete_many(doc! {}).await.unwrap();
    let failed = run::backup(&app.app.files, &Place::Directory(folder.path().join("b")), &silent).await.unwrap_err();
    assert_eq!(failed.code.to_string(), "damaged");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn reaping_pauses_for_a_backup_and_goes_on_after_it() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let store = &app.app.files.store;
    let reaped = async || sweep(&app.app.files).await.unwrap().reaped;
    for ends in ["released", "dead"] {
        let guard = store.begin_backup(Duration::from_secs(1)).await.unwrap();
        let file = app.put("name=a", BINARY, noise(300_000, 1)).await;
        delete(&app, id_of(&file)).await;
        // Longer than the lease: it is renewed.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(reaped().await, 0, "a backup runs");
        guard.confirm().await.unwrap();
        if ends == "released" {
            guard.release().await.unwrap();
        } else {
            drop(guard);
            assert_eq!(reaped().await, 0, "it has not run out");
            tokio::time::sleep(Duration::from_millis(2200)).await;
        }
        assert_eq!(reaped().await, 1, "{ends}");
    }
    // One that stood still for too long must not believe that it held.
    let guard = store.begin_backup(Duration::from_secs(60)).await.unwrap();
    let past = doc! { "$set": { "until": DateTime::from_millis(0) } };
    app.mongo().await.collection::<Document>("guards").update_many(doc! {}, past).await.unwrap();
    assert!(matches!(guard.confirm().await, Err(StoreError::Stale)));
}

/// A backup to stdout that nobody reads stands still in the middle, as over a slow line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_deleted_meanwhile_is_in_it_whole() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let bytes = noise(16 << 20, 8);
    let file = app.put("name=a", BINARY, bytes.clone()).await;
    let mut child = command(&["backup", "--tar", "-"], &app.database);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut tar = vec![0; 2 << 20];
    let mut out = child.stdout.take().unwrap();
    // Past the metadata and into the bytes.
    out.read_exact(&mut tar).unwrap();
    delete(&app, id_of(&file)).await;
    let report = sweep(&app.app.files).await.unwrap();
    assert_eq!(report.reaped, 0, "{report:?}");
    let reading = std::thread::spawn(move || out.read_to_end(&mut tar).map(|_| tar));
    let tar = reading.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.tar"), tar).unwrap();
    let target = Target::new().await;
    let manifest = target.restore(&Place::Archive(folder.path().join("a.tar"))).await.unwrap();
    let (there, restored) = target.serve(&manifest).await;
    assert!(restored.ok && restored.fsck.ok, "{restored:?}");
    assert!(there.content(&file).await == bytes);
    assert_eq!(sweep(&app.app.files).await.unwrap().reaped, 1, "it is over");
}

/// Uploads, deletes, expiries and sweeps without a pause; each file's content follows from its name.
async fn disturb(app: &TestApp, worker: u64, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    let mut there: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let seed = worker * 1_000_000 + rounds;
        let len = [700, 60_000, 1_300_000][rounds as usize % 3];
        let (_, way) = WAYS[rounds as usize % WAYS.len()];
        let file = app.put(&format!("name={seed}-{len}&retentionDays=1&{way}"), BINARY, prose(len, seed)).await;
        there.push(id_of(&file).to_owned());
        if there.len() > 4 {
            delete(app, &there.remove(0)).await;
        }
        if rounds % 9 == 8 {
            // The oldest expires: at once, since nobody may see it any more.
            let id = ObjectId::parse_str(there.remove(0)).unwrap();
            let past = doc! { "$set": { "expireAt": DateTime::from_millis(0) } };
            let registry = app.mongo().await.collection::<Document>("file_registry");
            registry.update_one(doc! { "file": id }, past).await.unwrap();
        }
        if rounds % 3 == 0 {
            sweep(&app.app.files).await.unwrap();
        }
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_traffic_every_file_in_it_is_whole() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let (stop, folder) = (AtomicBool::new(false), TempDir::new().unwrap());
    let backups = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut made = Vec::new();
        for i in 0..4 {
            let name = folder.path().join(i.to_string());
            let place = if i % 2 == 0 { Place::Directory(name) } else { Place::Archive(name) };
            made.push((backup(&app, &place).await, place));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        stop.store(true, Ordering::Relaxed);
        made
    };
    let (made, rounds, more) = tokio::join!(backups, disturb(&app, 1, &stop), disturb(&app, 2, &stop));
    assert!(rounds + more > 8, "there was traffic: {rounds} {more}");
    let mut seen = 0;
    for (manifest, place) in made {
        let target = Target::new().await;
        assert_eq!(target.restore(&place).await.unwrap(), manifest);
        let (there, report) = target.serve(&manifest).await;
        assert!(report.ok && report.fsck.ok, "{report:?}");
        let listed: Value = there.get("/v1/files?limit=200").send().await.unwrap().json().await.unwrap();
        for file in listed["items"].as_array().unwrap() {
            let (seed, len) = file["name"].as_str().unwrap().split_once('-').unwrap();
            assert!(there.content(file).await == prose(len.parse().unwrap(), seed.parse().unwrap()));
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen} files were compared");
}

fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

fn holds(all: &[u8], secret: &[u8]) -> bool {
    all.windows(secret.len()).any(|window| window == secret)
}

#[tokio::test]
async fn no_secret_is_in_it() {
    use base64::Engine;
    let app = TestApp::start().await;
    let (secret, plain) = ("the canary that nobody may read", "the canary that anybody may read");
    app.put("name=a&encrypt=true&compress=none", "text/plain", secret).await;
    app.put("name=b&encrypt=false&compress=none", "text/plain", plain).await;
    let folder = TempDir::new().unwrap();
    backup(&app, &Place::Directory(folder.path().join("a"))).await;
    let all = all_bytes(&folder.path().join("a"));
    assert!(holds(&all, plain.as_bytes()), "a secret would be seen");

    let keys = &app.app.files.keys;
    let row = Rows::of(&app.mongo().await).find_one(doc! { "enc": { "$exists": true } }).await.unwrap();
    let segment: SegmentDoc = mongodb::bson::deserialize_from_document(row).unwrap();
    let wrapped = WrappedKey::try_from(segment.enc.as_ref().unwrap()).unwrap();
    let data_key = keys.ring.unwrap(&wrapped, WrapBinding { tenant: "default", id: &segment.id.bytes() }).unwrap();
    let encoded = MASTER_KEY.strip_prefix("test:").unwrap();
    let master = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let roots = &keys.roots;
    let roots = [&roots.manifest, &roots.etag, &roots.digest, &roots.dedup, &roots.presign, &roots.share];
    let mut secrets = vec![secret.as_bytes(), ADMIN_KEY.as_bytes(), encoded.as_bytes(), &master, data_key.reveal()];
    secrets.extend(roots.map(|root| &root.reveal()[..]));
    for (i, secret) in secrets.into_iter().enumerate() {
        assert!(!holds(&all, secret), "secret {i} is in the backup");
    }
    // By what it is wrapped into, it would have been found.
    assert!(holds(&all, &wrapped.ct));
}

#[tokio::test]
async fn no_collection_is_forgotten() {
    // Every name of a collection in the code has a row in the table …
    let schema = include_str!("../../src/store/schema.rs");
    let named = schema.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(": &str = \""));
    let named: Vec<&str> = named.map(|(_, rest)| rest.trim_end_matches("\";")).collect();
    assert!(named.len() >= 8, "{named:?}");
    let listed: Vec<&str> = COLLECTIONS.iter().map(|(name, _)| *name).collect();
    for name in &named {
        assert!(listed.contains(name), "{name} is neither backed up nor left out for a reason: add it to COLLECTIONS");
    }
    // … no other module names one …
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let literal = ["documents(\"", "collection(\"", "Document>(\"", "Doc>(\"", "Buf>(\""];
            let literal = literal.iter().find(|open| text.lines().any(|line| line.contains(**open)));
            let is_oplog = path.ends_with("vitals.rs");
            assert!(literal.is_none() || is_oplog, "{path:?} names a collection that schema.rs does not");
        }
    }
    // … and a database that was used has no other.
    let app = TestApp::start().await;
    app.put("name=a", BINARY, noise(300_000, 1)).await;
    sweep(&app.app.files).await.unwrap();
    for name in app.mongo().await.list_collection_names().await.unwrap() {
        assert!(is_kept(&name) || listed.contains(&name.as_str()), "{name}");
    }
}
