//! A line as a row of the table, both ways.

use bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::batch::{SqlResult, Values};
use crate::record::{LogRecord, ProducerId, Stream};

/// Values a row.
pub(super) const COLUMNS: usize = 14;

/// Start of the insert; the order is that of [`bind`].
pub(super) const INSERT_HEAD: &str = r#"INSERT INTO lines (task_key, "offset", epoch, producer, seq, time_ns, created_at_ms, stream, level, flags, update_id, fields, message, raw)"#;

/// End of the insert: at one offset the highest epoch wins, whichever came first.
pub(super) const INSERT_TAIL: &str = r#"ON CONFLICT (task_key, "offset") DO UPDATE SET
    epoch = excluded.epoch, producer = excluded.producer, seq = excluded.seq, time_ns = excluded.time_ns,
    created_at_ms = excluded.created_at_ms, stream = excluded.stream, level = excluded.level, flags = excluded.flags,
    update_id = excluded.update_id, fields = excluded.fields, message = excluded.message, raw = excluded.raw
    WHERE excluded.epoch > epoch"#;

/// What a read selects; the order is that of [`decode`].
macro_rules! select_columns {
    () => {
        r#""offset", epoch, producer, seq, time_ns, created_at_ms, stream, level, flags, update_id, fields, message, raw"#
    };
}
pub(super) use select_columns;

const CONTINUED: i64 = 1;
const NO_NEWLINE: i64 = 2;

/// Binds a line whose numbers were checked to fit.
pub(super) fn bind(values: &mut Values, task_key: i64, record: &LogRecord) -> SqlResult<()> {
    values.add(task_key)?;
    values.add(record.offset as i64)?;
    values.add(record.epoch as i64)?;
    values.add(&record.producer.0[..])?;
    values.add(record.seq as i64)?;
    values.add(record.time_ns)?;
    values.add(record.created_at_ms)?;
    values.add(record.stream as u8)?;
    values.add(record.level)?;
    values.add(if record.continued { CONTINUED } else { 0 } | if record.no_newline { NO_NEWLINE } else { 0 })?;
    // Only compared for being equal, so that all 64 bits may be used.
    values.add(record.update_id as i64)?;
    values.add(record.fields_json())?;
    bind_message(values, &record.message)
}

/// As text, so that a person with a SQLite shell can read and search it; the bytes beside it where text cannot be exact.
fn bind_message(values: &mut Values, message: &[u8]) -> SqlResult<()> {
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => {
            values.add(text)?;
            values.add(None::<&[u8]>)
        }
        _ => {
            values.add(String::from_utf8_lossy(message).replace('\0', "\u{fffd}"))?;
            values.add(message)
        }
    }
}

/// The line in a row of [`select_columns`].
pub(super) fn decode(row: &SqliteRow) -> SqlResult<LogRecord> {
    let flags = integer(row, 8)?;
    let fields: Option<String> = row.try_get_unchecked(10)?;
    let raw: Option<Vec<u8>> = row.try_get_unchecked(12)?;
    let message = match raw {
        Some(raw) => raw,
        None => row.try_get_unchecked::<Vec<u8>, _>(11)?,
    };
    Ok(LogRecord {
        offset: integer(row, 0)? as u64,
        epoch: integer(row, 1)? as u64,
        producer: producer(row.try_get_unchecked(2)?)?,
        seq: integer(row, 3)? as u64,
        time_ns: integer(row, 4)?,
        created_at_ms: integer(row, 5)?,
        stream: stream(integer(row, 6)?)?,
        level: integer(row, 7)? as u8,
        message: Bytes::from(message),
        fields: fields.map_or_else(Bytes::new, Bytes::from),
        update_id: integer(row, 9)? as u64,
        continued: flags & CONTINUED != 0,
        no_newline: flags & NO_NEWLINE != 0,
    })
}

fn integer(row: &SqliteRow, column: usize) -> SqlResult<i64> {
    row.try_get_unchecked(column)
}

/// A producer from its 16 bytes.
pub(super) fn producer(bytes: &[u8]) -> SqlResult<ProducerId> {
    bytes.try_into().map(ProducerId).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn stream(number: i64) -> SqlResult<Stream> {
    let known = u8::try_from(number).ok().and_then(Stream::from_number);
    known.ok_or_else(|| sqlx::Error::Decode(format!("{number} is not the number of a stream").into()))
}
