//! The memory that uploads share: bytes on their way to the database, taken before they are gathered. Whoever holds much
//! of it gets no more while others hold little, and what is sent takes turns. Counts memory and has none.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{StoreError, StoreResult};

/// Who uploads, as memory is counted.
pub type Holder = Arc<str>;

/// How long a writer waits for memory before its client is asked to come back.
const PATIENCE: Duration = Duration::from_secs(15);
/// The part of the memory that is sent at once, as the driver copies it twice.
const SENT_PART: usize = 8;
/// What is sent at once at least: by two uploads.
const LEAST_SENT: usize = 16 << 20;

/// The memory of all uploads.
///
/// A holder may have `share` percent while it is alone. With others it gets less, since its bound is a multiple of what
/// is free: of `n` that want all they can get, each has the same, and a part stays free for the next.
///
/// # Source
/// Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.
pub struct UploadMemory {
    len: usize,
    share: usize,
    state: Mutex<State>,
    most_sent: u32,
    turns: Semaphore,
}

struct State {
    free: usize,
    held: HashMap<Holder, usize>,
    /// Those who wait, the longest first.
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    holder: Holder,
    len: usize,
    granted: oneshot::Sender<HeldMemory>,
}

/// Memory that is taken, given back when it is dropped.
pub struct HeldMemory {
    memory: Arc<UploadMemory>,
    holder: Holder,
    len: usize,
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.memory.give_back(&self.holder, self.len);
    }
}

impl UploadMemory {
    /// So many bytes, of which one holder alone may have `share` percent.
    pub fn new(len: usize, share: u32) -> Self {
        let state = State { free: len, held: HashMap::new(), waiting: VecDeque::new() };
        let most_sent = u32::try_from((len / SENT_PART).max(LEAST_SENT)).unwrap_or(u32::MAX);
        let turns = Semaphore::new(most_sent as usize);
        Self { len, share: share as usize, state: Mutex::new(state), most_sent, turns }
    }

    /// Takes memory that is free and for which nobody waits.
    pub fn try_take(self: &Arc<Self>, holder: &Holder, len: usize) -> Option<HeldMemory> {
        let mut state = self.state();
        // Who waits although its share would allow it waits for memory, and comes first.
        let comes_first = |waiter: &Waiter| !self.is_beyond_share(&state, &waiter.holder, waiter.len);
        if state.free < len || self.is_beyond_share(&state, holder, len) || state.waiting.iter().any(comes_first) {
            return None;
        }
        Some(self.take_from(&mut state, holder, len))
    }

    /// Takes memory, after those who wait.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where none is to be had for long.
    pub async fn take(self: &Arc<Self>, holder: &Holder, len: usize) -> StoreResult<HeldMemory> {
        let (granted, promise) = oneshot::channel();
        self.state().waiting.push_back(Waiter { holder: Arc::clone(holder), len, granted });
        self.grant();
        match tokio::time::timeout(PATIENCE, promise).await {
            Ok(Ok(piece)) => Ok(piece),
            _ => Err(StoreError::Busy),
        }
    }

    /// Whether less than half is left, of all or of what the holder may have: from then on chunks are sent as they are
    /// and no writer keeps memory it does not fill, so that half of it is always sent or next to be.
    pub fn is_tight(&self, holder: &Holder) -> bool {
        let state = self.state();
        let held = state.held(holder);
        state.free < self.len / 2 || held * 200 > (held + state.free) * self.share
    }

    /// A turn to send so many bytes, after those who waited longer; given back when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where none comes within `patience`.
    pub async fn turn(&self, len: usize, patience: Duration) -> StoreResult<SemaphorePermit<'_>> {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.most_sent);
        match tokio::time::timeout(patience, self.turns.acquire_many(len)).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(StoreError::Busy),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a holder would have more than its share of what is left beside it. Who holds nothing has a right to begin.
    fn is_beyond_share(&self, state: &State, holder: &Holder, len: usize) -> bool {
        let held = state.held(holder);
        held > 0 && (held + len) * (100 - self.share) > state.free.saturating_sub(len) * self.share
    }

    fn take_from(self: &Arc<Self>, state: &mut State, holder: &Holder, len: usize) -> HeldMemory {
        state.free -= len;
        *state.held.entry(Arc::clone(holder)).or_default() += len;
        HeldMemory { memory: Arc::clone(self), holder: Arc::clone(holder), len }
    }

    fn give_back(self: &Arc<Self>, holder: &Holder, len: usize) {
        {
            let mut state = self.state();
            state.free += len;
            let left = state.held(holder) - len;
            match left {
                0 => drop(state.held.remove(holder)),
                _ => drop(state.held.insert(Arc::clone(holder), left)),
            }
        }
        self.grant();
    }

    /// Gives what is free to those who wait, in their order; whoever is beyond its share is passed over.
    fn grant(self: &Arc<Self>) {
        let mut refused = Vec::new();
        let mut state = self.state();
        state.waiting.retain(|waiter| !waiter.granted.is_closed());
        let mut place = 0;
        while let Some(waiter) = state.waiting.get(place) {
            if self.is_beyond_share(&state, &waiter.holder, waiter.len) {
                place += 1;
                continue;
            }
            if state.free < waiter.len {
                break;
            }
            if let Some(Waiter { holder, len, granted }) = state.waiting.remove(place) {
                let piece = self.take_from(&mut state, &holder, len);
                refused.extend(granted.send(piece).err());
            }
        }
        drop(state);
        // Who left meanwhile gives back, and others get it: not while the lock is held.
        drop(refused);
    }
}

impl State {
    fn held(&self, holder: &Holder) -> usize {
        self.held.get(holder).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn holder(name: &str) -> Holder {
        name.into()
    }

    fn fill(memory: &Arc<UploadMemory>, who: &Holder) -> Vec<HeldMemory> {
        std::iter::from_fn(|| memory.try_take(who, 1)).collect()
    }

    #[test]
    fn one_holder_leaves_room_and_many_share_alike() {
        let memory = Arc::new(UploadMemory::new(1000, 75));
        let first = fill(&memory, &holder("a"));
        assert_eq!(first.len(), 750);
        let second = fill(&memory, &holder("b"));
        assert!((180..=190).contains(&second.len()), "{} of what is left", second.len());
        assert!(memory.try_take(&holder("c"), 40).is_some(), "and there is room for the next");
        drop(first);
        assert_eq!(fill(&memory, &holder("b")).len() + second.len(), 750, "what is given back is there for others");
        drop(second);
        assert!(memory.state().held.is_empty());
    }

    #[test]
    fn who_holds_nothing_may_begin_with_any_length_and_without_shares_one_may_have_all() {
        let memory = Arc::new(UploadMemory::new(100, 10));
        let piece = memory.try_take(&holder("a"), 90).expect("a first piece");
        assert!(memory.try_take(&holder("a"), 1).is_none());
        drop(piece);
        let memory = Arc::new(UploadMemory::new(100, 100));
        assert_eq!(fill(&memory, &holder("a")).len(), 100);
    }

    #[tokio::test]
    async fn memory_goes_to_who_waits_longest_and_passes_over_who_has_its_share() {
        let memory = Arc::new(UploadMemory::new(100, 75));
        let (a, b) = (holder("a"), holder("b"));
        let mut held = fill(&memory, &a);
        let ask = |who: &Holder, len| {
            let (memory, who) = (Arc::clone(&memory), Arc::clone(who));
            tokio::spawn(async move { memory.take(&who, len).await.expect("in time") })
        };
        let greedy = ask(&a, 30);
        tokio::task::yield_now().await;
        let long = ask(&b, 40);
        tokio::task::yield_now().await;
        assert!(memory.try_take(&b, 1).is_none(), "who came later does not overtake");
        let short = ask(&holder("c"), 1);
        tokio::task::yield_now().await;
        assert!(!greedy.is_finished() && !long.is_finished() && !short.is_finished());
        held.truncate(58);
        let (long, short) = (long.await.expect("no panic"), short.await.expect("no panic"));
        assert!(!greedy.is_finished(), "its share is less now");
        drop((held, long, short));
        greedy.await.expect("no panic");
        assert_eq!(memory.state().free, 100);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_stands_in_nobodys_way() {
        let memory = Arc::new(UploadMemory::new(100, 100));
        let b = holder("b");
        let held = memory.try_take(&holder("a"), 100);
        let waiting = tokio::time::timeout(Duration::from_millis(10), memory.take(&b, 60));
        assert!(waiting.await.is_err());
        drop(held);
        assert!(memory.try_take(&holder("c"), 100).is_some());
    }

    #[tokio::test]
    async fn no_more_than_a_part_is_sent_at_once_and_nothing_is_too_long_to_be_sent() {
        for (len, at_once) in [(16 << 20, 16 << 20), (512 << 20, 64 << 20)] {
            let memory = UploadMemory::new(len, 75);
            let turns = [memory.turn(at_once / 2, PATIENCE).await, memory.turn(at_once / 2, PATIENCE).await];
            assert!(memory.turn(1, PATIENCE).now_or_never().is_none());
            assert!(matches!(memory.turn(1, Duration::from_millis(1)).await, Err(StoreError::Busy)));
            drop(turns);
            assert!(memory.turn(usize::MAX, PATIENCE).await.is_ok());
        }
    }
}
