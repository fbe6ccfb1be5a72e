//! One line of a log, as the broker numbered it and the store keeps it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::key::TaskKey;

/// One line. `(task, offset)` is its place in the one total order of its task; `(task, producer, seq)` is what it is
/// recognised by when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Contiguous per task from 1, given by the broker.
    pub offset: u64,
    /// Milliseconds: when the broker's memory that gave the offset began. At one offset the highest epoch wins.
    pub epoch: u64,
    /// The process that printed the line; [`ProducerId::SERVER`] for rows that the server wrote.
    pub producer: ProducerId,
    /// The producer's own number. For a row that covers a dropped range: the last number of it. 0 for the server's rows.
    pub seq: u64,
    /// Nanoseconds since 1970, the producer's clock. Shown, never used for order.
    pub time_ns: i64,
    /// Milliseconds since 1970, the broker's clock at append, never less than the previous row's of the task. Retention
    /// goes by it.
    pub created_at_ms: i64,
    /// Where the line came from.
    pub stream: Stream,
    /// OpenTelemetry severity 1 to 24; 0 = unset.
    pub level: u8,
    /// The bytes between two newlines, exactly as they were printed, UTF-8 or not.
    pub message: Bytes,
    /// A JSON object in UTF-8, or empty.
    pub fields: Bytes,
    /// The progress bar that this line is a state of; 0 = none.
    pub update_id: u64,
    /// The line goes on in the next record of the same producer and stream.
    pub continued: bool,
    /// No newline followed.
    pub no_newline: bool,
}

/// A severity that a line without one is filtered as: INFO.
pub const UNSET_LEVEL_FILTERS_AS: u8 = 9;

/// What a line costs in memory beside its bytes, for accounting.
const RECORD_OVERHEAD_BYTES: usize = 160;

impl LogRecord {
    /// The message as text: what is not UTF-8 shows as U+FFFD.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.message)
    }

    /// The structured fields as JSON text; `None` if there are none.
    pub fn fields_json(&self) -> Option<&str> {
        if self.fields.is_empty() { None } else { std::str::from_utf8(&self.fields).ok() }
    }

    /// Severity used by filters.
    pub fn effective_level(&self) -> u8 {
        if self.level == 0 { UNSET_LEVEL_FILTERS_AS } else { self.level }
    }

    /// Bytes this record is accounted for in queues and windows.
    pub fn weight(&self) -> usize {
        self.message.len() + self.fields.len() + RECORD_OVERHEAD_BYTES
    }
}

/// Lines of one task, in offset order: what a store inserts. One insert carries many, of many tasks.
#[derive(Debug, Clone)]
pub struct TaskLines<'a> {
    /// The task of all of them.
    pub task: TaskKey,
    /// Ascending by offset.
    pub records: &'a [LogRecord],
}

/// 128-bit id of one producing process; 32 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ProducerId(pub [u8; 16]);

impl ProducerId {
    /// The server itself: gap, end and status rows.
    pub const SERVER: Self = Self([0; 16]);

    /// From the 32 hex digits of its text form.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes()))
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a line came from. The numbers are those of the wire and of the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A logging library.
    Log = 3,
    /// Written by FlowForge: gap, drop, end, status.
    System = 4,
}

impl Stream {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Stdout, Self::Stderr, Self::Log, Self::System];

    /// Its name in JSON and URLs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Log => "log",
            Self::System => "system",
        }
    }

    /// The stream with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }

    /// The stream with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| *stream as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producer_ids_survive_their_text_form() {
        let id = ProducerId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(ProducerId::from_hex(&id.to_string()), Some(id));
        assert_eq!(ProducerId::from_hex("+0000000000000000000000000000001"), None);
        assert_eq!(ProducerId::from_hex("00"), None);
    }

    #[test]
    fn streams_survive_their_names_and_numbers() {
        for stream in Stream::ALL {
            assert_eq!(Stream::from_name(stream.name()), Some(stream));
            assert_eq!(Stream::from_number(stream as u8), Some(stream));
        }
        assert_eq!(Stream::from_number(0), None);
    }
}
