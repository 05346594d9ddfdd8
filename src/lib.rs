#![doc = include_str!("../docs/architecture.md")]

pub mod cli;

pub mod app;
pub mod backup;
pub mod config;
pub mod http;
pub mod jobs;

pub mod files;

pub mod content;
pub mod keyring;
pub mod pipeline;
pub mod store;

pub mod format;

pub mod allocator;
pub mod clock;
pub mod error;
pub mod failpoint;
pub mod metrics;
pub mod mongod;
pub mod network;
pub mod random;
pub mod secret;
pub mod secret_file;
pub mod telemetry;
