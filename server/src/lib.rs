//! The FlowForge Logs server and command line.
//!
//! A guided tour, in the direction of the data:
//!
//! 1. [`ingest`] speaks gRPC with producers: it checks every message, appends batches, and sends acks back.
//! 2. [`broker`] gives each line its offset, keeps the recent window, wakes the viewers and queues the line for storage.
//! 3. [`writer`] takes queued batches, inserts them into the `LogStore`, and only then reports them stored.
//! 4. [`tail`] stitches stored history and the recent window into one contiguous sequence for one reader.
//! 5. [`http`] offers that as Server-Sent Events, pages and downloads.
//! 6. [`proof`] says at a task's end whether what is stored is what was sent.
//! 7. [`canary`] goes all of this way all the time, and tells [`metrics`] whether the promises hold.
//!
//! [`serve`] wires them together and takes them down in order; [`config`] says how; [`cli`] is the command line.

pub mod backend;
pub mod broker;
pub mod canary;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fail_point;
pub mod http;
pub mod ingest;
pub mod line;
pub mod logging;
pub mod metrics;
pub mod proof;
#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod replay;
pub mod retention;
pub mod role;
pub mod serve;
pub mod sse;
pub mod stop;
pub mod tail;
#[cfg(test)]
mod test_store;
pub mod writer;

/// The bodies of the fuzz targets in `tests/fuzz`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub fn place(input: &[u8]) {
        crate::tail::place_fuzz::place(input);
    }

    pub fn hello(input: &[u8]) {
        crate::ingest::hello_fuzz::hello(input);
    }

    pub fn ansi(input: &[u8]) {
        crate::cli::ansi_fuzz::ansi(input);
    }
}
