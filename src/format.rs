#![doc = include_str!("../docs/format.md")]
//!
//! ---
//! The module is pure: no I/O, no clock, no randomness, nothing asynchronous. The same input
//! gives the same bytes. Where segments lie and who may read them is not its business.

pub mod compress;
pub mod digest;
pub mod frame;
pub mod index;
pub mod key;
pub mod key_wrap;
pub mod manifest;
pub mod presign;
pub mod seal;
pub mod seek_table;
pub mod segment;
pub mod upload;

use thiserror::Error;

/// Why stored bytes, or a record that describes them, were refused.
///
/// Test vectors name these variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FormatError {
    #[error("the segment header is not one of version 1")]
    Header,
    #[error("the segment header names another segment")]
    SegmentId,
    #[error("the key does not belong to these bytes")]
    Commitment,
    #[error("the sealed trailer is missing or does not open")]
    Trailer,
    #[error("the frame count is {got}, the length needs {expected}")]
    FrameCount { got: u64, expected: u64 },
    #[error("frame {index} does not open")]
    Frame { index: u64 },
    #[error("frame {index} decodes to {got} bytes, expected {expected}")]
    FrameLength { index: u64, got: u64, expected: u64 },
    #[error("frame {index} does not match its checksum")]
    Checksum { index: u64 },
    #[error("the frame index is malformed")]
    Index,
    #[error("the key-wrap record is of an unknown version or mode, or damaged")]
    WrapRecord,
    #[error("the wrapped key does not open under this key")]
    WrongKey,
    #[error("the manifest does not match its authentication code")]
    Manifest,
    #[error("the digest record, or one of an upload, does not open")]
    Digest,
}

#[cfg(test)]
mod tests;
