//! /v1/files: put, list, head, edit, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::json;

use super::AppState;
use super::body::{known_len, read_said, require_identity, stream_body};
use super::caller::{Caller, LinkCaller};
use super::{cursor, digests, disposition, form, query};
use crate::content::ContentKind;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, Resource, permit};
use crate::files::options::{self, PutOptions};
use crate::files::protection::KEY_HEADER;
use crate::files::put::PutRequest;
use crate::store::registry::list::{Direction, FileFilter, PageQuery, SortField};
use crate::store::{DateTime, Id};

/// Bytes of a PATCH body.
const MAX_PATCH_LEN: usize = 64 << 10;
const MAX_IDEMPOTENCY_KEY_LEN: usize = 255;
const DEFAULT_LIMIT: i64 = 50;
const LIMITS: std::ops::RangeInclusive<i64> = 1..=200;

/// The file id in a request's path.
pub struct FileIdPath(pub Id);

impl FromRequestParts<AppState> for FileIdPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Error::new(ErrorCode::InvalidId, "An id is 24 lower-case hexadecimal digits."));
        };
        file_id(&text).map(Self)
    }
}

/// Parses a file id, for paths and parameters.
///
/// # Errors
/// `invalid_id`.
pub(super) fn file_id(text: &str) -> Result<Id, Error> {
    let is_lower_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let parsed = text.parse().ok().filter(|_| is_lower_hex && text.len() == 24);
    parsed.ok_or_else(|| Error::new(ErrorCode::InvalidId, "An id is 24 lower-case hexadecimal digits."))
}

/// `POST /v1/files`.
pub async fn put(LinkCaller(caller): LinkCaller, request: Request) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let audit_id = caller.audit_id();
    let Caller { state, principal, customer_key, .. } = caller;
    let is_link = principal.upload_terms().is_some();
    if is_link && customer_key.is_some() {
        return Err(Error::bad_header(KEY_HEADER, "What a link makes is not locked to who holds it."));
    }
    let (head, body) = request.into_parts();
    require_identity(&head.headers)?;
    let now = DateTime::from_system_time(state.files.clock.now());
    let (options, given) = query_options(&head.uri, now)?;
    let announced = digests::announced(&head.headers)?;
    let mut request = PutRequest {
        options,
        idempotency_key: idempotency_key(&head.headers)?,
        request_id: audit_id,
        customer_key,
        ..PutRequest::default()
    };
    let body = match form::boundary(&head.headers)? {
        Some(boundary) => {
            form::check_len(known_len(&body), state.files.routing.max_bytes())?;
            let body = form::FormBody::new(stream_body(body, state.body_limits), announced.content);
            // Whoever holds a link says nothing of the file but what the link says.
            let form = form::read_form(body, boundary, request.options, given, !is_link, now).await?;
            request.digests = announced.repr;
            request.options = form.options;
            request.declared_type = form.declared_type;
            form.body
        }
        None => {
            if request.options.name.is_none() {
                let name = disposition::filename_from(&head.headers).filter(|name| !name.is_empty());
                request.options.name = name.map(|name| options::name(&name)).transpose()?;
            }
            let declared = head.headers.get(CONTENT_TYPE);
            request.declared_type = declared.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            request.announced_len = known_len(&body);
            request.digests = announced.both();
            stream_body(body, state.body_limits)
        }
    };
    if let Some(terms) = principal.upload_terms() {
        request.declared_type = request.declared_type.or_else(|| terms.content_type.clone());
    }
    let made = state.files.put(principal, request, body).await?;
    Ok(if is_link { state.received(made.file) } else { state.created(made.file) })
}

/// The options of the query, and which of them are given.
fn query_options(uri: &Uri, now: DateTime) -> Result<(PutOptions, Vec<String>), Error> {
    let pairs = query::pairs(uri)?;
    query::require_single(&pairs, &[])?;
    let mut options = PutOptions::default();
    for (name, value) in &pairs {
        if !options.set(name, value, now)? {
            return Err(query::unknown(name));
        }
    }
    Ok((options, pairs.into_iter().map(|(name, _)| name).collect()))
}

/// The client's name for a request that makes something.
///
/// # Errors
/// `bad_header`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len()));
    let key = key.filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()) && values.next().is_none());
    let key =
        key.ok_or_else(|| Error::bad_header("Idempotency-Key", "Send one key of 1 to 255 visible characters."))?;
    Ok(Some(key.to_owned()))
}

/// `GET /v1/files`.
pub async fn list(State(state): State<AppState>, principal: Principal, uri: Uri) -> Result<Response, Error> {
    let (page, list) = page_query(&uri)?;
    let found = state.files.list(&principal, page).await?;
    let items = found.items.into_iter().map(|file| state.view(file)).collect::<Vec<_>>();
    let next_cursor = found.next.as_ref().map(|mark| cursor::encode(mark, &list));
    let body = json!({
        "items": items,
        "nextCursor": next_cursor,
        "total": found.total.count,
        "totalIsExact": found.total.is_exact,
    });
    Ok(([(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// The page that is asked for, and the list it is of.
fn page_query(uri: &Uri) -> Result<(PageQuery, String), Error> {
    let pairs = query::pairs(uri)?;
    query::require_single(&pairs, &["tag"])?;
    let (sort, direction) = match pairs.iter().find(|(name, _)| name == "sort") {
        Some((_, value)) => sort_order(value)?,
        None => (SortField::CreatedAt, Direction::Descending),
    };
    let mut page = PageQuery { filter: FileFilter::default(), sort, direction, after: None, limit: DEFAULT_LIMIT };
    let list = cursor::list_of(&pairs);
    for (name, value) in &pairs {
        match name.as_str() {
            "sort" => {}
            "limit" => page.limit = limit(value)?,
            "cursor" => page.after = Some(cursor::decode(value, sort, &list)?),
            _ => filter(&mut page.filter, name, value)?,
        }
    }
    check_bounds(&page.filter)?;
    Ok((page, list))
}

fn filter(filter: &mut FileFilter, name: &str, value: &str) -> Result<(), Error> {
    let text = |field: &'static str, max_len: usize| {
        let is_fit = (1..=max_len).contains(&value.len()) && !value.contains('\0');
        let refused = || Error::bad_request(field, format!("{field} is not a text of 1 to {max_len} bytes."));
        is_fit.then(|| value.to_owned()).ok_or_else(refused)
    };
    match name {
        "kind" => {
            let known = ContentKind::ALL.iter().find(|kind| kind.name() == value);
            let known = known.ok_or_else(|| Error::bad_request("kind", "There is no such kind."))?;
            filter.kind = Some(known.name().to_owned());
        }
        "contentType" => filter.content_type = Some(text("contentType", 255)?),
        "bucket" => filter.bucket = Some(text("bucket", 255)?),
        "category" => filter.category = Some(options::label("category", value)?),
        "tag" => filter.tags.push(options::label("tag", value)?),
        "folder" => filter.folder = Some(options::folder(value)?),
        "owner" => filter.owner = Some(text("owner", 256)?),
        "access" => filter.access = Some(options::access(value)?.name().to_owned()),
        "minSize" => filter.min_size = Some(size("minSize", value)?),
        "maxSize" => filter.max_size = Some(size("maxSize", value)?),
        "createdAfter" => filter.created_after = Some(instant("createdAfter", value)?),
        "createdBefore" => filter.created_before = Some(instant("createdBefore", value)?),
        _ => return Err(query::unknown(name)),
    }
    Ok(())
}

fn check_bounds(filter: &FileFilter) -> Result<(), Error> {
    if filter.min_size.zip(filter.max_size).is_some_and(|(min, max)| min > max) {
        return Err(Error::bad_request("minSize", "minSize is above maxSize."));
    }
    if filter.created_after.zip(filter.created_before).is_some_and(|(after, before)| after > before) {
        return Err(Error::bad_request("createdAfter", "createdAfter is later than createdBefore."));
    }
    Ok(())
}

fn sort_order(value: &str) -> Result<(SortField, Direction), Error> {
    let (direction, field) = match value.strip_prefix('-') {
        Some(field) => (Direction::Descending, field),
        None => (Direction::Ascending, value),
    };
    match field {
        "createdAt" => Ok((SortField::CreatedAt, direction)),
        "name" => Ok((SortField::Name, direction)),
        "size" => Ok((SortField::Size, direction)),
        _ => Err(Error::bad_request("sort", "sort is not createdAt, name or size, with - before it for descending.")),
    }
}

pub(super) fn limit(value: &str) -> Result<i64, Error> {
    number(value).filter(|limit| LIMITS.contains(limit)).ok_or_else(|| {
        Error::bad_request("limit", format!("limit is not between {} and {}.", LIMITS.start(), LIMITS.end()))
    })
}

/// Digits without a sign, which a query would turn into a space.
fn number(value: &str) -> Option<i64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

fn size(field: &'static str, value: &str) -> Result<i64, Error> {
    number(value).ok_or_else(|| Error::bad_request(field, format!("{field} is not a number of bytes.")))
}

pub(super) fn instant(field: &'static str, value: &str) -> Result<DateTime, Error> {
    options::timestamp(value).ok_or_else(|| Error::bad_request(field, format!("{field} is not an RFC 3339 time.")))
}

/// `GET` and `HEAD /v1/files/{id}`.
pub async fn head(
    State(state): State<AppState>,
    principal: Principal,
    FileIdPath(id): FileIdPath,
    uri: Uri,
) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let file = state.files.head(&principal, id).await?;
    let view = state.view(file);
    Ok(([(CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

/// `PATCH /v1/files/{id}`.
pub async fn edit(
    caller: Caller,
    FileIdPath(id): FileIdPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let state = &caller.state;
    let patch = read_said(&uri, &headers, body, state.body_limits, MAX_PATCH_LEN).await?;
    let file = state.files.edit(&caller.principal, id, &patch, caller.audit_id()).await?;
    let view = state.view(file);
    Ok(([(CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

/// `DELETE /v1/files/{id}`.
pub async fn delete(caller: Caller, FileIdPath(id): FileIdPath, uri: Uri) -> Result<StatusCode, Error> {
    query::refuse(&uri)?;
    caller.state.files.delete(&caller.principal, id, caller.audit_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}
