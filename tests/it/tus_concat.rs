//! Concatenation of tus: pieces that come side by side, and the file that is made of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::content::EncryptionPolicy;
use gridgate::format::digest::Sha256Digest;
use gridgate::jobs::digests;
use gridgate::jobs::fsck::fsck;
use mongodb::bson::{Document, doc};
use reqwest::RequestBuilder;
use serde_json::json;

use crate::auth::key;
use crate::rotation::chunks;
use crate::support::app::{TestApp, all_buckets, noise};
use crate::support::requests::{Reply, count_files, send};
use crate::support::tus::{
    create, final_request, head, partial, partial_request, patch, patch_request, path_of, request,
};

/// A final upload of these; gives its path and its file.
async fn join(app: &TestApp, partials: &[String]) -> (String, serde_json::Value) {
    let made = send(final_request(app, partials)).await;
    (path_of(app, &made), file_of(app, &made).await)
}

async fn file_of(app: &TestApp, reply: &Reply) -> serde_json::Value {
    send(app.get(&format!("/v1/files/{}", reply.header("gridgate-file-id")))).await.expect(200)
}

async fn partials(app: &TestApp, pieces: &[&[u8]]) -> Vec<String> {
    let mut paths = Vec::new();
    for piece in pieces {
        paths.push(partial(app, piece).await);
    }
    paths
}

async fn assert_sound(app: &TestApp) {
    app.app.files.fold_usage().await.unwrap();
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok && report.usage.is_empty(), "{report:?}");
}

#[tokio::test]
async fn pieces_that_came_side_by_side_become_a_file_without_a_byte_that_moves() {
    let app = TestApp::start().await;
    let bytes = noise(11_000_000, 1);
    let pieces = [&bytes[..5_000_000], &bytes[5_000_000..5_000_100], &bytes[5_000_100..]];
    let paths = futures::future::join_all(pieces.map(|piece| partial(&app, piece))).await;
    let before = chunks(&app.mongo().await).await;
    assert_eq!(count_files(&app).await, 0, "a piece is no file");
    let piece = head(&app, &paths[1]).await;
    assert_eq!((piece.header("upload-concat"), piece.header("upload-offset")), ("partial", "100"));
    let complete = app.request("POST", &format!("/v1/uploads/{}/complete", paths[1].rsplit_once('/').unwrap().1));
    send(complete).await.refused(422, "invalid");

    let made = send(final_request(&app, &paths)).await;
    let (path, file) = (path_of(&app, &made), file_of(&app, &made).await);
    assert_eq!((&file["name"], &file["contentType"]), (&json!("whole.bin"), &json!("application/x-noise")));
    assert!(app.content(&file).await == bytes);
    assert!(app.range(&file, 4_999_990..5_000_110).await == bytes[4_999_990..5_000_110]);
    assert_eq!(chunks(&app.mongo().await).await, before, "a chunk was touched");
    digests::run(&app.app.files).await.unwrap();
    assert_eq!(file_of(&app, &made).await["sha256"], Sha256Digest::of(&bytes).to_string());

    let whole = head(&app, &path).await;
    assert_eq!(whole.header("upload-concat"), format!("final;{}", paths.join(" ")), "as it was said");
    assert_eq!((whole.header("upload-offset"), whole.header("upload-length")), ("11000000", "11000000"));
    assert_eq!(send(app.get(&path)).await.body, bytes);
    send(patch_request(&app, &path, bytes.len(), "x")).await.refused(403, "final_upload");

    // Whoever missed the answer asks again.
    let piece = head(&app, &paths[0]).await;
    assert_eq!((piece.header("upload-offset"), piece.header("upload-length")), ("5000000", "5000000"));
    assert_eq!(piece.header("gridgate-file-id"), "");
    let again = send(final_request(&app, &paths)).await;
    assert_eq!((path_of(&app, &again), file_of(&app, &again).await["id"].clone()), (path.clone(), file["id"].clone()));
    let other = [paths[1].clone(), paths[0].clone(), paths[2].clone()];
    send(final_request(&app, &other)).await.refused(410, "upload_gone");
    send(patch_request(&app, &paths[0], 5_000_000, "x")).await.refused(409, "upload_completed");
    for path in &paths {
        assert_eq!(send(request(&app, "DELETE", path)).await.status, 410);
        send(app.get(path)).await.refused(410, "upload_gone");
    }
    assert_eq!(count_files(&app).await, 1);
    assert!(app.content(&file).await == bytes);
    assert_sound(&app).await;
    assert_eq!(send(request(&app, "DELETE", &path)).await.status, 204);
    assert_eq!(count_files(&app).await, 0);
}

#[tokio::test]
async fn what_cannot_be_joined_stays_as_it_was() {
    let app = TestApp::start().await;
    let whole = partial(&app, b"whole").await;
    let half = path_of(&app, &send(partial_request(&app, 10)).await);
    patch(&app, &half, 0, b"half").await;
    let alone = create(&app, 10, "a").await;
    let foreign = key(&app, "foreign", "other", &["files:write", "files:read"], None).await;
    let theirs = app.anonymous("POST", "/tus/").bearer_auth(&foreign).header("tus-resumable", "1.0.0");
    let theirs = send(theirs.header("upload-concat", "partial").header("upload-length", "0")).await;
    let of = |paths: &[&String]| final_request(&app, &paths.iter().map(|path| (*path).clone()).collect::<Vec<_>>());
    send(of(&[&whole, &half])).await.refused(409, "parts_missing");
    send(of(&[&whole, &alone])).await.refused(422, "invalid");
    send(of(&[&whole, &whole])).await.refused(422, "invalid");
    send(of(&[&whole, &path_of(&app, &theirs)])).await.refused(404, "upload_not_found");
    send(of(&[&"/tus/0123456789abcdef01234567".to_owned()])).await.refused(404, "upload_not_found");
    send(of(&[])).await.refused(400, "bad_header");
    send(of(&[&whole]).header("upload-length", "5")).await.refused(400, "bad_header");
    send(of(&[&whole]).header("content-type", "application/offset+octet-stream").body("x"))
        .await
        .refused(400, "bad_header");
    send(request(&app, "POST", "/tus/").header("upload-concat", "partial")).await.refused(400, "bad_header");
    send(request(&app, "DELETE", &half)).await;
    send(of(&[&whole, &half])).await.refused(410, "upload_gone");
    assert_eq!(count_files(&app).await, 0);
    let (_, file) = join(&app, &[whole]).await;
    assert_eq!(app.content(&file).await, b"whole");
    let empty = partials(&app, &[b"", b""]).await;
    assert_eq!(join(&app, &empty).await.1["size"], 0);
    assert_sound(&app).await;
}

#[tokio::test]
async fn of_many_that_join_the_same_pieces_at_once_one_does() {
    let app = TestApp::start().await;
    let paths = partials(&app, &[b"hello ", b"world", b"!"]).await;
    let same = futures::future::join_all((0..6).map(|_| send(final_request(&app, &paths)))).await;
    let locations: std::collections::BTreeSet<_> = same.iter().map(|reply| path_of(&app, reply)).collect();
    assert_eq!((locations.len(), count_files(&app).await), (1, 1));
    assert_eq!(app.content(&file_of(&app, &same[0]).await).await, b"hello world!");

    let paths = partials(&app, &[b"a", b"b", b"c"]).await;
    let pairs = [[0, 1], [1, 2], [2, 0]].map(|pair| pair.map(|n: usize| paths[n].clone()));
    let replies = futures::future::join_all(pairs.iter().map(|pair| send(final_request(&app, pair)))).await;
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 410, 503].contains(status)), "{statuses:?}");
    assert_eq!(count_files(&app).await, 2);
    assert_sound(&app).await;
}

/// Nothing is known of a piece but its own bytes: it is encrypted wherever its file might have to be.
#[tokio::test]
async fn pieces_are_stored_so_that_any_file_may_be_made_of_them() {
    let app = TestApp::start_with(|settings| {
        all_buckets(settings);
        settings.buckets.get_mut("images").unwrap().encryption = EncryptionPolicy::Off;
    });
    let app = app.await;
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(noise(1000, 2));
    let text = b"a part in the middle that reads like text ".repeat(40);
    let paths = partials(&app, &[&png, &text]).await;
    let (_, file) = join(&app, &paths).await;
    assert_eq!((&file["contentType"], &file["kind"]), (&json!("image/png"), &json!("image")));
    assert_eq!(app.content(&file).await, [png.as_slice(), &text].concat());
    let db = app.mongo().await;
    for needle in [&png[20..40], &text[..20]] {
        assert_eq!(crate::support::scan::find_bytes(&db, needle).await, Vec::<String>::new());
    }
    let plain = |bytes: &[u8]| {
        let said = format!("encrypt {}", STANDARD.encode("false"));
        let kind = "application/offset+octet-stream";
        partial_request(&app, bytes.len())
            .header("upload-metadata", said)
            .header("content-type", kind)
            .body(bytes.to_vec())
    };
    let open = path_of(&app, &send(plain(b"open")).await);
    let closed = partial(&app, b"closed").await;
    send(final_request(&app, &[open.clone(), closed])).await.refused(422, "invalid");
    let said = |wish: &str| format!("encrypt {}", STANDARD.encode(wish));
    let wishing = |wish: &str, path: &String| {
        let named = format!("final;{path}");
        request(&app, "POST", "/tus/").header("upload-concat", named).header("upload-metadata", said(wish))
    };
    send(wishing("true", &open)).await.refused(422, "invalid");
    let file = file_of(&app, &send(wishing("false", &open)).await).await;
    assert_eq!((&file["encryption"], app.content(&file).await.as_slice()), (&json!(null), b"open".as_slice()));
    assert_sound(&app).await;
}

/// What a file is, and whether it may be there, is asked of its own first bytes, and its own length.
#[tokio::test]
async fn a_file_of_pieces_is_recognised_and_measured_as_if_it_had_come_whole() {
    let app = TestApp::start_with(|settings| {
        all_buckets(settings);
        settings.buckets.get_mut("documents").unwrap().max_bytes = 1000;
    });
    let app = app.await;
    let rest = [b"NG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), noise(500, 3)].concat();
    let text = b"read like text, and longer than texts may be ".repeat(50);
    let paths = partials(&app, &[b"\x89", b"P", &rest, &text]).await;
    let (_, file) = join(&app, &paths).await;
    assert_eq!(file["contentType"], "image/png");
    assert_eq!(app.content(&file).await, [b"\x89P".as_slice(), &rest, &text].concat());
    let paths = partials(&app, &[b"%PDF-1.7", &text]).await;
    send(final_request(&app, &paths)).await.refused(413, "too_large");
    assert_sound(&app).await;
}

/// An empty piece may have a row of its own.
#[tokio::test]
async fn an_empty_piece_is_in_nobodys_way() {
    let app = TestApp::start().await;
    let paths = partials(&app, &[b"hello", b"", b" world"]).await;
    let part = format!("/v1/uploads/{}/parts/0", paths[1].rsplit_once('/').unwrap().1);
    send(app.request("PUT", &part).body("")).await.expect(200);
    let order = [paths[1].clone(), paths[0].clone(), paths[2].clone()];
    assert_eq!(app.content(&join(&app, &order).await.1).await, b"hello world");
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_final_upload_takes_no_bytes_and_is_completed_when_it_can_be() {
    let app = TestApp::start().await;
    let quota = |limits| app.request("PUT", "/v1/admin/quotas/default").json(&limits);
    let paths = partials(&app, &[b"hello ", b"world"]).await;
    send(quota(json!({ "maxBytes": 5 }))).await.expect(200);
    // Until the gateway knows of the limit.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    send(final_request(&app, &paths)).await.refused(413, "quota_exceeded");
    let open = send(app.get("/v1/uploads")).await.expect(200);
    let id = open["items"][0]["id"].as_str().unwrap().to_owned();
    let part = app.request("PUT", &format!("/v1/uploads/{id}/parts/0")).body("hello there");
    send(part).await.refused(403, "final_upload");
    send(patch_request(&app, &format!("/tus/{id}"), 11, "!")).await.refused(403, "final_upload");
    let append = crate::support::ruft::append_request(&app, &format!("/ruft/{id}"), 11, true, "!");
    send(append).await.refused(403, "final_upload");
    send(quota(json!({}))).await.expect(200);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let (_, file) = join(&app, &paths).await;
    assert_eq!(app.content(&file).await, b"hello world");
    let other = partials(&app, &[b"1", b"2"]).await;
    let named = |name: &str| {
        let metadata = format!("filename {}", STANDARD.encode(name));
        let request = request(&app, "POST", "/tus/").header("upload-concat", format!("final;{}", other.join(" ")));
        request.header("upload-metadata", metadata).header("idempotency-key", "of-other")
    };
    let (first, again) = (send(named("a")).await, send(named("a")).await);
    assert_eq!((first.status, first.header("location")), (201, again.header("location")));
    send(named("b")).await.refused(422, "idempotency_conflict");
    assert_sound(&app).await;
}

#[tokio::test]
async fn pieces_under_a_clients_key_make_a_file_under_that_key() {
    let app = TestApp::start().await;
    let keys = [[7; 32], [8; 32]].map(|key: [u8; 32]| STANDARD.encode(key));
    let with = |request: RequestBuilder, key: &str| request.header("gridgate-encryption-key", key.to_owned());
    let kind = "application/offset+octet-stream";
    let mut paths = Vec::new();
    for piece in [&b"hello "[..], b"world"] {
        let begun = partial_request(&app, piece.len()).header("content-type", kind).body(piece.to_vec());
        paths.push(path_of(&app, &send(with(begun, &keys[0])).await));
    }
    send(final_request(&app, &paths)).await.refused(400, "key_required");
    send(with(final_request(&app, &paths), &keys[1])).await.refused(403, "key_mismatch");
    let made = send(with(final_request(&app, &paths), &keys[0])).await;
    let content = format!("/v1/files/{}/content", made.header("gridgate-file-id"));
    assert_eq!(send(with(app.get(&content), &keys[0])).await.body, b"hello world");
    send(with(app.get(&content), &keys[1])).await.refused(403, "key_mismatch");
    assert_sound(&app).await;
}

#[tokio::test]
async fn the_room_of_pieces_is_that_of_their_file() {
    let app = TestApp::start().await;
    let quota = |limits| app.request("PUT", "/v1/admin/quotas/default").json(&limits);
    send(quota(json!({ "maxBytes": 10, "maxFiles": 2 }))).await.expect(200);
    let paths = partials(&app, &[b"12345", b"67890"]).await;
    send(partial_request(&app, 1)).await.refused(413, "quota_exceeded");
    let (_, file) = join(&app, &paths).await;
    assert_eq!(app.content(&file).await, b"1234567890");
    app.app.files.fold_usage().await.unwrap();
    let used = send(app.get("/v1/admin/quotas/default")).await.expect(200);
    assert_eq!((&used["usedBytes"], &used["usedFiles"]), (&json!(10), &json!(1)), "{used}");
    let usage = app.mongo().await.collection::<Document>("usage").find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(usage.get_array("holds").unwrap().len(), 0, "{usage}");
    assert_sound(&app).await;
}
