//! A client of the IETF draft of resumable uploads, request by request.

use reqwest::RequestBuilder;

use super::app::TestApp;
use super::requests::{Reply, send};

/// Begins an upload with these bytes, which are all of it or not.
pub fn create_request(app: &TestApp, is_complete: bool, bytes: impl Into<reqwest::Body>) -> RequestBuilder {
    app.request("POST", "/ruft/").header("upload-complete", boolean(is_complete)).body(bytes)
}

/// Begins an upload without a byte; gives its path.
pub async fn create(app: &TestApp, size: Option<usize>) -> String {
    let request = create_request(app, false, "");
    let begun = send(size.into_iter().fold(request, |request, size| request.header("upload-length", size))).await;
    assert_eq!(begun.status, 201, "{}", String::from_utf8_lossy(&begun.body));
    begun.header("location").strip_prefix(&app.url).expect("an absolute address").to_owned()
}

pub fn append_request(
    app: &TestApp,
    path: &str,
    offset: usize,
    is_complete: bool,
    bytes: impl Into<reqwest::Body>,
) -> RequestBuilder {
    let append = app.request("PATCH", path).header("content-type", "application/partial-upload");
    append.header("upload-offset", offset).header("upload-complete", boolean(is_complete)).body(bytes)
}

pub async fn append(app: &TestApp, path: &str, offset: usize, is_complete: bool, bytes: &[u8]) -> Reply {
    let reply = send(append_request(app, path, offset, is_complete, bytes.to_vec())).await;
    assert!((200..300).contains(&reply.status), "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(reply.header("upload-complete"), boolean(is_complete));
    reply
}

/// Where an upload stands: its offset, and whether it is complete.
pub async fn state(app: &TestApp, path: &str) -> (usize, bool) {
    let reply = send(app.request("HEAD", path)).await;
    assert_eq!((reply.status, reply.header("cache-control")), (204, "no-store"));
    (reply.header("upload-offset").parse().unwrap(), reply.header("upload-complete") == "?1")
}

const fn boolean(is_true: bool) -> &'static str {
    if is_true { "?1" } else { "?0" }
}
