//! Keys of clients: content that only the client's key opens, and that the gateway forgets it.

use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::content::EncryptionPolicy;
use gridgate::format::digest::Sha256Digest;
use gridgate::http::serve::Peer;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::rekey::rekey;
use gridgate::store::segments::binary;
use gridgate::store::{Document, Id, doc};
use gridgate::{app, http};
use mongodb::Database;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::app::{ADMIN_KEY, TestApp, content_path, noise, settings_for};
use crate::support::mongod;
use crate::support::requests::{Form, Reply, count_files, send};
use crate::support::rows::Rows;
use crate::support::scan::find_bytes;

const HEADER: &str = "Gridgate-Encryption-Key";
const DIGEST: &str = "Gridgate-Encryption-Key-SHA256";

fn key_bytes(seed: u64) -> Vec<u8> {
    noise(32, seed)
}

fn key(seed: u64) -> String {
    STANDARD.encode(key_bytes(seed))
}

fn digest_of_key(seed: u64) -> String {
    STANDARD.encode(Sha256Digest::of(&key_bytes(seed)).0)
}

fn repr_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256Digest::of(bytes).0))
}

fn upload(app: &TestApp, query: &str, bytes: &[u8]) -> RequestBuilder {
    let request = app.request("POST", &format!("/v1/files?{query}")).header("content-type", "application/x-noise");
    request.body(bytes.to_vec())
}

async fn put(app: &TestApp, query: &str, seed: u64, bytes: &[u8]) -> Value {
    send(upload(app, query, bytes).header(HEADER, key(seed))).await.expect(201)
}

async fn get(app: &TestApp, file: &Value, seed: u64) -> Reply {
    send(app.get(&content_path(file)).header(HEADER, key(seed))).await
}

/// Text that zstd makes smaller.
fn text(len: usize) -> Vec<u8> {
    noise(len / 2 + 1, 5).iter().flat_map(|b| [b'a' + (b >> 4), b'a' + (b & 15)]).take(len).collect()
}

#[tokio::test]
async fn only_its_key_opens_the_content_in_whatever_way_it_is_asked_for() {
    let app = TestApp::start().await;
    for (query, bytes) in [
        ("name=a&encrypt=customer&compress=none", noise(700_000, 1)),
        ("name=b&compress=zstd", text(900_000)),
        ("name=c&compress=gzip", text(300_000)),
        ("name=d", Vec::new()),
    ] {
        let file = put(&app, query, 1, &bytes).await;
        let path = content_path(&file);
        let whole = send(app.get(&path).header(HEADER, key(1)).header(DIGEST, digest_of_key(1))).await;
        assert!(whole.status == 200 && whole.body == bytes, "{query}: {}", whole.status);
        assert_eq!(whole.header("repr-digest"), repr_digest(&bytes));
        let head = send(app.request("HEAD", &path).header(HEADER, key(1))).await;
        assert_eq!((head.status, head.header("content-length")), (200, bytes.len().to_string().as_str()));
        if query.contains("zstd") {
            let stored = send(app.get(&path).header(HEADER, key(1)).header("accept-encoding", "zstd")).await;
            assert_eq!(stored.header("content-encoding"), "zstd");
            assert!(zstd::stream::decode_all(&stored.body[..]).unwrap() == bytes, "the stored frames");
        }
        if !bytes.is_empty() {
            let range = send(app.get(&path).header(HEADER, key(1)).header("range", "bytes=100000-200000")).await;
            assert!(range.status == 206 && range.body == bytes[100_000..=200_000]);
        }
        for method in ["GET", "HEAD"] {
            for (name, value) in [
                ("x-nothing", "1"),
                ("range", "bytes=0-9"),
                ("range", "bytes=0-9,20-29"),
                ("range", "bytes=99999999-"),
                ("if-none-match", "*"),
                ("if-match", "\"other\""),
                ("accept-encoding", "zstd, gzip"),
            ] {
                let ask = || app.request(method, &path).header(name, value);
                for (request, status, code) in
                    [(ask(), 400, "key_required"), (ask().header(HEADER, key(2)), 403, "key_mismatch")]
                {
                    let reply = send(request).await;
                    assert_eq!(reply.status, status, "{query} {method} {name}");
                    assert!(reply.header("repr-digest").is_empty());
                    if method == "GET" {
                        reply.refused(status, code);
                    }
                }
            }
        }
    }
    assert!(fsck(&app.app.files).await.unwrap().ok, "what cannot be opened is no fault");
}

#[tokio::test]
async fn a_key_that_nothing_needs_or_that_is_malformed_is_refused() {
    let app = TestApp::start().await;
    for query in ["name=m&encrypt=true", "name=p&encrypt=false"] {
        let file = app.put(query, "application/x-noise", noise(10, 1)).await;
        for method in ["GET", "HEAD"] {
            let request = app.request(method, &content_path(&file)).header(HEADER, key(1));
            assert_eq!(send(request).await.status, 400, "{method} {query}");
        }
        assert_eq!(get(&app, &file, 1).await.refused(400, "bad_header")["field"], HEADER);
        let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
        assert_eq!(send(app.request("DELETE", &path)).await.status, 204);
    }
    let before = app.mongo().await.collection::<Document>("audit").count_documents(doc! {}).await.unwrap();
    let file = |query: &str| upload(&app, query, b"x");
    let long = STANDARD.encode([7; 33]);
    for request in [
        file("").header(HEADER, "not base64"),
        file("").header(HEADER, ""),
        file("").header(HEADER, &long),
        file("").header(HEADER, &long[..40]),
        file("").header(HEADER, key(1)).header(HEADER, key(1)),
        file("").header(HEADER, key(1)).header(DIGEST, digest_of_key(2)),
        file("").header(HEADER, key(1)).header(DIGEST, "?"),
        file("").header(HEADER, key(1)).header(DIGEST, ""),
        file("").header(DIGEST, digest_of_key(1)),
    ] {
        let problem = send(request).await.refused(400, "bad_header");
        assert!(problem["field"].as_str().unwrap().starts_with(HEADER), "{problem}");
        assert!(!problem.to_string().contains(&key(1)) && !problem.to_string().contains(&long), "{problem}");
    }
    for wish in ["true", "false"] {
        let refused = send(file(&format!("encrypt={wish}")).header(HEADER, key(1))).await;
        assert_eq!(refused.refused(400, "bad_request")["field"], "encrypt");
    }
    send(file("encrypt=customer")).await.refused(400, "key_required");
    let form = Form::new().field("encrypt", "customer").file("a", "text/plain", b"x").request(&app, "");
    send(form).await.refused(400, "key_required");
    let after = app.mongo().await.collection::<Document>("audit").count_documents(doc! {}).await.unwrap();
    assert_eq!(before, after, "nothing was stored");
}

#[tokio::test]
async fn the_file_shows_whose_key_it_is_and_neither_key_nor_digest_is_kept() {
    let app = TestApp::start_with(|settings| {
        settings.buckets.values_mut().for_each(|bucket| bucket.encryption = EncryptionPolicy::Required);
    })
    .await;
    let bytes = noise(5_000, 9);
    let file = put(&app, "name=a", 1, &bytes).await;
    let form = Form::new().field("encrypt", "customer").file("a", "text/plain", &bytes).request(&app, "");
    let twin = send(form.header(HEADER, key(1))).await.expect(201);
    for shown in [&file, &twin] {
        assert_eq!(shown["encryption"], json!({ "mode": "customer", "keyId": null }));
        assert_eq!((&shown["sha256"], &shown["deduplicated"]), (&Value::Null, &json!(false)));
        let known = send(app.get(&format!("/v1/files/{}", shown["id"].as_str().unwrap()))).await.expect(200);
        assert_eq!(known["encryption"], shown["encryption"], "what is known about it needs no key");
        assert_eq!(known["sha256"], Value::Null);
        assert!(get(&app, shown, 1).await.body == bytes);
    }
    let listed = send(app.get("/v1/files")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);

    let db = app.mongo().await;
    let blobs = db.collection::<Document>("blobs");
    let locked = doc! { "scope": { "$regex": "^default/customer/" }, "sha256": { "$exists": false } };
    assert_eq!(blobs.count_documents(locked).await.unwrap(), 2, "stored twice, looked up by nothing");
    let segments = doc! { "enc.mode": "ssec", "enc.kid": "" };
    assert_eq!(Rows::of(&db).count(segments).await, 2);
    let digest = Sha256Digest::of(&bytes);
    let of_key = Sha256Digest::of(&key_bytes(1));
    for (what, needle) in [
        ("the key", key_bytes(1)),
        ("the key in base64", key(1).into_bytes()),
        ("its digest", of_key.0.to_vec()),
        ("its digest in base64", digest_of_key(1).into_bytes()),
        ("the content's digest", digest.0.to_vec()),
        ("the content's digest in hexadecimal", digest.to_string().into_bytes()),
        ("the content", bytes[1000..1032].to_vec()),
    ] {
        assert_eq!(find_bytes(&db, &needle).await, Vec::<String>::new(), "{what} is stored");
    }
    // Even who has the keyring cannot confirm a guess of it.
    let keyed = app.app.files.keys.roots.dedup.mac(&[b"default\0", &digest.0]);
    assert_eq!(find_bytes(&db, &keyed).await, Vec::<String>::new());
    let report = rekey(&app.app.files, |_, _| {}).await.unwrap();
    assert!(report.is_done() && report.already == 6, "only the roots are the keyring's: {report:?}");
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_the_clients_key_too() {
    let app = TestApp::start().await;
    let request = |seed: u64| upload(&app, "name=a", b"x").header(HEADER, key(seed)).header("idempotency-key", "k");
    let first = send(request(1)).await.expect(201);
    assert_eq!(send(request(1)).await.expect(201)["id"], first["id"]);
    send(request(2)).await.refused(422, "idempotency_conflict");
}

async fn row(db: &Database, file: &Value) -> (Document, Document) {
    let id = Id::parse_str(file["id"].as_str().unwrap()).unwrap();
    let registry = db.collection::<Document>("file_registry").find_one(doc! { "file": id }).await.unwrap().unwrap();
    (Rows::of(db).only_of(registry.get_object_id("blob").unwrap()).await, registry)
}

#[tokio::test]
async fn tampered_records_of_content_under_a_clients_key_open_nothing() {
    let app = TestApp::start().await;
    let bytes = noise(100_000, 3);
    let (file, other) = (put(&app, "name=a", 1, &bytes).await, put(&app, "name=b", 1, &noise(100_000, 4)).await);
    let managed = app.put("name=c&encrypt=true", "application/x-noise", bytes.clone()).await;
    let db = app.mongo().await;
    let ((segment, registry), (other_segment, other_registry)) = (row(&db, &file).await, row(&db, &other).await);
    let (managed_segment, rows) = (row(&db, &managed).await.0, Rows::of(&db));
    let enc = |row: &Document| row.get_document("enc").unwrap().clone();
    let content = |row: &Document, field: &str| row.get_document("content").unwrap().get(field).unwrap().clone();
    let changes = [
        ("segments", doc! { "$set": { "enc.mode": "kek" } }),
        ("segments", doc! { "$set": { "enc.mode": "kek", "enc.kid": "test" } }),
        ("segments", doc! { "$set": { "enc": enc(&managed_segment) } }),
        ("segments", doc! { "$set": { "enc": enc(&other_segment) } }),
        ("segments", doc! { "$set": { "enc.v": 2 } }),
        ("segments", doc! { "$set": { "enc.ct": binary([7; 48]) } }),
        ("segments", doc! { "$unset": { "enc": "" } }),
        ("segments", doc! { "$unset": { "enc": "", "salt": "" } }),
        ("segments", doc! { "$unset": { "enc.commit": "" } }),
        ("file_registry", doc! { "$set": { "content.mode": "managed" } }),
        ("file_registry", doc! { "$unset": { "content.mode": "" } }),
        ("file_registry", doc! { "$set": { "content.digest": content(&other_registry, "digest") } }),
        ("file_registry", doc! { "$set": { "content.mac": content(&other_registry, "mac") } }),
        ("file_registry", doc! { "$set": { "content.size": 99_999_i64 } }),
        ("file_registry", doc! { "$set": { "content.digest": binary(Sha256Digest::of(&bytes).0) } }),
    ];
    for (collection, change) in changes {
        let original = if collection == "segments" { &segment } else { &registry };
        let id = doc! { "_id": original.get("_id").unwrap() };
        let documents = db.collection::<Document>(collection);
        let is_changed = match collection {
            "segments" => rows.update_one(id.clone(), change.clone()).await,
            _ => documents.update_one(id.clone(), change.clone()).await.unwrap().modified_count == 1,
        };
        assert!(is_changed, "{change}");
        for (reply, way) in
            [(get(&app, &file, 1).await, "with the key"), (send(app.get(&content_path(&file))).await, "without")]
        {
            // A record of another segment is not told from one of another key.
            assert!(reply.status >= 500 || [400, 403].contains(&reply.status), "{way}: {change}: {}", reply.status);
        }
        match collection {
            "segments" => rows.put_back(original).await,
            _ => drop(documents.replace_one(id, original).await.unwrap()),
        }
    }
    assert!(get(&app, &file, 1).await.body == bytes, "restored");
}

/// A gateway's answer to a request that came from somewhere.
async fn from_peer(
    app: &TestApp,
    allow: bool,
    peer: Option<&str>,
    request: &[(&str, &str)],
    (method, path): (&str, &str),
) -> Value {
    let mut settings = settings_for(mongod::uri(), &app.database);
    settings.server.allow_insecure_customer_keys = allow;
    let router = http::router(app::app_state(app.app.files.clone(), &settings, &app.url));
    let mut head = Request::builder().method(method).uri(path).header("host", "gridgate");
    head = head.header("authorization", format!("Bearer {ADMIN_KEY}"));
    for (name, value) in request {
        head = head.header(*name, *value);
    }
    let mut request = head.body(Body::empty()).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer { address: peer.parse().unwrap(), is_tls: false });
    }
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    json!({ "status": status, "code": problem["code"] })
}

#[tokio::test]
async fn a_key_is_not_taken_over_a_network_without_tls_whatever_a_header_says() {
    let app = TestApp::start().await;
    let bytes = noise(1_000, 3);
    let file = put(&app, "name=a", 1, &bytes).await;
    let path = content_path(&file);
    let (get, post) = (("GET", path.as_str()), ("POST", "/v1/files?name=b"));
    let key = key(1);
    let with_key = [(HEADER, key.as_str())];
    let claims = [(HEADER, key.as_str()), ("x-forwarded-proto", "https"), ("forwarded", "proto=https;for=127.0.0.1")];
    let digest = digest_of_key(1);
    let refused = json!({ "status": 400, "code": "insecure_transport" });
    let taken = json!({ "status": 200, "code": null });
    for peer in [Some("10.0.0.7:1"), Some("[2001:db8::1]:1"), Some("[::ffff:10.0.0.7]:1"), None] {
        for request in [&with_key[..], &claims[..], &[(DIGEST, digest.as_str())], &[(HEADER, "?")]] {
            for target in [get, post] {
                let answer = from_peer(&app, false, peer, request, target).await;
                assert_eq!(answer, refused, "{peer:?} {request:?} {target:?}");
            }
        }
        assert_eq!(count_files(&app).await, 1, "nothing was stored");
        assert_eq!(from_peer(&app, true, peer, &with_key, get).await, taken, "the setting allows it");
        let without = from_peer(&app, false, peer, &[], get).await;
        assert_eq!(without["code"], "key_required", "without a key the connection does not matter");
    }
    for peer in ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(from_peer(&app, false, Some(peer), &with_key, get).await, taken, "{peer}");
    }
}
