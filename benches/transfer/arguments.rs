//! What a run measures: the command line, and the sizes that go with it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

pub const MIB: usize = 1 << 20;

/// The gateway beside the raw database, the driver's streams and gateways as people write them, in one
/// interleaved run on one mongod. The ratios mean more than the rates.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// A suite to run; may be given several times, all if not at all
    #[arg(long = "suite", value_enum)]
    pub suites: Vec<Suite>,
    /// Rounds of each suite; 5, or 1 with --quick
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Small files and short times: whether it works, not how fast it is
    #[arg(long)]
    pub quick: bool,
    /// More and larger files: up to 2 GiB, everything in every way; takes 40 GiB of disk
    #[arg(long, conflicts_with = "quick")]
    pub full: bool,
    /// FastAPI and Express gateways beside ours, from this folder
    #[arg(long, value_name = "FOLDER")]
    pub peers: Option<PathBuf>,
    /// Writes docs/benchmarks/<date>-<commit>.jsonl and .svg
    #[arg(long)]
    pub save: bool,
    /// Be the naive gateway on this database
    #[arg(long, hide = true)]
    pub naive: Option<String>,
    /// Said by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// One large file up and down, in every way, of every kind
    Large,
    /// Files of 4 KiB to 1 MiB from 1, 16 and 64 clients
    Small,
    /// 1 MiB at random places of a large file
    Ranges,
    /// Peak memory of the gateway
    Memory,
    /// From the last byte of an upload to its answer, and completing uploads in parts
    Finish,
    /// What a full registry costs
    Growth,
}

impl Suite {
    pub fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Small => "small",
            Self::Ranges => "ranges",
            Self::Memory => "memory",
            Self::Finish => "finish",
            Self::Growth => "growth",
        }
    }
}

/// The sizes of a run.
#[derive(Debug)]
pub struct Scale {
    pub name: &'static str,
    /// Lengths of large files; the goals are about the first.
    pub large: &'static [usize],
    /// Whether every kind of content goes every way.
    pub every_way: bool,
    /// Lengths of small files with the numbers of clients.
    pub small: &'static [(usize, &'static [usize])],
    /// How long clients repeat small requests.
    pub time: Duration,
    pub range_file: usize,
    /// Ranges of each decile, round and way.
    pub ranges: usize,
    /// The lengths whose peaks are compared.
    pub memory: [usize; 2],
    /// The length of each of 16 uploads at once.
    pub crowd: usize,
    /// The length of each of 64 downloads that pause.
    pub paused: usize,
    /// Lengths whose answers are timed, ascending.
    pub finish: &'static [usize],
    /// Uploads whose completion is timed.
    pub complete: &'static [Parts],
    /// Files in the full registry.
    pub grown: usize,
    pub disk_gib: u64,
}

/// Parts of an upload: how many, and the length of each.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub count: usize,
    pub len: usize,
}

const fn parts(count: usize, len: usize) -> Parts {
    Parts { count, len }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parts of {}", self.count, size(self.len))
    }
}

impl Arguments {
    pub fn suites(&self) -> Vec<Suite> {
        if self.suites.is_empty() { Suite::value_variants().to_vec() } else { self.suites.clone() }
    }

    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    pub fn scale(&self) -> &'static Scale {
        match (self.quick, self.full) {
            (true, _) => &QUICK,
            (_, true) => &FULL,
            _ => &USUAL,
        }
    }
}

static QUICK: Scale = Scale {
    name: "quick",
    large: &[32 * MIB],
    every_way: false,
    small: &[(4 << 10, &[1, 16, 64]), (64 << 10, &[16]), (MIB, &[1])],
    time: Duration::from_millis(200),
    range_file: 64 * MIB,
    ranges: 1,
    memory: [32 * MIB, 64 * MIB],
    crowd: 8 * MIB,
    paused: 32 * MIB,
    finish: &[16 * MIB, 64 * MIB],
    complete: &[parts(64, MIB / 4)],
    grown: 2000,
    disk_gib: 4,
};

static USUAL: Scale = Scale {
    name: "usual",
    large: &[256 * MIB],
    every_way: false,
    small: &[(4 << 10, &[1, 16, 64]), (64 << 10, &[1, 64]), (MIB, &[1, 16])],
    time: Duration::from_millis(500),
    range_file: 1024 * MIB,
    ranges: 6,
    memory: [256 * MIB, 1024 * MIB],
    crowd: 64 * MIB,
    paused: 64 * MIB,
    finish: &[16 * MIB, 256 * MIB, 1024 * MIB],
    complete: &[parts(128, 8 * MIB), parts(2000, MIB / 4)],
    grown: 100_000,
    disk_gib: 12,
};

static FULL: Scale = Scale {
    name: "full",
    large: &[256 * MIB, 2048 * MIB],
    every_way: true,
    small: &[(4 << 10, &[1, 16, 64]), (64 << 10, &[1, 16, 64]), (MIB, &[1, 16, 64])],
    time: Duration::from_millis(1000),
    range_file: 2048 * MIB,
    ranges: 10,
    memory: [256 * MIB, 1024 * MIB],
    crowd: 256 * MIB,
    paused: 64 * MIB,
    finish: &[16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB],
    complete: &[parts(128, 8 * MIB), parts(2000, MIB / 4), parts(1024, 8 * MIB)],
    grown: 1_000_000,
    disk_gib: 40,
};

/// A length as the tables write it.
pub fn size(len: usize) -> String {
    match len {
        _ if len.is_multiple_of(1 << 30) => format!("{} GiB", len >> 30),
        _ if len.is_multiple_of(MIB) => format!("{} MiB", len >> 20),
        _ => format!("{} KiB", len >> 10),
    }
}
