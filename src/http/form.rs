//! `multipart/form-data` uploads: the fields, then the file as a stream. What comes after the file
//! is refused, never ignored.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};

use super::body::stream_body;
use crate::error::Error;
use crate::files::options::PutOptions;
use crate::pipeline::{BodyError, BodyStream};
use crate::store::DateTime;

/// Bytes of one text field.
const MAX_FIELD_LEN: usize = 64 << 10;
/// Fields before the file.
const MAX_FIELDS: usize = 64;
const FILE_FIELD: &str = "file";

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

/// Reads the fields and stops where the file begins.
///
/// # Errors
/// `bad_request` for a malformed form, an unknown or repeated field, too many or too long ones, or
/// no file; the options' own errors.
pub async fn read_form(
    body: Body,
    idle: Duration,
    boundary: String,
    mut options: PutOptions,
    now: DateTime,
) -> Result<FileForm, Error> {
    let mut form = Multipart::new(stream_body(body, idle), boundary);
    let mut seen = Vec::new();
    loop {
        let field = form.next_field().await.map_err(|error| body_error(error).into_error())?;
        let Some(field) = field else {
            return Err(Error::bad_request(FILE_FIELD, "The form has no part named \"file\"."));
        };
        let name = field.name().unwrap_or_default().to_owned();
        if name == FILE_FIELD {
            if options.name.is_none() {
                let file_name = field.file_name().filter(|name| !name.is_empty());
                options.name = file_name.map(crate::files::options::name).transpose()?;
            }
            let declared_type =
                field.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            return Ok(FileForm { options, declared_type, body: stream_file(form, field) });
        }
        if seen.len() == MAX_FIELDS || seen.contains(&name) {
            return Err(Error::bad_request(
                "form",
                format!("The field {name:?} is there twice, or there are too many."),
            ));
        }
        let text = read_text(field).await?;
        if !options.set(&name, &text, now)? {
            return Err(Error::bad_request("form", format!("There is no field {name:?}.")));
        }
        seen.push(name);
    }
}

async fn read_text(mut field: Field<'static>) -> Result<String, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| body_error(error).into_error())? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_FIELD_LEN {
            return Err(Error::bad_request("form", format!("A field is longer than {MAX_FIELD_LEN} bytes.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::bad_request("form", "A field is not UTF-8."))
}

fn stream_file(form: Multipart<'static>, field: Field<'static>) -> BodyStream {
    Box::pin(
        stream::try_unfold((form, Some(field)), async |(mut form, field)| {
            let Some(mut field) = field else { return Ok(None) };
            if let Some(piece) = field.chunk().await.map_err(body_error)? {
                return Ok(Some((piece, (form, Some(field)))));
            }
            drop(field);
            match form.next_field().await.map_err(body_error)? {
                None => Ok(Some((Bytes::new(), (form, None)))),
                Some(_) => Err(BodyError::Malformed("The file is not the last part of the form.".to_owned())),
            }
        })
        .try_filter(|piece| std::future::ready(!piece.is_empty())),
    )
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
