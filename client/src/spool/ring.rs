//! The ring of one live producer, or of a dead one that is being uploaded.
//!
//! **Invariants**
//! - What [`Ring::append`] has returned `true` for is in the file: no later step of the process is needed.
//! - The state on file never names a record that was overwritten: it is written before the room is used again.
//! - The ring grows in steps while it can, and wraps only at its largest size. When everything is stored it begins anew at
//!   its first byte, so that a producer whose server keeps up dirties the same few pages again and again.
//! - A child of the process changes nothing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, compiler_fence};

use flowforge_proto::v1;
use prost::Message as _;

use super::format::{self, Kind, Layout, Outline, RECORD_HEADER, State, record_bytes};
use super::map::Map;
use super::open::{Area, OpenLines};
use super::recover::Scan;
use super::{death, dir, sys};

/// Kept free for the records at the end: what else was lost, and how the producer ended.
const LAST_BYTES: usize = 160;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Goes before the locks do.
    open: Area,
    map: Map,
    /// Holds the locks.
    file: File,
    path: PathBuf,
    layout: Layout,
    state: State,
    /// Where the next record goes.
    tail: usize,
    /// The records go on at the ring's beginning.
    wrapped: bool,
    next_seq: u64,
    /// Where reading goes on: a number, and its record's place.
    cursor: (u64, usize),
    closed: bool,
    /// Why the ring is smaller than it should be.
    limited: Option<String>,
}

/// What gave way to newer lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DroppedHead {
    pub(crate) is_line: bool,
    pub(crate) bytes: u64,
    pub(crate) time_unix_nano: i64,
}

impl Ring {
    /// Goes on with a dead producer's file, whose lock the caller has.
    pub(crate) fn resume(file: File, path: PathBuf, layout: Layout, state: State, scan: &Scan) -> io::Result<Self> {
        let map = Map::new(&file, layout.file_bytes())?;
        let cursor = (state.head_seq, state.head as usize);
        Ok(Self {
            open: Area::default(),
            map,
            file,
            path,
            layout,
            state,
            tail: scan.tail,
            wrapped: scan.wrapped,
            next_seq: scan.next_seq,
            cursor,
            closed: true,
            limited: None,
        })
    }

    /// The writing ends of the streams' open lines; once, and only for the producer itself.
    pub(crate) fn take_open_lines(&mut self) -> Option<[OpenLines; 3]> {
        self.open.take_writers()
    }

    /// Ends the writing of open lines; whether one of them stays.
    pub(crate) fn shut_open_lines(&mut self) -> bool {
        self.open.shut(self.map.bytes(), self.layout, self.next_seq)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the ring that records are in.
    pub(crate) fn used(&self) -> usize {
        let (head, capacity) = (self.state.head as usize, self.state.capacity as usize);
        if self.wrapped { capacity - head + self.tail } else { self.tail - head }
    }

    /// Lines are to be had from here, and may be added.
    pub(crate) fn is_own(&self) -> bool {
        self.map.is_own()
    }

    /// The disk has refused to let the ring grow; the words for it, once.
    pub(crate) fn limited(&self) -> Option<&str> {
        self.limited.as_deref()
    }

    /// The number of the next record.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The number of its first record.
    pub(crate) fn head_seq(&self) -> u64 {
        self.state.head_seq
    }

    /// No numbers are in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.head_seq == self.next_seq
    }

    /// Whether a payload could be kept in a ring that has grown and is empty.
    pub(crate) fn can_ever_take(&self, payload_bytes: usize) -> bool {
        let most = if self.limited.is_some() { self.state.capacity as usize } else { self.layout.max_capacity };
        record_bytes(payload_bytes) + LAST_BYTES <= most
    }

    /// Whether there is room for a payload now, and for the Close after it; grows if that helps.
    pub(crate) fn has_room(&mut self, payload_bytes: usize) -> bool {
        let need = record_bytes(payload_bytes) + LAST_BYTES;
        loop {
            if self.place(need).is_some() {
                return true;
            }
            if self.wrapped || !self.grow() {
                return false;
            }
        }
    }

    /// Where a record of so many bytes goes, and whether it goes round for it.
    fn place(&self, need: usize) -> Option<(usize, bool)> {
        let (head, capacity) = (self.state.head as usize, self.state.capacity as usize);
        if self.wrapped {
            return (head - self.tail >= need).then_some((self.tail, false));
        }
        if capacity - self.tail >= need {
            return Some((self.tail, false));
        }
        let is_largest = self.limited.is_some() || capacity == self.layout.max_capacity;
        (is_largest && head >= need).then_some((0, true))
    }

    fn grow(&mut self) -> bool {
        let capacity = self.state.capacity as usize;
        let larger = (capacity * 4).min(self.layout.max_capacity);
        if larger == capacity || self.limited.is_some() || !self.is_own() {
            return false;
        }
        let from = (self.layout.ring_at + capacity) as u64;
        if let Err(error) = sys::allocate(&self.file, from, (larger - capacity) as u64) {
            self.limited = Some(error.to_string());
            // It may wrap where it is.
            return true;
        }
        self.state.capacity = larger as u64;
        self.write_state()
    }

    /// Keeps an entry that takes `lines` numbers from `seq` on. False: there is no room, or this is a child.
    pub(crate) fn append(&mut self, kind: Kind, seq: u64, lines: u64, entry: &impl prost::Message) -> bool {
        self.has_room(entry.encoded_len()) && self.append_last(kind, seq, lines, entry)
    }

    /// [`Ring::append`] for a record at the end, which may take the room that is kept free for it.
    pub(crate) fn append_last(&mut self, kind: Kind, seq: u64, lines: u64, entry: &impl prost::Message) -> bool {
        let payload_bytes = entry.encoded_len();
        if seq != self.next_seq || payload_bytes > format::MAX_PAYLOAD {
            return false;
        }
        let Some((at, goes_round)) = self.place(record_bytes(payload_bytes)) else { return false };
        let (tail, capacity) = (self.tail, self.state.capacity as usize);
        let Some(file) = self.map.bytes_mut() else { return false };
        let ring = &mut file[self.layout.ring_at..self.layout.ring_at + capacity];
        let fill = |mut payload: &mut [u8]| {
            // It is as long as it said.
            let _ = entry.encode(&mut payload);
        };
        // Before the mark, so that the mark never leads to what is not there yet.
        format::write_record(ring, at, kind, seq, payload_bytes, fill);
        death::may_come();
        if goes_round && capacity - tail >= RECORD_HEADER {
            format::write_record(ring, tail, Kind::Wrap, seq, 0, |_| {});
        }
        // The kernel sees the stores of a killed process in their order; the compiler has to keep it.
        compiler_fence(Ordering::SeqCst);
        format::write_next_seq(file, seq + lines);
        death::may_come();
        self.next_seq = seq + lines;
        self.tail = at + record_bytes(payload_bytes);
        self.wrapped |= goes_round;
        true
    }

    /// Keeps the end.
    pub(crate) fn close(&mut self, close: &v1::Close) -> bool {
        let kept = !self.closed && self.append_last(Kind::Close, self.next_seq, 0, close);
        self.closed |= kept;
        kept
    }

    /// The entry with this number. `None`: the file is not what was written.
    pub(crate) fn read(&mut self, seq: u64) -> Option<v1::LogEntry> {
        let found = self.find(seq)?;
        let ring = self.ring();
        if !found.is_whole(ring) {
            return None;
        }
        let entry = v1::LogEntry::decode(found.payload(ring)).ok()?;
        // Not behind it: what is read may be read again, when a batch is full.
        self.cursor = (seq, found.at);
        Some(entry)
    }

    fn find(&self, seq: u64) -> Option<Outline> {
        let (mut at_seq, mut at) = self.cursor;
        if at_seq > seq || at_seq < self.state.head_seq {
            (at_seq, at) = (self.state.head_seq, self.state.head as usize);
        }
        loop {
            let found = self.at(at, at_seq)?;
            if at_seq == seq {
                return Some(found);
            }
            at_seq += self.numbers(found)?;
            if at_seq > seq {
                return None;
            }
            at = found.end();
        }
    }

    /// The record that begins here, or where the ring goes on from here.
    fn at(&self, at: usize, seq: u64) -> Option<Outline> {
        let ring = self.ring();
        match format::outline(ring, at, seq) {
            Some(found) if found.kind != Kind::Wrap => Some(found),
            // A mark, or too little room for one.
            _ => format::outline(ring, 0, seq).filter(|found| found.kind != Kind::Wrap && at > 0),
        }
    }

    /// How many numbers a record takes; most are lines, and need not be decoded.
    fn numbers(&self, found: Outline) -> Option<u64> {
        if found.kind == Kind::Line { Some(1) } else { Some(found.span(self.ring())?.0).filter(|lines| *lines > 0) }
    }

    fn ring(&self) -> &[u8] {
        let from = self.layout.ring_at;
        &self.map.bytes()[from..from + self.state.capacity as usize]
    }

    /// Everything up to `seq` is stored. False: the file is not what was written.
    pub(crate) fn release(&mut self, seq: u64) -> bool {
        if seq <= self.state.acked {
            return true;
        }
        let before = self.state;
        while self.state.head_seq <= seq && !self.is_empty() {
            let (at, head_seq) = (self.state.head as usize, self.state.head_seq);
            let Some(found) = self.at(at, head_seq) else { return false };
            let Some(lines) = self.numbers(found) else { return false };
            if head_seq + lines - 1 > seq {
                break;
            }
            self.advance(found, lines);
        }
        // A run that is stored in part stays whole: the server leaves out what it has.
        self.state.acked = seq.min(self.state.head_seq - 1);
        let (was, left) = (before.head_seq - 1 - before.acked, self.state.head_seq - 1 - self.state.acked);
        self.state.dropped_bytes = match left {
            0 => 0,
            _ => (u128::from(before.dropped_bytes) * u128::from(left.min(was)) / u128::from(was.max(1))) as u64,
        };
        self.begin_anew_if_empty();
        self.write_state()
    }

    fn advance(&mut self, found: Outline, lines: u64) {
        if self.wrapped && (found.at as u64) < self.state.head {
            self.wrapped = false;
        }
        self.state.head = found.end() as u64;
        self.state.head_seq += lines;
    }

    fn begin_anew_if_empty(&mut self) {
        if self.is_empty() && !self.closed {
            (self.state.head, self.tail, self.wrapped) = (0, 0, false);
            self.cursor = (self.next_seq, 0);
            self.limited = None;
        }
    }

    /// Gives the oldest record up. `None`: there is none.
    pub(crate) fn drop_head(&mut self) -> Option<DroppedHead> {
        if self.is_empty() {
            return None;
        }
        let found = self.at(self.state.head as usize, self.state.head_seq)?;
        let entry = v1::LogEntry::decode(found.payload(self.ring())).ok()?;
        let (lines, bytes) = found.span(self.ring()).filter(|(lines, _)| *lines > 0)?;
        if self.state.head_seq == self.state.acked + 1 {
            self.state.dropped_time = entry.time_unix_nano;
        }
        self.state.dropped_bytes = self.state.dropped_bytes.saturating_add(bytes);
        self.advance(found, lines);
        self.begin_anew_if_empty();
        let is_line = found.kind == Kind::Line;
        self.write_state().then_some(DroppedHead { is_line, bytes, time_unix_nano: entry.time_unix_nano })
    }

    /// The next line has this number: those between were not kept here. Only while it is empty.
    pub(crate) fn skip_to(&mut self, seq: u64) -> bool {
        if self.closed || !self.is_empty() || seq < self.next_seq {
            return false;
        }
        self.next_seq = seq;
        self.state.head_seq = seq;
        self.state.dropped_bytes = 0;
        // What is between is told by its absence, or stored by now.
        self.state.acked = seq - 1;
        self.begin_anew_if_empty();
        if !self.write_state() {
            return false;
        }
        if let Some(file) = self.map.bytes_mut() {
            format::write_next_seq(file, seq);
        }
        true
    }

    /// Forgets what is in it: it cannot be read.
    pub(crate) fn give_up(&mut self) {
        self.closed = false;
        (self.state.head, self.state.head_seq) = (0, self.next_seq);
        self.begin_anew_if_empty();
        self.write_state();
    }

    fn write_state(&mut self) -> bool {
        self.state.generation += 1;
        let state = self.state;
        let Some(file) = self.map.bytes_mut() else { return false };
        compiler_fence(Ordering::SeqCst);
        format::write_state(file, &state);
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Deletes the file: everything in it is stored.
    pub(crate) fn delete(self) {
        if self.is_own() {
            let _ = std::fs::remove_file(&self.path);
            dir::remove_if_empty_run(&self.path);
        }
    }
}

#[path = "create.rs"]
mod create;

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
