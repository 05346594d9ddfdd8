//! /tus: uploads by clients of tus 1.0.0 (<https://tus.io/protocols/resumable-upload>), with the extensions creation,
//! creation-with-upload, creation-defer-length, expiration, checksum, checksum-trailer, termination and concatenation.
//! The uploads are those of /v1/uploads.

mod checksum;
mod concat;
mod fields;
pub mod metadata;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};

use super::AppState;
use super::append::{FILE_ID, UPLOAD_LENGTH, UPLOAD_OFFSET, give_up, insert, part_size, to_the_end};
use super::body::{known_len, require_identity, stream_with_trailers};
use super::caller::Caller;
use super::content;
use super::files::{FileIdPath, idempotency_key};
use super::query;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Resource, permit};
use crate::files::uploads::{AppendRequest, Begun, UploadRequest};
use crate::pipeline::BodyStream;
use crate::store::Id;
use crate::store::uploads::{UploadDoc, UploadStatus};
use checksum::Checksum;
use concat::Concat;
use fields::{is_deferred, length, number, require_offset_type, require_version};

const VERSION: &str = "1.0.0";
const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,termination,concatenation";

static TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
static TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
static TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
static TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
static TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
static UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
static UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
static UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
static METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Says the version on every answer beneath /tus.
pub async fn label(request: Request, next: Next) -> Response {
    let is_tus = request.uri().path() == "/tus" || request.uri().path().starts_with("/tus/");
    let mut response = next.run(request).await;
    let is_version_refused = response.status() == StatusCode::PRECONDITION_FAILED;
    if is_tus {
        let headers = response.headers_mut();
        headers.insert(TUS_RESUMABLE.clone(), HeaderValue::from_static(VERSION));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if is_version_refused {
            headers.insert(TUS_VERSION.clone(), HeaderValue::from_static(VERSION));
        }
    }
    response
}

/// `OPTIONS` of every path beneath /tus: what is offered.
pub async fn options(State(state): State<AppState>, uri: Uri) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let headers = [
        (TUS_VERSION.clone(), VERSION.to_owned()),
        (TUS_EXTENSION.clone(), EXTENSIONS.to_owned()),
        (TUS_MAX_SIZE.clone(), state.files.routing.max_bytes().to_string()),
        (TUS_CHECKSUM_ALGORITHM.clone(), checksum::ALGORITHMS.to_owned()),
    ];
    Ok((StatusCode::OK, headers).into_response())
}

/// `POST /tus/`.
pub async fn create(caller: Caller, request: Request) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let (head, body) = request.into_parts();
    require_version(&head)?;
    let is_partial = match Concat::read(&head.headers)? {
        Some(Concat::Final(partials, said)) => {
            return concat::create(caller, partials, said, &head).await;
        }
        partial => partial.is_some(),
    };
    let size = length(&head.headers)?;
    let is_deferred = is_deferred(&head.headers)?;
    if size.is_some() == is_deferred {
        return Err(Error::bad_header("Upload-Length", "Send either Upload-Length, or Upload-Defer-Length: 1."));
    }
    let request = UploadRequest {
        size,
        part_size: Some(part_size(size)),
        is_partial,
        idempotency_key: idempotency_key(&head.headers)?,
        request_id: caller.audit_id(),
        customer_key: caller.customer_key.clone(),
        ..metadata::read(&head.headers)?
    };
    let has_body = head.headers.contains_key(CONTENT_TYPE);
    if has_body {
        require_offset_type(&head.headers)?;
        require_identity(&head.headers)?;
    }
    let checksum = Checksum::announced(&head.headers)?;
    let Begun { upload, is_new } = caller.state.files.create_upload(&caller.principal, request).await?;
    let location = address(&caller, upload.id);
    let mut response = match is_new {
        true if has_body || size == Some(0) => {
            let mut request = AppendRequest { announced_len: known_len(&body), ..AppendRequest::default() };
            let body = checked(&mut request, checksum, stream_with_trailers(body, caller.state.body_limits));
            to_the_end("begin the upload", begin(caller, upload.id, request, body)).await?
        }
        true => expiring(&upload),
        // A repetition is told how far the first came, and brings nothing.
        false => tell(&caller, &caller.state.files.find_quiet_upload(&caller.principal, upload.id).await?).await?,
    };
    *response.status_mut() = StatusCode::CREATED;
    insert(response.headers_mut(), &LOCATION, location);
    Ok(response)
}

/// The first bytes of an upload, which goes if they fail.
async fn begin(caller: Caller, id: Id, request: AppendRequest, body: BodyStream) -> Result<Response, Error> {
    match append(&caller, id, request, body).await {
        Err(error) => Err(give_up(&caller, id, error).await),
        begun => begun,
    }
}

/// `PATCH /tus/{id}`.
pub async fn patch(caller: Caller, FileIdPath(id): FileIdPath, request: Request) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let (head, body) = request.into_parts();
    require_version(&head)?;
    require_offset_type(&head.headers)?;
    require_identity(&head.headers)?;
    let offset = number(&head.headers, &UPLOAD_OFFSET, "Upload-Offset")?;
    let offset = offset.ok_or_else(|| Error::bad_header("Upload-Offset", "Say where the bytes begin."))?;
    let checksum = Checksum::announced(&head.headers)?;
    let mut request = AppendRequest {
        offset,
        announced_len: known_len(&body),
        size: length(&head.headers)?,
        ..AppendRequest::default()
    };
    let body = checked(&mut request, checksum, stream_with_trailers(body, caller.state.body_limits));
    to_the_end("append to the upload", async move { append(&caller, id, request, body).await }).await
}

/// The body, whose checksum is asked about at its end.
fn checked(
    request: &mut AppendRequest,
    checksum: Option<Checksum>,
    (body, trailers): (BodyStream, super::body::Trailers),
) -> BodyStream {
    let Some(checksum) = checksum else { return body };
    let (tap, verdict) = checksum.watch(trailers);
    request.verdict = Some(verdict);
    body.inspect(move |piece| {
        if let Ok(piece) = piece {
            tap(piece as &Bytes);
        }
    })
    .boxed()
}

/// Appends, and completes an upload that is whole.
async fn append(caller: &Caller, id: Id, request: AppendRequest, body: BodyStream) -> Result<Response, Error> {
    let request = AppendRequest { customer_key: caller.customer_key.clone(), ..request };
    let appended = caller.state.files.append(caller.principal.clone(), id, request, body).await?;
    state_of(caller, &appended.upload, appended.offset).await
}

/// Where an upload stands, whatever became of it.
async fn tell(caller: &Caller, upload: &UploadDoc) -> Result<Response, Error> {
    state_of(caller, upload, caller.state.files.extent(upload).await?).await
}

/// Where an upload stands; one that is whole becomes a file, whoever brought the last byte.
async fn state_of(caller: &Caller, upload: &UploadDoc, offset: u64) -> Result<Response, Error> {
    let mut response = expiring(upload);
    let headers = response.headers_mut();
    insert(headers, &UPLOAD_OFFSET, offset.to_string());
    if upload.size.map(i64::unsigned_abs) != Some(offset) || upload.is_partial() {
        return Ok(response);
    }
    headers.remove(&UPLOAD_EXPIRES);
    let file = match upload.made() {
        Some(file) => file,
        None => {
            let (principal, key) = (caller.principal.clone(), caller.customer_key.clone());
            caller.state.files.complete_upload(principal, upload.id, key, caller.audit_id()).await?.file.file
        }
    };
    insert(headers, &FILE_ID, file.to_hex());
    Ok(response)
}

/// `HEAD /tus/{id}`.
pub async fn head(caller: Caller, FileIdPath(id): FileIdPath, request: Request) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    let (head, _) = request.into_parts();
    require_version(&head)?;
    let upload = caller.state.files.find_quiet_upload(&caller.principal, id).await?;
    let mut response = tell(&caller, &upload).await?;
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    match upload.size {
        Some(size) => insert(headers, &UPLOAD_LENGTH, size.to_string()),
        None => insert(headers, &UPLOAD_DEFER_LENGTH, "1"),
    }
    concat::describe(headers, &upload);
    if let Some(metadata) = upload.metadata {
        insert(headers, &UPLOAD_METADATA, metadata);
    }
    Ok(response)
}

/// `DELETE /tus/{id}`: the upload goes, and the file that it became.
pub async fn terminate(caller: Caller, FileIdPath(id): FileIdPath, request: Request) -> Result<Response, Error> {
    permit(&caller.principal, Action::Write, Resource::Tenant)?;
    require_version(&request.into_parts().0)?;
    let (files, principal) = (&caller.state.files, &caller.principal);
    let upload = files.find_quiet_upload(principal, id).await?;
    match (upload.status, upload.made()) {
        (UploadStatus::Open, _) => files.abort_upload(principal, id, caller.audit_id()).await?,
        (_, Some(file)) => files.delete(principal, file, caller.audit_id()).await?,
        (UploadStatus::Completed | UploadStatus::Aborted | UploadStatus::Expired, None) => {
            return Err(Error::new(ErrorCode::UploadGone, "The upload was ended."));
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /tus/{id}`: the finished bytes. `HEAD` is of the protocol.
pub async fn get(caller: Caller, FileIdPath(id): FileIdPath, request: Request) -> Result<Response, Error> {
    if request.method() == Method::HEAD {
        return head(caller, FileIdPath(id), request).await;
    }
    let file = caller.state.files.find_made(&caller.principal, id).await?;
    content::respond(caller, file, request.into_parts().0, None).await
}

/// `POST /tus/{id}`: another method, by clients that cannot send it.
pub async fn overridden(caller: Caller, id: FileIdPath, request: Request) -> Result<Response, Error> {
    match request.headers().get(&METHOD_OVERRIDE).map(HeaderValue::as_bytes) {
        Some(b"PATCH") => patch(caller, id, request).await,
        Some(b"DELETE") => terminate(caller, id, request).await,
        Some(b"HEAD") => head(caller, id, request).await,
        _ => Err(Error::bad_header("X-HTTP-Method-Override", "It is PATCH, DELETE or HEAD here.")),
    }
}

/// Where an upload is.
fn address(caller: &Caller, upload: Id) -> String {
    format!("{}/tus/{}", caller.state.public_url, upload.to_hex())
}

fn expiring(upload: &UploadDoc) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if upload.status == UploadStatus::Open {
        let at = httpdate::fmt_http_date(upload.expire_at.to_system_time());
        insert(response.headers_mut(), &UPLOAD_EXPIRES, at);
    }
    response
}
