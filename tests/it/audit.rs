//! The audit: each change has its entry or is not made, each denied access has its own, entries are only ever
//! added, and a file does not grow with what happens to it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::jobs::fsck::{Mode, run};
use gridgate::jobs::progress::Progress;
use gridgate::jobs::rekey::rekey;
use gridgate::jobs::sweep::sweep;
use gridgate::store::schema::{AUDIT, COLLECTIONS};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, all_buckets, noise};
use crate::support::mongod;
use crate::support::own_mongod::OwnMongod;
use crate::support::requests::send;

/// BadValue: nothing repeats a command that failed with it.
const FAULT: i32 = 2;
/// NetworkTimeout: the driver repeats a command that failed with it.
const TIMED_OUT: i32 = 89;
const EVER: i32 = 1_000_000;
const LARGE: usize = 3 << 20;
const CUSTOMER_KEY: &str = "Gridgate-Encryption-Key";
/// Changes of one file.
fn changes() -> usize {
    std::env::var("GRIDGATE_AUDIT_CHANGES").map_or(300, |changes| changes.parse().unwrap())
}

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

/// The registry and the limits, which every change is one of.
async fn state(db: &Database) -> Vec<Document> {
    let mut found = Vec::new();
    for name in ["file_registry", "usage"] {
        let documents = db.collection::<Document>(name).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
        let documents: Vec<Document> = futures::TryStreamExt::try_collect(documents).await.unwrap();
        found.extend(documents);
    }
    for document in &mut found {
        // Room reserved for uploads is no change, and neither is counting what was changed before.
        for counted in ["holds", "bytes", "files"] {
            document.remove(counted);
        }
    }
    found.retain(|document| document.len() > 1);
    found
}

async fn entries(db: &Database) -> u64 {
    db.collection::<Document>(AUDIT).count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn a_change_whose_entry_cannot_be_written_is_not_made() {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "audited".to_owned(), |settings| {
        settings.database.operation_timeout_secs = 2;
    })
    .await;
    let db = app.mongo().await;
    let file = app.put("name=a", "text/plain", "x").await;
    app.put("name=large", "application/x-noise", noise(LARGE, 1)).await;
    let post = |bytes: Vec<u8>| app.request("POST", "/v1/files?name=b").body(bytes);
    let changes: [(&str, &dyn Fn() -> RequestBuilder); 6] = [
        ("an upload", &|| post(b"y".to_vec())),
        ("a large upload", &|| post(noise(LARGE, 2))),
        ("an upload of known content", &|| post(noise(LARGE, 1))),
        ("an edit", &|| app.request("PATCH", &path(&file)).json(&json!({ "name": "c" }))),
        ("a limit", &|| app.request("PUT", "/v1/admin/quotas/default").json(&json!({ "maxFiles": 70 }))),
        ("a delete", &|| app.request("DELETE", &path(&file))),
    ];
    let unwritable = doc! { "failCommands": ["insert"], "namespace": format!("audited.{AUDIT}"), "errorCode": FAULT };
    for (what, change) in changes {
        let before = (state(&db).await, entries(&db).await);
        own.fail(EVER, unwritable.clone()).await;
        let reply = send(change()).await;
        assert!(reply.status >= 500, "{what}: {}", reply.status);
        own.heal().await;
        assert!((state(&db).await, entries(&db).await) == before, "{what} was made without its entry");
        let reply = send(change()).await;
        assert!(reply.status < 300, "{what}: {}", reply.status);
        assert!(state(&db).await != before.0 && entries(&db).await == before.1 + 1, "{what} and its entry");
    }

    app.put("name=d&retentionDays=1", "text/plain", "z").await;
    app.clock.advance(Duration::from_secs(86_401));
    let before = (state(&db).await, entries(&db).await);
    own.fail(EVER, unwritable).await;
    sweep(&app.app.files).await.unwrap_err();
    own.heal().await;
    assert!((state(&db).await, entries(&db).await) == before, "an expiry was made without its entry");
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 1);
    assert_eq!(entries(&db).await, before.1 + 1);
}

/// What the database user of a gateway needs, and no right to change or remove an audit entry.
fn role(database: &str, collections: &[String]) -> Document {
    let everywhere = [
        "find",
        "insert",
        "createCollection",
        "createIndex",
        "dropIndex",
        "collMod",
        "listCollections",
        "listIndexes",
        "dbStats",
    ];
    let of_all = doc! { "resource": { "db": database, "collection": "" }, "actions": everywhere.to_vec() };
    let of_each = collections.iter().map(|name| {
        doc! { "resource": { "db": database, "collection": name }, "actions": ["update", "remove"] }
    });
    let privileges: Vec<Document> = std::iter::once(of_all).chain(of_each).collect();
    doc! { "createRole": "gridgate", "privileges": privileges, "roles": [] }
}

/// The address of the run's mongod for a user with the role; none where nobody has to say who he is.
async fn limited_user(database: &Database, collections: &[String]) -> Option<String> {
    let (_, rest) = mongod::uri().split_once('@')?;
    let (hosts, options) = rest.split_once("/?")?;
    let kept = options.split('&').filter(|option| !option.starts_with("authSource="));
    let options = kept.chain([format!("authSource={}", database.name()).as_str()]).collect::<Vec<_>>().join("&");
    database.run_command(role(database.name(), collections)).await.unwrap();
    let user = doc! { "createUser": "service", "pwd": "for-tests-only", "roles": ["gridgate"] };
    database.run_command(user).await.unwrap();
    Some(format!("mongodb://service:for-tests-only@{hosts}/?{options}"))
}

#[tokio::test]
async fn a_gateway_that_may_only_append_to_the_audit_does_all_it_has_to() {
    let owner = TestApp::start_with(all_buckets).await;
    let db = owner.mongo().await;
    let ours = COLLECTIONS.iter().map(|(name, _)| (*name).to_owned()).filter(|name| name != AUDIT);
    let buckets = owner.app.files.routing.names();
    let of_buckets = buckets.iter().flat_map(|bucket| [format!("{bucket}.files"), format!("{bucket}.chunks")]);
    let collections: Vec<String> = ours.chain(of_buckets).collect();
    let Some(uri) = limited_user(&db, &collections).await else { return };
    let app = TestApp::start_at(&uri, owner.database.clone(), |settings| {
        (settings.storage.quarantine_secs, settings.storage.lease_secs) = (0, 1);
    })
    .await;

    let file = app.put("name=a", "application/x-noise", noise(LARGE, 1)).await;
    app.put("name=b&retentionDays=1", "application/x-noise", noise(LARGE, 1)).await;
    let small = app.put("name=c", "text/plain", "x").await;
    send(app.request("PATCH", &path(&file)).json(&json!({ "tags": ["t"] }))).await.expect(200);
    send(app.request("PUT", "/v1/admin/quotas/default").json(&json!({ "maxFiles": 70 }))).await.expect(200);
    assert_eq!(send(app.request("DELETE", &path(&small))).await.status, 204);
    app.clock.advance(Duration::from_secs(86_401));
    assert_eq!(sweep(&app.app.files).await.unwrap().expired, 1);
    assert!(rekey(&app.app.files, |_, _| {}).await.unwrap().is_done());
    app.app.files.fold_usage().await.unwrap();
    assert!(run(&app.app.files, Mode::Repair, &Progress::default()).await.unwrap().ok);
    assert!(app.content(&file).await == noise(LARGE, 1));
    assert_eq!(entries(&db).await, 7);

    let audit = Client::with_uri_str(&uri).await.unwrap().database(db.name()).collection::<Document>(AUDIT);
    let changed = audit.update_many(doc! {}, doc! { "$set": { "actor": "nobody" } }).await.map(drop);
    let removed = audit.delete_many(doc! {}).await.map(drop);
    for refused in [changed, removed, audit.drop().await] {
        let refused = refused.expect_err("an entry can be changed").to_string();
        assert!(refused.contains("not authorized"), "{refused}");
    }
    db.run_command(doc! { "dropAllUsersFromDatabase": 1 }).await.unwrap();
    db.run_command(doc! { "dropAllRolesFromDatabase": 1 }).await.unwrap();
}

#[tokio::test]
async fn a_file_does_not_grow_with_what_happens_to_it() {
    let app = TestApp::start().await;
    let file = app.put("name=0", "text/plain", "x").await;
    let db = app.mongo().await;
    let id = ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
    let size = async || {
        let registry = db.collection::<RawDocumentBuf>("file_registry");
        registry.find_one(doc! { "file": id }).await.unwrap().unwrap().as_bytes().len()
    };
    let change = async |number: usize| {
        let patch = app.request("PATCH", &path(&file)).json(&json!({ "name": (number % 10).to_string() }));
        send(patch).await.expect(200);
    };
    change(0).await;
    let before = size().await;
    for number in 1..changes() {
        change(number).await;
        if number % 10 == 0 {
            assert_eq!(app.content(&file).await, b"x");
        }
    }
    assert_eq!(size().await, before, "after {} changes", changes());
    let of_file = doc! { "file": Bson::ObjectId(id), "action": "file.edit" };
    assert_eq!(db.collection::<Document>(AUDIT).count_documents(of_file).await.unwrap(), changes() as u64);
    assert_eq!(send(app.request("DELETE", &path(&file))).await.status, 204);
}

/// Operations beyond a scope, a wrong key of a client, and what is no denied access.
#[tokio::test]
async fn a_denied_access_has_its_entry_and_a_strangers_has_none() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let file = app.put("name=a", "text/plain", "x").await;
    let sealed = app.request("POST", "/v1/files?name=b").header(CUSTOMER_KEY, STANDARD.encode([1; 32])).body("x");
    let sealed = send(sealed).await.expect(201);
    let reader = key(&app, "reader", "acme", &["files:read"], None).await;
    let before = entries(&db).await;

    let content = format!("{}/content", path(&sealed));
    let denied: [(&str, RequestBuilder, Option<&str>, &str, &str); 5] = [
        ("POST /v1/files", app.anonymous("POST", "/v1/files?name=c").body("x"), None, "reader", "forbidden"),
        (
            "PATCH /v1/files/{id}",
            app.anonymous("PATCH", &path(&file)).json(&json!({})),
            file["id"].as_str(),
            "reader",
            "forbidden",
        ),
        ("DELETE /v1/files/{id}", app.anonymous("DELETE", &path(&file)), file["id"].as_str(), "reader", "forbidden"),
        (
            "GET /v1/admin/quotas/{tenant}",
            app.anonymous("GET", "/v1/admin/quotas/acme"),
            Some("acme"),
            "reader",
            "forbidden",
        ),
        (
            "GET /v1/files/{id}/content",
            app.get(&content).header(CUSTOMER_KEY, STANDARD.encode([2; 32])),
            sealed["id"].as_str(),
            "admin",
            "key_mismatch",
        ),
    ];
    for (asked, request, about, actor, code) in denied {
        let request = if actor == "admin" { request } else { request.bearer_auth(&reader) };
        let reply = send(request).await;
        assert_eq!(reply.json()["code"], code, "{asked}");
        let entry = doc! {
            "action": "access.deny",
            "actor": actor,
            "tenant": if actor == "admin" { "default" } else { "acme" },
            "requestId": reply.header("x-request-id"),
            "at": { "$type": "date" },
            "details": { "asked": asked, "named": about, "code": code },
        };
        assert_eq!(db.collection::<Document>(AUDIT).count_documents(entry).await.unwrap(), 1, "{asked}");
    }
    assert_eq!(entries(&db).await, before + 5);

    for (request, status) in [
        (app.anonymous("DELETE", &path(&file)), 401),
        (app.anonymous("DELETE", &path(&file)).bearer_auth("unknown"), 401),
        // Another tenant's file is not denied: for him it is not there.
        (app.anonymous("GET", &path(&file)).bearer_auth(&reader), 404),
        (app.get(&content), 400),
        (app.get(&path(&file)), 200),
    ] {
        assert_eq!(send(request).await.status, status);
    }
    assert_eq!(entries(&db).await, before + 5);
}

/// An audit that cannot be written opens nothing.
#[tokio::test]
async fn an_access_stays_denied_where_its_entry_cannot_be_written() {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "audited".to_owned(), |settings| {
        settings.database.operation_timeout_secs = 2;
    })
    .await;
    let reader = key(&app, "reader", "acme", &["files:read"], None).await;
    let ask = async || send(app.anonymous("POST", "/v1/files?name=c").body("x").bearer_auth(&reader)).await;
    own.fail(EVER, doc! { "failCommands": ["insert"], "namespace": format!("audited.{AUDIT}"), "errorCode": FAULT })
        .await;
    ask().await.refused(403, "forbidden");
    own.heal().await;
    assert_eq!(entries(&app.mongo().await).await, 0);
    ask().await.refused(403, "forbidden");
    assert_eq!(entries(&app.mongo().await).await, 1);
}

#[tokio::test]
async fn who_hangs_up_on_a_denial_is_in_the_audit_all_the_same() {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "audited".to_owned(), |_| {}).await;
    let reader = key(&app, "reader", "acme", &["files:read"], None).await;
    // Slow, and then to be repeated: only who is still there does so.
    let slow = doc! {
        "failCommands": ["insert"],
        "namespace": format!("audited.{AUDIT}"),
        "blockConnection": true,
        "blockTimeMS": 2000,
        "errorCode": TIMED_OUT,
        "errorLabels": ["RetryableWriteError"],
    };
    own.fail(1, slow).await;
    let request = app.anonymous("DELETE", "/v1/files/0123456789abcdef01234567").bearer_auth(&reader);
    let given_up = tokio::time::timeout(Duration::from_millis(500), request.send()).await;
    assert!(given_up.is_err(), "the answer waits for the entry");
    for _ in 0..100 {
        if entries(&app.mongo().await).await == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no entry");
}
