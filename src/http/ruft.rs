//! /ruft: uploads by clients of the IETF draft (draft-ietf-httpbis-resumable-upload-12, interop version 8;
//! <https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/>). The uploads are those of /v1/uploads.
//!
//! No `104` is sent: the HTTP library has no way to. Clients create carefully (§12.2), or name the creation by an
//! `Idempotency-Key` and ask again.

mod fields;
mod refused;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, Uri};

use super::AppState;
use super::append::{FILE_ID, UPLOAD_LENGTH, UPLOAD_OFFSET, give_up, insert, part_size, to_the_end};
use super::body::{known_len, require_identity, stream_body};
use super::caller::Caller;
use super::digests::{self, REPR_DIGEST, repr_digest};
use super::disposition;
use super::files::{FileIdPath, idempotency_key};
use super::query;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Resource, permit};
use crate::files::uploads::{AppendRequest, Begun, UploadRequest};
use crate::format::digest::Sha256Digest;
use crate::pipeline::BodyStream;
use crate::store::Id;
use crate::store::uploads::{UploadDoc, UploadStatus};
use fields::{inconsistent, is_complete, length, offset, require_partial_type};
use refused::Refused;

const PARTIAL_UPLOAD: &str = "application/partial-upload";
/// The largest integer of a structured field (RFC 9651, §3.3.1).
const MOST: u64 = 999_999_999_999_999;

static ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
static UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
static UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");

/// `OPTIONS /ruft/`: that uploads may be resumed, and their limits.
pub async fn options(State(state): State<AppState>, uri: Uri) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let headers = [(ACCEPT_PATCH.clone(), PARTIAL_UPLOAD.to_owned()), (UPLOAD_LIMIT.clone(), limits(&state, None))];
    Ok((StatusCode::OK, headers).into_response())
}

/// `POST /ruft/`: an upload, with its first bytes or all of them (§4.2).
pub async fn create(caller: Caller, request: Request) -> Result<Response, Refused> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let (head, body) = request.into_parts();
    require_identity(&head.headers)?;
    let is_complete = is_complete(&head.headers)?;
    let digests = digests::announced(&head.headers)?;
    let len = known_len(&body);
    let size = length(&head.headers, 0, len.filter(|_| is_complete))?;
    let idempotency_key = idempotency_key(&head.headers)?;
    let is_named = idempotency_key.is_some();
    let announced = digests.repr.clone();
    let digests = if is_complete { digests.both() } else { digests.content };
    if !is_complete && announced.sha256.is_empty() && !announced.sha512.is_empty() {
        return Err(Error::bad_header("Repr-Digest", "Of what comes in several requests, send a sha-256.").into());
    }
    let declared = head.headers.get(CONTENT_TYPE);
    let request = UploadRequest {
        said: said(&head)?,
        declared_type: declared.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        size,
        part_size: Some(part_size(size)),
        sha256: announced.sha256.first().copied().map(Sha256Digest),
        idempotency_key,
        request_id: caller.audit_id(),
        customer_key: caller.customer_key.clone(),
        ..UploadRequest::default()
    };
    let Begun { upload, is_new } = caller.state.files.create_upload(&caller.principal, request).await?;
    let customer_key = caller.customer_key.clone();
    let append = AppendRequest { announced_len: len, digests, customer_key, ..AppendRequest::default() };
    let location = format!("{}/ruft/{}", caller.state.public_url, upload.id.to_hex());
    let body = stream_body(body, caller.state.body_limits);
    let mut response = match is_new {
        true => to_the_end("begin the upload", begin(caller, upload.id, append, body, is_complete, is_named)).await?,
        false => repeat(&caller, upload.id).await?,
    };
    if !response.headers().contains_key(LOCATION) {
        *response.status_mut() = StatusCode::CREATED;
        insert(response.headers_mut(), &LOCATION, location);
    }
    Ok(response)
}

/// What a creation says of the file: the options of the query, and the name of `Content-Disposition`.
fn said(head: &Parts) -> Result<Vec<(String, String)>, Error> {
    let mut said = query::pairs(&head.uri)?;
    query::require_single(&said, &[])?;
    let name = disposition::filename_from(&head.headers).filter(|name| !name.is_empty());
    if let Some(name) = name.filter(|_| said.iter().all(|(option, _)| option != "name")) {
        said.push(("name".to_owned(), name));
    }
    said.sort();
    Ok(said)
}

/// `PATCH /ruft/{id}` (§4.4).
pub async fn patch(caller: Caller, FileIdPath(id): FileIdPath, request: Request) -> Result<Response, Refused> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let (head, body) = request.into_parts();
    query::refuse(&head.uri)?;
    require_partial_type(&head.headers)?;
    require_identity(&head.headers)?;
    let (offset, is_complete) = (offset(&head.headers)?, is_complete(&head.headers)?);
    let len = known_len(&body);
    let request = AppendRequest {
        offset,
        announced_len: len,
        size: length(&head.headers, offset, len.filter(|_| is_complete))?,
        digests: digests::announced(&head.headers)?.content,
        customer_key: caller.customer_key.clone(),
        ..AppendRequest::default()
    };
    let body = stream_body(body, caller.state.body_limits);
    let appending = async move { append(&caller, id, request, body, is_complete).await };
    Ok(to_the_end("append to the upload", appending).await?)
}

/// `HEAD /ruft/{id}` (§4.3).
pub async fn head(caller: Caller, FileIdPath(id): FileIdPath, uri: Uri) -> Result<Response, Refused> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    query::refuse(&uri)?;
    let upload = caller.state.files.find_quiet_upload(&caller.principal, id).await?;
    Ok(tell(&caller, &upload).await?)
}

/// `DELETE /ruft/{id}` (§4.5). Of a completed upload the file stays.
pub async fn cancel(caller: Caller, FileIdPath(id): FileIdPath, uri: Uri) -> Result<Response, Refused> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    query::refuse(&uri)?;
    caller.state.files.find_quiet_upload(&caller.principal, id).await?;
    caller.state.files.abort_upload(&caller.principal, id, caller.audit_id()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The first bytes of an upload, which goes if they fail and its client cannot ask for it again.
async fn begin(
    caller: Caller,
    id: Id,
    request: AppendRequest,
    body: BodyStream,
    is_complete: bool,
    is_named: bool,
) -> Result<Response, Error> {
    match append(&caller, id, request, body, is_complete).await {
        Err(error) if !is_named => Err(give_up(&caller, id, error).await),
        begun => begun,
    }
}

/// Appends, and completes the upload where these are the last bytes.
async fn append(
    caller: &Caller,
    id: Id,
    request: AppendRequest,
    body: BodyStream,
    is_complete: bool,
) -> Result<Response, Error> {
    let (offset, len) = (request.offset, request.announced_len);
    match caller.state.files.append(caller.principal.clone(), id, request, body).await {
        Ok(appended) if is_complete => complete(caller, &appended.upload, appended.offset).await,
        Ok(appended) => Ok(state_of(caller, &appended.upload, appended.offset)),
        Err(error) => Err(of_draft(caller, id, offset, len, error).await),
    }
}

/// What a repeated creation is told: the file, or how far the first came. Its body brings nothing.
async fn repeat(caller: &Caller, id: Id) -> Result<Response, Error> {
    let upload = caller.state.files.find_quiet_upload(&caller.principal, id).await?;
    match upload.made() {
        Some(_) => complete(caller, &upload, upload.size.unwrap_or_default().unsigned_abs()).await,
        None => tell(caller, &upload).await,
    }
}

/// Makes a file of an upload; answers as a request that brought all of it would have been.
async fn complete(caller: &Caller, upload: &UploadDoc, offset: u64) -> Result<Response, Error> {
    let files = &caller.state.files;
    match upload.size.map(i64::unsigned_abs) {
        Some(size) if size != offset => return Err(inconsistent()),
        Some(_) => {}
        None => {
            let customer_key = caller.customer_key.clone();
            let ending = AppendRequest { offset, size: Some(offset), customer_key, ..AppendRequest::default() };
            files.append(caller.principal.clone(), upload.id, ending, stream::empty().boxed()).await?;
        }
    }
    let key = caller.customer_key.clone();
    let put = files.complete_upload(caller.principal.clone(), upload.id, key, caller.audit_id()).await?;
    let (id, sha256) = (put.file.file, files.digest(&put.file)?);
    let mut response = caller.state.created(put.file);
    let headers = response.headers_mut();
    insert(headers, &UPLOAD_COMPLETE, "?1");
    insert(headers, &UPLOAD_OFFSET, offset.to_string());
    insert(headers, &FILE_ID, id.to_hex());
    if let Some(sha256) = sha256 {
        insert(headers, &REPR_DIGEST, repr_digest(sha256));
    }
    Ok(response)
}

/// Where an upload stands, whatever became of it.
async fn tell(caller: &Caller, upload: &UploadDoc) -> Result<Response, Error> {
    Ok(state_of(caller, upload, caller.state.files.extent(upload).await?))
}

fn state_of(caller: &Caller, upload: &UploadDoc, offset: u64) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    insert(headers, &UPLOAD_COMPLETE, if upload.status == UploadStatus::Completed { "?1" } else { "?0" });
    insert(headers, &UPLOAD_OFFSET, offset.to_string());
    insert(headers, &UPLOAD_LIMIT, limits(&caller.state, Some(upload)));
    if let Some(size) = upload.size {
        insert(headers, &UPLOAD_LENGTH, size.to_string());
    }
    if let Some(file) = upload.made() {
        insert(headers, &FILE_ID, file.to_hex());
    }
    response
}

/// A refused append as the draft has it. Bytes beyond the length end the upload.
async fn of_draft(caller: &Caller, id: Id, offset: u64, announced_len: Option<u64>, error: Error) -> Error {
    match error.code {
        ErrorCode::UploadCompleted if announced_len != Some(0) => inconsistent(),
        ErrorCode::OffsetMismatch => error.with("provided-offset", offset),
        ErrorCode::TooLarge => match caller.state.files.find_upload(&caller.principal, id).await {
            // The limit is its own length, and not the server's.
            Ok(upload) if upload.size.map(i64::unsigned_abs) == error.number("limitBytes") => match announced_len {
                Some(_) => inconsistent(),
                None => give_up(caller, id, inconsistent()).await,
            },
            _ => error,
        },
        _ => error,
    }
}

/// `Upload-Limit` (§4.1.4), of one upload or of any.
fn limits(state: &AppState, upload: Option<&UploadDoc>) -> String {
    let size = format!("max-size={}", state.files.routing.max_bytes().min(MOST));
    let open = upload.filter(|upload| upload.status == UploadStatus::Open);
    let Some(upload) = open else { return size };
    let left = upload.expire_at.timestamp_millis() - state.files.now().timestamp_millis();
    format!("{size}, max-age={}", left.max(0) / 1000)
}
