//! The lives of files beside each other: on two gateways, for two tenants, while they are read and swept.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, content_path, noise};
use crate::support::requests::{Reply, send};

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
        let alices = upload(crate::support::app::ADMIN_KEY).await;
        let bobs = upload(&bob).await;
        assert_eq!(shape(&alices), shape(&bobs), "{len}");
        assert_eq!(bobs.json()["deduplicated"], false);
        assert_eq!(send(app.request("DELETE", &path(&alices.json()))).await.status, 204);
        let theirs = app.anonymous("GET", &content_path(&bobs.json())).bearer_auth(&bob);
        assert!(send(theirs).await.body == noise(len, 1), "it lives on without the other's");
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
