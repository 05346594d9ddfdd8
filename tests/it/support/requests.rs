//! Answers taken apart, and forms put together by hand.

use mongodb::bson::{Document, doc};
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::app::TestApp;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem of a refused request.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        problem
    }

    /// The same, under the problem type of the IETF draft of resumable uploads.
    #[track_caller]
    pub fn refused_by_draft(&self, status: u16, code: &str) -> Value {
        let problem = self.refused(status, code);
        assert!(problem["type"].as_str().unwrap().starts_with(TYPES), "{problem}");
        problem
    }
}

/// Sends a request; an error answer must be a whole problem document, or a page where a browser asks for one.
pub async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let is_head = headers.get("content-length").is_some_and(|len| len != "0");
    let reply = Reply { status, headers, body: response.bytes().await.unwrap().to_vec() };
    if reply.header("content-type").starts_with("text/html") && reply.header("content-disposition").is_empty() {
        assert_is_page(&reply);
    } else if status >= 400 && !(is_head && reply.body.is_empty()) {
        assert_is_problem(&reply);
    }
    reply
}

/// Checks what every page is served with, and that nothing in it could run or be fetched from elsewhere.
#[track_caller]
fn assert_is_page(reply: &Reply) {
    let page = String::from_utf8(reply.body.clone()).unwrap();
    let policy = reply.header("content-security-policy");
    for rule in ["default-src 'none'", "style-src 'sha256-", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(reply.header(name), value);
    }
    for active in ["<script", "javascript:", "//"] {
        assert!(!page.contains(active), "{active}: {page}");
    }
}

/// Where problem types of the IETF draft of resumable uploads are registered.
const TYPES: &str = "https://iana.org/assignments/http-problem-types#";
/// Codes that go out under those types to its clients.
const OF_DRAFT: [(&str, &str); 3] = [
    ("offset_mismatch", "mismatching-upload-offset"),
    ("upload_completed", "completed-upload"),
    ("inconsistent_length", "inconsistent-upload-length"),
];

/// Checks what RFC 9457 and our contract promise about an error answer.
#[track_caller]
pub fn assert_is_problem(reply: &Reply) {
    let problem = reply.json();
    assert_eq!(reply.header("content-type"), "application/problem+json", "{problem}");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(problem["status"], reply.status, "{problem}");
    let code = problem["code"].as_str().unwrap();
    let of_draft = OF_DRAFT.iter().find(|(known, _)| *known == code).map(|(_, name)| format!("{TYPES}{name}"));
    let is_of_draft = of_draft.is_some_and(|of_draft| problem["type"] == of_draft);
    assert!(is_of_draft || problem["type"] == format!("urn:gridgate:error:{code}"), "{problem}");
    assert_eq!(problem["requestId"], reply.header("x-request-id"));
    assert!(problem["retryable"].is_boolean(), "{problem}");
    for member in ["title", "detail", "requestId"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
    if reply.status == 401 {
        assert_eq!(reply.header("www-authenticate"), "Bearer");
    }
    if [429, 503].contains(&reply.status) {
        assert_ne!(reply.header("retry-after"), "");
    }
}

/// A query string.
pub fn query(pairs: &[(&str, &str)]) -> String {
    serde_urlencoded::to_string(pairs).unwrap()
}

/// A `multipart/form-data` body.
#[derive(Default)]
pub struct Form(Vec<u8>);

const BOUNDARY: &str = "----gridgate-tests-0123456789";

impl Form {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part with the given header lines.
    pub fn part(mut self, head: &str, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    pub fn field(self, name: &str, value: &str) -> Self {
        self.part(&format!("Content-Disposition: form-data; name=\"{name}\""), value.as_bytes())
    }

    pub fn file(self, name: &str, content_type: &str, bytes: &[u8]) -> Self {
        let head = format!(
            "Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {content_type}"
        );
        self.part(&head, bytes)
    }

    /// The body, and no end of it.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub fn body(mut self) -> Vec<u8> {
        self.0.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.0
    }

    /// A request that uploads it.
    pub fn request(self, app: &TestApp, query: &str) -> RequestBuilder {
        let body = self.body();
        form_request(app, query).body(body)
    }
}

/// A request for a form without its body.
pub fn form_request(app: &TestApp, query: &str) -> RequestBuilder {
    let request = app.request("POST", &format!("/v1/files?{query}"));
    request.header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
}

/// Files a reader could see, and registry documents, which must be as many.
pub async fn count_files(app: &TestApp) -> u64 {
    let total = send(app.get("/v1/files")).await.expect(200)["total"].as_u64().unwrap();
    let registry = app.mongo().await.collection::<Document>("file_registry");
    assert_eq!(registry.count_documents(doc! {}).await.unwrap(), total, "what is listed is what is registered");
    total
}

/// Checks that no file is there: not for readers, not in the registry, not for a GridFS tool.
pub async fn assert_nothing_stored(app: &TestApp) {
    assert_eq!(count_files(app).await, 0);
    let database = app.mongo().await;
    for bucket in app.app.files.routing.names() {
        let files = database.collection::<Document>(&format!("{bucket}.files"));
        assert_eq!(files.count_documents(doc! {}).await.unwrap(), 0, "a GridFS tool sees a file in {bucket}");
    }
    let audit = database.collection::<Document>("audit");
    assert_eq!(audit.count_documents(doc! {}).await.unwrap(), 0, "nothing happened, so nothing is audited");
}
