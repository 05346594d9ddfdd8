//! The header fields of the draft (§4.1), which are structured fields (RFC 9651). One that is not of its type is passed
//! over, as if it had not been sent.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Item, Parser};

use super::{PARTIAL_UPLOAD, UPLOAD_COMPLETE};
use crate::error::{Error, ErrorCode};
use crate::http::append::{UPLOAD_LENGTH, UPLOAD_OFFSET};

/// Whether the body ends the upload.
///
/// # Errors
/// `bad_header` where that is not said.
pub(super) fn is_complete(headers: &HeaderMap) -> Result<bool, Error> {
    let said = item(headers, &UPLOAD_COMPLETE).and_then(|item| item.as_boolean());
    said.ok_or_else(|| Error::bad_header("Upload-Complete", "Say ?1 with the end of the upload, ?0 before it."))
}

/// Where the body begins.
///
/// # Errors
/// `bad_header` where that is not said.
pub(super) fn offset(headers: &HeaderMap) -> Result<u64, Error> {
    let said = bytes(headers, &UPLOAD_OFFSET);
    said.ok_or_else(|| Error::bad_header("Upload-Offset", "Say where the bytes begin."))
}

/// How long the upload is, where that is said, or follows from the length of the last body.
///
/// # Errors
/// `inconsistent_length` where both are said and differ.
pub(super) fn length(headers: &HeaderMap, offset: u64, rest: Option<u64>) -> Result<Option<u64>, Error> {
    let said = bytes(headers, &UPLOAD_LENGTH);
    match (said, rest.map(|rest| offset.saturating_add(rest))) {
        (Some(said), Some(implied)) if said != implied => Err(inconsistent()),
        (said, implied) => Ok(said.or(implied)),
    }
}

/// Refuses a body that is not declared as one to be appended.
pub(super) fn require_partial_type(headers: &HeaderMap) -> Result<(), Error> {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if sent.eq_ignore_ascii_case(PARTIAL_UPLOAD) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::UnsupportedMediaType, format!("Send {PARTIAL_UPLOAD}.")).with("mediaType", sent))
}

/// What is said of the length does not go together.
pub(super) fn inconsistent() -> Error {
    Error::new(ErrorCode::InconsistentLength, "What is said of the upload's length does not go together.")
}

fn bytes(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let number = item(headers, name)?.as_integer()?;
    u64::try_from(i64::from(number)).ok()
}

fn item(headers: &HeaderMap, name: &HeaderName) -> Option<BareItem> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let item: Item = Parser::new(value.as_bytes()).parse().ok()?;
    Some(item.bare_item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("a header"));
        }
        headers
    }

    #[test]
    fn a_field_that_is_not_of_its_type_was_not_sent() {
        for (value, number) in [("0", Some(0)), (" 12;a=b ", Some(12)), ("999999999999999", Some(999_999_999_999_999))]
        {
            assert_eq!(bytes(&headers(&[("upload-offset", value)]), &UPLOAD_OFFSET), number, "{value}");
        }
        for value in ["", "-1", "1.0", "?1", "\"1\"", "1 2", "1, 2", "1000000000000000", "x"] {
            assert_eq!(bytes(&headers(&[("upload-offset", value)]), &UPLOAD_OFFSET), None, "{value}");
        }
        assert_eq!(bytes(&headers(&[("upload-offset", "1"), ("upload-offset", "1")]), &UPLOAD_OFFSET), None);
        for (value, said) in [("?1", Some(true)), ("?0;x", Some(false)), ("1", None), ("true", None), ("?2", None)] {
            assert_eq!(is_complete(&headers(&[("upload-complete", value)])).ok(), said, "{value}");
        }
    }

    #[test]
    fn a_length_follows_from_the_last_body() {
        let of = |said: &[(&'static str, &str)], rest| length(&headers(said), 10, rest).map_err(|error| error.code);
        assert_eq!(of(&[], Some(5)), Ok(Some(15)));
        assert_eq!(of(&[], None), Ok(None));
        assert_eq!(of(&[("upload-length", "20")], None), Ok(Some(20)));
        assert_eq!(of(&[("upload-length", "15")], Some(5)), Ok(Some(15)));
        assert_eq!(of(&[("upload-length", "20")], Some(5)), Err(ErrorCode::InconsistentLength));
    }
}
