//! Errors as problem+json (RFC 9457): the only place that renders and logs them.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use std::error::Error as _;
use tracing::Level;

use super::AppState;
use crate::error::{Error, ErrorCode};
use crate::metrics;
use crate::random;

/// Names a request in answers and logs.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    fn random() -> Self {
        Self(hex::encode(random::bytes::<12>()).into())
    }
}

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Fields of the answer that a problem replaces: the router's, and those of protocols.
const KEPT: [&str; 4] = ["allow", "accept-patch", "upload-limit", "upload-offset"];
/// Seconds after which a retry may help.
const RETRY_AFTER_SECS: u64 = 1;

/// The error that a response stands for until it is rendered.
#[derive(Clone)]
pub struct Failure(pub Arc<Error>);

/// The error that a response tells by itself, as a page.
#[derive(Clone)]
pub struct Told(pub Arc<Error>);

impl Told {
    /// A response that tells an error.
    pub fn by(mut response: Response, error: Error) -> Response {
        response.extensions_mut().insert(Self(Arc::new(error)));
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = status(self.code).into_response();
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

/// A panic of a handler as the error it is.
pub fn from_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<String>().cloned();
    let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Error::internal("answer the request", message.unwrap_or_else(|| "a panic".to_owned())).into_response()
}

/// Names the request, and renders and logs the error it ended with.
pub async fn render(State(_): State<AppState>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = RequestId::random();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("-".to_owned(), |path| path.as_str().to_owned());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() {
        let (old, _) = response.into_parts();
        response = problem(&error, &id);
        for name in KEPT {
            if let Some(value) = old.headers.get(name) {
                response.headers_mut().insert(HeaderName::from_static(name), value.clone());
            }
        }
        log(&error, &id, method.as_str(), &route);
    }
    if let Some(Told(error)) = response.extensions_mut().remove::<Told>() {
        log(&error, &id, method.as_str(), &route);
    }
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(request.id = &*id.0, %method, route, status = response.status().as_u16(), elapsed_ms, "answered");
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(&REQUEST_ID, value);
    }
    response
}

fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn problem(error: &Error, id: &RequestId) -> Response {
    let row = error.code.row();
    let mut members: Map<String, Value> =
        error.members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    members.entry("type").or_insert_with(|| format!("urn:gridgate:error:{}", row.code).into());
    members.insert("title".into(), row.title.into());
    members.insert("status".into(), row.status.into());
    members.insert("detail".into(), error.detail.as_ref().into());
    members.insert("code".into(), row.code.into());
    members.insert("requestId".into(), (*id.0).into());
    members.insert("retryable".into(), row.retryable.into());
    let mut response = (status(error.code), Value::Object(members).to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if error.code == ErrorCode::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(row.status, 429 | 503) {
        headers.insert(RETRY_AFTER, HeaderValue::from(error.number("retryAfterSecs").unwrap_or(RETRY_AFTER_SECS)));
    }
    if let Some(len) = error.members.iter().find(|(name, _)| *name == "plainLen").and_then(|(_, len)| len.as_u64())
        && let Ok(value) = HeaderValue::from_str(&super::ranges::unsatisfied_range(len))
    {
        headers.insert(http::header::CONTENT_RANGE, value);
        headers.insert(http::header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}

/// Client faults at debug, trouble that passes at warn, faults of ours at error with their causes.
fn log(error: &Error, id: &RequestId, method: &str, route: &str) {
    if error.code == ErrorCode::Damaged {
        metrics::integrity_failure();
    }
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(found) = cause {
        causes.push(found.to_string());
        cause = found.source();
    }
    let (id, code, causes) = (&*id.0, error.code.row().code, causes.join(": "));
    match error.code.row() {
        row if row.status < 500 => tracing::debug!(request.id = id, method, route, code, causes, "refused"),
        row if row.retryable => tracing::warn!(request.id = id, method, route, code, causes, "could not answer"),
        _ => tracing::event!(Level::ERROR, request.id = id, method, route, code, causes, "failed"),
    }
}
