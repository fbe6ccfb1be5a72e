//! The JSON of a line: one form for SSE, REST, NDJSON and Pub/Sub.
//!
//! `{"tenant","task_id","offset","epoch","producer","seq","time","created_at","stream","level","severity","message","raw",
//! "continued","no_newline","update_id","fields"}`. `time` and `created_at` are RFC 3339 in UTC, `level` a lower-case name
//! and `severity` its OpenTelemetry number, `raw` the exact bytes in base64 where `message` is not them. Absent or empty
//! members are left out, so a row of the server's has neither producer nor seq.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowforge_storage::{LogRecord, ProducerId, TaskKey};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::{rfc3339_ms, rfc3339_ns};

#[derive(Serialize)]
struct LineJson<'a> {
    tenant: &'a str,
    task_id: &'a str,
    offset: u64,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    seq: u64,
    time: String,
    created_at: String,
    stream: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    level: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    severity: u64,
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    continued: bool,
    #[serde(skip_serializing_if = "is_false")]
    no_newline: bool,
    #[serde(skip_serializing_if = "is_zero")]
    update_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<&'a RawValue>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Appends the line's JSON, one line of text without a newline.
pub fn write_json(task: &TaskKey, record: &LogRecord, out: &mut Vec<u8>) {
    let message = record.text();
    let raw = matches!(message, Cow::Owned(_)).then(|| STANDARD.encode(&record.message));
    let json = LineJson {
        tenant: task.tenant(),
        task_id: task.task_id(),
        offset: record.offset,
        epoch: record.epoch,
        producer: (record.producer != ProducerId::SERVER).then(|| record.producer.to_string()),
        seq: record.seq,
        time: rfc3339_ns(record.time_ns),
        created_at: rfc3339_ms(record.created_at_ms),
        stream: record.stream.name(),
        level: level_name(record.level),
        severity: u64::from(record.level),
        message,
        raw,
        continued: record.continued,
        no_newline: record.no_newline,
        update_id: record.update_id,
        fields: record.fields_json().and_then(|text| serde_json::from_str(text).ok()),
    };
    serde_json::to_writer(out, &json).expect("writing to memory cannot fail and every value is JSON");
}

/// The name of an OpenTelemetry severity's range; empty for 0.
pub fn level_name(severity: u8) -> &'static str {
    match severity {
        0 => "",
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        _ => "fatal",
    }
}

/// The lowest severity of a named level, or the number itself.
pub fn parse_level(text: &str) -> Option<u8> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Some(1),
        "debug" => Some(5),
        "info" => Some(9),
        "warn" | "warning" => Some(13),
        "error" => Some(17),
        "fatal" | "critical" => Some(21),
        number => number.parse().ok().filter(|n| (1..=24).contains(n)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flowforge_storage::Stream;

    use super::*;

    fn record(message: &'static [u8]) -> LogRecord {
        LogRecord {
            offset: 7,
            epoch: 3,
            producer: ProducerId([1; 16]),
            seq: 5,
            time_ns: 1_700_000_000_123_456_789,
            created_at_ms: 1_700_000_000_200,
            stream: Stream::Stderr,
            level: 17,
            message: Bytes::from_static(message),
            fields: Bytes::from_static(b"{\"a\":1}"),
            update_id: 0,
            continued: false,
            no_newline: true,
        }
    }

    fn json(record: &LogRecord) -> String {
        let mut out = Vec::new();
        write_json(&TaskKey::new("", "t").unwrap(), record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_member_has_its_documented_name_and_form() {
        assert_eq!(
            json(&record(b"boom\n\nevent: end")),
            r#"{"tenant":"default","task_id":"t","offset":7,"epoch":3,"producer":"01010101010101010101010101010101","seq":5,"#
                .to_owned()
                + r#""time":"2023-11-14T22:13:20.123456789Z","created_at":"2023-11-14T22:13:20.2Z","stream":"stderr","#
                + r#""level":"error","severity":17,"message":"boom\n\nevent: end","no_newline":true,"fields":{"a":1}}"#
        );
    }

    #[test]
    fn bytes_that_are_not_text_travel_beside_it() {
        let json = json(&record(b"\xff\x00"));
        assert!(json.contains("\"message\":\"\u{fffd}\\u0000\",\"raw\":\"/wA=\""), "{json}");
    }

    #[test]
    fn levels_have_names_and_numbers() {
        for name in ["trace", "debug", "info", "warn", "error", "fatal"] {
            assert_eq!(level_name(parse_level(name).unwrap()), name);
        }
        assert_eq!(parse_level("13"), Some(13));
        assert_eq!(parse_level("25"), None);
        assert_eq!(parse_level("loud"), None);
    }
}
