//! What is behind the lock: the queue, what waits beside it, and the counters. No waiting and no I/O here.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use flowforge_proto::v1;

use crate::assemble::split_at;
use crate::config::{ClientConfig, Overflow};
use crate::entry::Entry;
use crate::queue::Queue;
use crate::queue::spooled::LeftAs;
use crate::shared::DEFAULT_MAX_LINE_BYTES;
use crate::spool::open::Seal;
use crate::stats::{CloseOutcome, Completeness, End, Stats};

/// Behind the lock.
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) frames: Vec<v1::Frame>,
    pub(crate) replies: VecDeque<v1::CommandResult>,
    /// The last message; nothing is captured after it.
    pub(crate) close: Option<v1::Close>,
    pub(crate) end: Option<End>,
    /// The sender sleeps until so many entries are unsent (or a batch's bytes are).
    pub(crate) wake_at: Option<usize>,
    /// When a writer first found the buffer full since the last progress.
    stalled_since: Option<Instant>,
    pub(crate) connected: bool,
    pub(crate) welcomes: u64,
    /// `limits.max_line_bytes`.
    max_line_bytes: usize,
    /// By how many numbers the lines became more when the first Welcome told of a smaller limit.
    renumbered: u64,
    pub(crate) sent: u64,
    pub(crate) queued_seq: u64,
    pub(crate) stored_seq: u64,
    pub(crate) viewer_url: Option<String>,
    /// What the server says of the Close.
    pub(crate) completeness: Option<Completeness>,
    pub(crate) last_error: Option<String>,
    /// Captured after the end: counted, not kept.
    late_lines: u64,
    late_bytes: u64,
    /// Lines held when the sender stopped.
    pub(crate) undelivered: u64,
    /// Lines left in the spool when the sender stopped, and where.
    pub(crate) spooled: Option<(u64, PathBuf)>,
    /// Why there is no spool, or a smaller one, where one was asked for.
    pub(crate) spool_problem: Option<String>,
}

/// What a writer has to do about a line that does not fit.
pub(crate) enum Full {
    Drop,
    Wait(Option<Instant>),
}

/// A place in the queue, see [`State::flush_target`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushTarget {
    seq: u64,
    before_welcome: bool,
}

impl State {
    pub(crate) fn new(queue: Queue) -> Self {
        Self {
            queue,
            frames: Vec::new(),
            replies: VecDeque::new(),
            close: None,
            end: None,
            wake_at: None,
            stalled_since: None,
            connected: false,
            welcomes: 0,
            max_line_bytes: DEFAULT_MAX_LINE_BYTES,
            renumbered: 0,
            sent: 0,
            queued_seq: 0,
            stored_seq: 0,
            viewer_url: None,
            completeness: None,
            last_error: None,
            late_lines: 0,
            late_bytes: 0,
            undelivered: 0,
            spooled: None,
            spool_problem: None,
        }
    }

    fn is_over(&self) -> bool {
        self.end.is_some() || self.close.is_some()
    }

    /// Whether the line can be dealt with at once: kept, or counted as lost because it can never be kept.
    pub(crate) fn fits(&mut self, entry: &Entry, config: &ClientConfig) -> bool {
        let cost = entry.cost_in_parts(self.max_line_bytes);
        self.is_over() || self.queue.fits(cost, config.max_buffer_bytes)
    }

    pub(crate) fn when_full(&mut self, config: &ClientConfig, give_up: Option<Instant>) -> Full {
        let now = Instant::now();
        let stalled_since = *self.stalled_since.get_or_insert(now);
        let until = match config.overflow {
            Overflow::DropOldest => return Full::Drop,
            Overflow::Wait => give_up,
            Overflow::WaitForProgress(patience) => {
                let patient = stalled_since + patience;
                Some(give_up.map_or(patient, |give_up| give_up.min(patient)))
            }
        };
        if until.is_some_and(|until| now >= until) { Full::Drop } else { Full::Wait(until) }
    }

    pub(crate) fn make_room(&mut self, entry: &Entry, config: &ClientConfig) {
        while !self.fits(entry, config) && self.queue.drop_oldest() {}
    }

    pub(crate) fn take_in(&mut self, entry: Entry, seal: Option<Seal<'_>>, config: &ClientConfig) {
        if self.is_over() {
            self.late_lines += 1;
            self.late_bytes += entry.message.len() as u64;
            return;
        }
        if let Some(seal) = seal {
            seal.put(self.queue.last_seq() + 1);
        }
        if entry.update_id != 0 {
            self.forget_frame(entry.update_id, entry.stream.wire());
        }
        if self.queue.is_too_large(entry.cost_in_parts(self.max_line_bytes), config.max_buffer_bytes) {
            self.queue.push_dropped(entry);
            return;
        }
        // Most lines: without the moves of a line in parts.
        if entry.message.len() <= self.max_line_bytes {
            self.queue.push(entry);
            return;
        }
        // In one go, so that no line of another thread comes between the parts.
        for part in entry.parts(self.max_line_bytes) {
            self.queue.push(part);
        }
    }

    pub(crate) fn forget_frame(&mut self, update_id: u64, stream: i32) {
        self.frames.retain(|frame| frame.update_id != update_id || frame.stream != stream);
    }

    /// What the server takes of a text that may be lost.
    pub(crate) fn cut(&self, mut text: bytes::Bytes) -> bytes::Bytes {
        if text.len() > self.max_line_bytes {
            text.truncate(split_at(&text, self.max_line_bytes));
        }
        text
    }

    /// The server has answered Hello. Returns whether it is the first time.
    pub(crate) fn connect(&mut self, welcome: &v1::Welcome, max_line_bytes: usize) -> bool {
        self.max_line_bytes = max_line_bytes;
        let is_first = self.welcomes == 0;
        if is_first {
            self.renumbered = self.queue.split_lines(max_line_bytes);
            if let Some(close) = &mut self.close {
                close.final_seq += self.renumbered;
            }
        }
        self.connected = true;
        self.welcomes += 1;
        if !welcome.viewer_url.is_empty() {
            self.viewer_url = Some(welcome.viewer_url.clone());
        }
        is_first
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.wake_at = None;
        self.frames.clear();
    }

    /// What a flush waits for: all that is captured now.
    pub(crate) fn flush_target(&self) -> FlushTarget {
        FlushTarget { seq: self.queue.last_seq(), before_welcome: self.welcomes == 0 }
    }

    /// Whether the target is stored; false once that cannot happen any more.
    pub(crate) fn reached(&self, target: FlushTarget) -> Option<bool> {
        let more = if target.before_welcome { self.renumbered } else { 0 };
        if self.stored_seq >= target.seq + more {
            return Some(true);
        }
        self.end.as_ref().map(|_| false)
    }

    /// Whether the server has answered; false once that cannot happen any more.
    pub(crate) fn welcomed(&self) -> Option<bool> {
        if self.welcomes > 0 {
            return Some(true);
        }
        self.end.as_ref().map(|_| false)
    }

    /// Returns whether more is stored than before.
    pub(crate) fn ack(&mut self, queued: u64, stored: u64) -> bool {
        self.queued_seq = queued.max(stored);
        self.queue.ack(stored);
        let news = stored > self.stored_seq;
        self.stored_seq = self.stored_seq.max(stored);
        if news {
            self.stalled_since = None;
        }
        news
    }

    /// Nothing is sent any more: the file of the spool goes, if there is nothing in it that anybody may want.
    pub(crate) fn leave(&mut self, end: End) {
        let nothing_left = self.queue.is_empty() && self.close.is_none();
        self.spool_problem = self.spool_problem().map(str::to_owned);
        let left_as = match end {
            End::Closed => LeftAs::Closed,
            _ if nothing_left => LeftAs::Stored,
            _ => LeftAs::Unfinished,
        };
        if left_as == LeftAs::Unfinished {
            self.queue.spool_losses(self.close.as_ref());
        }
        self.spooled = self.queue.leave_spool(left_as);
        self.connected = false;
        self.end = Some(end);
        self.undelivered = self.queue.lines();
        self.queue.abandon();
        self.frames = Vec::new();
    }

    /// Why there is no spool, or a smaller one, where one was asked for.
    pub(crate) fn spool_problem(&self) -> Option<&str> {
        self.spool_problem.as_deref().or(self.queue.spool_problem())
    }

    pub(crate) fn outcome(&self, end: End) -> CloseOutcome {
        let undelivered = self.undelivered + self.queue.lines();
        let (spooled, spool) = self.spooled.clone().unzip();
        let spooled = spooled.unwrap_or(0);
        // What was still held when the sender stopped counts as dropped since; it is told once, as undelivered.
        let told = self.undelivered - spooled;
        let dropped = (self.queue.dropped_lines() + self.late_lines).saturating_sub(told);
        let error = if end == End::Closed { None } else { self.last_error.clone() };
        let completeness = self.completeness.clone();
        CloseOutcome { end, undelivered, spooled, spool, dropped, error, completeness }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            captured: self.queue.last_seq() + self.late_lines,
            sent: self.sent,
            queued_seq: self.queued_seq,
            stored_seq: self.stored_seq,
            dropped_lines: self.queue.dropped_lines() + self.late_lines,
            dropped_bytes: self.queue.dropped_bytes() + self.late_bytes,
            buffered_lines: self.queue.lines(),
            buffered_bytes: self.queue.bytes() + self.queue.spool_bytes(),
            spooled_lines: self.spooled.as_ref().map_or(0, |(lines, _)| *lines),
            spool_problem: self.spool_problem().map(str::to_owned),
            connected: self.connected,
            welcomes: self.welcomes,
            reconnects: self.welcomes.saturating_sub(1),
            last_error: self.last_error.clone(),
            end: self.end.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Stream;

    #[test]
    fn what_the_server_has_and_has_not_stored_is_kept() {
        let mut state = State::new(Queue::default());
        for text in ["one", "two", "three"] {
            state.queue.push(Entry::new(Stream::Stdout, text));
        }
        assert!(state.ack(3, 1));
        assert_eq!((state.queue.lines(), state.queue.first_seq(), state.stored_seq), (2, 2, 1));
        assert!(!state.ack(3, 1), "nothing new is stored");
        assert!(state.ack(3, 3));
        assert_eq!(state.queue.lines(), 0);
    }
}
