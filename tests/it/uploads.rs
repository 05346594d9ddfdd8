//! Resumable uploads in parts: whatever order, however often, through whichever gateway, the file is what was sent.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use gridgate::content::EncryptionPolicy;
use gridgate::format::digest::Sha256Digest;
use gridgate::jobs::digests;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::progress::Progress;
use gridgate::jobs::scrub::{Scrub, scrub};
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::app::{ADMIN_KEY, TestApp, all_buckets, new_database, noise};
use crate::support::mongod;
use crate::support::profiler;
use crate::support::program::Program;
use crate::support::requests::{count_files, send};
use crate::support::uploads::{
    PART, begin, begin_request, begin_sized, complete, complete_request, part_of, part_request, path, progress,
    put_part, put_parts,
};
use crate::support::witness::assert_sound;

fn sha256(bytes: &[u8]) -> String {
    Sha256Digest::of(bytes).to_string()
}

async fn metadata(app: &TestApp, file: &Value) -> Value {
    send(app.get(&format!("/v1/files/{}", file["id"].as_str().unwrap()))).await.expect(200)
}

#[tokio::test]
async fn parts_in_order_become_a_file_whose_digest_is_known_at_once() {
    let app = TestApp::start().await;
    let bytes = noise(3 * PART + 1000, 1);
    let said = json!({
        "name": "film.bin", "size": bytes.len(), "partSize": PART, "contentType": "application/x-film", "folder": "/films",
        "tags": ["a", "b"], "category": "kept", "custom": { "n": 1 }, "description": "d", "access": "internal",
        "retentionDays": 3, "sha256": sha256(&bytes),
    });
    let upload = begin(&app, said).await;
    assert_eq!((&upload["status"], &upload["parts"], &upload["uploadedBytes"]), (&json!("open"), &json!(4), &json!(0)));
    assert_eq!(upload["missingParts"], json!([[0, 3]]));
    put_parts(&app, &upload, &bytes, [0, 1]).await;
    let half = progress(&app, &upload).await;
    assert_eq!((&half["uploadedBytes"], &half["partsReceived"]), (&json!(2 * PART), &json!(2)));
    assert_eq!((&half["partsTotal"], &half["missingParts"]), (&json!(4), &json!([[2, 3]])));
    assert!((66.5..66.7).contains(&half["percent"].as_f64().unwrap()), "{half}");
    assert!(half["bytesPerSecond"].as_f64().unwrap() > 0.0 && half["etaSeconds"].is_f64(), "{half}");
    assert_eq!(half["fileId"], Value::Null);
    assert_eq!(count_files(&app).await, 0, "nothing is visible before the end");

    put_parts(&app, &upload, &bytes, [2, 3]).await;
    let reply = complete(&app, &upload).await;
    let file = reply.expect(201);
    assert_eq!(file["sha256"], sha256(&bytes));
    assert_eq!((&file["name"], &file["size"]), (&json!("film.bin"), &json!(bytes.len())));
    assert_eq!((&file["folder"], &file["tags"]), (&json!("/films"), &json!(["a", "b"])));
    assert_eq!((&file["category"], &file["custom"]), (&json!("kept"), &json!({ "n": 1 })));
    assert_eq!((&file["access"], &file["retention"]["days"]), (&json!("internal"), &json!(3)));
    assert_eq!((&file["contentType"], &file["description"]), (&json!("application/x-film"), &json!("d")));
    assert_eq!(file["encryption"]["mode"], "managed");
    assert_eq!(reply.header("location"), file["links"]["self"].as_str().unwrap());
    assert!(app.content(&file).await == bytes);
    let across = (PART - 5) as u64..(2 * PART + 7) as u64;
    assert!(app.range(&file, across.clone()).await == bytes[across.start as usize..across.end as usize]);

    let done = progress(&app, &upload).await;
    assert_eq!((&done["status"], &done["fileId"], &done["percent"]), (&json!("completed"), &file["id"], &json!(100.0)));
    assert_sound_with(&app, 4).await;
}

/// Checks the store after a sweep; `segments` are left.
async fn assert_sound_with(app: &TestApp, segments: u64) {
    app.clock.advance(Duration::from_secs(app.app.files.settings.quarantine_secs + 1));
    for _ in 0..2 {
        sweep(&app.app.files).await.unwrap();
    }
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!((report.checked.segments, report.checked.grid_files), (segments, segments));
}

#[tokio::test]
async fn sixty_four_parts_at_once_and_out_of_order_are_all_counted() {
    let app = TestApp::start().await;
    let bytes = noise(64 * PART, 2);
    let upload = begin_sized(&app, bytes.len()).await;
    let parts = (0..64).rev().map(|n| part_request(&app, &upload, n, part_of(&bytes, n)));
    for reply in join_all(parts.map(send)).await {
        reply.expect(200);
    }
    let all = progress(&app, &upload).await;
    assert_eq!((&all["uploadedBytes"], &all["partsReceived"]), (&json!(bytes.len()), &json!(64)));
    assert_eq!(all["missingParts"], json!([]));
    let file = complete(&app, &upload).await.expect(201);
    assert!(app.content(&file).await == bytes);
    // What came out of order is hashed afterwards.
    if file["sha256"].is_null() {
        assert_eq!(send(app.get(&crate::support::app::content_path(&file))).await.header("repr-digest"), "");
    }
    digests::run(&app.app.files).await.unwrap();
    let settled = metadata(&app, &file).await;
    assert_eq!((&settled["sha256"], &settled["etag"]), (&json!(sha256(&bytes)), &file["etag"]));
    assert!(app.content(&file).await == bytes);
    assert_sound_with(&app, 64).await;
}

#[tokio::test]
async fn a_digest_is_found_out_while_the_upload_runs_and_after_it() {
    let app = TestApp::start().await;
    let bytes = noise(5 * PART, 3);
    let upload = begin_sized(&app, bytes.len()).await;
    put_parts(&app, &upload, &bytes, [1, 0]).await;
    digests::run(&app.app.files).await.unwrap();
    let uploads = app.mongo().await.collection::<Document>("uploads");
    let hashed = async || {
        let upload = uploads.find_one(doc! {}).await.unwrap().unwrap();
        (
            upload.get_document("hashed").unwrap().get_i64("len").unwrap() as usize,
            upload.get_bool("behind").is_ok_and(|b| b),
        )
    };
    assert_eq!(hashed().await, (2 * PART, false));
    // Another part there makes the hash begin anew.
    put_part(&app, &upload, 1, &noise(PART, 98)).await;
    assert_eq!(hashed().await, (0, true));
    put_part(&app, &upload, 0, &noise(PART, 99)).await;
    assert_eq!(hashed().await, (PART, true));
    digests::run(&app.app.files).await.unwrap();
    assert_eq!(hashed().await, (2 * PART, false));
    put_part(&app, &upload, 0, part_of(&bytes, 0)).await;
    assert_eq!(hashed().await, (PART, true));
    put_part(&app, &upload, 1, part_of(&bytes, 1)).await;
    assert_eq!(hashed().await.0, 2 * PART);
    put_parts(&app, &upload, &bytes, [4, 3, 2]).await;
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!(file["sha256"], Value::Null);
    digests::run(&app.app.files).await.unwrap();
    assert_eq!(metadata(&app, &file).await["sha256"], sha256(&bytes));
    // Equal content finds it from now on.
    let same = app.put("name=parts.bin", "application/octet-stream", bytes.clone()).await;
    assert_eq!(same["deduplicated"], true);
    let wanted = Scrub { bucket: None, mib_per_sec: 1024, every: Duration::ZERO };
    let scrubbed = scrub(&app.app.files, &wanted, &Progress::default()).await.unwrap().unwrap();
    assert!(scrubbed.ok, "the digest is that of the bytes");
}

#[tokio::test]
async fn content_that_is_there_is_shared_and_the_parts_go() {
    let app = TestApp::start_with(|settings| settings.storage.lease_secs = 1).await;
    let bytes = noise(2 * PART + 5, 4);
    let first = app.put("name=a", "application/octet-stream", bytes.clone()).await;
    let upload = begin_sized(&app, bytes.len()).await;
    put_parts(&app, &upload, &bytes, 0..3).await;
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!((&file["deduplicated"], &file["sha256"]), (&json!(true), &first["sha256"]));
    assert_ne!(file["id"], first["id"]);
    assert!(app.content(&file).await == bytes);
    assert_eq!(complete(&app, &upload).await.expect(201)["id"], file["id"]);
    assert_sound(&app).await;
}

/// SES-01.
#[tokio::test]
async fn only_what_is_whole_is_completed_and_only_once() {
    let app = TestApp::start().await;
    let bytes = noise(4 * PART, 5);
    let upload = begin_sized(&app, bytes.len()).await;
    let problem = complete(&app, &upload).await.refused(409, "parts_missing");
    assert_eq!(problem["missingParts"], json!([[0, 3]]));
    put_parts(&app, &upload, &bytes, [1, 3]).await;
    let problem = complete(&app, &upload).await.refused(409, "parts_missing");
    assert_eq!(problem["missingParts"], json!([[0, 0], [2, 2]]));
    put_parts(&app, &upload, &bytes, [0, 2]).await;

    let replies = join_all((0..8).map(|_| complete(&app, &upload))).await;
    let ids: Vec<_> = replies.iter().map(|reply| reply.expect(201)["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(complete(&app, &upload).await.expect(201)["id"], ids[0]);
    assert_eq!(count_files(&app).await, 1);
    let problem = send(part_request(&app, &upload, 0, part_of(&bytes, 0))).await.refused(409, "upload_completed");
    assert_eq!(problem["fileId"], ids[0]);
    send(app.request("DELETE", &path(&upload))).await.refused(409, "upload_completed");

    let aborted = begin_sized(&app, PART).await;
    put_part(&app, &aborted, 0, &bytes[..PART]).await;
    send(app.request("DELETE", &path(&aborted))).await.expect(204);
    send(app.request("DELETE", &path(&aborted))).await.expect(204);
    complete(&app, &aborted).await.refused(410, "upload_gone");
    send(part_request(&app, &aborted, 0, &bytes[..PART])).await.refused(410, "upload_gone");
    assert_eq!(progress(&app, &aborted).await["status"], "aborted");

    let unknown = json!({ "id": "0123456789abcdef01234567" });
    complete(&app, &unknown).await.refused(404, "upload_not_found");
    send(app.get(&path(&unknown))).await.refused(404, "upload_not_found");
    send(part_request(&app, &unknown, 0, b"x")).await.refused(404, "upload_not_found");
    send(app.request("DELETE", &path(&unknown))).await.refused(404, "upload_not_found");

    let idle = begin_sized(&app, PART).await;
    put_part(&app, &idle, 0, &bytes[..PART]).await;
    app.clock.advance(Duration::from_secs(86_399));
    assert_eq!(progress(&app, &idle).await["status"], "open");
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(progress(&app, &idle).await["status"], "expired");
    complete(&app, &idle).await.refused(410, "upload_gone");
    send(part_request(&app, &idle, 0, &bytes[..PART])).await.refused(410, "upload_gone");
    assert_eq!(sweep(&app.app.files).await.unwrap().closed, 1);
    assert_eq!(progress(&app, &idle).await["status"], "expired");
    assert_sound_with(&app, 4).await;
}

/// SES-03: the last one wins.
#[tokio::test]
async fn a_part_that_comes_again_takes_the_place_of_the_earlier_one() {
    let app = TestApp::start().await;
    let bytes = noise(2 * PART, 6);
    let upload = begin_sized(&app, bytes.len()).await;
    put_parts(&app, &upload, &bytes, [0, 1]).await;
    let segments = app.mongo().await.collection::<Document>("segments");
    let before = segments.find_one(doc! { "off": 0_i64 }).await.unwrap();
    put_part(&app, &upload, 0, part_of(&bytes, 0)).await;
    assert_eq!(segments.find_one(doc! { "off": 0_i64 }).await.unwrap(), before, "the same again changes nothing");
    let other = noise(PART, 7);
    put_part(&app, &upload, 0, &other).await;
    assert_eq!(progress(&app, &upload).await["uploadedBytes"], json!(bytes.len()));
    let file = complete(&app, &upload).await.expect(201);
    assert!(app.content(&file).await == [&other, part_of(&bytes, 1)].concat());
    digests::run(&app.app.files).await.unwrap();
    let whole = [&other, part_of(&bytes, 1)].concat();
    assert_eq!(metadata(&app, &file).await["sha256"], sha256(&whole));
    assert_sound_with(&app, 2).await;
}

/// SES-04.
#[tokio::test]
async fn of_two_clients_one_part_is_wholly_the_one_or_the_other() {
    let app = TestApp::start().await;
    for round in 0..3 {
        let (slow, fast) = (noise(PART, 10 + round), noise(PART, 20 + round));
        let upload = begin_sized(&app, PART).await;
        let halves = [slow[..PART / 2].to_vec(), slow[PART / 2..].to_vec()];
        let dripping = futures::stream::iter(halves).then(|half| async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            Ok::<_, std::io::Error>(half)
        });
        let slow_part = app.request("PUT", &format!("{}/parts/0", path(&upload)));
        let slow_part = slow_part.body(reqwest::Body::wrap_stream(dripping));
        let (first, second) = tokio::join!(send(slow_part), send(part_request(&app, &upload, 0, &fast)));
        first.expect(200);
        second.expect(200);
        let file = complete(&app, &upload).await.expect(201);
        assert!(app.content(&file).await == slow, "the one that ends last has it");
    }
    assert_sound_with(&app, 3).await;
}

/// SES-07.
#[tokio::test]
async fn more_than_was_announced_is_refused_at_the_part_that_crosses() {
    let app = TestApp::start_with(|settings| {
        settings.buckets.values_mut().for_each(|bucket| bucket.max_bytes = 3 * PART as u64);
    })
    .await;
    let bytes = noise(2 * PART, 8);
    let upload = begin_sized(&app, PART + 500).await;
    put_part(&app, &upload, 0, part_of(&bytes, 0)).await;
    let long = send(part_request(&app, &upload, 1, &bytes[..501])).await.refused(413, "too_large");
    assert_eq!(long["limitBytes"], 500);
    send(part_request(&app, &upload, 2, b"x")).await.refused(413, "too_large");
    send(part_request(&app, &upload, 999_999_999, b"x")).await.refused(413, "too_large");
    // Without an announced length it is found out on the way.
    let unsized_body =
        reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(bytes[..501].to_vec())]));
    let part = app.request("PUT", &format!("{}/parts/1", path(&upload))).body(unsized_body);
    send(part).await.refused(413, "too_large");
    let short = send(part_request(&app, &upload, 1, &bytes[..499])).await.refused(422, "invalid");
    assert_eq!(short["expectedBytes"], 500);
    assert_eq!(progress(&app, &upload).await["uploadedBytes"], PART);
    put_part(&app, &upload, 1, &bytes[..500]).await;
    complete(&app, &upload).await.expect(201);

    send(begin_request(&app, json!({ "size": 3 * PART + 1 }))).await.refused(413, "too_large");
    let open = begin(&app, json!({ "partSize": PART })).await;
    for n in 0..3 {
        put_part(&app, &open, n, &noise(PART, n as u64)).await;
    }
    send(part_request(&app, &open, 3, b"x")).await.refused(413, "too_large");
    assert_eq!(progress(&app, &open).await["uploadedBytes"], 3 * PART);
    send(app.request("DELETE", &path(&open))).await.expect(204);
    assert_sound_with(&app, 2).await;
}

/// SES-08.
#[tokio::test]
async fn a_wrong_digest_is_refused_and_the_upload_goes_on() {
    let app = TestApp::start().await;
    let bytes = noise(2 * PART, 9);
    let said = json!({ "size": bytes.len(), "partSize": PART, "sha256": sha256(&bytes) });
    let upload = begin(&app, said).await;
    let digest = |bytes: &[u8]| gridgate::http::digests::repr_digest(Sha256Digest::of(bytes));
    let part =
        |n, said: &[u8]| part_request(&app, &upload, n, part_of(&bytes, n)).header("content-digest", digest(said));
    send(part(0, b"other")).await.refused(422, "checksum_mismatch");
    assert_eq!(progress(&app, &upload).await["uploadedBytes"], 0);
    send(part(0, part_of(&bytes, 0))).await.expect(200);
    // Out of order, so that it has to be hashed at the end.
    put_part(&app, &upload, 1, &noise(PART, 98)).await;
    complete(&app, &upload).await.refused(422, "checksum_mismatch");
    assert_eq!((&progress(&app, &upload).await["status"], count_files(&app).await), (&json!("open"), 0));
    put_part(&app, &upload, 1, part_of(&bytes, 1)).await;
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!(file["sha256"], sha256(&bytes));
    assert_sound_with(&app, 2).await;
}

/// SES-13.
#[tokio::test]
async fn open_uploads_are_limited_and_idle_ones_are_collected() {
    let app = TestApp::start_with(|settings| settings.storage.max_open_uploads = 5).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(begin_sized(&app, PART).await);
    }
    let problem = send(begin_request(&app, json!({ "size": 1 }))).await.refused(429, "too_many_uploads");
    assert_eq!((&problem["limit"], &problem["retryable"]), (&json!(5), &json!(true)));
    put_part(&app, &open[0], 0, &noise(PART, 1)).await;
    send(app.request("DELETE", &path(&open[1]))).await.expect(204);
    begin_sized(&app, PART).await;
    app.clock.advance(Duration::from_secs(86_401));
    assert_eq!(sweep(&app.app.files).await.unwrap().closed, 5);
    begin_sized(&app, PART).await;
    app.clock.advance(Duration::from_secs(3601));
    sweep(&app.app.files).await.unwrap();
    let chunks = app.mongo().await.collection::<Document>("files.chunks").count_documents(doc! {}).await.unwrap();
    assert_eq!(chunks, 0);
}

#[tokio::test]
async fn an_upload_takes_its_room_from_the_quota_while_it_is_open() {
    let app = TestApp::start().await;
    let quota = |limits: Value| app.request("PUT", "/v1/admin/quotas/default").json(&limits);
    send(quota(json!({ "maxBytes": 3 * PART, "maxOpenUploads": 2 }))).await.expect(200);
    let sized = |size: usize| begin_request(&app, json!({ "size": size, "partSize": PART }));
    let first = send(sized(2 * PART)).await.expect(201);
    send(sized(PART + 1)).await.refused(413, "quota_exceeded");
    let second = send(sized(1)).await.expect(201);
    send(sized(1)).await.refused(413, "quota_exceeded");
    send(app.request("DELETE", &path(&second))).await.expect(204);
    let bytes = noise(2 * PART, 11);
    put_parts(&app, &first, &bytes, 0..2).await;
    complete(&app, &first).await.expect(201);
    let used = send(app.get("/v1/admin/quotas/default")).await.expect(200);
    assert_eq!((&used["usedBytes"], &used["usedFiles"]), (&json!(2 * PART), &json!(1)), "{used}");
    // One of unknown length reserves what it grows to.
    let open = begin(&app, json!({ "partSize": PART })).await;
    put_part(&app, &open, 0, &noise(PART, 12)).await;
    send(part_request(&app, &open, 1, b"x")).await.refused(413, "quota_exceeded");
    let file = complete(&app, &open).await.expect(201);
    assert_eq!(file["size"], PART);
}

#[tokio::test]
async fn an_upload_of_unknown_length_ends_where_its_parts_do() {
    let app = TestApp::start().await;
    let bytes = noise(2 * PART + 77, 13);
    let upload = begin(&app, json!({ "name": "log", "size": null, "partSize": PART })).await;
    assert_eq!((&upload["size"], &upload["parts"], &upload["percent"]), (&Value::Null, &Value::Null, &Value::Null));
    complete(&app, &upload).await.refused(409, "parts_missing");
    put_part(&app, &upload, 1, &bytes[PART..PART + 10]).await;
    put_part(&app, &upload, 2, part_of(&bytes, 2)).await;
    put_part(&app, &upload, 0, part_of(&bytes, 0)).await;
    let problem = complete(&app, &upload).await.refused(409, "parts_missing");
    assert_eq!(problem["missingParts"], json!([[1, 1]]), "a short part that is not the last is missing");
    put_part(&app, &upload, 1, part_of(&bytes, 1)).await;
    let file = complete(&app, &upload).await.expect(201);
    assert!(app.content(&file).await == bytes);
    assert_eq!(progress(&app, &upload).await["size"], bytes.len());
    assert_sound_with(&app, 3).await;
}

#[tokio::test]
async fn an_empty_file_needs_no_part() {
    let app = TestApp::start().await;
    let upload = begin(&app, json!({ "name": "empty.txt", "size": 0 })).await;
    assert_eq!((&upload["parts"], &upload["percent"]), (&json!(0), &json!(100.0)));
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!((&file["size"], &file["sha256"]), (&json!(0), &json!(sha256(b""))));
    assert!(app.content(&file).await.is_empty());
    let sent = begin(&app, json!({ "name": "empty.txt", "size": 0 })).await;
    put_part(&app, &sent, 0, b"").await;
    send(part_request(&app, &sent, 1, b"")).await.refused(413, "too_large");
    assert_eq!(complete(&app, &sent).await.expect(201)["size"], 0);
}

#[tokio::test]
async fn the_first_bytes_decide_where_all_parts_lie() {
    let app = TestApp::start_with(all_buckets).await;
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(noise(2 * PART, 14));
    let upload = begin(&app, json!({ "name": "a.bin", "size": png.len(), "partSize": PART })).await;
    // The last comes first, and waits for what the beginning says.
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        send(part_request(&app, &upload, 0, part_of(&png, 0))).await
    };
    let (last, first) = tokio::join!(send(part_request(&app, &upload, 2, part_of(&png, 2))), late);
    last.expect(200);
    first.expect(200);
    put_part(&app, &upload, 1, part_of(&png, 1)).await;
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!((&file["contentType"], &file["bucket"]), (&json!("image/png"), &json!("images")));
    assert!(app.content(&file).await == png);
    let segments = app.mongo().await.collection::<Document>("segments");
    assert_eq!(segments.distinct("bucket", doc! {}).await.unwrap(), ["images".into()]);

    // Text in parts is compressed, and whole.
    let text = "gridgate ".repeat(PART / 4).into_bytes();
    let upload = begin(&app, json!({ "name": "a.txt", "size": text.len(), "partSize": PART })).await;
    let count = text.len().div_ceil(PART);
    put_parts(&app, &upload, &text, 0..count).await;
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!((&file["compression"]["codec"], &file["bucket"]), (&json!("zstd"), &json!("documents")));
    assert!(file["storedSize"].as_u64().unwrap() < text.len() as u64 / 20);
    assert!(app.content(&file).await == text);
    for encoding in ["zstd", "gzip"] {
        let request = app.get(&crate::support::app::content_path(&file)).header("accept-encoding", encoding);
        assert!(send(request).await.body == text, "parts are not sent as they are stored");
    }
}

#[tokio::test]
async fn what_must_be_encrypted_is_or_is_refused_whichever_part_comes_first() {
    let app = TestApp::start_with(|settings| {
        all_buckets(settings);
        settings.buckets.values_mut().for_each(|bucket| bucket.encryption = EncryptionPolicy::Off);
        settings.buckets.get_mut("images").unwrap().encryption = EncryptionPolicy::Required;
    })
    .await;
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(noise(PART, 15));
    let sized = json!({ "name": "a", "size": png.len(), "partSize": PART });
    let upload = begin(&app, sized.clone()).await;
    put_parts(&app, &upload, &png, [1, 0]).await;
    let file = complete(&app, &upload).await.expect(201);
    assert_eq!((&file["encryption"]["mode"], &file["contentType"]), (&json!("managed"), &json!("image/png")));

    let mut open = sized;
    open["encrypt"] = json!(false);
    let upload = begin(&app, open).await;
    put_part(&app, &upload, 1, part_of(&png, 1)).await;
    send(part_request(&app, &upload, 0, part_of(&png, 0))).await.refused(422, "invalid");
    complete(&app, &upload).await.refused(409, "parts_missing");
}

#[tokio::test]
async fn a_key_of_the_client_is_needed_for_every_step_that_sees_content() {
    use base64::Engine;
    const HEADER: &str = "Gridgate-Encryption-Key";
    let app = TestApp::start().await;
    let key = |seed| base64::engine::general_purpose::STANDARD.encode(noise(32, seed));
    let bytes = noise(3 * PART, 16);
    let said = json!({ "size": bytes.len(), "partSize": PART });
    let mut customers = said.clone();
    customers["encrypt"] = json!("customer");
    send(begin_request(&app, customers.clone())).await.refused(400, "key_required");
    let upload = send(begin_request(&app, customers).header(HEADER, key(1))).await.expect(201);
    let part = |n| part_request(&app, &upload, n, part_of(&bytes, n));
    send(part(0)).await.refused(400, "key_required");
    send(part(0).header(HEADER, key(2))).await.refused(403, "key_mismatch");
    for n in [2, 0, 1] {
        send(part(n).header(HEADER, key(1))).await.expect(200);
    }
    digests::run(&app.app.files).await.unwrap();
    complete(&app, &upload).await.refused(400, "key_required");
    send(complete_request(&app, &upload).header(HEADER, key(2))).await.refused(403, "key_mismatch");
    let file = send(complete_request(&app, &upload).header(HEADER, key(1))).await.expect(201);
    assert_eq!(file["encryption"]["mode"], "customer");
    let content = crate::support::app::content_path(&file);
    send(app.get(&content)).await.refused(400, "key_required");
    let got = send(app.get(&content).header(HEADER, key(1))).await;
    assert!(got.body == bytes);
    assert_eq!(got.header("repr-digest"), gridgate::http::digests::repr_digest(Sha256Digest::of(&bytes)));
    assert_eq!(crate::support::scan::find_bytes(&app.mongo().await, &bytes[100..132]).await, Vec::<String>::new());

    let managed = begin(&app, said).await;
    send(part_request(&app, &managed, 0, part_of(&bytes, 0)).header(HEADER, key(1))).await.refused(400, "bad_header");
}

#[tokio::test]
async fn any_gateway_goes_on_with_an_upload() {
    let database = new_database();
    let first = TestApp::start_on(database.clone(), |_| {}).await;
    let bytes = noise(4 * PART, 17);
    let upload = begin_sized(&first, bytes.len()).await;
    put_part(&first, &upload, 0, part_of(&bytes, 0)).await;
    first.leave();
    let (second, third) =
        (TestApp::start_on(database.clone(), |_| {}).await, TestApp::start_on(database, |_| {}).await);
    tokio::join!(put_parts(&second, &upload, &bytes, [1, 2]), put_part(&third, &upload, 3, part_of(&bytes, 3)));
    let (one, other) = tokio::join!(complete(&second, &upload), complete(&third, &upload));
    let (one, other) = (one.expect(201), other.expect(201));
    assert_eq!(one["id"], other["id"]);
    assert!(third.content(&one).await == bytes);
    assert_sound_with(&third, 4).await;
    second.leave();
}

#[tokio::test]
async fn completing_touches_no_chunk_and_needs_one_transaction_whatever_the_size() {
    let app = TestApp::start().await;
    let mongo = app.mongo().await;
    let mut counts = Vec::new();
    for parts in [2, 120] {
        let bytes = noise(parts * PART, 18);
        let upload = begin_sized(&app, bytes.len()).await;
        put_parts(&app, &upload, &bytes, 0..parts).await;
        profiler::start(&mongo).await;
        let file = complete(&app, &upload).await.expect(201);
        let commands = profiler::stop_all(&mongo).await;
        let on = |name: &str| {
            let of = |command: &&Document| command.get_str("ns").is_ok_and(|ns| ns.ends_with(name));
            commands.iter().filter(of).count()
        };
        assert_eq!((on(".chunks"), on(".files")), (0, 0), "{commands:?}");
        assert!(on(".uploads") > 0 && on(".segments") > 0);
        // Elsewhere a transaction that the server has repeated counts twice.
        counts.push(on(".segments"));
        assert_eq!(file["sha256"], sha256(&bytes));
        assert!(app.content(&file).await == bytes);
    }
    assert_eq!(counts, [1, 1], "the rows are read at once, and not changed");
}

#[tokio::test]
async fn a_part_that_comes_while_its_upload_is_completed_is_in_the_file_or_refused() {
    let app = TestApp::start().await;
    for round in 0..12 {
        let bytes = noise(2 * PART, 40 + round);
        let other = noise(PART, 80 + round);
        let upload = begin_sized(&app, bytes.len()).await;
        put_parts(&app, &upload, &bytes, 0..2).await;
        let late = async {
            tokio::time::sleep(Duration::from_millis(round % 6)).await;
            send(part_request(&app, &upload, 1, &other)).await
        };
        let (done, late) = tokio::join!(complete(&app, &upload), late);
        let file = done.expect(201);
        let kept = match late.status {
            200 => other,
            _ => {
                late.refused(409, "upload_completed");
                part_of(&bytes, 1).to_vec()
            }
        };
        let whole = [part_of(&bytes, 0), &kept].concat();
        assert!(app.content(&file).await == whole, "round {round}: {}", late.status);
        digests::run(&app.app.files).await.unwrap();
        assert_eq!(metadata(&app, &file).await["sha256"], sha256(&whole));
    }
    assert_sound_with(&app, 24).await;
}

/// A gateway is frozen in the middle of a part and another takes the part. When the first wakes up, the upload is
/// completed, or open and its own rows swept away.
#[tokio::test]
async fn a_writer_that_wakes_up_too_late_changes_nothing() {
    let app = TestApp::start_with(|settings| {
        (settings.storage.quarantine_secs, settings.storage.lease_secs) = (0, 1);
    })
    .await;
    let part_len = 9 << 20;
    let segments = app.mongo().await.collection::<Document>("segments");
    let pending = async || segments.count_documents(doc! { "state": "pending" }).await.unwrap();
    let (frozen, taken) = (noise(part_len, 60), noise(part_len, 61));
    for is_swept in [false, true] {
        let gateway = Program::start(mongod::uri(), &app.database, &[("GRIDGATE__STORAGE__LEASE_SECS", "1")]).await;
        let upload = begin(&app, json!({ "size": part_len, "partSize": part_len })).await;
        let before = pending().await;
        let (rest, more) = tokio::sync::oneshot::channel::<()>();
        let (head, tail) = (frozen[..8 << 20].to_vec(), frozen[8 << 20..].to_vec());
        let last = async move {
            more.await.unwrap();
            Ok::<_, std::io::Error>(tail)
        };
        let body = futures::stream::iter([Ok(head)]).chain(futures::stream::once(last));
        let request = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = request.put(format!("{}{}/parts/0", gateway.url, path(&upload))).bearer_auth(ADMIN_KEY);
        let writing = tokio::spawn(send(request.body(reqwest::Body::wrap_stream(body))));
        while pending().await == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway.signal("STOP");
        put_part(&app, &upload, 0, &taken).await;
        let completed = if is_swept { None } else { Some(complete(&app, &upload).await.expect(201)) };
        if is_swept {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            for _ in 0..2 {
                app.clock.advance(Duration::from_secs(1));
                sweep(&app.app.files).await.unwrap();
            }
        }
        gateway.signal("CONT");
        rest.send(()).unwrap();
        let reply = writing.await.unwrap();
        assert_eq!(reply.status, if is_swept { 503 } else { 409 }, "{}", String::from_utf8_lossy(&reply.body));
        let file = match completed {
            Some(file) => file,
            None => complete(&app, &upload).await.expect(201),
        };
        assert!(app.content(&file).await == taken);
        send(app.request("DELETE", &format!("/v1/files/{}", file["id"].as_str().unwrap()))).await.expect(204);
        drop(gateway);
    }
    assert_sound(&app).await;
}

#[tokio::test]
async fn parts_that_change_places_or_go_missing_in_the_database_are_never_served() {
    let app = TestApp::start().await;
    let bytes = noise(3 * PART, 70);
    let upload = begin_sized(&app, bytes.len()).await;
    put_parts(&app, &upload, &bytes, 0..3).await;
    let file = complete(&app, &upload).await.expect(201);
    let segments = app.mongo().await.collection::<Document>("segments");
    let at = async |n: usize| segments.find_one(doc! { "off": (n * PART) as i64 }).await.unwrap().unwrap();
    let (first, second) = (at(0).await, at(1).await);
    let put_at = async |row: &Document, n: usize| {
        let moved = doc! { "$set": { "off": (n * PART) as i64 } };
        segments.update_one(doc! { "_id": row.get_object_id("_id").unwrap() }, moved).await.unwrap();
    };
    put_at(&first, 1).await;
    put_at(&second, 0).await;
    assert_eq!(app.content_status(&file).await, 500, "exchanged");
    put_at(&first, 0).await;
    put_at(&second, 1).await;
    assert!(app.content(&file).await == bytes);
    for row in [&first, &second] {
        segments.delete_one(doc! { "_id": row.get_object_id("_id").unwrap() }).await.unwrap();
        assert_eq!(app.content_status(&file).await, 500, "one is missing");
        segments.insert_one(row).await.unwrap();
    }
    assert!(app.content(&file).await == bytes);
}

#[tokio::test]
async fn the_same_request_begins_one_upload() {
    let app = TestApp::start().await;
    let said = json!({ "name": "a", "size": 10, "tags": ["x"] });
    let request = |said: &Value| begin_request(&app, said.clone()).header("idempotency-key", "once");
    let replies = join_all((0..4).map(|_| send(request(&said)))).await;
    let ids: Vec<_> = replies.iter().map(|reply| reply.expect(201)["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    send(request(&json!({ "name": "a", "size": 11, "tags": ["x"] }))).await.refused(422, "idempotency_conflict");
    let listed = send(app.get("/v1/uploads")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn open_uploads_are_listed_newest_first_and_page_by_page() {
    let app = TestApp::start().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        app.clock.advance(Duration::from_millis(5));
        ids.insert(0, begin(&app, json!({ "name": n.to_string(), "size": 1 })).await["id"].clone());
    }
    send(app.request("DELETE", &format!("/v1/uploads/{}", ids[2].as_str().unwrap()))).await.expect(204);
    ids.remove(2);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = send(app.get(&format!("/v1/uploads?limit=2{cursor}"))).await.expect(200);
        assert_ne!(page["items"], json!([]), "an empty page");
        seen.extend(page["items"].as_array().unwrap().iter().map(|upload| upload["id"].clone()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ids);
    send(app.get("/v1/uploads?limit=0")).await.refused(400, "bad_request");
    send(app.get("/v1/uploads?cursor=x")).await.refused(400, "bad_request");
    send(app.get("/v1/uploads?x=1")).await.refused(400, "bad_request");
}

#[tokio::test]
async fn progress_is_streamed_to_its_end() {
    let app = TestApp::start().await;
    let bytes = noise(2 * PART, 19);
    let upload = begin_sized(&app, bytes.len()).await;
    let watching = app.get(&path(&upload)).header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(watching.headers()["content-type"], "text/event-stream");
    let watched = tokio::spawn(watching.text());
    for n in 0..2 {
        put_part(&app, &upload, n, part_of(&bytes, n)).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let file = complete(&app, &upload).await.expect(201);
    let text = tokio::time::timeout(Duration::from_secs(10), watched).await.expect("it ends").unwrap().unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let uploaded: Vec<_> = events.iter().map(|event| event["uploadedBytes"].as_u64().unwrap() as usize).collect();
    assert_eq!(uploaded.first(), Some(&0));
    assert!(uploaded.contains(&PART) && uploaded.is_sorted(), "{uploaded:?}");
    let last = events.last().unwrap();
    assert_eq!((&last["status"], &last["fileId"]), (&json!("completed"), &file["id"]));
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_nothing_is_begun() {
    let app = TestApp::start().await;
    for said in [
        json!({ "size": -1 }),
        json!({ "size": 1.5 }),
        json!({ "size": "1" }),
        json!({ "partSize": true }),
        json!({ "sha256": "abc" }),
        json!({ "sha256": 1 }),
        json!({ "contentType": 1 }),
        json!({ "name": "" }),
        json!({ "name": "a\nb" }),
        json!({ "nmae": "a" }),
        json!({ "tags": [1] }),
        json!({ "tags": ["a,b"] }),
        json!({ "custom": "{" }),
        json!({ "folder": "../x" }),
        json!({ "encrypt": 1 }),
        json!({ "compress": "lzma" }),
        json!({ "retentionDays": 0 }),
        json!({ "retentionDays": 1, "expiresAt": "2099-01-01T00:00:00Z" }),
    ] {
        let problem = send(begin_request(&app, said.clone())).await.refused(400, "bad_request");
        assert!(problem["field"].is_string(), "{said}: {problem}");
    }
    for said in [
        json!({ "partSize": PART - 1 }),
        json!({ "partSize": (256 << 20) + 1 }),
        json!({ "size": 1_i64 << 33, "partSize": PART }),
    ] {
        let problem = send(begin_request(&app, said)).await.refused(422, "invalid");
        assert_eq!(problem["field"], "partSize");
    }
    send(app.request("POST", "/v1/uploads").body("{}")).await.refused(415, "unsupported_media_type");
    let json = |body: &str| {
        app.request("POST", "/v1/uploads").header("content-type", "application/json").body(body.to_owned())
    };
    send(json("[]")).await.refused(400, "bad_request");
    send(json(r#"{"size":1,"size":2}"#)).await.refused(400, "bad_request");
    send(json(&format!(r#"{{"name":"{}"}}"#, "x".repeat(70_000)))).await.refused(413, "too_large");
    let listed = send(app.get("/v1/uploads")).await.expect(200);
    assert_eq!(listed["items"], json!([]));

    let upload = begin_sized(&app, 10).await;
    for n in ["-1", "x", "01", "1e3", "%20", "18446744073709551616"] {
        let part = app.request("PUT", &format!("{}/parts/{n}", path(&upload))).body("x");
        send(part).await.refused(400, "bad_request");
    }
    let sent =
        |body: &'static str| complete_request(&app, &upload).header("content-type", "application/json").body(body);
    send(sent(r#"{"force":true}"#)).await.refused(400, "bad_request");
    send(sent("{")).await.refused(400, "bad_request");
    send(sent("{}")).await.refused(409, "parts_missing");
}
