//! A line as a row of the table, both ways.
//!
//! Out it goes in `RowBinary` written here: the columns of a row one after the other, numbers little-endian, strings with
//! their length as LEB128 (<https://clickhouse.com/docs/interfaces/formats/RowBinary>).

use bytes::{BufMut, Bytes};
use clickhouse::Row;
use serde::{Deserialize, Deserializer, de};

use crate::key::TaskKey;
use crate::record::{LogRecord, ProducerId, Stream};

/// Columns of an insert; the order is that of [`encode`].
pub(super) const INSERT_COLUMNS: &str = "tenant, task_id, offset, epoch, producer, seq, time_ns, created_at, stream, level, flags, update_id, fields, message";

/// What a read selects; the order is that of [`LineRow`].
pub(super) const SELECT_COLUMNS: &str =
    "offset, epoch, producer, seq, time_ns, created_at, stream, level, flags, update_id, fields, message";

const CONTINUED: u8 = 1;
const NO_NEWLINE: u8 = 2;

/// Appends a line whose numbers were checked to fit. A string of ClickHouse holds any bytes: the message needs no second
/// form.
pub(super) fn encode(task: &TaskKey, record: &LogRecord, out: &mut Vec<u8>) {
    put_string(out, task.tenant().as_bytes());
    put_string(out, task.task_id().as_bytes());
    out.put_u64_le(record.offset);
    out.put_u64_le(record.epoch);
    out.put_slice(&record.producer.0);
    out.put_u64_le(record.seq);
    out.put_i64_le(record.time_ns);
    // DateTime64(3) is a number of milliseconds.
    out.put_i64_le(record.created_at_ms);
    out.put_u8(record.stream as u8);
    out.put_u8(record.level);
    out.put_u8(if record.continued { CONTINUED } else { 0 } | if record.no_newline { NO_NEWLINE } else { 0 });
    out.put_u64_le(record.update_id);
    put_string(out, &record.fields);
    put_string(out, &record.message);
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
    out.put_slice(bytes);
}

/// A line as it is read.
#[derive(Debug, Row, Deserialize)]
pub(super) struct LineRow {
    offset: u64,
    epoch: u64,
    producer: [u8; 16],
    seq: u64,
    time_ns: i64,
    created_at_ms: i64,
    stream: i8,
    level: u8,
    flags: u8,
    update_id: u64,
    #[serde(deserialize_with = "any_bytes")]
    fields: Bytes,
    #[serde(deserialize_with = "any_bytes")]
    message: Bytes,
}

impl LineRow {
    /// The line. A stream that this version does not know is shown as the system's.
    pub(super) fn into_record(self) -> LogRecord {
        LogRecord {
            offset: self.offset,
            epoch: self.epoch,
            producer: ProducerId(self.producer),
            seq: self.seq,
            time_ns: self.time_ns,
            created_at_ms: self.created_at_ms,
            stream: u8::try_from(self.stream).ok().and_then(Stream::from_number).unwrap_or(Stream::System),
            level: self.level,
            message: self.message,
            fields: self.fields,
            update_id: self.update_id,
            continued: self.flags & CONTINUED != 0,
            no_newline: self.flags & NO_NEWLINE != 0,
        }
    }
}

/// A string that need not be UTF-8.
fn any_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Bytes;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string of bytes")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }
    }
    deserializer.deserialize_bytes(Visitor)
}
