//! /v1/files/{id}/shares and /v1/shares: create, list, show, change, revoke; what visitors did and said. What visitors
//! get is `links.rs`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use super::AppState;
use super::body::read_said;
use super::caller::Caller;
use super::cursor;
use super::files::{FileIdPath, idempotency_key, limit};
use super::query;
use super::view::timestamp;
use crate::error::Error;
use crate::files::access::{Action, Principal, Resource, permit};
use crate::files::shares::terms::Draft;
use crate::store::registry::list::{PageMark, SortField};
use crate::store::shares::comments::CommentDoc;
use crate::store::shares::log::AccessDoc;
use crate::store::shares::{ShareDoc, TimeMark};
use crate::store::{Bson, DateTime, Id};

const MAX_BODY_LEN: usize = 128 << 10;
const DEFAULT_LIMIT: i64 = 50;

/// `POST /v1/files/{id}/shares`: no other answer shows the token.
pub async fn create(
    caller: Caller,
    FileIdPath(file): FileIdPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Error> {
    permit(&caller.principal, Action::Share, Resource::Tenant)?;
    let said = read_said(&uri, &headers, body, caller.state.body_limits, MAX_BODY_LEN).await?;
    let (state, principal) = (&caller.state, &caller.principal);
    let now = state.files.now();
    let mut draft = Draft::new(now);
    draft.apply(&said, now)?;
    let key = idempotency_key(&headers)?;
    let made = state.files.create_share(principal, file, draft, key, caller.audit_id()).await?;
    let mut view = view(&made.share, now);
    view["token"] = json!(*made.token);
    view["url"] = json!(format!("{}/s/{}", state.public_url, *made.token));
    let location = format!("{}/v1/shares/{}", state.public_url, made.share.id.to_hex());
    let headers = [(LOCATION, location), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::CREATED, headers, Json(view)).into_response())
}

/// `GET /v1/files/{id}/shares`, newest first.
pub async fn list(
    State(state): State<AppState>,
    principal: Principal,
    FileIdPath(file): FileIdPath,
    uri: Uri,
) -> Result<Response, Error> {
    let page = Page::read(&uri, format!("shares:{file}"))?;
    let found = state.files.list_shares(&principal, file, page.after, page.limit + 1).await?;
    let now = state.files.now();
    Ok(page.answer(found, |share| (share.created_at, share.id), |share| view(share, now)))
}

/// `GET /v1/shares/{id}`.
pub async fn show(
    State(state): State<AppState>,
    principal: Principal,
    FileIdPath(id): FileIdPath,
    uri: Uri,
) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let share = state.files.find_share(&principal, id).await?;
    Ok(shown(&share, state.files.now()))
}

/// `PATCH /v1/shares/{id}`.
pub async fn edit(
    caller: Caller,
    FileIdPath(id): FileIdPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Error> {
    permit(&caller.principal, Action::Share, Resource::Tenant)?;
    let said = read_said(&uri, &headers, body, caller.state.body_limits, MAX_BODY_LEN).await?;
    let files = &caller.state.files;
    let now = files.now();
    let change = |draft: &mut Draft| draft.apply(&said, now);
    let share = files.edit_share(&caller.principal, id, change, caller.audit_id()).await?;
    Ok(shown(&share, now))
}

/// `DELETE /v1/shares/{id}`.
pub async fn revoke(caller: Caller, FileIdPath(id): FileIdPath, uri: Uri) -> Result<StatusCode, Error> {
    query::refuse(&uri)?;
    caller.state.files.revoke_share(&caller.principal, id, caller.audit_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/shares/{id}/log`, newest first.
pub async fn log(
    State(state): State<AppState>,
    principal: Principal,
    FileIdPath(id): FileIdPath,
    uri: Uri,
) -> Result<Response, Error> {
    let page = Page::read(&uri, format!("log:{id}"))?;
    let found = state.files.list_accesses(&principal, id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |access| (access.at, access.id), access_view))
}

/// `GET /v1/shares/{id}/comments`, newest first.
pub async fn comments(
    State(state): State<AppState>,
    principal: Principal,
    FileIdPath(id): FileIdPath,
    uri: Uri,
) -> Result<Response, Error> {
    let page = Page::read(&uri, format!("comments:{id}"))?;
    let found = state.files.list_comments(&principal, id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |comment| (comment.at, comment.id), comment_view))
}

/// A page of a list by time.
struct Page {
    list: String,
    after: Option<TimeMark>,
    limit: i64,
}

impl Page {
    fn read(uri: &Uri, list: String) -> Result<Self, Error> {
        let pairs = query::pairs(uri)?;
        query::require_single(&pairs, &[])?;
        let mut page = Self { list, after: None, limit: DEFAULT_LIMIT };
        for (name, value) in &pairs {
            match name.as_str() {
                "limit" => page.limit = limit(value)?,
                "cursor" => {
                    let PageMark { value, id } = cursor::decode(value, SortField::CreatedAt, &page.list)?;
                    let at = if let Bson::DateTime(at) = value { at } else { DateTime::MIN };
                    page.after = Some(TimeMark { at, id });
                }
                _ => return Err(query::unknown(name)),
            }
        }
        Ok(page)
    }

    fn answer<T>(
        self,
        mut found: Vec<T>,
        place: impl Fn(&T) -> (DateTime, Id),
        view: impl Fn(&T) -> Value,
    ) -> Response {
        let has_more = cursor::cut(&mut found, self.limit);
        let next = found.last().filter(|_| has_more).map(|last| {
            let (at, id) = place(last);
            cursor::encode(&PageMark { value: Bson::DateTime(at), id }, &self.list)
        });
        let items: Vec<_> = found.iter().map(view).collect();
        ([(CACHE_CONTROL, "no-store")], Json(json!({ "items": items, "nextCursor": next }))).into_response()
    }
}

fn shown(share: &ShareDoc, now: DateTime) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(view(share, now))).into_response()
}

fn view(share: &ShareDoc, now: DateTime) -> Value {
    let terms = &share.terms;
    let is_spent = terms.max_downloads.is_some_and(|most| share.downloads >= most);
    let status = match () {
        () if share.revoked_at.is_some() => "revoked",
        () if share.expire_at <= now => "expired",
        () if is_spent => "spent",
        () => "open",
    };
    json!({
        "id": share.id.to_hex(),
        "file": share.file.to_hex(),
        "owner": share.owner,
        "status": status,
        "name": share.name,
        "note": share.note,
        "expiresAt": timestamp(share.expire_at),
        "revokedAt": share.revoked_at.map(timestamp),
        "createdAt": timestamp(share.created_at),
        "updatedAt": timestamp(share.updated_at),
        "lastAccessedAt": share.last_accessed_at.map(timestamp),
        "downloads": share.downloads,
        "comments": share.comments,
        "maxDownloads": terms.max_downloads,
        "hasPassword": terms.password.is_some(),
        "allowView": terms.allow_view,
        "allowDownload": terms.allow_download,
        "allowComment": terms.allow_comment,
        "requireAuth": terms.require_auth,
        "allowedUsers": terms.allowed_users,
        "allowedDomains": terms.allowed_domains,
        "allowedCidrs": terms.allowed_cidrs,
    })
}

fn access_view(access: &AccessDoc) -> Value {
    json!({
        "at": timestamp(access.at),
        "act": access.act,
        "code": access.code,
        "address": access.address,
        "userAgent": access.user_agent,
        "actor": access.actor,
    })
}

/// A comment, as its author's name and words.
pub(super) fn comment_view(comment: &CommentDoc) -> Value {
    json!({ "id": comment.id.to_hex(), "at": timestamp(comment.at), "author": comment.author, "text": comment.text })
}
