//! What is transferred: random bytes, log text, and a mix of both with this repository's sources.
//!
//! A body is slices of one pool, so that a file of any size costs no memory, and begins with bytes of
//! its own, so that no two files are equal.

use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mongodb::bson::oid::ObjectId;

use crate::Outcome;

const POOL_LEN: usize = 61 << 20;
/// What a client sends at once.
pub const PIECE_LEN: usize = 256 << 10;
/// How far apart two bodies begin in a pool.
const STRIDE: usize = 7_919_777;
/// How much of one kind a mixed body has before the next.
const MIX_LEN: usize = 3 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Random,
    Text,
    Mixed,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Text => "text",
            Self::Mixed => "mixed",
        }
    }

    /// What an uploading client says it is.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Random | Self::Mixed => "application/octet-stream",
        }
    }
}

/// The body of one file, in order.
#[derive(Clone)]
pub struct Body {
    pub kind: Kind,
    pub pieces: Vec<Bytes>,
    pub len: usize,
}

/// Pools to cut bodies from.
pub struct Contents {
    random: Bytes,
    text: Bytes,
    mixed: Bytes,
    bodies: AtomicUsize,
}

impl Contents {
    /// # Errors
    /// When the sources cannot be read.
    pub fn new(sources: &Path) -> Outcome<Self> {
        let random = noise(POOL_LEN);
        let text = log_text(POOL_LEN);
        let mixed = mixture(&[&archive(sources)?, &text, &random]);
        Ok(Self { random: random.into(), text: text.into(), mixed: mixed.into(), bodies: AtomicUsize::new(0) })
    }

    /// A body that no other begins like, in the pieces a client would send.
    pub fn body(&self, kind: Kind, len: usize) -> Body {
        self.body_of(kind, len, PIECE_LEN)
    }

    /// The same in pieces of another length.
    pub fn body_of(&self, kind: Kind, len: usize, piece_len: usize) -> Body {
        let pool = match kind {
            Kind::Random => &self.random,
            Kind::Text => &self.text,
            Kind::Mixed => &self.mixed,
        };
        let mut at = self.bodies.fetch_add(1, Ordering::Relaxed) * STRIDE % (POOL_LEN - piece_len);
        let mut pieces = vec![head(&pool[at..at + piece_len.min(len)])];
        let mut left = len - pieces[0].len();
        while left > 0 {
            at += piece_len;
            if at + piece_len > POOL_LEN {
                at %= piece_len;
            }
            let take = left.min(piece_len);
            pieces.push(pool.slice(at..at + take));
            left -= take;
        }
        Body { kind, pieces, len }
    }
}

/// A first piece with a line of its own in front.
fn head(piece: &[u8]) -> Bytes {
    let mut bytes = piece.to_vec();
    let mark = format!("# {}\n", ObjectId::new());
    let len = mark.len().min(bytes.len());
    bytes[..len].copy_from_slice(&mark.as_bytes()[mark.len() - len..]);
    bytes.into()
}

/// Numbers without a pattern, the same in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() >> 11) as usize % limit
    }

    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut dice = Dice::new(1);
    (0..len / 8).flat_map(|_| dice.roll().to_le_bytes()).collect()
}

/// An access log as a server behind a proxy writes it.
fn log_text(len: usize) -> Vec<u8> {
    const PATHS: [&str; 6] =
        ["/v1/files", "/v1/files/{id}/content", "/assets/app.js", "/login", "/api/orders/recent", "/images/header.png"];
    const AGENTS: [&str; 4] = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15",
        "curl/8.9.1",
        "okhttp/4.12.0",
    ];
    let mut dice = Dice::new(2);
    let mut text = String::with_capacity(len + 512);
    let mut millis = 1_795_000_000_000_u64;
    while text.len() < len {
        millis += dice.roll() % 900;
        let (status, path) = ([200, 200, 200, 201, 206, 304, 404, 500][dice.below(8)], PATHS[dice.below(6)]);
        let (client, request, sent) = (dice.roll() as u32, dice.roll(), dice.below(1 << 22));
        let (micros, agent) = (dice.below(900_000), AGENTS[dice.below(4)]);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{millis} INFO request id={request:016x} client=10.{}.{}.{} method=GET path={path} status={status} \
             sent={sent} micros={micros} agent=\"{agent}\"",
            client >> 16 & 255,
            client >> 8 & 255,
            client & 255,
        );
    }
    text.truncate(len);
    text.into_bytes()
}

/// This repository's sources as a tar.
fn archive(sources: &Path) -> Outcome<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for folder in ["src", "tests", "docs", "benches"] {
        archive.append_dir_all(folder, sources.join(folder))?;
    }
    Ok(archive.into_inner()?)
}

/// The parts in turns, each from its beginning again when it is used up.
fn mixture(parts: &[&[u8]]) -> Vec<u8> {
    let mut mixed = Vec::with_capacity(POOL_LEN + MIX_LEN);
    for turn in 0.. {
        if mixed.len() >= POOL_LEN {
            break;
        }
        let part = parts[turn % parts.len()];
        let from = turn / parts.len() * MIX_LEN % part.len();
        mixed.extend(part[from..].iter().chain(part).take(MIX_LEN));
    }
    mixed.truncate(POOL_LEN);
    mixed
}
