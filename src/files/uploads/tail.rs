//! The tail of an upload: bytes at its end that are too few for a segment, each append's in a row of its own.

use futures::{StreamExt, stream};

use super::append::AppendRequest;
use super::piece::STORING;
use super::{Files, Result};
use crate::error::Error;
use crate::files::access::Principal;
use crate::format::key::Key;
use crate::format::upload::open_tail;
use crate::store::uploads::UploadDoc;

impl Files {
    /// The plain bytes of an upload's tail.
    pub(super) async fn read_tail(&self, upload: &UploadDoc, key: &Key) -> Result<Vec<u8>> {
        let mut tail = Vec::new();
        if upload.tail.len == 0 {
            return Ok(tail);
        }
        for row in self.store.find_tail(upload.id).await.map_err(|e| e.doing(STORING))? {
            let plain = open_tail(&row.data.bytes, row.off.unsigned_abs(), key, &upload.id.bytes());
            tail.extend_from_slice(&plain.map_err(|error| Error::damaged("read the upload's tail", error))?);
        }
        if tail.len() as u64 == upload.tail.len.unsigned_abs() {
            return Ok(tail);
        }
        let now = self.store.find_upload(&upload.tenant, upload.id).await.map_err(|e| e.doing(STORING))?;
        if now.is_none_or(|now| (now.epoch, now.revision) != (upload.epoch, upload.revision)) {
            return Err(self.why_not_appended(upload).await);
        }
        Err(Error::damaged("read the upload's tail", "it is not as long as the upload says"))
    }

    /// Makes a segment of an upload's tail, so that all of it is in segments.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(super) async fn flush_tail(&self, principal: &Principal, upload: &UploadDoc, sent: Option<&Key>) -> Result<()> {
        let offset = self.offset(upload).await?;
        let request = AppendRequest { offset, flushes: true, customer_key: sent.cloned(), ..AppendRequest::default() };
        self.run_append(principal, upload.id, request, stream::empty().boxed()).await.map(drop)
    }
}
