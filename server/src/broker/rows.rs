//! The rows that FlowForge writes into a log itself. Each is a `system` line whose `fields` say exactly what happened and
//! whose message says it to a person.

use bytes::Bytes;
use flowforge_storage::{LogRecord, Stream, TaskStatus};
use serde_json::{Value, json};

use super::position::EndInfo;
use super::{DroppedRun, NewLine};

const INFO: u8 = 9;
const WARN: u8 = 13;
const ERROR: u8 = 17;

fn system_line(now_ms: i64, level: u8, message: String, fields: &Value) -> NewLine {
    NewLine {
        time_ns: now_ms.saturating_mul(1_000_000),
        stream: Stream::System,
        level,
        message: message.into(),
        fields: fields.to_string().into(),
        update_id: 0,
        continued: false,
        no_newline: false,
        dropped: None,
    }
}

/// Lines that the client says it gave up: `fields.dropped`.
pub fn dropped(now_ms: i64, first_seq: u64, run: DroppedRun) -> NewLine {
    let last_seq = first_seq + run.lines - 1;
    let message = format!("{} ({} bytes) dropped by the producer: its buffer was full", count(run.lines), run.bytes);
    let fields =
        json!({"dropped": {"lines": run.lines, "bytes": run.bytes, "first_seq": first_seq, "last_seq": last_seq}});
    NewLine { dropped: Some(run), ..system_line(now_ms, WARN, message, &fields) }
}

/// Lines that the producer no longer has and the server never got: `fields.gap`.
pub fn gap(now_ms: i64, first_seq: u64, last_seq: u64) -> NewLine {
    let lines = last_seq - first_seq + 1;
    let message = format!("{} missing: the producer no longer had them", count(lines));
    let fields = json!({"gap": {"lines": lines, "first_seq": first_seq, "last_seq": last_seq}});
    NewLine { dropped: Some(DroppedRun { lines, bytes: 0 }), ..system_line(now_ms, WARN, message, &fields) }
}

/// The end of an attempt: `fields.end`.
pub fn end(now_ms: i64, end: &EndInfo) -> NewLine {
    let exit = end.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
    let lost = if end.dropped == 0 { String::new() } else { format!(", {} lost", end.dropped) };
    let message = format!("task {}{exit}, {}{lost}", end.status.name(), count(end.lines));
    let level = if end.status == TaskStatus::Succeeded { INFO } else { ERROR };
    system_line(now_ms, level, message, &json!({ "end": end }))
}

fn count(lines: u64) -> String {
    if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") }
}

/// Reads an end row back.
pub fn parse_end(record: &LogRecord) -> Option<EndInfo> {
    if record.stream != Stream::System {
        return None;
    }
    let mut fields: Value = serde_json::from_str(record.fields_json()?).ok()?;
    serde_json::from_value(fields.get_mut("end")?.take()).ok()
}

/// How many lines a row says were lost.
pub fn lost_lines(record: &LogRecord) -> u64 {
    if record.stream != Stream::System {
        return 0;
    }
    let fields: Option<Value> = record.fields_json().and_then(|text| serde_json::from_str(text).ok());
    let count = |kind: &str| fields.as_ref().and_then(|fields| fields.get(kind)?.get("lines")?.as_u64());
    count("dropped").or_else(|| count("gap")).unwrap_or(0)
}

/// Stands at the place of a row that the store refuses: `fields.rejected`.
pub fn rejected(record: &LogRecord, reason: &str) -> LogRecord {
    let message = format!("this line ({} bytes) could not be stored: {reason}", record.message.len());
    let fields = json!({"rejected": {"bytes": record.message.len(), "stream": record.stream.name(), "reason": reason}});
    LogRecord {
        stream: Stream::System,
        level: ERROR,
        message: message.into(),
        fields: Bytes::from(fields.to_string()),
        update_id: 0,
        continued: false,
        no_newline: false,
        ..record.clone()
    }
}
