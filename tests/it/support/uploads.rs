//! A client of resumable uploads in parts.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::app::TestApp;
use super::requests::{Reply, send};

/// The smallest part.
pub const PART: usize = 256 << 10;

/// Begins an upload; gives the answer's JSON.
pub async fn begin(app: &TestApp, said: Value) -> Value {
    send(begin_request(app, said)).await.expect(201)
}

pub fn begin_request(app: &TestApp, said: Value) -> RequestBuilder {
    app.request("POST", "/v1/uploads").json(&said)
}

/// Begins an upload of so many bytes in the smallest parts.
pub async fn begin_sized(app: &TestApp, size: usize) -> Value {
    begin(app, json!({ "name": "parts.bin", "size": size, "partSize": PART })).await
}

pub fn path(upload: &Value) -> String {
    format!("/v1/uploads/{}", upload["id"].as_str().unwrap())
}

pub fn part_request(app: &TestApp, upload: &Value, n: usize, bytes: &[u8]) -> RequestBuilder {
    app.request("PUT", &format!("{}/parts/{n}", path(upload))).body(bytes.to_vec())
}

/// Sends a part; it must be taken.
pub async fn put_part(app: &TestApp, upload: &Value, n: usize, bytes: &[u8]) {
    let answer = send(part_request(app, upload, n, bytes)).await.expect(200);
    assert_eq!(answer, json!({ "part": n, "size": bytes.len() }));
}

/// Sends these parts of a content, one after the other.
pub async fn put_parts(app: &TestApp, upload: &Value, bytes: &[u8], parts: impl IntoIterator<Item = usize>) {
    for n in parts {
        put_part(app, upload, n, part_of(bytes, n)).await;
    }
}

/// Part `n` of a content in the smallest parts.
pub fn part_of(bytes: &[u8], n: usize) -> &[u8] {
    &bytes[n * PART..bytes.len().min((n + 1) * PART)]
}

pub async fn complete(app: &TestApp, upload: &Value) -> Reply {
    send(complete_request(app, upload)).await
}

pub fn complete_request(app: &TestApp, upload: &Value) -> RequestBuilder {
    app.request("POST", &format!("{}/complete", path(upload)))
}

/// How far it came.
pub async fn progress(app: &TestApp, upload: &Value) -> Value {
    send(app.get(&path(upload))).await.expect(200)
}
