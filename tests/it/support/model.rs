//! The oracle: a file is a `Vec<u8>`, and a range of it is a slice.

use std::ops::Range;

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
    let digits = noise(len / 2 + 1, seed);
    let mut text: Vec<u8> = digits
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| b"etaoinshrdlucmf\n"[digit as usize])
        .collect();
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

/// What several ranges of a content come to when those that overlap or touch are one: found by
/// marking every byte, in the order in which the request first names one of them.
pub fn coalesced(asked: &[Range<usize>], len: usize) -> Vec<Range<usize>> {
    let mut first_named = vec![usize::MAX; len];
    for (place, range) in asked.iter().enumerate() {
        for named in &mut first_named[range.clone()] {
            *named = place.min(*named);
        }
    }
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (at, named) in first_named.into_iter().enumerate().filter(|(_, named)| *named != usize::MAX) {
        match runs.last_mut() {
            Some((place, run)) if run.end == at => {
                run.end += 1;
                *place = named.min(*place);
            }
            _ => runs.push((named, at..at + 1)),
        }
    }
    runs.sort_by_key(|(place, _)| *place);
    runs.into_iter().map(|(_, run)| run).collect()
}
