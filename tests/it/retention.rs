//! When files end and why: retention by file and by bucket, legal hold, and the answer to "what will
//! be deleted when".

use std::time::Duration;

use gridgate::jobs::sweep::{Sweeper, sweep};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::app::{TestApp, content_path};
use crate::support::requests::{query, send};

const DAY: Duration = Duration::from_secs(86_400);

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

async fn explain(app: &TestApp, pairs: &[(&str, &str)]) -> Value {
    send(app.get(&format!("/v1/admin/retention/explain?{}", query(pairs)))).await.expect(200)
}

async fn by_bucket() -> TestApp {
    TestApp::start_with(|settings| {
        settings.storage.quarantine_secs = 60;
        settings.buckets.get_mut("documents").unwrap().retention_days = 10;
    })
    .await
}

#[tokio::test]
async fn the_bucket_decides_where_the_upload_says_nothing() {
    let app = by_bucket().await;
    let said = app.put("name=said&retentionDays=2", "text/plain", "a").await;
    let unsaid = app.put("name=unsaid", "text/plain", "b").await;
    let elsewhere = app.put("name=elsewhere", "image/png", "c").await;
    assert_eq!(said["retention"]["days"], 2);
    assert_eq!(unsaid["retention"]["days"], 10);
    assert_eq!(elsewhere["retention"], Value::Null);
    let kept = app.put("name=kept", "text/plain", "d").await;
    send(app.request("PATCH", &path(&kept)).json(&json!({ "retention": null }))).await.expect(200);
    app.clock.advance(DAY * 3);
    sweep(&app.app.files).await.unwrap();
    send(app.get(&path(&said))).await.refused(404, "file_not_found");
    app.clock.advance(DAY * 8);
    send(app.get(&content_path(&unsaid))).await.refused(404, "file_not_found");
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 1);
    for file in [&elsewhere, &kept] {
        send(app.get(&path(file))).await.expect(200);
    }
}

#[tokio::test]
async fn the_explanation_names_the_rule_and_the_times() {
    let app = by_bucket().await;
    let unsaid = app.put("name=unsaid", "text/plain", "shared").await;
    let twin = app.put("name=twin&expiresAt=2099-01-01T00:00:00Z", "text/plain", "shared").await;
    let forever = app.put("name=forever", "image/png", "c").await;
    let of = async |file: &Value| explain(&app, &[("file", file["id"].as_str().unwrap())]).await;
    let explained = of(&unsaid).await;
    assert_eq!(
        (&explained["rule"], &explained["days"], &explained["sharedWith"]),
        (&json!("bucket"), &json!(10), &json!(1))
    );
    assert_eq!(explained["expiresAt"], unsaid["retention"]["expiresAt"]);
    assert_eq!(explained["bytesRemovedAt"], Value::Null, "the twin keeps them");
    assert_eq!(of(&twin).await["rule"], "file");
    let explained = of(&forever).await;
    assert_eq!((&explained["rule"], &explained["expiresAt"]), (&json!("none"), &Value::Null));
    send(app.request("PATCH", &path(&unsaid)).json(&json!({ "legalHold": true }))).await.expect(200);
    let explained = of(&unsaid).await;
    assert_eq!((&explained["rule"], &explained["expiresAt"]), (&json!("legalHold"), &Value::Null));
    assert_eq!(send(app.request("DELETE", &path(&twin))).await.status, 204);
    send(app.request("PATCH", &path(&unsaid)).json(&json!({ "legalHold": false }))).await.expect(200);
    let explained = of(&unsaid).await;
    assert!(explained["bytesRemovedAt"].as_str().unwrap() > explained["expiresAt"].as_str().unwrap());
    assert!(explained["purgedAt"].as_str().unwrap() > explained["expiresAt"].as_str().unwrap());
}

#[tokio::test]
async fn the_preview_is_what_a_sweep_then_does() {
    let app = TestApp::start().await;
    for days in [5, 1, 3, 40] {
        app.put(&format!("name=d{days}&retentionDays={days}"), "text/plain", "x".repeat(days)).await;
    }
    app.put("name=forever", "text/plain", "y").await;
    let held = app.put("name=held&retentionDays=2", "text/plain", "z").await;
    send(app.request("PATCH", &path(&held)).json(&json!({ "legalHold": true }))).await.expect(200);
    let until = time::OffsetDateTime::now_utc() + DAY * 10;
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let preview = explain(&app, &[("until", until.as_str()), ("limit", "2")]).await;
    assert_eq!((&preview["count"], &preview["bytes"]), (&json!(3), &json!(9)));
    let names: Vec<_> =
        preview["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["d1", "d3"], "soonest first");
    assert_eq!(send(app.get("/v1/files")).await.expect(200)["total"], 6, "nothing was deleted");
    app.clock.advance(DAY * 10);
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 3);
    for bad in ["", "file=x", "until=tomorrow", "until=2099-01-01T00:00:00Z&file=0123456789abcdef01234567", "limit=0"] {
        assert_eq!(send(app.get(&format!("/v1/admin/retention/explain?{bad}"))).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_hold_that_cannot_be_read_is_a_hold() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let registry = app.mongo().await.collection::<Document>("file_registry");
    for hold in [Bson::String("no".into()), Bson::Int32(0), Bson::Null, Bson::Undefined] {
        let file = app.put("name=a&retentionDays=1", "text/plain", format!("{hold}")).await;
        let id = mongodb::bson::oid::ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
        let change = match hold {
            Bson::Undefined => doc! { "$unset": { "retention.legalHold": "" } },
            ref hold => doc! { "$set": { "retention.legalHold": hold.clone() } },
        };
        registry.update_one(doc! { "_id": id }, change).await.unwrap();
        send(app.request("DELETE", &path(&file))).await.refused(409, "held");
        // As if the file had expired an hour ago, for every way to remove it.
        let past = DateTime::from_millis(DateTime::now().timestamp_millis() - 3_600_000);
        registry.update_one(doc! { "_id": id }, doc! { "$set": { "expireAt": past, "purgeAt": past } }).await.unwrap();
        assert_eq!(sweep(&app.app.files).await.unwrap().expired, 0);
        assert_eq!(registry.count_documents(doc! { "_id": id }).await.unwrap(), 1, "{hold}");
    }
    let indexes = registry.list_indexes().await.unwrap();
    let indexes: Vec<mongodb::IndexModel> = futures::TryStreamExt::try_collect(indexes).await.unwrap();
    let ttl: Vec<_> =
        indexes.iter().filter_map(|index| index.options.as_ref()).filter(|o| o.expire_after.is_some()).collect();
    assert_eq!(ttl.len(), 1);
    assert_eq!(
        ttl[0].partial_filter_expression,
        Some(doc! { "retention.legalHold": false }),
        "the server's TTL sees no such file"
    );
}

#[tokio::test]
async fn one_gateway_sweeps_and_another_takes_over_when_it_dies() {
    let short = |settings: &mut gridgate::config::Settings| {
        settings.storage.lease_secs = 1;
        settings.storage.quarantine_secs = 0;
    };
    let app = TestApp::start_with(short).await;
    let other = TestApp::start_on(app.database.clone(), short).await;
    let dead = gridgate::store::new_id();
    assert!(app.app.files.store.hold("sweep", dead, Duration::from_secs(1)).await.unwrap());
    let mut sweeper = Sweeper::default();
    assert_eq!(sweeper.sweep(&other.app.files).await.unwrap(), None, "another holds the lease");
    let file = app.put("name=a", "text/plain", "x").await;
    assert_eq!(send(app.request("DELETE", &path(&file))).await.status, 204);
    assert_eq!(sweep(&other.app.files).await.unwrap().reaped, 1, "it takes over once the lease has run out");
    assert_eq!(sweeper.sweep(&app.app.files).await.unwrap().map(|report| report.reaped), Some(0), "and gives it back");
}
