//! Counting requests and their bytes, and showing what was counted. Knows routes, not files.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, FORWARDED, VIA};
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::body::{Frame, SizeHint};

use super::serve::Peer;
use super::{AppState, query};
use crate::error::Error;
use crate::files::access::{Action, Principal, Resource, permit};
use crate::metrics::{self, InFlight};

/// What Prometheus calls the text it is given.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`: for who has the scope, and without a credential for this machine.
pub async fn show(State(state): State<AppState>, request: Request) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    if !is_free(&parts) {
        let principal = Principal::from_request_parts(&mut parts, &state).await?;
        permit(&principal, Action::Observe, Resource::Tenant)?;
    }
    query::refuse(&parts.uri)?;
    let text = metrics::text().map_err(|error| Error::internal("write the metrics", error))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS), (CACHE_CONTROL, "no-store")], text).into_response())
}

/// Whether a request needs no credential. One that brings a credential is judged by it.
fn is_free(parts: &Parts) -> bool {
    let is_local = parts.extensions.get::<Peer>().is_some_and(|peer| peer.is_loopback());
    is_local && !is_forwarded(&parts.headers) && !parts.headers.contains_key(AUTHORIZATION)
}

/// Whether a proxy on this machine passed the request on for somebody else.
fn is_forwarded(headers: &HeaderMap) -> bool {
    let marks = [FORWARDED.as_str(), VIA.as_str(), "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
    marks.iter().any(|mark| headers.contains_key(*mark))
}

/// Counts a request, its bytes and its transfer.
pub async fn count(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "-".to_owned(), |path| path.as_str().to_owned());
    let method = method_label(request.method());
    let upload = (method == "POST" && route == "/v1/files").then(InFlight::upload);
    let response = next.run(request.map(|body| Counted::wrap(body, metrics::received, None))).await;
    drop(upload);
    metrics::answered(&route, method, response.status().as_u16(), begun.elapsed());
    let is_download = method == "GET" && route.ends_with("/content") && response.status().is_success();
    let download = is_download.then(InFlight::download);
    response.map(|body| Counted::wrap(body, metrics::sent, download))
}

/// The method, where it is one of the usual.
fn method_label(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|name| method == *name).unwrap_or("other")
}

/// A body whose bytes are counted as they pass.
struct Counted {
    body: Body,
    count: fn(u64),
    _transfer: Option<InFlight>,
}

impl Counted {
    fn wrap(body: Body, count: fn(u64), transfer: Option<InFlight>) -> Body {
        Body::new(Self { body, count, _transfer: transfer })
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            (self.count)(data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: &str, header: Option<&str>) -> Parts {
        let mut request = Request::new(());
        if let Some(name) = header {
            request.headers_mut().insert(
                http::HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                http::HeaderValue::from_static("x"),
            );
        }
        let mut parts = request.into_parts().0;
        parts.extensions.insert(Peer { address: peer.parse().expect("an address"), is_tls: false });
        parts
    }

    #[test]
    fn only_this_machine_itself_needs_no_credential() {
        for peer in ["127.0.0.1:5", "127.9.9.9:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert!(is_free(&asked(peer, None)), "{peer}");
            for header in ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "authorization"] {
                assert!(!is_free(&asked(peer, Some(header))), "{peer} with {header}");
            }
        }
        for peer in ["10.0.0.1:5", "192.168.1.1:5", "[fe80::1]:5", "[::ffff:10.0.0.1]:5", "0.0.0.0:5"] {
            assert!(!is_free(&asked(peer, None)), "{peer}");
        }
        assert!(!is_free(&Request::new(()).into_parts().0), "nobody knows who asks");
    }
}
