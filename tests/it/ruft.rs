//! The IETF draft of resumable uploads: what its clients send, and what they must not be told.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use gridgate::format::digest::Sha256Digest;
use gridgate::jobs::digests;
use gridgate::jobs::fsck::fsck;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use serde_json::json;

use crate::support::app::{ADMIN_KEY, TestApp, all_buckets, noise};
use crate::support::requests::{count_files, send};
use crate::support::ruft::{append, append_request, create, create_request, state};
use crate::support::tus;
use crate::support::uploads::{self, PART};
use crate::support::wire::Wire;

fn repr_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256Digest::of(bytes).0))
}

async fn assert_sound(app: &TestApp) {
    let report = fsck(&app.app.files).await.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test]
async fn what_is_whole_at_once_is_answered_as_a_file() {
    let app = TestApp::start().await;
    let bytes = noise(5_000_000, 1);
    let request = app.request("POST", "/ruft/?tags=a,b&folder=/x").header("upload-complete", "?1");
    let request = request.header("content-disposition", "inline; filename*=UTF-8''gr%C3%B6%C3%9Fe.bin");
    let request = request.header("content-type", "application/x-noise").header("repr-digest", repr_digest(&bytes));
    let made = send(request.body(bytes.clone())).await;
    let file = made.expect(201);
    assert_eq!((&file["name"], &file["contentType"]), (&json!("größe.bin"), &json!("application/x-noise")));
    assert_eq!((&file["tags"], &file["folder"]), (&json!(["a", "b"]), &json!("/x")));
    assert_eq!((made.header("upload-complete"), made.header("repr-digest")), ("?1", repr_digest(&bytes).as_str()));
    assert_eq!(
        (made.header("gridgate-file-id"), made.header("etag")),
        (file["id"].as_str().unwrap(), file["etag"].as_str().unwrap())
    );
    assert!(app.content(&file).await == bytes);
    let chunked = futures::stream::iter(bytes.chunks(100_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunked.collect::<Vec<_>>().await));
    let file = send(create_request(&app, true, body)).await.expect(201);
    assert_eq!((&file["size"], &file["sha256"]), (&json!(5_000_000), &json!(Sha256Digest::of(&bytes).to_string())));
    for body in [
        reqwest::Body::from(""),
        reqwest::Body::wrap_stream(futures::stream::empty::<Result<Vec<u8>, std::io::Error>>()),
    ] {
        assert_eq!(send(create_request(&app, true, body)).await.expect(201)["size"], 0);
    }
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_series_of_appends_becomes_a_file_when_its_client_says_so() {
    let app = TestApp::start().await;
    let bytes = noise(9_000_000, 2);
    let path = create(&app, Some(bytes.len())).await;
    assert_eq!(state(&app, &path).await, (0, false));
    let first = append(&app, &path, 0, false, &bytes[..100]).await;
    assert_eq!((first.status, first.header("upload-offset")), (204, "100"));
    append(&app, &path, 100, false, &bytes[100..]).await;
    // All of it is there, and yet it is not complete.
    assert_eq!((state(&app, &path).await, count_files(&app).await), ((bytes.len(), false), 0));
    let told = send(app.request("HEAD", &path)).await;
    assert_eq!(told.header("upload-length"), "9000000");
    let limit = format!("max-size={}, max-age=", app.app.files.routing.max_bytes());
    assert!(told.header("upload-limit").starts_with(&limit), "{}", told.header("upload-limit"));
    let last = append(&app, &path, bytes.len(), true, b"").await;
    let file = last.expect(201);
    assert!(app.content(&file).await == bytes);
    assert_eq!(last.header("repr-digest"), repr_digest(&bytes));
    let told = send(app.request("HEAD", &path)).await;
    assert_eq!((told.header("upload-complete"), told.header("upload-offset")), ("?1", "9000000"));
    assert_eq!(told.header("gridgate-file-id"), file["id"].as_str().unwrap());

    // The length is not known before the end.
    let path = create(&app, None).await;
    append(&app, &path, 0, false, b"hello ").await;
    assert_eq!(send(app.request("HEAD", &path)).await.header("upload-length"), "");
    let end = futures::stream::iter([Ok::<_, std::io::Error>("world")]);
    let last = send(append_request(&app, &path, 6, true, reqwest::Body::wrap_stream(end))).await;
    assert_eq!(app.content(&last.expect(201)).await, b"hello world");
    assert_eq!(state(&app, &path).await, (11, true));
    assert_sound(&app).await;
}

#[tokio::test]
async fn limits_and_support_are_said_to_everybody() {
    let app = TestApp::start_with(|settings| {
        settings.buckets.values_mut().for_each(|bucket| bucket.max_bytes = 1000);
    });
    let app = app.await;
    for path in ["/ruft", "/ruft/"] {
        let reply = send(app.anonymous("OPTIONS", path)).await;
        assert_eq!((reply.status, reply.header("accept-patch")), (200, "application/partial-upload"));
        assert_eq!(reply.header("upload-limit"), "max-size=1000");
    }
    let large = send(create_request(&app, true, vec![0; 1001])).await;
    large.refused(413, "too_large");
    assert_eq!(large.header("upload-limit"), "max-size=1000");
    let path = create(&app, None).await;
    let large = send(append_request(&app, &path, 0, false, vec![0; 1001])).await;
    large.refused(413, "too_large");
    assert_eq!((large.header("upload-limit"), state(&app, &path).await), ("max-size=1000", (0, false)));
}

/// That its bucket takes less is not a contradiction of its client's.
#[tokio::test]
async fn an_upload_too_large_for_its_bucket_is_told_so_and_stays() {
    let app = TestApp::start_with(|settings| {
        all_buckets(settings);
        settings.buckets.get_mut("images").unwrap().max_bytes = 1000;
    });
    let app = app.await;
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(noise(2000, 9));
    let path = create(&app, Some(png.len())).await;
    let large = send(append_request(&app, &path, 0, true, png)).await;
    large.refused(413, "too_large");
    assert_eq!((large.header("upload-limit"), state(&app, &path).await), ("max-size=1000", (0, false)));
    let more = futures::stream::iter([Ok::<_, std::io::Error>("12345"), Ok("67890"), Ok("x")]);
    let beyond = create_request(&app, false, reqwest::Body::wrap_stream(more)).header("upload-length", "10");
    send(beyond).await.refused_by_draft(400, "inconsistent_length");
}

#[tokio::test]
async fn a_request_that_is_not_of_the_draft_changes_nothing() {
    let app = TestApp::start().await;
    let path = create(&app, Some(10)).await;
    append(&app, &path, 0, false, b"12345").await;
    let unchanged = async || assert_eq!(state(&app, &path).await, (5, false));
    let mismatch = send(append_request(&app, &path, 4, false, "x")).await;
    let problem = mismatch.refused_by_draft(409, "offset_mismatch");
    assert_eq!((&problem["expected-offset"], &problem["provided-offset"]), (&json!(5), &json!(4)));
    assert_eq!((mismatch.header("upload-offset"), mismatch.header("upload-complete")), ("5", ""));
    unchanged().await;
    for (name, value) in [
        ("upload-offset", "5, 5"),
        ("upload-offset", "-5"),
        ("upload-offset", "\"5\""),
        ("upload-complete", "true"),
        ("upload-complete", "1"),
    ] {
        let replaced = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
        send(append_request(&app, &path, 5, false, "x").headers(replaced)).await.refused(400, "bad_header");
        unchanged().await;
    }
    for kind in ["application/octet-stream", "application/offset+octet-stream", ""] {
        let replaced = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
        let request = append_request(&app, &path, 5, false, "x").headers(replaced);
        send(request).await.refused(415, "unsupported_media_type");
        unchanged().await;
    }
    let coded = append_request(&app, &path, 5, false, "x").header("content-encoding", "gzip");
    send(coded).await.refused(415, "unsupported_media_type");
    // Five bytes are there and five are to come.
    for request in [
        append_request(&app, &path, 5, true, "678"),
        append_request(&app, &path, 5, true, "67890").header("upload-length", "11"),
        append_request(&app, &path, 5, false, "6").header("upload-length", "11"),
        append_request(&app, &path, 5, false, "678901"),
    ] {
        send(request).await.refused_by_draft(400, "inconsistent_length");
        unchanged().await;
    }
    let short = futures::stream::iter([Ok::<_, std::io::Error>("678")]);
    let short = send(append_request(&app, &path, 5, true, reqwest::Body::wrap_stream(short))).await;
    short.refused_by_draft(400, "inconsistent_length");
    assert_eq!(state(&app, &path).await, (8, false), "what came is kept");
    send(app.request("POST", "/ruft/").body("x")).await.refused(400, "bad_header");
    let unequal = create_request(&app, true, "x").header("upload-length", "2");
    send(unequal).await.refused_by_draft(400, "inconsistent_length");
    send(app.request("POST", "/ruft/?colour=red").header("upload-complete", "?0")).await.refused(400, "bad_request");

    append(&app, &path, 8, true, b"90").await;
    let more = send(append_request(&app, &path, 10, true, "x")).await;
    more.refused_by_draft(400, "inconsistent_length");
    send(append_request(&app, &path, 10, true, "")).await.refused_by_draft(409, "upload_completed");
    send(app.request("DELETE", &path)).await.refused_by_draft(409, "upload_completed");
    assert_eq!((state(&app, &path).await, count_files(&app).await), ((10, true), 1));
    let none = "/ruft/0123456789abcdef01234567";
    for request in [app.request("HEAD", none), append_request(&app, none, 0, false, "x"), app.request("DELETE", none)] {
        assert_eq!(send(request).await.status, 404);
    }
}

/// Bytes beyond the length, where that could not be known before they came (§4.4).
#[tokio::test]
async fn what_goes_beyond_its_length_is_ended_and_so_is_what_is_cancelled() {
    let app = TestApp::start().await;
    let path = create(&app, Some(10)).await;
    let endless = futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>("12345")));
    let beyond = send(append_request(&app, &path, 0, false, reqwest::Body::wrap_stream(endless))).await;
    beyond.refused_by_draft(400, "inconsistent_length");
    let cancelled = create(&app, Some(10)).await;
    append(&app, &cancelled, 0, false, b"12345").await;
    assert_eq!(send(app.request("DELETE", &cancelled)).await.status, 204);
    for path in [path, cancelled] {
        assert_eq!(send(app.request("HEAD", &path)).await.status, 410);
        send(append_request(&app, &path, 0, false, "x")).await.refused(410, "upload_gone");
    }
    assert_sound(&app).await;
}

#[tokio::test]
async fn digests_are_of_a_body_or_of_the_whole() {
    let app = TestApp::start().await;
    let bytes = noise(6 << 20, 3);
    let path = create(&app, None).await;
    let sha512 = |bytes: &[u8]| {
        use sha2::Digest;
        format!("sha-512=:{}:", STANDARD.encode(sha2::Sha512::digest(bytes)))
    };
    for wrong in [repr_digest(b"other"), sha512(b"other"), format!("{}, {}", repr_digest(&bytes), sha512(b"other"))] {
        let request = append_request(&app, &path, 0, false, bytes.clone()).header("content-digest", wrong);
        send(request).await.refused(422, "checksum_mismatch");
        assert_eq!(state(&app, &path).await, (0, false), "nothing is kept");
    }
    let right = format!("{}, {}", repr_digest(&bytes), sha512(&bytes));
    let request = append_request(&app, &path, 0, true, bytes.clone()).header("content-digest", right);
    assert!(app.content(&send(request).await.expect(201)).await == bytes);

    let announced = create_request(&app, false, &b"hello"[..]).header("repr-digest", repr_digest(b"hello world"));
    let begun = send(announced.header("content-digest", repr_digest(b"hello"))).await;
    let path = begun.header("location").strip_prefix(&app.url).unwrap().to_owned();
    send(append_request(&app, &path, 5, true, " there")).await.refused(422, "checksum_mismatch");
    assert_eq!((state(&app, &path).await, count_files(&app).await), ((11, false), 1));
    let wrong = create_request(&app, true, &b"hello"[..]).header("repr-digest", repr_digest(b"other"));
    send(wrong).await.refused(422, "checksum_mismatch");
    let wrong = create_request(&app, true, &b"hello"[..]).header("repr-digest", sha512(b"other"));
    send(wrong).await.refused(422, "checksum_mismatch");
    let unknown = create_request(&app, false, &b"hello"[..]).header("repr-digest", sha512(b"hello"));
    send(unknown).await.refused(400, "bad_header");
    let open = send(app.get("/v1/uploads")).await.expect(200)["items"].as_array().unwrap().len();
    assert_eq!((count_files(&app).await, open), (1, 1), "nobody knows of the second, and it is gone");
}

#[tokio::test]
async fn what_came_before_a_break_is_kept_and_a_writer_that_hangs_makes_way() {
    let app = TestApp::start().await;
    let bytes = noise(6 << 20, 4);
    let path = create(&app, Some(bytes.len())).await;
    let mut wire = Wire::connect(&app.url).await;
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nUpload-Complete: ?1\r\n\
         Upload-Offset: 0\r\nContent-Type: application/partial-upload\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    wire.send(head).await;
    wire.send(&bytes[..5 << 20]).await;
    wire.break_off().await;
    assert_eq!(state(&app, &path).await, (5 << 20, false));
    let come = bytes[5 << 20..].split_at(1000).0.to_vec();
    let hanging = futures::stream::iter([Ok::<_, std::io::Error>(come)]).chain(futures::stream::pending());
    let hanging = append_request(&app, &path, 5 << 20, true, reqwest::Body::wrap_stream(hanging));
    let hung = tokio::spawn(send(hanging));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = std::time::Instant::now();
    let at = (5 << 20) + 1000;
    assert_eq!(state(&app, &path).await, (at, false));
    let last = append(&app, &path, at, true, &bytes[at..]).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(app.content(&last.expect(201)).await == bytes);
    hung.abort();
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_creation_by_name_is_found_again() {
    let app = TestApp::start().await;
    let begin = || create_request(&app, true, &b"hello"[..]).header("idempotency-key", "once");
    let first = send(begin()).await;
    let again = send(begin()).await;
    assert_eq!((first.status, again.status, count_files(&app).await), (201, 201, 1));
    assert_eq!((again.header("upload-complete"), again.header("upload-offset")), ("?1", "5"));
    assert_eq!((again.json(), again.header("location")), (first.json(), first.header("location")));
    assert_eq!(first.header("gridgate-file-id"), again.header("gridgate-file-id"));
    // One that broke off stays, as its client can ask for it.
    let mut wire = Wire::connect(&app.url).await;
    let head = format!(
        "POST /ruft/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nUpload-Complete: ?1\r\n\
         Idempotency-Key: broken\r\nContent-Length: 11\r\n\r\nhello"
    );
    wire.send(head).await;
    wire.break_off().await;
    let again = send(create_request(&app, true, &b"hello world"[..]).header("idempotency-key", "broken")).await;
    assert_eq!((again.status, again.header("upload-complete"), again.header("upload-offset")), (201, "?0", "5"));
    let path = again.header("location").strip_prefix(&app.url).unwrap().to_owned();
    let last = append(&app, &path, 5, true, b" world").await;
    assert_eq!(app.content(&last.expect(201)).await, b"hello world");
}

/// The ways to begin an upload, to go on with it, and to end it.
const PROTOCOLS: [&str; 3] = ["parts", "tus", "ruft"];

#[tokio::test]
async fn any_protocol_goes_on_with_an_upload_of_any_other() {
    let first_gateway = TestApp::start().await;
    let other = TestApp::start_on(first_gateway.database.clone(), |_| {}).await;
    let bytes = noise(2 * PART + 5, 5);
    for first in PROTOCOLS {
        for second in PROTOCOLS {
            let app = &first_gateway;
            let upload = uploads::begin(app, json!({ "size": bytes.len(), "partSize": PART })).await;
            let id = match first {
                "parts" => upload["id"].as_str().unwrap().to_owned(),
                "tus" => tus::create(app, bytes.len(), "a").await.replace("/tus/", ""),
                _ => create(app, Some(bytes.len())).await.replace("/ruft/", ""),
            };
            let named = json!({ "id": id });
            let of = |protocol: &str| format!("/{protocol}/{id}");
            match first {
                "parts" => uploads::put_part(app, &named, 0, &bytes[..PART]).await,
                "tus" => assert_eq!(tus::patch(app, &of("tus"), 0, &bytes[..PART]).await, PART),
                _ => drop(append(app, &of("ruft"), 0, false, &bytes[..PART]).await),
            }
            // Another gateway goes on.
            let app = &other;
            assert_eq!(tus::offset(app, &of("tus")).await, PART, "{first}");
            assert_eq!(state(app, &of("ruft")).await, (PART, false), "{first}");
            assert_eq!(uploads::progress(app, &named).await["uploadedBytes"], PART, "{first}");
            let part_size = uploads::progress(app, &named).await["partSize"].as_u64().unwrap() as usize;
            match second {
                // The parts of what was begun elsewhere are longer than all of it.
                "parts" if part_size > bytes.len() => uploads::put_part(app, &named, 0, &bytes).await,
                "parts" => uploads::put_parts(app, &named, &bytes, 1..3).await,
                "tus" => assert_eq!(tus::patch(app, &of("tus"), PART, &bytes[PART..]).await, bytes.len()),
                _ => drop(append(app, &of("ruft"), PART, true, &bytes[PART..]).await),
            }
            if second == "parts" {
                uploads::complete(app, &named).await.expect(201);
            }
            assert_eq!(state(app, &of("ruft")).await, (bytes.len(), true), "{first}, {second}");
            digests::run(&app.app.files).await.unwrap();
            let told = tus::head(app, &of("tus")).await;
            let file = send(app.get(&format!("/v1/files/{}", told.header("gridgate-file-id")))).await.expect(200);
            assert!(app.content(&file).await == bytes, "{first}, {second}");
            assert_eq!(file["sha256"], Sha256Digest::of(&bytes).to_string(), "{first}, {second}");
            let content = send(app.get(&crate::support::app::content_path(&file))).await;
            assert_eq!(content.header("repr-digest"), repr_digest(&bytes), "{first}, {second}");
        }
    }
    assert_sound(&other).await;
}
