//! The pages of shares: rendered here, readable without scripts, and allowed nothing but what they show. Templates are
//! in `templates/`.

use std::sync::LazyLock;

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, StatusCode};

use super::super::disposition::{clean, is_safe_inline};
use super::super::problem::RequestId;
use super::super::view::timestamp;
use super::needs_key;
use crate::error::{Error, ErrorCode};
use crate::files::shares::visit::Visit;
use crate::format::digest::Sha256Digest;
use crate::store::DateTime;
use crate::store::shares::comments::CommentDoc;

const STYLE: &str = include_str!("../../../templates/share.css");

static ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// The one style by its hash, an icon that is none, and nothing else that is not asked of this gateway (CSP Level 3, §2.4).
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256Digest::of(STYLE.as_bytes()).0);
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self' data:; media-src 'self'; frame-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// How a browser shows content on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preview {
    None,
    /// After a click, as it takes a download.
    Offered,
    Image,
    Video,
    Audio,
    Text,
    Pdf,
}

#[derive(Template)]
#[template(path = "share.html")]
struct SharePage<'a> {
    style: &'static str,
    name: String,
    size: String,
    content_type: &'a str,
    note: &'a str,
    expires: String,
    left: Option<i64>,
    token: &'a str,
    preview: Preview,
    is_downloadable: bool,
    needs_key: bool,
    takes_comments: bool,
    comments: Vec<(String, &'a str, &'a str)>,
}

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage {
    style: &'static str,
    is_wrong: bool,
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusedPage<'a> {
    style: &'static str,
    title: &'a str,
    detail: &'a str,
    request: &'a str,
}

/// The page of a share that is open.
pub(super) fn share(
    visit: &Visit,
    token: &str,
    comments: &[CommentDoc],
    wants_preview: bool,
) -> Result<Response, Error> {
    let (share, file) = (&visit.share, &visit.file);
    let left = visit.downloads_left();
    let has_download = left != Some(0) || visit.has_grant;
    let preview = match preview_of(&file.content_type) {
        _ if !share.terms.allow_view || needs_key(visit) || !has_download => Preview::None,
        Preview::None => Preview::None,
        _ if left.is_some() && !visit.has_grant && !wants_preview => Preview::Offered,
        preview => preview,
    };
    let page = SharePage {
        style: STYLE,
        name: clean(&file.name),
        size: human_size(file.content.size),
        content_type: &file.content_type,
        note: &share.note,
        expires: minute(share.expire_at),
        left,
        token,
        preview,
        is_downloadable: share.terms.allow_download && !needs_key(visit) && has_download,
        needs_key: needs_key(visit),
        takes_comments: share.terms.allow_comment,
        comments: comments.iter().map(|comment| (minute(comment.at), &*comment.author, &*comment.text)).collect(),
    };
    respond(StatusCode::OK, &page)
}

/// The page that asks for the password, again after a wrong one.
pub(super) fn password(wrong: Option<&Error>) -> Result<Response, Error> {
    let status = wrong.map_or(StatusCode::OK, status_of);
    respond(status, &PasswordPage { style: STYLE, is_wrong: wrong.is_some() })
}

/// The page of a link that is not open to who follows it.
pub(super) fn refused(error: &Error, request: &RequestId) -> Result<Response, Error> {
    let title = error.code.row().title;
    let page = RefusedPage { style: STYLE, title, detail: &error.detail, request: &request.0 };
    let mut response = respond(status_of(error), &page)?;
    if error.code == ErrorCode::Unauthenticated {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(secs) = error.number("retryAfterSecs") {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
    }
    Ok(response)
}

fn status_of(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.code.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn respond(status: StatusCode, page: &impl Template) -> Result<Response, Error> {
    let html = page.render().map_err(|error| Error::internal("write the page", error))?;
    let policy = HeaderValue::from_str(&POLICY).map_err(|error| Error::internal("write the page", error))?;
    let mut response = (status, Html(html)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (ROBOTS.clone(), "noindex, nofollow"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Whether a page shows content of a type in a frame of its own although it is not safe everywhere.
pub(in super::super) fn is_pdf(content_type: &str) -> bool {
    content_type == "application/pdf"
}

fn preview_of(content_type: &str) -> Preview {
    let is_safe = is_safe_inline(content_type);
    match content_type.split('/').next().unwrap_or_default() {
        _ if is_pdf(content_type) => Preview::Pdf,
        "image" if is_safe => Preview::Image,
        "video" if is_safe => Preview::Video,
        "audio" if is_safe => Preview::Audio,
        "text" if is_safe => Preview::Text,
        _ => Preview::None,
    }
}

/// A time to the minute.
fn minute(at: DateTime) -> String {
    timestamp(at).get(..16).unwrap_or_default().replace('T', " ")
}

/// Bytes in the largest binary unit that leaves something before the point.
fn human_size(size: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if size < 1024 {
        return format!("{size} {}", if size == 1 { "byte" } else { "bytes" });
    }
    let (mut value, mut unit) = (size as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (size, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(human_size(size), text);
        }
    }

    #[test]
    fn only_what_is_safe_is_shown() {
        assert_eq!(preview_of("image/png"), Preview::Image);
        assert_eq!(preview_of("video/mp4"), Preview::Video);
        assert_eq!(preview_of("audio/mpeg"), Preview::Audio);
        assert_eq!(preview_of("text/plain; charset=utf-8"), Preview::Text);
        assert_eq!(preview_of("application/pdf"), Preview::Pdf);
        for other in ["image/svg+xml", "text/html", "application/zip", "application/pdf;x=y", ""] {
            assert_eq!(preview_of(other), Preview::None, "{other}");
        }
    }
}
