//! API keys from their creation to their end, and tokens of users beside them.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{MASTER_KEY, TestApp, content_path, new_database, secret};
use crate::support::jwt::hs256;
use crate::support::program::{command, run};
use crate::support::requests::send;

async fn create(app: &TestApp, said: Value) -> Value {
    send(app.request("POST", "/v1/admin/keys").json(&said)).await.expect(201)
}

fn files(app: &TestApp, token: &Value) -> reqwest::RequestBuilder {
    app.anonymous("GET", "/v1/files").bearer_auth(token.as_str().unwrap())
}

/// Everything in the database, as text.
async fn everything(app: &TestApp) -> String {
    let (db, mut all) = (app.mongo().await, String::new());
    for name in db.list_collection_names().await.unwrap() {
        let found: Vec<Document> = db.collection(&name).find(doc! {}).await.unwrap().try_collect().await.unwrap();
        found.iter().for_each(|document| all.push_str(&format!("{document:?}")));
    }
    all
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say_and_is_shown_once() {
    let app = TestApp::start().await;
    let said = json!({ "tenant": "acme", "scopes": ["files:read", "files:write"], "name": "for a test" });
    let made = create(&app, said).await;
    let token = made["key"].as_str().unwrap();
    let (id, text) = token.strip_prefix("gg_").unwrap().split_once('_').unwrap();
    assert_eq!((id, text.len()), (made["id"].as_str().unwrap(), 43), "256 bits in base64");
    let put = app.anonymous("POST", "/v1/files?name=a").bearer_auth(token).body("x");
    let file = send(put).await.expect(201);
    assert_eq!((&file["tenant"], &file["owner"]), (&json!("acme"), &made["id"]));
    send(app.anonymous("GET", "/v1/admin/keys").bearer_auth(token)).await.refused(403, "forbidden");

    let listed = send(app.get("/v1/admin/keys")).await.expect(200);
    let shown = listed["items"].as_array().unwrap().iter().find(|key| key["id"] == made["id"]).unwrap();
    let mut without = made.clone();
    without.as_object_mut().unwrap().remove("key");
    assert_eq!(*shown, without);
    let kept = everything(&app).await;
    assert!(kept.contains(id) && !kept.contains(text) && !kept.contains("for-tests-only"), "only hashes are kept");
}

#[tokio::test]
async fn a_request_that_is_repeated_makes_one_key() {
    let app = TestApp::start().await;
    let said = json!({ "tenant": "acme", "scopes": ["files:read"], "expiresIn": 600 });
    let request = |said: &Value| app.request("POST", "/v1/admin/keys").header("idempotency-key", "once").json(said);
    let first = send(request(&said)).await.expect(201);
    assert_eq!(send(request(&said)).await.expect(201), first);
    let racing = || app.request("POST", "/v1/admin/keys").header("idempotency-key", "raced").json(&said);
    let raced = futures::future::join_all((0..5).map(|_| async { send(racing()).await.expect(201) })).await;
    assert!(raced.iter().all(|key| *key == raced[0]), "five requests at once make one key");
    send(files(&app, &first["key"])).await.expect(200);
    for other in [
        json!({ "tenant": "acme", "scopes": ["admin"], "expiresIn": 600 }),
        json!({ "tenant": "b", "scopes": ["files:read"], "expiresIn": 600 }),
        json!({ "tenant": "acme", "scopes": ["files:read"] }),
    ] {
        send(request(&other)).await.refused(422, "idempotency_conflict");
    }
    let all = send(app.get("/v1/admin/keys")).await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 3, "and the first one");
    let path = format!("/v1/admin/keys/{}", first["id"].as_str().unwrap());
    assert_eq!(send(app.request("DELETE", &path)).await.status, 204);
    send(request(&said)).await.refused(422, "idempotency_conflict");
    let elsewhere = TestApp::start().await;
    let again = elsewhere.request("POST", "/v1/admin/keys").header("idempotency-key", "once").json(&said);
    assert_ne!(send(again).await.expect(201)["key"], first["key"], "each deployment has its own");
}

#[tokio::test]
async fn an_administrator_of_one_tenant_gets_into_no_other() {
    let app = TestApp::start().await;
    let (chief, id) = (key(&app, "chief", "acme", &["admin"], None).await, "chief");
    let said = json!({ "tenant": "default", "scopes": ["admin"], "maxFiles": 1 });
    for (method, path) in [
        ("POST", "/v1/admin/keys".to_owned()),
        ("GET", "/v1/admin/keys".to_owned()),
        ("DELETE", format!("/v1/admin/keys/{id}")),
        ("GET", "/v1/admin/quotas/acme".to_owned()),
        ("PUT", "/v1/admin/quotas/acme".to_owned()),
    ] {
        let request = app.anonymous(method, &path).bearer_auth(&chief).json(&said);
        send(request).await.refused(403, "forbidden");
    }
    let explain = app.anonymous("GET", "/v1/admin/retention/explain?until=2099-01-01T00:00:00Z").bearer_auth(&chief);
    assert_eq!(send(explain).await.expect(200)["count"], 0, "its own tenant is open to it");
}

#[tokio::test]
async fn a_key_that_is_revoked_or_expired_opens_nothing_on_any_gateway() {
    let app = TestApp::start().await;
    let other = TestApp::start_on(app.database.clone(), |_| {}).await;
    let made = create(&app, json!({ "tenant": "default", "scopes": ["files:read"] })).await;
    let path = format!("/v1/admin/keys/{}", made["id"].as_str().unwrap());
    for gateway in [&app, &other] {
        send(files(gateway, &made["key"])).await.expect(200);
    }
    assert_eq!(send(app.request("DELETE", &path)).await.status, 204);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for gateway in [&app, &other] {
        send(files(gateway, &made["key"])).await.refused(401, "unauthenticated");
    }
    send(app.request("DELETE", &path)).await.refused(404, "api_key_not_found");
    send(app.request("DELETE", "/v1/admin/keys/nobody")).await.refused(404, "api_key_not_found");
    send(app.request("DELETE", "/v1/admin/keys/a%20b")).await.refused(400, "invalid_id");
    send(app.request("DELETE", "/v1/admin/keys/admin")).await.refused(422, "invalid");
    send(app.get("/v1/files")).await.expect(200);

    let short = create(&app, json!({ "tenant": "default", "scopes": ["files:read"], "expiresIn": 60 })).await;
    send(files(&app, &short["key"])).await.expect(200);
    app.clock.advance(Duration::from_secs(61));
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(files(&app, &short["key"])).await.refused(401, "unauthenticated");

    let audit = app.mongo().await.collection::<Document>("audit");
    for (action, count) in [("key.create", 2), ("key.revoke", 1)] {
        assert_eq!(
            audit.count_documents(doc! { "action": action, "actor": "admin" }).await.unwrap(),
            count,
            "{action}"
        );
    }
    other.leave();
}

#[tokio::test]
async fn a_request_for_a_key_that_is_none_is_refused_with_its_field() {
    let app = TestApp::start().await;
    let good = json!({ "tenant": "a", "scopes": ["files:read"] });
    for (field, value) in [
        ("tenant", json!("")),
        ("tenant", json!("x".repeat(129))),
        ("tenant", json!("a\nb")),
        ("tenant", json!({ "$ne": "" })),
        ("tenant", Value::Null),
        ("scopes", json!([])),
        ("scopes", json!("admin")),
        ("scopes", json!(["files:*"])),
        ("scopes", json!([1])),
        ("scopes", json!(vec!["admin"; 6])),
        ("name", json!("x".repeat(129))),
        ("name", json!("a\u{0}")),
        ("name", json!(7)),
        ("expiresIn", json!(0)),
        ("expiresIn", json!(-1)),
        ("expiresIn", json!(1.5)),
        ("expiresIn", json!("60")),
        ("expiresIn", json!(315_360_001)),
        ("expiresAt", json!("2030-01-01T00:00:00Z")),
    ] {
        let mut said = good.clone();
        said[field] = value;
        let refused = send(app.request("POST", "/v1/admin/keys").json(&said)).await;
        assert_eq!(refused.refused(400, "bad_request")["field"], field, "{said}");
    }
    for missing in ["tenant", "scopes"] {
        let mut said = good.clone();
        said.as_object_mut().unwrap().remove(missing);
        let refused = send(app.request("POST", "/v1/admin/keys").json(&said)).await;
        assert_eq!(refused.refused(400, "bad_request")["field"], missing);
    }
    for query in ["limit=0", "limit=201", "cursor=", "all=1"] {
        send(app.get(&format!("/v1/admin/keys?{query}"))).await.refused(400, "bad_request");
    }
    assert_eq!(send(app.get("/v1/admin/keys")).await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn pages_of_keys_show_every_key_once() {
    let app = TestApp::start().await;
    for n in 0..5 {
        key(&app, &format!("k{n}"), "default", &["files:read"], None).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/admin/keys?limit=2".to_owned());
    loop {
        let page = send(app.get(&path)).await.expect(200);
        assert_ne!(page["items"], json!([]), "an empty page");
        seen.extend(page["items"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/admin/keys?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["admin", "k0", "k1", "k2", "k3", "k4"]);
}

#[tokio::test]
async fn the_command_line_makes_lists_and_revokes() {
    let app = TestApp::start().await;
    let create = ["keys", "create", "--tenant", "acme", "--scope", "files:read", "--name", "n", "--expires-in", "600"];
    let keys = async |arguments: &[&str]| run(command(&app.database, MASTER_KEY, arguments)).await;
    let line = keys(&create).await;
    let made: Value = serde_json::from_str(&line.stdout).unwrap();
    assert!(line.code == Some(0) && made["tenant"] == "acme" && made["scopes"] == json!(["files:read"]));
    send(files(&app, &made["key"])).await.expect(200);
    let lines = keys(&["keys", "list"]).await.stdout;
    assert!(lines.lines().count() == 2 && lines.contains(made["id"].as_str().unwrap()));
    assert!(!lines.contains(made["key"].as_str().unwrap()));
    assert_eq!(keys(&["keys", "revoke", made["id"].as_str().unwrap()]).await.code, Some(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(files(&app, &made["key"])).await.refused(401, "unauthenticated");
    let mut elsewhere = command(&app.database, MASTER_KEY, &["keys", "list"]);
    elsewhere.env("GRIDGATE_ADMIN_KEY", "gg_admin_of-another-shell-0123456789");
    assert_eq!(run(elsewhere).await.code, Some(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(app.get("/v1/files")).await.expect(200);
    for wrong in [&["keys", "revoke", "nobody"][..], &["keys", "create", "--scope", "everything"]] {
        assert_ne!(keys(wrong).await.code, Some(0));
    }
}

#[tokio::test]
async fn a_token_of_a_user_opens_files_of_its_tenant() {
    const SECRET: &str = "a secret of at least thirty-two bytes";
    let app = TestApp::start_on(new_database(), |settings| settings.auth.jwt.secret = secret(SECRET)).await;
    let token = |sub: &str, tenant: &str, scope: &str, life: i64| {
        hs256(SECRET, &json!({ "sub": sub, "tenant": tenant, "scope": scope }), life)
    };
    let alice = token("alice", "acme", "files:read files:write", 300);
    let put = app.anonymous("POST", "/v1/files?name=a").bearer_auth(&alice).body("hers");
    let file = send(put).await.expect(201);
    assert_eq!((&file["owner"], &file["tenant"]), (&json!("user:alice"), &json!("acme")));
    let content = |token: &str| app.anonymous("GET", &content_path(&file)).bearer_auth(token);
    assert_eq!(send(content(&alice)).await.body, b"hers");
    send(content(&token("bob", "acme", "files:read", 300))).await.refused(404, "file_not_found");
    send(content(&token("alice", "other", "files:read", 300))).await.refused(404, "file_not_found");
    send(content(&token("alice", "acme", "files:write", 300))).await.refused(403, "forbidden");
    send(content(&token("alice", "acme", "files:read", -61))).await.refused(401, "unauthenticated");
    send(content(&format!("{alice}x"))).await.refused(401, "unauthenticated");
    assert_eq!(send(content(&token("root", "acme", "admin", 300))).await.body, b"hers");
    send(app.get("/v1/files")).await.expect(200);
    let deaf = TestApp::start_on(app.database.clone(), |_| {}).await;
    send(deaf.anonymous("GET", "/v1/files").bearer_auth(&alice)).await.refused(401, "unauthenticated");
    deaf.leave();
}
