//! Work done together for requests that come at the same time: many small files cost the database little
//! more than one. Who comes while a worker's place is free is served at once; who comes while all workers are busy, or
//! while one has just begun what does not take long, is served with everybody else who waits by then. After a group of
//! several writes its worker keeps its place a moment, for several to be together again. Does not know what the work is.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::oneshot;

use super::{StoreError, StoreResult};

/// Groups under way at once: with two, one is being made up while the other waits for the journal.
const WORKERS: usize = 2;

/// How long a group of reads may take before another is begun beside it. What is read together lies in the database's
/// memory as a rule: then a second group at once would wait for nothing but the processor, and both would be smaller.
pub(super) const READ_PATIENCE: Duration = Duration::from_millis(5);

/// Who wrote in a group of several comes again as a rule, but not at once with the others. Unless those are waited for,
/// the first goes alone, with as many commands as all of them need. So many are waited for, in percent of the group:
const AWAITED_PERCENT: usize = 75;

/// How many times it is looked whether they wait, and how long is slept before the next look. The runtime's timer goes by
/// whole milliseconds, rounded up: a sleep takes 1 to 2 ms, all of them 8 ms at most on a machine that keeps up.
const LOOKS: usize = 4;
const LOOK: Duration = Duration::from_millis(1);

/// Where requests meet.
pub(super) struct Group<I, O>(Arc<Shared<I, O>>);

impl<I, O> Clone for Group<I, O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<I, O> {
    /// The most that a group weighs, if it is of more than one.
    most: usize,
    weigh: fn(&I) -> usize,
    kind: Kind,
    state: Mutex<State<I, O>>,
}

/// What the work is, as [`Group::of_writes`] and [`Group::of_reads`] say.
enum Kind {
    Writes,
    Reads { patience: Duration },
}

struct State<I, O> {
    waiting: Vec<(I, oneshot::Sender<O>)>,
    /// Since when each place is taken, or its worker at its last group.
    begun: [Option<Instant>; WORKERS],
}

/// What a member of a group gets whose work panicked.
pub(super) fn lost<T>() -> StoreResult<T> {
    Err(StoreError::Lost)
}

/// A worker's place.
struct Place<I, O> {
    shared: Arc<Shared<I, O>>,
    worker: usize,
    is_left: bool,
}

/// Items of one group with whom their outputs go to.
type Taken<I, O> = (Vec<I>, Vec<oneshot::Sender<O>>);

impl<I: Send + 'static, O: Send + 'static> Group<I, O> {
    /// Groups of members that together weigh no more than `most`. Whoever came is served, whether they wait or not.
    pub fn of_writes(most: usize, weigh: fn(&I) -> usize) -> Self {
        Self::new(most, weigh, Kind::Writes)
    }

    /// The same for what is of use only to those who still wait, one group at a time unless it takes longer than
    /// `patience`.
    pub fn of_reads(most: usize, weigh: fn(&I) -> usize, patience: Duration) -> Self {
        Self::new(most, weigh, Kind::Reads { patience })
    }

    fn new(most: usize, weigh: fn(&I) -> usize, kind: Kind) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), begun: [None; WORKERS] });
        Self(Arc::new(Shared { most, weigh, kind, state }))
    }

    /// What `work` makes of `item`, alone or with others; none if `work` panicked over this group.
    ///
    /// `work` **MUST** give an output for every input, in the same order, and take a bounded time. Whose
    /// `work` it is that does it is left to chance.
    ///
    /// # Cancel safety
    /// Dropped, the item's work is done all the same where it is a write; where it is a read, if it has begun.
    pub async fn join<F>(&self, item: I, work: impl Fn(Vec<I>) -> F + Send + 'static) -> Option<O>
    where
        F: Future<Output = Vec<O>> + Send,
    {
        let (answer, answered) = oneshot::channel();
        if let Some(mut place) = self.enter(item, answer) {
            tokio::spawn(async move {
                while let Some((items, answers)) = place.take() {
                    let served = items.len();
                    // Without an output their answers are dropped, and the next group is served.
                    let done = AssertUnwindSafe(work(items)).catch_unwind().await;
                    for (output, answer) in done.unwrap_or_default().into_iter().zip(answers) {
                        // Who went away needs no answer.
                        let _ = answer.send(output);
                    }
                    place.linger(served).await;
                }
            });
        }
        answered.await.ok()
    }

    /// Lets an item wait; gives a worker's place where one is free.
    fn enter(&self, item: I, answer: oneshot::Sender<O>) -> Option<Place<I, O>> {
        let mut state = self.0.lock();
        state.waiting.push((item, answer));
        if let Kind::Reads { patience } = self.0.kind
            && state.begun.iter().flatten().any(|begun| begun.elapsed() < patience)
        {
            return None;
        }
        let worker = state.begun.iter().position(Option::is_none)?;
        state.begun[worker] = Some(Instant::now());
        Some(Place { shared: Arc::clone(&self.0), worker, is_left: false })
    }
}

impl<I, O> Shared<I, O> {
    fn lock(&self) -> MutexGuard<'_, State<I, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I, O> Place<I, O> {
    /// The first of those that wait, as many as a group may be of; where nobody waits, the place is left.
    fn take(&mut self) -> Option<Taken<I, O>> {
        let mut state = self.shared.lock();
        if let Kind::Reads { .. } = self.shared.kind {
            state.waiting.retain(|(_, answer)| !answer.is_closed());
        }
        if state.waiting.is_empty() {
            // At once, so that whoever comes next finds the place free.
            state.begun[self.worker] = None;
            self.is_left = true;
            return None;
        }
        state.begun[self.worker] = Some(Instant::now());
        let mut weight = 0_usize;
        let fits = |(item, _): &&(I, _)| {
            weight = weight.saturating_add((self.shared.weigh)(item));
            weight <= self.shared.most
        };
        let len = state.waiting.iter().take_while(fits).count().max(1);
        Some(state.waiting.drain(..len).unzip())
    }

    /// Waits a moment for those to come again who were `served`, if they were several. A read takes less than that.
    async fn linger(&self, served: usize) {
        if served < 2 || matches!(self.shared.kind, Kind::Reads { .. }) {
            return;
        }
        for _ in 0..LOOKS {
            if self.shared.lock().waiting.len() * 100 >= served * AWAITED_PERCENT {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl<I, O> Drop for Place<I, O> {
    fn drop(&mut self) {
        if !self.is_left {
            let mut state = self.shared.lock();
            state.begun[self.worker] = None;
            if state.begun.iter().all(Option::is_none) {
                // The runtime ends, and nobody else would serve them.
                state.waiting.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// Doubles numbers; tells the size of each group, and waits for a permit before it works.
    async fn doubled(
        group: &Group<usize, (usize, usize)>,
        gate: &Arc<Semaphore>,
        item: usize,
    ) -> Option<(usize, usize)> {
        let gate = Arc::clone(gate);
        let work = move |items: Vec<usize>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("it is never closed").forget();
                assert!(!items.contains(&usize::MAX), "planted");
                items.iter().map(|item| (item * 2, items.len())).collect()
            }
        };
        group.join(item, work).await
    }

    fn workers<O>(group: &Group<usize, O>) -> usize {
        group.0.lock().begun.iter().flatten().count()
    }

    fn numbers() -> Group<usize, (usize, usize)> {
        Group::of_writes(8, |_| 1)
    }

    #[tokio::test]
    async fn who_comes_alone_is_served_alone() {
        let (group, gate) = (numbers(), Arc::new(Semaphore::new(100)));
        for item in 0..3 {
            assert_eq!(doubled(&group, &gate, item).await, Some((item * 2, 1)));
        }
        assert_eq!(workers(&group), 0);
    }

    #[tokio::test]
    async fn those_who_wait_are_served_together_each_with_its_own() {
        let (group, gate) = (numbers(), Arc::new(Semaphore::new(0)));
        let first = futures::future::join_all([0, 1].map(|item| doubled(&group, &gate, item)));
        let later = async {
            // One worker holds the first two at the gate, the other found nobody and left.
            while !group.0.lock().waiting.is_empty() {
                tokio::task::yield_now().await;
            }
            futures::future::join_all((2..12).map(|item| doubled(&group, &gate, item))).await
        };
        let open = async {
            while group.0.lock().waiting.len() < 10 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(100);
        };
        let (first, later, ()) = tokio::join!(first, later, open);
        let answers: Vec<_> = first.into_iter().chain(later).map(|answer| answer.expect("nothing panicked")).collect();
        assert!(answers.iter().enumerate().all(|(i, (double, _))| *double == 2 * i));
        let sizes: Vec<_> = answers.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, [2, 2, 8, 8, 8, 8, 8, 8, 8, 8, 2, 2]);
    }

    /// Answers of eight, who came so that each worker has four.
    async fn twice_four(group: &Group<usize, (usize, usize)>, gate: &Arc<Semaphore>) -> Vec<Option<(usize, usize)>> {
        let four = || futures::future::join_all([1; 4].map(|item| doubled(group, gate, item)));
        let later = async {
            while workers(group) == 0 || !group.0.lock().waiting.is_empty() {
                tokio::task::yield_now().await;
            }
            let open = async { gate.add_permits(100) };
            tokio::join!(four(), open).0
        };
        let (first, later) = tokio::join!(four(), later);
        first.into_iter().chain(later).collect()
    }

    #[tokio::test]
    async fn after_several_writes_those_who_come_again_are_served_together() {
        let (group, gate) = (numbers(), Arc::new(Semaphore::new(0)));
        assert_eq!(twice_four(&group, &gate).await, [Some((2, 4)); 8]);
        let again = (0..4).map(|place| {
            let (group, gate) = (&group, &gate);
            async move {
                if place > 0 {
                    tokio::time::sleep(2 * LOOK).await;
                }
                doubled(group, gate, 1).await
            }
        });
        assert_eq!(futures::future::join_all(again).await, [Some((2, 4)); 4]);
    }

    #[tokio::test]
    async fn after_several_writes_a_single_one_is_served_and_the_workers_leave() {
        let (group, gate) = (numbers(), Arc::new(Semaphore::new(0)));
        twice_four(&group, &gate).await;
        let single = async {
            assert_eq!(doubled(&group, &gate, 1).await, Some((2, 1)));
            while workers(&group) > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), single).await.expect("nobody else comes, and they do not wait");
    }

    #[tokio::test]
    async fn after_several_reads_nobody_is_waited_for() {
        let (group, gate) = (Group::of_reads(8, |_| 1, Duration::ZERO), Arc::new(Semaphore::new(0)));
        assert_eq!(twice_four(&group, &gate).await, [Some((2, 4)); 8]);
        assert_eq!(workers(&group), 0);
    }

    #[tokio::test]
    async fn an_item_that_weighs_more_than_a_group_may_goes_alone() {
        let group = Group::of_writes(8, |item: &usize| *item);
        let gate = Arc::new(Semaphore::new(100));
        let answers = futures::future::join_all([9, 100, 3, 4].map(|item| doubled(&group, &gate, item))).await;
        assert_eq!(answers[..2], [Some((18, 1)), Some((200, 1))]);
        assert_eq!(answers[2..], [Some((6, 2)), Some((8, 2))]);
    }

    #[tokio::test]
    async fn a_panic_takes_its_own_group_with_it_and_no_later_one() {
        let (group, gate) = (Group::of_writes(1, |_| 1), Arc::new(Semaphore::new(100)));
        let items = [usize::MAX, 1, usize::MAX, usize::MAX, 2, 3];
        let all = futures::future::join_all(items.map(|item| doubled(&group, &gate, item)));
        let answers = tokio::time::timeout(Duration::from_secs(5), all).await.expect("nobody is forgotten");
        assert_eq!(answers, [None, Some((2, 1)), None, None, Some((4, 1)), Some((6, 1))]);
        assert_eq!(workers(&group), 0);
    }

    #[tokio::test]
    async fn a_read_of_somebody_who_went_away_is_not_begun() {
        let (group, gate) = (Group::of_reads(1, |_| 1, Duration::ZERO), Arc::new(Semaphore::new(0)));
        let three = futures::future::join_all([1, 2, 3].map(|item| doubled(&group, &gate, item)));
        assert!(tokio::time::timeout(Duration::from_millis(1), three).await.is_err());
        gate.add_permits(3);
        while workers(&group) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.available_permits(), 1, "the two that had begun, and not the third");
    }

    #[tokio::test]
    async fn another_group_is_begun_only_beside_one_that_takes_long() {
        let (patience, gate) = (Duration::from_millis(50), Arc::new(Semaphore::new(0)));
        let group = Group::of_reads(8, |_| 1, patience);
        let ask = async |item| tokio::time::timeout(Duration::from_millis(1), doubled(&group, &gate, item)).await;
        assert!(ask(1).await.is_err());
        assert!(ask(2).await.is_err());
        assert_eq!(workers(&group), 1);
        tokio::time::sleep(patience).await;
        assert!(ask(3).await.is_err());
        assert_eq!(workers(&group), 2);
        assert!(ask(4).await.is_err());
        assert_eq!(workers(&group), WORKERS);
    }

    #[tokio::test]
    async fn who_goes_away_is_served_all_the_same() {
        let (group, gate) = (numbers(), Arc::new(Semaphore::new(0)));
        let gone = tokio::time::timeout(Duration::from_millis(1), doubled(&group, &gate, 1)).await;
        assert!(gone.is_err());
        gate.add_permits(1);
        while workers(&group) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.available_permits(), 0);
    }
}
