//! What one server promises, one promise a test. See the crate's documentation for the harness.

mod crash;
mod opens;
mod protocol;
