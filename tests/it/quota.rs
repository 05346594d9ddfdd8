//! Quotas: exactly what fits gets in, whatever races; what is given back can be used again; and the
//! counters are what a recount gives.

use std::time::Duration;

use futures::{StreamExt, stream};
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use gridgate::store::usage::UsageSums;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, noise};
use crate::support::requests::{Form, Reply, send};

const TYPE: &str = "application/octet-stream";

async fn limit(app: &TestApp, limits: Value) -> Value {
    let set = send(app.request("PUT", "/v1/admin/quotas/default").json(&limits)).await.expect(200);
    // What a gateway believed about limits a moment ago.
    tokio::time::sleep(Duration::from_secs(1)).await;
    set
}

async fn usage(app: &TestApp) -> Value {
    send(app.get("/v1/admin/quotas/default")).await.expect(200)
}

/// Used bytes and files, reserved bytes and open uploads.
async fn figures(app: &TestApp) -> [i64; 4] {
    let usage = usage(app).await;
    ["usedBytes", "usedFiles", "reservedBytes", "openUploads"].map(|member| usage[member].as_i64().unwrap())
}

async fn upload(app: &TestApp, len: usize, seed: u64) -> Reply {
    send(app.request("POST", "/v1/files?name=a").header("content-type", TYPE).body(noise(len, seed))).await
}

async fn assert_counted(app: &TestApp) {
    let off = app.app.files.store.measure_usage("default").await.unwrap();
    assert_eq!(off, UsageSums::default(), "the counters are what a recount gives");
}

async fn delete(app: &TestApp, file: &Value) {
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(send(app.request("DELETE", &path)).await.status, 204);
}

#[tokio::test]
async fn exactly_full_fits_and_one_byte_more_does_not() {
    let app = TestApp::start().await;
    assert_eq!(limit(&app, json!({ "maxBytes": 1000 })).await["maxBytes"], 1000);
    let file = upload(&app, 999, 1).await.expect(201);
    let refused = upload(&app, 2, 2).await.refused(413, "quota_exceeded");
    assert_eq!((&refused["limitBytes"], &refused["retryable"]), (&json!(1000), &json!(false)));
    upload(&app, 1, 3).await.expect(201);
    upload(&app, 1, 4).await.refused(413, "quota_exceeded");
    upload(&app, 0, 5).await.expect(201);
    assert_eq!(figures(&app).await, [1000, 3, 0, 0]);
    delete(&app, &file).await;
    upload(&app, 999, 6).await.expect(201);
    assert_eq!(send(app.get("/v1/files")).await.expect(200)["total"], 3);
    assert_counted(&app).await;
    let blobs = app.mongo().await.collection::<Document>("blobs");
    assert_eq!(blobs.count_documents(doc! { "state": "pending" }).await.unwrap(), 0);
}

#[tokio::test]
async fn of_fifty_uploads_exactly_the_five_that_fit_get_in() {
    let app = TestApp::start().await;
    let other = TestApp::start_on(app.database.clone(), |_| {}).await;
    for (round, limits, len) in [
        (1, json!({ "maxBytes": 5 * 3000 }), 3000),
        (2, json!({ "maxFiles": 5 }), 100),
        (3, json!({ "maxBytes": 5 * 1_200_000 }), 1_200_000),
    ] {
        limit(&app, limits).await;
        let uploads = (0..50).map(|i| upload(if i % 2 == 0 { &app } else { &other }, len, round * 100 + i));
        let replies: Vec<Reply> = stream::iter(uploads).buffer_unordered(50).collect().await;
        let (stored, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
        assert_eq!((stored.len(), refused.len()), (5, 45), "round {round}");
        refused.iter().for_each(|reply| drop(reply.refused(413, "quota_exceeded")));
        assert_eq!(figures(&app).await, [5 * len as i64, 5, 0, 0]);
        assert_counted(&app).await;
        for reply in stored {
            delete(&other, &reply.json()).await;
        }
    }
    assert_eq!(figures(&app).await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn an_upload_of_unknown_length_is_cut_where_the_quota_ends() {
    let app = TestApp::start().await;
    limit(&app, json!({ "maxBytes": 20 << 20 })).await;
    let body = |mib: u64| {
        reqwest::Body::wrap_stream(stream::iter((0..mib).map(|i| Ok::<_, std::io::Error>(noise(1 << 20, i)))))
    };
    let endless = app.request("POST", "/v1/files?name=a").header("content-type", TYPE).body(body(10_000));
    send(endless).await.refused(413, "quota_exceeded");
    let form = Form::new().field("name", "a").file("a.bin", TYPE, &noise(21 << 20, 7));
    send(form.request(&app, "")).await.refused(413, "quota_exceeded");
    assert_eq!(figures(&app).await, [0, 0, 0, 0], "what was refused is given back");
    send(app.request("POST", "/v1/files?name=a").body(body(20))).await.expect(201);
    assert_eq!(figures(&app).await, [20 << 20, 1, 0, 0]);
    sweep(&app.app.files).await.unwrap();
    assert_counted(&app).await;
}

#[tokio::test]
async fn every_way_a_file_goes_gives_its_room_back() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    limit(&app, json!({ "maxBytes": 10_000, "maxFiles": 100 })).await;
    let twice = app.put("name=a", TYPE, noise(1000, 1)).await;
    let again = app.put("name=b&retentionDays=1", TYPE, noise(1000, 1)).await;
    assert_eq!(again["deduplicated"], true);
    assert_eq!(figures(&app).await, [2000, 2, 0, 0], "what is stored once is charged for each file");
    let repeat = || app.request("POST", "/v1/files?name=c").header("idempotency-key", "k").body(noise(500, 2));
    send(repeat()).await.expect(201);
    send(repeat()).await.expect(201);
    assert_eq!(figures(&app).await, [2500, 3, 0, 0]);
    limit(&app, json!({ "maxFiles": 3 })).await;
    let again = send(repeat()).await.expect(201);
    assert_eq!(again["name"], "c", "a repeated request needs no room");
    let other = app.request("POST", "/v1/files?name=c").header("idempotency-key", "k").body(noise(500, 3));
    send(other).await.refused(422, "idempotency_conflict");
    limit(&app, json!({ "maxBytes": 10_000, "maxFiles": 100 })).await;
    let wrong =
        app.request("POST", "/v1/files?name=d").header("repr-digest", format!("sha-256=:{}:", "A".repeat(43) + "="));
    assert_eq!(send(wrong.body("x")).await.status, 422);
    assert_eq!(figures(&app).await, [2500, 3, 0, 0]);
    delete(&app, &twice).await;
    app.clock.advance(Duration::from_secs(86_401));
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 1);
    assert_eq!(figures(&app).await, [500, 1, 0, 0]);
    assert_counted(&app).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_gives_its_room_back() {
    let app = TestApp::start_with(|settings| settings.storage.lease_secs = 1).await;
    limit(&app, json!({ "maxOpenUploads": 1 })).await;
    let (mut tell, hear) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(16);
    let running = app.request("POST", "/v1/files?name=a").body(reqwest::Body::wrap_stream(hear));
    let running = tokio::spawn(running.send());
    futures::SinkExt::send(&mut tell, Ok(noise(1 << 20, 1))).await.unwrap();
    while figures(&app).await[3] != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(figures(&app).await[3], 1, "a hold is renewed while its upload runs");
    upload(&app, 1, 2).await.refused(413, "quota_exceeded");
    futures::SinkExt::send(&mut tell, Err(std::io::Error::other("cut"))).await.unwrap();
    drop(running.await.unwrap());
    for _ in 0..100 {
        if figures(&app).await[3] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    upload(&app, 1, 3).await.expect(201);
    // As a gateway leaves it that is killed: nobody renews the hold.
    app.app.files.fold_usage().await.unwrap();
    let store = &app.app.files.store;
    assert!(store.take_hold("default", gridgate::store::new_id(), 77, Duration::from_secs(1)).await.unwrap());
    upload(&app, 1, 4).await.refused(413, "quota_exceeded");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    app.app.files.fold_usage().await.unwrap();
    assert_eq!(figures(&app).await, [1, 1, 0, 0]);
    upload(&app, 1, 5).await.expect(201);
}

#[tokio::test]
async fn a_hold_that_ran_out_is_taken_anew_or_the_upload_is_refused() {
    let app = TestApp::start().await;
    limit(&app, json!({ "maxBytes": 3 << 20 })).await;
    for (others, status) in [(0, 201), (2 << 20, 413)] {
        let (mut tell, hear) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(16);
        let running = app.request("POST", "/v1/files?name=a").body(reqwest::Body::wrap_stream(hear));
        let running = tokio::spawn(running.send());
        futures::SinkExt::send(&mut tell, Ok(noise(1 << 20, 1 + others as u64))).await.unwrap();
        while figures(&app).await[3] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let usage = app.mongo().await.collection::<Document>("usage");
        usage.update_one(doc! {}, doc! { "$set": { "holds": [] } }).await.unwrap();
        if others > 0 {
            upload(&app, others, 9).await.expect(201);
        }
        drop(tell);
        assert_eq!(running.await.unwrap().unwrap().status().as_u16(), status);
    }
    assert_eq!(figures(&app).await, [3 << 20, 2, 0, 0]);
    assert_counted(&app).await;
}

#[tokio::test]
async fn a_quota_is_the_administrators_to_set_and_leaves_an_audit_entry() {
    let app = TestApp::start().await;
    let writer = key(&app, "writer", "default", &["files:read", "files:write"], None).await;
    for method in ["GET", "PUT"] {
        let request = app.anonymous(method, "/v1/admin/quotas/default").bearer_auth(&writer).json(&json!({}));
        send(request).await.refused(403, "forbidden");
    }
    for (bad, field) in [
        (json!({ "maxBytes": -1 }), "maxBytes"),
        (json!({ "maxBytes": "1" }), "maxBytes"),
        (json!({ "maxFiles": 1.5 }), "maxFiles"),
        (json!({ "max": 1 }), "max"),
        (json!([1]), "body"),
    ] {
        let reply = send(app.request("PUT", "/v1/admin/quotas/default").json(&bad)).await;
        assert_eq!(reply.refused(400, "bad_request")["field"], field, "{bad}");
    }
    let none = usage(&app).await;
    assert_eq!((&none["maxBytes"], &none["usedFiles"]), (&Value::Null, &json!(0)));
    upload(&app, 100, 1).await.expect(201);
    limit(&app, json!({ "maxBytes": 50 })).await;
    upload(&app, 1, 2).await.refused(413, "quota_exceeded");
    assert_eq!(figures(&app).await, [100, 1, 0, 0], "files that are there stay");
    limit(&app, json!({ "maxBytes": null })).await;
    upload(&app, 1000, 3).await.expect(201);
    let audit = app.mongo().await.collection::<Document>("audit");
    assert_eq!(audit.count_documents(doc! { "action": "quota.set" }).await.unwrap(), 2);
    let stranger = key(&app, "stranger", "other", &["files:write"], None).await;
    limit(&app, json!({ "maxFiles": 0 })).await;
    let theirs = app.anonymous("POST", "/v1/files?name=a").bearer_auth(&stranger).body("x");
    send(theirs).await.expect(201);
}

#[tokio::test]
async fn counters_that_are_off_are_corrected() {
    let app = TestApp::start_with(|settings| settings.storage.sweep_interval_secs = 1).await;
    for i in 0..3 {
        upload(&app, 100, i).await.expect(201);
    }
    // As the server's TTL index does it: without an entry.
    app.mongo().await.collection::<Document>("file_registry").delete_one(doc! {}).await.unwrap();
    assert_eq!(figures(&app).await, [300, 3, 0, 0]);
    upload(&app, 100, 9).await.expect(201);
    let checked = fsck(&app.app.files).await.unwrap().usage;
    assert_eq!((checked[0].tenant.as_str(), checked[0].bytes, checked[0].files), ("default", 100, 1));
    app.app.files.recount_usage().await.unwrap();
    assert!(fsck(&app.app.files).await.unwrap().usage.is_empty());
    assert_eq!(figures(&app).await, [300, 3, 0, 0]);
    assert_counted(&app).await;
}
