//! The one integration binary: the product over HTTP against a real mongod.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod abuse;
mod at_rest;
mod auth;
mod backup;
mod conditional;
mod contract;
mod crash;
mod crash_jobs;
mod customer_keys;
mod dedup;
mod downloads;
mod driver_streams;
mod failing_writes;
mod failover;
mod files;
mod first_way;
mod forms;
mod fsck;
mod gridfs;
mod interop;
mod listing;
mod lives;
mod metrics;
mod model;
mod network;
mod options;
mod quota;
mod ranges;
mod real_files;
mod repair;
mod restore;
mod retention;
mod rotation;
mod scrub;
mod shredding;
mod space;
mod starting;
mod support;
mod sweep;
mod tamper;
mod tidy;
