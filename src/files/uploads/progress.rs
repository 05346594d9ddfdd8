//! How far an upload came: what is there, what is missing, how fast it comes. Reads rows, no stored byte.

use super::{Files, Result};
use crate::store::uploads::{UploadDoc, UploadStatus};

/// How far an upload came.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Plaintext bytes that are there.
    pub uploaded: u64,
    /// Of the announced size, 0 to 100; none while that is not known.
    pub percent: Option<f64>,
    /// Parts that are there, wholly.
    pub received: u64,
    /// Parts there are to be; none while the size is not known.
    pub total: Option<u64>,
    /// Those that are missing, from the first to the last of each range.
    pub missing: Vec<[u64; 2]>,
    /// Bytes a second, on average from the beginning to the last part; none before the first.
    pub bytes_per_second: Option<f64>,
    /// Seconds until the rest is there, at that rate.
    pub eta_seconds: Option<f64>,
}

impl Files {
    /// How far an upload came.
    ///
    /// # Errors
    /// `unavailable`, `timeout`.
    pub async fn progress(&self, upload: &UploadDoc) -> Result<Progress> {
        if upload.status == UploadStatus::Completed {
            return Ok(progress(upload, &[(0, upload.size.unwrap_or_default())]));
        }
        let parts = self.store.find_parts(upload.blob).await.map_err(|e| e.doing("look the parts up"))?;
        let mut parts: Vec<_> = parts.iter().map(|part| (part.off, part.len)).collect();
        if upload.tail.len > 0 {
            parts.push((upload.tail.off, upload.tail.len));
            parts.sort_unstable();
        }
        Ok(progress(upload, &parts))
    }
}

/// How far an upload with such parts (where each begins, how long it is) came.
fn progress(upload: &UploadDoc, parts: &[(i64, i64)]) -> Progress {
    let uploaded = parts.iter().map(|(_, len)| len.unsigned_abs()).sum::<u64>();
    let size = upload.size.map(i64::unsigned_abs);
    let total = size.map(|size| size.div_ceil(upload.part_size.unsigned_abs()));
    let missing = missing(upload, parts.iter().copied());
    let absent: u64 = missing.iter().map(|[first, last]| last - first + 1).sum();
    let known = total.unwrap_or_else(|| end_of(upload, parts.iter().copied()));
    let millis = upload.updated_at.timestamp_millis().saturating_sub(upload.created_at.timestamp_millis());
    let rate = (uploaded > 0).then(|| uploaded as f64 * 1000.0 / millis.max(1) as f64);
    let left = size.map(|size| size.saturating_sub(uploaded));
    Progress {
        uploaded,
        percent: size.map(|size| if size == 0 { 100.0 } else { uploaded as f64 * 100.0 / size as f64 }),
        received: known.saturating_sub(absent),
        total,
        missing,
        bytes_per_second: rate,
        eta_seconds: rate.zip(left).map(|(rate, left)| left as f64 / rate),
    }
}

/// Parts up to the end of the last that is there.
fn end_of(upload: &UploadDoc, parts: impl Iterator<Item = (i64, i64)>) -> u64 {
    let end = parts.map(|(off, len)| off.saturating_add(len)).max().unwrap_or_default();
    end.unsigned_abs().div_ceil(upload.part_size.unsigned_abs())
}

/// The parts that are not there wholly, as ranges, given those that are there by their place. Where the size is not
/// known, those before the last; the first, where there are none.
pub(super) fn missing(upload: &UploadDoc, parts: impl Iterator<Item = (i64, i64)> + Clone) -> Vec<[u64; 2]> {
    let part_size = upload.part_size.unsigned_abs();
    let end = match upload.size {
        Some(size) => size.unsigned_abs(),
        None => parts.clone().map(|(off, len)| (off + len).unsigned_abs()).max().unwrap_or(1),
    };
    let mut missing: Vec<[u64; 2]> = Vec::new();
    let mut add = |from: u64, to: u64| {
        if from < to {
            let (first, last) = (from / part_size, (to - 1) / part_size);
            match missing.last_mut() {
                Some([_, end]) if *end + 1 >= first => *end = last,
                _ => missing.push([first, last]),
            }
        }
    };
    let mut there = 0;
    for (off, len) in parts {
        add(there, off.unsigned_abs().min(end));
        there = (off + len).unsigned_abs();
    }
    add(there, end);
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::uploads::{HashedDoc, TailSpan, UploadDoc};
    use crate::store::{DateTime, Document, new_id};

    fn upload(size: Option<i64>) -> UploadDoc {
        UploadDoc {
            id: new_id(),
            tenant: "t".into(),
            owner: "o".into(),
            blob: new_id(),
            file: new_id(),
            status: UploadStatus::Open,
            size,
            part_size: 10,
            declared_type: None,
            said: Document::new(),
            metadata: None,
            concat: None,
            announced: None,
            enc: None,
            storing: None,
            recognised: None,
            offset: None,
            epoch: 0,
            tail: TailSpan::default(),
            hashed: HashedDoc::default(),
            behind: false,
            revision: 0,
            created_at: DateTime::from_millis(1000),
            updated_at: DateTime::from_millis(3000),
            expire_at: DateTime::from_millis(9000),
            purge_at: None,
        }
    }

    #[test]
    fn what_is_missing_is_told_in_ranges_of_parts() {
        let of = |size, parts: &[(i64, i64)]| missing(&upload(size), parts.iter().copied());
        assert_eq!(of(Some(35), &[]), [[0, 3]]);
        assert_eq!(of(Some(35), &[(0, 10), (20, 10)]), [[1, 1], [3, 3]]);
        assert_eq!(of(Some(35), &[(10, 10), (30, 5)]), [[0, 0], [2, 2]]);
        assert!(of(Some(35), &[(0, 10), (10, 10), (20, 10), (30, 5)]).is_empty());
        assert!(of(Some(0), &[]).is_empty());
        // Of unknown length: a part that is short and not the last is not there.
        assert_eq!(of(None, &[]), [[0, 0]]);
        assert_eq!(of(None, &[(0, 7), (10, 10)]), [[0, 0]]);
        assert_eq!(of(None, &[(20, 3)]), [[0, 1]]);
        assert!(of(None, &[(0, 10), (10, 3)]).is_empty());
        // A beginning of a part that was appended.
        assert_eq!(of(Some(35), &[(0, 4)]), [[0, 3]]);
    }

    #[test]
    fn percent_rate_and_rest_follow_from_bytes_and_time() {
        let half = progress(&upload(Some(40)), &[(0, 10), (30, 10)]);
        assert_eq!((half.uploaded, half.percent, half.received, half.total), (20, Some(50.0), 2, Some(4)));
        assert_eq!((half.bytes_per_second, half.eta_seconds), (Some(10.0), Some(2.0)));
        let none = progress(&upload(Some(40)), &[]);
        assert_eq!((none.received, none.bytes_per_second, none.eta_seconds), (0, None, None));
        let open = progress(&upload(None), &[(0, 10), (20, 5)]);
        assert_eq!((open.percent, open.total, open.received, open.missing), (None, None, 2, vec![[1, 1]]));
        let empty = progress(&upload(Some(0)), &[]);
        assert_eq!((empty.percent, empty.total, empty.received), (Some(100.0), Some(0), 0));
    }
}
