//! Plaintext to stored frames: hashed in order, compressed and sealed in parallel, given in order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frames::FrameSource;
use super::gather::{Gathered, Gathering};
use super::job::{Hashes, Job, Jobs};
use super::{BodyStream, INLINE_LEN, jobs};
use crate::error::Error;
use crate::format::digest::{Sha256Digest, Sha256Stream};
use crate::format::frame::FrameBuf;
use crate::format::index::FrameEntry;
use crate::format::segment::{SegmentEncoder, SegmentEnd, StoredFrame};

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
    gathering: Gathering,
    encoder: Arc<SegmentEncoder>,
    jobs: Jobs,
    ready: VecDeque<StoredFrame>,
    entries: Vec<FrameEntry>,
    next_frame: u64,
    most_jobs: usize,
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
        let frame_len = encoder.layout().frame_len as usize;
        Self {
            gathering: Gathering::new(source, frame_len, frames_a_job, expected_len, limit),
            encoder: Arc::new(encoder),
            jobs: Jobs::new(Hashes::default()),
            ready: VecDeque::new(),
            entries: Vec::new(),
            next_frame: 0,
            most_jobs,
        }
    }

    /// Hashes the plaintext into a running hash, too; before the first frame.
    #[must_use]
    pub fn continue_hash(mut self, whole: Option<Sha256Stream>) -> Self {
        self.jobs = Jobs::new(Hashes { whole, ..Hashes::default() });
        self
    }

    /// Plaintext bytes taken so far.
    pub fn plain_len(&self) -> u64 {
        self.gathering.plain_len()
    }

    /// The next frame to store; none after the last.
    ///
    /// # Errors
    /// The body's, among them `too_large`; the encoding is of no use then.
    pub async fn next(&mut self) -> Result<Option<StoredFrame>, Error> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.entries.push(frame.entry);
                return Ok(Some(frame));
            }
            let may_begin = self.may_begin();
            tokio::select! {
                biased;
                frames = self.jobs.first_done(), if !self.jobs.is_empty() => self.ready.extend(frames?),
                gathered = self.gathering.next_job(), if may_begin => self.begin_job(gathered?)?,
                else => return Ok(None),
            }
        }
    }

    /// Does what a frame needs that was given, and goes on with the body meanwhile: whoever measures how slowly that
    /// comes counts the time until it is asked again.
    ///
    /// # Errors
    /// The work's; then the body's, as of [`next`](Self::next).
    pub async fn meanwhile<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let (mut work, mut outcome) = (std::pin::pin!(work), Ok(()));
        loop {
            let goes_on = outcome.is_ok() && self.may_begin();
            tokio::select! {
                biased;
                done = &mut work => return done.and_then(|done| outcome.map(|()| done)),
                gathered = self.gathering.next_job(), if goes_on => {
                    outcome = gathered.and_then(|gathered| self.begin_job(gathered));
                }
            }
        }
    }

    fn may_begin(&self) -> bool {
        self.jobs.len() < self.most_jobs && !self.gathering.has_ended()
    }

    /// Takes a buffer back for another frame.
    pub fn give_back(&mut self, frame: FrameBuf) {
        self.gathering.give_back(frame);
    }

    /// Begins a job, or does it at once where that is quick.
    fn begin_job(&mut self, (frames, position): Gathered) -> Result<(), Error> {
        let first = self.next_frame;
        self.next_frame += frames.len() as u64;
        let job = Job { encoder: Arc::clone(&self.encoder), first, frames, position };
        if self.jobs.is_empty() && job.plain_len() <= INLINE_LEN {
            self.ready.extend(self.jobs.run_here(job)?);
        } else {
            self.jobs.begin(job);
        }
        Ok(())
    }

    /// Ends the segment after the last frame.
    ///
    /// # Errors
    /// `internal` when a worker thread ended early.
    pub fn finish(self) -> Result<Encoded, Error> {
        let Hashes { own, whole } = self.jobs.finish()?;
        let (plain_len, sha256) = (self.gathering.plain_len(), own.clone().finish());
        let end = self.encoder.finish(&self.entries, plain_len, sha256);
        Ok(Encoded { end, plain_len, sha256, running: own, whole })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use futures::channel::mpsc;
    use futures::{FutureExt, Stream, StreamExt, stream};

    use super::*;
    use crate::error::ErrorCode;
    use crate::format::compress::decompress;
    use crate::format::segment::{Codec, Layout};
    use crate::pipeline::{BodyError, JOB_LEN};

    const PIECE_LEN: usize = 64 << 10;
    const FRAME_LEN: usize = 256 << 10;
    const PIECES_A_JOB: usize = JOB_LEN as usize / PIECE_LEN;

    /// Pieces that differ.
    fn pieces(count: u8) -> Vec<Bytes> {
        (0..count).map(|piece| Bytes::from(vec![piece; PIECE_LEN])).collect()
    }

    fn encoding(body: impl Stream<Item = Bytes> + Send + 'static) -> Encoding {
        let layout = Layout { codec: Codec::Zstd, level: 1, frame_len: FRAME_LEN as u32 };
        let source = FrameSource::new(body.map(Ok).boxed() as BodyStream);
        Encoding::new(source, SegmentEncoder::new(layout, None), None, u64::MAX)
    }

    async fn rest_of(encoding: &mut Encoding, mut stored: Vec<StoredFrame>) -> Vec<StoredFrame> {
        while let Some(frame) = encoding.next().await.expect("the body is sound") {
            stored.push(frame);
        }
        stored
    }

    /// The jobs find a pool whose threads, this many, are held until all that may be under way are.
    async fn gather_before_the_pool_begins(threads: usize) {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let held = (0..threads).map(|_| {
            let gate = Arc::clone(&gate);
            tokio::task::spawn_blocking(move || gate.lock().map(|gate| gate.recv()).is_ok())
        });
        let held: Vec<_> = held.collect();
        let (pieces, taken) = (pieces(75), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&taken);
        let mut encoding = encoding(stream::iter(pieces.clone()).inspect(move |piece| {
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }));

        let mut stored = Vec::new();
        {
            let mut first = pin!(encoding.next());
            assert!(first.as_mut().now_or_never().is_none(), "the pool has no thread for it");
            assert_eq!(taken.load(Ordering::Relaxed), 3 * JOB_LEN as usize + PIECE_LEN);
            (0..threads).for_each(|_| open.send(()).expect("the pool's threads wait"));
            stored.extend(first.await.expect("the body is sound"));
        }
        for held in held {
            assert!(held.await.expect("it does not panic"));
        }
        assert_encodes(encoding, stored, &pieces.concat()).await;
    }

    /// What was given and what is still to come are these bytes.
    async fn assert_encodes(mut encoding: Encoding, given: Vec<StoredFrame>, plain: &[u8]) {
        let stored = rest_of(&mut encoding, given).await;
        assert_eq!(stored.len(), plain.len().div_ceil(FRAME_LEN));
        for (frame, plain) in stored.iter().zip(plain.chunks(FRAME_LEN)) {
            assert!(decompress(Codec::Zstd, &frame.bytes, plain.len()).is_some_and(|restored| restored == plain));
        }
        let encoded = encoding.finish().expect("every job has hashed");
        assert_eq!((encoded.plain_len, encoded.sha256), (plain.len() as u64, Sha256Digest::of(plain)));
    }

    #[test]
    fn three_jobs_are_gathered_before_the_first_has_hashed_and_come_back_in_order() {
        for threads in [1, 4] {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().max_blocking_threads(threads).enable_time().build();
            runtime.expect("a runtime").block_on(async {
                let all = gather_before_the_pool_begins(threads);
                tokio::time::timeout(Duration::from_secs(30), all)
                    .await
                    .expect("no job waits for one that never comes");
            });
        }
    }

    /// An encoding whose body comes through a channel, from which these have come.
    fn slow_encoding(come: &[Bytes]) -> (mpsc::UnboundedSender<Bytes>, Encoding) {
        let (body, pieces) = mpsc::unbounded();
        come.iter().for_each(|piece| body.unbounded_send(piece.clone()).expect("it is read"));
        (body, encoding(pieces))
    }

    #[tokio::test]
    async fn what_is_encoded_is_given_while_more_is_waited_for_and_nothing_is_lost() {
        let pieces = pieces(4 * PIECES_A_JOB as u8 + 3);
        let (come, later) = pieces.split_at(4 * PIECES_A_JOB + 1);
        let (body, mut encoding) = slow_encoding(come);
        let mut given = Vec::new();
        let all = async {
            for _ in 0..4 * JOB_LEN as usize / FRAME_LEN {
                given.extend(encoding.next().await.expect("the body is sound"));
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("four jobs are complete");
        assert!(encoding.next().now_or_never().is_none());
        assert_eq!(encoding.plain_len(), 4 * JOB_LEN + PIECE_LEN as u64);
        later.iter().for_each(|piece| body.unbounded_send(piece.clone()).expect("it is read"));
        drop(body);
        assert_encodes(encoding, given, &pieces.concat()).await;
    }

    #[tokio::test]
    async fn the_body_is_taken_while_a_frame_is_stored_up_to_three_jobs() {
        let pieces = pieces(6 * PIECES_A_JOB as u8);
        let (come, later) = pieces.split_at(PIECES_A_JOB + 1);
        let (body, mut encoding) = slow_encoding(come);
        let given = vec![encoding.next().await.expect("the body is sound").expect("it has not ended")];
        let store = async {
            later.iter().for_each(|piece| body.unbounded_send(piece.clone()).expect("it is read"));
            while body.len() > 2 * PIECES_A_JOB - 1 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(body.len())
        };
        let stored = tokio::time::timeout(Duration::from_secs(30), encoding.meanwhile(store));
        let left = stored.await.expect("the body is taken").expect("all is sound");
        assert_eq!(left, 2 * PIECES_A_JOB - 1, "a job was given, three and the piece behind them are taken");
        drop(body);
        assert_encodes(encoding, given, &pieces.concat()).await;
    }

    #[tokio::test]
    async fn work_is_done_before_the_error_of_the_body_is_told_and_its_own_comes_first() {
        for fails in [false, true] {
            let come = pieces(PIECES_A_JOB as u8 + 1).into_iter().map(Ok).collect::<Vec<_>>();
            let body = stream::iter(come).chain(stream::iter([Err(BodyError::Idle)])).boxed();
            let layout = Layout { codec: Codec::Zstd, level: 1, frame_len: FRAME_LEN as u32 };
            let encoder = SegmentEncoder::new(layout, None);
            let mut encoding = Encoding::new(FrameSource::new(body as BodyStream), encoder, None, u64::MAX);
            let mut is_done = false;
            let work = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                is_done = true;
                if fails { Err(Error::file_not_found()) } else { Ok(()) }
            };
            let told = encoding.meanwhile(work).await.expect_err("the body is not sound").code;
            let expected = if fails { ErrorCode::FileNotFound } else { ErrorCode::BodyTimeout };
            assert_eq!((told, is_done), (expected, true));
        }
    }
}
