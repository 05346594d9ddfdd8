//! Whom and what a suite compares.

use crate::peers::Peers;
use crate::server::{EXPRESS, FASTAPI, GROWN, NAIVE, Way};
use crate::{ceiling, content};

pub const RAW: &str = "raw";

/// The database itself, the driver's GridFS streams, or a server over HTTP.
pub enum Contender {
    Raw,
    Driver,
    Way(Way),
}

impl Contender {
    pub fn who(&self) -> &'static str {
        match self {
            Self::Raw => RAW,
            Self::Driver => "driver streams",
            Self::Way(way) => way.who,
        }
    }

    pub fn way(&self) -> Option<&Way> {
        match self {
            Self::Way(way) => Some(way),
            Self::Raw | Self::Driver => None,
        }
    }

    /// In which pieces it takes a body.
    pub fn piece_len(&self) -> usize {
        if matches!(self, Self::Raw) { ceiling::CHUNK_LEN } else { content::PIECE_LEN }
    }
}

/// The order of `count` contenders in a round: who comes first finds a mongod that has just been emptied, and everybody
/// else one that may be busy with whoever came before. In `count` rounds, twice as many where it is odd, everybody is first,
/// and comes after each other, equally often; in fewer no order comes twice (Williams, Experimental designs balanced for
/// the estimation of residual effects of treatments, 1949).
pub fn order(count: usize, round: usize) -> Vec<usize> {
    let zigzag = |place: usize| if place.is_multiple_of(2) { place / 2 } else { count - place.div_ceil(2) };
    let mut order: Vec<usize> = (0..count).map(|place| (zigzag(place) + round) % count).collect();
    // An odd number needs every other round backwards.
    if !count.is_multiple_of(2) && !round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

/// The contenders in the [`order`] of a round.
pub fn take_turns<T>(contenders: Vec<T>, round: usize) -> Vec<T> {
    let mut contenders: Vec<Option<T>> = contenders.into_iter().map(Some).collect();
    order(contenders.len(), round).into_iter().filter_map(|place| contenders[place].take()).collect()
}

pub fn plain() -> Way {
    Way::gateway("gateway, plain", "encrypt=false&compress=none")
}

pub fn encrypted() -> Way {
    Way::gateway("gateway, encrypted", "encrypt=true&compress=none")
}

pub fn zstd() -> Way {
    Way::gateway("gateway, zstd", "encrypt=false&compress=zstd")
}

pub fn gzip() -> Way {
    Way::gateway("gateway, gzip", "encrypt=false&compress=gzip")
}

/// The plain way beside many files.
pub fn grown() -> Way {
    plain().on(GROWN, "gateway, many files")
}

/// Everything on.
pub fn zstd_encrypted() -> Way {
    Way::gateway("gateway, zstd + encrypted", "encrypt=true&compress=zstd")
}

/// Content stored as zstd frames, sent as they are.
pub fn zstd_as_stored() -> Way {
    zstd().asking("gateway, zstd as stored", "accept-encoding: zstd")
}

/// Other gateways; those that need `--peers` where they are there.
pub fn peers(peers: &Peers) -> Vec<Way> {
    let others = [FASTAPI, EXPRESS].into_iter().filter(|name| peers.have(name));
    std::iter::once(NAIVE).chain(others).map(Way::peer).collect()
}
