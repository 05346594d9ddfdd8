//! Every stored byte is looked at: a wrong one is found, named, marked and audited, once, and the mark
//! goes when the byte is right again.

use std::time::Duration;

use futures::TryStreamExt;
use gridgate::jobs::progress::Progress;
use gridgate::jobs::scrub::{Scrub, ScrubReport, scrub};
use mongodb::bson::{Binary, DateTime, Document, doc, oid::ObjectId, spec::BinarySubtype};
use mongodb::{Collection, Database};
use serde_json::Value;

use crate::support::app::{TestApp, all_buckets, noise};
use crate::support::model::{WAYS, prose};
use crate::support::rows::Rows;

/// Faster than any disk.
const AT_ONCE: u64 = 10_240;

async fn start() -> TestApp {
    TestApp::start_with(|settings| {
        all_buckets(settings);
        for bucket in settings.buckets.values_mut() {
            (bucket.small_chunk_kib, bucket.frame_kib) = (64, 64);
        }
    })
    .await
}

async fn run(app: &TestApp, bucket: Option<&str>, mib_per_sec: u64) -> Option<ScrubReport> {
    let wanted = Scrub { bucket: bucket.map(str::to_owned), mib_per_sec, every: Duration::ZERO };
    scrub(&app.app.files, &wanted, &Progress::default()).await.unwrap()
}

pub async fn scrubbed(app: &TestApp) -> ScrubReport {
    run(app, None, AT_ONCE).await.expect("no other scrub is under way")
}

/// A file's parts in the database.
struct Parts {
    file: ObjectId,
    blob: ObjectId,
    segment: ObjectId,
    chunks: Vec<Document>,
    db: Database,
}

impl Parts {
    async fn of(app: &TestApp, file: &Value) -> Self {
        let db = app.mongo().await;
        let file = ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
        let find = async |name: &str, filter| db.collection::<Document>(name).find_one(filter).await.unwrap().unwrap();
        let blob = find("file_registry", doc! { "file": file }).await.get_object_id("blob").unwrap();
        let segment = Rows::of(&db).only_of(blob).await.get_object_id("_id").unwrap();
        let chunks = db.collection("files.chunks");
        let chunks = chunks.find(doc! { "files_id": segment }).sort(doc! { "n": 1 }).await.unwrap();
        let chunks = chunks.try_collect().await.unwrap();
        Self { file, blob, segment, chunks, db }
    }

    fn chunks(&self) -> Collection<Document> {
        self.db.collection("files.chunks")
    }

    async fn restore(&self) {
        self.chunks().delete_many(doc! { "files_id": self.segment }).await.unwrap();
        self.chunks().insert_many(&self.chunks).await.unwrap();
    }

    /// Changes one bit of a byte of the first, a middle or the last chunk.
    async fn flip(&self, n: usize, at: impl Fn(usize) -> usize) {
        let mut chunk = self.chunks[n].clone();
        let Binary { subtype, mut bytes } = match chunk.get("data") {
            Some(mongodb::bson::Bson::Binary(data)) => data.clone(),
            _ => panic!("a chunk has data"),
        };
        let place = at(bytes.len());
        bytes[place] ^= 1;
        chunk.insert("data", Binary { subtype, bytes });
        self.chunks().replace_one(doc! { "_id": chunk.get("_id").cloned() }, chunk).await.unwrap();
    }

    async fn blob(&self) -> Document {
        self.db.collection::<Document>("blobs").find_one(doc! { "_id": self.blob }).await.unwrap().unwrap()
    }

    async fn findings(&self) -> u64 {
        let entries = self.db.collection::<Document>("audit");
        entries.count_documents(doc! { "file": self.file, "action": "file.damaged" }).await.unwrap()
    }
}

#[tokio::test]
async fn a_wrong_byte_anywhere_in_any_form_is_found_and_named() {
    let app = start().await;
    for len in [0, 1, 70_000] {
        app.put("name=empty-or-small", "application/x-noise", noise(len, 3)).await;
    }
    let mut victims = Vec::new();
    for (way, options) in WAYS {
        let file = app.put(&format!("name=a&{options}"), "application/x-noise", prose(300_000, 1)).await;
        victims.push((way, Parts::of(&app, &file).await));
    }
    let sound = scrubbed(&app).await;
    assert!(sound.ok && sound.blobs == 9 && sound.skipped + sound.keyless == 0, "{sound:?}");
    let stored = Rows::of(&app.mongo().await).find(doc! {}).await;
    assert_eq!(sound.bytes, stored.iter().map(|row| row.get_i64("storedLen").unwrap() as u64).sum::<u64>());
    for (way, parts) in &victims {
        let last = parts.chunks.len() - 1;
        let first_place = if way.contains("encrypted") { "head" } else { "frame 0" };
        let last_place = match *way {
            "plain" => "frame 4",
            "gzip" => "frame 4",
            _ => "tail",
        };
        for (what, n, at, place) in [
            ("first", 0, (|_| 3) as fn(usize) -> usize, first_place),
            ("middle", last / 2, |len| len / 2, "frame"),
            ("last", last, |len| len - 1, last_place),
        ] {
            parts.flip(n, at).await;
            let report = scrubbed(&app).await;
            assert!(!report.ok && report.damaged == 1, "{way}, {what}: {report:?}");
            let damage = &report.damages[0];
            assert_eq!(damage.file, parts.file.to_hex(), "{way}, {what}");
            let named = format!("segment {}, {place}", parts.segment);
            assert!(damage.place.starts_with(&named), "{way}, {what}: {damage:?}");
            parts.restore().await;
        }
    }
    let mended = scrubbed(&app).await;
    assert!(mended.ok && mended.cleared == 1 && mended.blobs == 9, "{mended:?}");
}

#[tokio::test]
async fn damage_is_marked_and_audited_once_and_the_mark_goes_with_it() {
    let app = start().await;
    let options = "encrypt=false&compress=none";
    let file = app.put(&format!("name=a&{options}"), "application/x-noise", noise(200_000, 1)).await;
    let whole = app.put(&format!("name=b&{options}"), "application/x-noise", noise(200_000, 2)).await;
    let (parts, other) = (Parts::of(&app, &file).await, Parts::of(&app, &whole).await);
    parts.flip(1, |_| 5).await;
    for _ in 0..2 {
        let report = scrubbed(&app).await;
        assert_eq!((report.damaged, report.blobs, report.cleared), (1, 1, 0), "{report:?}");
        let blob = parts.blob().await;
        assert!(blob.get_datetime("damagedAt").is_ok() && !blob.contains_key("sha256"), "nothing shares it any more");
        assert_eq!(parts.findings().await, 1, "a finding is audited once");
        assert!(other.blob().await.contains_key("sha256") && other.findings().await == 0);
    }
    let since = *parts.blob().await.get_datetime("damagedAt").unwrap();
    parts.flip(0, |_| 5).await;
    scrubbed(&app).await;
    assert_eq!(parts.findings().await, 2, "another finding is another entry");
    assert_eq!(*parts.blob().await.get_datetime("damagedAt").unwrap(), since);
    // A missing chunk is damage, too, and the second file's own.
    other.chunks().delete_one(doc! { "files_id": other.segment, "n": 2 }).await.unwrap();
    let report = scrubbed(&app).await;
    assert_eq!((report.damaged, other.findings().await), (2, 1), "{report:?}");
    parts.restore().await;
    other.restore().await;
    let report = scrubbed(&app).await;
    assert!(report.ok && report.cleared == 2, "{report:?}");
    let blob = parts.blob().await;
    assert!(!blob.contains_key("damagedAt") && !blob.contains_key("damage"));
    assert_eq!(app.content(&file).await, noise(200_000, 1));
}

#[tokio::test]
async fn shared_content_is_not_damaged_where_one_of_its_files_is() {
    let app = start().await;
    let mut files = Vec::new();
    for name in ["a", "b", "c"] {
        files.push(app.put(&format!("name={name}"), "application/x-noise", noise(200_000, 1)).await);
    }
    // The digests of two of three registry documents are not theirs.
    let registry = app.mongo().await.collection::<Document>("file_registry");
    let id = |file: &Value| ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
    let digest = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 48] };
    let spoil = doc! { "$set": { "content.digest": digest } };
    registry.update_many(doc! { "file": { "$in": [id(&files[0]), id(&files[2])] } }, spoil.clone()).await.unwrap();
    let report = scrubbed(&app).await;
    assert!(report.ok && report.blobs == 1, "{report:?}");
    assert!(app.content(&files[1]).await == noise(200_000, 1));
    // Where none of them opens, the content is.
    registry.update_one(doc! { "file": id(&files[1]) }, spoil).await.unwrap();
    assert_eq!(scrubbed(&app).await.damaged, 1);
}

#[tokio::test]
async fn what_cannot_be_opened_is_not_called_damaged() {
    let app = start().await;
    let segments = Rows::of(&app.mongo().await);
    let customers = app.put("name=a&compress=none", "application/x-noise", noise(200_000, 1)).await;
    let parts = Parts::of(&app, &customers).await;
    assert!(segments.update_one(doc! { "_id": parts.segment }, doc! { "$set": { "enc.mode": "ssec" } }).await);
    let keyless = app.put("name=b&compress=none", "application/x-noise", noise(200_000, 2)).await;
    let other = Parts::of(&app, &keyless).await;
    assert!(segments.update_one(doc! { "_id": other.segment }, doc! { "$set": { "enc.kid": "gone" } }).await);
    let report = scrubbed(&app).await;
    assert_eq!((report.ok, report.blobs, report.skipped, report.keyless), (true, 0, 1, 1), "{report:?}");
    // Its chunks can be counted all the same.
    parts.chunks().delete_one(doc! { "files_id": parts.segment, "n": 1 }).await.unwrap();
    let report = scrubbed(&app).await;
    assert_eq!((report.damaged, report.skipped), (1, 0), "{report:?}");
    // Content that nothing names is on its way out.
    app.mongo().await.collection::<Document>("file_registry").delete_many(doc! {}).await.unwrap();
    let report = scrubbed(&app).await;
    assert!(report.ok && report.skipped + report.keyless == 0, "{report:?}");
}

#[tokio::test]
async fn it_keeps_to_its_rate_and_goes_on_where_it_was_cut() {
    let app = start().await;
    for seed in 0..6 {
        let options = "name=a&encrypt=false&compress=none";
        app.put(options, "application/x-noise", noise(1 << 20, seed)).await;
    }
    let jobs = app.mongo().await.collection::<Document>("jobs");
    let slow = || {
        let files = app.app.files.clone();
        tokio::spawn(async move {
            let wanted = Scrub { bucket: None, mib_per_sec: 1, every: Duration::ZERO };
            scrub(&files, &wanted, &Progress::default()).await
        })
    };
    let begun = std::time::Instant::now();
    let cut = slow();
    let after = loop {
        assert!(begun.elapsed() < Duration::from_secs(20));
        let run = jobs.find_one(doc! { "_id": "scrub" }).await.unwrap().unwrap_or_default();
        if let Ok(after) = run.get_object_id("after") {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(begun.elapsed() > Duration::from_millis(900), "a MiB takes a second");
    assert!(run(&app, None, AT_ONCE).await.is_none(), "one at a time");
    cut.abort();
    assert!(run(&app, None, AT_ONCE).await.is_none(), "it is not known yet that it was cut");
    jobs.update_one(doc! {}, doc! { "$set": { "seenAt": DateTime::from_millis(0) } }).await.unwrap();
    let blobs = app.mongo().await.collection::<Document>("blobs");
    let left = blobs.count_documents(doc! { "_id": { "$lt": after } }).await.unwrap();
    // What comes meanwhile is for the next run, or none would end where files come fast.
    app.put("name=a&encrypt=false&compress=none", "application/x-noise", noise(1 << 20, 6)).await;
    let rest = scrubbed(&app).await;
    assert!(rest.is_resumed && rest.ok && rest.blobs == left && left < 6, "{left} are left: {rest:?}");
    let whole = scrubbed(&app).await;
    assert!(!whole.is_resumed && whole.blobs == 7, "{whole:?}");

    // A holder whose run was taken over finds out and stops.
    let lost = slow();
    while jobs
        .update_one(
            doc! { "after": null, "finishedAt": { "$exists": false } },
            doc! { "$set": { "holder": ObjectId::new() } },
        )
        .await
        .unwrap()
        .matched_count
        == 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = lost.await.unwrap().expect_err("it does not go on");
    assert_eq!(error.code.row().code, "unavailable");
}

#[tokio::test]
async fn one_bucket_is_read_alone() {
    let app = start().await;
    app.put("name=a", "application/x-noise", noise(100_000, 1)).await;
    app.put("name=b.txt", "text/plain", "some text").await;
    assert_eq!(run(&app, Some("documents"), AT_ONCE).await.unwrap().blobs, 1);
    assert_eq!(scrubbed(&app).await.blobs, 2);
    let wanted = Scrub { bucket: Some("none".to_owned()), mib_per_sec: 1, every: Duration::ZERO };
    let error = scrub(&app.app.files, &wanted, &Progress::default()).await.expect_err("there is none");
    assert_eq!(error.code.row().code, "bad_request");
}
