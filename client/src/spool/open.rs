//! Lines that have not ended, beside the ring: what a program has printed without a newline is in the file, too.
//!
//! ```text
//! stream   three, in the order of their numbers: a large place for one open line, small ones for those of other threads
//! place    64 bytes, of which the first 8 say what counts; then two versions of the line
//! version  sealed 8, time 8, update id 8, level 8, text
//! ```
//!
//! What counts: the checksum of a version (from its time to its text's end) 32 bits, which of the two 1, its text's length 31;
//! 0: nothing. One store of these eight bytes makes a change count as a whole.
//!
//! **Invariants**
//! - Once a write has returned, the text of an open line is in its place, up to the place's size. Until new text counts, the
//!   old text is as it was: a longer one is written behind it, another one to the other version.
//! - An open line and the line made of it never both count, and one of them always does: before the record of the line (or
//!   of its first part) is written, the version is sealed with the number that the record gets. What is sealed counts only
//!   while that number is still the next one.
//! - Whoever recovers open lines changes nothing here: they get the next numbers, in the order of their places, so that a
//!   second uploader gives them the same numbers, and the server leaves out what it has.
//! - Nothing is written once the producer has let go of the file, nor by its children.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::death;
use super::format::{Layout, u64_at};
use super::map::{Map, Owner};
use crate::assemble::OpenText;
use crate::entry::{Entry, Stream, now_unix_nano};

const STREAMS: usize = Stream::ALL.len();
/// Open lines that are kept of one stream, each of another thread.
pub(crate) const LANES: usize = 8;
/// Text that is kept of a stream's first open line: as much as the server takes by default.
const FIRST_TEXT_BYTES: usize = 64 << 10;
/// Text that is kept of the others.
const OTHER_TEXT_BYTES: usize = 4 << 10;
const PLACE_HEADER: usize = 64;
pub(super) const VERSION_HEADER: usize = 32;
/// Of a version's header, what never changes.
pub(super) const FIXED: std::ops::Range<usize> = 8..VERSION_HEADER;

const fn place_bytes(text_bytes: usize) -> usize {
    PLACE_HEADER + 2 * (VERSION_HEADER + text_bytes)
}

pub(super) const STREAM_BYTES: usize = place_bytes(FIRST_TEXT_BYTES) + (LANES - 1) * place_bytes(OTHER_TEXT_BYTES);
/// Of all places.
pub(crate) const BYTES: usize = (STREAMS * STREAM_BYTES).next_multiple_of(4096);

fn text_bytes(place: usize) -> usize {
    if place == 0 { FIRST_TEXT_BYTES } else { OTHER_TEXT_BYTES }
}

/// Where a place is, within its stream's.
pub(super) fn place_at(place: usize) -> usize {
    place.checked_sub(1).map_or(0, |other| place_bytes(FIRST_TEXT_BYTES) + other * place_bytes(OTHER_TEXT_BYTES))
}

pub(super) fn version_at(place: usize, version: usize) -> usize {
    place_at(place) + PLACE_HEADER + version * (VERSION_HEADER + text_bytes(place))
}

pub(super) fn counting(sum: u32, version: usize, bytes: usize) -> u64 {
    u64::from(sum) << 32 | (version as u64) << 31 | bytes as u64
}

/// Whether the producer has let go of the file. Held while something is written.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<Mutex<bool>>);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open lines of a file, for who has the file: when it goes, nobody writes there any more.
#[derive(Debug, Default)]
pub(crate) struct Area {
    /// `None`: whoever goes on for a dead producer has its open lines as lines.
    owner: Option<Arc<Owner>>,
    gates: Vec<Gate>,
    writers: Option<[OpenLines; STREAMS]>,
}

impl Area {
    /// Of a new file, which is mapped.
    pub(crate) fn new(map: &Map, file: &File, layout: Layout) -> io::Result<Self> {
        let open_at = layout.open_at().ok_or_else(|| io::Error::other("no place for open lines"))?;
        let writer = |stream: Stream| {
            let map = map.part(file, open_at + stream.index() * STREAM_BYTES, STREAM_BYTES)?;
            Ok::<_, io::Error>(OpenLines::new(map))
        };
        let [out, err, log] = Stream::ALL;
        let writers = [writer(out)?, writer(err)?, writer(log)?];
        let gates = writers.iter().map(|writer| writer.gate.clone()).collect();
        Ok(Self { owner: Some(map.owner()), gates, writers: Some(writers) })
    }

    /// The writing ends, by stream; once.
    pub(crate) fn take_writers(&mut self) -> Option<[OpenLines; STREAMS]> {
        self.writers.take()
    }

    /// From now on nobody writes. Returns whether a line is open that its producer will never end. `file`: the whole file.
    pub(crate) fn shut(&mut self, file: &[u8], layout: Layout, next_seq: u64) -> bool {
        self.shut_gates() && !read(file, layout, next_seq).0.is_empty()
    }

    /// False: there are none, or this is a child, which may have been made while one was held, and does not write anyway.
    fn shut_gates(&self) -> bool {
        let is_own = self.owner.as_ref().is_some_and(|owner| owner.is_this_process());
        for gate in self.gates.iter().filter(|_| is_own) {
            *gate.lock() = true;
        }
        is_own
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.shut_gates();
    }
}

/// What is in a place, so that nothing is read back.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    is_taken: bool,
    version: usize,
    sum: u32,
    /// Text that counts; 0 also once it is sealed.
    kept: usize,
    /// How long the line was.
    seen: usize,
    began: u64,
    update_id: u64,
}

/// The writing end of one stream's places.
#[derive(Debug)]
pub(crate) struct OpenLines {
    map: Map,
    gate: Gate,
    places: [Place; LANES],
    /// Which place the outputs of the write under way are from, up to which one.
    from: Vec<(usize, Option<usize>)>,
}

impl OpenLines {
    fn new(map: Map) -> Self {
        let mut places = [Place::default(); LANES];
        places[0].is_taken = true;
        Self { map, gate: Gate::default(), places, from: Vec::new() }
    }

    /// A free place, for another thread's line.
    pub(crate) fn take_place(&mut self) -> Option<usize> {
        let free = self.places.iter().position(|place| !place.is_taken)?;
        self.places[free].is_taken = true;
        Some(free)
    }

    /// Outputs up to `until` that are of nobody else yet are of the line in this place.
    pub(crate) fn came_out(&mut self, place: Option<usize>, until: usize) {
        if self.from.last().map_or(0, |(last, _)| *last) < until {
            self.from.push((until, place));
        }
    }

    /// The line has ended, and its place is free.
    pub(crate) fn ended(&mut self, place: Option<usize>, until: usize) {
        self.came_out(place, until);
        if let Some(place) = place {
            self.places[place].is_taken = false;
        }
    }

    /// What the capture of this output puts an end to.
    pub(crate) fn seal(&mut self, output: usize) -> Option<Seal<'_>> {
        let place = self.from.iter().find(|(until, _)| output < *until)?.1?;
        (self.places[place].kept > 0).then_some(Seal { lines: self, place })
    }

    /// All outputs are captured.
    pub(crate) fn forget_outputs(&mut self) {
        self.from.clear();
    }

    /// What this place holds is this text, as it is now.
    pub(crate) fn keep(&mut self, place: usize, level: u8, line: OpenText<'_>) {
        let Place { kept, seen, began, update_id, .. } = self.places[place];
        let OpenText { text, .. } = line;
        let has_grown = kept > 0 && began == line.began && update_id == line.update_id && seen <= text.len();
        if has_grown && seen == text.len() || kept == 0 && text.is_empty() {
            return;
        }
        let is_kept = if has_grown { self.append(place, text) } else { self.begin(place, level, line) };
        if is_kept {
            let place = &mut self.places[place];
            (place.seen, place.began, place.update_id) = (text.len(), line.began, line.update_id);
        }
    }

    fn append(&mut self, place: usize, text: &[u8]) -> bool {
        let Place { kept, sum, version, .. } = self.places[place];
        let more = &text[kept..text.len().min(text_bytes(place))];
        let sum = crc32c::crc32c_append(sum, more);
        more.is_empty() || self.write(place, version, VERSION_HEADER + kept, [&[], more], (sum, kept + more.len()))
    }

    /// The other version, so that until it counts this one does.
    fn begin(&mut self, place: usize, level: u8, line: OpenText<'_>) -> bool {
        let version = 1 - self.places[place].version;
        let numbers = [0, now_unix_nano().cast_unsigned(), line.update_id, u64::from(level)];
        let mut header = [0; VERSION_HEADER];
        for (at, number) in header.chunks_exact_mut(8).zip(numbers) {
            at.copy_from_slice(&number.to_le_bytes());
        }
        let text = &line.text[..line.text.len().min(text_bytes(place))];
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header[FIXED]), text);
        self.write(place, version, 0, [&header, text], (sum, text.len()))
    }

    fn write(&mut self, place: usize, version: usize, from: usize, new: [&[u8]; 2], (sum, kept): (u32, usize)) -> bool {
        // First, because a child may have been made while the gate was held.
        if !self.map.is_own() {
            return false;
        }
        let has_left = self.gate.lock();
        if *has_left {
            return false;
        }
        let Some(bytes) = self.map.bytes_mut() else { return false };
        let mut at = version_at(place, version) + from;
        for piece in new {
            bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
            death::may_come();
        }
        // A checksum of no text would look like harm.
        let counts = if kept == 0 { 0 } else { counting(sum, version, kept) };
        let is_kept = self.map.store(place_at(place), counts);
        death::may_come();
        let place = &mut self.places[place];
        (place.version, place.sum, place.kept) = (version, sum, kept);
        is_kept
    }
}

/// An open line of which a line is about to be captured.
#[derive(Debug)]
pub(crate) struct Seal<'a> {
    lines: &'a mut OpenLines,
    place: usize,
}

impl Seal<'_> {
    /// The line gets this number. While the producer has the file, and before the line is in it.
    pub(crate) fn put(self, seq: u64) {
        let place = &mut self.lines.places[self.place];
        self.lines.map.store(version_at(self.place, place.version), seq);
        place.kept = 0;
        death::may_come();
    }
}

/// The open lines of a dead producer's file, whose next number is this; and whether something there is not as it was
/// written.
pub(crate) fn read(file: &[u8], layout: Layout, next_seq: u64) -> (Vec<Entry>, bool) {
    let (mut found, mut is_damaged) = (Vec::new(), false);
    let Some(area) = layout.open_at().and_then(|at| file.get(at..at + BYTES)) else { return (found, false) };
    for (stream, places) in Stream::ALL.into_iter().zip(area.chunks_exact(STREAM_BYTES)) {
        for place in 0..LANES {
            match read_place(stream, places, place, next_seq) {
                Ok(line) => found.extend(line),
                Err(Damaged) => is_damaged = true,
            }
        }
    }
    (found, is_damaged)
}

struct Damaged;

fn read_place(stream: Stream, places: &[u8], place: usize, next_seq: u64) -> Result<Option<Entry>, Damaged> {
    let counts = u64_at(places, place_at(place)).ok_or(Damaged)?;
    let (sum, version, kept) = ((counts >> 32) as u32, (counts >> 31 & 1) as usize, (counts & 0x7FFF_FFFF) as usize);
    if counts == 0 {
        return Ok(None);
    }
    if kept == 0 || kept > text_bytes(place) {
        return Err(Damaged);
    }
    let version = &places[version_at(place, version)..];
    let number = |at| u64_at(version, at).ok_or(Damaged);
    let sealed = number(0)?;
    if sealed != 0 && sealed < next_seq {
        return Ok(None);
    }
    // One beyond the next number was for a line that went to memory, when the disk was full: it is lost, as that is.
    if sealed > next_seq {
        return Err(Damaged);
    }
    let text = &version[VERSION_HEADER..VERSION_HEADER + kept];
    if sum != crc32c::crc32c_append(crc32c::crc32c(&version[FIXED]), text) {
        return Err(Damaged);
    }
    Ok(Some(Entry {
        time_unix_nano: number(8)?.cast_signed(),
        stream,
        level: number(24)? as u8,
        message: Bytes::copy_from_slice(text),
        continued: false,
        no_newline: true,
        fields_json: Bytes::new(),
        update_id: number(16)?,
    }))
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
