//! Refuses requests that two HTTP implementations could read differently, and tunnels. The parser
//! beneath refuses the rest.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, HOST, TRANSFER_ENCODING};
use http::{Method, Version};

use crate::error::{Error, ErrorCode};

/// Lets through only `Transfer-Encoding: chunked` and, in HTTP/1.1, exactly one `Host`; never CONNECT.
///
/// # Source
/// RFC 9112 §3.2 and §6.1.
pub async fn refuse_ambiguous_framing(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked_only = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if !is_chunked_only {
        return Error::bad_header("Transfer-Encoding", "Only the transfer coding \"chunked\" is understood.")
            .into_response();
    }
    if request.version() == Version::HTTP_11 && headers.get_all(HOST).iter().count() != 1 {
        return Error::bad_header("Host", "A request has exactly one Host.").into_response();
    }
    if request.method() == Method::CONNECT {
        let error = Error::new(ErrorCode::MethodNotAllowed, "This is no proxy.");
        return ([(ALLOW, "")], error).into_response();
    }
    next.run(request).await
}
