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

/// Lets another begin in each round: who comes first finds a mongod that has just been emptied.
pub fn take_turns<T>(contenders: &mut [T], round: usize) {
    contenders.rotate_left(round % contenders.len());
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
