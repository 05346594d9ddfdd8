//! A copy of the row of plain content's only segment, kept in the documents that name the content: a read goes from
//! the file to its chunks and looks for no row. The row stays what sweeps, checks and scrubs go by.
//!
//! No copy is made of a row that holds a wrapped key: a key is in one place, where it can be replaced and destroyed.

use mongodb::bson::{Binary, Bson};
use serde::{Deserialize, Deserializer, Serialize};

use super::Id;
use super::registry::{ContentDoc, FileDoc};
use super::segments::{SegmentDoc, State};

/// Bytes of the longest frame index that is copied: that of 1 GiB in chunks of 2 MiB.
const MOST: usize = 8 << 10;

/// What such a row says beyond [`ContentDoc`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowCopy {
    segment: Id,
    format: i32,
    chunk_size: i32,
    frame_len: i32,
    seek: Binary,
    commit: Binary,
}

/// A copy that cannot be read is none: the row is there.
pub(super) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RowCopy>, D::Error> {
    Ok(mongodb::bson::deserialize_from_bson(Bson::deserialize(deserializer)?).ok())
}

impl RowCopy {
    /// Of the only segment of content, where that is plain, of ours, and its index is short.
    pub fn of(segments: &[SegmentDoc]) -> Option<Self> {
        let [row] = segments else { return None };
        let is_plain = row.enc.is_none() && row.salt.is_none();
        let is_whole = row.off == 0 && row.state == State::Live && row.files_id.is_none();
        (is_plain && is_whole && row.seek.bytes.len() <= MOST).then(|| Self {
            segment: row.id,
            format: row.format,
            chunk_size: row.chunk_size,
            frame_len: row.frame_len,
            seek: row.seek.clone(),
            commit: row.commit.clone(),
        })
    }

    fn row(&self, blob: Id, content: &ContentDoc) -> SegmentDoc {
        SegmentDoc {
            id: self.segment,
            blob,
            bucket: content.bucket.clone(),
            files_id: None,
            off: 0,
            len: content.size,
            stored_len: content.stored_size,
            chunk_size: self.chunk_size,
            format: self.format,
            codec: content.codec.clone(),
            level: content.level,
            frame_len: self.frame_len,
            seek: self.seek.clone(),
            commit: self.commit.clone(),
            likeness: None,
            salt: None,
            enc: None,
            state: State::Live,
            lease: None,
        }
    }
}

impl FileDoc {
    /// The row of its only segment, where it has a copy of that.
    pub fn copied_row(&self) -> Option<SegmentDoc> {
        self.content.row.as_ref().map(|copy| copy.row(self.blob, &self.content))
    }

    /// Whether the copy, if it has one, says what the rows say.
    pub fn copies(&self, rows: &[SegmentDoc]) -> bool {
        let Some(copy) = self.copied_row() else { return true };
        // The likeness is an upload's, and of no use to readers.
        matches!(rows, [row] if copy == SegmentDoc { likeness: None, ..row.clone() })
    }
}
