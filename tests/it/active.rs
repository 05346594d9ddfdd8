//! Content that a browser could run: however its type is declared, and whichever answer it is in, it is to be saved.

use futures::future::join_all;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::app::{TestApp, content_path};
use crate::support::requests::{Form, send};
use crate::support::uploads::{begin, complete, put_part};

const SVG: &[u8] = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
const HTML: &[u8] = b"<!DOCTYPE html><script>alert(1)</script>";
const DECLARED: [&str; 15] = [
    "image/png",
    "image/svg+xml;charset=utf-8",
    "IMAGE/SVG+XML",
    "text/html;x=y",
    "text/html\t",
    "application/mathml+xml",
    "application/xhtml+xml",
    "text/xml",
    "text/xsl",
    "application/xsd+xml",
    "application/relax-ng+xml",
    "application/rdf+xml",
    "application/owl+xml",
    "image/svg+xml,image/png",
    "text/plain",
];

#[track_caller]
fn assert_harmless(headers: &HeaderMap, what: &str) {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    assert!(header("content-disposition").starts_with("attachment;"), "{what}: {headers:?}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("content-security-policy"), "sandbox; default-src 'none'", "{what}");
}

/// The file by each way in whose type a client declares.
async fn by_every_way(app: &TestApp, declared: &str, bytes: &[u8]) -> [Value; 3] {
    let raw = app.request("POST", "/v1/files?name=a.png").header("content-type", declared).body(bytes.to_vec());
    let form = Form::new().file("a.png", declared, bytes).request(app, "");
    let upload = begin(app, json!({ "name": "a.png", "size": bytes.len(), "contentType": declared })).await;
    put_part(app, &upload, 0, bytes).await;
    let uploaded = complete(app, &upload).await.expect(201);
    [send(raw).await.expect(201), send(form).await.expect(201), uploaded]
}

#[tokio::test]
async fn no_way_in_and_no_declared_type_makes_active_content_inline() {
    let app = TestApp::start().await;
    let ways = DECLARED.into_iter().flat_map(|declared| [SVG, HTML].map(|bytes| (declared, bytes)));
    join_all(ways.map(async |(declared, bytes)| {
        for file in by_every_way(&app, declared, bytes).await {
            let content = send(app.get(&content_path(&file))).await;
            assert_harmless(&content.headers, &format!("{declared:?}: {file}"));
        }
    }))
    .await;
}

#[tokio::test]
async fn every_answer_with_content_or_about_it_is_as_harmless_as_the_whole() {
    let app = TestApp::start().await;
    let bytes = HTML.repeat(200);
    let file = app.put("name=a.html&access=public&compress=zstd", "text/html", bytes).await;
    let path = content_path(&file);
    for (method, headers, status) in [
        ("GET", vec![], 200),
        ("HEAD", vec![], 200),
        ("GET", vec![("accept-encoding", "zstd")], 200),
        ("GET", vec![("range", "bytes=0-9")], 206),
        ("GET", vec![("range", "bytes=0-9,100-109")], 206),
    ] {
        for request in [app.request(method, &path), app.anonymous(method, &path)] {
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{method} {headers:?}");
            assert_harmless(answer.headers(), &format!("{method} {headers:?}"));
        }
    }
    for (headers, status) in [(("range", "bytes=99999-"), 416), (("if-match", "\"x\""), 412)] {
        let answer = send(app.get(&path).header(headers.0, headers.1)).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"));
    }
}

#[tokio::test]
async fn what_the_bytes_are_wins_over_what_was_declared_and_both_are_told() {
    let app = TestApp::start().await;
    for file in by_every_way(&app, "image/png", HTML).await {
        assert_eq!((&file["contentType"], &file["declaredType"]), (&json!("text/html"), &json!("image/png")));
        let content = send(app.get(&content_path(&file))).await;
        assert_eq!(content.header("content-type"), "text/html");
        assert_harmless(&content.headers, "HTML");
    }
}
