//! Shares: their terms, the downloads they count, and their ends.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, noise};
use crate::support::own_mongod::OwnMongod;
use crate::support::requests::{Reply, query, send};

pub async fn share(app: &TestApp, file: &Value, said: Value) -> Value {
    let path = format!("/v1/files/{}/shares", file["id"].as_str().unwrap());
    send(app.request("POST", &path).json(&said)).await.expect(201)
}

/// Where a share is, as it follows the gateway's own address.
pub fn link(share: &Value) -> String {
    format!("/s/{}", share["token"].as_str().unwrap())
}

fn content(share: &Value) -> String {
    format!("{}/content", link(share))
}

fn path(share: &Value) -> String {
    format!("/v1/shares/{}", share["id"].as_str().unwrap())
}

async fn get(app: &TestApp, path: &str) -> Reply {
    send(app.anonymous("GET", path)).await
}

async fn state(app: &TestApp, share: &Value) -> Value {
    send(app.get(&path(share))).await.expect(200)
}

async fn edit(app: &TestApp, share: &Value, said: Value) -> Reply {
    send(
        app.request("PATCH", &path(share))
            .header("content-type", "application/merge-patch+json")
            .body(said.to_string()),
    )
    .await
}

#[tokio::test]
async fn whoever_holds_the_link_gets_the_content_and_nothing_else() {
    let app = TestApp::start().await;
    let bytes = noise(100_000, 1);
    let file = app.put("name=a.bin", "application/octet-stream", bytes.clone()).await;
    let made = share(&app, &file, json!({ "name": "for a test", "note": "please" })).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!((token.len(), &made["url"]), (43, &json!(format!("{}/s/{token}", app.url))), "256 bits in base64url");
    assert_eq!((&made["status"], &made["downloads"], &made["maxDownloads"]), (&json!("open"), &json!(0), &json!(null)));
    let whole = get(&app, &content(&made)).await;
    assert_eq!((whole.status, whole.body == bytes), (200, true));
    assert_eq!(whole.header("cache-control"), "private, no-cache");
    assert_eq!(whole.header("content-security-policy"), "sandbox; default-src 'none'");
    let range = send(app.anonymous("GET", &content(&made)).header("range", "bytes=99990-")).await;
    assert_eq!((range.status, &range.body[..]), (206, &bytes[99_990..]));
    let seen = send(app.anonymous("GET", &link(&made)).header("accept", "application/json")).await.expect(200);
    assert_eq!((&seen["name"], &seen["size"], &seen["note"]), (&json!("a.bin"), &json!(100_000), &json!("please")));
    for secret in ["token", "owner", "tenant", "id", "file", "sha256"] {
        assert!(seen.get(secret).is_none(), "{secret} is for its owner");
    }
    for path in [format!("/v1/files/{}", file["id"].as_str().unwrap()), path(&made)] {
        send(app.anonymous("GET", &path).bearer_auth(token)).await.refused(401, "unauthenticated");
    }
    let listed = send(app.get(&format!("/v1/files/{}/shares", file["id"].as_str().unwrap()))).await.expect(200);
    assert_eq!(listed["items"][0], state(&app, &made).await);
    assert!(listed["items"][0].get("token").is_none() && listed["items"][0].get("url").is_none(), "shown once");
}

#[tokio::test]
async fn of_many_downloads_at_once_as_many_as_are_left_are_given() {
    let app = TestApp::start().await;
    let other = TestApp::start_on(app.database.clone(), |_| {}).await;
    let bytes = noise(50_000, 1);
    let file = app.put("name=a.bin", "application/octet-stream", bytes.clone()).await;
    for round in 0..5 {
        let made = share(&app, &file, json!({ "maxDownloads": 5 })).await;
        let replies = join_all((0..100).map(|n| {
            let (gateway, path) = (if n % 2 == 0 { &app } else { &other }, content(&made));
            async move { get(gateway, &path).await }
        }));
        let replies = replies.await;
        let whole = replies.iter().filter(|reply| reply.status == 200);
        assert!(whole.clone().all(|reply| reply.body == bytes));
        let grants: HashSet<_> = whole.map(|reply| reply.header("gridgate-grant").to_owned()).collect();
        assert_eq!(grants.len(), 5, "round {round}");
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            reply.refused(410, "share_spent");
        }
        let state = state(&app, &made).await;
        assert_eq!((&state["downloads"], &state["status"]), (&json!(5), &json!("spent")));
        let log = send(app.get(&format!("{}/log?limit=200", path(&made)))).await.expect(200);
        let acts = |act| log["items"].as_array().unwrap().iter().filter(|entry| entry["act"] == act).count();
        assert_eq!(acts("download"), 5, "of bytes that no browser shows");
    }
    other.leave();
}

#[tokio::test]
async fn ranges_retries_and_parallel_connections_of_a_download_are_one() {
    let app = TestApp::start().await;
    let bytes = noise(200_000, 1);
    let file = app.put("name=a.bin", "application/octet-stream", bytes.clone()).await;
    let made = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    let path = content(&made);
    for (name, value) in
        [("if-none-match", file["etag"].as_str().unwrap()), ("if-match", "\"x\""), ("range", "bytes=200000-")]
    {
        let reply = send(app.anonymous("GET", &path).header(name, value)).await;
        assert!([304, 412, 416].contains(&reply.status), "{name}");
    }
    assert_eq!(send(app.anonymous("HEAD", &path)).await.status, 200);
    assert_eq!(get(&app, &link(&made)).await.status, 200);
    assert_eq!(state(&app, &made).await["downloads"], 0, "none of these is a download");

    let first = send(app.anonymous("GET", &path).header("range", "bytes=1-")).await;
    assert_eq!((first.status, &first.body[..]), (206, &bytes[1..]));
    let grant = first.header("gridgate-grant").to_owned();
    let cookie = first.header("set-cookie").to_owned();
    assert!(cookie.starts_with(&format!("gridgate-grant={grant}; Path={}; Max-Age=", link(&made))), "{cookie}");
    assert!(cookie.contains("; HttpOnly; SameSite=Lax"));
    let replies = join_all((0..20).map(|n| {
        let range = format!("bytes={}-{}", n * 10_000, n * 10_000 + 9_999);
        let request = app.anonymous("GET", &path).header("range", range);
        let cookie = format!("other=1; gridgate-grant={grant}");
        send(if n % 2 == 0 { request.header("gridgate-grant", &grant) } else { request.header("cookie", cookie) })
    }));
    let pieces: Vec<u8> = replies.await.into_iter().flat_map(|reply| reply.body).collect();
    assert!(pieces == bytes);
    assert_eq!(state(&app, &made).await["downloads"], 1);
    get(&app, &path).await.refused(410, "share_spent");
    assert_eq!(send(app.anonymous("HEAD", &path)).await.status, 410);

    let other = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    let of_other = get(&app, &content(&other)).await.header("gridgate-grant").to_owned();
    for forged in [
        String::new(),
        "x".repeat(70),
        of_other.replacen(&of_other[..1], if of_other.starts_with('A') { "B" } else { "A" }, 1),
        format!("{of_other}A"),
        grant.clone(),
    ] {
        let reply = send(app.anonymous("GET", &content(&other)).header("gridgate-grant", &forged)).await;
        reply.refused(410, "share_spent");
    }
    assert_eq!(send(app.anonymous("GET", &content(&other)).header("gridgate-grant", &of_other)).await.status, 200);
    assert_eq!(send(app.anonymous("GET", &path).header("gridgate-grant", &grant)).await.status, 200);
    app.clock.advance(Duration::from_secs(3_602));
    send(app.anonymous("GET", &path).header("gridgate-grant", &grant)).await.refused(410, "share_spent");
}

#[tokio::test]
async fn a_share_ends_by_time_revocation_and_with_its_file_on_every_gateway() {
    let app = TestApp::start().await;
    let other = TestApp::start_on(app.database.clone(), |_| {}).await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let [kept, revoked] = [share(&app, &file, json!({})).await, share(&app, &file, json!({})).await];
    let short = share(&app, &file, json!({ "expiresIn": 60 })).await;
    assert_eq!(send(app.request("DELETE", &path(&revoked))).await.status, 204);
    assert_eq!(send(app.request("DELETE", &path(&revoked))).await.status, 204, "again");
    for gateway in [&app, &other] {
        get(gateway, &content(&revoked)).await.refused(410, "share_revoked");
        get(gateway, &link(&revoked)).await.refused(410, "share_revoked");
        assert_eq!(get(gateway, &content(&kept)).await.status, 200);
    }
    assert_eq!(state(&app, &revoked).await["status"], "revoked");
    edit(&app, &revoked, json!({ "expiresIn": 60 })).await.refused(410, "share_revoked");
    app.clock.advance(Duration::from_secs(61));
    get(&app, &content(&short)).await.refused(410, "share_expired");
    assert_eq!(get(&app, &content(&kept)).await.status, 200);
    app.clock.advance(Duration::from_secs(86_400));
    get(&app, &content(&short)).await.refused(404, "share_not_found");
    send(app.get(&path(&short))).await.refused(404, "share_not_found");
    assert_eq!(get(&app, &content(&kept)).await.status, 200, "another share of the same file");
    send(app.request("DELETE", &format!("/v1/files/{}", file["id"].as_str().unwrap()))).await;
    for gateway in [&app, &other] {
        get(gateway, &content(&kept)).await.refused(404, "share_not_found");
        get(gateway, &link(&kept)).await.refused(404, "share_not_found");
    }
    let shares = app.mongo().await.collection::<Document>("file_shares");
    assert_eq!(shares.count_documents(doc! {}).await.unwrap(), 0, "they go with the file");
    for unknown in ["x".to_owned(), "A".repeat(43), "A".repeat(44), "%00".to_owned(), "..".to_owned()] {
        assert_eq!(get(&app, &format!("/s/{unknown}/content")).await.status, 404, "{unknown}");
    }
    other.leave();
}

#[tokio::test]
async fn a_password_is_hashed_asked_for_and_not_guessed() {
    let app = TestApp::start_with(|settings| settings.limits.share_passwords_per_min = 10).await;
    let file = app.put("name=secret-name.txt", "text/plain", "secret").await;
    let made = share(&app, &file, json!({ "password": "correct horse", "maxDownloads": 2 })).await;
    assert_eq!((&made["hasPassword"], made.get("password")), (&json!(true), None));
    let stored = app.mongo().await.collection::<Document>("file_shares").find_one(doc! {}).await.unwrap().unwrap();
    let hash = stored.get_document("terms").unwrap().get_str("password").unwrap().to_owned();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert!(!format!("{stored:?}").contains("correct horse"));

    get(&app, &content(&made)).await.refused(403, "password_required");
    let json_page = app.anonymous("GET", &link(&made)).header("accept", "application/json");
    send(json_page).await.refused(403, "password_required");
    let page = get(&app, &link(&made)).await;
    let text = String::from_utf8(page.body.clone()).unwrap();
    assert!(page.status == 200 && text.contains("type=\"password\"") && !text.contains("secret-name"), "{text}");
    let with = |password: &str| app.anonymous("GET", &content(&made)).header("gridgate-share-password", password);
    send(with("wrong")).await.refused(403, "password_mismatch");
    assert_eq!(send(with("correct horse")).await.body, b"secret");

    let form = |password: &str| {
        let body = format!("password={}", password.replace(' ', "+"));
        let type_ = "application/x-www-form-urlencoded";
        app.anonymous("POST", &link(&made)).header("content-type", type_).header("accept", "text/html").body(body)
    };
    let again = send(form("wrong")).await;
    assert_eq!((again.status, String::from_utf8_lossy(&again.body).contains("not the password")), (403, true));
    let open = send(form("correct horse")).await;
    assert_eq!((open.status, open.header("location")), (303, made["token"].as_str().unwrap()));
    let as_json = app.anonymous("POST", &link(&made)).header("accept", "application/json");
    let as_json = as_json.header("content-type", "application/x-www-form-urlencoded").body("password=correct+horse");
    assert_eq!(send(as_json).await.expect(200)["name"], "secret-name.txt");
    let entry = open.header("set-cookie").split(';').next().unwrap().to_owned();
    let come_back = || app.anonymous("GET", &content(&made)).header("cookie", &entry);
    assert_eq!(send(come_back()).await.body, b"secret");
    assert_eq!(state(&app, &made).await["downloads"], 2);
    send(come_back()).await.refused(410, "share_spent");

    // Three were counted above: two wrong ones and the first right one.
    let guesses = join_all((0..30).map(|n| send(with(&format!("guess {n}"))))).await;
    let refused = guesses.iter().filter(|reply| reply.status == 403).count();
    assert!((1..=7).contains(&refused), "{refused} were looked at");
    for reply in guesses.iter().filter(|reply| reply.status != 403) {
        reply.refused(429, "too_many_requests");
        assert!(reply.header("retry-after").parse::<u32>().unwrap() > 0);
    }
    let other = share(&app, &file, json!({ "password": "x" })).await;
    let at_other = app.anonymous("GET", &content(&other)).header("gridgate-share-password", "x");
    assert_eq!(send(at_other).await.status, 200, "each share has its own count");
    edit(&app, &made, json!({ "password": "another", "maxDownloads": 10 })).await.expect(200);
    send(come_back()).await.refused(403, "password_required");
    edit(&app, &made, json!({ "password": null })).await.expect(200);
    assert_eq!(get(&app, &content(&made)).await.status, 200);
}

#[tokio::test]
async fn who_guesses_tokens_is_told_to_wait_and_others_are_served() {
    let app = TestApp::start_with(|settings| settings.limits.wrong_credentials_per_min = 30).await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let made = share(&app, &file, json!({})).await;
    let guesses = join_all((0..100).map(|n| {
        let app = &app;
        async move { get(app, &format!("/s/{n:043}/content")).await.status }
    }));
    let guesses = guesses.await;
    let refused = guesses.iter().filter(|status| **status == 404).count();
    assert!((30..=33).contains(&refused) && guesses.iter().all(|status| [404, 429].contains(status)), "{guesses:?}");
    assert_eq!(get(&app, &content(&made)).await.status, 200);
}

#[tokio::test]
async fn a_share_is_for_viewing_for_downloading_or_both() {
    let app = TestApp::start().await;
    let text = app.put("name=a.txt", "text/plain", "x").await;
    let zip = app.put("name=a.bin", "application/octet-stream", noise(100, 1)).await;
    let disposition = |reply: &Reply| reply.header("content-disposition").split(';').next().unwrap().to_owned();
    for (file, view, download, plain, saved) in [
        (&text, true, true, "inline", "attachment"),
        (&text, true, false, "inline", ""),
        (&text, false, true, "attachment", "attachment"),
        (&zip, true, true, "attachment", "attachment"),
        (&zip, true, false, "", ""),
    ] {
        let made = share(&app, file, json!({ "allowView": view, "allowDownload": download })).await;
        for (path, expected) in [(content(&made), plain), (format!("{}?download=1", content(&made)), saved)] {
            let reply = get(&app, &path).await;
            match expected {
                "" => drop(reply.refused(403, "share_forbidden")),
                _ => assert_eq!((reply.status, disposition(&reply)), (200, expected.to_owned())),
            }
        }
    }
    let made = share(&app, &text, json!({})).await;
    for bad in ["filename=x", "preview=0", "preview=2", "x=1", "download=1&download=1"] {
        get(&app, &format!("{}?{bad}", content(&made))).await.refused(400, "bad_request");
    }
    get(&app, &format!("{}?x=1", link(&made))).await.refused(400, "bad_request");
}

#[tokio::test]
async fn addresses_users_and_pages_are_as_the_terms_say() {
    let app = TestApp::start_with(|settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1".to_owned()];
    })
    .await;
    let file = app.put("name=a.txt&access=private", "text/plain", "x").await;
    let colleague = key(&app, "colleague", "default", &[], None).await;
    let friend = key(&app, "friend", "default", &[], None).await;
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;

    let near = share(&app, &file, json!({ "allowedCidrs": ["192.0.2.0/24", "2001:db8::/32"] })).await;
    let from = |address: &str| app.anonymous("GET", &content(&near)).header("x-forwarded-for", address);
    for (address, status) in [
        ("192.0.2.7", 200),
        ("2001:db8::7", 200),
        ("::ffff:192.0.2.7", 200),
        ("192.0.3.7", 403),
        ("192.0.2.7, 198.51.100.1", 403),
        ("unknown", 403),
    ] {
        assert_eq!(send(from(address)).await.status, status, "{address}");
    }
    send(from("198.51.100.1")).await.refused(403, "share_forbidden");

    let known = share(&app, &file, json!({ "requireAuth": true })).await;
    let named = share(&app, &file, json!({ "allowedUsers": ["friend"] })).await;
    let by = |share: &Value, key: &str| app.anonymous("GET", &content(share)).bearer_auth(key);
    for (share, allowed) in [(&known, vec![&colleague, &friend]), (&named, vec![&friend])] {
        get(&app, &content(share)).await.refused(401, "unauthenticated");
        send(by(share, "gg_wrong")).await.refused(401, "unauthenticated");
        for who in [&colleague, &friend, &stranger] {
            let reply = send(by(share, who)).await;
            match allowed.contains(&who) {
                true => assert_eq!(reply.status, 200, "{who}"),
                false => drop(reply.refused(403, "share_forbidden")),
            }
        }
    }
    let log = send(app.get(&format!("{}/log", path(&named)))).await.expect(200);
    assert!(log["items"].as_array().unwrap().iter().any(|entry| entry["act"] == "view" && entry["actor"] == "friend"));

    let paged = share(&app, &file, json!({ "allowedDomains": ["example.org"] })).await;
    for (name, value, status) in [
        ("referer", "https://example.org/page?x=1", 200),
        ("referer", "https://www.Example.org:8443/", 200),
        ("origin", "https://example.org", 200),
        ("referer", "https://example.org.evil.test/", 403),
        ("referer", "https://notexample.org/", 403),
        ("referer", "https://evil.test/?example.org", 403),
        ("origin", "null", 403),
        ("x-none", "", 403),
    ] {
        assert_eq!(send(app.anonymous("GET", &content(&paged)).header(name, value)).await.status, status, "{value}");
    }
    let page = send(app.anonymous("GET", &link(&paged)).header("referer", "https://example.org/")).await;
    let entry = page.header("set-cookie").split(';').next().unwrap().to_owned();
    assert_eq!(send(app.anonymous("GET", &content(&paged)).header("cookie", entry)).await.status, 200, "from our page");

    // A form of ours is sent without saying from which page.
    edit(&app, &paged, json!({ "password": "open sesame" })).await.expect(200);
    let page = send(app.anonymous("GET", &link(&paged)).header("referer", "https://example.org/")).await;
    let cookie = page.header("set-cookie").split(';').next().unwrap().to_owned();
    send(app.anonymous("GET", &content(&paged)).header("cookie", &cookie)).await.refused(403, "password_required");
    let form = |cookie: &str| {
        let form = app.anonymous("POST", &link(&paged)).header("origin", "null").header("cookie", cookie);
        form.header("content-type", "application/x-www-form-urlencoded").body("password=open+sesame")
    };
    send(form("")).await.refused(403, "share_forbidden");
    let open = send(form(&cookie)).await;
    assert_eq!(open.status, 303);
    let entry = open.header("set-cookie").split(';').next().unwrap();
    let both = app.anonymous("GET", &content(&paged)).header("cookie", format!("{cookie}; {entry}"));
    assert_eq!(send(both).await.status, 200);
    let alone = app.anonymous("GET", &content(&paged)).header("cookie", entry);
    send(alone).await.refused(403, "share_forbidden");
}

#[tokio::test]
async fn terms_change_for_everybody_at_once_and_keep_what_is_counted() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let made = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    assert_eq!(get(&app, &content(&made)).await.status, 200);
    get(&app, &content(&made)).await.refused(410, "share_spent");
    let changed =
        edit(&app, &made, json!({ "maxDownloads": 2, "name": "new", "allowDownload": false })).await.expect(200);
    assert_eq!(
        (&changed["downloads"], &changed["name"], &changed["status"]),
        (&json!(1), &json!("new"), &json!("open"))
    );
    assert_eq!(get(&app, &content(&made)).await.status, 200);
    get(&app, &content(&made)).await.refused(410, "share_spent");
    edit(&app, &made, json!({ "maxDownloads": null })).await.expect(200);
    assert_eq!(get(&app, &content(&made)).await.status, 200);
    for bad in [json!({ "downloads": 0 }), json!({ "token": "x" }), json!({ "maxDownloads": 0 }), json!([])] {
        edit(&app, &made, bad).await.refused(400, "bad_request");
    }
    edit(&app, &made, json!({ "allowView": false })).await.refused(422, "invalid");
    let audit = app.mongo().await.collection::<Document>("audit");
    for (action, entries) in [("share.create", 1), ("share.edit", 2)] {
        assert_eq!(audit.count_documents(doc! { "action": action }).await.unwrap(), entries, "{action}");
    }
}

#[tokio::test]
async fn a_request_that_is_repeated_makes_one_share() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let shares = format!("/v1/files/{}/shares", file["id"].as_str().unwrap());
    let said = json!({ "maxDownloads": 3, "password": "p" });
    let request = |said: &Value| app.request("POST", &shares).header("idempotency-key", "once").json(said);
    let replies = join_all((0..5).map(|_| async { send(request(&said)).await.expect(201) })).await;
    assert!(replies.iter().all(|reply| reply["token"] == replies[0]["token"] && reply["id"] == replies[0]["id"]));
    let with = app.anonymous("GET", &content(&replies[0])).header("gridgate-share-password", "p");
    assert_eq!(send(with).await.status, 200);
    for other in [
        json!({ "maxDownloads": 3, "password": "p", "expiresIn": 60 }),
        json!({ "maxDownloads": 4, "password": "p" }),
        json!({ "maxDownloads": 3, "password": "q" }),
        json!({}),
    ] {
        send(request(&other)).await.refused(422, "idempotency_conflict");
    }
    assert_eq!(send(app.get(&shares)).await.expect(200)["items"].as_array().unwrap().len(), 1);
    send(app.request("DELETE", &path(&replies[0]))).await;
    send(request(&said)).await.refused(422, "idempotency_conflict");
}

#[tokio::test]
async fn comments_are_taken_where_they_are_allowed() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let [open, closed] =
        [share(&app, &file, json!({ "allowComment": true })).await, share(&app, &file, json!({})).await];
    let say = |share: &Value, said: Value| app.anonymous("POST", &format!("{}/comments", link(share))).json(&said);
    send(say(&closed, json!({ "text": "hello" }))).await.refused(403, "share_forbidden");
    let script = "<script>alert(1)</script>\nnext line";
    send(say(&open, json!({ "author": "Ann <b>", "text": script }))).await.expect(201);
    for bad in [
        json!({}),
        json!({ "text": "" }),
        json!({ "text": "  " }),
        json!({ "text": 1 }),
        json!({ "text": "x".repeat(4001) }),
        json!({ "text": "a\u{0}" }),
        json!({ "text": "a", "author": "x".repeat(81) }),
        json!({ "text": "a", "author": "a\nb" }),
        json!({ "text": "a", "at": "now" }),
    ] {
        send(say(&open, bad)).await.refused(400, "bad_request");
    }
    let form = app.anonymous("POST", &format!("{}/comments", link(&open)));
    let form = form.header("content-type", "application/x-www-form-urlencoded").body("author=&text=by+form");
    let back = send(form).await;
    assert_eq!((back.status, back.header("location")), (303, &*format!("../{}", open["token"].as_str().unwrap())));
    let page = String::from_utf8(get(&app, &link(&open)).await.body).unwrap();
    assert!(page.contains("&#60;script&#62;") && page.contains("by form") && page.contains("Somebody"), "{page}");
    assert!(!page.contains("<script") && !page.contains("Ann <b>"), "{page}");
    let listed = send(app.get(&format!("{}/comments", path(&open)))).await.expect(200);
    assert_eq!((&listed["items"][0]["text"], &listed["items"][1]["text"]), (&json!("by form"), &json!(script)));
    assert_eq!(state(&app, &open).await["comments"], 2);
    let shares = app.mongo().await.collection::<Document>("file_shares");
    shares.update_many(doc! {}, doc! { "$set": { "comments": 499_i64 } }).await.unwrap();
    send(say(&open, json!({ "text": "the last" }))).await.expect(201);
    send(say(&open, json!({ "text": "one more" }))).await.refused(422, "invalid");
}

#[tokio::test]
async fn only_who_may_share_a_file_sees_and_changes_its_shares() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt&access=private", "text/plain", "x").await;
    let made = share(&app, &file, json!({})).await;
    let reader = key(&app, "reader", "default", &["files:read", "files:write"], None).await;
    let sharer = key(&app, "sharer", "default", &["shares:write"], None).await;
    let stranger = key(&app, "stranger", "other", &["admin"], None).await;
    let of_file = format!("/v1/files/{}/shares", file["id"].as_str().unwrap());
    let (of_share, log) = (path(&made), format!("{}/log", path(&made)));
    let comments = format!("{}/comments", path(&made));
    for (method, path, hidden) in [
        ("POST", &of_file, "file_not_found"),
        ("GET", &of_file, "file_not_found"),
        ("GET", &of_share, "share_not_found"),
        ("PATCH", &of_share, "share_not_found"),
        ("DELETE", &of_share, "share_not_found"),
        ("GET", &log, "share_not_found"),
        ("GET", &comments, "share_not_found"),
    ] {
        let by = |key: &str| app.anonymous(method, path).bearer_auth(key).json(&json!({}));
        send(by(&reader)).await.refused(403, "forbidden");
        send(by(&sharer)).await.refused(404, hidden);
        send(by(&stranger)).await.refused(404, hidden);
    }
    assert_eq!(state(&app, &made).await["status"], "open");
    let pages = send(app.get(&format!("{of_file}?limit=1"))).await.expect(200);
    assert!(pages["nextCursor"].is_null() && pages["items"][0]["id"] == made["id"], "{pages}");
    let newer = share(&app, &file, json!({})).await;
    let pages = send(app.get(&format!("{of_file}?limit=1"))).await.expect(200);
    assert_eq!(pages["items"][0]["id"], newer["id"]);
    let next = format!("{of_file}?limit=1&cursor={}", pages["nextCursor"].as_str().unwrap());
    let last = send(app.get(&next)).await.expect(200);
    assert!(last["nextCursor"].is_null() && last["items"][0]["id"] == made["id"], "{last}");
}

#[tokio::test]
async fn a_file_under_a_clients_key_opens_through_a_share_with_the_key_only() {
    let app = TestApp::start().await;
    let client_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let put = app.request("POST", "/v1/files?name=a.txt").header("gridgate-encryption-key", client_key).body("secret");
    let file = send(put).await.expect(201);
    let made = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    get(&app, &content(&made)).await.refused(400, "key_required");
    let wrong = client_key.replacen('A', "B", 1);
    let with = |key: &str| app.anonymous("GET", &content(&made)).header("gridgate-encryption-key", key);
    send(with(&wrong)).await.refused(403, "key_mismatch");
    assert_eq!(state(&app, &made).await["downloads"], 0, "nothing was sent");
    assert_eq!(send(with(client_key)).await.body, b"secret");
    let page = String::from_utf8(get(&app, &link(&made)).await.body).unwrap();
    assert!(page.contains("encrypted with a key of its owner") && !page.contains("/content"), "{page}");
}

#[tokio::test]
async fn a_page_shows_names_and_notes_as_text() {
    let app = TestApp::start().await;
    let hostile = "\"><img src=x onerror=alert(1)>&\u{202e}.txt";
    let path = format!("/v1/files?{}", query(&[("name", hostile)]));
    let file = send(app.request("POST", &path).header("content-type", "text/plain").body("x")).await.expect(201);
    let made = share(&app, &file, json!({ "note": "<script>alert(1)</script>" })).await;
    let page = String::from_utf8(get(&app, &link(&made)).await.body).unwrap();
    assert!(page.contains("&#60;script&#62;") && page.contains("&#60;img src=x onerror=alert(1)&#62;"), "{page}");
    assert!(!page.contains("<img") && !page.contains("<script") && !page.contains('\u{202e}'), "{page}");
    let browser = |path: &str| app.anonymous("GET", path).header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let gone = format!("/s/{}", "A".repeat(43));
    for path in [gone.clone(), format!("{gone}/content")] {
        let reply = send(browser(&path)).await;
        let page = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(
            reply.status == 404
                && page.contains("There is no such share")
                && page.contains(reply.header("x-request-id"))
        );
    }
}

#[tokio::test]
async fn an_empty_file_is_shared_as_any_other() {
    let app = TestApp::start().await;
    let file = app.put("name=empty", "text/plain", "").await;
    let made = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    send(app.anonymous("GET", &content(&made)).header("range", "bytes=0-0"))
        .await
        .refused(416, "range_not_satisfiable");
    let whole = get(&app, &content(&made)).await;
    assert_eq!((whole.status, whole.header("content-length"), whole.body.len()), (200, "0", 0));
    get(&app, &content(&made)).await.refused(410, "share_spent");
}

#[tokio::test]
async fn what_a_visitor_was_given_opens_no_more_than_it_was_given_for() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let made = share(&app, &file, json!({ "password": "open sesame", "allowComment": true })).await;
    let first = app.anonymous("GET", &content(&made)).header("gridgate-share-password", "open sesame");
    let grant = send(first).await.header("gridgate-grant").to_owned();
    let with = |method: &str, path: &str| app.anonymous(method, path).header("gridgate-grant", &grant);
    assert_eq!(send(with("GET", &content(&made))).await.status, 200, "the same download");
    let page = with("GET", &link(&made)).header("accept", "application/json");
    send(page).await.refused(403, "password_required");
    let comment = with("POST", &format!("{}/comments", link(&made))).json(&json!({ "text": "x" }));
    send(comment).await.refused(403, "password_required");
    let form = |password: &str, cookie: &str| {
        let form = with("POST", &link(&made)).header("content-type", "application/x-www-form-urlencoded");
        form.header("cookie", cookie).body(format!("password={password}"))
    };
    send(form("wrong", "")).await.refused(403, "password_mismatch");
    let open = send(form("open+sesame", "")).await;
    let entry = open.header("set-cookie").split(';').next().unwrap().to_owned();
    send(form("wrong", &entry)).await.refused(403, "password_mismatch");
    app.clock.advance(Duration::from_secs(3_601));
    let late = app.anonymous("GET", &content(&made)).header("cookie", &entry);
    send(late).await.refused(403, "password_required");
}

#[tokio::test]
async fn a_refusal_that_a_browser_is_shown_is_in_the_audit_and_the_log_as_any_other() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let made = share(&app, &file, json!({ "allowedUsers": ["friend"] })).await;
    let colleague = key(&app, "colleague", "default", &[], None).await;
    for accept in ["text/html", "*/*"] {
        let asked = app.anonymous("GET", &content(&made)).bearer_auth(&colleague).header("accept", accept);
        assert_eq!(send(asked).await.status, 403);
    }
    let unknown = send(app.anonymous("GET", &content(&made)).header("accept", "text/html")).await;
    assert_eq!((unknown.status, unknown.header("www-authenticate")), (401, "Bearer"));
    let audit = app.mongo().await.collection::<Document>("audit");
    let denied = doc! { "action": "access.deny", "actor": "colleague", "details.code": "share_forbidden" };
    assert_eq!(audit.count_documents(denied).await.unwrap(), 2);
    let log = send(app.get(&format!("{}/log", path(&made)))).await.expect(200);
    let refused = |entry: &&Value| entry["act"] == "refused" && entry["code"] == "share_forbidden";
    assert_eq!(log["items"].as_array().unwrap().iter().filter(refused).count(), 2);
}

#[tokio::test]
async fn what_cannot_be_read_takes_no_download() {
    let app = TestApp::start().await;
    let file = app.put("name=a.bin", "application/octet-stream", noise(3 << 20, 1)).await;
    let made = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    let chunks = app.mongo().await.collection::<Document>("files.chunks");
    assert!(chunks.delete_many(doc! {}).await.unwrap().deleted_count > 0);
    for range in ["bytes=0-", "bytes=5-9", "bytes=0-9,2000000-2000009"] {
        let damaged = send(app.anonymous("GET", &content(&made)).header("range", range)).await;
        damaged.refused(500, "damaged");
    }
    assert_eq!(state(&app, &made).await["downloads"], 0);
}

#[tokio::test]
async fn nobody_fills_the_log_of_a_share_and_no_log_refuses_a_visitor() {
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "log".to_owned(), |_| {}).await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let made = share(&app, &file, json!({})).await;
    for _ in 0..70 {
        assert_eq!(get(&app, &content(&made)).await.status, 200);
    }
    let log = send(app.get(&format!("{}/log?limit=200", path(&made)))).await.expect(200);
    assert_eq!((&state(&app, &made).await["downloads"], log["items"].as_array().unwrap().len()), (&json!(70), 60));
    let counted = share(&app, &file, json!({ "maxDownloads": 1 })).await;
    own.fail(1_000_000, doc! { "failCommands": ["insert"], "errorCode": 8 }).await;
    for path in [link(&counted), content(&counted)] {
        assert_eq!(get(&app, &path).await.status, 200, "{path}");
    }
    get(&app, &content(&counted)).await.refused(410, "share_spent");
    own.heal().await;
    let log = send(app.get(&format!("{}/log", path(&counted)))).await.expect(200);
    assert_eq!(log["items"], json!([]), "what failed was the log");
}
