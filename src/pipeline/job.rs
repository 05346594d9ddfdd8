//! The jobs of one encoding, on the blocking pool: plaintext is hashed by one after the other, and encoded by all that
//! have hashed theirs. Does not gather plaintext, and does not decide how many jobs are under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

use crate::error::Error;
use crate::format::digest::Sha256Stream;
use crate::format::frame::FrameBuf;
use crate::format::segment::{Position, SegmentEncoder, StoredFrame};

/// What is hashed on the way.
#[derive(Default)]
pub(super) struct Hashes {
    /// This segment's plaintext.
    pub own: Sha256Stream,
    /// Of something longer that this segment goes on with.
    pub whole: Option<Sha256Stream>,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        self.own.update(bytes);
        if let Some(whole) = &mut self.whole {
            whole.update(bytes);
        }
    }
}

/// Plaintext frames, at least one, to be hashed and encoded together.
pub(super) struct Job {
    pub encoder: Arc<SegmentEncoder>,
    /// The first one's number.
    pub first: u64,
    pub frames: Vec<FrameBuf>,
    /// That of the last of them.
    pub position: Position,
}

impl Job {
    pub fn plain_len(&self) -> usize {
        self.frames.iter().map(|frame| frame.len()).sum()
    }

    fn hash(&self, hashes: &mut Hashes) {
        self.frames.iter().for_each(|frame| hashes.update(frame));
    }

    /// # Panics
    /// Without a frame.
    fn encode(self) -> Vec<StoredFrame> {
        let Self { encoder, first, frames, position } = self;
        let last = frames.len().checked_sub(1).expect("a job has a frame");
        let mut spare = FrameBuf::with_capacity(0);
        let encode = |(i, plain)| {
            let position = if i == last { position } else { Position::Inner };
            encoder.encode_frame(first + i as u64, position, plain, &mut spare)
        };
        frames.into_iter().enumerate().map(encode).collect()
    }
}

/// Whom the frames of a job go to.
type Answer = oneshot::Sender<Vec<StoredFrame>>;

/// Jobs under way, in order.
///
/// # Cancel safety
/// Dropped, jobs that wait for the hashes are dropped with it; those that have begun finish for nobody.
pub(super) struct Jobs {
    relay: Arc<Relay>,
    under_way: VecDeque<oneshot::Receiver<Vec<StoredFrame>>>,
}

impl Jobs {
    pub fn new(hashes: Hashes) -> Self {
        let hashing = Hashing::Idle(Box::new(hashes));
        Self { relay: Arc::new(Relay(Mutex::new(hashing))), under_way: VecDeque::new() }
    }

    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Begins a job behind the others.
    pub fn begin(&mut self, job: Job) {
        let (answer, frames) = oneshot::channel();
        self.under_way.push_back(frames);
        self.relay.enter(job, answer);
    }

    /// Does a job here and now, which is quick; while no other is under way.
    ///
    /// # Errors
    /// `internal` when a worker thread ended early.
    pub fn run_here(&mut self, job: Job) -> Result<Vec<StoredFrame>, Error> {
        let mut hashes = self.relay.take()?;
        job.hash(&mut hashes);
        self.relay.hand_on(hashes);
        Ok(job.encode())
    }

    /// The frames of the job that was begun first, which is none of these any more; without a job, none.
    ///
    /// # Errors
    /// `internal` when a worker thread ended early.
    ///
    /// # Cancel safety
    /// Dropped, it has taken nothing away.
    pub async fn first_done(&mut self) -> Result<Vec<StoredFrame>, Error> {
        let Some(first) = self.under_way.front_mut() else { return Ok(Vec::new()) };
        let done = first.await;
        self.under_way.pop_front();
        done.map_err(|error| Error::internal("encode the content", error))
    }

    /// The hashes over all plaintext, once no job is under way.
    ///
    /// # Errors
    /// `internal` when a worker thread ended early.
    pub fn finish(self) -> Result<Hashes, Error> {
        Ok(*self.relay.take()?)
    }
}

/// The hashes on their way from job to job. No job takes a thread before it has them.
struct Relay(Mutex<Hashing>);

enum Hashing {
    Idle(Box<Hashes>),
    /// A job has the hashes; these wait for them.
    Busy(VecDeque<(Job, Answer)>),
}

impl Relay {
    fn hashing(&self) -> MutexGuard<'_, Hashing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Box<Hashes>, Error> {
        match std::mem::replace(&mut *self.hashing(), Hashing::Busy(VecDeque::new())) {
            Hashing::Idle(hashes) => Ok(hashes),
            Hashing::Busy(_) => Err(Error::internal("hash the content", "a worker thread ended early")),
        }
    }

    fn enter(self: &Arc<Self>, job: Job, answer: Answer) {
        let idle = match &mut *self.hashing() {
            Hashing::Busy(waiting) => return waiting.push_back((job, answer)),
            idle @ Hashing::Idle(_) => std::mem::replace(idle, Hashing::Busy(VecDeque::new())),
        };
        if let Hashing::Idle(hashes) = idle {
            Self::start(Arc::downgrade(self), hashes, job, answer);
        }
    }

    fn hand_on(self: &Arc<Self>, hashes: Box<Hashes>) {
        let mut hashing = self.hashing();
        let next = match &mut *hashing {
            Hashing::Idle(_) => None,
            Hashing::Busy(waiting) => waiting.pop_front(),
        };
        let Some((job, answer)) = next else {
            *hashing = Hashing::Idle(hashes);
            return;
        };
        drop(hashing);
        Self::start(Arc::downgrade(self), hashes, job, answer);
    }

    /// Weakly, so that nothing begins for an encoding that was dropped.
    fn start(relay: Weak<Self>, mut hashes: Box<Hashes>, job: Job, answer: Answer) {
        tokio::task::spawn_blocking(move || {
            job.hash(&mut hashes);
            if let Some(relay) = relay.upgrade() {
                relay.hand_on(hashes);
            }
            // Nobody waits for them where the encoding was dropped.
            let _ = answer.send(job.encode());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest::Sha256Digest;
    use crate::format::segment::{Codec, Layout};

    fn encoder() -> Arc<SegmentEncoder> {
        Arc::new(SegmentEncoder::new(Layout { codec: Codec::Zstd, level: 1, frame_len: 4096 }, None))
    }

    fn job(encoder: &Arc<SegmentEncoder>, first: u64, frames: &[&[u8]]) -> Job {
        let frames = frames.iter().map(|bytes| FrameBuf::from(*bytes)).collect();
        Job { encoder: Arc::clone(encoder), first, frames, position: Position::Inner }
    }

    #[tokio::test]
    async fn a_worker_that_ended_early_is_told_and_costs_the_others_nothing() {
        let (encoder, mut jobs) = (encoder(), Jobs::new(Hashes::default()));
        // It has nothing to encode, and panics over that.
        jobs.begin(job(&encoder, 0, &[]));
        jobs.begin(job(&encoder, 0, &[b"frame"]));
        assert!(jobs.first_done().await.is_err());
        assert_eq!(jobs.first_done().await.expect("it was done").len(), 1);
        assert_eq!(jobs.finish().expect("it was hashed").own.finish(), Sha256Digest::of(b"frame"));
    }

    #[tokio::test]
    async fn nothing_is_finished_without_the_hashes() {
        let (encoder, mut jobs) = (encoder(), Jobs::new(Hashes::default()));
        jobs.relay.take().expect("they are free");
        assert!(jobs.run_here(job(&encoder, 0, &[b"frame"])).is_err());
        jobs.begin(job(&encoder, 0, &[b"frame"]));
        assert!(jobs.finish().is_err());
    }

    #[test]
    fn nothing_begins_for_an_encoding_that_was_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        runtime.expect("a runtime of one thread").block_on(async {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || gate.recv());
            let (encoder, mut jobs) = (encoder(), Jobs::new(Hashes::default()));
            (0..3).for_each(|first| jobs.begin(job(&encoder, first, &[b"frame"])));
            drop(jobs);
            assert_eq!(Arc::strong_count(&encoder), 2, "the first job is in the pool's queue");
            open.send(()).expect("the pool's thread waits");
            busy.await.expect("it does not panic").expect("it was opened");
            tokio::task::spawn_blocking(|| {}).await.expect("the pool goes on");
            assert_eq!(Arc::strong_count(&encoder), 1);
        });
    }
}
