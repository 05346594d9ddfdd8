//! When files end and why: retention by file and by bucket, legal hold, and the answer to "what will
//! be deleted when".

use std::time::{Duration, Instant};

use gridgate::jobs::fsck;
use gridgate::jobs::progress::Progress;
use gridgate::jobs::sweep::{Sweeper, sweep};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::app::{TestApp, all_buckets, content_path, noise};
use crate::support::own_mongod::OwnMongod;
use crate::support::requests::{Form, query, send};
use crate::support::store::chunk;

const DAY: Duration = Duration::from_secs(86_400);

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

async fn explain(app: &TestApp, pairs: &[(&str, &str)]) -> Value {
    send(app.get(&format!("/v1/admin/retention/explain?{}", query(pairs)))).await.expect(200)
}

async fn by_bucket() -> TestApp {
    TestApp::start_with(|settings| {
        all_buckets(settings);
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
}

/// The TTL index passes over any other type for ever, and takes an array's oldest date.
#[tokio::test]
async fn every_way_to_set_an_end_stores_dates_or_nothing() {
    let app = by_bucket().await;
    let registry = app.mongo().await.collection::<Document>("file_registry");
    let later = "2099-01-01T00:00:00.5+01:00";
    let of = |option: &str| format!("name=a&{option}");
    let mut files = Vec::new();
    for option in ["", "retentionDays=3", &format!("expiresAt={}", later.replace('+', "%2B"))] {
        for content_type in ["text/plain", "image/png"] {
            files.push(app.put(&of(option), content_type, "x").await);
            files.push(app.put(&of(option), content_type, "the same").await);
            let form = Form::new().field("tags", "t").file("a", content_type, b"y");
            files.push(send(form.request(&app, option)).await.expect(201));
            for _ in 0..2 {
                let request = app.request("POST", &format!("/v1/files?{option}")).header("content-type", content_type);
                let key = format!("{content_type}{option}");
                files.push(send(request.header("idempotency-key", key).body("z")).await.expect(201));
            }
        }
    }
    let grid = doc! { "_id": 7, "length": 1, "chunkSize": 1024, "expireAt": "soon", "metadata": { "expireAt": 1 } };
    app.mongo().await.collection("old.files").insert_one(grid).await.unwrap();
    let stored = chunk(&7.into(), 0, b"a");
    app.mongo().await.collection("old.chunks").insert_one(stored).await.unwrap();
    assert_eq!(app.app.files.adopt("old", "default").await.unwrap().adopted, 1);
    let changes = [
        json!({ "retention": { "days": 36_500 } }),
        json!({ "retention": { "expiresAt": later } }),
        json!({ "name": "b" }),
        json!({ "legalHold": true }),
        json!({ "legalHold": false, "retention": { "days": 1 } }),
        json!({ "retention": null }),
    ];
    let dates = doc! { "$type": "date" };
    let is_end = doc! { "expireAt": dates.clone(), "purgeAt": dates };
    let is_none = doc! { "expireAt": { "$exists": false }, "purgeAt": { "$exists": false } };
    // `$type` looks into arrays.
    let is_array = |field: &str| doc! { "$expr": { "$isArray": [format!("${field}")] } };
    let odd = doc! { "$or": [
        { "$nor": [is_end.clone(), is_none.clone()] },
        is_array("expireAt"),
        is_array("purgeAt"),
    ] };
    let count = async |filter: &Document| registry.count_documents(filter.clone()).await.unwrap();
    assert!(count(&is_end).await >= 12 && count(&is_none).await >= 5, "files of both kinds");
    assert_eq!(count(&odd).await, 0, "after the uploads");
    for change in changes {
        for file in &files {
            send(app.request("PATCH", &path(file)).json(&change)).await.expect(200);
        }
        assert_eq!(count(&odd).await, 0, "{change}");
    }
}

#[tokio::test]
async fn a_hold_keeps_the_bytes_from_whatever_removes_files() {
    let app = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let bytes = noise(600_000, 3);
    let twin = app.put("name=twin", "application/x-noise", bytes.clone()).await;
    let held = app.put("name=held&retentionDays=1", "application/x-noise", bytes.clone()).await;
    assert_eq!(held["deduplicated"], true);
    send(app.request("PATCH", &path(&held)).json(&json!({ "legalHold": true }))).await.expect(200);
    assert_eq!(send(app.request("DELETE", &path(&twin))).await.status, 204);
    app.clock.advance(DAY * 1000);
    for change in [json!({ "retention": null }), json!({ "retention": { "days": 1 } })] {
        send(app.request("PATCH", &path(&held)).json(&change)).await.refused(409, "held");
    }
    send(app.request("DELETE", &path(&held))).await.refused(409, "held");
    for _ in 0..2 {
        let report = sweep(&app.app.files).await.unwrap();
        assert_eq!((report.expired, report.reaped), (0, 0), "{report:?}");
    }
    let report = fsck::run(&app.app.files, fsck::Mode::Repair, &Progress::default()).await.unwrap();
    assert!(report.ok, "{report:?}");
    sweep(&app.app.files).await.unwrap();
    assert!(app.content(&held).await == bytes);
    let gone = send(app.request("PATCH", &path(&held)).json(&json!({ "legalHold": false }))).await;
    assert!(gone.status == 404 || gone.status == 200, "{}", gone.status);
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 1, "it ends with its hold");
}

/// The server's own broom, which no gateway's check stands before.
#[tokio::test]
async fn the_servers_ttl_takes_what_has_ended_and_nothing_that_is_held() {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "ttl".to_owned(), |_| {}).await;
    let registry = app.mongo().await.collection::<Document>("file_registry");
    let ended = async |name: &str, change: Document| {
        let file = app.put(&format!("name={name}&retentionDays=1"), "text/plain", name.to_owned()).await;
        let id = mongodb::bson::oid::ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
        if !change.is_empty() {
            registry.update_one(doc! { "file": id }, change).await.unwrap();
        }
        let past = DateTime::from_millis(1_000_000_000_000);
        registry.update_one(doc! { "file": id }, doc! { "$set": { "expireAt": past, "purgeAt": past } }).await.unwrap();
        id
    };
    let set = |hold: Bson| doc! { "$set": { "retention.legalHold": hold } };
    let kept = [
        ended("held", set(true.into())).await,
        ended("text", set("false".into())).await,
        ended("number", set(0.into())).await,
        ended("null", set(Bson::Null)).await,
        ended("absent", doc! { "$unset": { "retention.legalHold": "" } }).await,
        ended("nothing", doc! { "$unset": { "retention": "" } }).await,
    ];
    // What is planted after the first is gone is gone after a whole pass that saw all others.
    for name in ["first", "second"] {
        let id = ended(name, doc! {}).await;
        let begun = Instant::now();
        while registry.count_documents(doc! { "file": id }).await.unwrap() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "the TTL index takes nothing");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for id in kept {
        assert_eq!(registry.count_documents(doc! { "file": id }).await.unwrap(), 1, "a held file was removed");
    }
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
