//! /v1/files/{id}/content: the bytes, whole or in part. The only builder of 200, 206 and 304 for
//! content; HEAD is the same way without the bytes and without ranges.

use std::ops::Range;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LAST_MODIFIED, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use super::AppState;
use super::caller::{AnyCaller, Caller};
use super::conditional::{Precondition, Reading, Validators, evaluate, if_range_holds};
use super::digests::{REPR_DIGEST, repr_digest};
use super::disposition::{Disposition, content_disposition, is_safe_inline};
use super::files::FileIdPath;
use super::negotiate::{Coding, accepts};
use super::problem::RequestId;
use super::query;
use super::ranges::{self, RangePlan};
use super::throttle::{Rate, paced};
use crate::error::{Error, ErrorCode};
use crate::files::open::OpenedFile;
use crate::files::read::{EncodedContent, ReadCost, ReadPlan};
use crate::format::segment::Codec;
use crate::metrics;
use crate::pipeline::ByteStream;
use crate::random;
use crate::store::Id;

static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Fetch Standard, §3.8.
static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// `GET` and `HEAD /v1/files/{id}/content`.
pub async fn open(AnyCaller(caller): AnyCaller, FileIdPath(id): FileIdPath, head: Parts) -> Result<Response, Error> {
    respond(caller, id, head).await
}

/// The content of a file, as a request asks for it.
pub(super) async fn respond(caller: Caller, id: Id, head: Parts) -> Result<Response, Error> {
    let Caller { state, principal, request_id, customer_key } = caller;
    let Parts { method, headers, uri, .. } = head;
    let file = state.files.open(&principal, id, customer_key).await?;
    let wish = wish(&uri)?;
    let encoded = negotiate(&file, &headers)?;
    let representation = Representation::new(&state, &file, wish, encoded.as_ref())?;
    let validators = Validators { etag: &representation.etag, modified: representation.modified };
    let is_get = method == Method::GET;
    match evaluate(Reading::Safe, &headers, &validators) {
        Precondition::NotModified => return Ok(representation.respond(StatusCode::NOT_MODIFIED, None, Body::empty())),
        Precondition::Failed => {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The content is not the one the request names."));
        }
        Precondition::Proceed => {}
    }
    if let Some(encoded) = encoded {
        let len = encoded.encoded_len;
        if !is_get {
            return Ok(representation.respond(StatusCode::OK, Some(len), Body::empty()));
        }
        let response = representation.send(StatusCode::OK, len, file.plan_encoded(encoded), &request_id).await?;
        state.files.count_access(&file.doc, 0);
        return Ok(response);
    }
    // RFC 9110 §14.2: a range is defined for GET only.
    let plan = if is_get && if_range_holds(&headers, &validators) {
        ranges::plan(&headers, file.plain_len)
    } else {
        RangePlan::Whole
    };
    let len = file.plain_len;
    match plan {
        RangePlan::Whole if !is_get => {
            file.check_readable()?;
            Ok(representation.respond(StatusCode::OK, Some(len), Body::empty()))
        }
        RangePlan::Whole => {
            let response = representation.send(StatusCode::OK, len, file.plan(&(0..len))?, &request_id).await?;
            state.files.count_access(&file.doc, 0);
            Ok(response)
        }
        RangePlan::Single(range) => {
            let start = range.start;
            let response = respond_single(&file, representation, range, &request_id).await?;
            state.files.count_access(&file.doc, start);
            Ok(response)
        }
        RangePlan::Multi(ranges) => {
            let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
            let response = respond_multi(&file, representation, &ranges, &request_id)?;
            state.files.count_access(&file.doc, start);
            Ok(response)
        }
        RangePlan::Unsatisfiable => {
            let detail = format!("The content has {len} bytes.");
            Err(Error::new(ErrorCode::RangeNotSatisfiable, detail).with("plainLen", len))
        }
    }
}

/// What the query says about the answer.
struct Wish {
    disposition: Disposition,
    rate: Option<Rate>,
}

fn wish(uri: &Uri) -> Result<Wish, Error> {
    let pairs = query::pairs(uri)?;
    query::require_single(&pairs, &[])?;
    let mut wish = Wish { disposition: Disposition::Inline, rate: None };
    for (name, value) in &pairs {
        match (name.as_str(), value.as_str()) {
            ("download", "1") => wish.disposition = Disposition::Attachment,
            ("download", _) => return Err(Error::bad_request("download", "download is 1 or absent.")),
            ("throttle", value) => wish.rate = Some(Rate::parse(value)?),
            _ => return Err(query::unknown(name)),
        }
    }
    Ok(wish)
}

/// The stored coding, where the client accepts it and asks for the whole.
fn negotiate(file: &OpenedFile, headers: &HeaderMap) -> Result<Option<EncodedContent>, Error> {
    let wants = |coding| accepts(headers, coding);
    let is_partial = headers.contains_key(http::header::RANGE);
    if is_partial || !(wants(Coding::Zstd) || wants(Coding::Gzip)) {
        return Ok(None);
    }
    let encoded = file.encoded()?;
    Ok(encoded.filter(|content| match content.codec {
        Codec::Zstd => wants(Coding::Zstd),
        Codec::Gzip => wants(Coding::Gzip),
        Codec::Identity => false,
    }))
}

/// The headers that every answer about one representation carries.
struct Representation {
    etag: String,
    modified: SystemTime,
    headers: HeaderMap,
    content_type: HeaderValue,
    rate: Option<Rate>,
}

impl Representation {
    fn new(state: &AppState, file: &OpenedFile, wish: Wish, encoded: Option<&EncodedContent>) -> Result<Self, Error> {
        let doc = &file.doc;
        let mut etag = state.files.etag(doc);
        let modified = doc.created_at.to_system_time();
        let mut headers = HeaderMap::new();
        // Of the resource: a range is of the identity, whatever this answer's coding.
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(content) = encoded {
            etag = format!("{etag}-{}", content.codec.name());
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(content.codec.name()));
        } else if let Some(sha256) = file.sha256 {
            headers.insert(REPR_DIGEST.clone(), value(&repr_digest(sha256))?);
        }
        if doc.content.codec != Codec::Identity.name() {
            headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        }
        let is_inline = wish.disposition == Disposition::Inline && is_safe_inline(&doc.content_type);
        let disposition = if is_inline { Disposition::Inline } else { Disposition::Attachment };
        let (caching, embedding) = match doc.access.as_str() {
            "public" => ("public, no-cache", "cross-origin"),
            _ => ("private, no-cache", "same-origin"),
        };
        headers.insert(ETAG, value(&format!("\"{etag}\""))?);
        headers.insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified))?);
        headers.insert(CONTENT_DISPOSITION, content_disposition(disposition, &doc.name));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(CROSS_ORIGIN_RESOURCE_POLICY.clone(), HeaderValue::from_static(embedding));
        Ok(Self { etag, modified, headers, content_type: value(&doc.content_type)?, rate: wish.rate })
    }

    /// The answer with the bytes of a read.
    async fn send(
        mut self,
        status: StatusCode,
        len: u64,
        plan: ReadPlan,
        request_id: &RequestId,
    ) -> Result<Response, Error> {
        self.tell_cost(std::slice::from_ref(&plan))?;
        let body = paced(body(plan.read().await?, request_id), self.rate);
        Ok(self.respond(status, Some(len), body))
    }

    /// Says what reads take from the database, as a metric without a duration (W3C Server Timing §2).
    fn tell_cost(&mut self, reads: &[ReadPlan]) -> Result<(), Error> {
        let mut total = ReadCost::default();
        for read in reads {
            let Some(cost) = read.cost()? else { return Ok(()) };
            total = total + cost;
        }
        let ReadCost { chunks, frames, bytes } = total;
        let told = format!("gridfs;desc=\"chunks={chunks},frames={frames},bytes={bytes}\"");
        self.headers.insert(SERVER_TIMING.clone(), value(&told)?);
        Ok(())
    }

    /// The answer; a 304 carries no type and no length (RFC 9110 §15.4.5).
    fn respond(self, status: StatusCode, len: Option<u64>, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = self.headers;
        if let Some(len) = len {
            response.headers_mut().insert(CONTENT_TYPE, self.content_type);
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
        response
    }
}

async fn respond_single(
    file: &OpenedFile,
    mut representation: Representation,
    range: Range<u64>,
    request_id: &RequestId,
) -> Result<Response, Error> {
    let len = range.end - range.start;
    representation.headers.insert(CONTENT_RANGE, value(&ranges::content_range(&range, file.plain_len))?);
    representation.send(StatusCode::PARTIAL_CONTENT, len, file.plan(&range)?, request_id).await
}

fn respond_multi(
    file: &OpenedFile,
    mut representation: Representation,
    ranges: &[Range<u64>],
    request_id: &RequestId,
) -> Result<Response, Error> {
    let boundary: String = random::bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    let content_type = representation.content_type.to_str().unwrap_or("application/octet-stream").to_owned();
    let plan = ranges::multipart(ranges, file.plain_len, &content_type, &boundary);
    representation.content_type = value(&format!("multipart/byteranges; boundary={}", plan.boundary))?;
    let reads = file.plans(plan.parts.iter().map(|part| &part.range))?;
    representation.tell_cost(&reads)?;
    let parts = stream::iter(plan.parts.into_iter().zip(reads).map(Ok))
        .and_then(async move |(part, read)| Ok::<_, Error>(stream::iter([Ok(part.head)]).chain(read.read().await?)));
    let whole = parts.try_flatten().chain(stream::iter([Ok(plan.tail)])).boxed();
    let body = paced(body(whole, request_id), representation.rate);
    Ok(representation.respond(StatusCode::PARTIAL_CONTENT, Some(plan.content_length), body))
}

/// A body that cuts the connection when its stream fails; the failure is logged here, as no answer
/// can tell it any more.
fn body(stream: ByteStream, request_id: &RequestId) -> Body {
    let id = request_id.clone();
    Body::from_stream(stream.inspect_err(move |error| {
        if error.code == ErrorCode::Damaged {
            metrics::integrity_failure();
        }
        tracing::error!(request.id = &*id.0, error = %error, cause = error.cause.as_deref().map(ToString::to_string), "cut a download");
    }))
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|error| Error::internal("write a header", error))
}
