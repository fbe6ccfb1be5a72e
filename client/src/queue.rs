//! What the producer has captured and the server has not stored yet.
//!
//! **Invariants**
//! - The items cover consecutive sequence numbers without a hole: first those already sent, then those not yet sent. A
//!   line takes one number, a dropped run takes as many as it stands for.
//! - `bytes` is the sum of all items' costs. Nothing here is searched or summed per entry: capture, send, ack and drop
//!   cost O(1) amortised. That is why there are two deques: the oldest *unsent* entry, which overflow drops first, is
//!   at a front and not in a middle.
//! - What is dropped leaves a run behind, which becomes a line of the log: a loss is always visible.
//! - With a spool (`spooled`), lines are there and not here: an item stands for any number of them.

use std::collections::VecDeque;
use std::mem;

use flowforge_proto::v1;

use crate::entry::{ENTRY_OVERHEAD_BYTES, Entry};
use crate::item::{Body, Item, Run};
use spooled::Spool;

#[path = "spooled.rs"]
pub(crate) mod spooled;

/// How much of the queue one batch may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub(crate) lines: usize,
    /// A batch stops before the entry that would exceed this; one entry always goes.
    pub(crate) bytes: usize,
    /// An entry larger than this can never be sent: it is dropped.
    pub(crate) entry_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    sent: VecDeque<Item>,
    unsent: VecDeque<Item>,
    next_seq: u64,
    bytes: usize,
    /// Wire bytes of `unsent`: is a batch full?
    unsent_wire_bytes: usize,
    /// Entries that are lines, not runs.
    lines: u64,
    dropped: Run,
    spool: Option<Spool>,
    /// Lines in `unsent` that the spool has.
    unsent_spooled: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            sent: VecDeque::new(),
            unsent: VecDeque::new(),
            next_seq: 1,
            bytes: 0,
            unsent_wire_bytes: 0,
            lines: 0,
            dropped: Run::default(),
            spool: None,
            unsent_spooled: 0,
        }
    }
}

impl Queue {
    /// The last sequence number given.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// The lowest sequence number still held; the next one to be given if nothing is held.
    pub(crate) fn first_seq(&self) -> u64 {
        self.sent.front().or(self.unsent.front()).map_or(self.next_seq, |item| item.first_seq)
    }

    /// The sequence number that the next batch begins with.
    #[cfg(test)]
    pub(crate) fn next_unsent_seq(&self) -> u64 {
        self.unsent.front().map_or(self.next_seq, |item| item.first_seq)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lines held, sent or not, without dropped ones.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn unsent_len(&self) -> usize {
        self.unsent.len().saturating_add(self.unsent_spooled as usize)
    }

    pub(crate) fn unsent_wire_bytes(&self) -> usize {
        self.unsent_wire_bytes
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        self.dropped.lines
    }

    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.dropped.bytes
    }

    /// Takes a line in; its sequence number.
    pub(crate) fn push(&mut self, entry: Entry) -> u64 {
        self.lines += 1;
        if self.spool_line(&entry) {
            return self.append_spooled();
        }
        self.append(Body::Line(entry))
    }

    /// Counts a line that could not be kept at all; its sequence number.
    pub(crate) fn push_dropped(&mut self, entry: Entry) -> u64 {
        let run = Item { first_seq: 0, body: Body::Line(entry) }.into_run();
        self.count_dropped(&run);
        self.spool_run(run);
        if let Some(Item { body: Body::Run(last), .. }) = self.unsent.back_mut() {
            *last = last.join(run);
            self.next_seq += 1;
            return self.next_seq - 1;
        }
        self.append(Body::Run(run))
    }

    fn append(&mut self, body: Body) -> u64 {
        let item = Item { first_seq: self.next_seq, body };
        self.next_seq += item.lines();
        self.bytes += item.cost();
        self.unsent_wire_bytes += item.wire_bytes();
        let seq = item.first_seq;
        self.unsent.push_back(item);
        seq
    }

    /// Gives up the oldest line that was not sent yet, or the oldest of all. False: there is no line to give up.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        if self.lines == 0 {
            return false;
        }
        if self.is_spooling() {
            return self.drop_oldest_spooled();
        }
        if self.spool.is_some() {
            return self.drop_oldest_in_memory();
        }
        self.drop_front(true) || self.drop_front(false)
    }

    fn drop_front(&mut self, unsent: bool) -> bool {
        let Some((first_seq, run)) = self.take_front_run(unsent) else { return false };
        let next = self.pop(unsent);
        let found = next.is_some();
        let run = match (run, next.map(Item::into_run)) {
            (Some(run), Some(next)) => {
                self.count_line_dropped(&next);
                run.join(next)
            }
            (None, Some(next)) => {
                self.count_line_dropped(&next);
                next
            }
            (Some(run), None) => run,
            (None, None) => return false,
        };
        self.push_front(unsent, Item { first_seq, body: Body::Run(run) });
        found
    }

    /// Joins and takes off the runs at the front of a deque, so that a line is at its front.
    fn take_front_run(&mut self, unsent: bool) -> Option<(u64, Option<Run>)> {
        let first_seq = self.deque(unsent).front()?.first_seq;
        let mut joined: Option<Run> = None;
        while let Some(Item { body: Body::Run(_), .. }) = self.deque(unsent).front() {
            let Some(item) = self.pop(unsent) else { break };
            let run = item.into_run();
            joined = Some(joined.map_or(run, |before| before.join(run)));
        }
        Some((first_seq, joined))
    }

    fn count_line_dropped(&mut self, run: &Run) {
        self.lines -= 1;
        self.count_dropped(run);
    }

    fn count_dropped(&mut self, run: &Run) {
        self.dropped.lines += run.lines;
        // Some may be numbers out of a file.
        self.dropped.bytes = self.dropped.bytes.saturating_add(run.bytes);
    }

    /// Cuts lines that are longer than `max_line_bytes` and numbers everything anew; by how many numbers there are more.
    /// Only as long as nothing was sent.
    pub(crate) fn split_lines(&mut self, max_line_bytes: usize) -> u64 {
        let is_long = |item: &Item| matches!(&item.body, Body::Line(entry) if entry.message.len() > max_line_bytes);
        // Numbers in a file stay what they are. A line that is too long is refused then, and counted.
        if self.spool.is_some() || !self.sent.is_empty() || !self.unsent.iter().any(is_long) {
            return 0;
        }
        let before = self.next_seq;
        self.next_seq = self.first_seq();
        (self.bytes, self.unsent_wire_bytes, self.lines) = (0, 0, 0);
        for item in mem::take(&mut self.unsent) {
            match item.body {
                Body::Line(entry) => {
                    for part in entry.parts(max_line_bytes) {
                        self.push(part);
                    }
                }
                other => {
                    self.append(other);
                }
            }
        }
        self.next_seq - before
    }

    /// Takes a batch off the unsent entries. They stay in memory, as sent ones. `None`: there is nothing to send.
    pub(crate) fn take_batch(&mut self, limits: BatchLimits) -> Option<v1::LogBatch> {
        let first_seq = self.unsent.front()?.first_seq;
        let mut entries = Vec::with_capacity(limits.lines.min(self.unsent.len()));
        let mut bytes = 0;
        while entries.len() < limits.lines {
            if self.is_next_spooled() {
                match self.take_spooled(limits, bytes) {
                    Some((entry, size)) => {
                        entries.push(entry);
                        bytes += size;
                        continue;
                    }
                    // It could not be read and is a run now; or the batch is full.
                    None if !self.is_next_spooled() => continue,
                    None => break,
                }
            }
            let Some(mut item) = self.unsent.pop_front() else { break };
            let size = item.wire_bytes();
            if !entries.is_empty() && bytes + size > limits.bytes {
                self.unsent.push_front(item);
                break;
            }
            self.unsent_wire_bytes -= size;
            if size > limits.entry_bytes {
                item = self.give_up(item);
            }
            bytes += item.wire_bytes();
            match &mut item.body {
                Body::Line(entry) => entries.push(entry.to_wire()),
                Body::Run(run) => {
                    run.announced = run.lines;
                    entries.push(run.to_wire());
                }
                Body::Spooled(_) => {} // Taken above.
            }
            self.sent.push_back(item);
        }
        release(&mut self.unsent);
        Some(v1::LogBatch { first_seq, entries })
    }

    /// The server has stored everything up to `seq`: memory for it is freed. Returns whether that was news.
    pub(crate) fn ack(&mut self, seq: u64) -> bool {
        let seq = seq.min(self.last_seq());
        let before = self.first_seq();
        for unsent in [false, true] {
            while self.deque(unsent).front().is_some_and(|item| item.first_seq <= seq) {
                let Some(item) = self.pop(unsent) else { break };
                match item.body {
                    Body::Line(_) => self.lines -= 1,
                    Body::Spooled(lines) => self.settle_spooled(item.first_seq, lines, seq, unsent),
                    Body::Run(run) => self.settle_run(item.first_seq, run, seq, unsent),
                }
            }
        }
        release(&mut self.sent);
        self.release_spooled(seq);
        self.first_seq() != before
    }

    /// Frees a run that is stored up to `seq`; what is beyond stays.
    fn settle_run(&mut self, first_seq: u64, mut run: Run, seq: u64, unsent: bool) {
        let covered = (seq - first_seq + 1).min(run.lines);
        let (lines, bytes) = run.trim(covered);
        self.dropped.lines = self.dropped.lines.saturating_sub(lines);
        self.dropped.bytes = self.dropped.bytes.saturating_sub(bytes);
        if run.lines > 0 {
            self.push_front(unsent, Item { first_seq: first_seq + covered, body: Body::Run(run) });
        }
    }

    /// Sends from `seq` on: back to what was sent before, or ahead of what the server already has. Clamped to what is
    /// held.
    pub(crate) fn send_from(&mut self, seq: u64) {
        while self.sent.back().is_some_and(|item| item.last_seq() >= seq) {
            let Some(mut item) = self.pop_sent_back() else { break };
            if let Body::Run(run) = &mut item.body {
                if item.first_seq < seq {
                    self.split_run(item, seq);
                    continue;
                }
                // The server says that it does not have the record of this loss; it will be told again.
                run.announced = 0;
            }
            if let (Body::Spooled(_), true) = (&item.body, item.first_seq < seq) {
                self.split_spooled(&item, seq);
                continue;
            }
            self.return_unsent(item);
        }
        while self.unsent.front().is_some_and(|item| item.last_seq() < seq) {
            let Some(item) = self.pop(true) else { break };
            self.push_sent_back(item);
        }
        if self.unsent.front().is_some_and(|item| item.first_seq < seq)
            && let Some(item) = self.pop(true)
        {
            match item.body {
                Body::Spooled(_) => self.split_spooled(&item, seq),
                _ => self.split_run(item, seq),
            }
        }
    }

    /// The server has a run's lines up to `seq - 1`: those wait for their ack as sent, the rest is still to be sent.
    fn split_run(&mut self, item: Item, seq: u64) {
        let first_seq = item.first_seq;
        let mut rest = item.into_run();
        let whole = rest;
        let count = seq - first_seq;
        rest.trim(count);
        rest.announced = 0;
        let announced = whole.announced.min(count);
        let head = Run { lines: count, bytes: whole.bytes - rest.bytes, announced, ..whole };
        self.push_sent_back(Item { first_seq, body: Body::Run(head) });
        self.return_unsent(Item { first_seq: seq, body: Body::Run(rest) });
    }

    /// Puts an item before the unsent ones, joined with a run that is already there.
    fn return_unsent(&mut self, mut item: Item) {
        if let (Body::Run(run), Some(Item { body: Body::Run(_), .. })) = (&mut item.body, self.unsent.front())
            && let Some(next) = self.pop(true)
        {
            *run = run.join(next.into_run());
        }
        if let (Body::Spooled(lines), Some(Item { body: Body::Spooled(more), .. })) =
            (&mut item.body, self.unsent.front())
        {
            *lines += more;
            drop(self.pop(true));
        }
        self.push_front(true, item);
    }

    /// Gives up the one line that the server refuses. False: it is not here, or was given up before.
    pub(crate) fn refuse(&mut self, seq: u64) -> bool {
        for unsent in [false, true] {
            let deque = self.deque(unsent);
            let place = deque.partition_point(|item| item.last_seq() < seq);
            let Some(slot) = deque.get_mut(place).filter(|item| item.first_seq <= seq) else { continue };
            if matches!(slot.body, Body::Run(_)) {
                return false;
            }
            if matches!(slot.body, Body::Spooled(_)) {
                return self.refuse_spooled(unsent, place, seq);
            }
            let hollow = Item { first_seq: slot.first_seq, body: Body::Run(Run::default()) };
            let item = mem::replace(slot, hollow);
            let (cost, wire) = (item.cost(), item.wire_bytes());
            let (first_seq, run) = (item.first_seq, item.into_run());
            let item = Item { first_seq, body: Body::Run(run) };
            self.bytes = self.bytes - cost + item.cost();
            if unsent {
                self.unsent_wire_bytes = self.unsent_wire_bytes - wire + item.wire_bytes();
            }
            self.count_line_dropped(&run);
            if let Some(slot) = self.deque(unsent).get_mut(place) {
                *slot = item;
            }
            return true;
        }
        false
    }

    /// Forgets everything: nothing can be delivered any more. The lines count as dropped, but those in the spool.
    pub(crate) fn abandon(&mut self) {
        self.unsent_spooled = 0;
        for item in mem::take(&mut self.sent).into_iter().chain(mem::take(&mut self.unsent)) {
            if let Body::Line(_) = item.body {
                let run = item.into_run();
                self.count_dropped(&run);
            }
        }
        (self.bytes, self.unsent_wire_bytes, self.lines) = (0, 0, 0);
    }

    fn give_up(&mut self, item: Item) -> Item {
        let Body::Line(_) = item.body else { return item };
        self.bytes = self.bytes - item.cost() + ENTRY_OVERHEAD_BYTES;
        let first_seq = item.first_seq;
        let run = item.into_run();
        self.count_line_dropped(&run);
        Item { first_seq, body: Body::Run(run) }
    }

    fn deque(&mut self, unsent: bool) -> &mut VecDeque<Item> {
        if unsent { &mut self.unsent } else { &mut self.sent }
    }

    // All accounting of bytes is in these four, and in the places that turn a line into a run.

    fn pop(&mut self, unsent: bool) -> Option<Item> {
        let item = self.deque(unsent).pop_front()?;
        self.bytes -= item.cost();
        if unsent {
            self.unsent_wire_bytes -= item.wire_bytes();
            self.unsent_spooled -= item.spooled();
        }
        Some(item)
    }

    fn push_front(&mut self, unsent: bool, item: Item) {
        self.bytes += item.cost();
        if unsent {
            self.unsent_wire_bytes += item.wire_bytes();
            self.unsent_spooled += item.spooled();
        }
        self.deque(unsent).push_front(item);
    }

    fn pop_sent_back(&mut self) -> Option<Item> {
        let item = self.sent.pop_back()?;
        self.bytes -= item.cost();
        Some(item)
    }

    fn push_sent_back(&mut self, item: Item) {
        self.bytes += item.cost();
        self.sent.push_back(item);
    }
}

/// Gives the memory of a backlog back once it is gone.
fn release(deque: &mut VecDeque<Item>) {
    const KEPT_ITEMS: usize = 4096;
    if deque.is_empty() && deque.capacity() > KEPT_ITEMS {
        deque.shrink_to(KEPT_ITEMS);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
