//! The hash over what came out of order: parts are read again, in order, from where the running hash of their
//! upload stands. While an upload is open this is done ahead; what is left at its end is done after it, and the
//! file has no SHA-256 until then.

use std::sync::Arc;

use futures::TryStreamExt;

use super::{Files, Result};
use crate::error::Error;
use crate::files::describe::PlainFacts;
use crate::files::open::number;
use crate::files::read::stream_segment;
use crate::format::digest::Sha256Stream;
use crate::format::key::Key;
use crate::format::upload::seal_running;
use crate::pipeline::compute;
use crate::pipeline::decode::Wanted;
use crate::random;
use crate::store::Id;
use crate::store::hashing::Hashing;
use crate::store::registry::FileDoc;
use crate::store::rows::RowPlace;
use crate::store::segments::{SegmentDoc, State, binary};
use crate::store::uploads::{HashedDoc, UploadDoc, UploadStatus};

/// Plaintext bytes after which it is noted how far the hash came.
const NOTED: i64 = 64 << 20;
const HASH: &str = "hash the upload";

impl Files {
    /// Hashes as much of an open upload as is there without a gap; whether it came further.
    ///
    /// # Errors
    /// `damaged`, `key_unavailable`, `unavailable`, `timeout`.
    pub async fn catch_up(&self, upload: &UploadDoc) -> Result<bool> {
        if upload.status != UploadStatus::Open {
            return Ok(false);
        }
        let next = upload.hashed.len..upload.hashed.len.saturating_add(1);
        if self.store.find_parts_within(upload.blob, &next).await.map_err(|e| e.doing(HASH))?.is_empty() {
            return Ok(false);
        }
        let segments = self.store.find_segments(upload.blob, RowPlace::Segments).await.map_err(|e| e.doing(HASH))?;
        let hashed = self.hash_on(upload, &segments, &self.managed_upload_key(), None, Noting::Must).await?;
        Ok(hashed.is_some_and(|hashed| hashed.len > upload.hashed.len))
    }

    /// Finds out the digest of a file that was completed without; whether it is known now.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up).
    pub async fn settle_digest(&self, file: &FileDoc) -> Result<bool> {
        let fail = |error: crate::store::StoreError| error.doing(HASH);
        let segments = self.store.find_segments(file.blob, RowPlace::Segments).await.map_err(fail)?;
        let Some(first) = segments.first() else { return Err(Error::damaged(HASH, "the file has no segment")) };
        let key = self.managed_upload_key();
        let upload = self.store.find_upload_of(file.file).await.map_err(fail)?;
        let hashed = match upload.filter(|upload| upload.blob == file.blob) {
            Some(upload) => self.hash_on(&upload, &segments, &key, None, Noting::Must).await?,
            // It is forgotten by now.
            None => Some(self.hash_segments(&file.tenant, &segments, Hashed::default()).await?),
        };
        let Some(hashed) = hashed.filter(|hashed| hashed.len == file.content.size) else { return Ok(false) };
        let plain = PlainFacts { sha256: Some(hashed.running.finish()), customer: None };
        let known = self.content_doc(&file.tenant, first, &segments, &plain, &file.file.bytes())?;
        let look_up = self.look_up_value(&file.tenant, &plain);
        self.store.settle_digest(file, &known, look_up).await.map_err(fail)
    }

    /// Goes on with the running hash over the segments that follow it without a gap, and notes how far it came. None
    /// when the upload is another by now, so that the hash is of no use to it.
    pub(super) async fn hash_on(
        &self,
        upload: &UploadDoc,
        segments: &[SegmentDoc],
        key: &Key,
        sent: Option<&Key>,
        noting: Noting,
    ) -> Result<Option<Hashed>> {
        let mut upload = upload.clone();
        let mut hashed = Hashed { running: self.hash_state(&upload, key)?, len: upload.hashed.len };
        let (mut seen, mut noted) = (Vec::new(), hashed.len);
        let rest = segments.iter().filter(|segment| segment.off >= upload.hashed.len).collect::<Vec<_>>();
        for (i, segment) in rest.iter().enumerate() {
            if segment.off != hashed.len || segment.state != State::Live {
                break;
            }
            hashed = self.hash_segment(&upload.tenant, segment, sent, hashed).await?;
            seen.push(segment.id);
            let is_last = rest.get(i + 1).is_none_or(|next| next.off != hashed.len);
            if is_last || hashed.len - noted >= NOTED {
                if !self.note(&mut upload, &hashed, &seen, key).await? && noting == Noting::Must {
                    return Ok(None);
                }
                (noted, seen) = (hashed.len, Vec::new());
            }
        }
        Ok(Some(hashed))
    }

    /// Notes how far the hash came; false when the upload is another by now.
    async fn note(&self, upload: &mut UploadDoc, hashed: &Hashed, seen: &[Id], key: &Key) -> Result<bool> {
        let state = seal_running(&hashed.running, number(hashed.len)?, key, &upload.id.bytes(), random::bytes());
        let to = HashedDoc { len: hashed.len, state: Some(binary(state)) };
        let hashing = Hashing { from: std::mem::replace(&mut upload.hashed, to.clone()), to };
        self.store.note_hashed(upload, &hashing, seen).await.map_err(|e| e.doing(HASH))
    }

    async fn hash_segments(&self, tenant: &str, segments: &[SegmentDoc], mut hashed: Hashed) -> Result<Hashed> {
        for segment in segments {
            hashed = self.hash_segment(tenant, segment, None, hashed).await?;
        }
        Ok(hashed)
    }

    async fn hash_segment(
        &self,
        tenant: &str,
        segment: &SegmentDoc,
        sent: Option<&Key>,
        mut hashed: Hashed,
    ) -> Result<Hashed> {
        let decoder = Arc::new(self.decoder(tenant, segment, sent)?);
        let whole = Wanted::Plain(0..number(segment.len)?);
        let mut pieces = stream_segment(self, segment, whole, decoder)?;
        while let Some(piece) = pieces.try_next().await? {
            let len = piece.len();
            let hash = move || {
                hashed.running.update(&piece);
                hashed
            };
            hashed = compute(len, HASH, hash).await?;
        }
        hashed.len += segment.len;
        Ok(hashed)
    }
}

/// What it means that the hash could not be noted: somebody else noted more, or other parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noting {
    /// It is of no use.
    Must,
    /// Its caller makes sure that the parts are still the same.
    IfItMay,
}

/// A running hash and how far it came.
#[derive(Default)]
pub(super) struct Hashed {
    pub running: Sha256Stream,
    pub len: i64,
}
