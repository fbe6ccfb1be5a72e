//! Turns the bytes that a program writes into lines, progress bars and previews. A pure state machine: bytes and the time
//! in, [`Output`] out.
//!
//! **Invariants**
//! - Cutting the same bytes into other chunks gives the same lines.
//! - In [`Mode::Raw`] the lines, joined by their newlines, are the input byte for byte.
//! - No byte is looked at twice, however long a line grows: a part leaves as soon as it is full.
//! - At most one line's limit is held back, plus the character that straddles it.
//!
//! A progress bar is a line that the program overwrites with `\r`. Its states are shown as transient frames, at most
//! [`FRAME_INTERVAL`] apart; a line is kept of the last state, and of one every [`STATE_INTERVAL`] before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Frames of one row are at least this far apart: 4 a second.
pub const FRAME_INTERVAL: Duration = Duration::from_millis(250);
/// A progress bar leaves a line this often.
pub const STATE_INTERVAL: Duration = Duration::from_secs(10);
/// A line that is not finished after this is previewed.
pub const PREVIEW_AFTER: Duration = Duration::from_secs(1);

/// What a `\r` in the middle of a line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Nothing: every byte is kept.
    Raw,
    /// The line is overwritten: a progress bar.
    #[default]
    Collapse,
}

/// What came out of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To be kept.
    Line {
        /// Without the newline.
        message: Bytes,
        /// The line goes on in the next one.
        continued: bool,
        /// It was not terminated.
        no_newline: bool,
        /// The row it is a state of; 0 = none.
        update_id: u64,
    },
    /// To be shown for the moment.
    Frame {
        /// The row that it is a picture of.
        update_id: u64,
        /// What the row says now.
        message: Bytes,
    },
}

/// The text of a line that has not ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenText<'a> {
    pub(crate) text: &'a [u8],
    /// The same as before: it only grew.
    pub(crate) began: u64,
    /// The row it is a state of; 0 = none.
    pub(crate) update_id: u64,
}

/// A line that has an id, because it is overwritten or because it was previewed.
#[derive(Debug)]
struct Row {
    id: u64,
    is_bar: bool,
    last_frame: Option<Instant>,
    last_state: Instant,
}

/// Assembles one stream. See the module.
#[derive(Debug)]
pub struct Assembler {
    mode: Mode,
    strip_cr: bool,
    max_line_bytes: usize,
    ids: Arc<AtomicU64>,
    partial: Vec<u8>,
    /// `\r`s seen after `partial`, whose meaning the next byte decides; saturates at 2.
    carriage_returns: u8,
    /// Counts the texts that `partial` has begun with: while it stays, `partial` only grows.
    began: u64,
    /// Parts of this line are out already.
    split: bool,
    /// When the first byte of `partial` came.
    since: Option<Instant>,
    /// `partial` grew since the last frame.
    changed: bool,
    row: Option<Row>,
}

impl Assembler {
    /// `ids` gives row ids, the last one given: shared by the streams of one producer. `strip_cr`: the `\r` of a `\r\n` is
    /// a terminal's and not the program's.
    pub fn new(mode: Mode, strip_cr: bool, max_line_bytes: usize, ids: Arc<AtomicU64>) -> Self {
        Self {
            mode,
            strip_cr,
            max_line_bytes: max_line_bytes.max(MIN_LINE_BYTES),
            ids,
            partial: Vec::new(),
            carriage_returns: 0,
            began: 0,
            split: false,
            since: None,
            changed: false,
            row: None,
        }
    }

    /// Lines from now on are split at this.
    pub fn set_max_line_bytes(&mut self, max_line_bytes: usize) {
        self.max_line_bytes = max_line_bytes.max(MIN_LINE_BYTES);
    }

    /// Whether [`Assembler::tick`] has something to look at.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Whether a line has begun that has not ended: text, or a `\r` whose meaning is not decided yet.
    pub fn is_open(&self) -> bool {
        self.since.is_some()
    }

    /// What [`Assembler::finish`] would make a line of, if anything was written that it shows.
    pub(crate) fn open(&self) -> OpenText<'_> {
        OpenText { text: &self.partial, began: self.began, update_id: self.row_id() }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut input: &[u8], now: Instant, out: &mut Vec<Output>) {
        while let Some(&first) = input.first() {
            if self.carriage_returns > 0 && first != b'\r' && first != b'\n' {
                self.end_state(now, out);
            }
            let stop = self.find_stop(input).unwrap_or(input.len());
            self.append(&input[..stop], now, out);
            match input.get(stop) {
                Some(b'\n') => self.end_line(out),
                Some(_) => {
                    self.since.get_or_insert(now);
                    self.carriage_returns = (self.carriage_returns + 1).min(2);
                }
                None => break,
            }
            input = &input[stop + 1..];
        }
        if self.row.as_ref().is_some_and(|row| row.is_bar) {
            self.show(now, out);
        }
    }

    /// Looks at the clock: previews a line that has been waiting, shows a bar that has moved. To be called every
    /// [`FRAME_INTERVAL`] while [`Assembler::is_partial`].
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        let waiting = self.since.is_some_and(|since| now.saturating_duration_since(since) >= PREVIEW_AFTER);
        if self.row.is_none() && waiting && !self.split {
            self.row = Some(self.new_row(false, now));
        }
        self.show(now, out);
    }

    /// The stream has ended: what is not terminated becomes the last line.
    pub fn finish(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.carriage_returns > 0 {
            self.make_bar(now);
        }
        if !self.partial.is_empty() || self.carriage_returns > 0 {
            self.emit_line(true, out);
        }
        self.reset();
    }

    /// Where the plain text ends: at a newline, or at a `\r` that means something.
    fn find_stop(&self, input: &[u8]) -> Option<usize> {
        match self.mode {
            Mode::Raw => memchr::memchr(b'\n', input),
            Mode::Collapse => memchr::memchr2(b'\n', b'\r', input),
        }
    }

    fn append(&mut self, mut text: &[u8], now: Instant, out: &mut Vec<Output>) {
        if text.is_empty() {
            return;
        }
        self.since.get_or_insert(now);
        self.changed = true;
        loop {
            // One byte more than fits is needed to know where the next character begins.
            let room = (self.max_line_bytes + 1).saturating_sub(self.partial.len());
            let (fits, rest) = text.split_at(room.min(text.len()));
            self.partial.extend_from_slice(fits);
            text = rest;
            while self.partial.len() > self.max_line_bytes {
                self.emit_part(out);
            }
            if text.is_empty() {
                return;
            }
        }
    }

    /// The line is full: a part of it leaves.
    fn emit_part(&mut self, out: &mut Vec<Output>) {
        let at = split_at(&self.partial, self.max_line_bytes);
        let message = Bytes::copy_from_slice(&self.partial[..at]);
        self.partial.drain(..at);
        self.began += 1;
        self.split = true;
        out.push(Output::Line { message, continued: true, no_newline: false, update_id: self.row_id() });
    }

    fn end_line(&mut self, out: &mut Vec<Output>) {
        if self.strip_cr && self.mode == Mode::Raw {
            let kept = self.partial.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
            self.partial.truncate(kept);
        } else if !self.strip_cr {
            for _ in 0..self.carriage_returns {
                self.partial.push(b'\r');
            }
            // The `\r`s were not counted when they came; the line may be over its limit by them.
            if self.partial.len() > self.max_line_bytes {
                self.emit_part(out);
            }
        }
        self.emit_line(false, out);
        self.reset();
    }

    /// A `\r` was not followed by a newline: what stands there is one state of a bar.
    fn end_state(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.carriage_returns = 0;
        self.make_bar(now);
        if self.partial.is_empty() {
            return;
        }
        self.show(now, out);
        let due = self.row.as_ref().is_some_and(|row| now.saturating_duration_since(row.last_state) >= STATE_INTERVAL);
        // Parts that are out say that the line goes on, so its end must be a line too.
        if due || self.split {
            self.emit_line(false, out);
            self.split = false;
            if let Some(row) = &mut self.row {
                row.last_state = now;
            }
        }
        self.partial.clear();
        self.began += 1;
        self.since = Some(now);
    }

    fn emit_line(&mut self, no_newline: bool, out: &mut Vec<Output>) {
        let message = Bytes::copy_from_slice(&self.partial);
        out.push(Output::Line { message, continued: false, no_newline, update_id: self.row_id() });
    }

    /// A frame of the row, if it has moved and is not too early.
    fn show(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(row) = &mut self.row else { return };
        let early = row.last_frame.is_some_and(|last| now.saturating_duration_since(last) < FRAME_INTERVAL);
        if early || !self.changed || self.partial.is_empty() {
            return;
        }
        row.last_frame = Some(now);
        self.changed = false;
        out.push(Output::Frame { update_id: row.id, message: Bytes::copy_from_slice(&self.partial) });
    }

    fn make_bar(&mut self, now: Instant) {
        match &mut self.row {
            Some(row) => row.is_bar = true,
            None => self.row = Some(self.new_row(true, now)),
        }
    }

    fn new_row(&self, is_bar: bool, now: Instant) -> Row {
        let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        Row { id, is_bar, last_frame: None, last_state: now }
    }

    fn row_id(&self) -> u64 {
        self.row.as_ref().map_or(0, |row| row.id)
    }

    fn reset(&mut self) {
        self.partial.clear();
        self.began += 1;
        self.carriage_returns = 0;
        self.split = false;
        self.since = None;
        self.changed = false;
        self.row = None;
    }
}

/// A limit below this is taken as this: the longest UTF-8 character, so that every part moves on.
const MIN_LINE_BYTES: usize = 4;

/// Where to cut `bytes`, longer than `most`: at the last character boundary at or before `most`; at `most` where there is
/// none near, because it is not UTF-8.
pub(crate) fn split_at(bytes: &[u8], most: usize) -> usize {
    let is_boundary = |at: usize| bytes[at] & 0xC0 != 0x80;
    (most.saturating_sub(3).max(1)..=most).rev().find(|at| is_boundary(*at)).unwrap_or(most)
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
