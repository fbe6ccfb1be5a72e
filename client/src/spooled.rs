//! The part of a queue that is in the spool.
//!
//! While the spool takes lines, every line goes there and none is kept in memory: the file is memory, too. Lines are read
//! back when they are sent. When the disk refuses the file more room and the ring is full, lines go to memory as they do
//! without a spool, until all that is in the ring is stored; then the ring begins anew behind them.

use flowforge_proto::v1;

use super::{BatchLimits, Queue};
use crate::entry::{ENTRY_OVERHEAD_BYTES, Entry, WIRE_OVERHEAD_BYTES, now_unix_nano};
use crate::item::{Body, Item, Run};
use crate::spool::Kind;
use crate::spool::open::OpenLines;
use crate::spool::recover::{Piece, Scan};
use crate::spool::ring::Ring;

/// How a producer leaves its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftAs {
    /// With its end, and everything is stored.
    Closed,
    /// Every line is stored; one may be open.
    Stored,
    /// Not everything is stored.
    Unfinished,
}

/// The ring, and whether lines go there.
#[derive(Debug)]
pub(crate) struct Spool {
    ring: Ring,
    /// Lines go to memory for now.
    bypassed: bool,
    /// Why the file is smaller than it should be, once it is.
    problem: Option<String>,
}

impl Queue {
    /// A queue whose lines go to a new ring.
    pub(crate) fn with_spool(ring: Ring) -> Self {
        Self { spool: Some(Spool { ring, bypassed: false, problem: None }), ..Self::default() }
    }

    /// A queue that goes on with what a dead producer left.
    pub(crate) fn resume(ring: Ring, first_seq: u64, scan: Scan) -> Self {
        let mut queue = Self { next_seq: first_seq, ..Self::with_spool(ring) };
        for piece in scan.pieces {
            match piece {
                Piece::Lines(lines) => {
                    queue.lines += lines;
                    queue.unsent_spooled += lines;
                    queue.append(Body::Spooled(lines));
                }
                Piece::Run { lines, bytes, time_unix_nano } => {
                    let run = Run { lines, bytes, announced: 0, time_unix_nano };
                    queue.count_dropped(&run);
                    queue.append(Body::Run(run));
                }
            }
        }
        // Not into the ring: they are in the file as they are, and whoever comes next finds them with these numbers.
        for line in scan.open {
            queue.lines += 1;
            queue.append(Body::Line(line));
        }
        queue
    }

    /// Where the streams' open lines are kept; once.
    pub(crate) fn take_open_lines(&mut self) -> Option<[OpenLines; 3]> {
        self.spool.as_mut()?.ring.take_open_lines()
    }

    /// Whether lines go to the spool.
    pub(crate) fn is_spooling(&self) -> bool {
        self.spool.as_ref().is_some_and(|spool| !spool.bypassed)
    }

    /// Why the spool is smaller than it should be.
    pub(crate) fn spool_problem(&self) -> Option<&str> {
        self.spool.as_ref()?.problem.as_deref()
    }

    /// Bytes in the ring.
    pub(crate) fn spool_bytes(&self) -> usize {
        self.spool.as_ref().map_or(0, |spool| spool.ring.used())
    }

    /// Whether an entry of this cost can be dealt with at once: kept, or counted because it can never be kept.
    pub(crate) fn fits(&mut self, cost: usize, max_buffer_bytes: usize) -> bool {
        if let Some(fits) = self.fits_spool(cost) {
            return fits;
        }
        cost > max_buffer_bytes || self.bytes + cost <= max_buffer_bytes
    }

    /// Whether an entry of this cost can never be kept.
    pub(crate) fn is_too_large(&self, cost: usize, max_buffer_bytes: usize) -> bool {
        match &self.spool {
            Some(spool) if !spool.bypassed => !spool.ring.can_ever_take(cost),
            _ => self.bytes + cost > max_buffer_bytes,
        }
    }

    /// `None`: the spool takes no lines now.
    fn fits_spool(&mut self, cost: usize) -> Option<bool> {
        let (bytes, next_seq) = (self.bytes, self.next_seq);
        let spool = self.spool.as_mut()?;
        if spool.bypassed && bytes == 0 && spool.ring.is_empty() && spool.ring.skip_to(next_seq) {
            spool.bypassed = false;
        }
        if spool.bypassed {
            return None;
        }
        let has_room = spool.ring.has_room(cost);
        if let (Some(problem), None) = (spool.ring.limited(), &spool.problem) {
            spool.problem = Some(problem.to_owned());
        }
        if has_room {
            return Some(true);
        }
        if spool.ring.limited().is_none() && spool.ring.is_own() {
            return Some(!spool.ring.can_ever_take(cost));
        }
        spool.bypassed = true;
        None
    }

    /// False: the line is to be kept in memory.
    pub(super) fn spool_line(&mut self, entry: &Entry) -> bool {
        let next_seq = self.next_seq;
        let Some(spool) = self.spool.as_mut().filter(|spool| !spool.bypassed) else { return false };
        let kept = spool.ring.append(Kind::Line, next_seq, 1, &entry.to_wire());
        // A number that is not in the ring ends it.
        spool.bypassed = !kept;
        kept
    }

    /// Keeps the record of a line that was never kept.
    pub(super) fn spool_run(&mut self, run: Run) {
        let next_seq = self.next_seq;
        if let Some(spool) = self.spool.as_mut().filter(|spool| !spool.bypassed) {
            spool.bypassed = !spool.ring.append(Kind::Run, next_seq, run.lines, &run.to_wire());
        }
    }

    pub(super) fn append_spooled(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.unsent_spooled += 1;
        match self.unsent.back_mut() {
            Some(Item { body: Body::Spooled(lines), .. }) => *lines += 1,
            _ => self.unsent.push_back(Item { first_seq: seq, body: Body::Spooled(1) }),
        }
        seq
    }

    /// Keeps the end.
    pub(crate) fn spool_close(&mut self, close: &v1::Close) {
        if let Some(spool) = self.spool.as_mut().filter(|spool| !spool.bypassed) {
            spool.ring.close(close);
        }
    }

    pub(super) fn is_next_spooled(&self) -> bool {
        matches!(self.unsent.front(), Some(Item { body: Body::Spooled(_), .. }))
    }

    /// Reads the next line for a batch that has so many bytes. `None`: the batch is full, or the line cannot be sent and
    /// is a run now.
    pub(super) fn take_spooled(&mut self, limits: BatchLimits, bytes: usize) -> Option<(v1::LogEntry, usize)> {
        let seq = self.unsent.front()?.first_seq;
        let Some(entry) = self.spool.as_mut().and_then(|spool| spool.ring.read(seq)) else {
            self.lose_spooled();
            return None;
        };
        let size = entry.message.len() + entry.fields_json.len() + WIRE_OVERHEAD_BYTES;
        if size > limits.entry_bytes {
            self.give_up_spooled(true, 0, seq, run_of(&entry));
            return None;
        }
        if bytes > 0 && bytes + size > limits.bytes {
            return None;
        }
        self.pass_spooled();
        Some((entry, size))
    }

    /// The first unsent line, which the spool has, is sent.
    fn pass_spooled(&mut self) {
        let Some(mut item) = self.pop(true) else { return };
        let seq = item.first_seq;
        if let Body::Spooled(lines) = &mut item.body
            && *lines > 1
        {
            *lines -= 1;
            item.first_seq += 1;
            self.push_front(true, item);
        }
        match self.sent.back_mut() {
            Some(Item { body: Body::Spooled(lines), .. }) => *lines += 1,
            _ => self.sent.push_back(Item { first_seq: seq, body: Body::Spooled(1) }),
        }
    }

    /// Lines from `first_seq` on are stored up to `seq`; what is beyond stays.
    pub(super) fn settle_spooled(&mut self, first_seq: u64, lines: u64, seq: u64, unsent: bool) {
        let covered = (seq - first_seq + 1).min(lines);
        self.lines -= covered;
        if covered < lines {
            self.push_front(unsent, Item { first_seq: first_seq + covered, body: Body::Spooled(lines - covered) });
        }
    }

    pub(super) fn release_spooled(&mut self, seq: u64) {
        let Some(spool) = &mut self.spool else { return };
        if !spool.ring.release(seq) && spool.ring.is_own() {
            self.lose_spooled();
        }
    }

    /// The server has the lines up to `seq - 1`: those wait for their ack as sent, the rest is still to be sent.
    pub(super) fn split_spooled(&mut self, item: &Item, seq: u64) {
        let (first_seq, lines) = (item.first_seq, item.lines());
        self.push_sent_back(Item { first_seq, body: Body::Spooled(seq - first_seq) });
        self.return_unsent(Item { first_seq: seq, body: Body::Spooled(first_seq + lines - seq) });
    }

    pub(super) fn refuse_spooled(&mut self, unsent: bool, place: usize, seq: u64) -> bool {
        let Some(entry) = self.spool.as_mut().and_then(|spool| spool.ring.read(seq)) else {
            self.lose_spooled();
            return true;
        };
        self.give_up_spooled(unsent, place, seq, run_of(&entry));
        true
    }

    /// The ring is full: its oldest line gives way.
    pub(super) fn drop_oldest_spooled(&mut self) -> bool {
        let Some(spool) = self.spool.as_mut().filter(|spool| !spool.ring.is_empty()) else { return false };
        let seq = spool.ring.head_seq();
        let Some(dropped) = spool.ring.drop_head() else {
            self.lose_spooled();
            return true;
        };
        let run = Run { lines: 1, bytes: dropped.bytes, announced: 0, time_unix_nano: dropped.time_unix_nano };
        // A run's record frees no line, nor does one that the server has refused; but there is more room now.
        if dropped.is_line
            && let Some((unsent, place)) = self.place_of_spooled(seq)
        {
            self.give_up_spooled(unsent, place, seq, run);
        }
        true
    }

    fn place_of_spooled(&mut self, seq: u64) -> Option<(bool, usize)> {
        for unsent in [false, true] {
            let deque = self.deque(unsent);
            let place = deque.partition_point(|item| item.last_seq() < seq);
            if let Some(Item { first_seq, body: Body::Spooled(_) }) = deque.get(place)
                && *first_seq <= seq
            {
                return Some((unsent, place));
            }
        }
        None
    }

    /// One line of the item at this place becomes a dropped run.
    fn give_up_spooled(&mut self, unsent: bool, place: usize, seq: u64, run: Run) {
        let deque = self.deque(unsent);
        let Some(item) = deque.remove(place) else { return };
        let (before, after) = (seq - item.first_seq, item.last_seq() - seq);
        if after > 0 {
            deque.insert(place, Item { first_seq: seq + 1, body: Body::Spooled(after) });
        }
        let neighbour = place.checked_sub(1).and_then(|place| deque.get_mut(place)).filter(|_| before == 0);
        if let Some(Item { body: Body::Run(last), .. }) = neighbour {
            *last = last.join(run);
        } else {
            deque.insert(place, Item { first_seq: seq, body: Body::Run(run) });
            if before > 0 {
                deque.insert(place, Item { first_seq: item.first_seq, body: Body::Spooled(before) });
            }
            self.bytes += ENTRY_OVERHEAD_BYTES;
            self.unsent_wire_bytes += if unsent { ENTRY_OVERHEAD_BYTES } else { 0 };
        }
        self.unsent_spooled -= u64::from(unsent);
        self.count_line_dropped(&run);
    }

    /// Lines are in memory because the disk is full, and memory is full too: the oldest of those give way.
    pub(super) fn drop_oldest_in_memory(&mut self) -> bool {
        for unsent in [true, false] {
            let is_line = |item: &Item| matches!(item.body, Body::Line(_));
            let deque = self.deque(unsent);
            let Some(place) = deque.iter().position(is_line) else { continue };
            let Some(item) = deque.remove(place) else { continue };
            let (cost, wire, first_seq) = (item.cost(), item.wire_bytes(), item.first_seq);
            let run = item.into_run();
            let neighbour = place.checked_sub(1).and_then(|place| deque.get_mut(place));
            let more = if let Some(Item { body: Body::Run(last), .. }) = neighbour {
                *last = last.join(run);
                0
            } else {
                deque.insert(place, Item { first_seq, body: Body::Run(run) });
                ENTRY_OVERHEAD_BYTES
            };
            self.bytes = self.bytes - cost + more;
            if unsent {
                self.unsent_wire_bytes = self.unsent_wire_bytes - wire + more;
            }
            self.count_line_dropped(&run);
            return true;
        }
        false
    }

    /// The ring cannot be read: what was in it is lost, and counted.
    fn lose_spooled(&mut self) {
        for unsent in [false, true] {
            let mut items = std::mem::take(self.deque(unsent));
            for item in &mut items {
                let Body::Spooled(lines) = item.body else { continue };
                let run = Item { first_seq: item.first_seq, body: Body::Spooled(lines) }.into_run();
                item.body = Body::Run(run);
                self.lines -= lines;
                self.count_dropped(&run);
                self.bytes += ENTRY_OVERHEAD_BYTES;
                self.unsent_wire_bytes += if unsent { ENTRY_OVERHEAD_BYTES } else { 0 };
            }
            *self.deque(unsent) = items;
        }
        self.unsent_spooled = 0;
        if let Some(spool) = &mut self.spool {
            spool.ring.give_up();
            spool.problem.get_or_insert_with(|| "it was damaged".to_owned());
        }
    }

    /// What is in memory because the disk was full will not be delivered: the file says so, and how the producer ended.
    pub(crate) fn spool_losses(&mut self, close: Option<&v1::Close>) {
        let Some(spool) = self.spool.as_mut().filter(|spool| spool.bypassed && spool.ring.is_own()) else { return };
        let seq = spool.ring.next_seq();
        let lines = self.next_seq.saturating_sub(seq);
        let in_memory = self.sent.iter().chain(&self.unsent).filter(|item| item.first_seq >= seq);
        let bytes = in_memory.map(Item::message_bytes).sum();
        let run = Run { lines, bytes, announced: 0, time_unix_nano: now_unix_nano() };
        let told = lines == 0 || spool.ring.append_last(Kind::Run, seq, lines, &run.to_wire());
        if let (true, Some(close)) = (told, close) {
            spool.ring.close(close);
        }
    }

    /// Lets go of the file, and deletes it if nothing in it is of use. How many lines stay in it.
    pub(crate) fn leave_spool(&mut self, end: LeftAs) -> Option<(u64, std::path::PathBuf)> {
        let mut spool = self.spool.take()?;
        let is_open = spool.ring.shut_open_lines();
        if end == LeftAs::Closed || end == LeftAs::Stored && !is_open {
            spool.ring.delete();
            return None;
        }
        let lines = self.sent.iter().chain(&self.unsent).map(Item::spooled).sum();
        Some((lines, spool.ring.path().to_owned()))
    }

    /// Nothing waits, not even the record of a loss.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.unsent.is_empty()
    }
}

fn run_of(entry: &v1::LogEntry) -> Run {
    Run { lines: 1, bytes: entry.message.len() as u64, announced: 0, time_unix_nano: entry.time_unix_nano }
}
