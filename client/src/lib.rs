//! Ships one producer's lines to a FlowForge Logs server.
//!
//! A [`Client`] is one producing process in one task. Callers hand it lines ([`Client::push`]) or bytes
//! ([`Client::write`]); that costs them one short lock. A sender, on a thread of its own or on a given runtime, delivers:
//!
//! ```text
//!  bytes ──► assemble ──► lines ─┐
//!                                ├─► queue ──► session ──► LogService.StreamLogs
//!  entries ──────────────────────┘     ▲          │
//!                                      └── acks ◄─┘      sender: one session after another, with back-off
//! ```
//!
//! - [`assemble`]: bytes to lines, progress bars and previews; pure.
//! - `queue`, `item`: what is captured and not stored: sequence numbers, byte accounting, overflow; pure.
//! - [`spool`]: the same in a file, which survives the process.
//! - `stream`, `shared`, `state`: the writing side, the one lock between callers and sender, and what is behind it.
//! - `proof`: what was sent, as a hash for the server to compare with what it has stored.
//! - `lane`, `budget`: whose an unfinished line is; what several clients may hold together.
//! - `session`, `ending`, `sender`, `backoff`: one stream to the server, how it ends, their succession, the waits between.
//!
//! # What is promised
//!
//! - A line stays in memory until the server has *stored* it. It is sent again after any failure, and the server drops
//!   what it already has: nothing is lost and nothing doubled while this process lives and the buffer suffices.
//! - With a [`ClientConfig::spool`] a line also survives this process, and is uploaded by another one. So does the text of a
//!   line that has not ended.
//! - A line that had to be given up is counted, by a record in the log in its place and in [`Stats`].
//! - Nothing here fails the program whose log it is: after [`Client::start`] there are no errors, only [`Stats`] and
//!   [`CloseOutcome`].
//!
//! # Memory
//!
//! At most [`ClientConfig::max_buffer_bytes`], in which each line is counted with 128 bytes of overhead, plus a constant of
//! about 2 MiB: the batches under way, one unfinished line per stream, and the connection. With a spool it is the constant
//! alone, and the file's pages in use, which the kernel counts as shared and takes back when it needs to.

pub mod assemble;
mod backoff;
mod budget;
mod client;
mod config;
mod ending;
mod entry;
mod item;
mod lane;
mod proof;
mod queue;
#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod replay;
mod sender;
mod session;
mod shared;
pub mod spool;
mod state;
mod stats;
mod stream;

pub use assemble::Mode;
pub use budget::Budget;
pub use client::Client;
pub use config::{
    AckHook, ClientConfig, ClientError, Command, CommandHook, ConnectHook, Overflow, RefusedHook, is_valid_id,
};
pub use entry::{Entry, Stream, now_unix_nano};
pub use lane::Lane;
pub use stats::{CloseOutcome, Completeness, End, Stats, Status};

/// The body of the fuzz target in `tests/fuzz`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub fn spool(input: &[u8]) {
        crate::spool::fuzz::spool(input);
    }
}
