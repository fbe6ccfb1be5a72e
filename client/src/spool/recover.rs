//! What a dead producer's file still holds. Linear in the file's size, and nothing in a file can make it loop or panic.

use flowforge_proto::v1;
use prost::Message as _;

use super::format::{self, FormatError, Kind, Layout, MAX_SEQ, Meta, Outline, RECORD_HEADER, State};
use super::open;
use crate::entry::Entry;

/// Numbers in a row of one sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many lines, each a record.
    Lines(u64),
    /// Lines that were given up.
    Run { lines: u64, bytes: u64, time_unix_nano: i64 },
}

/// What was captured and cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// So many lines at the end; the log will say so.
    Lines(u64),
    /// Some at the end, perhaps; how many is not known either.
    Unknown,
}

/// What a scan finds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Scan {
    pub(crate) pieces: Vec<Piece>,
    /// Lines that had not ended, which come last.
    pub(crate) open: Vec<Entry>,
    /// Behind the last good record.
    pub(crate) tail: usize,
    pub(crate) wrapped: bool,
    /// Behind the last good record, too: lines that are lost have the numbers from here on.
    pub(crate) next_seq: u64,
    pub(crate) close: Option<v1::Close>,
    pub(crate) damage: Option<Damage>,
    /// Lines that can be sent.
    pub(crate) lines: u64,
    /// Their message bytes.
    pub(crate) bytes: u64,
    /// When the last of them was captured, or begun if it is open; 0: there is none.
    pub(crate) last_time: i64,
}

/// What is told once, how the file is divided, and how far it is stored.
pub(crate) fn read_head(file: &[u8]) -> Result<(Meta, Layout, State), FormatError> {
    let (meta, layout) = format::read_meta(file)?;
    let state = format::read_state(file, layout)?;
    Ok((meta, layout, state))
}

/// Reads records from the first to the first that is torn, corrupt, or not the next. `file` is the whole file.
pub(crate) fn scan(file: &[u8], layout: Layout, state: &State) -> Scan {
    let from = layout.ring_at.min(file.len());
    let ring = &file[from..file.len().min(from + state.capacity as usize)];
    let mut found = Scan { tail: state.head as usize, next_seq: state.head_seq, ..Scan::default() };
    let dropped = state.head_seq - 1 - state.acked;
    if dropped > 0 {
        let run = Piece::Run { lines: dropped, bytes: state.dropped_bytes, time_unix_nano: state.dropped_time };
        found.pieces.push(run);
    }
    while let Some(record) = next(ring, state, &found) {
        if !found.take(ring, record) {
            break;
        }
    }
    found.damage = damage(file, layout, &found);
    if let Some(Damage::Lines(lines)) = found.damage {
        found.pieces.push(Piece::Run { lines, bytes: 0, time_unix_nano: found.last_time });
    }
    found.take_open(file, layout);
    found
}

fn next(ring: &[u8], state: &State, found: &Scan) -> Option<Outline> {
    if found.close.is_some() {
        return None;
    }
    let whole = |at| format::outline(ring, at, found.next_seq).filter(|record| record.is_whole(ring));
    let straight = whole(found.tail).filter(|record| record.kind != Kind::Wrap);
    if found.wrapped {
        // What is behind the first record belongs to it again.
        return straight.filter(|record| record.end() <= state.head as usize);
    }
    let round = || whole(0).filter(|record| record.kind != Kind::Wrap && record.end() <= state.head as usize);
    straight.or_else(round)
}

impl Scan {
    /// Its Close says that the producer has ended its streams.
    fn take_open(&mut self, file: &[u8], layout: Layout) {
        if self.close.is_some() {
            return;
        }
        let lost = if let Some(Damage::Lines(lines)) = self.damage { lines } else { 0 };
        let next_seq = self.next_seq + lost;
        let (open, is_damaged) = open::read(file, layout, next_seq);
        if is_damaged {
            self.damage.get_or_insert(Damage::Unknown);
        }
        self.open = open;
        self.open.truncate(MAX_SEQ.saturating_sub(next_seq) as usize);
        self.lines += self.open.len() as u64;
        self.bytes += self.open.iter().map(|line| line.message.len() as u64).sum::<u64>();
        self.last_time = self.open.iter().map(|line| line.time_unix_nano).fold(self.last_time, i64::max);
    }

    fn take(&mut self, ring: &[u8], record: Outline) -> bool {
        let taken = match record.kind {
            Kind::Line => self.take_line(record.payload(ring)),
            Kind::Run => self.take_run(record.payload(ring)),
            Kind::Close => {
                self.close = v1::Close::decode(record.payload(ring)).ok();
                self.close.as_ref().is_some_and(|close| close.final_seq == self.next_seq - 1)
            }
            Kind::Wrap => false,
        };
        if !taken {
            self.close = None;
            return false;
        }
        self.wrapped |= record.at < self.tail;
        self.tail = record.end();
        true
    }

    fn take_line(&mut self, payload: &[u8]) -> bool {
        let Ok(entry) = v1::LogEntry::decode(payload) else { return false };
        if self.next_seq >= MAX_SEQ || entry.dropped.is_some() {
            return false;
        }
        match self.pieces.last_mut() {
            Some(Piece::Lines(lines)) => *lines += 1,
            _ => self.pieces.push(Piece::Lines(1)),
        }
        self.next_seq += 1;
        self.lines += 1;
        self.bytes += entry.message.len() as u64;
        self.last_time = entry.time_unix_nano;
        true
    }

    fn take_run(&mut self, payload: &[u8]) -> bool {
        let run = v1::LogEntry::decode(payload).ok().and_then(|entry| Some((entry.time_unix_nano, entry.dropped?)));
        let Some((time_unix_nano, run)) = run else { return false };
        if run.lines == 0 || run.lines > MAX_SEQ - self.next_seq {
            return false;
        }
        self.pieces.push(Piece::Run { lines: run.lines, bytes: run.bytes, time_unix_nano });
        self.next_seq += run.lines;
        true
    }
}

/// Compares what was read with what was captured.
fn damage(file: &[u8], layout: Layout, found: &Scan) -> Option<Damage> {
    let Some(next_seq) = format::read_next_seq(file) else {
        return (!may_be_whole(file, found)).then_some(Damage::Unknown);
    };
    let lost = next_seq.checked_sub(found.next_seq).filter(|lost| *lost > 0)?;
    // A record of one number is at least so long; more cannot have been in the ring.
    let most = layout.max_capacity / RECORD_HEADER;
    if lost > most as u64 || next_seq > MAX_SEQ { Some(Damage::Unknown) } else { Some(Damage::Lines(lost)) }
}

/// The process may have died between noting the number and noting it inverted: then one of the two is what was read.
fn may_be_whole(file: &[u8], found: &Scan) -> bool {
    format::next_seq_halves(file).is_some_and(|(plain, inverted)| {
        (plain == found.next_seq || inverted == found.next_seq) && plain.abs_diff(inverted) <= 1
    })
}
