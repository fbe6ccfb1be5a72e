//! One captured line, as the queue holds it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flowforge_proto::v1;

use crate::assemble::split_at;

/// Where a line came from. The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A logging library's record.
    Log = 3,
}

impl Stream {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Log];

    /// Place in a table with one row per stream.
    pub(crate) fn index(self) -> usize {
        self as usize - 1
    }

    /// The number of this stream on the wire.
    pub(crate) fn wire(self) -> i32 {
        i32::from(self as u8)
    }
}

/// One line, or one part of a very long line. Its sequence number is given when it is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds since 1970, the wall clock at capture.
    pub time_unix_nano: i64,
    /// Where it came from.
    pub stream: Stream,
    /// OpenTelemetry severity 1 to 24; 0 = unset.
    pub level: u8,
    /// The line without its `\n`; any bytes.
    pub message: Bytes,
    /// The line goes on in this producer's next entry of the same stream.
    pub continued: bool,
    /// The line was not terminated by `\n`.
    pub no_newline: bool,
    /// A JSON object in UTF-8, or empty.
    pub fields_json: Bytes,
    /// The progress bar this line is a state of; 0 = none.
    pub update_id: u64,
}

/// What an entry costs in memory beside its bytes: its place in the queue and the allocator's share. A constant, so that
/// the accounting is exact in its own terms on every platform.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 128;

/// What an entry may cost on the wire beside its bytes: tags, lengths, numbers. Generous.
pub(crate) const WIRE_OVERHEAD_BYTES: usize = 64;

impl Entry {
    /// A whole line of `stream`, captured now.
    pub fn new(stream: Stream, message: impl Into<Bytes>) -> Self {
        Self {
            time_unix_nano: now_unix_nano(),
            stream,
            level: 0,
            message: message.into(),
            continued: false,
            no_newline: false,
            fields_json: Bytes::new(),
            update_id: 0,
        }
    }

    /// Bytes this entry is accounted for in the buffer.
    pub(crate) fn cost(&self) -> usize {
        self.message.len() + self.fields_json.len() + ENTRY_OVERHEAD_BYTES
    }

    /// [`Entry::cost`] of all its [`Entry::parts`], or more.
    pub(crate) fn cost_in_parts(&self, max_line_bytes: usize) -> usize {
        // A cut on a character boundary is at most three bytes early.
        let smallest = max_line_bytes.saturating_sub(3).max(1);
        let more = if self.message.len() > max_line_bytes { self.message.len() / smallest } else { 0 };
        self.cost() + more * ENTRY_OVERHEAD_BYTES
    }

    /// This line in parts that the server takes; most lines are one. The fields go with the first.
    pub(crate) fn parts(self, max_line_bytes: usize) -> impl Iterator<Item = Self> {
        let most = max_line_bytes.max(1);
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let mut part = rest.take()?;
            if part.message.len() > most {
                let message = part.message.split_to(split_at(&part.message, most));
                let fields_json = std::mem::take(&mut part.fields_json);
                let first = Self { message, fields_json, continued: true, no_newline: false, ..part.clone() };
                rest = Some(part);
                return Some(first);
            }
            Some(part)
        })
    }

    /// At most so many bytes in a batch.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.message.len() + self.fields_json.len() + WIRE_OVERHEAD_BYTES
    }

    /// The wire's form; the bytes are shared, not copied.
    pub(crate) fn to_wire(&self) -> v1::LogEntry {
        v1::LogEntry {
            time_unix_nano: self.time_unix_nano,
            stream: self.stream.wire(),
            level: u32::from(self.level),
            message: self.message.clone(),
            continued: self.continued,
            no_newline: self.no_newline,
            fields_json: self.fields_json.clone(),
            update_id: self.update_id,
            dropped: None,
        }
    }
}

/// The wall clock in nanoseconds since 1970; 0 for a clock set before it.
pub fn now_unix_nano() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_on_characters_and_keeps_its_fields_once() {
        let entry = Entry {
            fields_json: Bytes::from_static(b"{}"),
            no_newline: true,
            ..Entry::new(Stream::Log, "ab\u{6f22}\u{5b57}c")
        };
        let cost = entry.cost_in_parts(4);
        let parts: Vec<_> = entry.clone().parts(4).collect();
        let texts: Vec<_> = parts.iter().map(|part| std::str::from_utf8(&part.message)).collect();
        assert_eq!(texts, [Ok("ab"), Ok("\u{6f22}"), Ok("\u{5b57}c")]);
        assert_eq!(parts.iter().map(|part| part.continued).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(parts.iter().map(|part| part.no_newline).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(parts.iter().map(|part| part.fields_json.len()).collect::<Vec<_>>(), [2, 0, 0]);
        assert!(parts.iter().map(Entry::cost).sum::<usize>() <= cost);
        assert_eq!(entry.clone().parts(99).collect::<Vec<_>>(), [entry]);
    }
}
