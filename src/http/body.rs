//! A request's body as a stream: how slowly it may come, content coding, and the client's faults told apart
//! from ours. Never holds more than the piece at hand.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Uri};
use serde_json::{Map, Value};

use super::query;
use crate::error::{Error, ErrorCode};
use crate::files::json::parse_unique;
use crate::pipeline::{BodyError, BodyStream};

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// How long no byte may come.
    pub idle: Duration,
    /// Bytes a second that come at least, on average over `idle`; 0: as few as one.
    pub min_bytes_per_sec: u64,
}

/// Measures a body. Only time spent waiting for the client counts: a gateway or a database that takes no bytes for a
/// while does not make its client slow.
struct Pace {
    limits: BodyLimits,
    waited: Duration,
    received: u64,
}

impl Pace {
    fn new(limits: BodyLimits) -> Self {
        Self { limits, waited: Duration::ZERO, received: 0 }
    }

    /// Waits for the next piece; `len` is that of its data.
    async fn next<T>(
        &mut self,
        piece: impl Future<Output = Option<Result<T, axum::Error>>>,
        len: impl Fn(&T) -> usize,
    ) -> Result<Option<T>, BodyError> {
        let begun = Instant::now();
        let piece = tokio::time::timeout(self.limits.idle, piece).await.map_err(|_| BodyError::Idle)?;
        let piece = piece.transpose().map_err(|error| BodyError::Hangup(error.into()))?;
        if let Some(piece) = &piece {
            self.count(begun.elapsed(), len(piece))?;
        }
        Ok(piece)
    }

    /// Judges each full `idle` of waiting, so a short body never.
    fn count(&mut self, waited: Duration, len: usize) -> Result<(), BodyError> {
        self.waited += waited;
        self.received += len as u64;
        if self.waited < self.limits.idle {
            return Ok(());
        }
        if (self.received as f64) < self.limits.min_bytes_per_sec as f64 * self.waited.as_secs_f64() {
            return Err(BodyError::Slow);
        }
        *self = Self::new(self.limits);
        Ok(())
    }
}

/// The body, which ends with an error when it comes too slowly.
pub fn stream_body(body: Body, limits: BodyLimits) -> BodyStream {
    stream_with_trailers(body, limits).0
}

/// The fields after a body, once it has ended.
pub type Trailers = Arc<Mutex<Option<HeaderMap>>>;

/// As [`stream_body`], with the fields after the body.
pub fn stream_with_trailers(body: Body, limits: BodyLimits) -> (BodyStream, Trailers) {
    let trailers = Trailers::default();
    let kept = Arc::clone(&trailers);
    let pieces = stream::unfold(Some((body, Pace::new(limits))), move |state| {
        let kept = Arc::clone(&kept);
        async move {
            let (mut body, mut pace) = state?;
            loop {
                let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
                let frame = match pace.next(frame, |frame| frame.data_ref().map_or(0, Bytes::len)).await {
                    Err(error) => return Some((Err(error), None)),
                    Ok(None) => return None,
                    Ok(Some(frame)) => frame,
                };
                match frame.into_data() {
                    Ok(piece) => return Some((Ok::<Bytes, _>(piece), Some((body, pace)))),
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
pub async fn read_whole(body: Body, limits: BodyLimits, limit_bytes: usize) -> Result<Vec<u8>, Error> {
    if known_len(&body).is_some_and(|len| len > limit_bytes as u64) {
        return Err(Error::too_large(limit_bytes as u64));
    }
    let mut pieces = stream_body(body, limits);
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
pub async fn read_json_object(body: Body, limits: BodyLimits, most: usize) -> Result<Map<String, Value>, Error> {
    let body = read_whole(body, limits, most).await?;
    let value = parse_unique(&body);
    match value.map_err(|_| Error::bad_request("body", "The body is not JSON, or names a member twice."))? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::bad_request("body", "The body is not a JSON object.")),
    }
}

/// What a request says in JSON, and nowhere else.
///
/// # Errors
/// `bad_request` for a parameter, `unsupported_media_type`, and the body's own errors.
pub async fn read_said(
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
    most: usize,
) -> Result<Map<String, Value>, Error> {
    query::refuse(uri)?;
    require_json(headers)?;
    read_json_object(body, limits, most).await
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

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;

    use super::*;
    use crate::format::segment::{Codec, Layout, SegmentEncoder};
    use crate::pipeline::encode::Encoding;
    use crate::pipeline::frames::FrameSource;

    const LIMITS: BodyLimits = BodyLimits { idle: Duration::from_millis(100), min_bytes_per_sec: 1_000 };

    #[test]
    fn only_a_full_idle_time_of_waiting_is_judged() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(LIMITS);
        assert!(pace.count(ms(99), 1).is_ok(), "too soon to say");
        assert!(matches!(pace.count(ms(1), 98), Err(BodyError::Slow)), "99 bytes in 100 ms");
        let mut pace = Pace::new(LIMITS);
        assert!(pace.count(ms(100), 100).is_ok());
        assert!(pace.count(ms(99), 0).is_ok(), "what came before is over");
        assert!(pace.count(ms(1), 0).is_err());
        let mut unlimited = Pace::new(BodyLimits { min_bytes_per_sec: 0, ..LIMITS });
        assert!((0..100).all(|_| unlimited.count(ms(99), 1).is_ok()));
    }

    /// A frame is stored slowly, and the client goes on at once for as long as it is let.
    #[tokio::test]
    async fn a_slow_database_makes_no_slow_client() {
        let limits = BodyLimits { min_bytes_per_sec: 1 << 30, ..LIMITS };
        let (body, pieces) = mpsc::unbounded::<Result<Bytes, std::io::Error>>();
        let send = |len| body.unbounded_send(Ok(Bytes::from(vec![7; len]))).expect("it is read");
        send(1 << 20);
        let source = FrameSource::new(stream_body(Body::from_stream(pieces), limits));
        let layout = Layout { codec: Codec::Zstd, level: 1, frame_len: 256 << 10 };
        let mut encoding = Encoding::new(source, SegmentEncoder::new(layout, None), None, u64::MAX);
        assert!(encoding.next().await.expect("no fault of the client").is_some());
        let store = async {
            (0..4).for_each(|_| send(1 << 20));
            tokio::time::sleep(Duration::from_millis(150)).await;
            Ok(())
        };
        encoding.meanwhile(store).await.expect("no fault of the client");
        drop(body);
        while encoding.next().await.expect("no fault of the client").is_some() {}
    }

    #[tokio::test]
    async fn a_slow_gateway_makes_no_slow_client() {
        let pieces = (0..4).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"x")));
        let mut body = stream_body(Body::from_stream(stream::iter(pieces)), LIMITS);
        while let Some(piece) = body.next().await {
            assert_eq!(piece.expect("no fault of the client"), "x");
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
}
