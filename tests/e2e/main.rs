//! What one server promises, one promise a test. See the crate's documentation for the harness.

mod canary;
mod cli;
mod clickhouse;
mod crash;
mod http;
mod instances;
mod limits;
mod opens;
mod pairings;
mod postgres;
mod proof;
mod protocol;
mod proxy;
mod redis;
mod retention;
mod shutdown;
mod spool;
mod tail;
mod tls;
