//! A client of tus 1.0.0, request by request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;

use super::app::TestApp;
use super::requests::{Reply, send};

pub fn request(app: &TestApp, method: &str, path: &str) -> RequestBuilder {
    app.request(method, path).header("tus-resumable", "1.0.0")
}

/// Begins an upload; gives its path.
pub async fn create(app: &TestApp, size: usize, name: &str) -> String {
    path_of(app, &send(create_request(app, size, name)).await)
}

pub fn create_request(app: &TestApp, size: usize, name: &str) -> RequestBuilder {
    let metadata = format!("filename {}", STANDARD.encode(name));
    request(app, "POST", "/tus/").header("upload-length", size).header("upload-metadata", metadata)
}

/// The path of an upload that was begun.
pub fn path_of(app: &TestApp, reply: &Reply) -> String {
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    reply.header("location").strip_prefix(&app.url).expect("an absolute address").to_owned()
}

pub fn patch_request(app: &TestApp, path: &str, offset: usize, bytes: impl Into<reqwest::Body>) -> RequestBuilder {
    let patch = request(app, "PATCH", path).header("content-type", "application/offset+octet-stream");
    patch.header("upload-offset", offset).body(bytes)
}

/// Appends; gives the offset then.
pub async fn patch(app: &TestApp, path: &str, offset: usize, bytes: &[u8]) -> usize {
    let reply = send(patch_request(app, path, offset, bytes.to_vec())).await;
    assert_eq!(reply.status, 204, "{}", String::from_utf8_lossy(&reply.body));
    number(&reply.headers, "upload-offset")
}

/// Where an upload ends.
pub async fn offset(app: &TestApp, path: &str) -> usize {
    number(&head(app, path).await.headers, "upload-offset")
}

pub async fn head(app: &TestApp, path: &str) -> Reply {
    let reply = send(request(app, "HEAD", path)).await;
    assert_eq!(reply.status, 200);
    reply
}

pub fn number(headers: &HeaderMap, name: &str) -> usize {
    headers[name].to_str().unwrap().parse().unwrap()
}

pub fn partial_request(app: &TestApp, size: usize) -> RequestBuilder {
    request(app, "POST", "/tus/").header("upload-concat", "partial").header("upload-length", size)
}

/// A partial upload of these bytes; gives its path.
pub async fn partial(app: &TestApp, bytes: &[u8]) -> String {
    let path = path_of(app, &send(partial_request(app, bytes.len())).await);
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    patch(app, &path, 0, first).await;
    patch(app, &path, first.len(), rest).await;
    path
}

/// A final upload of these, with a name and a type.
pub fn final_request(app: &TestApp, partials: &[String]) -> RequestBuilder {
    let metadata = [("filename", "whole.bin"), ("filetype", "application/x-noise")];
    let metadata = metadata.map(|(name, value)| format!("{name} {}", STANDARD.encode(value)));
    let final_of = request(app, "POST", "/tus/").header("upload-concat", format!("final;{}", partials.join(" ")));
    final_of.header("upload-metadata", metadata.join(","))
}
