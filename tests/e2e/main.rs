//! What one server promises, one promise a test. See the crate's documentation for the harness.

mod cli;
mod crash;
mod http;
mod opens;
mod postgres;
mod protocol;
mod shutdown;
mod tail;
