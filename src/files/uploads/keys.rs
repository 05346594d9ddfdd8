//! The keys of an upload: what seals what it keeps of its content, and what it stores in the place of digests.

use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::files::protection::{KEY_HEADER, key_required};
use crate::format::FormatError;
use crate::format::digest::{Sha256Digest, likeness};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrappedKey, unwrap};
use crate::format::upload::upload_key;
use crate::store::Binary;
use crate::store::segments::binary;
use crate::store::uploads::UploadDoc;

impl Files {
    /// What is stored in the place of a digest, to know equal content by.
    pub(super) fn stand_in(&self, tenant: &str, digest: Sha256Digest, sent: Option<&Key>) -> Binary {
        binary(match sent {
            Some(sent) => likeness(digest, sent),
            None => self.keys.roots.dedup.mac(&[tenant.as_bytes(), b"\0", &digest.0]),
        })
    }

    /// The key that seals what an upload keeps of its content while it is open.
    ///
    /// # Errors
    /// `key_required` and `key_mismatch` for an upload under a client's key; `bad_header` for a key that it was not
    /// begun with.
    pub(super) fn upload_key(&self, upload: &UploadDoc, sent: Option<&Key>) -> Result<Key> {
        let damaged = |error: FormatError| Error::damaged("open the upload's key", error);
        match (&upload.enc, sent) {
            (None, None) => Ok(self.managed_upload_key()),
            (None, Some(_)) => Err(Error::bad_header(
                KEY_HEADER,
                "The upload was begun without a key: send it with the request that begins it, too.",
            )),
            (Some(_), None) => Err(key_required()),
            (Some(enc), Some(sent)) => {
                let record = WrappedKey::try_from(enc).map_err(damaged)?;
                let binding = WrapBinding { tenant: &upload.tenant, id: &upload.id.bytes() };
                unwrap(&record, sent, binding).map_err(|error| match error {
                    FormatError::WrongKey => {
                        Error::new(ErrorCode::KeyMismatch, "The upload was begun with another key.")
                    }
                    error => damaged(error),
                })
            }
        }
    }

    pub(super) fn managed_upload_key(&self) -> Key {
        upload_key(&self.keys.roots.digest)
    }
}
