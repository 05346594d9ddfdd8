//! Proof that registry, blobs, segments, files and chunks belong together, both ways.
//!
//! Reads documents and sums of chunk lengths, not contents (that is a scrub), and changes nothing.
//! A finding is looked at a second time before it is reported, so uploads and deletes that run
//! meanwhile are no findings.

pub mod report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::error::Error;
use crate::files::Files;
use crate::store::blobs::BlobDoc;
use crate::store::census::{ChunkSums, FilesHead};
use crate::store::registry::FileDoc;
use crate::store::segments::{SegmentDoc, State};
use crate::store::{Bson, DateTime, Id, StoreError};
use report::{Checked, Fault, Finding, FsckReport, LISTED};

/// Documents looked at together.
const PAGE: usize = 500;
/// Pause before findings are looked at again.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// Checks everything.
///
/// # Errors
/// When the database fails; nothing is known then.
pub async fn fsck(files: &Files) -> Result<FsckReport, Error> {
    let mut check = Check { files, checked: Checked::default(), suspects: Vec::new(), unreadable: Vec::new() };
    check.run().await.map_err(|error| error.doing("check the store"))
}

/// Something to look at, and to look at again.
#[derive(Debug, Clone)]
enum Subject {
    File(Id),
    Blob(Id),
    Segment(Id),
    GridFile(String, Bson),
    Chunks(String, Bson),
}

struct Suspect {
    subject: Subject,
    fault: Fault,
    finding: Finding,
}

struct Check<'a> {
    files: &'a Files,
    checked: Checked,
    suspects: Vec<Suspect>,
    unreadable: Vec<Id>,
}

type Step<T> = Result<T, StoreError>;

impl Check<'_> {
    async fn run(&mut self) -> Step<FsckReport> {
        self.check_registry().await?;
        self.check_blobs().await?;
        self.check_segments().await?;
        for bucket in self.files.store.list_buckets().await? {
            self.check_bucket(&bucket).await?;
        }
        let mut confirmed = self.look_again().await?;
        confirmed.extend(self.unreadable.iter().map(|id| {
            let what = "cannot be read as a file".to_owned();
            (Fault::Mismatched, Finding { place: "file_registry".to_owned(), id: id.to_hex(), what })
        }));
        let mut report = FsckReport { checked: std::mem::take(&mut self.checked), ..FsckReport::default() };
        report.ok = confirmed.is_empty();
        for (fault, finding) in confirmed {
            let findings = match fault {
                Fault::Missing => &mut report.missing,
                Fault::Mismatched => &mut report.mismatched,
                Fault::Orphans => &mut report.orphans,
                Fault::Leaked => &mut report.leaked,
            };
            findings.count += 1;
            if findings.items.len() < LISTED {
                findings.items.push(finding);
            }
        }
        Ok(report)
    }

    async fn check_registry(&mut self) -> Step<()> {
        let mut after = None;
        loop {
            let page = self.files.store.page_files(after, PAGE as i64).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            self.checked.files += page.len() as u64;
            let mut readable = Vec::with_capacity(page.len());
            for entry in page {
                match entry.file {
                    Some(file) => readable.push(file),
                    None => self.unreadable.push(entry.id),
                }
            }
            self.judge_files(readable).await?;
        }
    }

    async fn judge_files(&mut self, page: Vec<FileDoc>) -> Step<()> {
        let blobs: Vec<Id> = page.iter().map(|file| file.blob).collect();
        let blobs: HashMap<Id, BlobDoc> =
            self.files.store.find_blobs(&blobs).await?.into_iter().map(|b| (b.id, b)).collect();
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
                Some(_) => {
                    let segments = self.files.store.find_segments(file.blob).await?;
                    self.files.assemble(file, segments).err().map(|error| {
                        let cause = error.cause.map_or_else(|| error.detail.into_owned(), |cause| cause.to_string());
                        (Fault::Mismatched, format!("does not open: {cause}"))
                    })
                }
            };
            if let Some((fault, what)) = fault {
                self.suspect(Subject::File(id), fault, "file_registry", id.to_hex(), what);
            }
        }
        Ok(())
    }

    async fn check_blobs(&mut self) -> Step<()> {
        let mut after = None;
        loop {
            let page = self.files.store.page_blobs(after, PAGE as i64).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            self.checked.blobs += page.len() as u64;
            self.judge_blobs(page).await?;
        }
    }

    async fn judge_blobs(&mut self, page: Vec<BlobDoc>) -> Step<()> {
        let ids: Vec<Id> = page.iter().map(|blob| blob.id).collect();
        let named: HashSet<Id> = self.files.store.find_named(&ids).await?.into_iter().collect();
        let now = DateTime::from_system_time(self.files.clock.now());
        let quarantine_ms = i64::try_from(self.files.settings.quarantine_secs * 1000).unwrap_or(i64::MAX);
        for blob in page {
            let is_due = |at: DateTime| at.timestamp_millis().saturating_add(quarantine_ms) <= now.timestamp_millis();
            let what = match blob.state {
                State::Live if !named.contains(&blob.id) => "is live, but nothing names it",
                State::Pending if blob.lease.is_none_or(|lease| lease < now) => "was abandoned by its writer",
                State::Condemned if blob.condemned_at.is_none_or(is_due) => {
                    "was condemned longer ago than the quarantine"
                }
                State::Live | State::Pending | State::Condemned => continue,
            };
            self.suspect(Subject::Blob(blob.id), Fault::Leaked, "blobs", blob.id.to_hex(), what.to_owned());
        }
        Ok(())
    }

    async fn check_segments(&mut self) -> Step<()> {
        let mut after = None;
        loop {
            let page = self.files.store.page_segments(after, PAGE as i64).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            self.checked.segments += page.len() as u64;
            self.judge_segments(page).await?;
        }
    }

    /// Segment → blob, segment → files document.
    async fn judge_segments(&mut self, page: Vec<SegmentDoc>) -> Step<()> {
        let blobs: Vec<Id> = page.iter().map(|segment| segment.blob).collect();
        let blobs: HashSet<Id> = self.files.store.find_blobs(&blobs).await?.into_iter().map(|blob| blob.id).collect();
        let mut by_bucket: BTreeMap<String, Vec<Bson>> = BTreeMap::new();
        for segment in &page {
            by_bucket.entry(segment.bucket.clone()).or_default().push(files_id(segment));
        }
        let mut heads = HashMap::new();
        for (bucket, ids) in &by_bucket {
            let mut scan = self.files.store.scan_files_documents(bucket, Some(ids)).await?;
            for head in scan.next(ids.len() + 1).await? {
                heads.insert((bucket.clone(), head.files_id.to_string()), head);
            }
        }
        for segment in page {
            let id = segment.id.to_hex();
            let subject = Subject::Segment(segment.id);
            if !blobs.contains(&segment.blob) {
                let what = format!("belongs to the blob {}, which is not there", segment.blob);
                self.suspect(subject, Fault::Orphans, "segments", id, what);
            } else if segment.state == State::Live {
                let key = (segment.bucket.clone(), files_id(&segment).to_string());
                let fault = match heads.get(&key) {
                    None => Some((Fault::Missing, "has no files document")),
                    Some(head) if !agrees(&segment, head) => {
                        Some((Fault::Mismatched, "and its files document differ in length or chunk size"))
                    }
                    Some(_) => None,
                };
                if let Some((fault, what)) = fault {
                    self.suspect(subject, fault, "segments", id, what.to_owned());
                }
            }
        }
        Ok(())
    }

    async fn check_bucket(&mut self, bucket: &str) -> Step<()> {
        let mut scan = self.files.store.scan_files_documents(bucket, None).await?;
        loop {
            let page = scan.next(PAGE).await?;
            if page.is_empty() {
                break;
            }
            self.judge_grid_files(bucket, page).await?;
        }
        let mut scan = self.files.store.scan_chunks(bucket, None).await?;
        loop {
            let page = scan.next(PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            self.checked.chunks += page.iter().map(|sums| sums.count.unsigned_abs()).sum::<u64>();
            self.judge_chunks(bucket, page).await?;
        }
    }

    /// Files document → segment, and files document → chunks where there are none at all.
    async fn judge_grid_files(&mut self, bucket: &str, page: Vec<FilesHead>) -> Step<()> {
        let ids: Vec<Bson> = page.iter().map(|head| head.files_id.clone()).collect();
        let owners = self.owners(bucket, &ids).await?;
        let mut with_chunks = HashSet::new();
        let mut scan = self.files.store.scan_chunks(bucket, Some(&ids)).await?;
        loop {
            let sums = scan.next(PAGE).await?;
            if sums.is_empty() {
                break;
            }
            with_chunks.extend(sums.into_iter().map(|sums| sums.files_id.to_string()));
        }
        for head in page {
            let key = head.files_id.to_string();
            let subject = Subject::GridFile(bucket.to_owned(), head.files_id.clone());
            match owners.get(&key) {
                None if head.ours => {
                    self.suspect(subject, Fault::Orphans, &format!("{bucket}.files"), key, "has no segment".to_owned());
                }
                None => self.checked.foreign += 1,
                Some(segment) => {
                    self.checked.grid_files += 1;
                    if segment.stored_len > 0 && !with_chunks.contains(&key) {
                        self.suspect(
                            subject,
                            Fault::Missing,
                            &format!("{bucket}.chunks"),
                            key,
                            "has no chunks".to_owned(),
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Chunks → segment, and whether they are all there and of the right lengths.
    async fn judge_chunks(&mut self, bucket: &str, page: Vec<ChunkSums>) -> Step<()> {
        let ids: Vec<Bson> = page.iter().map(|sums| sums.files_id.clone()).collect();
        let owners = self.owners(bucket, &ids).await?;
        let mut foreign = HashSet::new();
        let mut scan = self.files.store.scan_files_documents(bucket, Some(&ids)).await?;
        for head in scan.next(ids.len() + 1).await? {
            foreign.insert(head.files_id.to_string());
        }
        for sums in page {
            let key = sums.files_id.to_string();
            let place = format!("{bucket}.chunks");
            let subject = Subject::Chunks(bucket.to_owned(), sums.files_id.clone());
            match owners.get(&key) {
                None if !foreign.contains(&key) => {
                    let what = format!("{} chunks without a files document or a segment", sums.count);
                    self.suspect(subject, Fault::Orphans, &place, key, what);
                }
                Some(segment) if segment.state == State::Live => {
                    let size = i64::from(segment.chunk_size).max(1);
                    let expected = ChunkSums::expected(sums.files_id.clone(), segment.stored_len, size);
                    if sums != expected {
                        let what = format!(
                            "{} chunks of {} bytes, expected {} of {}",
                            sums.count, sums.total, expected.count, expected.total
                        );
                        self.suspect(subject, Fault::Mismatched, &place, key, what);
                    }
                }
                None | Some(_) => {}
            }
        }
        Ok(())
    }

    async fn owners(&self, bucket: &str, ids: &[Bson]) -> Step<HashMap<String, SegmentDoc>> {
        let segments = self.files.store.find_segments_of(bucket, ids).await?;
        Ok(segments.into_iter().map(|segment| (files_id(&segment).to_string(), segment)).collect())
    }

    fn suspect(&mut self, subject: Subject, fault: Fault, place: &str, id: String, what: String) {
        self.suspects.push(Suspect { subject, fault, finding: Finding { place: place.to_owned(), id, what } });
    }

    /// Judges every suspect once more and keeps what is found both times.
    async fn look_again(&mut self) -> Step<Vec<(Fault, Finding)>> {
        let first = std::mem::take(&mut self.suspects);
        if first.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::sleep(SECOND_LOOK).await;
        let checked = std::mem::take(&mut self.checked);
        for suspect in &first {
            let store = &self.files.store;
            match &suspect.subject {
                Subject::File(id) => self.judge_files(store.find_files_by_id(&[*id]).await?).await?,
                Subject::Blob(id) => self.judge_blobs(store.find_blobs(&[*id]).await?).await?,
                Subject::Segment(id) => self.judge_segments(store.find_segments_by_id(&[*id]).await?).await?,
                Subject::GridFile(bucket, id) => {
                    let page =
                        store.scan_files_documents(bucket, Some(std::slice::from_ref(id))).await?.next(PAGE).await?;
                    self.judge_grid_files(bucket, page).await?;
                }
                Subject::Chunks(bucket, id) => {
                    let page = store.scan_chunks(bucket, Some(std::slice::from_ref(id))).await?.next(PAGE).await?;
                    self.judge_chunks(bucket, page).await?;
                }
            }
        }
        self.checked = checked;
        let second: HashSet<(Fault, Finding)> =
            self.suspects.drain(..).map(|suspect| (suspect.fault, suspect.finding)).collect();
        let found = first.into_iter().map(|suspect| (suspect.fault, suspect.finding));
        Ok(found.filter(|finding| second.contains(finding)).collect())
    }
}

fn files_id(segment: &SegmentDoc) -> Bson {
    segment.files_id.clone().unwrap_or(Bson::ObjectId(segment.id))
}

fn agrees(segment: &SegmentDoc, head: &FilesHead) -> bool {
    let number = |value: &Option<Bson>| match value {
        Some(Bson::Int32(n)) => Some(i64::from(*n)),
        Some(Bson::Int64(n)) => Some(*n),
        Some(Bson::Double(n)) if n.fract() == 0.0 => Some(*n as i64),
        _ => None,
    };
    number(&head.length) == Some(segment.stored_len) && number(&head.chunk_size) == Some(segment.chunk_size.into())
}
