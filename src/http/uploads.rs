//! /v1/uploads: create, list, put part, progress, complete, abort.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use http::header::{ACCEPT, CACHE_CONTROL, LOCATION};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::AppState;
use super::body::{BodyLimits, known_len, read_json_object, require_identity, require_json, stream_body};
use super::caller::Caller;
use super::files::{FileIdPath, file_id, idempotency_key, limit};
use super::view::timestamp;
use super::{cursor, digests, query};
use crate::error::Error;
use crate::files::access::{Action, Principal, Resource, permit};
use crate::files::uploads::{PartRequest, UploadRequest};
use crate::format::digest::Sha256Digest;
use crate::store::registry::list::{PageMark, SortField};
use crate::store::uploads::{UploadDoc, UploadStatus};
use crate::store::{Bson, Id};

/// Bytes of a body that begins or completes an upload.
const MAX_BODY_LEN: usize = 64 << 10;
const DEFAULT_LIMIT: i64 = 50;
/// Names the list in its cursors.
const LIST: &str = "uploads";
/// Pause between two looks at an upload whose progress is streamed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Looks of one stream; an `EventSource` comes back by itself.
const LOOKS: u32 = 1200;

/// The JSON of an upload; the fields are those of `openapi.yaml`.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct UploadView {
    id: String,
    status: &'static str,
    name: Option<String>,
    content_type: Option<String>,
    size: Option<i64>,
    part_size: i64,
    parts: Option<u64>,
    uploaded_bytes: u64,
    percent: Option<f64>,
    parts_received: u64,
    parts_total: Option<u64>,
    missing_parts: Vec<[u64; 2]>,
    bytes_per_second: Option<f64>,
    eta_seconds: Option<f64>,
    file_id: Option<String>,
    created_at: String,
    updated_at: String,
    expires_at: String,
    links: UploadLinks,
}

#[derive(Debug, Serialize, PartialEq)]
struct UploadLinks {
    #[serde(rename = "self")]
    this: String,
    parts: String,
    complete: String,
    file: Option<String>,
}

impl AppState {
    async fn upload_view(&self, upload: &UploadDoc) -> Result<UploadView, Error> {
        let progress = self.files.progress(upload).await?;
        let round = |value: f64| (value * 10.0).round() / 10.0;
        let this = self.upload_url(upload);
        let file_id = upload.made().map(|file| file.to_hex());
        Ok(UploadView {
            id: upload.id.to_hex(),
            status: upload.status.name(),
            name: upload.said.get_str("name").ok().map(str::to_owned),
            content_type: upload.declared_type.clone(),
            size: upload.size,
            part_size: upload.part_size,
            parts: progress.total,
            uploaded_bytes: progress.uploaded,
            percent: progress.percent.map(round),
            parts_received: progress.received,
            parts_total: progress.total,
            missing_parts: progress.missing,
            bytes_per_second: progress.bytes_per_second.map(round),
            eta_seconds: progress.eta_seconds.map(round),
            created_at: timestamp(upload.created_at),
            updated_at: timestamp(upload.updated_at),
            expires_at: timestamp(upload.expire_at),
            links: UploadLinks {
                parts: format!("{this}/parts/{{n}}"),
                complete: format!("{this}/complete"),
                file: file_id.as_ref().map(|id| format!("{}/v1/files/{id}", self.public_url)),
                this,
            },
            file_id,
        })
    }

    fn upload_url(&self, upload: &UploadDoc) -> String {
        format!("{}/v1/uploads/{}", self.public_url, upload.id.to_hex())
    }
}

/// `POST /v1/uploads`.
pub async fn create(caller: Caller, headers: HeaderMap, uri: Uri, body: Body) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    query::refuse(&uri)?;
    require_json(&headers)?;
    let said = read_json_object(body, caller.state.body_limits, MAX_BODY_LEN).await?;
    let request = UploadRequest {
        idempotency_key: idempotency_key(&headers)?,
        request_id: caller.audit_id(),
        customer_key: caller.customer_key,
        ..upload_request(said)?
    };
    let state = caller.state;
    let upload = state.files.create_upload(&caller.principal, request).await?.upload;
    let headers = [(LOCATION, state.upload_url(&upload)), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::CREATED, headers, Json(state.upload_view(&upload).await?)).into_response())
}

/// What a body says about an upload: its sizes, and options of the file.
fn upload_request(said: Map<String, Value>) -> Result<UploadRequest, Error> {
    let mut request = UploadRequest::default();
    for (name, value) in said {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("size", value) => request.size = Some(whole_number("size", &value)?),
            ("partSize", value) => request.part_size = Some(whole_number("partSize", &value)?),
            ("contentType", Value::String(declared)) => request.declared_type = Some(declared),
            ("sha256", Value::String(digest)) => request.sha256 = Some(sha256(&digest)?),
            ("contentType" | "sha256", _) => return Err(mistyped(name)),
            (_, value) => {
                let text = option_text(&name, value)?;
                request.said.push((name, text));
            }
        }
    }
    // In the order of their names, whatever that of the body: the same request is known again.
    request.said.sort();
    Ok(request)
}

/// An option as text, as a query would give it.
fn option_text(name: &str, value: Value) -> Result<String, Error> {
    match (name, value) {
        ("custom", value @ Value::Object(_)) => Ok(value.to_string()),
        ("tags", Value::Array(tags)) => {
            let tags: Option<Vec<&str>> =
                tags.iter().map(|tag| tag.as_str().filter(|tag| !tag.contains(','))).collect();
            Ok(tags.ok_or_else(|| mistyped(name.to_owned()))?.join(","))
        }
        (_, Value::String(text)) => Ok(text),
        ("encrypt", Value::Bool(encrypt)) => Ok(encrypt.to_string()),
        ("retentionDays", Value::Number(days)) => Ok(days.to_string()),
        _ => Err(mistyped(name.to_owned())),
    }
}

fn mistyped(name: String) -> Error {
    Error::new(crate::error::ErrorCode::BadRequest, "The member is not of its type.").with("field", name)
}

fn whole_number(name: &'static str, value: &Value) -> Result<u64, Error> {
    let number = value.as_u64().filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| Error::bad_request(name, format!("{name} is not a number of bytes.")))
}

fn sha256(text: &str) -> Result<Sha256Digest, Error> {
    let mut digest = [0; 32];
    match hex::decode_to_slice(text, &mut digest) {
        Ok(()) => Ok(Sha256Digest(digest)),
        Err(_) => Err(Error::bad_request("sha256", "sha256 is not 64 hexadecimal digits.")),
    }
}

/// `GET /v1/uploads`.
pub async fn list(State(state): State<AppState>, principal: Principal, uri: Uri) -> Result<Response, Error> {
    let pairs = query::pairs(&uri)?;
    query::require_single(&pairs, &[])?;
    let (mut after, mut most) = (None, DEFAULT_LIMIT);
    for (name, value) in &pairs {
        match name.as_str() {
            "limit" => most = limit(value)?,
            "cursor" => {
                let mark = cursor::decode(value, SortField::CreatedAt, LIST)?;
                after = mark.value.as_datetime().map(|at| (*at, mark.id));
            }
            _ => return Err(query::unknown(name)),
        }
    }
    let mut uploads = state.files.list_uploads(&principal, after, most + 1).await?;
    let has_more = cursor::cut(&mut uploads, most);
    let last = uploads.last().filter(|_| has_more);
    let next = last.map(|upload| PageMark { value: Bson::DateTime(upload.created_at), id: upload.id });
    let mut items = Vec::with_capacity(uploads.len());
    for upload in &uploads {
        items.push(state.upload_view(upload).await?);
    }
    let next = next.map(|mark| cursor::encode(&mark, LIST));
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "items": items, "nextCursor": next }))).into_response())
}

/// `GET` and `HEAD /v1/uploads/{id}`.
pub async fn show(
    State(state): State<AppState>,
    principal: Principal,
    FileIdPath(id): FileIdPath,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let upload = state.files.find_upload(&principal, id).await?;
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if method == Method::GET && accepts.flat_map(|value| value.split(',')).any(is_event_stream) {
        let events = Sse::new(watch(state, principal, id)).keep_alive(KeepAlive::default());
        return Ok(([(CACHE_CONTROL, "no-store")], events).into_response());
    }
    Ok(([(CACHE_CONTROL, "no-store")], Json(state.upload_view(&upload).await?)).into_response())
}

fn is_event_stream(accepted: &str) -> bool {
    accepted.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Each change of an upload as an event, up to its end; an error ends it, too.
fn watch(state: AppState, principal: Principal, id: Id) -> impl Stream<Item = Result<Event, Infallible>> {
    let looks = stream::iter(0..LOOKS).then(move |look| {
        let (state, principal) = (state.clone(), principal.clone());
        async move {
            if look > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            let upload = state.files.find_upload(&principal, id).await?;
            state.upload_view(&upload).await
        }
    });
    let (mut shown, mut has_ended) = (None, false);
    let changes = looks.map(move |looked| {
        if has_ended {
            return None;
        }
        has_ended = looked.as_ref().map_or(true, |view| view.status != UploadStatus::Open.name());
        let Ok(view) = looked else { return Some(Some(Event::default().event("error").data("{}"))) };
        if shown.as_ref() == Some(&view) {
            return Some(None);
        }
        let event = Event::default().event("progress").json_data(&view).ok();
        shown = Some(view);
        Some(event)
    });
    let open = changes.take_while(|change| std::future::ready(change.is_some()));
    open.filter_map(|change| std::future::ready(change.flatten().map(Ok)))
}

/// The number of a part in a request's path.
fn part_number(text: &str) -> Result<u64, Error> {
    let is_plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain && (text == "0" || !text.starts_with('0')));
    number.ok_or_else(|| Error::bad_request("n", "A part is named by its number, from 0."))
}

/// `PUT /v1/uploads/{id}/parts/{n}`.
pub async fn put_part(
    caller: Caller,
    Path((id, n)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let (head, body) = request.into_parts();
    query::refuse(&head.uri)?;
    let (id, n) = (file_id(&id)?, part_number(&n)?);
    require_identity(&head.headers)?;
    let request = PartRequest {
        announced_len: known_len(&body),
        digests: digests::announced(&head.headers)?.both(),
        customer_key: caller.customer_key,
    };
    let body = stream_body(body, caller.state.body_limits);
    let size = caller.state.files.put_part(caller.principal, id, n, request, body).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "part": n, "size": size }))).into_response())
}

/// `POST /v1/uploads/{id}/complete`.
pub async fn complete(caller: Caller, Path(id): Path<String>, uri: Uri, body: Body) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    query::refuse(&uri)?;
    let id = file_id(&id)?;
    refuse_members(body, caller.state.body_limits).await?;
    let audit_id = caller.audit_id();
    let Caller { state, principal, customer_key, .. } = caller;
    let put = state.files.complete_upload(principal, id, customer_key, audit_id).await?;
    Ok(state.created(put.file))
}

/// Takes no body, and an object without members.
async fn refuse_members(body: Body, limits: BodyLimits) -> Result<(), Error> {
    let body = super::body::read_whole(body, limits, MAX_BODY_LEN).await?;
    if body.is_empty() {
        return Ok(());
    }
    let members = read_json_object(body.into(), limits, MAX_BODY_LEN).await?;
    match members.keys().next() {
        Some(name) => Err(query::unknown(name)),
        None => Ok(()),
    }
}

/// `DELETE /v1/uploads/{id}`.
pub async fn abort(caller: Caller, FileIdPath(id): FileIdPath, uri: Uri) -> Result<StatusCode, Error> {
    query::refuse(&uri)?;
    caller.state.files.abort_upload(&caller.principal, id, caller.audit_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}
