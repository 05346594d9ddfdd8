//! Presigned URLs: what they allow, what becomes of them when anything is changed, and how they end.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, content_path, noise};
use crate::support::requests::{Reply, send};

const CLIENT_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A URL that reads a file, as it follows the gateway's own.
async fn url_of(app: &TestApp, file: &Value, said: Value) -> String {
    let path = format!("/v1/files/{}/presign", file["id"].as_str().unwrap());
    path_of(app, send(app.request("POST", &path).json(&said)).await.expect(200))
}

async fn upload_url(app: &TestApp, said: Value) -> String {
    path_of(app, send(app.request("POST", "/v1/presign").json(&said)).await.expect(200))
}

fn path_of(app: &TestApp, made: Value) -> String {
    made["url"].as_str().unwrap().strip_prefix(&app.url).unwrap().to_owned()
}

async fn get(app: &TestApp, path: &str) -> Reply {
    send(app.anonymous("GET", path)).await
}

#[tokio::test]
async fn a_url_reads_one_file_and_nothing_else() {
    let app = TestApp::start().await;
    let bytes = noise(300_000, 1);
    let file = app.put("name=a.bin", "application/octet-stream", bytes.clone()).await;
    let other = app.put("name=b.bin", "application/octet-stream", "other").await;
    let url = url_of(&app, &file, json!({ "method": "GET", "expiresIn": 60 })).await;
    let whole = get(&app, &url).await;
    assert_eq!((whole.status, whole.body == bytes), (200, true));
    assert_eq!(whole.header("cache-control"), "private, no-cache");
    let range = send(app.anonymous("GET", &url).header("range", "bytes=270000-270009")).await;
    assert_eq!((range.status, &range.body[..]), (206, &bytes[270_000..270_010]));
    let head = send(app.anonymous("HEAD", &url)).await;
    assert_eq!((head.status, head.header("content-length")), (200, "300000"));
    let not_modified = send(app.anonymous("GET", &url).header("if-none-match", whole.header("etag"))).await;
    assert_eq!(not_modified.status, 304);

    let query = url.split_once('?').unwrap().1;
    get(&app, &format!("{}?{query}", content_path(&other))).await.refused(403, "link_invalid");
    for path in [format!("/v1/files/{}", file["id"].as_str().unwrap()), "/v1/files".to_owned()] {
        get(&app, &format!("{path}?{query}")).await.refused(401, "unauthenticated");
    }
    send(app.anonymous("POST", &format!("/v1/files?{query}")).body("x")).await.refused(403, "link_invalid");
    let with_key = send(app.get(&url)).await;
    with_key.refused(400, "bad_header");
    send(app.request("DELETE", &format!("/v1/files/{}", file["id"].as_str().unwrap()))).await;
    get(&app, &url).await.refused(404, "file_not_found");
}

#[tokio::test]
async fn whatever_is_changed_the_signature_fits_no_more() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "secret").await;
    let url = url_of(&app, &file, json!({ "download": true, "filename": "b ü.txt" })).await;
    let (path, query) = url.split_once('?').unwrap();
    let pairs: Vec<(&str, &str)> = query.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    let names: Vec<_> = pairs.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["download", "filename", "tenant", "keyId", "expires", "signature"]);
    let joined = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{path}?{}", pairs.join("&"))
    };
    let reply = get(&app, &joined(&pairs)).await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"secret"[..]));
    assert_eq!(
        reply.header("content-disposition"),
        "attachment; filename=\"b _.txt\"; filename*=UTF-8''b%20%C3%BC.txt"
    );

    let mut turned = pairs.clone();
    turned.reverse();
    assert_eq!(get(&app, &joined(&turned)).await.status, 200, "in another order");
    let coded = url.replace("filename=b%20%C3%BC.txt", "filename=b+%c3%bc%2etxt");
    assert_ne!(coded, url);
    assert_eq!(get(&app, &coded).await.status, 200, "encoded otherwise");

    for n in 0..pairs.len() {
        let name = pairs[n].0;
        let mut without = pairs.clone();
        without.remove(n);
        let reply = get(&app, &joined(&without)).await;
        assert!([400, 403].contains(&reply.status), "without {name}: {}", reply.status);
        let mut twice = pairs.clone();
        twice.push(pairs[n]);
        get(&app, &joined(&twice)).await.refused(400, "bad_request");
        let changed = match name {
            "keyId" => "2".to_owned(),
            "expires" => "9999999999".to_owned(),
            "download" => "0".to_owned(),
            "signature" => {
                pairs[n].1.replacen(&pairs[n].1[..1], if pairs[n].1.starts_with('A') { "B" } else { "A" }, 1)
            }
            _ => format!("{}x", pairs[n].1),
        };
        let mut other = pairs.clone();
        other[n].1 = &changed;
        get(&app, &joined(&other)).await.refused(403, "link_invalid");
    }
    for more in ["version=1", "throttle=1", "owner=x", "w=10", "x"] {
        get(&app, &format!("{url}&{more}")).await.refused(403, "link_invalid");
    }
    for (name, bad) in [
        ("keyId", "x"),
        ("keyId", "-1"),
        ("keyId", ""),
        ("keyId", "99999999999999999999999"),
        ("expires", "soon"),
        ("signature", "short"),
        ("signature", "%00"),
        ("tenant", ""),
    ] {
        let mut bad_pairs = pairs.clone();
        bad_pairs.iter_mut().filter(|(of, _)| *of == name).for_each(|pair| pair.1 = bad);
        get(&app, &joined(&bad_pairs)).await.refused(400, "bad_request");
    }
    for method in ["PATCH", "DELETE", "PUT"] {
        assert!([401, 405].contains(&send(app.anonymous(method, &url)).await.status));
    }
}

#[tokio::test]
async fn a_url_ends_at_its_time_by_the_gateways_clock() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let url = url_of(&app, &file, json!({ "expiresIn": 604_800 })).await;
    let short = url_of(&app, &file, json!({ "expiresIn": 1 })).await;
    app.clock.advance(Duration::from_secs(3));
    get(&app, &short).await.refused(410, "link_expired");
    app.clock.advance(Duration::from_secs(604_789));
    assert_eq!(get(&app, &url).await.status, 200);
    app.clock.advance(Duration::from_secs(9));
    get(&app, &url).await.refused(410, "link_expired");
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_refused() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let path = format!("/v1/files/{}/presign", file["id"].as_str().unwrap());
    for said in [
        json!({ "expiresIn": 0 }),
        json!({ "expiresIn": -1 }),
        json!({ "expiresIn": 604_801 }),
        json!({ "expiresIn": 691_200 }),
        json!({ "expiresIn": "60" }),
        json!({ "expiresIn": 1.5 }),
        json!({ "expiresIn": u64::MAX }),
        json!({ "method": "DELETE" }),
        json!({ "method": "POST" }),
        json!({ "download": "1" }),
        json!({ "filename": "" }),
        json!({ "filename": "a\r\nSet-Cookie: x=1" }),
        json!({ "tenant": "other" }),
    ] {
        send(app.request("POST", &path).json(&said)).await.refused(400, "bad_request");
    }
    for said in [
        json!({ "method": "GET" }),
        json!({ "maxSize": -1 }),
        json!({ "maxSize": "1" }),
        json!({ "contentType": "text" }),
        json!({ "name": "" }),
        json!({ "folder": "../x" }),
        json!({ "access": "public" }),
        json!({ "owner": "admin" }),
    ] {
        send(app.request("POST", "/v1/presign").json(&said)).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn only_who_may_hand_files_out_makes_urls() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt&access=private", "text/plain", "x").await;
    let path = format!("/v1/files/{}/presign", file["id"].as_str().unwrap());
    let reader = key(&app, "reader", "default", &["files:read", "files:write"], None).await;
    let sharer = key(&app, "sharer", "default", &["shares:write"], None).await;
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;
    let post = |path: &str, key: &str| app.anonymous("POST", path).bearer_auth(key).json(&json!({}));
    send(post(&path, &reader)).await.refused(403, "forbidden");
    send(post(&path, &sharer)).await.refused(404, "file_not_found");
    send(post(&path, &stranger)).await.refused(404, "file_not_found");
    send(post("/v1/presign", &reader)).await.refused(403, "forbidden");
    send(post("/v1/presign", &sharer)).await.refused(403, "forbidden");
    send(post("/v1/presign/revoke", &sharer)).await.refused(403, "forbidden");
    let shared = app.put("name=a.txt&access=internal", "text/plain", "x").await;
    send(post(&format!("/v1/files/{}/presign", shared["id"].as_str().unwrap()), &sharer)).await.expect(200);
}

#[tokio::test]
async fn urls_are_revoked_together_and_keys_change_without_that() {
    let app = TestApp::start().await;
    let other = TestApp::start_on(app.database.clone(), |_| {}).await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let first = url_of(&app, &file, json!({})).await;
    assert_eq!(get(&other, &first).await.status, 200);
    let changed = send(app.request("POST", "/v1/presign/rotate")).await.expect(200);
    assert_eq!(changed, json!({ "keyId": "2", "oldestKeyId": "1" }));
    let second = url_of(&app, &file, json!({})).await;
    assert!(second.contains("keyId=2&"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for gateway in [&app, &other] {
        assert_eq!((get(gateway, &first).await.status, get(gateway, &second).await.status), (200, 200));
    }
    let revoked = send(app.request("POST", "/v1/presign/revoke")).await.expect(200);
    assert_eq!(revoked, json!({ "keyId": "3", "oldestKeyId": "3" }));
    let third = url_of(&app, &file, json!({})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for gateway in [&app, &other] {
        get(gateway, &first).await.refused(410, "link_revoked");
        get(gateway, &second).await.refused(410, "link_revoked");
        assert_eq!(get(gateway, &third).await.status, 200);
    }
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;
    send(app.anonymous("POST", "/v1/presign/revoke").bearer_auth(&stranger)).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(get(&app, &third).await.status, 200, "of another tenant");
    let audit = app.mongo().await.collection::<Document>("audit");
    for (action, entries) in [("presign.download", 3), ("presign.rotate", 1), ("presign.revoke", 2)] {
        assert_eq!(audit.count_documents(doc! { "action": action }).await.unwrap(), entries, "{action}");
    }
    other.leave();
}

#[tokio::test]
async fn a_url_makes_files_on_its_terms_for_who_handed_it_out() {
    let app = TestApp::start().await;
    let said =
        json!({ "method": "POST", "name": "in.png", "contentType": "image/png", "maxSize": 1000, "folder": "/in" });
    let url = upload_url(&app, said).await;
    let png = [&b"\x89PNG\r\n\x1a\n"[..], &noise(500, 1)].concat();
    let told = send(app.anonymous("POST", &url).body(png.clone())).await.expect(201);
    let members: Vec<_> = told.as_object().unwrap().keys().collect();
    assert_eq!(members, ["contentType", "createdAt", "id", "name", "sha256", "size"], "and nothing of how it is kept");
    let file = send(app.get(&format!("/v1/files/{}", told["id"].as_str().unwrap()))).await.expect(200);
    assert_eq!(
        (&file["name"], &file["folder"], &file["contentType"]),
        (&json!("in.png"), &json!("/in"), &json!("image/png"))
    );
    assert_eq!(
        (&file["owner"], &file["access"], &file["tenant"]),
        (&json!("admin"), &json!("private"), &json!("default"))
    );
    assert_eq!(app.content(&file).await, png);
    let audit = app.mongo().await.collection::<Document>("audit");
    let entry = audit.find_one(doc! { "action": "file.put" }).await.unwrap().unwrap();
    assert!(entry.get_str("actor").unwrap().starts_with("presigned:"));
    assert_eq!(entry.get_document("details").unwrap().get_str("owner").unwrap(), "admin");

    let post = |body: Vec<u8>| app.anonymous("POST", &url).body(body);
    send(post([&png[..], &noise(600, 2)].concat())).await.refused(413, "too_large");
    let chunked = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(
        [&png[..], &noise(600, 2)].concat(),
    )]));
    send(app.anonymous("POST", &url).body(chunked)).await.refused(413, "too_large");
    send(post(b"<html><script>alert(1)</script></html>".to_vec()).header("content-type", "text/html"))
        .await
        .refused(415, "kind_not_accepted");
    send(post(b"GIF89a and so on".to_vec())).await.refused(415, "kind_not_accepted");
    send(app.anonymous("POST", &format!("{url}&access=public")).body(png.clone())).await.refused(403, "link_invalid");
    let form = |fields: &str| {
        let body = [
            fields.as_bytes(),
            b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.png\"\r\n\r\n",
            &png,
            b"\r\n--b--\r\n",
        ];
        app.anonymous("POST", &url).header("content-type", "multipart/form-data; boundary=b").body(body.concat())
    };
    let by_form = send(form("")).await.expect(201);
    assert_eq!(by_form["name"], "in.png");
    let locked = app.anonymous("POST", &url).header("gridgate-encryption-key", CLIENT_KEY).body(png.clone());
    send(locked).await.refused(400, "bad_header");
    let field = "--b\r\nContent-Disposition: form-data; name=\"access\"\r\n\r\npublic\r\n";
    send(form(field)).await.refused(400, "bad_request");
    let once = || app.anonymous("POST", &url).header("idempotency-key", "k").body(png.clone());
    let first = send(once()).await.expect(201);
    assert_eq!(send(once()).await.expect(201)["id"], first["id"]);
    assert_eq!(send(app.get("/v1/files")).await.expect(200)["total"], 3);
    get(&app, &url).await.refused(401, "unauthenticated");
}
