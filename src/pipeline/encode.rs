//! Plaintext to stored frames: hashed in order, compressed and sealed in parallel, given in order.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::frames::FrameSource;
use super::{BodyError, BodyStream, INLINE_LEN, jobs};
use crate::error::Error;
use crate::format::digest::{Sha256Digest, Sha256Stream};
use crate::format::frame::FrameBuf;
use crate::format::index::FrameEntry;
use crate::format::segment::{Position, SegmentEncoder, SegmentEnd, StoredFrame};

/// What a frame of unknown length begins with.
const FIRST_CAPACITY: usize = 64 << 10;

/// Jobs under way at once: two would leave a core idle while the plaintext of the next one is gathered.
const MOST_JOBS: usize = 3;

/// Encodes one segment, frame by frame.
///
/// Plaintext is copied out of the body's pieces as they come, so that the connection reads into the same
/// memory again; so are the frames, where their buffers are [given back](Self::give_back).
///
/// # Cancel safety
/// Dropped at any time; frames being encoded finish on the blocking pool and are thrown away.
pub struct Encoding {
    source: FrameSource<BodyStream>,
    encoder: Arc<SegmentEncoder>,
    hash: Hash,
    jobs: VecDeque<JoinHandle<Vec<StoredFrame>>>,
    ready: VecDeque<StoredFrame>,
    spare: Vec<FrameBuf>,
    entries: Vec<FrameEntry>,
    next_frame: u64,
    plain_len: u64,
    expected_len: Option<u64>,
    limit: u64,
    is_last_taken: bool,
    frames_a_job: usize,
    most_jobs: usize,
}

/// The running hashes, or the promise of them by the job that has them.
enum Hash {
    Idle(Box<Hashes>),
    Busy(oneshot::Receiver<Box<Hashes>>),
}

impl Hash {
    /// Blocks a thread of the pool until the job before has hashed its plaintext, which it does before it encodes. That one
    /// was given to the pool earlier, and tokio's default queue begins in that order (decision 0039).
    fn wait(self) -> Option<Box<Hashes>> {
        match self {
            Self::Idle(hash) => Some(hash),
            Self::Busy(promise) => promise.blocking_recv().ok(),
        }
    }
}

/// What is hashed on the way.
#[derive(Default)]
struct Hashes {
    /// This segment's plaintext.
    own: Sha256Stream,
    /// Of something longer that this segment goes on with.
    whole: Option<Sha256Stream>,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        self.own.update(bytes);
        if let Some(whole) = &mut self.whole {
            whole.update(bytes);
        }
    }
}

/// Plaintext frames to be hashed and encoded together.
struct Job {
    encoder: Arc<SegmentEncoder>,
    first: u64,
    frames: Vec<FrameBuf>,
    /// That of the last of them.
    position: Position,
}

/// What a finished encoding knows.
pub struct Encoded {
    /// The end of the segment.
    pub end: SegmentEnd,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Of the plaintext.
    pub sha256: Sha256Digest,
    /// What the digest was made of, to go on with.
    pub running: Sha256Stream,
    /// The hash that was [continued](Encoding::continue_hash).
    pub whole: Option<Sha256Stream>,
}

impl Encoding {
    /// Begins a segment. More than `limit` plaintext bytes are refused; `expected_len` is a hint about their number.
    pub fn new(
        source: FrameSource<BodyStream>,
        encoder: SegmentEncoder,
        expected_len: Option<u64>,
        limit: u64,
    ) -> Self {
        let (frames_a_job, most_jobs) = jobs(encoder.layout().frame_len.into(), MOST_JOBS);
        Self {
            source,
            encoder: Arc::new(encoder),
            hash: Hash::Idle(Box::default()),
            jobs: VecDeque::new(),
            ready: VecDeque::new(),
            spare: Vec::new(),
            entries: Vec::new(),
            next_frame: 0,
            plain_len: 0,
            expected_len,
            limit,
            is_last_taken: false,
            frames_a_job,
            most_jobs,
        }
    }

    /// Hashes the plaintext into a running hash, too; before the first frame.
    #[must_use]
    pub fn continue_hash(mut self, whole: Option<Sha256Stream>) -> Self {
        self.hash = Hash::Idle(Box::new(Hashes { whole, ..Hashes::default() }));
        self
    }

    /// Plaintext bytes taken so far.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// The next frame to store; none after the last.
    ///
    /// # Errors
    /// The body's, among them [`BodyError::TooLarge`]; nothing more comes then.
    pub async fn next(&mut self) -> Result<Option<StoredFrame>, Error> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.entries.push(frame.entry);
                return Ok(Some(frame));
            }
            while self.jobs.len() < self.most_jobs && !self.is_last_taken && self.ready.is_empty() {
                self.begin_job().await?;
            }
            match self.jobs.pop_front() {
                Some(job) => self.ready.extend(job.await.map_err(|error| Error::internal(ENCODE, error))?),
                None if self.ready.is_empty() => return Ok(None),
                None => {}
            }
        }
    }

    /// Takes a buffer back for another frame.
    pub fn give_back(&mut self, frame: FrameBuf) {
        if !self.is_last_taken {
            self.spare.push(frame);
        }
    }

    /// Takes plaintext for one job and begins it, or does it at once where that is quick.
    async fn begin_job(&mut self) -> Result<(), Error> {
        let first = self.next_frame;
        let (frames, position) = self.take_frames().await?;
        self.next_frame += frames.len() as u64;
        let job = Job { encoder: Arc::clone(&self.encoder), first, frames, position };
        if self.jobs.is_empty() && job.plain_len() <= INLINE_LEN {
            let mut hash = self.idle_hash().await?;
            job.hash(&mut hash);
            self.hash = Hash::Idle(hash);
            self.ready.extend(job.encode());
            return Ok(());
        }
        let (hashed, promise) = oneshot::channel();
        let before = std::mem::replace(&mut self.hash, Hash::Busy(promise));
        self.jobs.push_back(tokio::task::spawn_blocking(move || {
            // Without it the job before has failed, which is told there.
            if let Some(mut hash) = before.wait() {
                job.hash(&mut hash);
                // Nobody waits for it where the encoding was dropped.
                let _ = hashed.send(hash);
            }
            job.encode()
        }));
        Ok(())
    }

    /// The plaintext of one job, at least one frame.
    async fn take_frames(&mut self) -> Result<(Vec<FrameBuf>, Position), Error> {
        let frame_len = self.encoder.layout().frame_len as usize;
        let mut frames = Vec::with_capacity(self.frames_a_job);
        loop {
            frames.push(self.take_frame(frame_len).await?);
            self.is_last_taken = !self.has_more().await?;
            if self.is_last_taken {
                return Ok((frames, Position::Last));
            }
            if frames.len() == self.frames_a_job {
                return Ok((frames, Position::Inner));
            }
        }
    }

    async fn take_frame(&mut self, frame_len: usize) -> Result<FrameBuf, Error> {
        let mut frame = self.buffer(frame_len);
        while frame.len() < frame_len && self.has_more().await? {
            self.plain_len += self.source.take_into(&mut frame, frame_len) as u64;
            if self.plain_len > self.limit {
                return Err(Error::too_large(self.limit));
            }
        }
        Ok(frame)
    }

    fn buffer(&mut self, frame_len: usize) -> FrameBuf {
        if let Some(mut spare) = self.spare.pop() {
            spare.clear();
            return spare;
        }
        let expected = self.expected_len.map(|len| len.saturating_sub(self.plain_len));
        let unknown = if self.plain_len == 0 { FIRST_CAPACITY } else { frame_len };
        let capacity = expected.and_then(|len| usize::try_from(len).ok()).unwrap_or(unknown);
        FrameBuf::with_capacity(capacity.min(frame_len))
    }

    /// Waits for another byte of the body or its end.
    async fn has_more(&mut self) -> Result<bool, Error> {
        Ok(self.source.fill(1).await.map_err(BodyError::into_error)? > 0)
    }

    async fn idle_hash(&mut self) -> Result<Box<Hashes>, Error> {
        match std::mem::replace(&mut self.hash, Hash::Idle(Box::default())) {
            Hash::Idle(hash) => Ok(hash),
            Hash::Busy(promise) => promise.await.map_err(|error| Error::internal("hash the content", error)),
        }
    }

    /// Ends the segment after the last frame.
    ///
    /// # Errors
    /// `internal` when a worker thread ended early.
    pub async fn finish(mut self) -> Result<Encoded, Error> {
        let Hashes { own, whole } = *self.idle_hash().await?;
        let sha256 = own.clone().finish();
        let end = self.encoder.finish(&self.entries, self.plain_len, sha256);
        Ok(Encoded { end, plain_len: self.plain_len, sha256, running: own, whole })
    }
}

impl Job {
    fn plain_len(&self) -> usize {
        self.frames.iter().map(|frame| frame.len()).sum()
    }

    fn hash(&self, hash: &mut Hashes) {
        self.frames.iter().for_each(|frame| hash.update(frame));
    }

    fn encode(self) -> Vec<StoredFrame> {
        let Self { encoder, first, frames, position } = self;
        let (last, mut spare) = (frames.len() - 1, FrameBuf::with_capacity(0));
        let encode = |(i, plain)| {
            let position = if i == last { position } else { Position::Inner };
            encoder.encode_frame(first + i as u64, position, plain, &mut spare)
        };
        frames.into_iter().enumerate().map(encode).collect()
    }
}

const ENCODE: &str = "encode the content";

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::{FutureExt, StreamExt, stream};

    use super::*;
    use crate::format::compress::decompress;
    use crate::format::segment::{Codec, Layout};
    use crate::pipeline::JOB_LEN;

    const PIECE_LEN: usize = 64 << 10;
    const FRAME_LEN: usize = 256 << 10;

    /// Pieces that differ, and the number of bytes taken of them.
    fn body(pieces: &[Bytes]) -> (BodyStream, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let pieces = stream::iter(pieces.to_vec()).map(move |piece| {
            count.fetch_add(piece.len(), Ordering::Relaxed);
            Ok(piece)
        });
        (pieces.boxed(), taken)
    }

    #[test]
    fn three_jobs_are_begun_before_the_first_has_hashed_and_come_back_in_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        runtime.expect("a runtime of one thread").block_on(async {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || gate.recv());
            let pieces: Vec<_> = (0..75_u8).map(|piece| Bytes::from(vec![piece; PIECE_LEN])).collect();
            let (body, taken) = body(&pieces);
            let layout = Layout { codec: Codec::Zstd, level: 1, frame_len: FRAME_LEN as u32 };
            let encoder = SegmentEncoder::new(layout, None);
            let mut encoding = Encoding::new(FrameSource::new(body), encoder, None, u64::MAX);

            let mut stored = Vec::new();
            {
                let mut first = pin!(encoding.next());
                assert!(first.as_mut().now_or_never().is_none(), "the pool has no thread for it");
                assert_eq!(taken.load(Ordering::Relaxed), 3 * JOB_LEN as usize + PIECE_LEN);
                open.send(()).expect("the pool's thread waits");
                stored.extend(first.await.expect("the body is sound"));
            }
            busy.await.expect("it does not panic").expect("it was opened");
            while let Some(frame) = encoding.next().await.expect("the body is sound") {
                stored.push(frame);
            }

            let plain = pieces.concat();
            assert_eq!(stored.len(), plain.len().div_ceil(FRAME_LEN));
            for (frame, plain) in stored.iter().zip(plain.chunks(FRAME_LEN)) {
                assert!(decompress(Codec::Zstd, &frame.bytes, plain.len()).is_some_and(|restored| restored == plain));
            }
            let encoded = encoding.finish().await.expect("every job has hashed");
            assert_eq!((encoded.plain_len, encoded.sha256), (plain.len() as u64, Sha256Digest::of(&plain)));
        });
    }
}
