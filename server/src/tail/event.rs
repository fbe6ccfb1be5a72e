//! Server-Sent Events, written byte by byte (WHATWG HTML, section 9.2).
//!
//! Data is JSON on one line, and JSON text cannot hold a raw line break, so no line of a log can forge an event. Only `log`
//! events and place markers carry an `id`, `<epoch>-<offset>`: control events must not move a reader's place.

use flowforge_storage::{LogRecord, TaskKey};
use serde::Serialize;

use crate::broker::{EndInfo, FrameEvent};
use crate::line::write_json;
use crate::proof::Completeness;

/// Keeps the connection and every proxy on the way awake.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// Asks the browser to wait this long before it connects again.
pub const RETRY: &[u8] = b"retry: 1000\n\n";

/// What is said about the sequence of lines, between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// First of all: where this stream begins and what there is.
    Start {
        /// First offset that may come.
        from: u64,
        /// Last offset now.
        end: u64,
        /// First offset kept.
        floor: u64,
    },
    /// History is done; what comes now is new.
    Live,
    /// These offsets do not come.
    Gap {
        /// First missing.
        from: u64,
        /// Last missing.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// Rows above `to` are void: they were never stored. What comes replaces them.
    Rollback {
        /// Last valid offset.
        to: u64,
    },
    /// All rows are void; the stream begins anew.
    Reset,
    /// The task has ended, and so does the stream.
    End(EndInfo, Option<Completeness>),
}

/// Why offsets are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// Deleted by age.
    Retention,
    /// The store should have them and does not.
    Missing,
}

/// One line as a `log` event.
pub fn write_line(task: &TaskKey, record: &LogRecord, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: log\n");
    write_id(record.epoch, record.offset, out);
    out.extend_from_slice(b"data: ");
    write_json(task, record, out);
    out.extend_from_slice(b"\n\n");
}

/// One line as a `log` event, whose JSON is there already.
pub fn write_line_json(epoch: u64, offset: u64, json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: log\n");
    write_id(epoch, offset, out);
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
}

/// An event without type or data: it moves the reader's place, and nothing else.
pub fn write_place(epoch: u64, offset: u64, out: &mut Vec<u8>) {
    write_id(epoch, offset, out);
    out.push(b'\n');
}

fn write_id(epoch: u64, offset: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let _ = writeln!(out, "id: {epoch}-{offset}"); // Writing to memory cannot fail.
}

/// A control event.
pub fn write_control(control: &Control, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Start {
        from: u64,
        end: u64,
        floor: u64,
    }
    #[derive(Serialize)]
    struct Gap {
        from: u64,
        to: u64,
        reason: GapReason,
    }
    #[derive(Serialize)]
    struct Rollback {
        to: u64,
    }
    #[derive(Serialize)]
    struct Empty {}
    #[derive(Serialize)]
    struct End<'a> {
        #[serde(flatten)]
        end: &'a EndInfo,
        #[serde(skip_serializing_if = "Option::is_none")]
        completeness: Option<&'a Completeness>,
    }
    match control {
        Control::Start { from, end, floor } => {
            write_event("start", &Start { from: *from, end: *end, floor: *floor }, out);
        }
        Control::Live => write_event("live", &Empty {}, out),
        Control::Gap { from, to, reason } => write_event("gap", &Gap { from: *from, to: *to, reason: *reason }, out),
        Control::Rollback { to } => write_event("rollback", &Rollback { to: *to }, out),
        Control::Reset => write_event("reset", &Empty {}, out),
        Control::End(end, completeness) => {
            write_event("end", &End { end, completeness: completeness.as_ref() }, out);
        }
    }
}

/// A transient picture of an unfinished line.
pub fn write_frame(frame: &FrameEvent, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Frame<'a> {
        producer: String,
        update_id: u64,
        stream: &'a str,
        message: std::borrow::Cow<'a, str>,
    }
    let frame = Frame {
        producer: frame.producer.to_string(),
        update_id: frame.update_id,
        stream: frame.stream.name(),
        message: String::from_utf8_lossy(&frame.message),
    };
    write_event("frame", &frame, out);
}

fn write_event(name: &str, data: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut *out, data).expect("writing to memory cannot fail and every value is JSON");
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use flowforge_storage::TaskStatus;

    use super::*;
    use crate::proof::{Counts, State};

    fn text(control: &Control) -> String {
        let mut out = Vec::new();
        write_control(control, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn control_events_carry_no_id() {
        assert_eq!(text(&Control::Live), "event: live\ndata: {}\n\n");
        assert_eq!(text(&Control::Rollback { to: 7 }), "event: rollback\ndata: {\"to\":7}\n\n");
        assert_eq!(
            text(&Control::Gap { from: 1, to: 3, reason: GapReason::Retention }),
            "event: gap\ndata: {\"from\":1,\"to\":3,\"reason\":\"retention\"}\n\n"
        );
        let end = EndInfo {
            attempt: 1,
            offset: 5,
            status: TaskStatus::Failed,
            exit_code: Some(3),
            lines: 4,
            dropped: 0,
            complete: true,
        };
        let json = r#""attempt":1,"offset":5,"status":"failed","exit_code":3,"lines":4,"dropped":0,"complete":true"#;
        assert_eq!(text(&Control::End(end.clone(), None)), format!("event: end\ndata: {{{json}}}\n\n"));
        let proven = Completeness {
            state: State::Verified,
            counts: Some(Counts { lines: 4, captured: 4, missing: 0, dropped: 0 }),
            reason: None,
        };
        let more = r#""completeness":{"state":"verified","lines":4,"captured":4,"missing":0,"dropped":0}"#;
        assert_eq!(text(&Control::End(end, Some(proven))), format!("event: end\ndata: {{{json},{more}}}\n\n"));
    }

    #[test]
    fn a_place_is_an_id_alone() {
        let mut out = Vec::new();
        write_place(12, 34, &mut out);
        assert_eq!(out, b"id: 12-34\n\n");
    }
}
