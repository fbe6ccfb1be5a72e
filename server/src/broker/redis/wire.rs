//! What is written into Redis for a line: packed rows, their header, the JSON of a line and of a frame. `record` has the task's.
//!
//! Rows are packed with protobuf (tags may be added, never reused); the version is in front so that a reader of another time
//! knows what it cannot read. Messages and fields are exact bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flowforge_storage::{LogRecord, ProducerId, Stream, TaskKey};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::keys::parse_task;
use crate::broker::{Batch, FrameEvent};
use crate::line;

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct PackedRows {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    rows: Vec<PackedRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PackedRow {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(sfixed64, tag = "2")]
    time_ns: i64,
    #[prost(uint32, tag = "3")]
    stream: u32,
    #[prost(uint32, tag = "4")]
    level: u32,
    #[prost(bytes = "bytes", tag = "5")]
    message: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    fields: Bytes,
    #[prost(uint64, tag = "7")]
    update_id: u64,
    #[prost(bool, tag = "8")]
    continued: bool,
    #[prost(bool, tag = "9")]
    no_newline: bool,
}

/// Rows without what the script adds: offset, epoch, time of arrival, producer.
pub(super) fn pack(records: &[LogRecord]) -> Vec<u8> {
    let row = |record: &LogRecord| PackedRow {
        seq: record.seq,
        time_ns: record.time_ns,
        stream: record.stream as u32,
        level: u32::from(record.level),
        message: record.message.clone(),
        fields: record.fields.clone(),
        update_id: record.update_id,
        continued: record.continued,
        no_newline: record.no_newline,
    };
    PackedRows { version: VERSION, rows: records.iter().map(row).collect() }.encode_to_vec()
}

/// One entry of a stream, read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) batch: Batch,
    /// Bytes it is accounted for in `logs:bytes`.
    pub(super) weight: u64,
}

/// Reads an entry's header (`<epoch> <first> <count> <created ms> <producer> <last seq> <weight> <task>`) and rows.
pub(super) fn unpack(head: &[u8], packed: Vec<u8>) -> Result<Entry, String> {
    let head = std::str::from_utf8(head).map_err(|_| "its header is not text".to_owned())?;
    let parts: Vec<&str> = head.splitn(8, ' ').collect();
    let [epoch, first, count, created, producer, _, weight, task] = parts[..] else {
        return Err(format!("its header has {} parts", parts.len()));
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} in its header is not a number"));
    let (epoch, first, count) = (number(epoch)?, number(first)?, number(count)?);
    let (created_at_ms, weight) = (number(created)? as i64, number(weight)?);
    let producer = ProducerId::from_hex(producer).ok_or("its header names no producer")?;
    let task = parse_task(task).ok_or("its header names no task")?;
    let rows = PackedRows::decode(Bytes::from(packed)).map_err(|error| format!("its rows cannot be read: {error}"))?;
    if rows.version != VERSION || rows.rows.len() as u64 != count || count == 0 {
        return Err(format!("it has version {} and {} rows", rows.version, rows.rows.len()));
    }
    let record = |(row, offset): (PackedRow, u64)| {
        Some(LogRecord {
            offset,
            epoch,
            producer,
            seq: row.seq,
            time_ns: row.time_ns,
            created_at_ms,
            stream: Stream::from_number(u8::try_from(row.stream).ok()?)?,
            level: u8::try_from(row.level).ok()?,
            message: row.message,
            fields: row.fields,
            update_id: row.update_id,
            continued: row.continued,
            no_newline: row.no_newline,
        })
    };
    let records: Option<Vec<LogRecord>> = rows.rows.into_iter().zip(first..).map(record).collect();
    let records = records.ok_or("a row has a stream or level that is not known")?;
    Ok(Entry { batch: Batch::new(task, producer, records), weight })
}

/// The JSON of a line up to its offset, the same for all lines of a task.
pub(super) fn json_head(task: &TaskKey) -> String {
    format!("{{\"tenant\":\"{}\",\"task_id\":\"{}\",\"offset\":", task.tenant(), task.task_id())
}

/// The JSON of a line between offset and time of arrival, and after that. The record has offset 0, and its own time.
pub(super) fn json_parts(task: &TaskKey, record: &LogRecord) -> (Vec<u8>, Vec<u8>) {
    const CREATED: &[u8] = b"\"created_at\":\"";
    let mut json = Vec::with_capacity(record.message.len() + record.fields.len() + 320);
    line::write_json(task, record, &mut json);
    let middle = json_head(task).len() + 1; // The offset is one digit.
    // No text of a producer's comes before it.
    let created = memchr::memmem::find(&json, CREATED).map_or(json.len(), |at| at + CREATED.len());
    let tail = json[created..].iter().position(|byte| *byte == b'"').map_or(json.len(), |at| created + at);
    (json[middle..created].to_vec(), json[tail..].to_vec())
}

#[derive(Deserialize)]
struct LineJson<'a> {
    offset: u64,
    epoch: u64,
    #[serde(default)]
    producer: Option<&'a str>,
    #[serde(default)]
    seq: u64,
    time: &'a str,
    created_at: &'a str,
    stream: &'a str,
    #[serde(default)]
    severity: u8,
    message: String,
    #[serde(default)]
    raw: Option<String>,
    #[serde(default)]
    continued: bool,
    #[serde(default)]
    no_newline: bool,
    #[serde(default)]
    update_id: u64,
    #[serde(default, borrow)]
    fields: Option<&'a RawValue>,
}

/// Reads a published line.
pub(super) fn parse_line(json: &[u8]) -> Option<LogRecord> {
    let line: LineJson<'_> = serde_json::from_slice(json).ok()?;
    let message = match line.raw {
        Some(raw) => STANDARD.decode(raw).ok()?,
        None => line.message.into_bytes(),
    };
    Some(LogRecord {
        offset: line.offset,
        epoch: line.epoch,
        producer: line.producer.map_or(Some(ProducerId::SERVER), ProducerId::from_hex)?,
        seq: line.seq,
        time_ns: i64::try_from(line.time.parse::<jiff::Timestamp>().ok()?.as_nanosecond()).ok()?,
        created_at_ms: line.created_at.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
        stream: Stream::from_name(line.stream)?,
        level: line.severity,
        message: message.into(),
        fields: line.fields.map_or_else(Bytes::new, |fields| Bytes::copy_from_slice(fields.get().as_bytes())),
        update_id: line.update_id,
        continued: line.continued,
        no_newline: line.no_newline,
    })
}

#[derive(Serialize, Deserialize)]
struct FrameJson {
    producer: String,
    update_id: u64,
    stream: String,
    message: String,
}

/// A frame as it is published; bytes that are not text show as U+FFFD, as in every viewer.
pub(super) fn frame_json(frame: &FrameEvent) -> Vec<u8> {
    let json = FrameJson {
        producer: frame.producer.to_string(),
        update_id: frame.update_id,
        stream: frame.stream.name().to_owned(),
        message: String::from_utf8_lossy(&frame.message).into_owned(),
    };
    serde_json::to_vec(&json).expect("text and numbers are JSON")
}

/// Reads a published frame.
pub(super) fn parse_frame(json: &[u8]) -> Option<FrameEvent> {
    let json: FrameJson = serde_json::from_slice(json).ok()?;
    Some(FrameEvent {
        producer: ProducerId::from_hex(&json.producer)?,
        update_id: json.update_id,
        stream: Stream::from_name(&json.stream)?,
        message: json.message.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &'static [u8]) -> LogRecord {
        LogRecord {
            offset: 7,
            epoch: 3,
            producer: ProducerId([1; 16]),
            seq: u64::MAX / 2,
            time_ns: 1_700_000_000_123_456_789,
            created_at_ms: 1_700_000_000_200,
            stream: Stream::Stderr,
            level: 17,
            message: Bytes::from_static(message),
            fields: Bytes::from_static(b"{\"created_at\":\"x\", \"a\": 1.50}"),
            update_id: 9,
            continued: true,
            no_newline: true,
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for message in [&b"text"[..], b"", b"\xff\x00\"created_at\":\""] {
            let one = record(message);
            let head = format!("3 7 1 1700000000200 {} {} 99 team/t", one.producer, one.seq);
            let entry = unpack(head.as_bytes(), pack(std::slice::from_ref(&one))).unwrap();
            assert_eq!((&entry.batch.records[0], entry.weight), (&one, 99));
            assert_eq!(entry.batch.task.to_string(), "team/t");
        }
        assert!(unpack(b"garbage", Vec::new()).is_err());
        assert!(unpack(b"1 1 2 1 01010101010101010101010101010101 1 1 t", pack(&[record(b"")])).is_err());
    }

    #[test]
    fn a_line_put_together_by_a_script_is_the_line_of_the_api() {
        let task = TaskKey::new("team", "t").unwrap();
        for message in [&b"text"[..], b"\xff\x00\"created_at\":\"\n"] {
            let one = record(message);
            let mut api = Vec::new();
            line::write_json(&task, &one, &mut api);
            let (middle, tail) = json_parts(&task, &LogRecord { offset: 0, ..one.clone() });
            let created = crate::clock::rfc3339_ms(one.created_at_ms);
            let spliced = [json_head(&task).as_bytes(), b"7", &middle, created.as_bytes(), &tail].concat();
            assert_eq!(String::from_utf8(spliced.clone()).unwrap(), String::from_utf8(api).unwrap());
            assert_eq!(parse_line(&spliced), Some(one));
        }
        let end = LogRecord { producer: ProducerId::SERVER, seq: 0, fields: Bytes::new(), level: 0, ..record(b"x") };
        let mut api = Vec::new();
        line::write_json(&task, &end, &mut api);
        assert_eq!(parse_line(&api), Some(end));
    }

    #[test]
    fn frames_survive_their_json() {
        let frame = FrameEvent {
            producer: ProducerId([1; 16]),
            update_id: 3,
            stream: Stream::Stdout,
            message: Bytes::from_static(b"50%\n"),
        };
        assert_eq!(parse_frame(&frame_json(&frame)), Some(frame));
    }
}
