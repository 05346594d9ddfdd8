//! The first half of a download: permit, load, verify the manifest. Reads no chunk but a small file's only one, early;
//! `read.rs` reads, once the caller, who knows the request, has decided about preconditions and ranges.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::OptionFuture;

use super::access::{Action, Principal};
use super::protection::{KEY_HEADER, protection};
use super::{Files, Result};
use crate::error::{Error, ErrorCode};
use crate::format::digest::{Sha256Digest, open_digest};
use crate::format::key::Key;
use crate::format::manifest::{Manifest, ManifestSegment, Protection};
use crate::format::seal::{SegmentHeader, SegmentKey};
use crate::format::segment::{SegmentDecoder, SegmentFacts};
use crate::store::registry::{ContentDoc, FileDoc};
use crate::store::rows::RowPlace;
use crate::store::segments::{SegmentDoc, State};
use crate::store::{Id, StoreError};

/// A file whose manifest was verified: its length, hash and segments are those that were stored.
#[derive(Clone)]
pub struct OpenedFile {
    pub(super) files: Files,
    /// The registry document.
    pub doc: Arc<FileDoc>,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Of the plaintext; none while a client's key is needed to know it.
    pub sha256: Option<Sha256Digest>,
    pub(super) segments: Arc<[SegmentDoc]>,
    /// The bytes of its only segment, where they were looked for meanwhile.
    pub(super) only_chunk: Option<OnlyChunk>,
    /// The client's key, where it opens the content.
    customer_key: Option<Key>,
}

/// The stored bytes of a small file.
#[derive(Clone)]
pub(super) struct OnlyChunk {
    segment: Id,
    stored: Bytes,
}

impl Files {
    /// Loads a file's metadata.
    ///
    /// # Errors
    /// `forbidden`, `file_not_found`.
    pub async fn head(&self, principal: &Principal, file: Id) -> Result<FileDoc> {
        self.find(principal, Action::Read, file).await
    }

    /// Opens a file for reading, with the key that the client sent, if it did. Where its bytes will be wanted, those of
    /// a small file are looked for meanwhile.
    ///
    /// # Errors
    /// `forbidden`, `unauthenticated`, `file_not_found`, `damaged` when the manifest does not verify; `key_required`,
    /// `key_mismatch`, and `bad_header` for a key that nothing needs.
    pub async fn open(
        &self,
        principal: &Principal,
        file: Id,
        customer_key: Option<Key>,
        wants_bytes: bool,
    ) -> Result<OpenedFile> {
        let doc = self.find(principal, Action::Download, file).await?;
        let ContentDoc { segment, bucket, stored_size, .. } = &doc.content;
        let hint = segment.filter(|_| wants_bytes);
        let chunk = hint.map(|segment| self.find_only_chunk(bucket.clone(), segment, *stored_size));
        let chunk = async { Ok(OptionFuture::from(chunk).await.flatten()) };
        let opened = match tokio::try_join!(chunk, self.open_doc(doc)) {
            Err(error) if error.code == ErrorCode::Damaged => {
                // Between two reads a delete takes the keys away: then the file is gone, not damaged.
                self.find(principal, Action::Download, file).await?;
                return Err(error);
            }
            both => {
                let (only_chunk, opened) = both?;
                OpenedFile { only_chunk, ..opened }
            }
        };
        opened.unlock(customer_key)
    }

    /// None also where it could not be read: whoever reads the file asks again and tells why.
    async fn find_only_chunk(&self, bucket: String, segment: Id, len: i64) -> Option<OnlyChunk> {
        let stored = self.store.find_only_chunk(bucket, segment, u64::try_from(len).ok()?).await;
        let stored =
            stored.inspect_err(|error| tracing::debug!(%error, %segment, "could not read a small chunk early"));
        Some(OnlyChunk { segment, stored: stored.ok()? })
    }

    /// Opens the file of a registry document.
    ///
    /// # Errors
    /// `damaged` when the manifest does not verify.
    pub async fn open_doc(&self, doc: FileDoc) -> Result<OpenedFile> {
        let segments = match doc.copied_row() {
            Some(row) => vec![row],
            None => {
                let likely = RowPlace::likely(doc.content.stored_size);
                self.store.find_segments(doc.blob, likely).await.map_err(|e| e.doing("look the segments up"))?
            }
        };
        self.assemble(doc, segments)
    }

    /// Verifies that segments, by offset, make up the file of a registry document.
    ///
    /// # Errors
    /// `damaged` when they do not.
    pub fn assemble(&self, doc: FileDoc, segments: Vec<SegmentDoc>) -> Result<OpenedFile> {
        let sha256 = self.digest(&doc)?;
        // The gateway cannot open the digest under a client's key: its record is what the manifest binds.
        let bound = sha256.unwrap_or_else(|| Sha256Digest::of(&doc.content.digest.bytes));
        let plain_len = number(doc.content.size)?;
        let mut lines = Vec::with_capacity(segments.len());
        let mut end = 0;
        for segment in &segments {
            if segment.off != end || segment.state != State::Live {
                return Err(Error::damaged("open the file", format!("segment {} is out of place", segment.id)));
            }
            end = end.checked_add(segment.len).ok_or_else(|| Error::damaged("open the file", "lengths overflow"))?;
            lines.push(manifest_line(segment)?);
        }
        let manifest = Manifest {
            tenant: &doc.tenant,
            file_id: &doc.file.bytes(),
            version: number(doc.version)?,
            plain_len,
            sha256: bound,
            segments: &lines,
        };
        let verified = manifest.verify(&self.keys.roots.manifest, &doc.content.mac.bytes);
        verified.map_err(|error| Error::damaged("open the file", error))?;
        if end != doc.content.size {
            return Err(Error::damaged("open the file", "the segments do not make up the file"));
        }
        let (doc, segments) = (Arc::new(doc), segments.into());
        Ok(OpenedFile { files: self.clone(), doc, plain_len, sha256, segments, only_chunk: None, customer_key: None })
    }

    pub(super) fn decoder(
        &self,
        tenant: &str,
        segment: &SegmentDoc,
        customer_key: Option<&Key>,
    ) -> Result<SegmentDecoder> {
        let fail = |error| Error::damaged("open a segment", error);
        let damaged = |error: StoreError| error.doing("open a segment");
        let codec = segment.codec().map_err(damaged)?;
        let frame_len = u32::try_from(segment.frame_len).map_err(|error| Error::damaged("open a segment", error))?;
        let key = match (&segment.enc, &segment.salt) {
            (None, None) => None,
            (Some(_), Some(salt)) => {
                let data_key = self.data_key(tenant, segment, customer_key)?;
                let header = SegmentHeader {
                    family: codec.family(),
                    frame_log2: frame_len.trailing_zeros() as u8,
                    segment_id: segment.id.bytes(),
                    salt: salt.bytes.as_slice().try_into().map_err(|error| Error::damaged("open a segment", error))?,
                };
                Some(SegmentKey::derive(&data_key, header, tenant))
            }
            _ => return Err(Error::damaged("open a segment", "the segment's key and salt do not fit together")),
        };
        let facts = SegmentFacts {
            codec,
            frame_len,
            plain_len: number(segment.len)?,
            stored_len: number(segment.stored_len)?,
            record: &segment.seek.bytes,
            commitment: &segment.commit.bytes,
        };
        SegmentDecoder::open(facts, key).map_err(fail)
    }
}

impl OpenedFile {
    /// Takes the client's key, which must open the content if it is needed and not be there if it is not.
    fn unlock(mut self, key: Option<Key>) -> Result<Self> {
        let [first, ..] = self.segments.as_ref() else { return Err(Error::damaged("open the file", "no segment")) };
        match (protection(first)?, key) {
            (Protection::Plain | Protection::Managed, Some(_)) => {
                Err(Error::bad_header(KEY_HEADER, "The content is not encrypted with a key of the client."))
            }
            (Protection::Plain | Protection::Managed, None) => Ok(self),
            (Protection::Customer, key) => {
                let data_key = self.files.data_key(&self.doc.tenant, first, key.as_ref())?;
                let digest = open_digest(&self.doc.content.digest.bytes, &data_key, &self.doc.blob.bytes());
                self.sha256 = Some(digest.map_err(|error| Error::damaged("read the file's digest", error))?);
                self.customer_key = key;
                Ok(self)
            }
        }
    }

    /// A span of a segment's stored bytes, where they are here already.
    pub(super) fn read_already(&self, segment: &SegmentDoc, span: &Range<u64>) -> Option<Bytes> {
        let OnlyChunk { segment: id, stored } = self.only_chunk.as_ref()?;
        let is_there = segment.files_id.is_none() && segment.bucket == self.doc.content.bucket;
        let is_whole = i64::try_from(stored.len()).is_ok_and(|len| len == segment.stored_len);
        let is_its = *id == segment.id && is_there && is_whole;
        let span = usize::try_from(span.start).ok()?..usize::try_from(span.end).ok()?;
        (is_its && span.start <= span.end && span.end <= stored.len()).then(|| stored.slice(span))
    }

    pub(super) fn decoder(&self, segment: &SegmentDoc) -> Result<SegmentDecoder> {
        self.files.decoder(&self.doc.tenant, segment, self.customer_key.as_ref())
    }

    /// Makes sure that the content can be read as far as keys and indexes tell, without reading it.
    ///
    /// # Errors
    /// `damaged`, `key_unavailable`.
    pub fn check_readable(&self) -> Result<()> {
        let mut read = self.segments.iter().filter(|segment| segment.len > 0);
        read.try_for_each(|segment| self.decoder(segment).map(drop))
    }
}

/// A segment as the manifest binds it.
pub(super) fn manifest_line(segment: &SegmentDoc) -> Result<ManifestSegment> {
    let commitment = segment.commit.bytes.as_slice().try_into();
    Ok(ManifestSegment {
        id: segment.id.bytes(),
        plain_len: number(segment.len)?,
        commitment: commitment.map_err(|error| Error::damaged("open the file", error))?,
        protection: protection(segment)?,
    })
}

pub(super) fn number(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|error| Error::damaged("read a length", error))
}
