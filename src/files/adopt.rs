//! Files that other programs stored in GridFS become files of the registry. No byte is copied; each
//! file is read once for its hash and its frame checksums.

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::access::{Access, Principal, Role, Scope};
use super::describe::{Description, PlainFacts, Stored};
use super::options::PutOptions;
use super::{Files, Result};
use crate::content::sniff::{SNIFF_LEN, sniff};
use crate::error::{Error, ErrorCode};
use crate::format::segment::{Codec, Layout, SegmentEncoder};
use crate::pipeline::BodyError;
use crate::pipeline::encode::{Encoded, Encoding};
use crate::pipeline::frames::FrameSource;
use crate::store::blobs::{BlobDoc, scope};
use crate::store::gridfs::GridFile;
use crate::store::gridfs::write::WrittenChunks;
use crate::store::segments::{Pending, SegmentDoc};
use crate::store::{Document, new_id};

/// Who adopts, for the audit, and whose the files are.
const ADOPT: &str = "adopt";
/// Frames of adopted files hold at least this much, so that tiny chunks make no huge index.
const MIN_FRAME_LEN: u32 = 256 << 10;
/// Larger chunks than any driver can write are not believed.
const MAX_CHUNK_LEN: u32 = 16 << 20;
/// Failures that are listed.
const LISTED: usize = 100;

/// What was adopted.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdoptReport {
    /// Files made.
    pub adopted: u64,
    /// Files that were there already.
    pub known: u64,
    /// How many could not be adopted.
    pub failures: u64,
    /// The first of those: id and reason.
    pub failed: Vec<(String, String)>,
}

impl Files {
    /// Adopts every file of a bucket that is not known yet. May be repeated.
    ///
    /// # Errors
    /// `bad_request` for a name no bucket has; the database's. A file that cannot be read is reported
    /// and does not stop the rest.
    pub async fn adopt(&self, bucket: &str, tenant: &str) -> Result<AdoptReport> {
        let buckets = self.store.list_buckets().await.map_err(|e| e.doing("list the buckets"))?;
        if !buckets.iter().any(|name| name == bucket) {
            return Err(Error::new(ErrorCode::BadRequest, format!("The database has no GridFS bucket {bucket:?}.")));
        }
        self.store.ensure_bucket(bucket).await.map_err(|e| e.doing("verify the bucket's indexes"))?;
        let principal =
            Principal { actor: ADOPT.to_owned(), tenant: tenant.to_owned(), role: Role::Member(vec![Scope::Admin]) };
        let mut report = AdoptReport::default();
        let mut scan = self.store.scan_foreign(bucket).await.map_err(|e| e.doing("read the bucket"))?;
        while let Some(document) = scan.next().await.map_err(|e| e.doing("read the bucket"))? {
            match self.adopt_one(&principal, bucket, &document).await {
                Ok(true) => report.adopted += 1,
                Ok(false) => report.known += 1,
                Err(error) if error.code == ErrorCode::Unavailable => return Err(error),
                Err(error) => {
                    report.failures += 1;
                    if report.failed.len() < LISTED {
                        let id = document.get("_id").map_or_else(String::new, ToString::to_string);
                        let cause = error.cause.map_or_else(|| error.detail.into_owned(), |cause| cause.to_string());
                        report.failed.push((id, cause));
                    }
                }
            }
        }
        Ok(report)
    }

    /// Adopts one file; false when it is known.
    async fn adopt_one(&self, principal: &Principal, bucket: &str, document: &Document) -> Result<bool> {
        let grid = GridFile::from_document(bucket, document).map_err(|e| e.doing("read the files document"))?;
        if grid.chunk_size > MAX_CHUNK_LEN {
            return Err(Error::damaged("adopt the file", "its chunk size is larger than a document"));
        }
        let owners = self.store.find_segments_of(bucket, std::slice::from_ref(&grid.files_id)).await;
        if !owners.map_err(|e| e.doing("look the segments up"))?.is_empty() {
            return Ok(false);
        }
        let said = self.describe(&grid, document).await?;
        let stored = self.index(principal, &grid).await?;
        match self.publish(principal, stored, &said).await {
            Ok(_) => Ok(true),
            // Another run was quicker.
            Err(error) if error.code == ErrorCode::Internal => {
                let owners = self.store.find_segments_of(bucket, &[grid.files_id]).await;
                if owners.is_ok_and(|owners| !owners.is_empty()) { Ok(false) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// What the files document says.
    async fn describe(&self, grid: &GridFile, document: &Document) -> Result<Description> {
        let mut source = self.source(grid);
        source.fill(SNIFF_LEN).await.map_err(BodyError::into_error)?;
        let head = source.peek(SNIFF_LEN);
        let text = |holder: &Document, key: &str| holder.get_str(key).ok().map(str::to_owned);
        let metadata = document.get_document("metadata").cloned().unwrap_or_default();
        let declared = text(&metadata, "contentType").or_else(|| text(document, "contentType"));
        let name = text(document, "filename").unwrap_or_else(|| grid.files_id.to_string());
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        let name = super::options::name(&name).unwrap_or_else(|_| "unnamed".to_owned());
        let created_at = document.get_datetime("uploadDate").copied().unwrap_or_else(|_| self.now());
        Ok(Description {
            sniffed: sniff(&head, declared.as_deref(), &name),
            name,
            // Nobody made it here: it is the tenant's.
            options: PutOptions { access: Access::Internal, ..PutOptions::default() },
            bucket_days: 0,
            owner: ADOPT.to_owned(),
            file: new_id(),
            created_at: created_at.min(self.now()),
            action: "file.adopt",
            idempotency_key: None,
            request_id: None,
            hold: None,
            upload: None,
        })
    }

    /// Hashes the file and sums its frames up.
    async fn index(&self, principal: &Principal, grid: &GridFile) -> Result<Stored> {
        let frame_len = MIN_FRAME_LEN.div_ceil(grid.chunk_size).max(1) * grid.chunk_size;
        let layout = Layout { codec: Codec::Identity, level: 0, frame_len };
        let mut encoding =
            Encoding::new(self.source(grid), SegmentEncoder::new(layout, None), Some(grid.stored_len), u64::MAX);
        while let Some(frame) = encoding.next().await? {
            encoding.give_back(frame.bytes);
        }
        let Encoded { end, plain_len, sha256, running, whole } = encoding.finish()?;
        if plain_len != grid.stored_len {
            return Err(Error::damaged("adopt the file", "its chunks are not as long as it says"));
        }
        let blob = BlobDoc::pending(new_id(), scope(&principal.tenant, "plain", &grid.bucket, layout.codec.name()));
        let segment = SegmentDoc::pending(new_id(), blob.id, &grid.bucket, grid.chunk_size, layout);
        let segment =
            SegmentDoc { files_id: Some(grid.files_id.clone()), ..segment.map_err(|e| e.doing("adopt the file"))? };
        let pending = Pending { blob, segment, lease: self.settings.lease() };
        let plain = PlainFacts { sha256: Some(sha256), customer: None };
        let (stored_len, chunks) = (plain_len, WrittenChunks::Adopted);
        Ok(Stored { pending, end, plain_len, stored_len, plain, running, whole, chunks })
    }

    fn source(&self, grid: &GridFile) -> FrameSource<crate::pipeline::BodyStream> {
        let stored = self.store.read_chunks(grid.clone(), 0..grid.stored_len);
        FrameSource::new(stored.map_err(|error| BodyError::Hangup(error.into())).boxed())
    }
}
