//! The end of an upload as a file: its parts looked at, then one transaction over metadata. No stored byte is
//! touched, so it costs the same for any size; but for a whole-file SHA-256 that was announced, or a client's key,
//! over parts that came out of order: those are hashed first.

use super::{Files, Result, is_stale, options, require_open};
use crate::content::media_type::MediaType;
use crate::content::sniff::{Sniffed, sniff};
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal};
use crate::files::describe::{Description, PlainFacts, later};
use crate::files::options::PutOptions;
use crate::files::protection::CustomerKeys;
use crate::files::publish::{PUT, Put};
use crate::files::put::{UNNAMED, check_route};
use crate::files::uploads::hash::Noting;
use crate::files::uploads::part::PartRequest;
use crate::files::uploads::progress::missing;
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;
use crate::store::blobs::{BlobDoc, scope};
use crate::store::commit::{Commit, Content};
use crate::store::rows::RowPlace;
use crate::store::segments::{SegmentDoc, State};
use crate::store::uploads::{UploadDoc, UploadEnd, UploadStatus};
use crate::store::{Id, StoreError};
use futures::StreamExt;

/// How often completing is tried against parts that come meanwhile.
const TRIES: u32 = 5;
const COMPLETE: &str = "complete the upload";

impl Files {
    /// Makes a file of an upload; of a completed one, gives the file again.
    ///
    /// # Errors
    /// `forbidden`, `upload_not_found`, `upload_gone`, `parts_missing`, `checksum_mismatch` (the upload stays open),
    /// `key_required`, `key_mismatch`, `kind_not_accepted`, `quota_exceeded`, `file_not_found` when the file was deleted
    /// since, `unavailable`.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop it.
    pub async fn complete_upload(
        &self,
        principal: Principal,
        upload: Id,
        customer_key: Option<Key>,
        request_id: Option<String>,
    ) -> Result<Put> {
        let files = self.clone();
        let running = tokio::spawn(async move {
            for _ in 1..TRIES {
                match files.try_complete(&principal, upload, customer_key.as_ref(), request_id.clone()).await {
                    // A part came meanwhile, or another completed it.
                    Err(error) if is_stale(&error) => {}
                    outcome => return outcome,
                }
            }
            files.try_complete(&principal, upload, customer_key.as_ref(), request_id).await
        });
        running.await.map_err(|error| Error::internal(COMPLETE, error))?
    }

    async fn try_complete(
        &self,
        principal: &Principal,
        upload: Id,
        sent: Option<&Key>,
        request_id: Option<String>,
    ) -> Result<Put> {
        let upload = self.find_upload(principal, upload).await?;
        if upload.is_partial() {
            return Err(Error::invalid("id", "The upload is a piece of another: it becomes no file by itself."));
        }
        if upload.status == UploadStatus::Completed {
            return Ok(Put { file: self.find(principal, Action::Write, upload.file).await?, is_new: false });
        }
        require_open(&upload)?;
        let key = self.upload_key(&upload, sent)?;
        let upload = match upload.tail.len {
            0 => upload,
            _ => self.without_tail(principal, upload, sent).await?,
        };
        let segments = self.whole(principal, &upload, sent).await?;
        let size: i64 = segments.iter().map(|segment| segment.len).sum();
        let said = options(&upload)?;
        let sniffed = recognised(&upload, &said);
        let route = self.routing.route(&sniffed.media_type);
        check_route(&route, &sniffed, Some(size.unsigned_abs()))?;
        let sha256 = self.whole_digest(&upload, &segments, &key, sent).await?;
        let plain = self.plain_facts(&upload, &segments, sha256, sent)?;
        let hold = self.settle_upload(&upload, size.unsigned_abs()).await?;
        let description = Description {
            name: said.name.clone().unwrap_or_else(|| UNNAMED.to_owned()),
            options: said,
            bucket_days: route.settings.retention_days,
            sniffed,
            // Whoever brings the last byte, or asks.
            owner: upload.owner.clone(),
            file: upload.file,
            created_at: self.now(),
            action: PUT,
            idempotency_key: None,
            request_id,
            hold,
            upload: Some(UploadEnd {
                id: upload.id,
                blob: upload.blob,
                revision: upload.revision,
                size,
                at: self.now(),
                purge_at: later(self.now(), self.settings.upload_life_secs),
            }),
        };
        let entry = self.entry(principal, &segments, &plain, &description)?;
        let content = &entry.file.content;
        let domain = content.mode.as_deref().unwrap_or("plain");
        let blob = BlobDoc {
            sha256: self.look_up_value(&upload.tenant, &plain),
            size,
            state: State::Live,
            generation: 1,
            ..BlobDoc::pending(upload.blob, scope(&upload.tenant, domain, &content.bucket, &content.codec))
        };
        let commit = Commit { blob, content: Content::Parts, entry };
        self.publish_commit(principal, commit, &plain, &description).await
    }

    /// The upload with its tail in a segment, if that ends it.
    async fn without_tail(&self, principal: &Principal, upload: UploadDoc, sent: Option<&Key>) -> Result<UploadDoc> {
        let end = self.offset(&upload).await?;
        if upload.size.is_some_and(|size| size.unsigned_abs() != end) {
            return Ok(upload);
        }
        self.flush_tail(principal, &upload, sent).await?;
        self.find_upload(principal, upload.id).await
    }

    /// The segments of an upload that is whole; an empty one gets its only part here.
    async fn whole(&self, principal: &Principal, upload: &UploadDoc, sent: Option<&Key>) -> Result<Vec<SegmentDoc>> {
        let find =
            async || self.store.find_segments(upload.blob, RowPlace::Segments).await.map_err(|e| e.doing(COMPLETE));
        let mut segments = find().await?;
        if segments.is_empty() && upload.size == Some(0) {
            let request = PartRequest { customer_key: sent.cloned(), ..PartRequest::default() };
            self.run_put_part(principal, upload.id, 0, request, futures::stream::empty().boxed()).await?;
            segments = find().await?;
        }
        let mut end = 0;
        for segment in &segments {
            if segment.off < end {
                return Err(Error::damaged(COMPLETE, "its parts overlap"));
            }
            end = segment.off + segment.len;
        }
        let mut there: Vec<_> = segments.iter().map(|segment| (segment.off, segment.len)).collect();
        if upload.tail.len > 0 {
            // It could not be made a segment: something before it is missing.
            there.push((upload.tail.off, upload.tail.len));
            there.sort_unstable();
        }
        let missing = missing(upload, there.into_iter());
        if missing.is_empty() && upload.size.is_none_or(|size| size == end) {
            return Ok(segments);
        }
        if missing.is_empty() {
            return Err(Error::damaged(COMPLETE, "its parts lie beyond its size"));
        }
        let detail =
            format!("{} parts are missing.", missing.iter().map(|[first, last]| last - first + 1).sum::<u64>());
        Err(Error::new(ErrorCode::PartsMissing, detail).with("missingParts", serde_json::json!(missing)))
    }

    /// The SHA-256 of the whole, where it is known or has to be: announced, or never to be known without the
    /// client's key.
    async fn whole_digest(
        &self,
        upload: &UploadDoc,
        segments: &[SegmentDoc],
        key: &Key,
        sent: Option<&Key>,
    ) -> Result<Option<Sha256Digest>> {
        let size: i64 = segments.iter().map(|segment| segment.len).sum();
        let running = if upload.hashed.len == size {
            self.hash_state(upload, key)?
        } else if upload.announced.is_some() || upload.enc.is_some() {
            let hashed = self.hash_on(upload, segments, key, sent, Noting::IfItMay).await?;
            let hashed = hashed.filter(|hashed| hashed.len == size);
            hashed.ok_or_else(|| StoreError::Stale.doing(COMPLETE))?.running
        } else {
            return Ok(None);
        };
        let sha256 = running.finish();
        match &upload.announced {
            Some(announced) if *announced != self.stand_in(&upload.tenant, sha256, sent) => {
                let detail = "The content's SHA-256 is not the announced one; the upload is still open.";
                Err(Error::new(ErrorCode::ChecksumMismatch, detail).with("field", "sha256"))
            }
            _ => Ok(Some(sha256)),
        }
    }

    fn plain_facts(
        &self,
        upload: &UploadDoc,
        segments: &[SegmentDoc],
        sha256: Option<Sha256Digest>,
        sent: Option<&Key>,
    ) -> Result<PlainFacts> {
        let customer = match (sent, segments.first()) {
            (Some(sent), Some(first)) => {
                let data = self.data_key(&upload.tenant, first, Some(sent))?;
                Some(CustomerKeys { sent: sent.clone(), data })
            }
            _ => None,
        };
        Ok(PlainFacts { sha256, customer })
    }
}

/// As what the content was recognised when its first part came.
fn recognised(upload: &UploadDoc, said: &PutOptions) -> Sniffed {
    let known = upload.recognised.as_ref().and_then(|known| {
        let declared = known.declared.as_deref().and_then(MediaType::parse);
        Some(Sniffed { media_type: MediaType::parse(&known.media_type)?, declared })
    });
    let name = said.name.as_deref().unwrap_or(UNNAMED);
    known.unwrap_or_else(|| sniff(&[], upload.declared_type.as_deref(), name))
}
