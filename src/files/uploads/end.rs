//! Where an upload ends: as far as it came, and where it takes no more.

use super::piece::{STORING, number};
use super::{Files, Result, require_open};
use crate::error::{Error, ErrorCode};
use crate::store::StoreError;
use crate::store::uploads::{UploadDoc, UploadStatus};

impl Files {
    /// Where an upload ends: how much of it is there without a gap.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn offset(&self, upload: &UploadDoc) -> Result<u64> {
        if let Some(offset) = upload.offset {
            return Ok(offset.unsigned_abs());
        }
        let parts = self.store.find_parts(upload.blob).await.map_err(|e| e.doing("look the parts up"))?;
        let mut there: Vec<_> = parts.iter().map(|part| (part.off, part.len)).collect();
        there.push((upload.tail.off, upload.tail.len));
        there.sort_unstable();
        let end = there.into_iter().fold(0, |end, (off, len)| if off <= end { end.max(off + len) } else { end });
        Ok(end.unsigned_abs())
    }

    /// How far an upload came, whatever became of it.
    ///
    /// # Errors
    /// `upload_gone` where it, or its file, is no more; `unavailable`, `timeout`.
    pub async fn extent(&self, upload: &UploadDoc) -> Result<u64> {
        match upload.status {
            UploadStatus::Open => self.offset(upload).await,
            UploadStatus::Completed if upload.is_partial() || self.has_file(upload).await? => {
                Ok(upload.size.unwrap_or_default().unsigned_abs())
            }
            UploadStatus::Completed | UploadStatus::Aborted | UploadStatus::Expired => {
                Err(Error::new(ErrorCode::UploadGone, "The upload was ended."))
            }
        }
    }

    /// Whether the file that an upload became is still there.
    async fn has_file(&self, upload: &UploadDoc) -> Result<bool> {
        let found = self.store.find_file(&upload.tenant, upload.file, self.now()).await;
        Ok(found.map_err(|e| e.doing("look the file up"))?.is_some())
    }

    /// Compares what a request says of lengths with what is there, before anything is changed.
    ///
    /// # Errors
    /// `inconsistent_length`, `too_large`.
    pub(super) fn check_lengths(
        &self,
        upload: &UploadDoc,
        offset: u64,
        size: Option<u64>,
        announced_len: Option<u64>,
    ) -> Result<()> {
        if size.is_some_and(|size| size < offset) {
            return Err(inconsistent());
        }
        let end = size.filter(|_| upload.size.is_none()).unwrap_or_else(|| self.end_of(upload));
        match announced_len {
            Some(len) if offset.saturating_add(len) > end => Err(Error::too_large(end)),
            _ => Ok(()),
        }
    }

    /// Where an upload takes no more.
    pub(super) fn end_of(&self, upload: &UploadDoc) -> u64 {
        upload.size.map_or(self.routing.max_bytes(), i64::unsigned_abs)
    }

    /// The upload with its size, where that is told with bytes.
    pub(super) async fn sized(&self, upload: UploadDoc, size: Option<u64>) -> Result<UploadDoc> {
        let Some(size) = size else { return Ok(upload) };
        if size > self.routing.max_bytes() {
            return Err(Error::too_large(self.routing.max_bytes()));
        }
        match upload.size {
            Some(known) if known == number(size)? => return Ok(upload),
            Some(_) => return Err(inconsistent()),
            None => {}
        }
        let parts = self.store.find_parts(upload.blob).await.map_err(|e| e.doing(STORING))?;
        let last = parts.iter().map(|part| part.off + part.len).chain([upload.tail.off + upload.tail.len]).max();
        if number(size)? < last.unwrap_or_default() {
            return Err(inconsistent());
        }
        let sized = self.store.set_upload_size(&upload, number(size)?).await.map_err(|e| e.doing(STORING))?;
        sized.ok_or_else(|| StoreError::Stale.doing(STORING))
    }

    pub(super) async fn why_not_appended(&self, upload: &UploadDoc) -> Error {
        match self.store.find_upload(&upload.tenant, upload.id).await {
            Ok(Some(upload)) => match (require_open(&upload), self.offset(&upload).await) {
                (Err(error), _) => {
                    self.free_upload(&upload).await;
                    error
                }
                (_, Err(error)) => error,
                (Ok(()), Ok(offset)) => mismatch(offset),
            },
            Ok(None) => Error::new(ErrorCode::UploadGone, "The upload was ended."),
            Err(error) => error.doing(STORING),
        }
    }
}

/// What is said of the length does not go with what is there.
pub(super) fn inconsistent() -> Error {
    Error::new(ErrorCode::InconsistentLength, "The upload has another length, or is longer already.")
}

pub(super) fn mismatch(offset: u64) -> Error {
    let detail = format!("The upload ends at {offset}.");
    Error::new(ErrorCode::OffsetMismatch, detail).with("expectedOffset", offset)
}
