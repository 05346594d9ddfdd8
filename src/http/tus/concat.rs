//! `Upload-Concat` of tus: which uploads are pieces, and which are made of them.

use axum::response::Response;
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use super::fields::{is_deferred, length};
use super::{address, metadata, tell};
use crate::error::Error;
use crate::files::uploads::{MAX_PARTIALS, UploadRequest};
use crate::http::append::{insert, to_the_end};
use crate::http::caller::Caller;
use crate::http::files::{file_id, idempotency_key};
use crate::store::Id;
use crate::store::concat::ConcatDoc;
use crate::store::uploads::UploadDoc;

pub(super) static UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
const HEADER: &str = "Upload-Concat";

/// What a request begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Concat {
    /// A piece of another upload.
    Partial,
    /// An upload of these, as they are named.
    Final(Vec<Id>, String),
}

impl Concat {
    /// What the head of a request says; nothing of an upload by itself.
    ///
    /// # Errors
    /// `bad_header`.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let refused = || {
            let detail = format!("{HEADER} is partial, or final; and the addresses of 1 to {MAX_PARTIALS} uploads.");
            Error::bad_header(HEADER, detail)
        };
        let mut values = headers.get_all(&UPLOAD_CONCAT).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let text = value.to_str().ok().filter(|_| values.next().is_none()).ok_or_else(refused)?;
        if text == "partial" {
            return Ok(Some(Self::Partial));
        }
        let addresses = text.strip_prefix("final;").ok_or_else(refused)?;
        let ids: Option<Vec<Id>> = addresses.split_ascii_whitespace().map(upload_at).collect();
        let ids = ids.filter(|ids| !ids.is_empty() && ids.len() <= MAX_PARTIALS);
        ids.map(|ids| Some(Self::Final(ids, text.to_owned()))).ok_or_else(refused)
    }
}

/// The upload at an absolute address, or at a path.
fn upload_at(address: &str) -> Option<Id> {
    let (above, id) = address.rsplit_once('/')?;
    file_id(id).ok().filter(|_| above.ends_with("/tus"))
}

/// Says of an upload what it is to others, as its client said it.
pub(super) fn describe(headers: &mut HeaderMap, upload: &UploadDoc) {
    match &upload.concat {
        None => {}
        Some(ConcatDoc::Partial { .. }) => insert(headers, &UPLOAD_CONCAT, "partial"),
        Some(ConcatDoc::Final { said, .. }) => insert(headers, &UPLOAD_CONCAT, said),
    }
}

/// `POST /tus/` of a final upload: whole from the beginning, and completed here.
pub(super) async fn create(caller: Caller, partials: Vec<Id>, said: String, head: &Parts) -> Result<Response, Error> {
    let has_length = length(&head.headers)?.is_some() || is_deferred(&head.headers)?;
    if has_length || head.headers.contains_key(CONTENT_TYPE) {
        return Err(Error::bad_header(HEADER, "A final upload brings neither a length nor bytes of its own."));
    }
    let request = UploadRequest {
        idempotency_key: idempotency_key(&head.headers)?,
        request_id: caller.audit_id(),
        customer_key: caller.customer_key.clone(),
        ..metadata::read(&head.headers)?
    };
    to_the_end("concatenate the uploads", async move {
        let upload = caller.state.files.concatenate(&caller.principal, partials, said, request).await?.upload;
        let mut response = tell(&caller, &upload).await?;
        *response.status_mut() = StatusCode::CREATED;
        insert(response.headers_mut(), &LOCATION, address(&caller, upload.id));
        Ok(response)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use http::HeaderValue;

    #[test]
    fn pieces_are_named_by_paths_and_absolute_addresses() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(&UPLOAD_CONCAT, HeaderValue::from_str(text).expect("a header"));
            Concat::read(&headers).map_err(|error| error.code)
        };
        let (a, b) = ("0123456789abcdef01234567", "76543210fedcba9876543210");
        let ids = vec![a.parse().expect("an id"), b.parse().expect("an id")];
        assert_eq!(read("partial"), Ok(Some(Concat::Partial)));
        let both = format!("final;/tus/{a} https://x/y/tus/{b}");
        assert_eq!(read(&both), Ok(Some(Concat::Final(ids, both))));
        let many = format!("final;{}", format!("/tus/{a} ").repeat(MAX_PARTIALS + 1));
        for bad in [
            "",
            "final",
            "final;",
            "final; ",
            "Partial",
            &format!("final;{a}"),
            "final;/tus/1",
            &format!("/tus/{a}"),
            &many,
        ] {
            assert_eq!(read(bad), Err(ErrorCode::BadHeader), "{bad}");
        }
        assert_eq!(Concat::read(&HeaderMap::new()).map_err(|error| error.code), Ok(None));
    }
}
