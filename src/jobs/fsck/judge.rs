//! What is wrong with documents at hand: each beside those it names and those that should name it.
//! Reads no collection from end to end and decides about no second look.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::report::Fault;
use super::{Check, PAGE, Step, Subject};
use crate::store::blobs::BlobDoc;
use crate::store::census::{ChunkSums, Entry, FilesHead, SegmentHead};
use crate::store::registry::FileDoc;
use crate::store::rows::RowPlace;
use crate::store::schema::{BLOBS, REGISTRY, chunks_of, files_of};
use crate::store::segments::State;
use crate::store::{Bson, DateTime, Id};

impl Check<'_> {
    /// The documents that can be read, the others being suspects.
    fn readable<T>(&mut self, page: Vec<Entry<T>>, place: &str, subject: impl Fn(Id) -> Subject) -> Vec<T> {
        let mut rows = Vec::with_capacity(page.len());
        for Entry { id, row, odd } in page {
            if let Some(what) = odd {
                self.suspect(subject(id), Fault::Shape, place, id.to_hex(), what);
            }
            rows.extend(row);
        }
        rows
    }

    async fn blobs_of(&self, ids: impl Iterator<Item = Id>) -> Step<HashMap<Id, BlobDoc>> {
        let ids: Vec<Id> = ids.collect();
        let blobs = self.files.store.find_blobs(&ids).await?;
        Ok(blobs.into_iter().map(|blob| (blob.id, blob)).collect())
    }

    pub(super) async fn judge_files(&mut self, page: Vec<Entry<FileDoc>>) -> Step<()> {
        let page = self.readable(page, REGISTRY, Subject::File);
        let blobs = self.blobs_of(page.iter().map(|file| file.blob)).await?;
        for file in page {
            let id = file.id;
            let fault = match blobs.get(&file.blob) {
                None => Some((Fault::Missing, format!("names the blob {}, which is not there", file.blob))),
                Some(blob) if blob.state != State::Live => {
                    Some((Fault::Missing, format!("names the blob {}, which is {}", blob.id, blob.state.name())))
                }
                Some(blob) if blob.size != file.content.size => {
                    Some((Fault::Mismatched, format!("has {} bytes, its blob {}", file.content.size, blob.size)))
                }
                Some(_) => self.judge_content(file).await?.map(|what| (Fault::Mismatched, what)),
            };
            if let Some((fault, what)) = fault {
                self.suspect(Subject::File(id), fault, REGISTRY, id.to_hex(), what);
            }
        }
        Ok(())
    }

    /// File → segments, by its manifest.
    async fn judge_content(&self, file: FileDoc) -> Step<Option<String>> {
        match self.files.store.find_segments(file.blob, RowPlace::likely(file.content.stored_size)).await {
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(Some("has segments that cannot be read".to_owned())),
            Ok(segments) if !file.copies(&segments) => Ok(Some("has a copy of its row that says otherwise".to_owned())),
            Ok(segments) => Ok(self.files.assemble(file, segments).err().map(|error| {
                let cause = error.cause.map_or_else(|| error.detail.into_owned(), |cause| cause.to_string());
                format!("does not open: {cause}")
            })),
        }
    }

    pub(super) async fn judge_blobs(&mut self, page: Vec<Entry<BlobDoc>>) -> Step<()> {
        let page = self.readable(page, BLOBS, Subject::Blob);
        let in_state = |state| page.iter().filter(move |blob| blob.state == state).map(|blob| blob.id);
        let (live, pending): (Vec<_>, Vec<_>) = (in_state(State::Live).collect(), in_state(State::Pending).collect());
        let named: HashSet<Id> = self.files.store.find_named(&live).await?.into_iter().collect();
        let abandoned: HashSet<Id> = self.files.store.find_abandoned(&pending).await?.into_iter().collect();
        // A backup holds the reap up.
        let is_paused = self.files.store.is_reaping_paused().await?;
        let now = DateTime::from_system_time(self.files.clock.now());
        let kept_secs = self.files.settings.quarantine_secs.saturating_add(self.files.settings.sweep_interval_secs);
        let kept_ms = i64::try_from(kept_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
        for blob in page {
            let is_due = |at: DateTime| at.timestamp_millis().saturating_add(kept_ms) <= now.timestamp_millis();
            let what = match blob.state {
                State::Live if !named.contains(&blob.id) => "is live, but nothing names it",
                State::Pending if abandoned.contains(&blob.id) => "was abandoned by its writer",
                State::Condemned if !is_paused && blob.condemned_at.is_none_or(is_due) => {
                    "was condemned longer ago than the quarantine"
                }
                State::Live | State::Pending | State::Condemned => continue,
            };
            self.suspect(Subject::Blob(blob.id), Fault::Leaked, BLOBS, blob.id.to_hex(), what.to_owned());
        }
        Ok(())
    }

    /// Segment → blob, segment → files document; of rows in one place.
    pub(super) async fn judge_segments(&mut self, place: RowPlace, page: Vec<Entry<SegmentHead>>) -> Step<()> {
        let page = self.readable(page, place.collection(), Subject::Segment);
        let mut by_bucket: BTreeMap<String, Vec<Bson>> = BTreeMap::new();
        for segment in &page {
            by_bucket.entry(segment.bucket.clone()).or_default().push(segment.files_id());
        }
        let mut heads = HashMap::new();
        for (bucket, ids) in &by_bucket {
            let mut scan = self.files.store.scan_files_documents(bucket, Some(ids)).await?;
            for head in scan.next(ids.len() + 1).await? {
                heads.insert((bucket.clone(), head.files_id.to_string()), head);
            }
        }
        // Last, so that a blob seen live was live when the files documents were read.
        let blobs = self.blobs_of(page.iter().map(|segment| segment.blob)).await?;
        for segment in page {
            let fault = match (blobs.get(&segment.blob), segment.state) {
                (None, _) => {
                    Some((Fault::Orphans, format!("belongs to the blob {}, which is not there", segment.blob)))
                }
                (Some(blob), State::Live) if blob.state == State::Live => {
                    match heads.get(&(segment.bucket.clone(), segment.files_id().to_string())) {
                        None => Some((Fault::Missing, "has no files document".to_owned())),
                        Some(head) if !agrees(&segment, head) => {
                            let what = "and its files document differ in length or chunk size";
                            Some((Fault::Mismatched, what.to_owned()))
                        }
                        Some(_) => None,
                    }
                }
                (Some(_), _) => None,
            };
            if let Some((fault, what)) = fault {
                self.suspect(Subject::Segment(segment.id), fault, place.collection(), segment.id.to_hex(), what);
            }
        }
        Ok(())
    }

    /// Files document → segment, and files document → chunks where there are none at all.
    pub(super) async fn judge_grid_files(&mut self, bucket: &str, page: Vec<FilesHead>) -> Step<()> {
        let ids: Vec<Bson> = page.iter().map(|head| head.files_id.clone()).collect();
        let mut with_chunks = HashSet::new();
        let mut scan = self.files.store.scan_chunks(bucket, Some(&ids)).await?;
        loop {
            let sums = scan.next(PAGE).await?;
            if sums.is_empty() {
                break;
            }
            with_chunks.extend(sums.into_iter().map(|sums| sums.files_id.to_string()));
        }
        let owners = self.owners(bucket, &ids).await?;
        for head in page {
            let key = head.files_id.to_string();
            let subject = Subject::GridFile(bucket.to_owned(), head.files_id.clone());
            match owners.get(&key) {
                None if head.ours => {
                    self.suspect(subject, Fault::Orphans, &files_of(bucket), key, "has no segment".to_owned());
                }
                None => self.checked.foreign += 1,
                Some(segment) => {
                    self.checked.grid_files += 1;
                    if segment.is_live && segment.head.stored_len > 0 && !with_chunks.contains(&key) {
                        self.suspect(subject, Fault::Missing, &chunks_of(bucket), key, "has no chunks".to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    /// Chunks → segment, and whether they are all there and of the right lengths.
    pub(super) async fn judge_chunks(&mut self, bucket: &str, page: Vec<ChunkSums>) -> Step<()> {
        let ids: Vec<Bson> = page.iter().map(|sums| sums.files_id.clone()).collect();
        let owners = self.owners(bucket, &ids).await?;
        let mut with_document = HashSet::new();
        let mut scan = self.files.store.scan_files_documents(bucket, Some(&ids)).await?;
        for head in scan.next(ids.len() + 1).await? {
            with_document.insert(head.files_id.to_string());
        }
        for sums in page {
            let key = sums.files_id.to_string();
            let fault = match owners.get(&key) {
                None if !with_document.contains(&key) => {
                    let what = format!("{} chunks without a files document or a segment", sums.count);
                    Some((Fault::Orphans, what))
                }
                Some(segment) if segment.is_live => wrong_sums(&sums, &segment.head).map(|w| (Fault::Mismatched, w)),
                None | Some(_) => None,
            };
            if let Some((fault, what)) = fault {
                let subject = Subject::Chunks(bucket.to_owned(), sums.files_id);
                self.suspect(subject, fault, &chunks_of(bucket), key, what);
            }
        }
        Ok(())
    }

    async fn owners(&self, bucket: &str, ids: &[Bson]) -> Step<HashMap<String, Owner>> {
        let segments = self.files.store.find_segments_of(bucket, ids).await?;
        let blobs = self.blobs_of(segments.iter().map(|segment| segment.blob)).await?;
        let owner = |head: SegmentHead| {
            let is_live = head.state == State::Live && blobs.get(&head.blob).is_some_and(|b| b.state == State::Live);
            (head.files_id().to_string(), Owner { head, is_live })
        };
        Ok(segments.into_iter().map(owner).collect())
    }
}

/// The segment that a GridFS file is.
struct Owner {
    head: SegmentHead,
    /// Whether it and its blob are live: what is condemned may be on its way out.
    is_live: bool,
}

fn wrong_sums(sums: &ChunkSums, segment: &SegmentHead) -> Option<String> {
    let size = i64::from(segment.chunk_size).max(1);
    let expected = ChunkSums::expected(sums.files_id.clone(), segment.stored_len, size);
    (*sums != expected).then(|| {
        format!("{} chunks of {} bytes, expected {} of {}", sums.count, sums.total, expected.count, expected.total)
    })
}

fn agrees(segment: &SegmentHead, head: &FilesHead) -> bool {
    let number = |value: &Option<Bson>| match value {
        Some(Bson::Int32(n)) => Some(i64::from(*n)),
        Some(Bson::Int64(n)) => Some(*n),
        Some(Bson::Double(n)) if n.fract() == 0.0 => Some(*n as i64),
        _ => None,
    };
    number(&head.length) == Some(segment.stored_len) && number(&head.chunk_size) == Some(segment.chunk_size.into())
}
