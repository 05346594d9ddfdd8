//! The lives of files beside each other: on two gateways, for two tenants, while they are read and swept.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{ADMIN_KEY, TestApp, content_path, noise};
use crate::support::requests::{Reply, send};
use crate::support::wire::Wire;

const TYPE: &str = "application/octet-stream";

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

async fn gateways(quarantine_secs: u64) -> [TestApp; 2] {
    let first = TestApp::start_with(|settings| settings.storage.quarantine_secs = quarantine_secs).await;
    let second =
        TestApp::start_on(first.database.clone(), |settings| settings.storage.quarantine_secs = quarantine_secs).await;
    [first, second]
}

async fn audit_entries(app: &TestApp, action: &str) -> u64 {
    app.mongo().await.collection::<Document>("audit").count_documents(doc! { "action": action }).await.unwrap()
}

/// An answer without what differs between any two uploads.
fn shape(reply: &Reply) -> (u16, BTreeMap<String, String>, Value) {
    let headers = reply.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let mut headers: BTreeMap<_, _> = headers.collect();
    // Its members name the tenant and the principal.
    headers.remove("content-length");
    for name in ["date", "x-request-id", "etag", "location"] {
        assert!(headers.remove(name).is_some(), "{name}");
    }
    let mut body = reply.json();
    for member in ["id", "etag", "tenant", "owner", "createdAt", "updatedAt", "links"] {
        assert!(body.as_object_mut().unwrap().remove(member).is_some(), "{member}");
    }
    (reply.status, headers, body)
}

#[tokio::test]
async fn another_tenants_upload_of_equal_content_is_answered_as_if_it_were_the_first() {
    let app = TestApp::start().await;
    let bob = key(&app, "bob", "other", &["files:read", "files:write"], None).await;
    for len in [100, 3 << 20] {
        let upload = async |token: &str| {
            let request = app.anonymous("POST", "/v1/files?name=a").bearer_auth(token).header("content-type", TYPE);
            send(request.body(noise(len, 1))).await
        };
        let alices = upload(ADMIN_KEY).await;
        let bobs = upload(&bob).await;
        assert_eq!(shape(&alices), shape(&bobs), "{len}");
        assert_eq!(bobs.json()["deduplicated"], false);
        assert_eq!(send(app.request("DELETE", &path(&alices.json()))).await.status, 204);
        let theirs = app.anonymous("GET", &content_path(&bobs.json())).bearer_auth(&bob);
        assert!(send(theirs).await.body == noise(len, 1), "it lives on without the other's");
    }
    let usage = async |tenant: &str| {
        let usage = send(app.get(&format!("/v1/admin/quotas/{tenant}"))).await.expect(200);
        (usage["usedBytes"].clone(), usage["usedFiles"].clone())
    };
    let again = app.put("name=a", TYPE, noise(100, 1)).await;
    assert_eq!(again["deduplicated"], false, "what was deleted is not found");
    app.put("name=a", TYPE, noise(3 << 20, 1)).await;
    assert_eq!(usage("default").await, usage("other").await, "the same is charged");
}

/// What the database was asked to do for an upload: act and collection, sorted. Credentials and limits are left
/// out, which are believed for a second, whoever asks.
async fn asked(app: &TestApp, token: &str, bytes: Vec<u8>) -> Vec<String> {
    let db = app.mongo().await;
    db.run_command(doc! { "profile": 2 }).await.unwrap();
    let upload = app.anonymous("POST", "/v1/files?name=a").bearer_auth(token).header("content-type", TYPE);
    send(upload.body(bytes)).await.expect(201);
    db.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = db.collection::<Document>("system.profile");
    let entries: Vec<Document> = profile.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    profile.drop().await.unwrap();
    let mut asked: Vec<String> = entries
        .iter()
        .map(|entry| format!("{} {}", entry.get_str("op").unwrap(), entry.get_str("ns").unwrap()))
        .filter(|what| ![".system.profile", ".api_keys", ".usage"].iter().any(|passing| what.ends_with(passing)))
        .collect();
    asked.sort();
    asked
}

/// A time is the sum of what is done: the same acts are done for content that another tenant has.
#[tokio::test]
async fn another_tenants_content_makes_no_upload_quicker() {
    let app = TestApp::start().await;
    let bob = key(&app, "bob", "other", &["files:read", "files:write"], None).await;
    for len in [100, 3 << 20] {
        let (alices, bobs) = (asked(&app, ADMIN_KEY, noise(len, 3)).await, asked(&app, &bob, noise(len, 3)).await);
        assert_eq!(alices, bobs, "{len}");
        let again = asked(&app, ADMIN_KEY, noise(len, 3)).await;
        assert_ne!(again, alices, "{len}: one's own content does make a difference");
    }
}

#[tokio::test]
async fn an_upload_is_read_to_its_last_byte_whoever_has_its_content() {
    let app = TestApp::start().await;
    let bob = key(&app, "bob", "other", &["files:read", "files:write"], None).await;
    for len in [1000, 3 << 20] {
        let bytes = noise(len, 4);
        app.put("name=a", TYPE, bytes.clone()).await;
        for token in [ADMIN_KEY, &bob] {
            let mut wire = Wire::connect(&app.url).await;
            let head =
                format!("Host: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {TYPE}\r\nContent-Length: {len}");
            wire.send(format!("POST /v1/files?name=b HTTP/1.1\r\n{head}\r\n\r\n")).await;
            wire.send(&bytes[..len - 1]).await;
            let early = tokio::time::timeout(Duration::from_millis(400), wire.head()).await;
            assert!(early.is_err(), "{len}: answered before its last byte: {early:?}");
            wire.send(&bytes[len - 1..]).await;
            assert_eq!(wire.head().await.status, 201, "{len}");
        }
    }
}

#[tokio::test]
async fn what_is_deleted_or_expired_is_gone_on_every_gateway_at_once() {
    let [here, there] = gateways(3600).await;
    let deleted = here.put("name=deleted", TYPE, noise(2 << 20, 1)).await;
    let expired = here.put("name=expired&retentionDays=1", TYPE, noise(2 << 20, 2)).await;
    for file in [&deleted, &expired] {
        assert_eq!(there.content(file).await.len(), 2 << 20);
    }
    assert_eq!(send(here.request("DELETE", &path(&deleted))).await.status, 204);
    there.clock.advance(Duration::from_secs(86_401));
    for file in [&deleted, &expired] {
        for (method, path) in
            [("GET", path(file)), ("GET", content_path(file)), ("HEAD", content_path(file)), ("DELETE", path(file))]
        {
            assert_eq!(send(there.request(method, &path)).await.status, 404, "{method} {path}");
        }
        let range = there.get(&content_path(file)).header("range", "bytes=0-9");
        send(range).await.refused(404, "file_not_found");
        let patch = there.request("PATCH", &path(file)).json(&json!({ "name": "b" }));
        send(patch).await.refused(404, "file_not_found");
    }
    assert_eq!(send(there.get("/v1/files")).await.expect(200)["total"], 0);
}

#[tokio::test]
async fn a_download_outlives_its_file_within_the_quarantine_and_is_cut_after_it() {
    const LEN: usize = 48 << 20;
    for (quarantine_secs, is_whole) in [(3600, true), (0, false)] {
        for form in ["encrypt=false", "encrypt=true"] {
            let [here, there] = gateways(quarantine_secs).await;
            let bytes = noise(LEN, 3);
            let file = here.put(&format!("name=a&retentionDays=1&{form}"), TYPE, bytes.clone()).await;
            let response = here.get(&content_path(&file)).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
            let mut pieces = response.bytes_stream();
            let mut received = pieces.next().await.unwrap().unwrap().to_vec();
            there.clock.advance(Duration::from_secs(86_401));
            let report = sweep(&there.app.files).await.unwrap();
            assert_eq!((report.expired, report.reaped), (1, u64::from(!is_whole)), "{report:?}");
            let mut ended_well = true;
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => received.extend_from_slice(&piece),
                    Err(_) => ended_well = false,
                }
            }
            assert!(bytes.starts_with(&received), "{form}: a true prefix");
            assert_eq!((ended_well, received.len() == LEN), (is_whole, is_whole), "{form}: {} bytes", received.len());
        }
    }
}

#[tokio::test]
async fn sweeps_at_once_do_everything_once() {
    let [here, there] = gateways(0).await;
    for i in 0..60 {
        here.put("name=a&retentionDays=1", TYPE, noise(100 + i % 20, i as u64 % 20)).await;
    }
    for gateway in [&here, &there] {
        gateway.clock.advance(Duration::from_secs(86_401));
    }
    let sweeps = (0..6).map(|i| sweep(if i % 2 == 0 { &here.app.files } else { &there.app.files }));
    let expired: u64 = futures::future::join_all(sweeps).await.into_iter().map(|report| report.unwrap().expired).sum();
    assert_eq!((expired, audit_entries(&here, "file.expire").await), (60, 60));
    sweep(&here.app.files).await.unwrap();
    let left = here.mongo().await;
    for collection in ["blobs", "segments", "files.files", "files.chunks"] {
        assert_eq!(left.collection::<Document>(collection).count_documents(doc! {}).await.unwrap(), 0, "{collection}");
    }
    assert!(fsck(&here.app.files).await.unwrap().ok);
}

#[tokio::test]
async fn every_change_leaves_one_audit_entry_and_a_refused_one_none() {
    let app = TestApp::start().await;
    let first = app.put("name=a", TYPE, "x").await;
    let second = app.put("name=b", TYPE, "x").await;
    assert_eq!(second["deduplicated"], true);
    for change in [json!({ "name": "c" }), json!({ "legalHold": true })] {
        send(app.request("PATCH", &path(&first)).json(&change)).await.expect(200);
    }
    send(app.request("DELETE", &path(&first))).await.refused(409, "held");
    send(app.request("PATCH", &path(&first)).json(&json!({ "name": 1 }))).await.refused(400, "bad_request");
    send(app.request("POST", "/v1/files?name=d&tags=%00").body("x")).await.refused(400, "bad_request");
    assert_eq!(send(app.request("DELETE", &path(&second))).await.status, 204);
    for (action, count) in [("file.put", 2), ("file.edit", 2), ("file.delete", 1)] {
        assert_eq!(audit_entries(&app, action).await, count, "{action}");
    }
    let entries = app.mongo().await.collection::<Document>("audit");
    assert_eq!(entries.count_documents(doc! {}).await.unwrap(), 5);
    let whole =
        doc! { "at": { "$type": "date" }, "tenant": "default", "actor": "admin", "requestId": { "$type": "string" } };
    assert_eq!(entries.count_documents(whole).await.unwrap(), 5, "who, when, in which request");
}
