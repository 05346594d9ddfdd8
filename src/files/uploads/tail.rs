//! The tail of an upload: bytes at its end that are too few for a segment, each append's in a row of its own.

use futures::{StreamExt, stream};

use super::append::AppendRequest;
use super::piece::STORING;
use super::{Files, Result};
use crate::error::Error;
use crate::files::access::Principal;
use crate::files::options::PutOptions;
use crate::format::key::Key;
use crate::format::upload::open_tail;
use crate::pipeline::frames::FrameSource;
use crate::store::StoreError;
use crate::store::parts::{Act, Handover};
use crate::store::uploads::{TailSpan, UploadDoc};

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

    /// Makes a segment of a tail that lies behind a gap, which nothing appended goes on with. The upload **MUST** have
    /// been begun to append to.
    pub(super) async fn settle_tail(
        &self,
        upload: UploadDoc,
        key: &Key,
        said: &PutOptions,
        sent: Option<&Key>,
    ) -> Result<UploadDoc> {
        let TailSpan { off, len } = upload.tail;
        let tail = self.read_tail(&upload, key).await?;
        let mut source = FrameSource::new(stream::iter([Ok(tail.into())]).boxed());
        let stored_as = self.decide(upload.clone(), None, said, &mut source).await?;
        let plan = self.plan_piece(&stored_as, &upload.owner, len.unsigned_abs(), Some(len.unsigned_abs()), sent)?;
        let pending = plan.pending.clone();
        let outcome = async {
            let stored = self.write_segment(plan, source, None, &mut None).await?;
            let row = self.live_row(&upload, &stored, off.unsigned_abs(), sent)?;
            let pieces = vec![self.piece(&upload, stored, row, None)?];
            let handover = Handover { pieces, ..self.handover(&upload, Act::Settle(off..off + len)) };
            let _turn = self.turns.wait(&upload.id.bytes()).await;
            match self.store.hand_over(&handover).await {
                Err(StoreError::Stale) => Err(self.why_not_appended(&upload).await),
                settled => settled.map_err(|e| e.doing(STORING)),
            }
        };
        let outcome = outcome.await;
        if outcome.as_ref().is_err_and(|error| error.code.row().has_no_side_effects) {
            self.give_up(&pending).await;
        }
        outcome
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
