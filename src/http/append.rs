//! What the protocols that append have in common: header fields, how their uploads are cut, and the end of one whose
//! first bytes failed.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::caller::Caller;
use crate::error::Error;
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

/// Runs what must not stop in the middle when its client hangs up.
pub(super) async fn to_the_end<T: Send + 'static>(
    doing: &'static str,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(|error| Error::internal(doing, error))?
}

/// Ends an upload whose first bytes failed: its client will never know where it is.
pub(super) async fn give_up(caller: &Caller, id: Id, error: Error) -> Error {
    let ended = caller.state.files.abort_upload(&caller.principal, id, caller.audit_id()).await;
    ended.unwrap_or_else(|error| tracing::debug!(%error, "an upload nobody knows of expires"));
    error
}
