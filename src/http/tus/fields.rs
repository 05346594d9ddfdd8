//! The header fields of tus requests that are numbers, or must be as they are.

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use super::{TUS_RESUMABLE, UPLOAD_DEFER_LENGTH, VERSION};
use crate::error::{Error, ErrorCode};
use crate::http::append::UPLOAD_LENGTH;

const OFFSET_TYPE: &str = "application/offset+octet-stream";

/// Refuses another version of the protocol, and none.
pub(super) fn require_version(head: &Parts) -> Result<(), Error> {
    if head.headers.get(&TUS_RESUMABLE).is_some_and(|version| version == VERSION) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::TusVersion, format!("Send Tus-Resumable: {VERSION}.")))
}

/// Refuses a body that is not declared as bytes at an offset.
pub(super) fn require_offset_type(headers: &HeaderMap) -> Result<(), Error> {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if sent.eq_ignore_ascii_case(OFFSET_TYPE) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::UnsupportedMediaType, format!("Send {OFFSET_TYPE}.")).with("mediaType", sent))
}

/// How long the upload is, where that is said.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    number(headers, &UPLOAD_LENGTH, "Upload-Length")
}

/// Whether the length comes later.
pub(super) fn is_deferred(headers: &HeaderMap) -> Result<bool, Error> {
    match headers.get(&UPLOAD_DEFER_LENGTH) {
        None => Ok(false),
        Some(value) if value == "1" => Ok(true),
        Some(_) => Err(Error::bad_header("Upload-Defer-Length", "It is 1, or absent.")),
    }
}

/// A number of bytes.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName, shown: &'static str) -> Result<Option<u64>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    let number = number.filter(|number| i64::try_from(*number).is_ok() && values.next().is_none());
    number.map(Some).ok_or_else(|| Error::bad_header(shown, format!("{shown} is not one number of bytes.")))
}
