//! `multipart/form-data` uploads: the fields, then the file as a stream. What comes after the file
//! is refused, never ignored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};
use sha2::{Digest, Sha256, Sha512};

use crate::error::{Error, ErrorCode};
use crate::files::options::PutOptions;
use crate::files::put::ExpectedDigests;
use crate::pipeline::{BodyError, BodyStream};
use crate::store::DateTime;

/// Bytes of one text field.
const MAX_FIELD_LEN: usize = 64 << 10;
/// Bytes of a part's head.
const MAX_HEAD_LEN: usize = 64 << 10;
/// Fields before the file.
const MAX_FIELDS: usize = 64;
const FILE_FIELD: &str = "file";
/// More than stands around the file in any form that is taken.
const MAX_AROUND_FILE: u64 = ((MAX_FIELDS + 2) * (MAX_HEAD_LEN + MAX_FIELD_LEN)) as u64;

/// A form up to where its file begins.
pub struct FileForm {
    /// What the fields said.
    pub options: PutOptions,
    /// The file part's own type.
    pub declared_type: Option<String>,
    /// The file's bytes.
    pub body: BodyStream,
}

/// The boundary of a form; none where the request is not one.
///
/// # Errors
/// `bad_header` for a form without a boundary.
pub fn boundary(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let parsed = multer::parse_boundary(content_type);
    parsed.map(Some).map_err(|_| Error::bad_header("Content-Type", "multipart/form-data needs a boundary."))
}

/// Refuses a length that no form with a file of up to `most` bytes has.
///
/// # Errors
/// `too_large`.
pub fn check_len(announced: Option<u64>, most: u64) -> Result<(), Error> {
    match announced {
        Some(len) if len > most.saturating_add(MAX_AROUND_FILE) => Err(Error::too_large(most)),
        _ => Ok(()),
    }
}

/// Reads the fields and stops where the file begins. `seen` are the options given elsewhere; fields are refused where
/// the sender may not say anything.
///
/// # Errors
/// `bad_request` for a malformed form, an unknown or repeated field, too many or too long ones, or
/// no file; the options' own errors.
pub async fn read_form(
    body: FormBody,
    boundary: String,
    mut options: PutOptions,
    mut seen: Vec<String>,
    may_say: bool,
    now: DateTime,
) -> Result<FileForm, Error> {
    let mut form = Multipart::new(body.pieces(), boundary);
    let most = seen.len() + MAX_FIELDS;
    loop {
        let field = form.next_field().await.map_err(|error| body_error(error).into_error())?;
        body.note_progress();
        let Some(field) = field else {
            return Err(Error::bad_request(FILE_FIELD, "The form has no part named \"file\"."));
        };
        let name =
            field.name().ok_or_else(|| Error::bad_request("body", "A part of the form has no name."))?.to_owned();
        if name == FILE_FIELD {
            if options.name.is_none() {
                let file_name = field.file_name().filter(|name| !name.is_empty());
                options.name = file_name.map(crate::files::options::name).transpose()?;
            }
            let declared_type =
                field.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            return Ok(FileForm { options, declared_type, body: stream_file(body, form, field) });
        }
        if seen.len() == most || seen.contains(&name) {
            return Err(refused(&name, "The option is given twice, or there are too many fields.".to_owned()));
        }
        if !may_say {
            return Err(refused(&name, "The link says what may be said about the file.".to_owned()));
        }
        let text = read_text(&name, field, &body).await?;
        if !options.set(&name, &text, now)? {
            return Err(refused(&name, "There is no such field.".to_owned()));
        }
        seen.push(name);
    }
}

fn refused(field: &str, detail: String) -> Error {
    Error::new(ErrorCode::BadRequest, detail).with("field", field)
}

async fn read_text(name: &str, mut field: Field<'static>, body: &FormBody) -> Result<String, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| body_error(error).into_error())? {
        body.note_progress();
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_FIELD_LEN {
            return Err(refused(name, format!("The field is longer than {MAX_FIELD_LEN} bytes.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| refused(name, "The field is not UTF-8.".to_owned()))
}

fn stream_file(body: FormBody, form: Multipart<'static>, field: Field<'static>) -> BodyStream {
    Box::pin(
        stream::try_unfold((body, form, Some(field)), async |(body, mut form, field)| {
            let Some(mut field) = field else { return Ok(None) };
            if let Some(piece) = field.chunk().await.map_err(body_error)? {
                body.note_progress();
                return Ok(Some((piece, (body, form, Some(field)))));
            }
            drop(field);
            match form.next_field().await.map_err(body_error)? {
                None => {
                    body.finish().await?;
                    Ok(Some((Bytes::new(), (body, form, None))))
                }
                Some(_) => Err(BodyError::Malformed("The file is not the last part of the form.".to_owned())),
            }
        })
        .try_filter(|piece| std::future::ready(!piece.is_empty())),
    )
}

/// The body of a form: read by the parser, and to its very end by us, so that a digest is of all of
/// it.
#[derive(Clone)]
pub struct FormBody {
    pieces: Arc<Mutex<BodyStream>>,
    /// Bytes taken since the parser last gave something out.
    unparsed: Arc<AtomicUsize>,
    hashers: Option<Arc<Mutex<(Sha256, Sha512)>>>,
    expected: ExpectedDigests,
}

impl FormBody {
    /// A body that must have these digests.
    pub fn new(body: BodyStream, expected: ExpectedDigests) -> Self {
        let is_wanted = !expected.sha256.is_empty() || !expected.sha512.is_empty();
        let hashers = is_wanted.then(Arc::default);
        // Fused, as it may be at its end when the rest is read.
        Self { pieces: Arc::new(Mutex::new(Box::pin(body.fuse()))), unparsed: Arc::default(), hashers, expected }
    }

    /// What is left of it, hashed as it passes.
    fn pieces(&self) -> BodyStream {
        let (pieces, hashers) = (Arc::clone(&self.pieces), self.hashers.clone());
        let (unparsed, mut has_given) = (Arc::clone(&self.unparsed), false);
        let pieces = stream::poll_fn(move |context| {
            // The parser takes pieces until none is ready, and keeps them; so it gets one at a time.
            if std::mem::take(&mut has_given) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if unparsed.load(Ordering::Relaxed) > MAX_HEAD_LEN {
                let detail = format!("The head of a part is longer than {MAX_HEAD_LEN} bytes.");
                return Poll::Ready(Some(Err(BodyError::Malformed(detail))));
            }
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll_next(context);
            if let Poll::Ready(Some(Ok(piece))) = &next {
                unparsed.fetch_add(piece.len(), Ordering::Relaxed);
                has_given = true;
            }
            next
        });
        Box::pin(pieces.inspect_ok(move |piece| {
            if let Some(hashers) = &hashers {
                let mut hashers = hashers.lock().unwrap_or_else(PoisonError::into_inner);
                hashers.0.update(piece);
                hashers.1.update(piece);
            }
        }))
    }

    /// The parser gave something out.
    fn note_progress(&self) {
        self.unparsed.store(0, Ordering::Relaxed);
    }

    /// Reads what follows the form, of which there is little, and compares the digests.
    async fn finish(&self) -> Result<(), BodyError> {
        let mut len = 0;
        let mut rest = self.pieces();
        while let Some(piece) = rest.next().await {
            self.note_progress();
            len += piece?.len();
            if len > MAX_FIELD_LEN {
                return Err(BodyError::Malformed("The form is followed by something else.".to_owned()));
            }
        }
        let Some(hashers) = &self.hashers else { return Ok(()) };
        let hashers = hashers.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256: [u8; 32] = hashers.0.clone().finalize().into();
        let sha512: [u8; 64] = hashers.1.clone().finalize().into();
        let is_right = self.expected.sha256.iter().all(|digest| *digest == sha256)
            && self.expected.sha512.iter().all(|digest| *digest == sha512);
        if is_right { Ok(()) } else { Err(BodyError::Mismatch) }
    }
}

/// The body's own error where it was the body that failed.
fn body_error(error: multer::Error) -> BodyError {
    match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<BodyError>() {
            Ok(error) => *error,
            Err(cause) => BodyError::Hangup(cause),
        },
        multer::Error::IncompleteStream | multer::Error::IncompleteFieldData { .. } => {
            BodyError::Malformed("The form ends in the middle of a part.".to_owned())
        }
        _ => BodyError::Malformed("The body is not a well-formed multipart form.".to_owned()),
    }
}
