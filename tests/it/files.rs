//! The life of a file over HTTP: made, refused, described, changed, expired, deleted.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use gridgate::content::EncryptionPolicy;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::support::app::{ADMIN_KEY, TestApp, all_buckets, content_path, noise};
use crate::support::requests::{Form, Reply, assert_nothing_stored, count_files, send};
use crate::support::wire::{Answer, Wire};

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

async fn patch(app: &TestApp, file: &Value, change: &Value) -> Reply {
    send(
        app.request("PATCH", &path(file))
            .header("content-type", "application/merge-patch+json")
            .body(change.to_string()),
    )
    .await
}

// ---- uploads

#[tokio::test]
async fn a_right_digest_is_taken_and_a_wrong_one_leaves_nothing() {
    let app = TestApp::start().await;
    let bytes = noise(300_000, 1);
    let sha256 = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&bytes)));
    let sha512 = format!("sha-512=:{}:", STANDARD.encode(Sha512::digest(&bytes)));
    let wrong256 = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(b"other")));
    let wrong512 = format!("sha-512=:{}:", STANDARD.encode(Sha512::digest(b"other")));
    let post = |name: &str, value: &str| {
        let request = app.request("POST", "/v1/files?name=a").header(name.to_owned(), value.to_owned());
        send(request.body(bytes.clone()))
    };
    for header in ["repr-digest", "content-digest"] {
        for value in [
            wrong256.clone(),
            wrong512.clone(),
            format!("{sha256}, {wrong512}"),
            format!("{wrong256}, {sha512}"),
            format!("md5=:AAAA:, {wrong256}"),
        ] {
            post(header, &value).await.refused(422, "checksum_mismatch");
        }
        for value in ["sha-256", "sha-256=abc", "sha-256=:AAAA:", "sha-512=:AAAA:", ""] {
            let problem = post(header, value).await.refused(400, "bad_header");
            assert_eq!(problem["field"].as_str().unwrap().to_ascii_lowercase(), header, "{value:?}");
        }
    }
    let request = app.request("POST", "/v1/files").header("repr-digest", &sha256).header("content-digest", &wrong512);
    send(request.body(bytes.clone())).await.refused(422, "checksum_mismatch");
    assert_nothing_stored(&app).await;
    for value in [&sha256, &sha512, &format!("{sha256}, {sha512}"), &"md5=:AAAA:".to_owned()] {
        for header in ["repr-digest", "content-digest"] {
            let file = post(header, value).await.expect(201);
            let content = send(app.get(&content_path(&file))).await;
            assert_eq!(content.header("repr-digest"), sha256);
        }
    }
    assert_eq!(count_files(&app).await, 8);
}

#[tokio::test]
async fn the_answer_says_where_the_file_is_and_what_it_is() {
    let app = TestApp::start().await;
    let bytes = b"hello world\n".repeat(1000);
    let request = app.request("POST", "/v1/files?name=a.txt").header("content-type", "text/plain").body(bytes.clone());
    let reply = send(request).await;
    let file = reply.expect(201);
    let url = format!("{}/v1/files/{}", app.url, file["id"].as_str().unwrap());
    assert_eq!(reply.header("location"), url);
    assert_eq!(reply.header("etag"), file["etag"].as_str().unwrap());
    assert_eq!(
        file["links"],
        json!({ "self": url, "content": format!("{url}/content"), "thumbnail": null, "versions": null })
    );
    let hex = hex::encode(Sha256::digest(&bytes));
    assert_eq!((&file["sha256"], &file["size"]), (&hex.into(), &12_000.into()));
    assert!(file["storedSize"].as_u64().unwrap() < 2000, "it is compressed");
    assert_eq!(file["createdAt"], file["updatedAt"]);
    let head = send(app.request("HEAD", &path(&file))).await;
    let get = send(app.get(&path(&file))).await;
    assert_eq!(head.header("content-length"), get.body.len().to_string());
    assert_eq!(head.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_body_in_a_content_coding_is_refused() {
    let app = TestApp::start().await;
    for coding in ["gzip", "zstd", "br", "gzip, identity", "nonsense"] {
        let request = app.request("POST", "/v1/files").header("content-encoding", coding).body("x");
        assert_eq!(send(request).await.refused(415, "unsupported_media_type")["field"], "Content-Encoding", "{coding}");
    }
    assert_nothing_stored(&app).await;
    send(app.request("POST", "/v1/files").header("content-encoding", "identity").body("x")).await.expect(201);
}

async fn with_small_limit(limit: u64) -> TestApp {
    TestApp::start_with(|settings| settings.buckets.values_mut().for_each(|bucket| bucket.max_bytes = limit)).await
}

fn post_head(headers: &str) -> String {
    format!("POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{headers}\r\n\r\n")
}

fn assert_wire_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.json()["code"], code);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let app = with_small_limit(300_000).await;
    let stored = app.put("", "text/plain", noise(300_000, 1)).await;
    assert_eq!(send(app.request("DELETE", &path(&stored))).await.status, 204);
    for len in [300_001, 3_000_000] {
        let bytes = noise(len, 2);
        let pieces: Vec<_> = bytes.chunks(50_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let chunked = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        for body in [chunked, bytes.clone().into()] {
            // A server that answers before it has the body may close under the client's hands.
            let Ok(response) = app.request("POST", "/v1/files").body(body).send().await else { continue };
            assert_eq!(response.status().as_u16(), 413, "{len} bytes");
            assert_eq!(response.json::<Value>().await.unwrap()["limitBytes"], 300_000);
        }
    }
    let form = Form::new().file("a", "text/plain", &noise(300_001, 3));
    assert_eq!(send(form.request(&app, "")).await.refused(413, "too_large")["limitBytes"], 300_000);
    assert_eq!(count_files(&app).await, 0);
}

#[tokio::test]
async fn an_announced_length_over_every_limit_is_refused_before_the_body() {
    let app = with_small_limit(1000).await;
    for expect in ["", "\r\nExpect: 100-continue"] {
        let mut wire = Wire::connect(&app.url).await;
        wire.send(post_head(&format!("Content-Length: 1001{expect}"))).await;
        assert_wire_problem(&wire.answer().await.unwrap(), 413, "too_large");
    }
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn who_expects_100_continue_is_refused_before_the_body_or_told_to_go_on() {
    let app = TestApp::start().await;
    for credential in ["", "Authorization: Bearer gg_wrong_key\r\n", "Authorization: Basic eDp5\r\n"] {
        let mut wire = Wire::connect(&app.url).await;
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nHost: x\r\n{credential}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        );
        wire.send(head).await;
        let answer = wire.answer().await.unwrap();
        assert_wire_problem(&answer, 401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let mut wire = Wire::connect(&app.url).await;
    wire.send(post_head("Content-Length: 5\r\nExpect: 100-continue")).await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    wire.send("hello").await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
}

#[tokio::test]
async fn a_bucket_takes_only_what_it_accepts() {
    let app = TestApp::start_with(|settings| {
        all_buckets(settings);
        settings.buckets.get_mut("images").unwrap().accept = vec!["image/png".into(), "image/jpeg".into()];
    })
    .await;
    let request =
        app.request("POST", "/v1/files?name=a.png").header("content-type", "image/png").body("GIF89a\x01\0\x01\0");
    assert_eq!(send(request).await.refused(415, "kind_not_accepted")["mediaType"], "image/gif");
    assert_nothing_stored(&app).await;
    app.put("", "image/gif", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec()).await;
}

#[tokio::test]
async fn encryption_follows_the_policy_and_the_request_only_where_it_may() {
    for (policy, left_out, wish_true, wish_false) in [
        (EncryptionPolicy::Required, Some(true), Some(true), None),
        (EncryptionPolicy::On, Some(true), Some(true), Some(false)),
        (EncryptionPolicy::Off, Some(false), Some(true), Some(false)),
    ] {
        let app = TestApp::start_with(|settings| {
            settings.buckets.values_mut().for_each(|bucket| bucket.encryption = policy);
        })
        .await;
        for (query, expected) in [("", left_out), ("encrypt=true", wish_true), ("encrypt=false", wish_false)] {
            let reply = send(app.request("POST", &format!("/v1/files?{query}")).body("x")).await;
            match expected {
                Some(is_encrypted) => {
                    let file = reply.expect(201);
                    assert_eq!(file["encryption"].is_object(), is_encrypted, "{policy:?} {query}");
                    if is_encrypted {
                        assert_eq!(file["encryption"], json!({ "mode": "managed", "keyId": "test" }));
                    }
                }
                None => assert_eq!(reply.refused(422, "invalid")["field"], "encrypt", "{policy:?} {query}"),
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_leaves_nothing() {
    let app = TestApp::start().await;
    let chunked = "Transfer-Encoding: chunked";
    for (head, sent) in [
        ("Content-Length: 1000", noise(100, 1)),
        ("Content-Length: 9000000", noise(6_000_000, 1)),
        (chunked, [b"fa0\r\n".to_vec(), noise(2000, 1)].concat()),
        (chunked, [b"7d0\r\n".to_vec(), noise(2000, 1), b"\r\n".to_vec()].concat()),
    ] {
        let mut wire = Wire::connect(&app.url).await;
        wire.send(post_head(head)).await;
        wire.send(sent).await;
        assert_eq!(count_files(&app).await, 0, "a file is not there before it is whole");
        wire.break_off().await;
    }
    let mut wire = Wire::connect(&app.url).await;
    let form = Form::new().file("a", "text/plain", &noise(50_000, 1)).body();
    let form_head = "Content-Type: multipart/form-data; boundary=----gridgate-tests-0123456789\r\nContent-Length: ";
    wire.send(post_head(&format!("{form_head}{}", form.len()))).await;
    wire.send(&form[..form.len() - 10]).await;
    drop(wire);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_given_up() {
    let app = TestApp::start_with(|settings| settings.server.body_idle_secs = 1).await;
    let file = app.put("", "text/plain", "x").await;
    let form = Form::new().field("name", "a").file("a", "text/plain", b"half").unfinished();
    let form_head = "Content-Type: multipart/form-data; boundary=----gridgate-tests-0123456789\r\nContent-Length: 900";
    let patch = format!(
        "PATCH {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{",
        path(&file)
    );
    let stalled = [
        post_head("Content-Length: 1000") + "abc",
        post_head("Transfer-Encoding: chunked") + "3\r\nabc\r\n",
        post_head(form_head) + std::str::from_utf8(&form[..form.len() / 3]).unwrap(),
        post_head(form_head) + std::str::from_utf8(&form).unwrap(),
        patch,
    ];
    let app_ref = &app;
    join_all(stalled.iter().map(|sent| async move {
        let begun = Instant::now();
        let mut wire = Wire::connect(&app_ref.url).await;
        wire.send(sent).await;
        assert_wire_problem(&wire.answer().await.unwrap(), 408, "body_timeout");
        assert!(wire.is_closed().await, "what comes late is no new request");
        assert!(begun.elapsed() < Duration::from_secs(4), "{sent}");
    }))
    .await;
    assert_eq!(count_files(&app).await, 1);
}

#[tokio::test]
async fn a_head_that_stops_arriving_is_given_up() {
    let app = TestApp::start_with(|settings| settings.server.head_timeout_secs = 1).await;
    let mut wire = Wire::connect(&app.url).await;
    wire.send("GET /livez HTTP/1.1\r\nHost:").await;
    let begun = Instant::now();
    if let Some(answer) = wire.answer().await {
        assert_eq!(answer.status, 408);
    }
    assert!(wire.is_closed().await && begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn requests_that_two_servers_could_read_differently_are_refused() {
    let app = TestApp::start().await;
    let hidden = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        "Host: x\r\nTransfer-Encoding: gzip, chunked",
        "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: x\r\nTransfer-Encoding: chunked, chunked",
        "Host: x\r\nHost: y\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
        "Host: x\r\nContent-Length: 4\r\nContent-Length: 5",
    ] {
        let mut wire = Wire::connect(&app.url).await;
        wire.send(format!("POST /v1/files HTTP/1.1\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{head}\r\n\r\n0\r\n\r\n"))
            .await;
        let answer = wire.answer().await;
        assert!(answer.as_ref().is_none_or(|answer| [400, 501].contains(&answer.status)), "{head}: {answer:?}");
    }
    // Both lengths: chunked counts, and the connection ends.
    let mut wire = Wire::connect(&app.url).await;
    wire.send(post_head("Content-Length: 4\r\nTransfer-Encoding: chunked") + "0\r\n\r\n" + hidden).await;
    let answer = wire.answer().await.unwrap();
    assert!([201, 400].contains(&answer.status), "{answer:?}");
    if answer.status == 201 {
        assert_eq!(answer.json()["size"], 0);
    }
    assert!(wire.is_closed().await, "the hidden request is never answered");
}

#[tokio::test]
async fn an_attackers_host_is_never_handed_out() {
    let app = TestApp::start().await;
    for target in ["/v1/files", "http://evil.example/v1/files"] {
        let mut wire = Wire::connect(&app.url).await;
        wire.send(format!(
            "POST {target} HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 1\r\n\r\nx"
        ))
        .await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, 201);
        assert!(!format!("{:?}{}", answer.headers, answer.json()).contains("evil"), "{answer:?}");
    }
}

// ---- repeated uploads

async fn put_with_key(app: &TestApp, key: &str, query: &str, bytes: &[u8]) -> Reply {
    let request = app.request("POST", &format!("/v1/files?{query}")).header("idempotency-key", key);
    send(request.body(bytes.to_vec())).await
}

#[tokio::test]
async fn an_idempotency_key_makes_a_repetition_harmless() {
    let app = TestApp::start().await;
    for len in [0, 100, 700_000] {
        let (bytes, key) = (noise(len, 1), format!("key-{len}"));
        let before = count_files(&app).await;
        let first = put_with_key(&app, &key, "name=a&tags=x", &bytes).await.expect(201);
        let second = put_with_key(&app, &key, "name=a&tags=x", &bytes).await;
        assert_eq!(second.expect(201), first, "the same answer");
        assert_eq!(second.header("etag"), first["etag"].as_str().unwrap());
        assert!(second.header("location").ends_with(first["id"].as_str().unwrap()));
        let others = [
            ("name=a&tags=x", noise(len + 1, 1)),
            ("name=b&tags=x", bytes.clone()),
            ("name=a&tags=y", bytes.clone()),
            ("name=a&tags=x&retentionDays=3", bytes.clone()),
        ];
        for (query, other) in others {
            put_with_key(&app, &key, query, &other).await.refused(422, "idempotency_conflict");
        }
        assert_eq!(count_files(&app).await, before + 1, "one effect");
    }
    let gone = put_with_key(&app, "gone", "name=a", b"x").await.expect(201);
    assert_eq!(send(app.request("DELETE", &path(&gone))).await.status, 204);
    put_with_key(&app, "gone", "name=a", b"x").await.refused(422, "idempotency_conflict");
    for bad in ["", &"k".repeat(256), "a b", "a\tb"] {
        let problem = put_with_key(&app, bad, "", b"x").await.refused(400, "bad_header");
        assert_eq!(problem["field"], "Idempotency-Key", "{bad:?}");
    }
    let twice =
        app.request("POST", "/v1/files").header("idempotency-key", "a").header("idempotency-key", "b").body("x");
    send(twice).await.refused(400, "bad_header");
}

#[tokio::test]
async fn eight_uploads_with_one_key_at_once_are_one_file() {
    let app = TestApp::start().await;
    for len in [50, 700_000] {
        let (bytes, key) = (noise(len, 2), format!("key-{len}"));
        let before = count_files(&app).await;
        let replies = join_all((0..8).map(|_| put_with_key(&app, &key, "name=a", &bytes))).await;
        let files: Vec<Value> = replies.iter().map(|reply| reply.expect(201)).collect();
        assert!(files.iter().all(|file| *file == files[0]), "everyone hears the same");
        assert_eq!(count_files(&app).await, before + 1);
        assert!(app.content(&files[0]).await == bytes);
    }
}

// ---- how content is shown

async fn disposition_of(app: &TestApp, name: &str, content_type: &str, bytes: &[u8]) -> (Value, Reply) {
    let request = app.request("POST", "/v1/files").query_name(name).header("content-type", content_type);
    let file = send(request.body(bytes.to_vec())).await.expect(201);
    let content = send(app.get(&content_path(&file))).await;
    assert_eq!(content.header("x-content-type-options"), "nosniff");
    assert_eq!(content.header("content-security-policy"), "sandbox; default-src 'none'");
    assert_eq!(content.header("referrer-policy"), "no-referrer");
    (file, content)
}

trait QueryName {
    fn query_name(self, name: &str) -> Self;
}

impl QueryName for reqwest::RequestBuilder {
    fn query_name(self, name: &str) -> Self {
        let (client, request) = self.build_split();
        let mut request = request.unwrap();
        request.url_mut().query_pairs_mut().append_pair("name", name);
        Self::from_parts(client, request)
    }
}

#[tokio::test]
async fn active_content_is_never_shown_inline_whatever_it_is_called() {
    let app = TestApp::start().await;
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>".as_slice();
    let xml_svg = b"<?xml version=\"1.0\"?>\n<!-- x -->\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>".as_slice();
    let html = b"<!DOCTYPE html><script>alert(1)</script>".as_slice();
    let bare_html = b"\n <script>alert(1)</script>".as_slice();
    let types = [
        "text/html",
        "image/svg+xml",
        "image/svg+xml;charset=utf-8",
        "IMAGE/SVG+XML",
        "text/html;x=y",
        "TEXT/HTML",
        "application/xhtml+xml",
        "text/xml",
        "application/xml",
        "application/mathml+xml",
        "text/xsl",
        "application/javascript",
        "text/javascript",
        "application/pdf",
        "application/rdf+xml",
        "image/svg+xml,image/png",
        "image/png",
        "text/plain",
        "audio/ogg",
        "",
    ];
    for declared in types {
        let ways = [svg, xml_svg, html, bare_html]
            .into_iter()
            .flat_map(|bytes| ["a.png", "a.html", "a.txt"].map(|name| (bytes, name)));
        let shown = ways.map(async |(bytes, name)| {
            let (file, content) = disposition_of(&app, name, declared, bytes).await;
            let shown = content.header("content-disposition");
            assert!(shown.starts_with("attachment;"), "{declared:?} {name}: {shown} {}", file["contentType"]);
        });
        join_all(shown).await;
    }
}

#[tokio::test]
async fn only_the_safe_list_is_shown_inline_and_download_1_overrules_it() {
    let app = TestApp::start().await;
    let unknown = b"\x01\x02\x03\x04".as_slice();
    for (declared, is_inline) in [
        ("image/png", true),
        ("image/jpeg", true),
        ("image/gif", true),
        ("image/webp", true),
        ("video/mp4", true),
        ("video/webm", true),
        ("audio/ogg", true),
        ("text/plain", true),
        ("text/plain; charset=utf-8", true),
        ("image/bmp", false),
        ("text/csv", false),
        ("application/json", false),
        ("application/octet-stream", false),
        ("image/png, text/html", false),
        ("nonsense", false),
    ] {
        let (file, content) = disposition_of(&app, "a", declared, unknown).await;
        let kind = content.header("content-disposition").split(';').next().unwrap().to_owned();
        assert_eq!(kind, if is_inline { "inline" } else { "attachment" }, "{declared}");
        let download = send(app.get(&format!("{}?download=1", content_path(&file)))).await;
        assert!(download.header("content-disposition").starts_with("attachment;"));
        for bad in ["download=0", "download=", "download=1&download=1", "inline=1"] {
            send(app.get(&format!("{}?{bad}", content_path(&file)))).await.refused(400, "bad_request");
        }
    }
    let (file, content) = disposition_of(&app, "a", "image/svg+xml,image/png", unknown).await;
    assert_eq!(content.header("content-type"), "application/octet-stream", "an invalid type is none: {file}");
}

#[tokio::test]
async fn any_name_is_one_safe_line_in_the_header() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    for bad in ["a\r\nSet-Cookie: x=1.txt", "a\0b", "a\u{1b}b", "a\u{9f}", "", " "] {
        assert_eq!(patch(&app, &file, &json!({ "name": bad })).await.refused(400, "bad_request")["field"], "name");
    }
    for (name, plain) in [
        ("a\"b.txt", "a_b.txt"),
        ("a\\b.txt", "a_b.txt"),
        ("a;b.txt", "a_b.txt"),
        ("a\"; filename=\"evil.exe", "a__ filename__evil.exe"),
        ("grüße.txt", "gr__e.txt"),
        ("a\u{202e}txt.exe", "atxt.exe"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("%41.txt", "_41.txt"),
        ("plain name.txt", "plain name.txt"),
    ] {
        assert_eq!(patch(&app, &file, &json!({ "name": name })).await.expect(200)["name"], name);
        let raw = app.get(&content_path(&file)).send().await.unwrap();
        let value = raw.headers()["content-disposition"].as_bytes();
        assert!(value.iter().all(|byte| (0x20..0x7f).contains(byte)), "{name:?}: {value:?}");
        let value = std::str::from_utf8(value).unwrap();
        assert_eq!(value.matches("filename=").count(), 1, "{value}");
        assert!(value.matches("filename*=UTF-8''").count() <= 1, "{value}");
        assert!(value.starts_with(&format!("inline; filename=\"{plain}\"")), "{value}");
        assert_eq!(raw.headers().get("set-cookie"), None);
    }
}

#[tokio::test]
async fn caches_keep_only_what_is_public() {
    let app = TestApp::start().await;
    for (access, caching) in [("private", "private"), ("internal", "private"), ("public", "public")] {
        let file = app.put(&format!("access={access}"), "text/plain", "x").await;
        let reply = send(app.get(&content_path(&file))).await;
        assert!(reply.header("cache-control").split(", ").any(|word| word == caching), "{access}");
        assert_eq!(reply.header("cache-control").contains("public"), access == "public");
        assert!(reply.header("cache-control").contains("no-cache"), "a copy is asked about before it is used");
        assert_eq!(send(app.get(&path(&file))).await.header("cache-control"), "no-store");
    }
}

// ---- ids and paths

#[tokio::test]
async fn an_id_of_another_form_is_400_and_an_unknown_one_404_on_every_method() {
    let app = TestApp::start().await;
    for (id, status, code) in [
        ("not-an-id", 400, "invalid_id"),
        ("0123456789abcdef0123456", 400, "invalid_id"),
        ("0123456789abcdef012345678", 400, "invalid_id"),
        ("0123456789ABCDEF01234567", 400, "invalid_id"),
        ("0123456789abcdef0123456g", 400, "invalid_id"),
        ("%3Cscript%3E", 400, "invalid_id"),
        ("..%2F..%2Fetc", 400, "invalid_id"),
        ("%00", 400, "invalid_id"),
        ("0123456789abcdef01234567", 404, "file_not_found"),
    ] {
        for (method, path) in [
            ("GET", format!("/v1/files/{id}")),
            ("GET", format!("/v1/files/{id}/content")),
            ("PATCH", format!("/v1/files/{id}")),
            ("DELETE", format!("/v1/files/{id}")),
        ] {
            let request = app.request(method, &path).header("content-type", "application/json").body("{}");
            let reply = send(request).await;
            reply.refused(status, code);
            assert!(!String::from_utf8_lossy(&reply.body).contains("script"), "nothing is echoed");
        }
    }
    for unknown in ["/", "/v1", "/v1/files/", "/v1/files/a/b/c", "/v2/files", "/files", "/v1/files//content"] {
        let reply = send(app.get(unknown)).await;
        assert!([404, 400].contains(&reply.status), "{unknown}: {}", reply.status);
    }
    send(app.get("/v1/nothing")).await.refused(404, "route_not_found");
}

#[tokio::test]
async fn a_method_a_path_does_not_have_is_405_and_overrides_are_ignored() {
    let app = TestApp::start().await;
    let file = app.put("", "text/plain", "x").await;
    for (method, path) in [
        ("PUT", "/v1/files".to_owned()),
        ("DELETE", "/v1/files".to_owned()),
        ("TRACE", "/v1/files".to_owned()),
        ("BREW", "/v1/files".to_owned()),
        ("POST", path(&file)),
        ("PUT", path(&file)),
        ("DELETE", content_path(&file)),
        ("POST", content_path(&file)),
        ("POST", "/livez".to_owned()),
    ] {
        let reply = send(app.request(method, &path)).await;
        reply.refused(405, "method_not_allowed");
        assert!(reply.header("allow").contains("GET"), "{method} {path}: {}", reply.header("allow"));
    }
    let overridden =
        app.get(&path(&file)).header("x-http-method-override", "DELETE").header("x-method-override", "DELETE");
    send(overridden).await.expect(200);
    send(app.get(&path(&file))).await.expect(200);
}

// ---- changes

#[tokio::test]
async fn a_merge_patch_sets_replaces_and_removes() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt&description=d&tags=x&category=c&folder=/f", "text/plain", "x").await;
    let seeded = patch(&app, &file, &json!({ "custom": { "a": 1, "b": { "c": 2, "d": 3 } } })).await.expect(200);
    assert_eq!(seeded["custom"], json!({ "a": 1, "b": { "c": 2, "d": 3 } }));
    for (change, pointer, expected) in [
        (json!({}), "/name", json!("a.txt")),
        (json!({ "name": "b.txt" }), "/name", json!("b.txt")),
        (json!({ "description": "e\nf" }), "/description", json!("e\nf")),
        (json!({ "description": null }), "/description", json!(null)),
        (json!({ "tags": ["y", "z", "y"] }), "/tags", json!(["y", "z"])),
        (json!({ "tags": null }), "/tags", json!([])),
        (json!({ "category": "k" }), "/category", json!("k")),
        (json!({ "category": null }), "/category", json!(null)),
        (json!({ "folder": "/g/h" }), "/folder", json!("/g/h")),
        (json!({ "folder": null }), "/folder", json!("/")),
        (json!({ "access": "public" }), "/access", json!("public")),
        (json!({ "custom": { "a": null, "e": "f" } }), "/custom", json!({ "b": { "c": 2, "d": 3 }, "e": "f" })),
        (json!({ "custom": { "b": { "c": null } } }), "/custom", json!({ "b": { "d": 3 }, "e": "f" })),
        (json!({ "custom": { "b": [1] } }), "/custom", json!({ "b": [1], "e": "f" })),
        (json!({ "custom": null }), "/custom", json!({})),
        (json!({ "retention": { "days": 7 } }), "/retention/days", json!(7)),
        (
            json!({ "retention": { "expiresAt": "2099-01-01T00:00:00Z" } }),
            "/retention",
            json!({ "days": null, "expiresAt": "2099-01-01T00:00:00.000Z", "legalHold": false }),
        ),
        (json!({ "retention": null }), "/retention", json!(null)),
        (json!({ "legalHold": true }), "/retention/legalHold", json!(true)),
        (json!({ "legalHold": false }), "/retention", json!(null)),
    ] {
        let before = send(app.get(&path(&file))).await.expect(200);
        let after = patch(&app, &file, &change).await.expect(200);
        assert_eq!(after.pointer(pointer), Some(&expected), "{change}");
        assert_eq!(send(app.get(&path(&file))).await.expect(200), after);
        let touched = change.as_object().unwrap().keys().next().cloned().unwrap_or_default();
        for (member, value) in before.as_object().unwrap() {
            if *member != touched && !["updatedAt", "retention"].contains(&member.as_str()) {
                assert_eq!(after[member], *value, "{change} changes {member}");
            }
        }
    }
}

#[tokio::test]
async fn a_patch_that_is_none_is_refused_and_changes_nothing() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt&tags=x", "text/plain", "x").await;
    let many: Vec<String> = (0..65).map(|i| i.to_string()).collect();
    for (change, field) in [
        (json!({ "size": 1 }), "size"),
        (json!({ "tenant": "other" }), "tenant"),
        (json!({ "$set": { "tenant": "other" } }), "$set"),
        (json!({ "name": null }), "name"),
        (json!({ "name": 1 }), "name"),
        (json!({ "name": "ok", "size": 1 }), "size"),
        (json!({ "description": [] }), "description"),
        (json!({ "tags": "x" }), "tags"),
        (json!({ "tags": [1] }), "tags"),
        (json!({ "tags": [null] }), "tags"),
        (json!({ "tags": [{}] }), "tags"),
        (json!({ "tags": ["a,b"] }), "tags"),
        (json!({ "tags": many }), "tags"),
        (json!({ "tags": { "$ne": null } }), "tags"),
        (json!({ "category": { "$gt": "" } }), "category"),
        (json!({ "folder": "a" }), "folder"),
        (json!({ "access": null }), "access"),
        (json!({ "access": "all" }), "access"),
        (json!({ "custom": [] }), "custom"),
        (json!({ "custom": "x" }), "custom"),
        (json!({ "custom": { "a": { "b": { "c": { "d": {} } } } } }), "custom"),
        (json!({ "retention": 7 }), "retention"),
        (json!({ "retention": {} }), "retention"),
        (json!({ "retention": { "days": 0 } }), "retention.days"),
        (json!({ "retention": { "days": "7" } }), "retention.days"),
        (json!({ "retention": { "days": 1.5 } }), "retention.days"),
        (json!({ "retention": { "days": i64::MAX } }), "retention.days"),
        (json!({ "retention": { "days": u64::MAX } }), "retention.days"),
        (json!({ "retention": { "expiresAt": "2020-01-01T00:00:00Z" } }), "retention.expiresAt"),
        (json!({ "retention": { "expiresAt": 4_102_444_800_u64 } }), "retention.expiresAt"),
        (json!({ "retention": { "days": 1, "expiresAt": "2099-01-01T00:00:00Z" } }), "retention"),
        (json!({ "retention": { "days": 1, "legalHold": true } }), "retention"),
        (json!({ "legalHold": null }), "legalHold"),
        (json!({ "legalHold": 1 }), "legalHold"),
    ] {
        let problem = patch(&app, &file, &change).await.refused(400, "bad_request");
        assert_eq!(problem["field"], field, "{change}: {problem}");
    }
    for body in
        ["", "[]", "null", "\"x\"", "{", "{}{}", "{\"name\":\"a\",\"name\":\"b\"}", "{\"custom\":{\"a\":1,\"a\":2}}"]
    {
        let request = app.request("PATCH", &path(&file)).header("content-type", "application/json").body(body);
        send(request).await.refused(400, "bad_request");
    }
    let numbers: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    let keys: serde_json::Map<_, _> = numbers.iter().map(|number| (number.clone(), json!(1))).collect();
    for big in [json!({ "description": "x".repeat(70_000) }), json!({ "tags": numbers }), json!({ "custom": keys })] {
        patch(&app, &file, &big).await.refused(413, "too_large");
    }
    for content_type in ["text/plain", "application/json-patch+json", "multipart/form-data; boundary=x"] {
        let request = app.request("PATCH", &path(&file)).header("content-type", content_type).body("{}");
        send(request).await.refused(415, "unsupported_media_type");
    }
    let request = app.request("PATCH", &format!("{}?name=b", path(&file))).header("content-type", "application/json");
    assert_eq!(send(request.body("{}")).await.refused(400, "bad_request")["field"], "name");
    assert_eq!(send(app.get(&path(&file))).await.expect(200), file, "nothing has changed");
}

#[tokio::test]
async fn concurrent_patches_lose_nothing() {
    let app = TestApp::start().await;
    let file = app.put("", "text/plain", "x").await;
    let (app_ref, file_ref) = (&app, &file);
    let change = async |change: Value| {
        // 503 says that nothing was changed and that trying again makes sense.
        for _ in 0..20 {
            let reply = patch(app_ref, file_ref, &change).await;
            if reply.status != 503 {
                reply.expect(200);
                return;
            }
        }
        panic!("{change} never got through");
    };
    let members = (0..16).map(|i| {
        let mut custom = serde_json::Map::new();
        custom.insert(format!("k{i}"), json!(i));
        change(json!({ "custom": custom }))
    });
    let others =
        [json!({ "name": "b" }), json!({ "tags": ["t"] }), json!({ "category": "c" }), json!({ "folder": "/f" })];
    tokio::join!(join_all(members), join_all(others.into_iter().map(change)));
    let after = send(app.get(&path(&file))).await.expect(200);
    assert_eq!(after["custom"].as_object().unwrap().len(), 16, "{after}");
    assert_eq!((&after["name"], &after["tags"][0]), (&json!("b"), &json!("t")));
    assert_eq!((&after["category"], &after["folder"]), (&json!("c"), &json!("/f")));
}

// ---- ends

#[tokio::test]
async fn a_deleted_file_is_gone_on_every_path_and_a_second_delete_is_404() {
    let app = TestApp::start().await;
    let file = app.put("", "text/plain", "x").await;
    assert_eq!(send(app.request("DELETE", &format!("{}?force=1", path(&file)))).await.status, 400);
    let reply = send(app.request("DELETE", &path(&file))).await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    assert_gone(&app, &file).await;
    assert_eq!(count_files(&app).await, 0);
}

async fn assert_gone(app: &TestApp, file: &Value) {
    let content = content_path(file);
    for (method, path) in [
        ("GET", path(file)),
        ("HEAD", path(file)),
        ("GET", content.clone()),
        ("HEAD", content.clone()),
        ("DELETE", path(file)),
    ] {
        let reply = send(app.request(method, &path)).await;
        assert_eq!(reply.status, 404, "{method} {path}");
        if method != "HEAD" {
            reply.refused(404, "file_not_found");
        }
    }
    send(app.get(&content).header("range", "bytes=0-0")).await.refused(404, "file_not_found");
    send(app.get(&content).header("if-none-match", "*")).await.refused(404, "file_not_found");
    patch(app, file, &json!({ "retention": null })).await.refused(404, "file_not_found");
}

#[tokio::test]
async fn a_file_under_legal_hold_is_neither_deleted_nor_expired() {
    let app = TestApp::start().await;
    let file = app.put("retentionDays=1", "text/plain", "x").await;
    let held = patch(&app, &file, &json!({ "legalHold": true })).await.expect(200);
    assert_eq!((&held["retention"]["legalHold"], &held["retention"]["days"]), (&json!(true), &json!(1)));
    send(app.request("DELETE", &path(&file))).await.refused(409, "held");
    patch(&app, &file, &json!({ "retention": null })).await.refused(409, "held");
    patch(&app, &file, &json!({ "name": "b" })).await.expect(200);
    app.clock.advance(Duration::from_secs(2 * 86_400));
    assert_eq!(app.content(&file).await, b"x", "a hold outlives the retention");
    assert_eq!(count_files(&app).await, 1);
    patch(&app, &file, &json!({ "legalHold": false })).await;
    assert_gone(&app, &file).await;
}

#[tokio::test]
async fn a_file_ends_at_the_exact_instant_on_every_path() {
    let app = TestApp::start().await;
    let file = app.put("retentionDays=1", "text/plain", "x").await;
    let forever = app.put("", "text/plain", "y").await;
    let end = file["retention"]["expiresAt"].as_str().unwrap();
    let format = &time::format_description::well_known::Rfc3339;
    let end: SystemTime = time::OffsetDateTime::parse(end, format).unwrap().into();
    let left = end.duration_since(app.clock.now()).unwrap();
    app.clock.advance(left - Duration::from_millis(400));
    let mut seen = (0, 0);
    while seen.1 < 8 {
        for request in [
            app.get(&path(&file)),
            app.request("HEAD", &path(&file)),
            app.get(&content_path(&file)),
            app.get(&content_path(&file)).header("range", "bytes=0-0"),
        ] {
            let before = app.clock.now();
            let status = send(request).await.status;
            let after = app.clock.now();
            match status {
                200 | 206 => {
                    assert!(before < end, "it was there after its end");
                    seen.0 += 1;
                }
                404 => {
                    assert!(after >= end, "it was gone before its end");
                    seen.1 += 1;
                }
                other => panic!("{other}"),
            }
        }
        let before = app.clock.now();
        let list = send(app.get("/v1/files")).await.expect(200);
        let after = app.clock.now();
        match list["total"].as_u64().unwrap() {
            2 => assert!(before < end && list["items"].as_array().unwrap().len() == 2),
            1 => assert!(after >= end && list["items"][0]["id"] == forever["id"]),
            other => panic!("{other} files"),
        }
    }
    assert!(seen.0 > 0 && seen.1 > 0, "both sides of the instant were looked at: {seen:?}");
    assert_gone(&app, &file).await;
}
