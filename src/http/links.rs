//! /s/{token}: what whoever holds the link of a share gets: a page, or JSON; the content; a form for the password, and
//! one for comments. Terms are decided in `files/shares/visit.rs`.

mod guest;
pub(super) mod page;

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::body::{read_json_object, read_whole};
use super::caller::Caller;
use super::content::{self, Through};
use super::problem::Told;
use super::query;
use super::shares::comment_view;
use super::view::timestamp;
use crate::error::{Error, ErrorCode};
use crate::files::shares::log::Act;
use crate::files::shares::passes::Pass;
use crate::files::shares::visit::{Purpose, Visit};
pub(super) use guest::Guest;
use guest::{ENTRY_COOKIE, GRANT_COOKIE, PAGE_COOKIE};

/// Comments that a page shows.
const SHOWN_COMMENTS: i64 = 50;
const MAX_FORM_LEN: usize = 32 << 10;

pub(super) static GRANT: HeaderName = HeaderName::from_static("gridgate-grant");

/// `GET /s/{token}`.
pub async fn show(guest: Guest, uri: Uri) -> Response {
    let outcome = guest.show(&uri).await;
    guest.answer(outcome)
}

/// `POST /s/{token}`: the form with the password.
pub async fn unlock(mut guest: Guest, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let outcome = guest.unlock(&uri, &headers, body).await;
    guest.answer(outcome)
}

/// `GET /s/{token}/content`.
pub async fn content(guest: Guest, head: Parts) -> Response {
    let outcome = guest.content(head).await;
    guest.answer(outcome)
}

/// `POST /s/{token}/comments`, as JSON or by the page's form.
pub async fn comment(guest: Guest, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let outcome = guest.comment(&uri, &headers, body).await;
    guest.answer(outcome)
}

impl Guest {
    async fn show(&self, uri: &Uri) -> Result<Response, Error> {
        let pairs = query::pairs(uri)?;
        query::require_single(&pairs, &[])?;
        let wants_preview = match pairs.as_slice() {
            [] => false,
            [(name, value)] if name == "preview" && value == "1" => true,
            [(name, _), ..] => return Err(query::unknown(name)),
        };
        let mut visit = self.visit(Purpose::Page).await?;
        match self.unlock_visit(&mut visit).await {
            Err(error) if error.code == ErrorCode::PasswordRequired && !self.wants_json => {
                let mut response = page::password(None)?;
                self.keep_page(&visit, &mut response)?;
                return Ok(response);
            }
            unlocked => unlocked?,
        }
        let mut response = self.shown(&visit, wants_preview).await?;
        self.keep_page(&visit, &mut response)?;
        Ok(response)
    }

    /// What is shared, as the guest can read it.
    async fn shown(&self, visit: &Visit, wants_preview: bool) -> Result<Response, Error> {
        let files = &self.state.files;
        files.log_access(&visit.share, &self.visitor, Act::Page).await;
        let comments = files.last_comments(visit, SHOWN_COMMENTS).await?;
        if !self.wants_json {
            return page::share(visit, &self.token, &comments, wants_preview);
        }
        let view = view(visit, &self.token, &comments.iter().map(comment_view).collect::<Vec<_>>());
        Ok(([(CACHE_CONTROL, "no-store")], Json(view)).into_response())
    }

    async fn unlock(&mut self, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Response, Error> {
        query::refuse(uri)?;
        let mut form = self.read_form(headers, body).await?;
        let position = form.iter().position(|(name, _)| name == "password");
        self.password = position.map(|at| Zeroizing::new(std::mem::take(&mut form[at].1)));
        let mut visit = self.visit(Purpose::Page).await?;
        // Whatever else they come with: the cookie is for who says the password now.
        visit.is_locked = visit.share.terms.password.is_some();
        match self.unlock_visit(&mut visit).await {
            Err(error)
                if self.wants_page
                    && matches!(error.code, ErrorCode::PasswordMismatch | ErrorCode::PasswordRequired) =>
            {
                Ok(Told::by(page::password(Some(&error))?, error))
            }
            unlocked => {
                unlocked?;
                let mut response = match self.wants_json {
                    true => self.shown(&visit, false).await?,
                    false => self.back_to(&self.token),
                };
                let (entry, secs) = self.state.files.pass(Pass::Entry, &visit);
                self.set_cookie(ENTRY_COOKIE, &entry, secs, &mut response)?;
                Ok(response)
            }
        }
    }

    async fn content(&self, head: Parts) -> Result<Response, Error> {
        let visit = self.enter(Purpose::Content).await?;
        self.state.files.require_download(&visit, &self.visitor).await?;
        let caller = Caller {
            state: self.state.clone(),
            principal: visit.principal(),
            request_id: self.request_id.clone(),
            customer_key: self.customer_key.clone(),
        };
        content::respond(caller, visit.share.file, head, Some(Through { visit: &visit, guest: self })).await
    }

    async fn comment(&self, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Response, Error> {
        query::refuse(uri)?;
        let is_form = is_form(headers);
        let said: Vec<(String, Value)> = if is_form {
            self.read_form(headers, body).await?.into_iter().map(|(name, value)| (name, value.into())).collect()
        } else {
            super::body::require_json(headers)?;
            read_json_object(body, self.state.body_limits, MAX_FORM_LEN).await?.into_iter().collect()
        };
        let (mut author, mut text) = (String::new(), String::new());
        for (name, value) in said {
            let (field, slot) = match name.as_str() {
                "author" => ("author", &mut author),
                "text" => ("text", &mut text),
                _ => return Err(query::unknown(&name)),
            };
            let Value::String(value) = value else { return Err(Error::bad_request(field, "It is not a text.")) };
            *slot = value;
        }
        // Now that the body is there: it may have taken its time.
        let visit = self.enter(Purpose::Page).await?;
        self.state.limits.count_comment(visit.share.id, self.client)?;
        let comment = self.state.files.comment(&visit, &self.visitor, &author, &text).await?;
        if is_form {
            return Ok(self.back_to(&format!("../{}", self.token)));
        }
        Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(comment_view(&comment))).into_response())
    }

    async fn read_form(&self, headers: &HeaderMap, body: Body) -> Result<Vec<(String, String)>, Error> {
        if !is_form(headers) {
            let detail = "Send application/x-www-form-urlencoded.";
            return Err(Error::new(ErrorCode::UnsupportedMediaType, detail));
        }
        let whole = Zeroizing::new(read_whole(body, self.state.body_limits, MAX_FORM_LEN).await?);
        serde_urlencoded::from_bytes(&whole).map_err(|_| Error::bad_request("body", "The form is malformed."))
    }

    /// Sends a browser on, whatever path the gateway has behind a proxy.
    fn back_to(&self, path: &str) -> Response {
        (StatusCode::SEE_OTHER, [(LOCATION, path), (CACHE_CONTROL, "no-store")]).into_response()
    }

    /// Where the browser comes from is known now, and not when it fetches what the page shows or sends its form.
    fn keep_page(&self, visit: &Visit, response: &mut Response) -> Result<(), Error> {
        if !visit.is_from_page {
            return Ok(());
        }
        let (pass, secs) = self.state.files.pass(Pass::Page, visit);
        self.set_cookie(PAGE_COOKIE, &pass, secs, response)
    }

    fn set_cookie(&self, name: &str, value: &str, secs: u64, response: &mut Response) -> Result<(), Error> {
        let base = self.state.public_url.parse::<Uri>().unwrap_or_default();
        let prefix = base.path().trim_end_matches('/');
        let secure = if base.scheme_str() == Some("https") { "; Secure" } else { "" };
        let token = &self.token;
        let cookie = format!("{name}={value}; Path={prefix}/s/{token}; Max-Age={secs}; HttpOnly; SameSite=Lax{secure}");
        let cookie = HeaderValue::from_str(&cookie).map_err(|error| Error::internal("set a cookie", error))?;
        response.headers_mut().append(SET_COOKIE, cookie);
        Ok(())
    }

    /// Takes a download for an answer that is about to be given.
    ///
    /// # Errors
    /// `share_spent`, `share_revoked`, `share_expired`, `unavailable`.
    pub(super) async fn take_download(
        &self,
        visit: &Visit,
        is_view: bool,
        response: &mut Response,
    ) -> Result<(), Error> {
        let act = if is_view { Act::View } else { Act::Download };
        let taken = self.state.files.take_download(visit, &self.visitor, act).await?;
        if let Some((grant, secs)) = taken {
            let value = HeaderValue::from_str(&grant).map_err(|error| Error::internal("write a header", error))?;
            response.headers_mut().insert(&GRANT, value);
            self.set_cookie(GRANT_COOKIE, &grant, secs, response)?;
        }
        Ok(())
    }

    /// The answer, or what a browser shows of a refusal.
    fn answer(&self, outcome: Result<Response, Error>) -> Response {
        match outcome {
            Ok(response) => response,
            Err(error) if self.wants_page && error.code.row().status < 500 => {
                let page = page::refused(&error, &self.request_id);
                page.map_or_else(IntoResponse::into_response, |page| Told::by(page, error))
            }
            Err(error) => error.into_response(),
        }
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    sent.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// What is shared, as whoever holds the link may know it.
fn view(visit: &Visit, token: &str, comments: &[Value]) -> Value {
    let (share, file) = (&visit.share, &visit.file);
    json!({
        "name": file.name,
        "size": file.content.size,
        "contentType": file.content_type,
        "kind": file.kind,
        "note": share.note,
        "expiresAt": timestamp(share.expire_at),
        "maxDownloads": share.terms.max_downloads,
        "downloadsLeft": visit.downloads_left(),
        "allowView": share.terms.allow_view,
        "allowDownload": share.terms.allow_download,
        "allowComment": share.terms.allow_comment,
        "needsKey": needs_key(visit),
        "comments": comments,
        "links": { "content": format!("{token}/content") },
    })
}

/// Whether the content opens with a key of the client only.
fn needs_key(visit: &Visit) -> bool {
    visit.file.content.mode.as_deref() == Some("customer")
}
