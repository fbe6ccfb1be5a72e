//! The bytes of a spool file. Pure: slices in, values out; nothing here trusts what it reads.
//!
//! ```text
//! 0      magic, version, where the ring begins, its largest size, length and checksum of what is told once
//! 64     state, twice: which lines are stored, where the ring's first record is; the newer valid one counts
//! 192    the next sequence number: what was captured, whether or not it can be read
//! 256    told once: the Hello (protobuf), the server's address
//! open   lines that have not ended, see `open`; files of version 1 have none
//! ring   records: checksum 4, kind 1 and length 3, sequence number 8, payload, padding to 8
//! ```
//!
//! Numbers are little-endian, checksums CRC-32C. A record is one LogEntry (a line, or a run of dropped ones), the Close, or
//! a mark that the ring goes on at its beginning. A record never straddles the ring's end. Behind the last record is
//! whatever was there before, which is recognised by its sequence number.

use flowforge_proto::v1;
use prost::Message as _;

use super::open;

/// Of files of this layout.
pub(crate) const VERSION: u32 = 2;
/// Of those without open lines, which are still read.
const WITHOUT_OPEN: u32 = 1;
const MAGIC: [u8; 8] = *b"FFSPOOL\0";
const PAGE: usize = 4096;
const STATE_AT: [usize; 2] = [64, 128];
const STATE_BYTES: usize = 60;
const NEXT_SEQ_AT: usize = 192;
const META_AT: usize = 256;
/// A Hello has at most 64 labels of 512 bytes and some short texts.
const MAX_META_BYTES: usize = 1 << 20;

/// Before a record's payload.
pub(crate) const RECORD_HEADER: usize = 16;
/// The longest payload whose length fits.
pub(crate) const MAX_PAYLOAD: usize = (1 << 24) - 1;

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as a spool file does.
    #[error("not a spool file")]
    NotASpool,
    /// A later program has written it.
    #[error("written by a newer version (format {0}; this program reads {VERSION})")]
    Newer(u32),
    /// What is told once cannot be trusted, so nothing can be sent.
    #[error("its header is damaged")]
    Header,
}

/// What is told once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meta {
    pub(crate) hello: v1::Hello,
    pub(crate) server: String,
}

/// How the file is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Where the ring begins, in the file.
    pub(crate) ring_at: usize,
    /// How large the ring may become.
    pub(crate) max_capacity: usize,
    /// Open lines are before the ring.
    pub(crate) has_open: bool,
}

/// What changes: written as a whole, in turns to two places, so that one of them is always whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// Counts the writes.
    pub(crate) generation: u64,
    /// Everything up to it is stored.
    pub(crate) acked: u64,
    /// Of the first record; the numbers between `acked` and it were dropped.
    pub(crate) head_seq: u64,
    /// Where the first record is, in the ring.
    pub(crate) head: u64,
    /// How much of the ring is in use.
    pub(crate) capacity: u64,
    /// Message bytes of what was dropped before the first record.
    pub(crate) dropped_bytes: u64,
    /// When the first of it was captured.
    pub(crate) dropped_time: i64,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Layout {
    /// The layout of a new file.
    pub(crate) fn new(meta: &Meta, max_capacity: usize) -> Self {
        let bytes = META_AT + 8 + meta.hello.encoded_len() + meta.server.len();
        Self { ring_at: bytes.next_multiple_of(PAGE) + open::BYTES, max_capacity, has_open: true }
    }

    /// Where the open lines begin.
    pub(crate) fn open_at(self) -> Option<usize> {
        if self.has_open { self.ring_at.checked_sub(open::BYTES) } else { None }
    }

    /// How long the file is.
    pub(crate) fn file_bytes(self) -> usize {
        self.ring_at + self.max_capacity
    }
}

/// Writes what is told once, to a file of zeros.
pub(crate) fn write_meta(file: &mut [u8], meta: &Meta, layout: Layout) {
    let hello = meta.hello.encode_to_vec();
    let mut told = Vec::with_capacity(8 + hello.len() + meta.server.len());
    told.extend_from_slice(&(hello.len() as u32).to_le_bytes());
    told.extend_from_slice(&hello);
    told.extend_from_slice(meta.server.as_bytes());
    file[0..8].copy_from_slice(&MAGIC);
    let version = if layout.has_open { VERSION } else { WITHOUT_OPEN };
    file[8..12].copy_from_slice(&version.to_le_bytes());
    file[12..16].copy_from_slice(&(layout.ring_at as u32).to_le_bytes());
    file[16..24].copy_from_slice(&(layout.max_capacity as u64).to_le_bytes());
    file[24..28].copy_from_slice(&(told.len() as u32).to_le_bytes());
    file[META_AT..META_AT + told.len()].copy_from_slice(&told);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&file[0..28]), &told);
    file[28..32].copy_from_slice(&sum.to_le_bytes());
}

/// Reads what is told once. `bytes` may be the beginning of the file, as long as the ring is not in it.
pub(crate) fn read_meta(bytes: &[u8]) -> Result<(Meta, Layout), FormatError> {
    if bytes.get(0..8) != Some(&MAGIC) {
        return Err(FormatError::NotASpool);
    }
    let number = |at| u32_at(bytes, at).ok_or(FormatError::Header);
    let version = number(8)?;
    if version > VERSION {
        return Err(FormatError::Newer(version));
    }
    let (ring_at, told_bytes) = (number(12)? as usize, number(24)? as usize);
    let max_capacity = u64_at(bytes, 16).ok_or(FormatError::Header)?;
    let told = bytes.get(META_AT..META_AT + told_bytes.min(MAX_META_BYTES)).ok_or(FormatError::Header)?;
    if number(28)? != crc32c::crc32c_append(crc32c::crc32c(&bytes[0..28]), told) {
        return Err(FormatError::Header);
    }
    // Signed by its checksum; what is left is a file that somebody made up.
    let hello_bytes = u32_at(told, 0).ok_or(FormatError::Header)? as usize;
    let hello = told.get(4..).and_then(|rest| rest.get(..hello_bytes)).ok_or(FormatError::Header)?;
    let hello = v1::Hello::decode(hello).map_err(|_| FormatError::Header)?;
    let server = std::str::from_utf8(&told[4 + hello_bytes..]).map_err(|_| FormatError::Header)?.to_owned();
    let has_open = version > WITHOUT_OPEN;
    let open_bytes = if has_open { open::BYTES } else { 0 };
    let sane = ring_at >= META_AT + told_bytes + open_bytes
        && ring_at <= 2 * MAX_META_BYTES
        && max_capacity <= MAX_CAPACITY as u64;
    if !sane || !ring_at.is_multiple_of(8) || !max_capacity.is_multiple_of(8) || hello.producer.len() != 16 {
        return Err(FormatError::Header);
    }
    Ok((Meta { hello, server }, Layout { ring_at, max_capacity: max_capacity as usize, has_open }))
}

/// No ring is larger.
pub(crate) const MAX_CAPACITY: usize = 1 << 36;

/// Writes the state to the place whose turn it is.
pub(crate) fn write_state(file: &mut [u8], state: &State) {
    let at = STATE_AT[(state.generation % 2) as usize];
    let numbers = [
        state.generation,
        state.acked,
        state.head_seq,
        state.head,
        state.capacity,
        state.dropped_bytes,
        state.dropped_time.cast_unsigned(),
    ];
    let mut bytes = [0; STATE_BYTES];
    for (place, number) in numbers.iter().enumerate() {
        bytes[place * 8..place * 8 + 8].copy_from_slice(&number.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes[..STATE_BYTES - 4]);
    bytes[STATE_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    file[at..at + STATE_BYTES].copy_from_slice(&bytes);
}

/// Reads the newer of the two that is whole and can be true.
pub(crate) fn read_state(file: &[u8], layout: Layout) -> Result<State, FormatError> {
    let states = STATE_AT.iter().filter_map(|at| parse_state(file.get(*at..*at + STATE_BYTES)?));
    let sane = |state: &State| {
        state.capacity <= layout.max_capacity as u64
            && state.head <= state.capacity
            && state.head.is_multiple_of(8)
            && state.head_seq > state.acked
            && state.head_seq <= MAX_SEQ
    };
    states.filter(sane).max_by_key(|state| state.generation).ok_or(FormatError::Header)
}

/// The largest number that the server takes.
pub(crate) const MAX_SEQ: u64 = i64::MAX as u64;

fn parse_state(bytes: &[u8]) -> Option<State> {
    if u32_at(bytes, STATE_BYTES - 4)? != crc32c::crc32c(&bytes[..STATE_BYTES - 4]) {
        return None;
    }
    Some(State {
        generation: u64_at(bytes, 0)?,
        acked: u64_at(bytes, 8)?,
        head_seq: u64_at(bytes, 16)?,
        head: u64_at(bytes, 24)?,
        capacity: u64_at(bytes, 32)?,
        dropped_bytes: u64_at(bytes, 40)?,
        dropped_time: u64_at(bytes, 48)?.cast_signed(),
    })
}

/// Notes what was captured, and the same inverted, so that a flipped bit does not invent lines that were lost.
pub(crate) fn write_next_seq(file: &mut [u8], next_seq: u64) {
    file[NEXT_SEQ_AT..NEXT_SEQ_AT + 8].copy_from_slice(&next_seq.to_le_bytes());
    file[NEXT_SEQ_AT + 8..NEXT_SEQ_AT + 16].copy_from_slice(&(!next_seq).to_le_bytes());
}

/// The number as noted, and as noted inverted. They differ if one is damaged, or if the process died between the two.
pub(crate) fn next_seq_halves(file: &[u8]) -> Option<(u64, u64)> {
    Some((u64_at(file, NEXT_SEQ_AT)?, !u64_at(file, NEXT_SEQ_AT + 8)?))
}

/// `None`: the halves differ.
pub(crate) fn read_next_seq(file: &[u8]) -> Option<u64> {
    next_seq_halves(file).filter(|(plain, inverted)| plain == inverted).map(|(plain, _)| plain)
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `LogEntry`: a line, which takes one number.
    Line = 1,
    /// A `LogEntry` with `dropped`, which takes as many numbers as it says.
    Run = 2,
    /// The `Close`; takes no number.
    Close = 3,
    /// The ring goes on at its beginning.
    Wrap = 4,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        [Self::Line, Self::Run, Self::Close, Self::Wrap].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// A record's place and outline; its checksum was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
    pub(crate) payload_bytes: usize,
}

/// Bytes that a record takes in the ring.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER + payload_bytes).next_multiple_of(8)
}

impl Outline {
    /// Where the next record is.
    pub(crate) fn end(self) -> usize {
        self.at + record_bytes(self.payload_bytes)
    }

    pub(crate) fn payload(self, ring: &[u8]) -> &[u8] {
        &ring[self.at + RECORD_HEADER..self.at + RECORD_HEADER + self.payload_bytes]
    }

    /// Whether the record is as it was written.
    pub(crate) fn is_whole(self, ring: &[u8]) -> bool {
        let end = self.at + RECORD_HEADER + self.payload_bytes;
        u32_at(ring, self.at) == Some(crc32c::crc32c(&ring[self.at + 4..end]))
    }

    /// The numbers it takes, and its message's bytes. `None`: it is not what it says.
    pub(crate) fn span(self, ring: &[u8]) -> Option<(u64, u64)> {
        let entry = || v1::LogEntry::decode(self.payload(ring)).ok();
        match self.kind {
            Kind::Line => entry().map(|entry| (1, entry.message.len() as u64)),
            Kind::Run => entry()?.dropped.filter(|run| run.lines > 0).map(|run| (run.lines, run.bytes)),
            Kind::Close | Kind::Wrap => Some((0, 0)),
        }
    }
}

/// Looks for the record with this number at this place. `None`: there is none.
pub(crate) fn outline(ring: &[u8], at: usize, seq: u64) -> Option<Outline> {
    let word = u32_at(ring, at.checked_add(4)?)?;
    let payload_bytes = (word & 0x00FF_FFFF) as usize;
    let found = Outline { kind: Kind::of(word >> 24)?, at, payload_bytes };
    (u64_at(ring, at + 8)? == seq && at + RECORD_HEADER + payload_bytes <= ring.len()).then_some(found)
}

/// Writes a record; `fill` writes its payload.
pub(crate) fn write_record(
    ring: &mut [u8],
    at: usize,
    kind: Kind,
    seq: u64,
    payload_bytes: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let record = &mut ring[at..at + RECORD_HEADER + payload_bytes];
    record[4..8].copy_from_slice(&((kind as u32) << 24 | payload_bytes as u32).to_le_bytes());
    record[8..16].copy_from_slice(&seq.to_le_bytes());
    fill(&mut record[RECORD_HEADER..]);
    let sum = crc32c::crc32c(&record[4..]);
    record[0..4].copy_from_slice(&sum.to_le_bytes());
}
