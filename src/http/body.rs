//! A request's body as a stream: idle limit, content coding, and the client's faults told apart
//! from ours. Never holds more than the piece at hand.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorCode};
use crate::files::json::parse_unique;
use crate::pipeline::{BodyError, BodyStream};

/// The body, which ends with an error when no byte comes for `idle`.
pub fn stream_body(body: Body, idle: Duration) -> BodyStream {
    let pieces = stream::unfold(Some(body.into_data_stream()), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(idle, pieces.next()).await {
            Err(_) => Some((Err(BodyError::Idle), None)),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((Err(BodyError::Hangup(error.into())), None)),
            Ok(Some(Ok(piece))) => Some((Ok::<Bytes, _>(piece), Some(pieces))),
        }
    });
    Box::pin(pieces)
}

/// The fields after a body, once it has ended.
pub type Trailers = Arc<Mutex<Option<HeaderMap>>>;

/// As [`stream_body`], with the fields after the body.
pub fn stream_with_trailers(body: Body, idle: Duration) -> (BodyStream, Trailers) {
    let trailers = Trailers::default();
    let kept = Arc::clone(&trailers);
    let pieces = stream::unfold(Some(body), move |body| {
        let kept = Arc::clone(&kept);
        async move {
            let mut body = body?;
            loop {
                let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
                let frame = match tokio::time::timeout(idle, frame).await {
                    Err(_) => return Some((Err(BodyError::Idle), None)),
                    Ok(None) => return None,
                    Ok(Some(Err(error))) => return Some((Err(BodyError::Hangup(error.into())), None)),
                    Ok(Some(Ok(frame))) => frame,
                };
                match frame.into_data() {
                    Ok(piece) => return Some((Ok::<Bytes, _>(piece), Some(body))),
                    Err(frame) => {
                        if let Ok(fields) = frame.into_trailers() {
                            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(fields);
                        }
                    }
                }
            }
        }
    });
    (Box::pin(pieces), trailers)
}

/// A small body as a whole.
///
/// # Errors
/// `too_large` beyond `limit_bytes`, and the body's own errors.
pub async fn read_whole(body: Body, idle: Duration, limit_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut pieces = stream_body(body, idle);
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece.map_err(BodyError::into_error)?);
        if whole.len() > limit_bytes {
            return Err(Error::too_large(limit_bytes as u64));
        }
    }
    Ok(whole)
}

/// Refuses content codings: what is stored is what was sent.
///
/// # Errors
/// `unsupported_media_type` for any coding but `identity`.
pub fn require_identity(headers: &HeaderMap) -> Result<(), Error> {
    if headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let detail = "Send the content itself: content codings are not taken off on upload.";
    Err(Error::new(ErrorCode::UnsupportedMediaType, detail).with("field", "Content-Encoding"))
}

/// The length of a body, where it is known before that comes: announced, which the parser beneath makes sure holds, or
/// because there is none.
pub fn known_len(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}

/// The body as a JSON object whose names are unique.
pub async fn read_json_object(body: Body, idle: Duration, most: usize) -> Result<Map<String, Value>, Error> {
    let body = read_whole(body, idle, most).await?;
    let value = parse_unique(&body);
    match value.map_err(|_| Error::bad_request("body", "The body is not JSON, or names a member twice."))? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::bad_request("body", "The body is not a JSON object.")),
    }
}

/// Refuses a body that is not declared as JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), Error> {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if ["application/merge-patch+json", "application/json"].contains(&essence.as_str()) {
        return Ok(());
    }
    let detail = "Send application/json, or application/merge-patch+json where something is changed.";
    Err(Error::new(ErrorCode::UnsupportedMediaType, detail).with("mediaType", essence))
}
