//! Who may do what: every method of every path of `openapi.yaml`, walked by everybody who may not.

use std::collections::BTreeSet;

use gridgate::format::digest::Sha256Digest;
use gridgate::store::DateTime;
use gridgate::store::api_keys::ApiKeyDoc;
use gridgate::store::segments::binary;
use serde_json::{Value, json};

use crate::shares::share;
use crate::support::app::{ADMIN_KEY, TestApp, content_path};
use crate::support::openapi::{Operation, operations};
use crate::support::requests::{Reply, assert_is_problem, query, send};
use crate::support::uploads::{begin, progress};

/// Makes a credential and gives its key.
pub async fn key(app: &TestApp, name: &str, tenant: &str, scopes: &[&str], expires_at: Option<DateTime>) -> String {
    let token = format!("gg_{name}_for-tests-only-0123456789");
    let doc = ApiKeyDoc {
        id: name.to_owned(),
        hash: binary(Sha256Digest::of(token.as_bytes()).0),
        tenant: tenant.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        name: name.to_owned(),
        created_at: DateTime::now(),
        expires_at,
        revoked_at: None,
    };
    app.app.files.store.put_api_key(&doc).await.unwrap();
    token
}

/// What operations are on.
pub struct Targets {
    pub file: Value,
    pub upload: Value,
    pub share: Value,
}

impl Targets {
    pub async fn make(app: &TestApp, access: &str) -> Self {
        let file = app.put(&format!("name=a.txt&access={access}"), "text/plain", "secret").await;
        let upload = begin(app, json!({ "name": "a.txt", "size": 1, "access": access })).await;
        let share = share(app, &file, json!({})).await;
        Self { file, upload, share }
    }

    /// Ids of nothing.
    pub fn none() -> Self {
        let none = json!({ "id": "0123456789abcdef01234567" });
        Self { file: none.clone(), upload: none.clone(), share: none }
    }
}

pub fn is_of_uploads(operation: &Operation) -> bool {
    ["/v1/uploads", "/tus", "/ruft"].iter().any(|beneath| operation.path.starts_with(beneath))
}

pub fn is_of_links(operation: &Operation) -> bool {
    operation.path.contains("/presign") || operation.path.contains("/shares")
}

/// The request of an operation, well-formed in everything but the credential.
pub fn request(app: &TestApp, operation: &Operation, targets: &Targets) -> reqwest::RequestBuilder {
    let target = match &*operation.path {
        path if path.starts_with("/v1/shares") => &targets.share,
        _ if is_of_uploads(operation) => &targets.upload,
        _ => &targets.file,
    };
    let token = targets.share["token"].as_str().map_or_else(|| "A".repeat(43), str::to_owned);
    let path =
        operation.path.replace("{token}", &token).replace("{id}", target["id"].as_str().unwrap()).replace("{n}", "0");
    let request = app.anonymous(&operation.method, &path);
    if operation.path.starts_with("/tus") {
        let request =
            request.header("tus-resumable", "1.0.0").header("upload-length", "1").header("upload-offset", "0");
        return match (operation.method.as_str(), operation.path.contains("{id}")) {
            ("PATCH", _) => request.header("content-type", "application/offset+octet-stream").body("x"),
            ("POST", true) => {
                let request = request.header("x-http-method-override", "PATCH");
                request.header("content-type", "application/offset+octet-stream").body("x")
            }
            _ => request,
        };
    }
    if operation.path.starts_with("/ruft") {
        let request = request.header("upload-complete", "?0").header("upload-offset", "0");
        return match operation.method.as_str() {
            "PATCH" => request.header("content-type", "application/partial-upload").body("x"),
            _ => request,
        };
    }
    match operation.method.as_str() {
        "PUT" if is_of_uploads(operation) => request.body("x"),
        "POST" if is_of_uploads(operation) => request.json(&json!({})),
        "POST" if operation.path.starts_with("/v1/admin/keys") => {
            request.json(&json!({ "tenant": "default", "scopes": ["admin"] }))
        }
        "POST" if operation.path == "/s/{token}" => {
            request.header("content-type", "application/x-www-form-urlencoded").body("password=x")
        }
        "POST" if operation.path.starts_with("/s/") => request.json(&json!({ "text": "x" })),
        "POST" if is_of_links(operation) => request.json(&json!({})),
        "PATCH" => request.header("content-type", "application/json").body(r#"{"name":"stolen"}"#),
        "POST" => request.header("content-type", "text/plain").body("x"),
        _ => request,
    }
}

fn assert_refused(reply: &Reply, operation: &Operation, status: u16, who: &str) {
    assert_eq!(reply.status, status, "{who}: {operation:?} {}", String::from_utf8_lossy(&reply.body));
    if operation.method == "HEAD" {
        assert!(reply.body.is_empty());
    } else {
        assert_is_problem(reply);
    }
    assert_eq!(reply.header("www-authenticate"), if status == 401 { "Bearer" } else { "" }, "{who}: {operation:?}");
}

/// Operations that need a credential, and those that do not.
fn guarded() -> Vec<Operation> {
    // `/metrics` asks only strangers to the machine: `metrics.rs`.
    // What a link opens its token tells: `shares.rs`.
    let is_told = |operation: &Operation| operation.path != "/metrics" && !operation.path.starts_with("/s/");
    let all: Vec<_> = operations().into_iter().filter(is_told).collect();
    let (public, guarded): (Vec<_>, Vec<_>) = all.into_iter().partition(|operation| operation.is_public);
    // What tus offers is asked before anything else.
    let public = public.iter().filter(|operation| operation.method != "OPTIONS");
    let public: BTreeSet<_> = public.map(|operation| operation.path.as_str()).collect();
    assert_eq!(public, BTreeSet::from(["/livez", "/openapi.yaml", "/readyz"]), "nothing else is public");
    assert!(guarded.len() >= 8, "the document was read");
    guarded
}

#[tokio::test]
async fn without_a_valid_credential_everything_but_health_is_401() {
    let app = TestApp::start_with(|settings| settings.limits.wrong_credentials_per_min = 0).await;
    let targets = Targets::make(&app, "private").await;
    let expired = key(&app, "expired", "default", &["admin"], Some(DateTime::from_millis(1_000))).await;
    let revoked = key(&app, "revoked", "default", &["admin"], None).await;
    let keys = app.mongo().await.collection::<mongodb::bson::Document>("api_keys");
    let now = mongodb::bson::doc! { "$set": { "revokedAt": DateTime::now() } };
    keys.update_one(mongodb::bson::doc! { "_id": "revoked" }, now).await.unwrap();
    let long = "x".repeat(20_000);
    let bearer = |token: &str| format!("Bearer {token}");
    let credentials = [
        String::new(),
        "Bearer".to_owned(),
        bearer(""),
        bearer("gg_admin_wrong"),
        bearer(&ADMIN_KEY[..ADMIN_KEY.len() - 1]),
        bearer(&format!("{ADMIN_KEY}x")),
        bearer(&ADMIN_KEY.to_uppercase()),
        bearer("admin"),
        bearer("eyJhbGciOiJub25lIn0.eyJzY29wZSI6ImFkbWluIn0."),
        bearer(&expired),
        bearer(&revoked),
        bearer(&long),
        bearer("{\"$ne\":null}"),
        format!("Basic {ADMIN_KEY}"),
        ADMIN_KEY.to_owned(),
        format!("Bearer,{ADMIN_KEY}"),
    ];
    for operation in guarded() {
        let anonymous = send(request(&app, &operation, &targets)).await;
        assert_refused(&anonymous, &operation, 401, "nobody");
        for credential in &credentials {
            let reply = send(request(&app, &operation, &targets).header("authorization", credential)).await;
            assert_refused(&reply, &operation, 401, &format!("{credential:.40}"));
        }
        let twice = request(&app, &operation, &targets).bearer_auth(ADMIN_KEY).bearer_auth(ADMIN_KEY);
        assert_refused(&send(twice).await, &operation, 401, "two credentials");
        let in_query = request(&app, &operation, &targets).query_key();
        assert_refused(&send(in_query).await, &operation, 401, "a credential in the query");
    }
    for public in operations().iter().filter(|operation| operation.is_public) {
        assert_eq!(send(app.anonymous(&public.method, &public.path)).await.status, 200, "{public:?}");
    }
    assert_eq!(app.content(&targets.file).await, b"secret");
    assert_eq!(progress(&app, &targets.upload).await, targets.upload);
    let list = send(app.get("/v1/files")).await.expect(200);
    assert_eq!((&list["total"], &list["items"][0]["name"]), (&1.into(), &"a.txt".into()), "nothing was changed");
}

trait QueryKey {
    fn query_key(self) -> Self;
}

impl QueryKey for reqwest::RequestBuilder {
    fn query_key(self) -> Self {
        let (client, request) = self.build_split();
        let mut request = request.unwrap();
        request.url_mut().query_pairs_mut().append_pair("access_token", ADMIN_KEY);
        Self::from_parts(client, request)
    }
}

#[tokio::test]
async fn a_scope_opens_its_own_operations_only() {
    let app = TestApp::start().await;
    let reader = key(&app, "reader", "default", &["files:read"], None).await;
    let writer = key(&app, "writer", "default", &["files:write"], None).await;
    let sharer = key(&app, "sharer", "default", &["shares:write"], None).await;
    let none = key(&app, "none", "default", &[], None).await;
    let odd = key(&app, "odd", "default", &["SHARES:WRITE", "FILES:READ", "files:*", ""], None).await;
    let mut denied = 0;
    for operation in guarded() {
        let is_read = ["GET", "HEAD"].contains(&operation.method.as_str());
        let is_write = !is_read || is_of_uploads(&operation);
        let is_link = is_of_links(&operation);
        // Links that make files need the scope for that, too, and those of all are an administrator's.
        let is_more = operation.path.starts_with("/v1/presign");
        // What the holder of the key may see, as far as its owner is concerned.
        let targets = Targets::make(&app, "internal").await;
        for (who, key, may) in [
            ("reader", &reader, !is_write && !is_link),
            ("writer", &writer, is_write && !is_link),
            ("sharer", &sharer, is_link && !is_more),
            ("none", &none, false),
            ("odd", &odd, false),
        ] {
            let is_unfinished = operation.path == "/tus/{id}" && operation.method == "GET";
            let may = may && !is_unfinished || is_unfinished && who == "reader";
            let is_others = !is_read && !is_link && operation.path.contains("{id}");
            if (who == "writer" && is_others) || (is_unfinished && may) {
                continue;
            }
            let reply = send(request(&app, &operation, &targets).bearer_auth(key)).await;
            if may && !operation.path.starts_with("/v1/admin/") {
                assert!((200..300).contains(&reply.status), "{who}: {operation:?} is {}", reply.status);
            } else {
                assert_refused(&reply, &operation, 403, who);
                denied += 1;
            }
        }
        let file = &targets.file;
        assert_eq!(send(app.get(&format!("/v1/files/{}", file["id"].as_str().unwrap()))).await.expect(200), *file);
        assert_eq!(progress(&app, &targets.upload).await, targets.upload);
    }
    let entries = app.mongo().await.collection::<mongodb::bson::Document>("audit");
    let entered = entries.count_documents(mongodb::bson::doc! { "action": "access.deny" }).await.unwrap();
    assert_eq!(entered, denied, "each denial has its entry");
}

#[tokio::test]
async fn another_tenants_file_is_told_from_none_by_nothing() {
    let app = TestApp::start().await;
    let (targets, none) = (Targets::make(&app, "internal").await, Targets::none());
    let file = &targets.file;
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;
    let of_one = |operation: &&Operation| operation.path.contains("{id}") && !operation.path.starts_with("/v1/admin");
    for operation in guarded().iter().filter(of_one) {
        for (name, value) in [("accept", "*/*"), ("range", "bytes=0-1"), ("if-none-match", "*"), ("if-match", "\"x\"")]
        {
            let mut answers = Vec::new();
            for target in [&targets, &none] {
                let reply = send(request(&app, operation, target).bearer_auth(&stranger).header(name, value)).await;
                assert_refused(&reply, operation, 404, "a stranger");
                let mut headers: Vec<_> = reply.headers.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
                headers.retain(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
                headers.sort_by(|a, b| a.0.cmp(&b.0));
                let mut body = if reply.body.is_empty() { Value::Null } else { reply.json() };
                if let Some(members) = body.as_object_mut() {
                    members.remove("requestId");
                }
                answers.push((headers, body));
            }
            assert_eq!(answers[0], answers[1], "{operation:?} with {name}");
        }
    }
    let explain = format!("/v1/admin/retention/explain?file={}", file["id"].as_str().unwrap());
    send(app.anonymous("GET", &explain).bearer_auth(&stranger)).await.refused(404, "file_not_found");
    let list = send(app.anonymous("GET", "/v1/files").bearer_auth(&stranger)).await.expect(200);
    assert_eq!((&list["total"], list["items"].as_array().unwrap().len()), (&0.into(), 0));
    for filter in [("owner", "admin"), ("access", "public"), ("kind", "text")] {
        let path = format!("/v1/files?{}", query(&[filter]));
        assert_eq!(send(app.anonymous("GET", &path).bearer_auth(&stranger)).await.expect(200)["total"], 0);
    }
    assert_eq!(send(app.get(&content_path(file))).await.body, b"secret");
    assert_eq!(progress(&app, &targets.upload).await, targets.upload);
    let uploads = send(app.anonymous("GET", "/v1/uploads").bearer_auth(&stranger)).await.expect(200);
    assert_eq!(uploads["items"], json!([]));
}

#[tokio::test]
async fn an_idempotency_key_of_somebody_else_says_nothing() {
    let app = TestApp::start().await;
    let colleague = key(&app, "colleague", "default", &["files:write", "files:read"], None).await;
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;
    let mut ids = std::collections::HashSet::new();
    for key in [ADMIN_KEY, &colleague, &stranger] {
        let post = app.anonymous("POST", "/v1/files?name=a").bearer_auth(key).header("idempotency-key", "same");
        let file = send(post.body("x")).await.expect(201);
        assert!(ids.insert(file["id"].as_str().unwrap().to_owned()), "each principal has keys of its own");
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_within_a_second() {
    let app = TestApp::start().await;
    let token = key(&app, "leaver", "default", &["files:read"], None).await;
    let list = || app.anonymous("GET", "/v1/files").bearer_auth(&token);
    send(list()).await.expect(200);
    let keys = app.mongo().await.collection::<mongodb::bson::Document>("api_keys");
    keys.delete_one(mongodb::bson::doc! { "_id": "leaver" }).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    send(list()).await.refused(401, "unauthenticated");
}
