//! Who sees a file: its owner, its tenant or anybody, and nobody else learns that it is there.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::auth::{Targets, is_of_uploads, key, request};
use crate::shares::share;
use crate::support::app::{ADMIN_KEY, TestApp, content_path};
use crate::support::openapi::operations;
use crate::support::profiler;
use crate::support::requests::{Reply, send};
use crate::support::uploads::{self, begin, put_part};

const EVERYTHING: [&str; 3] = ["files:read", "files:write", "shares:write"];

fn file_path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

async fn set_access(app: &TestApp, file: &Value, access: &str) {
    send(app.request("PATCH", &file_path(file)).json(&json!({ "access": access }))).await.expect(200);
}

/// An answer without what differs from one to the next.
fn told(reply: &Reply) -> (u16, Vec<(String, String)>, Value) {
    let mut headers: Vec<_> = reply.headers.iter().map(|(k, v)| (k.to_string(), format!("{v:?}"))).collect();
    headers.retain(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
    headers.sort();
    let mut body = if reply.body.is_empty() { Value::Null } else { reply.json() };
    if let Some(members) = body.as_object_mut() {
        members.remove("requestId");
    }
    (reply.status, headers, body)
}

#[tokio::test]
async fn what_is_private_is_told_from_none_by_nothing_to_others_of_the_tenant() {
    let app = TestApp::start().await;
    let (targets, none) = (Targets::make(&app, "private").await, Targets::none());
    let colleague = key(&app, "colleague", "default", &EVERYTHING, None).await;
    let of_one = operations().into_iter().filter(|operation| {
        operation.path.contains("{id}") && !operation.path.starts_with("/v1/admin") && operation.method != "OPTIONS"
    });
    let mut walked = 0;
    for operation in of_one {
        let mut answers = Vec::new();
        for target in [&targets, &none] {
            answers.push(told(&send(request(&app, &operation, target).bearer_auth(&colleague)).await));
        }
        assert_eq!(answers[0].0, 404, "{operation:?}");
        assert_eq!(answers[0], answers[1], "{operation:?}");
        walked += 1;
        if !is_of_uploads(&operation) {
            assert_eq!(app.content(&targets.file).await, b"secret");
        }
    }
    assert!(walked >= 12, "{walked} operations");
    for (path, count) in
        [("/v1/files", "total"), ("/v1/files?owner=admin", "total"), ("/v1/files?access=private", "total")]
    {
        let list = send(app.anonymous("GET", path).bearer_auth(&colleague)).await.expect(200);
        assert_eq!((&list[count], list["items"].as_array().unwrap().len()), (&json!(0), 0), "{path}");
    }
    let own = app.anonymous("POST", "/v1/files?name=own").bearer_auth(&colleague).body("own");
    let own = send(own).await.expect(201);
    let list = send(app.anonymous("GET", "/v1/files").bearer_auth(&colleague)).await.expect(200);
    assert_eq!((&list["total"], &list["items"][0]["id"]), (&json!(1), &own["id"]));
    assert_eq!(app.content(&own).await, b"own", "an administrator of the tenant sees it");
    assert_eq!(send(app.get("/v1/files")).await.expect(200)["total"], 2);
}

#[tokio::test]
async fn an_upload_is_seen_as_the_file_that_it_became() {
    let app = TestApp::start().await;
    let colleague = key(&app, "colleague", "default", &EVERYTHING, None).await;
    let file = app.put("name=other", "text/plain", "secret").await;
    let (upload, none) = (begin(&app, json!({ "name": "a", "size": 3, "access": "internal" })).await, Targets::none());
    put_part(&app, &upload, 0, b"abc").await;
    let made = uploads::complete(&app, &upload).await.expect(201);
    let show = || app.anonymous("GET", &uploads::path(&upload)).bearer_auth(&colleague);
    send(show()).await.expect(200);
    set_access(&app, &made, "private").await;
    let share = share(&app, &file, json!({})).await;
    let targets = Targets { file, upload: upload.clone(), share };
    for operation in operations().into_iter().filter(|o| is_of_uploads(o) && o.path.contains("{id}")) {
        if operation.method == "OPTIONS" {
            continue;
        }
        let answer = |target| send(request(&app, &operation, target).bearer_auth(&colleague));
        let (hidden, absent) = (answer(&targets).await, answer(&none).await);
        assert_eq!((hidden.status, told(&hidden)), (404, told(&absent)), "{operation:?}");
    }
    set_access(&app, &made, "internal").await;
    send(show()).await.expect(200);
    assert_eq!(app.content(&made).await, b"abc");
}

#[tokio::test]
async fn a_file_belongs_to_who_began_it_whoever_brings_the_last_byte() {
    let app = TestApp::start().await;
    let user = key(&app, "user", "default", &EVERYTHING, None).await;
    let colleague = key(&app, "colleague", "default", &EVERYTHING, None).await;
    let begin = async |access: &str| {
        let said = json!({ "name": "a", "size": 1, "access": access });
        let begun = app.anonymous("POST", "/v1/uploads").bearer_auth(&user).json(&said);
        let upload = send(begun).await.expect(201);
        let part = app.anonymous("PUT", &format!("{}/parts/0", uploads::path(&upload))).bearer_auth(&user).body("a");
        send(part).await.expect(200);
        upload
    };
    let tus = uploads::path(&begin("private").await).replace("/v1/uploads/", "/tus/");
    let asked = send(app.request("HEAD", &tus).header("tus-resumable", "1.0.0")).await;
    assert_eq!(asked.status, 200);
    let file = format!("/v1/files/{}", asked.header("gridgate-file-id"));
    let seen = send(app.anonymous("GET", &file).bearer_auth(&user)).await.expect(200);
    assert_eq!(seen["owner"], "user");
    let complete = format!("{}/complete", uploads::path(&begin("internal").await));
    let file = send(app.anonymous("POST", &complete).bearer_auth(&colleague)).await.expect(201);
    assert_eq!(file["owner"], "user");
}

#[tokio::test]
async fn nobody_makes_a_file_of_anothers_private_pieces() {
    let app = TestApp::start().await;
    let colleague = key(&app, "colleague", "default", &EVERYTHING, None).await;
    let piece = app.request("POST", "/tus/").header("tus-resumable", "1.0.0").header("upload-length", "1");
    let piece = piece.header("upload-concat", "partial").header("content-type", "application/offset+octet-stream");
    let piece = send(piece.body("a")).await;
    let join = |token: &str| {
        let request = app.anonymous("POST", "/tus/").bearer_auth(token).header("tus-resumable", "1.0.0");
        request.header("upload-concat", format!("final;{}", piece.header("location")))
    };
    send(join(&colleague)).await.refused(404, "upload_not_found");
    assert_eq!(send(join(ADMIN_KEY)).await.status, 201);
}

#[tokio::test]
async fn what_is_internal_is_everybodys_of_the_tenant() {
    let app = TestApp::start().await;
    let file = app.put("name=a&access=internal", "text/plain", "shared").await;
    let colleague = key(&app, "colleague", "default", &EVERYTHING, None).await;
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;
    let content = || app.anonymous("GET", &content_path(&file));
    assert_eq!(send(content().bearer_auth(&colleague)).await.body, b"shared");
    send(content().bearer_auth(&stranger)).await.refused(404, "file_not_found");
    send(content()).await.refused(401, "unauthenticated");
    let edit = app.anonymous("PATCH", &file_path(&file)).bearer_auth(&colleague).json(&json!({ "name": "b" }));
    assert_eq!(send(edit).await.expect(200)["name"], "b");
    set_access(&app, &file, "private").await;
    send(content().bearer_auth(&colleague)).await.refused(404, "file_not_found");
    let upload = begin(&app, json!({ "name": "c", "size": 1, "access": "internal" })).await;
    let part = app.anonymous("PUT", &format!("{}/parts/0", uploads::path(&upload))).bearer_auth(&colleague).body("c");
    send(part).await.expect(200);
    assert_eq!(send(app.anonymous("DELETE", &uploads::path(&upload)).bearer_auth(&colleague)).await.status, 204);
}

#[tokio::test]
async fn content_that_is_public_needs_no_credential_and_nothing_else_is_open() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt&access=public", "text/plain", "for everybody").await;
    let hidden = app.put("name=b.txt", "text/plain", "not for everybody").await;
    let anybody = |method: &str| app.anonymous(method, &content_path(&file));
    let whole = send(anybody("GET")).await;
    assert_eq!((whole.status, &*whole.body), (200, &b"for everybody"[..]));
    assert_eq!(whole.header("cache-control"), "public, no-cache");
    assert_eq!(send(anybody("HEAD")).await.header("content-length"), "13");
    assert_eq!(send(anybody("GET").header("range", "bytes=4-12")).await.body, b"everybody");
    assert_eq!(send(anybody("GET").header("if-none-match", whole.header("etag"))).await.status, 304);
    send(anybody("GET").bearer_auth("gg_wrong_key")).await.refused(401, "unauthenticated");
    for (tenant, scope) in [("other", "files:read"), ("default", "files:write")] {
        let known = key(&app, &format!("of-{tenant}"), tenant, &[scope], None).await;
        assert_eq!(send(anybody("GET").bearer_auth(&known)).await.body, b"for everybody", "{tenant} {scope}");
    }

    let nobody = |path: &str, method: &str| -> RequestBuilder { app.anonymous(method, path) };
    for (path, method) in
        [(file_path(&file), "GET"), (file_path(&file), "DELETE"), ("/v1/files?access=public".to_owned(), "GET")]
    {
        send(nobody(&path, method)).await.refused(401, "unauthenticated");
    }
    let absent = send(nobody("/v1/files/0123456789abcdef01234567/content", "GET")).await;
    let private = send(nobody(&content_path(&hidden), "GET")).await;
    private.refused(401, "unauthenticated");
    assert_eq!(told(&private), told(&absent));

    set_access(&app, &file, "internal").await;
    send(anybody("GET")).await.refused(401, "unauthenticated");
    set_access(&app, &file, "public").await;
    assert_eq!(send(anybody("GET")).await.status, 200);
    assert_eq!(send(app.request("DELETE", &file_path(&file))).await.status, 204);
    send(anybody("GET")).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn what_expired_is_open_to_nobody() {
    let app = TestApp::start().await;
    let file = app.put("name=a&access=public&retentionDays=1", "text/plain", "short").await;
    assert_eq!(send(app.anonymous("GET", &content_path(&file))).await.status, 200);
    app.clock.advance(std::time::Duration::from_secs(86_401));
    send(app.anonymous("GET", &content_path(&file))).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_file_that_an_upload_became_is_seen_as_the_file_says() {
    let app = TestApp::start().await;
    let colleague = key(&app, "colleague", "default", &EVERYTHING, None).await;
    let upload = begin(&app, json!({ "name": "a", "size": 3 })).await;
    put_part(&app, &upload, 0, b"abc").await;
    let get = || app.anonymous("GET", &uploads::path(&upload).replace("/v1/uploads/", "/tus/")).bearer_auth(&colleague);
    send(get()).await.refused(404, "upload_not_found");
    let file = uploads::complete(&app, &upload).await.expect(201);
    send(get()).await.refused(404, "upload_not_found");
    set_access(&app, &file, "internal").await;
    assert_eq!(send(get()).await.body, b"abc");
}

/// A time is the sum of what is done: the same is asked of the database for a file of another tenant and for none.
#[tokio::test]
async fn another_tenants_file_takes_the_time_that_none_takes() {
    let app = TestApp::start().await;
    let stranger = key(&app, "stranger", "other", &EVERYTHING, None).await;
    let (targets, none) = (Targets::make(&app, "internal").await, Targets::none());
    let db = app.mongo().await;
    let ask = async |path: &str, token: &str| {
        let request = || app.anonymous("GET", path).bearer_auth(token);
        // Whose key it is, and what is allowed, is believed for a second.
        request().send().await.unwrap();
        profiler::start(&db).await;
        let status = request().send().await.unwrap().status().as_u16();
        let done = profiler::stop_all(&db).await;
        let acts = done.iter().filter(|act| !act.get_str("ns").unwrap().contains(".api_keys"));
        let acts = acts.map(|act| (act.get_str("op").unwrap().to_owned(), act.get_str("ns").unwrap().to_owned()));
        (status, acts.collect::<Vec<_>>())
    };
    for content in ["", "/content"] {
        let theirs = ask(&format!("{}{content}", file_path(&targets.file)), &stranger).await;
        let nobodys = ask(&format!("{}{content}", file_path(&none.file)), &stranger).await;
        assert_eq!((theirs.0, &theirs.1), (404, &nobodys.1), "{content}");
    }
    let own = ask(&content_path(&targets.file), ADMIN_KEY).await;
    let theirs = ask(&content_path(&targets.file), &stranger).await;
    assert!(own.0 == 200 && own.1 != theirs.1, "more is asked for what one may read: {own:?}");
}
