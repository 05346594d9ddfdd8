//! /tus: uploads by clients of tus 1.0.0 (<https://tus.io/protocols/resumable-upload>), with the extensions creation,
//! creation-with-upload, creation-defer-length, expiration, checksum, checksum-trailer, termination and concatenation.
//! The uploads are those of /v1/uploads.

mod checksum;
mod concat;
mod fields;
mod metadata;

use axum::Extension;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};

use super::AppState;
use super::append::{FILE_ID, UPLOAD_LENGTH, UPLOAD_OFFSET, give_up, insert, part_size};
use super::body::{known_len, require_identity, stream_with_trailers};
use super::content;
use super::customer_key::CustomerKey;
use super::files::{FileIdPath, idempotency_key};
use super::problem::RequestId;
use super::query;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, permit};
use crate::files::uploads::{AppendRequest, Begun, UploadRequest};
use crate::format::key::Key;
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
pub async fn create(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    request: Request,
) -> Result<Response, Error> {
    permit(&principal, Action::Write)?;
    let (head, body) = request.into_parts();
    require_version(&head)?;
    let is_partial = match Concat::read(&head.headers)? {
        Some(Concat::Final(partials, said)) => {
            return concat::create(state, principal, request_id, customer_key, (partials, said), &head).await;
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
        request_id: Some(request_id.0.to_string()),
        customer_key: customer_key.clone(),
        ..metadata::read(&head.headers)?
    };
    let has_body = head.headers.contains_key(CONTENT_TYPE);
    if has_body {
        require_offset_type(&head.headers)?;
        require_identity(&head.headers)?;
    }
    let checksum = Checksum::announced(&head.headers)?;
    let Begun { upload, is_new } = state.files.create_upload(&principal, request).await?;
    let location = address(&state, upload.id);
    let mut response = match is_new && (has_body || size == Some(0)) {
        true => {
            let mut request = AppendRequest { customer_key, ..AppendRequest::default() };
            request.announced_len = known_len(&body);
            let body = checked(&mut request, checksum, stream_with_trailers(body, state.body_idle));
            let beginning = tokio::spawn(begin(state, principal, upload.id, request, body, request_id));
            beginning.await.map_err(|error| Error::internal("begin the upload", error))??
        }
        false if is_new => expiring(&upload),
        false => {
            // A repetition says how far the first came, and brings nothing.
            state.files.writers.interrupt(upload.id).await;
            let upload = state.files.find_upload(&principal, upload.id).await?;
            let mut response = expiring(&upload);
            insert(response.headers_mut(), &UPLOAD_OFFSET, state.files.offset(&upload).await?.to_string());
            response
        }
    };
    *response.status_mut() = StatusCode::CREATED;
    insert(response.headers_mut(), &LOCATION, location);
    Ok(response)
}

/// The first bytes of an upload, which goes if they fail.
async fn begin(
    state: AppState,
    principal: Principal,
    id: Id,
    request: AppendRequest,
    body: BodyStream,
    request_id: RequestId,
) -> Result<Response, Error> {
    match append(&state, principal.clone(), id, request, body, &request_id).await {
        Err(error) => Err(give_up(&state, &principal, id, &request_id, error).await),
        begun => begun,
    }
}

/// `PATCH /tus/{id}`.
pub async fn patch(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    FileIdPath(id): FileIdPath,
    request: Request,
) -> Result<Response, Error> {
    permit(&principal, Action::Write)?;
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
        customer_key,
        ..AppendRequest::default()
    };
    let body = checked(&mut request, checksum, stream_with_trailers(body, state.body_idle));
    match append(&state, principal.clone(), id, request, body, &request_id).await {
        Err(error) => Err(concat::why_not_appended(&state, &principal, id, error).await),
        appended => appended,
    }
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
async fn append(
    state: &AppState,
    principal: Principal,
    id: Id,
    request: AppendRequest,
    body: BodyStream,
    request_id: &RequestId,
) -> Result<Response, Error> {
    let customer_key = request.customer_key.clone();
    let appended = state.files.append(principal.clone(), id, request, body).await?;
    let mut response = expiring(&appended.upload);
    insert(response.headers_mut(), &UPLOAD_OFFSET, appended.offset.to_string());
    let (upload, offset) = (&appended.upload, appended.offset);
    if let Some(file) = complete_if_whole(state, principal, upload, offset, customer_key, request_id).await? {
        insert(response.headers_mut(), &FILE_ID, file);
        response.headers_mut().remove(&UPLOAD_EXPIRES);
    }
    Ok(response)
}

/// Makes a file of an upload that is whole, whoever brought the last byte; gives its id.
async fn complete_if_whole(
    state: &AppState,
    principal: Principal,
    upload: &UploadDoc,
    offset: u64,
    customer_key: Option<Key>,
    request_id: &RequestId,
) -> Result<Option<String>, Error> {
    if upload.size.map(i64::unsigned_abs) != Some(offset) || upload.is_partial() {
        return Ok(None);
    }
    let request_id = Some(request_id.0.to_string());
    let put = state.files.complete_upload(principal, upload.id, customer_key, request_id).await?;
    Ok(Some(put.file.file.to_hex()))
}

/// `HEAD /tus/{id}`: whoever appends makes way first, so that what is told stays true.
pub async fn head(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    FileIdPath(id): FileIdPath,
    request: Request,
) -> Result<Response, Error> {
    permit(&principal, Action::Write)?;
    let (head, _) = request.into_parts();
    require_version(&head)?;
    state.files.find_upload(&principal, id).await?;
    state.files.writers.interrupt(id).await;
    let upload = state.files.find_upload(&principal, id).await?;
    let mut response = expiring(&upload);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    let offset = match upload.status {
        UploadStatus::Open => {
            let offset = state.files.offset(&upload).await?;
            if let Some(file) = complete_if_whole(&state, principal, &upload, offset, customer_key, &request_id).await?
            {
                insert(headers, &FILE_ID, file);
                headers.remove(&UPLOAD_EXPIRES);
            }
            offset
        }
        UploadStatus::Completed if upload.is_partial() => upload.size.unwrap_or_default().unsigned_abs(),
        UploadStatus::Completed if state.files.has_file(&upload).await? => {
            insert(headers, &FILE_ID, upload.file.to_hex());
            upload.size.unwrap_or_default().unsigned_abs()
        }
        UploadStatus::Completed | UploadStatus::Aborted | UploadStatus::Expired => {
            return Err(Error::new(ErrorCode::UploadGone, "The upload was ended."));
        }
    };
    insert(headers, &UPLOAD_OFFSET, offset.to_string());
    match upload.size {
        Some(size) => insert(headers, &UPLOAD_LENGTH, size.to_string()),
        None => insert(headers, &UPLOAD_DEFER_LENGTH, "1"),
    }
    concat::tell(headers, &upload);
    if let Some(metadata) = upload.metadata {
        insert(headers, &UPLOAD_METADATA, metadata);
    }
    Ok(response)
}

/// `DELETE /tus/{id}`: the upload goes, and the file that it became.
pub async fn terminate(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    FileIdPath(id): FileIdPath,
    request: Request,
) -> Result<Response, Error> {
    permit(&principal, Action::Write)?;
    require_version(&request.into_parts().0)?;
    state.files.find_upload(&principal, id).await?;
    state.files.writers.interrupt(id).await;
    let upload = state.files.find_upload(&principal, id).await?;
    let request_id = Some(request_id.0.to_string());
    match (upload.status, upload.made()) {
        (UploadStatus::Open, _) => state.files.abort_upload(&principal, id, request_id).await?,
        (_, Some(file)) => state.files.delete(&principal, file, request_id).await?,
        (UploadStatus::Completed | UploadStatus::Aborted | UploadStatus::Expired, None) => {
            return Err(Error::new(ErrorCode::UploadGone, "The upload was ended."));
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /tus/{id}`: the finished bytes. `HEAD` is of the protocol.
pub async fn get(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    FileIdPath(id): FileIdPath,
    request: Request,
) -> Result<Response, Error> {
    if request.method() == Method::HEAD {
        let (request_id, customer_key) = (Extension(request_id), CustomerKey(customer_key));
        return head(State(state), principal, request_id, customer_key, FileIdPath(id), request).await;
    }
    permit(&principal, Action::Read)?;
    let (parts, _) = request.into_parts();
    let found = state.files.store.find_upload(&principal.tenant, id).await;
    let found = found.map_err(|e| e.doing("look the upload up"))?;
    let not_found = || Error::new(ErrorCode::UploadNotFound, "There is no upload with this id.");
    let upload = found.ok_or_else(not_found)?;
    let file = match (upload.made(), upload.status) {
        (Some(file), _) => FileIdPath(file),
        (None, UploadStatus::Open) => {
            return Err(Error::new(ErrorCode::PartsMissing, "The upload is not finished: it has no content yet."));
        }
        (None, _) => return Err(Error::new(ErrorCode::UploadGone, "The upload was ended.")),
    };
    content::open(State(state), principal, Extension(request_id), CustomerKey(customer_key), file, parts).await
}

/// `POST /tus/{id}`: another method, by clients that cannot send it.
pub async fn overridden(
    state: State<AppState>,
    principal: Principal,
    request_id: Extension<RequestId>,
    customer_key: CustomerKey,
    id: FileIdPath,
    request: Request,
) -> Result<Response, Error> {
    match request.headers().get(&METHOD_OVERRIDE).map(HeaderValue::as_bytes) {
        Some(b"PATCH") => patch(state, principal, request_id, customer_key, id, request).await,
        Some(b"DELETE") => terminate(state, principal, request_id, id, request).await,
        Some(b"HEAD") => head(state, principal, request_id, customer_key, id, request).await,
        _ => Err(Error::bad_header("X-HTTP-Method-Override", "It is PATCH, DELETE or HEAD here.")),
    }
}

/// Where an upload is.
fn address(state: &AppState, upload: Id) -> String {
    format!("{}/tus/{}", state.public_url, upload.to_hex())
}

fn expiring(upload: &UploadDoc) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if upload.status == UploadStatus::Open {
        let at = httpdate::fmt_http_date(upload.expire_at.to_system_time());
        insert(response.headers_mut(), &UPLOAD_EXPIRES, at);
    }
    response
}
