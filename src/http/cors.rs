//! CORS (Fetch Standard, §3.3): which pages of other origins may ask, by the settings alone. Credentials travel in
//! `Authorization`, which a page has to know, never in cookies; so none are allowed.
//!
//! Not a layer of `tower-http`: that one answers every OPTIONS, and clients of tus ask theirs what is offered.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderValue, Method, StatusCode};

use super::AppState;

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const ASKED: &str = "Authorization, Content-Type, Content-Digest, Repr-Digest, Idempotency-Key, Range, If-Match, \
    If-None-Match, If-Range, Gridgate-Encryption-Key, Gridgate-Encryption-Key-SHA256, Gridgate-Share-Password, Gridgate-Grant, Tus-Resumable, Upload-Length, \
    Upload-Defer-Length, Upload-Metadata, Upload-Offset, Upload-Checksum, Upload-Concat, \
    Upload-Complete, Upload-Draft-Interop-Version, Content-Disposition, X-HTTP-Method-Override, \
    X-Requested-With, X-Request-ID";
const SHOWN: &str = "Location, ETag, Content-Range, Content-Disposition, Accept-Ranges, Repr-Digest, Retry-After, \
    Server-Timing, X-Request-Id, Gridgate-File-Id, Gridgate-Grant, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, \
    Tus-Checksum-Algorithm, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Expires, \
    Upload-Concat, Upload-Complete, Upload-Limit, Accept-Patch";
/// Seconds that a browser may remember the answer to a preflight.
const MAX_AGE: &str = "7200";

/// Answers preflights of pages that may ask, and tells them what they may see of other answers.
pub async fn answer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let allowed = origin.as_ref().and_then(|origin| allowed(&state.cors_origins, origin));
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let Some(allowed) = allowed else {
        let mut response = next.run(request).await;
        if !state.cors_origins.is_empty() {
            response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
        }
        return response;
    };
    let mut response = match is_preflight {
        true => {
            let headers = [
                (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, ASKED),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            ];
            (StatusCode::OK, headers).into_response()
        }
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN));
    headers.append(VARY, HeaderValue::from_static("origin"));
    response
}

/// What to answer an origin that may ask.
fn allowed(origins: &[String], origin: &HeaderValue) -> Option<HeaderValue> {
    let known = origins.iter().find(|known| *known == "*" || known.as_bytes() == origin.as_bytes())?;
    Some(if known == "*" { HeaderValue::from_static("*") } else { origin.clone() })
}
