//! /ruft: uploads by clients of the IETF draft (draft-ietf-httpbis-resumable-upload-12, interop version 8;
//! <https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/>). The uploads are those of /v1/uploads.
//!
//! No `104` is sent: the HTTP library has no way to. Clients create carefully (§12.2), or name the creation by an
//! `Idempotency-Key` and ask again.

mod fields;
mod refused;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, Uri};

use super::AppState;
use super::append::{FILE_ID, UPLOAD_LENGTH, UPLOAD_OFFSET, give_up, insert, part_size};
use super::body::{known_len, require_identity, stream_body};
use super::customer_key::CustomerKey;
use super::digests::{self, REPR_DIGEST, repr_digest};
use super::disposition;
use super::files::{FileIdPath, idempotency_key};
use super::problem::RequestId;
use super::query;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, permit};
use crate::files::uploads::{AppendRequest, Begun, UploadRequest};
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
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

/// A request about an upload.
struct Asker {
    state: AppState,
    principal: Principal,
    request_id: RequestId,
    customer_key: Option<Key>,
}

/// `OPTIONS /ruft/`: that uploads may be resumed, and their limits.
pub async fn options(State(state): State<AppState>, uri: Uri) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let headers = [(ACCEPT_PATCH.clone(), PARTIAL_UPLOAD.to_owned()), (UPLOAD_LIMIT.clone(), limits(&state, None))];
    Ok((StatusCode::OK, headers).into_response())
}

/// `POST /ruft/`: an upload, with its first bytes or all of them (§4.2).
pub async fn create(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    request: Request,
) -> Result<Response, Refused> {
    permit(&principal, Action::Write)?;
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
        request_id: Some(request_id.0.to_string()),
        customer_key: customer_key.clone(),
        ..UploadRequest::default()
    };
    let Begun { upload, is_new } = state.files.create_upload(&principal, request).await?;
    let append =
        AppendRequest { announced_len: len, digests, customer_key: customer_key.clone(), ..AppendRequest::default() };
    let location = format!("{}/ruft/{}", state.public_url, upload.id.to_hex());
    let body = stream_body(body, state.body_idle);
    let asker = Asker { state, principal, request_id, customer_key };
    let mut response = match is_new {
        true => {
            let beginning =
                tokio::spawn(async move { asker.begin(upload.id, append, body, is_complete, is_named).await });
            beginning.await.map_err(|error| Error::internal("begin the upload", error))??
        }
        false => asker.repeat(upload.id).await?,
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
pub async fn append(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    FileIdPath(id): FileIdPath,
    request: Request,
) -> Result<Response, Refused> {
    permit(&principal, Action::Write)?;
    let (head, body) = request.into_parts();
    query::refuse(&head.uri)?;
    require_partial_type(&head.headers)?;
    require_identity(&head.headers)?;
    let (offset, is_complete) = (offset(&head.headers)?, is_complete(&head.headers)?);
    let len = known_len(&body);
    let append = AppendRequest {
        offset,
        announced_len: len,
        size: length(&head.headers, offset, len.filter(|_| is_complete))?,
        digests: digests::announced(&head.headers)?.content,
        customer_key: customer_key.clone(),
        ..AppendRequest::default()
    };
    let body = stream_body(body, state.body_idle);
    let asker = Asker { state, principal, request_id, customer_key };
    let appending = tokio::spawn(async move { asker.append(id, append, body, is_complete).await });
    Ok(appending.await.map_err(|error| Error::internal("append to the upload", error))??)
}

/// `HEAD /ruft/{id}` (§4.3): whoever appends makes way first, so that what is told stays true.
pub async fn head(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    CustomerKey(customer_key): CustomerKey,
    FileIdPath(id): FileIdPath,
    uri: Uri,
) -> Result<Response, Refused> {
    permit(&principal, Action::Write)?;
    query::refuse(&uri)?;
    state.files.find_upload(&principal, id).await?;
    state.files.writers.interrupt(id).await;
    let upload = state.files.find_upload(&principal, id).await?;
    Asker { state, principal, request_id, customer_key }.tell(&upload).await
}

/// `DELETE /ruft/{id}` (§4.5). Of a completed upload the file stays.
pub async fn cancel(
    State(state): State<AppState>,
    principal: Principal,
    Extension(request_id): Extension<RequestId>,
    FileIdPath(id): FileIdPath,
    uri: Uri,
) -> Result<Response, Refused> {
    permit(&principal, Action::Write)?;
    query::refuse(&uri)?;
    state.files.find_upload(&principal, id).await?;
    state.files.writers.interrupt(id).await;
    state.files.abort_upload(&principal, id, Some(request_id.0.to_string())).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Asker {
    /// The first bytes of an upload, which goes if they fail and its client cannot ask for it again.
    async fn begin(
        self,
        id: Id,
        append: AppendRequest,
        body: BodyStream,
        is_complete: bool,
        is_named: bool,
    ) -> Result<Response, Error> {
        match self.append(id, append, body, is_complete).await {
            Err(error) if !is_named => Err(give_up(&self.state, &self.principal, id, &self.request_id, error).await),
            begun => begun,
        }
    }

    /// Appends, and completes the upload where these are the last bytes.
    async fn append(
        &self,
        id: Id,
        append: AppendRequest,
        body: BodyStream,
        is_complete: bool,
    ) -> Result<Response, Error> {
        let (offset, len) = (append.offset, append.announced_len);
        match self.state.files.append(self.principal.clone(), id, append, body).await {
            Ok(appended) if is_complete => self.complete(&appended.upload, appended.offset).await,
            Ok(appended) => self.state_of(&appended.upload, appended.offset),
            Err(error) => Err(self.of_draft(id, offset, len, error).await),
        }
    }

    /// What a repeated creation is told: the file, or how far the first came. Its body brings nothing.
    async fn repeat(&self, id: Id) -> Result<Response, Refused> {
        self.state.files.writers.interrupt(id).await;
        let upload = self.state.files.find_upload(&self.principal, id).await?;
        match upload.made() {
            Some(_) => Ok(self.complete(&upload, upload.size.unwrap_or_default().unsigned_abs()).await?),
            None => self.tell(&upload).await,
        }
    }

    /// Makes a file of an upload; answers as a request that brought all of it would have been.
    async fn complete(&self, upload: &UploadDoc, offset: u64) -> Result<Response, Error> {
        match upload.size.map(i64::unsigned_abs) {
            Some(size) if size != offset => return Err(inconsistent()),
            Some(_) => {}
            None => {
                let customer_key = self.customer_key.clone();
                let ending = AppendRequest { offset, size: Some(offset), customer_key, ..AppendRequest::default() };
                self.state.files.append(self.principal.clone(), upload.id, ending, stream::empty().boxed()).await?;
            }
        }
        let request_id = Some(self.request_id.0.to_string());
        let key = self.customer_key.clone();
        let put = self.state.files.complete_upload(self.principal.clone(), upload.id, key, request_id).await?;
        let (id, sha256) = (put.file.file, self.state.files.digest(&put.file)?);
        let mut response = self.state.created(put.file);
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
    async fn tell(&self, upload: &UploadDoc) -> Result<Response, Refused> {
        let gone = || Error::new(ErrorCode::UploadGone, "The upload was ended.");
        match upload.status {
            UploadStatus::Open => {
                let offset = self.state.files.offset(upload).await?;
                Ok(self.state_of(upload, offset)?)
            }
            UploadStatus::Completed if upload.is_partial() || self.state.files.has_file(upload).await? => {
                Ok(self.state_of(upload, upload.size.unwrap_or_default().unsigned_abs())?)
            }
            UploadStatus::Completed | UploadStatus::Aborted | UploadStatus::Expired => Err(gone().into()),
        }
    }

    fn state_of(&self, upload: &UploadDoc, offset: u64) -> Result<Response, Error> {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        insert(headers, &UPLOAD_COMPLETE, if upload.status == UploadStatus::Completed { "?1" } else { "?0" });
        insert(headers, &UPLOAD_OFFSET, offset.to_string());
        insert(headers, &UPLOAD_LIMIT, limits(&self.state, Some(upload)));
        if let Some(size) = upload.size {
            insert(headers, &UPLOAD_LENGTH, size.to_string());
        }
        if let Some(file) = upload.made() {
            insert(headers, &FILE_ID, file.to_hex());
        }
        Ok(response)
    }

    /// A refused append as the draft has it. Bytes beyond the length end the upload.
    async fn of_draft(&self, id: Id, offset: u64, announced_len: Option<u64>, error: Error) -> Error {
        match error.code {
            ErrorCode::UploadCompleted if announced_len != Some(0) => inconsistent(),
            ErrorCode::OffsetMismatch => error.with("provided-offset", offset),
            ErrorCode::TooLarge => match self.state.files.find_upload(&self.principal, id).await {
                // The limit is its own length, and not the server's.
                Ok(upload) if upload.size.map(i64::unsigned_abs) == error.number("limitBytes") => match announced_len {
                    Some(_) => inconsistent(),
                    None => give_up(&self.state, &self.principal, id, &self.request_id, inconsistent()).await,
                },
                _ => error,
            },
            _ => error,
        }
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
