//! /v1/files/{id}/content: the bytes, whole or in part. The only builder of 200, 206 and 304 for
//! content; HEAD is the same way without the bytes and without ranges.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use super::AppState;
use super::caller::{AnyCaller, Caller};
use super::conditional::{Precondition, Reading, Validators, evaluate, if_range_holds};
use super::digests::{REPR_DIGEST, repr_digest};
use super::disposition::{Disposition, content_disposition, is_safe_inline};
use super::files::FileIdPath;
use super::links::Guest;
use super::links::page::is_pdf;
use super::negotiate::{Coding, accepts};
use super::problem::RequestId;
use super::query;
use super::ranges::{self, RangePlan};
use super::throttle::{Rate, paced};
use crate::error::{Error, ErrorCode};
use crate::files::access::Role;
use crate::files::open::OpenedFile;
use crate::files::read::{EncodedContent, ReadCost, ReadPlan};
use crate::files::shares::visit::Visit;
use crate::format::segment::Codec;
use crate::metrics;
use crate::pipeline::ByteStream;
use crate::random;
use crate::store::Id;
use crate::store::registry::FileDoc;

/// What content may do in a browser: nothing.
const POLICY: &str = "sandbox; default-src 'none'";
/// Of a PDF in the frame of a share's page: browsers show it apart from the page's origin, but not in a sandbox.
const PDF_POLICY: &str = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'";

static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Fetch Standard, §3.8.
static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// `GET` and `HEAD /v1/files/{id}/content`.
pub async fn open(AnyCaller(caller): AnyCaller, FileIdPath(id): FileIdPath, head: Parts) -> Result<Response, Error> {
    respond(caller, id, head, None).await
}

/// A share through which content is asked for.
#[derive(Clone, Copy)]
pub(super) struct Through<'a> {
    pub(super) visit: &'a Visit,
    pub(super) guest: &'a Guest,
}

/// The content of a file, as a request asks for it.
pub(super) async fn respond(
    caller: Caller,
    id: Id,
    head: Parts,
    through: Option<Through<'_>>,
) -> Result<Response, Error> {
    let Caller { state, principal, request_id, customer_key } = caller;
    let Parts { method, headers, uri, .. } = head;
    // Whoever has the content already may need no more than to know that it is the same; and what several ranges take
    // is told one by one.
    let may_have_it = [IF_NONE_MATCH, IF_MODIFIED_SINCE].iter().any(|name| headers.contains_key(name));
    let has_ranges = headers.get(RANGE).is_some_and(|ranges| ranges.as_bytes().contains(&b','));
    let wants_bytes = method == Method::GET && !may_have_it && !has_ranges;
    let mut file = state.files.open(&principal, id, customer_key, wants_bytes).await?;
    let reader = match (through, &principal.role) {
        (Some(_), _) => Reader::Guest,
        (None, Role::Link(_)) => Reader::Presigned,
        (None, _) => Reader::Other,
    };
    let mut wanted = Wanted::read(&uri, reader)?;
    // Browsers that say so say that it is for a frame.
    wanted.is_preview &=
        headers.get("sec-fetch-dest").is_none_or(|dest| ["iframe", "embed", "object"].iter().any(|of| dest == of));
    let showing = wanted.showing(&file.doc, through)?;
    let answering = Answering {
        showing,
        reader,
        // Whoever has a presigned URL asks with nothing but that, and of a share the terms may name the pages.
        is_embeddable: through.map_or(reader == Reader::Presigned, |through| through.visit.is_from_page),
        rate: wanted.rate,
    };
    if let Some(name) = wanted.name {
        Arc::make_mut(&mut file.doc).name = name;
    }
    let encoded = negotiate(&file, &headers)?;
    let representation = Representation::new(&state, &file, &answering, encoded.as_ref())?;
    let validators = Validators { etag: &representation.etag, modified: representation.modified };
    match evaluate(Reading::Safe, &headers, &validators) {
        Precondition::NotModified => return Ok(representation.respond(StatusCode::NOT_MODIFIED, None, Body::empty())),
        Precondition::Failed => {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The content is not the one the request names."));
        }
        Precondition::Proceed => {}
    }
    if method != Method::GET {
        let len = encoded.as_ref().map_or(file.plain_len, |encoded| encoded.encoded_len);
        if encoded.is_none() {
            file.check_readable()?;
        }
        return Ok(representation.respond(StatusCode::OK, Some(len), Body::empty()));
    }
    let (mut response, first_byte) = send(&file, representation, encoded, &headers, &request_id).await?;
    if let Some(Through { visit, guest }) = through {
        guest.take_download(visit, showing != Showing::Saved, &mut response).await?;
    }
    state.files.count_access(&file.doc, first_byte);
    Ok(response)
}

/// The answer with bytes, and the first of them.
async fn send(
    file: &OpenedFile,
    representation: Representation,
    encoded: Option<EncodedContent>,
    headers: &HeaderMap,
    request_id: &RequestId,
) -> Result<(Response, u64), Error> {
    if let Some(encoded) = encoded {
        let len = encoded.encoded_len;
        let response = representation.send(StatusCode::OK, len, file.plan_encoded(encoded), request_id).await?;
        return Ok((response, 0));
    }
    let len = file.plain_len;
    let validators = Validators { etag: &representation.etag, modified: representation.modified };
    let plan = if if_range_holds(headers, &validators) { ranges::plan(headers, len) } else { RangePlan::Whole };
    match plan {
        RangePlan::Whole => Ok((representation.send(StatusCode::OK, len, file.plan(&(0..len))?, request_id).await?, 0)),
        RangePlan::Single(range) => {
            let start = range.start;
            Ok((respond_single(file, representation, range, request_id).await?, start))
        }
        RangePlan::Multi(ranges) => {
            let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
            Ok((respond_multi(file, representation, &ranges, request_id).await?, start))
        }
        RangePlan::Unsatisfiable => {
            let detail = format!("The content has {len} bytes.");
            Err(Error::new(ErrorCode::RangeNotSatisfiable, detail).with("plainLen", len))
        }
    }
}

/// How a request wants the content.
struct Wanted {
    disposition: Disposition,
    /// Under another name; for holders of presigned URLs that say so.
    name: Option<String>,
    /// In a frame of a share's page.
    is_preview: bool,
    rate: Option<Rate>,
}

/// By what content is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A credential, or nothing.
    Other,
    /// A presigned URL.
    Presigned,
    /// A share.
    Guest,
}

/// How content is answered with.
struct Answering {
    showing: Showing,
    reader: Reader,
    /// Whether pages of other origins may show it.
    is_embeddable: bool,
    rate: Option<Rate>,
}

/// What a browser does with content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Showing {
    Saved,
    Shown,
    /// With the viewer for PDF, which does not run in a sandbox of CSP.
    Pdf,
}

impl Wanted {
    fn read(uri: &Uri, reader: Reader) -> Result<Self, Error> {
        let pairs = query::pairs(uri)?;
        query::require_single(&pairs, &[])?;
        let mut wanted = Self { disposition: Disposition::Inline, name: None, is_preview: false, rate: None };
        for (name, value) in pairs {
            match (name.as_str(), value.as_str()) {
                ("download", "1") => wanted.disposition = Disposition::Attachment,
                ("download", _) => return Err(Error::bad_request("download", "download is 1 or absent.")),
                ("filename", _) if reader == Reader::Presigned => wanted.name = Some(value),
                ("preview", "1") if reader == Reader::Guest => wanted.is_preview = true,
                ("throttle", value) => wanted.rate = Some(Rate::parse(value)?),
                _ => return Err(query::unknown(&name)),
            }
        }
        Ok(wanted)
    }

    fn showing(&self, doc: &FileDoc, through: Option<Through<'_>>) -> Result<Showing, Error> {
        let is_pdf = self.is_preview && is_pdf(&doc.content_type);
        let can_be_shown = is_pdf || is_safe_inline(&doc.content_type);
        let wants_file = self.disposition == Disposition::Attachment;
        let is_shown = match through {
            Some(Through { visit, .. }) => visit.is_shown(wants_file, can_be_shown)?,
            None => !wants_file && can_be_shown,
        };
        Ok(match is_shown {
            false => Showing::Saved,
            true if is_pdf => Showing::Pdf,
            true => Showing::Shown,
        })
    }
}

/// The stored coding, where the client accepts it and asks for the whole.
fn negotiate(file: &OpenedFile, headers: &HeaderMap) -> Result<Option<EncodedContent>, Error> {
    let wants = |coding| accepts(headers, coding);
    let is_partial = headers.contains_key(RANGE);
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
    fn new(
        state: &AppState,
        file: &OpenedFile,
        answering: &Answering,
        encoded: Option<&EncodedContent>,
    ) -> Result<Self, Error> {
        let doc = &file.doc;
        let mut etag = state.files.etag(doc);
        let modified = doc.created_at.to_system_time();
        // Those of all layers, too: a map that grows moves what is in it.
        let mut headers = HeaderMap::with_capacity(24);
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
        let disposition = match answering.showing {
            Showing::Saved => Disposition::Attachment,
            Showing::Shown | Showing::Pdf => Disposition::Inline,
        };
        let is_public = doc.access == "public" && answering.reader != Reader::Guest;
        let caching = if is_public { "public, no-cache" } else { "private, no-cache" };
        let is_embeddable = is_public || answering.is_embeddable;
        let embedding = if is_embeddable { "cross-origin" } else { "same-origin" };
        let policy = if answering.showing == Showing::Pdf { PDF_POLICY } else { POLICY };
        headers.insert(ETAG, value(&format!("\"{etag}\""))?);
        headers.insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified))?);
        headers.insert(CONTENT_DISPOSITION, content_disposition(disposition, &doc.name));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(CROSS_ORIGIN_RESOURCE_POLICY.clone(), HeaderValue::from_static(embedding));
        Ok(Self { etag, modified, headers, content_type: value(&doc.content_type)?, rate: answering.rate })
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

async fn respond_multi(
    file: &OpenedFile,
    mut representation: Representation,
    ranges: &[Range<u64>],
    request_id: &RequestId,
) -> Result<Response, Error> {
    let boundary = hex::encode(random::bytes::<16>());
    let content_type = representation.content_type.to_str().unwrap_or("application/octet-stream").to_owned();
    let plan = ranges::multipart(ranges, file.plain_len, &content_type, &boundary);
    representation.content_type = value(&format!("multipart/byteranges; boundary={}", plan.boundary))?;
    let reads = file.plans(plan.parts.iter().map(|part| &part.range))?;
    representation.tell_cost(&reads)?;
    let mut parts = stream::iter(plan.parts.into_iter().zip(reads).map(Ok))
        .and_then(async move |(part, read)| Ok::<_, Error>(stream::iter([Ok(part.head)]).chain(read.read().await?)))
        .boxed();
    // Damage in the first part is an answer, and takes no download of a share.
    let first = parts.try_next().await?;
    let whole = stream::iter(first.map(Ok)).chain(parts).try_flatten().chain(stream::iter([Ok(plan.tail)])).boxed();
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
