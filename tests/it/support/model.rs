//! The oracle: a file is a `Vec<u8>`, and a range of it is a slice.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::app::noise;

/// The ways content is stored, as upload options.
pub const WAYS: [(&str, &str); 6] = [
    ("plain", "encrypt=false&compress=none"),
    ("encrypted", "encrypt=true&compress=none"),
    ("zstd", "encrypt=false&compress=zstd"),
    ("gzip", "encrypt=false&compress=gzip"),
    ("zstd, encrypted", "encrypt=true&compress=zstd"),
    ("gzip, encrypted", "encrypt=true&compress=gzip"),
];

/// Text that compresses to about half, the same for the same seed.
pub fn prose(len: usize, seed: u64) -> Vec<u8> {
    const LETTERS: &[u8; 16] = b"etaoinshrdlucmf\n";
    let pairs = std::array::from_fn::<_, 256, _>(|byte| [LETTERS[byte >> 4], LETTERS[byte & 15]]);
    let mut text = Vec::with_capacity(len + 2);
    for byte in noise(len.div_ceil(2), seed) {
        text.extend_from_slice(&pairs[byte as usize]);
    }
    text.truncate(len);
    text
}

/// Numbers without a pattern, the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// A range that is not empty: a few bytes, about a frame, or anything.
    pub fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len);
        let longest = [64, 300_000, len][self.below(3)];
        let wanted = 1 + self.below(longest);
        start..(start + wanted).min(len)
    }
}

/// What several ranges of a content come to when those that overlap or touch are one: found by marking
/// every piece between two of their ends, in the order in which the request first names one of them.
pub fn coalesced(asked: &[Range<usize>]) -> Vec<Range<usize>> {
    let ends: BTreeSet<usize> = asked.iter().flat_map(|range| [range.start, range.end]).collect();
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (start, end) in ends.iter().copied().zip(ends.iter().copied().skip(1)) {
        let Some(named) = asked.iter().position(|range| range.start <= start && end <= range.end) else { continue };
        match runs.last_mut() {
            Some((place, run)) if run.end == start => {
                run.end = end;
                *place = named.min(*place);
            }
            _ => runs.push((named, start..end)),
        }
    }
    runs.sort_by_key(|(place, _)| *place);
    runs.into_iter().map(|(_, run)| run).collect()
}

/// The same sequences each time, unless `PROPTEST_RNG_SEED` names others.
const SEED: u64 = 1;

/// Lives random sequences in a world, one after the other; one that fails is shrunk and printed. So many of them,
/// unless `GRIDGATE_MODEL_CASES` says another number.
pub fn agree<World, Steps: std::fmt::Debug>(
    cases: u32,
    steps: &impl Strategy<Value = Steps>,
    begin: impl AsyncFn() -> World,
    live: impl AsyncFn(&mut World, &Steps),
) {
    let defaults = Config::default();
    let rng_seed = match defaults.rng_seed {
        RngSeed::Random => RngSeed::Fixed(SEED),
        chosen => chosen,
    };
    let cases = std::env::var("GRIDGATE_MODEL_CASES").map_or(cases, |cases| cases.parse().unwrap());
    let config = Config { cases, rng_seed, failure_persistence: None, max_shrink_time: 60_000, ..defaults };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // A sequence that agreed leaves nothing, so the next one may begin where it ended.
    let world = RefCell::new(None);
    let outcome = TestRunner::new(config).run(steps, |steps| {
        runtime.block_on(async {
            let mut here = match world.take() {
                Some(world) => world,
                None => begin().await,
            };
            live(&mut here, &steps).await;
            world.replace(Some(here));
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
