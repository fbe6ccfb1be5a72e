//! A line as a row of the table, both ways.

use std::borrow::Cow;

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::SqlResult;
use super::moment::Moment;
use super::plan::Line;
use crate::record::{LogRecord, ProducerId, Stream};

/// What a read selects; the order is that of [`decode`].
pub(super) const COLUMNS: &str =
    r#""offset", epoch, seq, time_ns, created_at, update_id, stream, level, flags, producer, fields, message, raw"#;

const CONTINUED: i16 = 1;
const NO_NEWLINE: i16 = 2;

/// Rows as one array a column: a statement with arrays is the same one for any number of rows.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) task_keys: Vec<i64>,
    pub(super) offsets: Vec<i64>,
    pub(super) epochs: Vec<i64>,
    pub(super) seqs: Vec<i64>,
    pub(super) times: Vec<i64>,
    pub(super) created: Vec<Moment>,
    pub(super) updates: Vec<Option<i64>>,
    pub(super) streams: Vec<i16>,
    pub(super) levels: Vec<i16>,
    pub(super) flags: Vec<i16>,
    pub(super) producers: Vec<&'a [u8]>,
    pub(super) fields: Vec<Option<&'a str>>,
    pub(super) messages: Vec<Cow<'a, str>>,
    pub(super) raws: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    /// Of lines whose numbers were checked to fit.
    pub(super) fn of(lines: impl IntoIterator<Item = Line<'a>>) -> Self {
        let mut columns = Self::default();
        for line in lines {
            columns.push(line);
        }
        columns
    }

    fn push(&mut self, Line { task_key, record }: Line<'a>) {
        self.task_keys.push(task_key);
        self.offsets.push(record.offset as i64);
        self.epochs.push(record.epoch as i64);
        self.seqs.push(record.seq as i64);
        self.times.push(record.time_ns);
        self.created.push(Moment(record.created_at_ms));
        // Only compared for being equal, so that all 64 bits may be used.
        self.updates.push((record.update_id != 0).then_some(record.update_id as i64));
        self.streams.push(record.stream as i16);
        self.levels.push(i16::from(record.level));
        let continued = if record.continued { CONTINUED } else { 0 };
        self.flags.push(continued | if record.no_newline { NO_NEWLINE } else { 0 });
        self.producers.push(&record.producer.0);
        self.fields.push(record.fields_json());
        let (message, raw) = split_message(&record.message);
        self.messages.push(message);
        self.raws.push(raw);
    }
}

/// As text, so that a person with a SQL shell can read and search it; the bytes beside it where text cannot be exact.
fn split_message(message: &[u8]) -> (Cow<'_, str>, Option<&[u8]>) {
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => (Cow::Borrowed(text), None),
        _ => (Cow::Owned(String::from_utf8_lossy(message).replace('\0', "\u{fffd}")), Some(message)),
    }
}

/// Text that PostgreSQL can hold: without NUL.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// The line in a row of [`COLUMNS`].
pub(super) fn decode(row: &PgRow) -> SqlResult<LogRecord> {
    let flags: i16 = row.try_get(8)?;
    let fields: Option<&str> = row.try_get(10)?;
    let raw: Option<&[u8]> = row.try_get(12)?;
    let message = match raw {
        Some(raw) => raw,
        None => row.try_get::<&str, _>(11)?.as_bytes(),
    };
    Ok(LogRecord {
        offset: row.try_get::<i64, _>(0)? as u64,
        epoch: row.try_get::<i64, _>(1)? as u64,
        seq: row.try_get::<i64, _>(2)? as u64,
        time_ns: row.try_get(3)?,
        created_at_ms: row.try_get::<Moment, _>(4)?.0,
        update_id: row.try_get::<Option<i64>, _>(5)?.unwrap_or(0) as u64,
        stream: stream(row.try_get(6)?)?,
        level: row.try_get::<i16, _>(7)? as u8,
        continued: flags & CONTINUED != 0,
        no_newline: flags & NO_NEWLINE != 0,
        producer: producer(row.try_get(9)?)?,
        fields: Bytes::copy_from_slice(fields.unwrap_or_default().as_bytes()),
        message: Bytes::copy_from_slice(message),
    })
}

/// A producer from its 16 bytes.
pub(super) fn producer(bytes: &[u8]) -> SqlResult<ProducerId> {
    bytes.try_into().map(ProducerId).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn stream(number: i16) -> SqlResult<Stream> {
    let known = u8::try_from(number).ok().and_then(Stream::from_number);
    known.ok_or_else(|| sqlx::Error::Decode(format!("{number} is not the number of a stream").into()))
}
