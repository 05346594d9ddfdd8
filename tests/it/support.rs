//! What the tests share: one mongod for the whole run, a fresh database a test, clients by role.

pub mod app;
pub mod backups;
pub mod data;
pub mod jwt;
pub mod model;
pub mod mongod;
pub mod nginx;
pub mod openapi;
pub mod own_mongod;
pub mod profiler;
pub mod program;
pub mod proxy;
pub mod recount;
pub mod replica_set;
pub mod requests;
pub mod rows;
pub mod ruft;
pub mod scan;
pub mod store;
pub mod tus;
pub mod uploads;
pub mod wire;
pub mod witness;
