//! tus 1.0.0: what its clients send, and what they must never be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use gridgate::format::digest::Sha256Digest;
use gridgate::jobs::digests;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::app::{ADMIN_KEY, TestApp, noise};
use crate::support::mongod;
use crate::support::program::Program;
use crate::support::requests::{Reply, count_files, send};
use crate::support::tus::{create, create_request, head, number, offset, patch, patch_request, path_of, request};
use crate::support::uploads::{PART, part_of, put_part};
use crate::support::wire::Wire;

/// The file that an upload became.
async fn file_of(app: &TestApp, reply: &Reply) -> Value {
    send(app.get(&format!("/v1/files/{}", reply.header("gridgate-file-id")))).await.expect(200)
}

async fn count(app: &TestApp, collection: &str) -> u64 {
    app.mongo().await.collection::<Document>(collection).count_documents(doc! {}).await.unwrap()
}

async fn assert_sound(app: &TestApp) {
    app.clock.advance(Duration::from_secs(app.app.files.settings.quarantine_secs + 1));
    for _ in 0..2 {
        sweep(&app.app.files).await.unwrap();
    }
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test]
async fn a_file_comes_piece_by_piece() {
    let app = TestApp::start().await;
    let bytes = noise(5_000_000, 1);
    let path = create(&app, bytes.len(), "größe.bin").await;
    let begun = head(&app, &path).await;
    assert_eq!((begun.header("upload-offset"), begun.header("upload-length")), ("0", "5000000"));
    assert_eq!((begun.header("tus-resumable"), begun.header("cache-control")), ("1.0.0", "no-store"));
    assert!(begun.header("upload-expires").ends_with("GMT") && begun.header("gridgate-file-id").is_empty());
    assert_eq!(begun.header("upload-metadata"), format!("filename {}", STANDARD.encode("größe.bin")));
    let mut at = 0;
    for len in [1, 99, 1000, 200_000, 4_500_000] {
        assert_eq!(patch(&app, &path, at, &bytes[at..at + len]).await, at + len);
        at += len;
        assert_eq!(offset(&app, &path).await, at);
    }
    send(app.get(&path)).await.refused(409, "parts_missing");
    let last = send(patch_request(&app, &path, at, bytes[at..].to_vec())).await;
    assert_eq!((last.status, last.header("upload-offset")), (204, "5000000"));
    let file = file_of(&app, &last).await;
    assert_eq!((&file["name"], &file["sha256"]), (&json!("größe.bin"), &json!(Sha256Digest::of(&bytes).to_string())));
    assert!(app.content(&file).await == bytes);
    let got = send(app.get(&path).header("range", "bytes=10-19")).await;
    assert_eq!((got.status, got.body.as_slice()), (206, &bytes[10..20]));
    let done = head(&app, &path).await;
    assert_eq!(done.header("upload-offset"), "5000000");
    assert_eq!(file["id"], done.header("gridgate-file-id"));
    assert_sound(&app).await;
}

#[tokio::test]
async fn what_is_offered_is_said_to_everybody() {
    let app = TestApp::start().await;
    for path in ["/tus/", "/tus", "/tus/0123456789abcdef01234567"] {
        let reply = send(app.anonymous("OPTIONS", path)).await;
        assert_eq!((reply.status, reply.header("tus-version")), (200, "1.0.0"));
        assert_eq!(reply.header("tus-max-size"), app.app.files.routing.max_bytes().to_string());
        assert_eq!(reply.header("tus-checksum-algorithm"), "sha1,sha256,md5,crc32");
        assert!(reply.header("tus-extension").contains("creation-with-upload"));
    }
}

/// SES-14.
#[tokio::test]
async fn a_request_that_is_not_of_the_protocol_changes_nothing() {
    let app = TestApp::start().await;
    let path = create(&app, 10, "a").await;
    for (method, at) in [("POST", "/tus/"), ("HEAD", &path), ("PATCH", &path), ("DELETE", &path)] {
        for version in [None, Some("0.2.2"), Some("1.0.0, 2.0.0")] {
            let mut request = app.request(method, at).header("upload-length", "1").header("upload-offset", "0");
            if let Some(version) = version {
                request = request.header("tus-resumable", version);
            }
            let reply = send(request.header("content-type", "application/offset+octet-stream").body("x")).await;
            assert_eq!((reply.status, reply.header("tus-version")), (412, "1.0.0"), "{method} {version:?}");
        }
    }
    let refused = async |request: reqwest::RequestBuilder, status: u16, code: &str| {
        let reply = send(request).await;
        assert_eq!(reply.header("tus-resumable"), "1.0.0");
        reply.refused(status, code);
        assert_eq!(offset(&app, &path).await, 0);
    };
    let plain =
        |kind: &str| request(&app, "PATCH", &path).header("content-type", kind.to_owned()).header("upload-offset", "0");
    refused(patch_request(&app, &path, 1, "x"), 409, "offset_mismatch").await;
    let problem = send(patch_request(&app, &path, 1, "x")).await.refused(409, "offset_mismatch");
    assert_eq!(problem["type"], "urn:gridgate:error:offset_mismatch", "problem types of the draft are not of tus");
    refused(patch_request(&app, &path, 0, "12345678901"), 413, "too_large").await;
    let endless = futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>("12345")));
    refused(patch_request(&app, &path, 0, reqwest::Body::wrap_stream(endless)), 413, "too_large").await;
    refused(plain("application/octet-stream").body("x"), 415, "unsupported_media_type").await;
    refused(plain("").body("x"), 415, "unsupported_media_type").await;
    refused(plain("application/offset+octet-stream").header("upload-offset", "x").body("x"), 400, "bad_header").await;
    let nowhere = request(&app, "PATCH", &path).header("content-type", "application/offset+octet-stream");
    refused(nowhere.body("x"), 400, "bad_header").await;
    for bad in ["sha512 AA==", "sha1", "sha1 %%"] {
        refused(patch_request(&app, &path, 0, "x").header("upload-checksum", bad), 400, "bad_header").await;
    }
    let wrong = STANDARD.encode([1; 20]);
    let mismatch = patch_request(&app, &path, 0, "x").header("upload-checksum", format!("sha1 {wrong}"));
    refused(mismatch, 460, "upload_checksum_mismatch").await;

    let post = || request(&app, "POST", "/tus/");
    send(post()).await.refused(400, "bad_header");
    send(post().header("upload-length", "1").header("upload-defer-length", "1")).await.refused(400, "bad_header");
    for bad in ["-1", "x", "1.5", "", "99999999999999999999"] {
        send(post().header("upload-length", bad)).await.refused(400, "bad_header");
    }
    send(post().header("upload-defer-length", "2")).await.refused(400, "bad_header");
    send(post().header("upload-length", "1").header("upload-metadata", "a %%")).await.refused(400, "bad_header");
    send(post().header("upload-length", "1").header("upload-concat", "piece")).await.refused(400, "bad_header");
    send(post().header("upload-length", (1_u64 << 41).to_string())).await.refused(413, "too_large");
    send(post().header("upload-length", "1").header("content-type", "text/plain").body("x"))
        .await
        .refused(415, "unsupported_media_type");

    let none = "/tus/0123456789abcdef01234567";
    assert_eq!(send(request(&app, "HEAD", none)).await.status, 404);
    send(patch_request(&app, none, 0, "x")).await.refused(404, "upload_not_found");
    send(request(&app, "DELETE", none)).await.refused(404, "upload_not_found");
    assert_eq!(send(request(&app, "DELETE", &path)).await.status, 204);
    let gone = send(request(&app, "HEAD", &path)).await;
    assert_eq!((gone.status, gone.header("upload-offset")), (410, ""));
    send(patch_request(&app, &path, 0, "x")).await.refused(410, "upload_gone");
    assert_eq!(count_files(&app).await, 0);
}

#[tokio::test]
async fn bytes_may_come_with_the_beginning_and_the_length_with_the_end() {
    let app = TestApp::start().await;
    let kind = "application/offset+octet-stream";
    let whole = send(create_request(&app, 5, "a.txt").header("content-type", kind).body("hello")).await;
    assert_eq!((whole.status, whole.header("upload-offset")), (201, "5"));
    assert_eq!(app.content(&file_of(&app, &whole).await).await, b"hello");

    let half = send(create_request(&app, 10, "b.txt").header("content-type", kind).body("hello")).await;
    let path = path_of(&app, &half);
    assert_eq!((half.header("upload-offset"), half.header("gridgate-file-id")), ("5", ""));
    let rest = send(patch_request(&app, &path, 5, "world")).await;
    assert_eq!(app.content(&file_of(&app, &rest).await).await, b"helloworld");

    let empty = send(create_request(&app, 0, "empty")).await;
    assert_eq!((empty.status, empty.header("upload-offset")), (201, "0"));
    assert_eq!(file_of(&app, &empty).await["size"], 0);

    let deferred = request(&app, "POST", "/tus/").header("upload-defer-length", "1");
    let path = path_of(&app, &send(deferred).await);
    assert_eq!(head(&app, &path).await.header("upload-defer-length"), "1");
    assert_eq!(patch(&app, &path, 0, b"abc").await, 3);
    send(patch_request(&app, &path, 3, "def").header("upload-length", "5")).await.refused(413, "too_large");
    assert_eq!(head(&app, &path).await.header("upload-defer-length"), "1", "a refused request says nothing of it");
    let short = patch_request(&app, &path, 3, "def").header("upload-length", "2");
    send(short).await.refused(400, "inconsistent_length");
    let last = send(patch_request(&app, &path, 3, "def").header("upload-length", "6")).await;
    let file = file_of(&app, &last).await;
    assert_eq!((&file["name"], app.content(&file).await.as_slice()), (&json!("unnamed"), b"abcdef".as_slice()));
    let bad = create_request(&app, 3, "c").header("content-type", kind).header("upload-checksum", "crc32 AAAAAA==");
    send(bad.body("abc")).await.refused(460, "upload_checksum_mismatch");
    assert_eq!(send(app.get("/v1/uploads")).await.expect(200)["items"], json!([]), "nobody knows it, and it is gone");
}

#[tokio::test]
async fn a_checksum_is_of_all_or_nothing_even_after_the_body() {
    let app = TestApp::start().await;
    let bytes = noise(9 << 20, 2);
    let path = create(&app, bytes.len(), "a").await;
    let sha256 = STANDARD.encode(Sha256Digest::of(&bytes).0);
    let other = STANDARD.encode(Sha256Digest::of(b"other").0);
    let sent = |digest: &str| {
        patch_request(&app, &path, 0, bytes.clone()).header("upload-checksum", format!("sha256 {digest}"))
    };
    send(sent(&other)).await.refused(460, "upload_checksum_mismatch");
    assert_eq!(offset(&app, &path).await, 0);
    let last = send(sent(&sha256)).await;
    assert!(app.content(&file_of(&app, &last).await).await == bytes);

    for (value, status, kept) in [("crc32 DUoRhA==", 460, "0"), ("crc32 DUoRhQ==", 204, "11")] {
        let path = create(&app, 20, "b").await;
        let mut wire = Wire::connect(&app.url).await;
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nTus-Resumable: 1.0.0\r\n\
             Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nTransfer-Encoding: chunked\r\n\
             Trailer: Upload-Checksum\r\n\r\nb\r\nhello world\r\n0\r\nUpload-Checksum: {value}\r\n\r\n"
        );
        wire.send(head).await;
        assert_eq!(wire.head().await.status, status, "{value}");
        assert_eq!(offset(&app, &path).await.to_string(), kept, "{value}");
    }
    assert_sound(&app).await;
}

#[tokio::test]
async fn what_came_before_a_break_is_kept() {
    let app = TestApp::start().await;
    let bytes = noise(12 << 20, 3);
    let path = create(&app, bytes.len(), "a").await;
    let mut at = 0;
    for len in [1000, 5 << 20, 3 << 20] {
        let mut wire = Wire::connect(&app.url).await;
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nTus-Resumable: 1.0.0\r\n\
             Upload-Offset: {at}\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: {}\r\n\r\n",
            bytes.len() - at
        );
        wire.send(head).await;
        wire.send(&bytes[at..at + len]).await;
        wire.break_off().await;
        at += len;
        assert_eq!(offset(&app, &path).await, at);
    }
    let last = send(patch_request(&app, &path, at, bytes[at..].to_vec())).await;
    let file = file_of(&app, &last).await;
    assert_eq!(file["sha256"], Sha256Digest::of(&bytes).to_string());
    assert!(app.content(&file).await == bytes);
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_writer_that_hangs_makes_way_and_what_it_brought_is_kept() {
    let app = TestApp::start().await;
    let bytes = noise(1 << 20, 4);
    let path = create(&app, bytes.len(), "a").await;
    let come = bytes[..300_000].to_vec();
    let hanging = futures::stream::iter([Ok::<_, std::io::Error>(come)]).chain(futures::stream::pending());
    let hung = tokio::spawn(send(patch_request(&app, &path, 0, reqwest::Body::wrap_stream(hanging))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = std::time::Instant::now();
    assert_eq!(offset(&app, &path).await, 300_000);
    let last = send(patch_request(&app, &path, 300_000, bytes[300_000..].to_vec())).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(app.content(&file_of(&app, &last).await).await == bytes);
    hung.abort();
    assert_sound(&app).await;
}

/// A gateway is frozen in the middle of an append and another goes on with the upload; the first wakes up.
#[tokio::test]
async fn an_appender_that_wakes_up_too_late_changes_nothing() {
    let app = TestApp::start_with(|settings| settings.storage.lease_secs = 1).await;
    let (frozen, taken) = (noise(9 << 20, 11), noise(9 << 20, 12));
    let path = create(&app, taken.len(), "a").await;
    let gateway = Program::start(mongod::uri(), &app.database, &[("GRIDGATE__STORAGE__LEASE_SECS", "60")]).await;
    let (rest, more) = tokio::sync::oneshot::channel::<()>();
    let (first, last) = (frozen[..8 << 20].to_vec(), frozen[8 << 20..].to_vec());
    let last = async move {
        more.await.unwrap();
        Ok::<_, std::io::Error>(last)
    };
    let body = futures::stream::iter([Ok(first)]).chain(futures::stream::once(last));
    let request = reqwest::Client::builder().no_proxy().build().unwrap().patch(format!("{}{path}", gateway.url));
    let request = request.bearer_auth(ADMIN_KEY).header("tus-resumable", "1.0.0").header("upload-offset", "0");
    let request = request.header("content-type", "application/offset+octet-stream");
    let writing = tokio::spawn(send(request.body(reqwest::Body::wrap_stream(body))));
    while count(&app, "segments").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.signal("STOP");
    let begun = std::time::Instant::now();
    let half = 5 << 20;
    assert_eq!(patch(&app, &path, 0, &taken[..half]).await, half);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    gateway.signal("CONT");
    rest.send(()).unwrap();
    assert_eq!(writing.await.unwrap().status, 409);
    assert_eq!(offset(&app, &path).await, half);
    let last = send(patch_request(&app, &path, half, taken[half..].to_vec())).await;
    let file = file_of(&app, &last).await;
    assert_eq!(file["sha256"], Sha256Digest::of(&taken).to_string());
    assert!(app.content(&file).await == taken);
    assert_sound(&app).await;
}

#[tokio::test]
async fn thousands_of_single_bytes_make_few_segments() {
    let app = TestApp::start().await;
    let len = asked_for("GRIDGATE_SINGLE_BYTES", 400);
    let bytes = noise(len, 5);
    let path = create(&app, len, "a").await;
    for (at, byte) in bytes.iter().enumerate().take(len - 1) {
        patch(&app, &path, at, &[*byte]).await;
    }
    assert_eq!((count(&app, "segments").await, count(&app, "upload_tails").await), (0, len as u64 - 1));
    assert_eq!(crate::support::scan::find_bytes(&app.mongo().await, &bytes[..8]).await, Vec::<String>::new());
    let last = send(patch_request(&app, &path, len - 1, bytes[len - 1..].to_vec())).await;
    assert!(app.content(&file_of(&app, &last).await).await == bytes);
    // Every byte but the last was written to the tail once, and all of them to one segment.
    assert_eq!((count(&app, "segments").await, count(&app, "upload_tails").await), (1, 0));
    assert_sound(&app).await;
}

#[tokio::test]
async fn one_upload_goes_on_through_either_protocol() {
    let app = TestApp::start().await;
    let bytes = noise(4 * PART, 6);
    let said = json!({ "name": "a", "size": bytes.len(), "partSize": PART });
    let upload = crate::support::uploads::begin(&app, said).await;
    let path = format!("/tus/{}", upload["id"].as_str().unwrap());
    assert_eq!(patch(&app, &path, 0, &bytes[..1000]).await, 1000);
    put_part(&app, &upload, 2, part_of(&bytes, 2)).await;
    assert_eq!(offset(&app, &path).await, 1000);
    // Up to the end of the first part and beyond.
    let end = PART + 500;
    assert_eq!(patch(&app, &path, 1000, &bytes[1000..end]).await, end);
    let progress = crate::support::uploads::progress(&app, &upload).await;
    assert_eq!((&progress["missingParts"], &progress["uploadedBytes"]), (&json!([[1, 1], [3, 3]]), &json!(end + PART)));
    put_part(&app, &upload, 1, part_of(&bytes, 1)).await;
    assert_eq!(offset(&app, &path).await, 3 * PART, "the parts follow each other now");
    assert_eq!(count(&app, "upload_tails").await, 0, "the whole part replaced its beginning");
    let last = send(patch_request(&app, &path, 3 * PART, bytes[3 * PART..].to_vec())).await;
    let file = file_of(&app, &last).await;
    assert!(app.content(&file).await == bytes);
    digests::run(&app.app.files).await.unwrap();
    assert_eq!(file_of(&app, &last).await["sha256"], Sha256Digest::of(&bytes).to_string());
    assert_sound(&app).await;
}

#[tokio::test]
async fn appended_bytes_take_the_place_of_parts_that_are_there() {
    let app = TestApp::start().await;
    let (bytes, other) = (noise(4 * PART, 20), noise(PART, 21));
    let upload = crate::support::uploads::begin_sized(&app, bytes.len()).await;
    let path = format!("/tus/{}", upload["id"].as_str().unwrap());
    put_part(&app, &upload, 2, &other).await;
    put_part(&app, &upload, 3, &other).await;
    assert_eq!(patch(&app, &path, 0, &bytes[..PART]).await, PART);
    assert_eq!(patch(&app, &path, PART, &bytes[PART..2 * PART + 100]).await, 2 * PART + 100);
    assert_eq!(crate::support::uploads::progress(&app, &upload).await["missingParts"], json!([[2, 2]]));
    digests::run(&app.app.files).await.unwrap();
    let last = send(patch_request(&app, &path, 2 * PART + 100, bytes[2 * PART + 100..].to_vec())).await;
    let file = file_of(&app, &last).await;
    assert!(app.content(&file).await == bytes);
    digests::run(&app.app.files).await.unwrap();
    assert_eq!(file_of(&app, &last).await["sha256"], Sha256Digest::of(&bytes).to_string());
    assert_sound(&app).await;
}

/// A part takes the place of what an append under way has stored already: that one ends.
#[tokio::test]
async fn an_append_does_not_go_on_over_a_part_that_came_meanwhile() {
    let app = TestApp::start().await;
    let bytes = noise(3 * PART, 23);
    for is_met in [true, false] {
        let upload = crate::support::uploads::begin(&app, json!({ "partSize": PART })).await;
        let path = format!("/tus/{}", upload["id"].as_str().unwrap());
        if is_met {
            put_part(&app, &upload, 1, part_of(&bytes, 1)).await;
        }
        let (rest, more) = tokio::sync::oneshot::channel::<()>();
        let (first, last) = (bytes[..PART].to_vec(), bytes[PART..].to_vec());
        let last = async move {
            more.await.unwrap();
            Ok::<_, std::io::Error>(last)
        };
        let body = futures::stream::iter([Ok(first)]).chain(futures::stream::once(last));
        let appending = tokio::spawn(send(patch_request(&app, &path, 0, reqwest::Body::wrap_stream(body))));
        while crate::support::uploads::progress(&app, &upload).await["missingParts"] == json!([[0, 0]]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        put_part(&app, &upload, 0, b"0123456789").await;
        rest.send(()).unwrap();
        assert_eq!(appending.await.unwrap().status, 409, "is met: {is_met}");
        assert_eq!(offset(&app, &path).await, 10);
        put_part(&app, &upload, 0, part_of(&bytes, 0)).await;
        put_part(&app, &upload, 1, part_of(&bytes, 1)).await;
        let file = crate::support::uploads::complete(&app, &upload).await.expect(201);
        assert!(app.content(&file).await == bytes[..2 * PART]);
        assert_sound(&app).await;
    }
}

#[tokio::test]
async fn a_tail_behind_a_gap_is_neither_used_nor_forgotten() {
    let app = TestApp::start().await;
    let upload = crate::support::uploads::begin(&app, json!({ "partSize": PART })).await;
    let path = format!("/tus/{}", upload["id"].as_str().unwrap());
    let bytes = noise(PART + 10, 22);
    patch(&app, &path, 0, &bytes).await;
    put_part(&app, &upload, 0, b"abc").await;
    assert_eq!(offset(&app, &path).await, 3);
    let missing = crate::support::uploads::complete(&app, &upload).await.refused(409, "parts_missing");
    assert_eq!(missing["missingParts"], json!([[0, 0]]));
    // What is appended before it leaves it where it is.
    assert_eq!(patch(&app, &path, 3, b"def").await, 6);
    let progress = crate::support::uploads::progress(&app, &upload).await;
    assert_eq!((&progress["uploadedBytes"], &progress["missingParts"]), (&json!(16), &json!([[0, 0]])));
    crate::support::uploads::complete(&app, &upload).await.refused(409, "parts_missing");
    put_part(&app, &upload, 0, &bytes[..PART]).await;
    assert_eq!(offset(&app, &path).await, PART + 10);
    let file = crate::support::uploads::complete(&app, &upload).await.expect(201);
    assert!(app.content(&file).await == bytes);

    let gap = crate::support::uploads::begin(&app, json!({ "partSize": PART })).await;
    let path = format!("/tus/{}", gap["id"].as_str().unwrap());
    patch(&app, &path, 0, b"12345").await;
    put_part(&app, &gap, 1, &bytes[..PART]).await;
    crate::support::uploads::complete(&app, &gap).await.refused(409, "parts_missing");
    let short = patch_request(&app, &path, 5, "6").header("upload-length", "6");
    send(short).await.refused(400, "inconsistent_length");
    put_part(&app, &gap, 0, &bytes[10..]).await;
    let file = crate::support::uploads::complete(&app, &gap).await.expect(201);
    assert!(app.content(&file).await == [&bytes[10..], &bytes[..PART]].concat());
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_repeated_beginning_tells_how_far_the_first_came() {
    let app = TestApp::start().await;
    let begin = || {
        let request = create_request(&app, 10, "a").header("idempotency-key", "once");
        request.header("content-type", "application/offset+octet-stream").body("hello")
    };
    let (first, again) = (send(begin()).await, send(begin()).await);
    assert_eq!((again.status, again.header("upload-offset")), (201, "5"));
    assert_eq!(first.header("location"), again.header("location"));
    let path = path_of(&app, &again);
    let last = send(patch_request(&app, &path, 5, "world")).await;
    assert_eq!(app.content(&file_of(&app, &last).await).await, b"helloworld");
    let known = send(begin()).await;
    assert_eq!((known.status, known.header("upload-offset")), (201, "10"));
    assert_eq!(known.header("gridgate-file-id"), last.header("gridgate-file-id"));
    assert_eq!(send(request(&app, "DELETE", &path)).await.status, 204);
    send(begin()).await.refused(410, "upload_gone");
}

#[tokio::test]
async fn a_tail_is_completed_through_the_other_protocol_too() {
    let app = TestApp::start().await;
    let path = path_of(&app, &send(request(&app, "POST", "/tus/").header("upload-defer-length", "1")).await);
    patch(&app, &path, 0, b"abc").await;
    let complete = path.replace("/tus/", "/v1/uploads/") + "/complete";
    let file = send(app.request("POST", &complete)).await.expect(201);
    assert_eq!(app.content(&file).await, b"abc");
    assert_eq!(head(&app, &path).await.header("gridgate-file-id"), file["id"]);
    send(patch_request(&app, &path, 3, "d")).await.refused(409, "upload_completed");
    assert_eq!(send(request(&app, "DELETE", &path)).await.status, 204);
    assert_eq!((app.content_status(&file).await, count(&app, "upload_tails").await), (404, 0));
    let tailed = create(&app, 10, "b").await;
    patch(&app, &tailed, 0, b"abc").await;
    app.clock.advance(Duration::from_secs(86_401));
    assert_eq!(send(request(&app, "HEAD", &tailed)).await.status, 410);
    sweep(&app.app.files).await.unwrap();
    assert_eq!(count(&app, "upload_tails").await, 0);
    assert_sound(&app).await;
}

#[tokio::test]
async fn racing_clients_never_make_a_wrong_byte() {
    let app = TestApp::start().await;
    let bytes = noise(600_000, 7);
    let path = create(&app, bytes.len(), "a").await;
    let client = async |seed: u64| {
        let mut dice = crate::support::model::Dice::new(seed);
        loop {
            let asked = send(request(&app, "HEAD", &path)).await;
            let at = number(&asked.headers, "upload-offset");
            if at == bytes.len() {
                return asked;
            }
            let len = (bytes.len() - at).min([1, 37, 4000, 60_000][dice.below(4)]);
            let reply = send(patch_request(&app, &path, at, bytes[at..at + len].to_vec())).await;
            assert!([204, 409, 503].contains(&reply.status), "{}", reply.status);
        }
    };
    let (first, second) = tokio::join!(client(1), client(2));
    assert_eq!(first.header("gridgate-file-id"), second.header("gridgate-file-id"));
    let file = file_of(&app, &first).await;
    assert_eq!(file["sha256"], Sha256Digest::of(&bytes).to_string());
    assert!(app.content(&file).await == bytes);
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_method_may_be_said_in_a_header_here_only() {
    let app = TestApp::start().await;
    let path = create(&app, 3, "a").await;
    let said = |method: &str| {
        let post = request(&app, "POST", &path).header("x-http-method-override", method.to_owned());
        post.header("content-type", "application/offset+octet-stream").header("upload-offset", "0")
    };
    assert_eq!(send(said("PATCH").body("ab")).await.status, 204);
    assert_eq!(offset(&app, &path).await, 2);
    assert_eq!(send(said("HEAD")).await.header("upload-offset"), "2");
    assert_eq!(send(said("DELETE")).await.status, 204);
    send(said("GET")).await.refused(400, "bad_header");
    let elsewhere = app.request("POST", "/v1/files?name=a").header("x-http-method-override", "DELETE").body("x");
    send(elsewhere).await.expect(201);
}

#[tokio::test]
async fn pages_of_the_origins_that_may_ask_are_told_everything_they_need() {
    let app = TestApp::start_with(|settings| settings.server.cors_origins = vec!["https://app.example".into()]).await;
    let ask = |origin: &str| {
        let preflight = app.anonymous("OPTIONS", "/tus/").header("origin", origin.to_owned());
        preflight.header("access-control-request-method", "POST")
    };
    let allowed = send(ask("https://app.example")).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, "https://app.example"));
    for header in ["Upload-Offset", "Tus-Resumable", "Authorization", "X-HTTP-Method-Override"] {
        assert!(allowed.header("access-control-allow-headers").contains(header), "{header}");
    }
    assert!(allowed.header("access-control-allow-methods").contains("PATCH"));
    let other = send(ask("https://evil.example")).await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    let created = send(create_request(&app, 3, "a").header("origin", "https://app.example")).await;
    assert!(created.header("access-control-expose-headers").contains("Upload-Offset"));
    assert_eq!(created.header("vary"), "origin");
    let closed = TestApp::start().await;
    let reply = send(closed.anonymous("OPTIONS", "/tus/").header("origin", "https://app.example")).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, ""));
}

/// Bytes of the longest segment of an append.
const SEGMENT: usize = 64 << 20;

/// Kills a gateway again and again while an upload runs, and goes on through the next.
async fn survive(kills: usize, len: usize) {
    let app = TestApp::start_with(|settings| settings.storage.lease_secs = 1).await;
    let bytes = noise(len, 8);
    let path = create(&app, bytes.len(), "a").await;
    let mut dice = crate::support::model::Dice::new(9);
    let (mut killed, mut resent, mut kept_some) = (0, 0, 0);
    while killed < kills {
        let at = offset(&app, &path).await;
        if at == bytes.len() {
            break;
        }
        let gateway = Program::start(mongod::uri(), &app.database, &[("GRIDGATE__STORAGE__LEASE_SECS", "1")]).await;
        let sent = Arc::new(AtomicUsize::new(0));
        // In one request, or in many, as clients do that send chunks.
        let most = if killed % 2 == 0 { usize::MAX } else { dice.below(512 << 10) + 1 };
        let sending =
            tokio::spawn(send_on(format!("{}{path}", gateway.url), bytes.clone(), at, most, Arc::clone(&sent)));
        tokio::time::sleep(Duration::from_millis(dice.below(400) as u64)).await;
        gateway.signal("KILL");
        sending.await.unwrap();
        killed += 1;
        let kept = offset(&app, &path).await;
        assert!(kept >= at, "an offset that was told went back");
        let lost = (at + sent.load(Ordering::Relaxed)).saturating_sub(kept);
        assert!(lost <= SEGMENT, "{lost} bytes have to be sent again");
        kept_some += usize::from(kept > at);
        resent += usize::from(kept < bytes.len());
    }
    // What the last gateway sent to the database may arrive after it died: then the upload ends later than was told.
    loop {
        let at = offset(&app, &path).await;
        if at == bytes.len() || send(patch_request(&app, &path, at, bytes[at..].to_vec())).await.status != 409 {
            break;
        }
    }
    let done = head(&app, &path).await;
    let file = file_of(&app, &done).await;
    assert_eq!(file["sha256"], Sha256Digest::of(&bytes).to_string());
    let content = send(app.get(&path)).await;
    assert!(content.body == bytes, "after {killed} kills, {resent} of them in the middle");
    assert_eq!(content.header("repr-digest"), format!("sha-256=:{}:", STANDARD.encode(Sha256Digest::of(&bytes).0)));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_sound(&app).await;
    eprintln!("{killed} kills, {resent} before the end, bytes kept of {kept_some}");
}

/// Goes on with an upload from an offset, with so many bytes a request, until the gateway is gone; counts what it sends.
async fn send_on(url: String, bytes: Vec<u8>, mut at: usize, most: usize, sent: Arc<AtomicUsize>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    while at < bytes.len() {
        let end = bytes.len().min(at.saturating_add(most));
        let pieces: Vec<_> = bytes[at..end].chunks(64 << 10).map(<[u8]>::to_vec).collect();
        let seen = Arc::clone(&sent);
        // So slow that all kills fit into the upload.
        let slow = futures::stream::iter(pieces).then(move |piece| {
            let seen = Arc::clone(&seen);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                seen.fetch_add(piece.len(), Ordering::Relaxed);
                Ok::<_, std::io::Error>(piece)
            }
        });
        let patch = client.patch(&url).bearer_auth(ADMIN_KEY).header("tus-resumable", "1.0.0");
        let patch = patch.header("content-type", "application/offset+octet-stream").header("upload-offset", at);
        match patch.body(reqwest::Body::wrap_stream(slow)).send().await {
            Ok(answer) if answer.status() == 204 => at = number(answer.headers(), "upload-offset"),
            _ => return,
        }
    }
}

#[tokio::test]
async fn a_file_is_whole_however_often_the_gateway_is_killed() {
    let kills = asked_for("GRIDGATE_UPLOAD_KILLS", 6);
    survive(kills, (kills << 21).max(24 << 20)).await;
}

/// How often to do something, where a run for long says so.
fn asked_for(name: &str, usually: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(usually)
}
