//! What one server promises, one promise a test. See the crate's documentation for the harness.

mod cli;
mod crash;
mod http;
mod opens;
mod protocol;
mod proxy;
mod shutdown;
mod spool;
mod tail;
