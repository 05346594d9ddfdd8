//! Errors as the draft has them: its problem types (§7), and the fields that go with them.

use axum::response::{IntoResponse, Response};

use super::{ACCEPT_PATCH, MOST, PARTIAL_UPLOAD, UPLOAD_LIMIT};
use crate::error::{Error, ErrorCode};
use crate::files::access::Refusal;
use crate::http::append::{UPLOAD_OFFSET, insert};

/// Where the problem types of the draft are registered.
const TYPES: &str = "https://iana.org/assignments/http-problem-types#";

/// A request that was refused.
pub struct Refused(Error);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let of_draft = match error.code {
            ErrorCode::OffsetMismatch => "mismatching-upload-offset",
            ErrorCode::UploadCompleted => "completed-upload",
            ErrorCode::InconsistentLength => "inconsistent-upload-length",
            _ => return Self(error),
        };
        Self(error.with("type", format!("{TYPES}{of_draft}")))
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Error::from(refusal).into()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match (self.0.code, self.0.number("expectedOffset"), self.0.number("limitBytes")) {
            (ErrorCode::OffsetMismatch, Some(expected), _) => {
                let mut response = self.0.with("expected-offset", expected).into_response();
                insert(response.headers_mut(), &UPLOAD_OFFSET, expected.to_string());
                response
            }
            (ErrorCode::TooLarge, _, Some(limit)) => {
                let mut response = self.0.into_response();
                insert(response.headers_mut(), &UPLOAD_LIMIT, format!("max-size={}", limit.min(MOST)));
                response
            }
            (ErrorCode::UnsupportedMediaType, ..) => {
                let mut response = self.0.into_response();
                insert(response.headers_mut(), &ACCEPT_PATCH, PARTIAL_UPLOAD);
                response
            }
            _ => self.0.into_response(),
        }
    }
}
