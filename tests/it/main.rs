//! The one integration binary: the product over HTTP against a real mongod.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conditional;
mod driver_streams;
mod first_way;
mod fsck;
mod gridfs;
mod files;
mod first_way;
mod forms;
mod options;
mod ranges;
mod interop;
mod starting;
mod support;
mod sweep;
mod tidy;
mod tamper;
