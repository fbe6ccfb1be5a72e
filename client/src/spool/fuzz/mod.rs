//! Hostile spool files, for `tests/fuzz` and the tests: read as an uploader reads them, from the directory to the last ack.
//!
//! By its first byte an input is a file as it is, the records of a file that somebody made up and signed (`forged`), or what
//! is done to a file that the real writer has written (`harmed`).

mod forged;
mod harmed;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flowforge_proto::v1;

use super::dead::{Contents, Found, find};
use super::format::{Meta, RECORD_HEADER};
use crate::queue::{BatchLimits, Queue};

/// The body of the target `spool`.
pub(crate) fn spool(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 3 {
        0 => drop(upload(input.0)),
        1 => forged::run(input),
        _ => harmed::run(input),
    }
}

/// Takes an input apart; what is missing at its end is zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn short(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Small numbers, and those at the edges of what a file can say.
    fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=239 => u64::from(small),
            240..=247 => self.short() as u64,
            248..=250 => i64::MAX as u64 - u64::from(self.byte()),
            251..=253 => u64::MAX - u64::from(self.byte()),
            _ => self.take(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        }
    }

    fn take(&mut self, bytes: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A directory of its own, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("flowforge-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // In memory, where there is such a place: a disk would be most of the time.
        let memory = PathBuf::from("/dev/shm");
        let dir = if memory.is_dir() { memory } else { std::env::temp_dir() }.join(name);
        std::fs::create_dir(&dir).expect("a directory of our own");
        Self(dir)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn meta() -> Meta {
    let hello = v1::Hello { task_id: "t".to_owned(), producer: vec![7; 16].into(), ..v1::Hello::default() };
    Meta { hello, server: "http://h:1".to_owned() }
}

/// What an uploader got out of a file.
pub(crate) struct Uploaded {
    pub(crate) contents: Contents,
    /// Each entry with its first number.
    pub(crate) entries: Vec<(u64, v1::LogEntry)>,
}

/// Uploads these bytes as a dead producer's file, to a server that takes everything. `None`: it is not read.
pub(crate) fn upload(file: &[u8]) -> Option<Uploaded> {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("dead.spool"), file).expect("a file in our directory");
    let found = find(scratch.path()).expect("our directory").next()?;
    let Found::Dead(dead) = found else { return None };
    let contents = dead.contents();
    let resumed = dead.resume().expect("a file that is claimed");
    let most = file.len() / RECORD_HEADER + 2; // What was dropped before the first record, and after the last.
    assert!(resumed.scan.pieces.len() <= most, "{} pieces of {} bytes", resumed.scan.pieces.len(), file.len());
    let queue = Queue::resume(resumed.ring, resumed.first_seq, resumed.scan);
    let entries = send_all(queue);
    let lines = entries.iter().filter(|(_, entry)| entry.dropped.is_none()).count() as u64;
    assert_eq!(lines, contents.lines, "what was found is what can be sent");
    Some(Uploaded { contents, entries })
}

fn send_all(mut queue: Queue) -> Vec<(u64, v1::LogEntry)> {
    let limits = BatchLimits { lines: 7, bytes: 2000, entry_bytes: 1 << 20 };
    let mut entries = Vec::new();
    let mut next = queue.first_seq();
    while let Some(batch) = queue.take_batch(limits) {
        assert_eq!(batch.first_seq, next, "numbers without a hole");
        for entry in batch.entries {
            let lines = entry.dropped.map_or(1, |run| run.lines);
            entries.push((next, entry));
            next += lines;
        }
        // An ack may name any number that was sent.
        queue.ack(batch.first_seq);
        queue.ack(next - 1);
    }
    assert_eq!(next, queue.last_seq() + 1, "every number is told of");
    assert_eq!((queue.first_seq(), queue.lines()), (next, 0), "nothing is left");
    entries
}
