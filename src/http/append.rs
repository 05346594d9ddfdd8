//! What the protocols that append have in common: header fields, how their uploads are cut, and the end of one whose
//! first bytes failed.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::AppState;
use super::problem::RequestId;
use crate::error::Error;
use crate::files::access::Principal;
use crate::files::uploads::MAX_PARTS;
use crate::store::Id;

pub(super) static UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) static UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) static FILE_ID: HeaderName = HeaderName::from_static("gridgate-file-id");

/// Bytes of a part: an append becomes segments no longer than these.
const PART_SIZE: u64 = 64 << 20;

/// Parts of an upload of this size: long, since nobody counts them.
pub(super) fn part_size(size: Option<u64>) -> u64 {
    size.unwrap_or(0).div_ceil(MAX_PARTS).next_multiple_of(1 << 20).max(PART_SIZE)
}

/// Sets a field to what is made on the spot, and so is a header value.
pub(super) fn insert(headers: &mut HeaderMap, name: &HeaderName, value: impl AsRef<str>) {
    if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
        headers.insert(name.clone(), value);
    }
}

/// Ends an upload whose first bytes failed: its client will never know where it is.
pub(super) async fn give_up(
    state: &AppState,
    principal: &Principal,
    id: Id,
    request_id: &RequestId,
    error: Error,
) -> Error {
    let ended = state.files.abort_upload(principal, id, Some(request_id.0.to_string())).await;
    ended.unwrap_or_else(|error| tracing::debug!(%error, "an upload nobody knows of expires"));
    error
}
