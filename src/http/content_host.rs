//! A host of its own for content, so that what users uploaded never shares an origin with the API or the pages around
//! it. Which host, the settings say; without one every host serves everything.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method, Uri};

use super::AppState;
use crate::error::{Error, ErrorCode};

/// Serves nothing but content on the host of content.
pub async fn confine(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let host = state.content_host.as_deref();
    let is_there = host.is_some_and(|host| is_asked(request.uri(), request.headers(), host));
    if is_there && !is_content(request.method(), request.uri().path()) {
        return Error::new(ErrorCode::RouteNotFound, "Only content is served on this host.").into_response();
    }
    next.run(request).await
}

/// The host of a URL, as hosts are compared: without its port, which proxies leave out or change.
pub fn host_of(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.host().map(comparable)
}

fn comparable(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_asked(target: &Uri, headers: &HeaderMap, host: &str) -> bool {
    // HTTP/2 and absolute targets name it in the target, others in a header.
    let named = target.authority().cloned();
    let said = || headers.get(HOST).and_then(|value| Authority::try_from(value.as_bytes()).ok());
    named.or_else(said).is_some_and(|authority| comparable(authority.host()) == host)
}

fn is_content(method: &Method, path: &str) -> bool {
    let is_file = path
        .strip_prefix("/v1/files/")
        .and_then(|rest| rest.strip_suffix("/content"))
        .is_some_and(|id| !id.is_empty() && !id.contains('/'));
    let is_shared = path.starts_with("/s/") && path.ends_with("/content");
    matches!(*method, Method::GET | Method::HEAD) && (is_file || is_shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_content_are_content() {
        let is_served = |path| is_content(&Method::GET, path);
        assert!(is_served("/v1/files/0123456789abcdef01234567/content"));
        assert!(is_served("/s/token/content") && is_served("/s/token/files/1/content"));
        assert!(!is_content(&Method::DELETE, "/v1/files/0123456789abcdef01234567/content"));
        for other in
            ["/", "/livez", "/v1/files", "/v1/files//content", "/v1/files/a", "/v1/files/a/b/content", "/s/token"]
        {
            assert!(!is_served(other), "{other}");
        }
    }

    #[test]
    fn a_host_is_known_however_it_is_written() {
        assert_eq!(host_of("https://Content.Example.org:8443/x").as_deref(), Some("content.example.org"));
        let asked = |target: &str, host: &str| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().expect("a value"))]);
            is_asked(&target.parse().expect("a target"), &headers, "content.example.org")
        };
        for host in ["content.example.org", "CONTENT.example.org:443", "content.example.org."] {
            assert!(asked("/", host), "{host}");
        }
        assert!(asked("https://content.example.org/", "files.example.org"), "the target counts (RFC 9112 §3.2.2)");
        for host in ["example.org", "files.example.org", "content.example.org.evil", ""] {
            assert!(!asked("/", host), "{host}");
        }
    }
}
