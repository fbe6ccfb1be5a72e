//! Everything a producer says, checked: past this module ids, sizes, numbers and JSON are good.

use std::collections::BTreeMap;

use bytes::Bytes;
use flowforge_proto::v1::{self as wire, Limits, LogBatch, LogEntry};
use flowforge_storage::{Claim, Outcome, ProducerId, Proof, Recovery, Stream, TaskKey, TaskStatus};
use tonic::Status;

use crate::broker::{DroppedRun, Ending, FrameEvent, NewLine, ProducerHello};
use crate::proof::hex;

const MAX_TEXT_BYTES: usize = 256;
const MAX_LABELS: usize = 64;
const MAX_ENTRIES: usize = 10_000;
const MAX_LEVEL: u32 = 24;

/// Offsets and sequence numbers are stored as signed 64-bit integers.
const MAX_SEQ: u64 = i64::MAX as u64;

pub(super) fn hello(hello: wire::Hello) -> Result<ProducerHello, Status> {
    let task =
        TaskKey::new(&hello.tenant, &hello.task_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let producer: [u8; 16] = hello.producer.as_ref().try_into().map_err(|_| {
        Status::invalid_argument(format!("hello.producer must be 16 bytes, but has {}", hello.producer.len()))
    })?;
    if producer == ProducerId::SERVER.0 {
        return Err(Status::invalid_argument("hello.producer must be random; all zeros is the server's own id"));
    }
    for (what, text) in [("workflow_id", &hello.workflow_id), ("name", &hello.name), ("sdk", &hello.sdk)] {
        check_text(&format!("hello.{what}"), text)?;
    }
    let labels: BTreeMap<String, String> = hello.labels.into_iter().collect();
    check_labels(&labels)?;
    if hello.first_unacked_seq > MAX_SEQ {
        return Err(Status::invalid_argument(format!("hello.first_unacked_seq must be at most {MAX_SEQ}")));
    }
    Ok(ProducerHello {
        task,
        producer: ProducerId(producer),
        first_unacked_seq: hello.first_unacked_seq.max(1),
        owner: hello.owner,
        attempt: hello.attempt,
        workflow_id: hello.workflow_id,
        name: hello.name,
        labels,
    })
}

fn check_text(what: &str, text: &str) -> Result<(), Status> {
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{what} has {} bytes, the limit is {MAX_TEXT_BYTES}", text.len())))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Status> {
    if labels.len() > MAX_LABELS {
        return Err(Status::invalid_argument(format!(
            "hello.labels has {} pairs, the limit is {MAX_LABELS}",
            labels.len()
        )));
    }
    for (key, value) in labels {
        check_text("a key of hello.labels", key)?;
        check_text("a value of hello.labels", value)?;
    }
    Ok(())
}

pub(super) fn batch(batch: LogBatch, limits: Limits) -> Result<Vec<NewLine>, Status> {
    if batch.first_seq == 0 || batch.first_seq > MAX_SEQ {
        return Err(Status::invalid_argument(format!("batch.first_seq must be 1 to {MAX_SEQ}")));
    }
    if batch.entries.is_empty() || batch.entries.len() > MAX_ENTRIES {
        return Err(Status::invalid_argument(format!(
            "batch at seq {} has {} entries; 1 to {MAX_ENTRIES} are allowed",
            batch.first_seq,
            batch.entries.len()
        )));
    }
    let mut seq = batch.first_seq;
    let mut lines = Vec::with_capacity(batch.entries.len());
    for entry in batch.entries {
        let line = line(entry, seq, limits)?;
        seq = seq.checked_add(line.seq_count()).filter(|seq| *seq <= MAX_SEQ).ok_or_else(|| {
            Status::invalid_argument(format!("the entry at seq {seq} goes beyond the largest number {MAX_SEQ}"))
        })?;
        lines.push(line);
    }
    Ok(lines)
}

fn line(entry: LogEntry, seq: u64, limits: Limits) -> Result<NewLine, Status> {
    let max_bytes = limits.max_line_bytes as usize;
    for (what, size) in [("message", entry.message.len()), ("fields_json", entry.fields_json.len())] {
        if size > max_bytes {
            return Err(Status::out_of_range(format!(
                "the entry at seq {seq} has a {what} of {size} bytes, the limit is {max_bytes}"
            )));
        }
    }
    if entry.level > MAX_LEVEL {
        return Err(invalid(seq, &format!("level {}, but 0 to {MAX_LEVEL} are allowed", entry.level)));
    }
    let dropped = entry.dropped.map(|run| DroppedRun { lines: run.lines, bytes: run.bytes });
    if dropped.is_some_and(|run| run.lines == 0 || run.lines > MAX_SEQ) {
        return Err(invalid(seq, "dropped.lines out of range: at least 1"));
    }
    let stream = stream_of(entry.stream, seq)?;
    if stream == Stream::System && dropped.is_none() {
        return Err(invalid(seq, "stream SYSTEM, which a client may use only with dropped"));
    }
    Ok(NewLine {
        time_ns: entry.time_unix_nano,
        stream,
        level: entry.level as u8,
        message: entry.message,
        fields: if dropped.is_some() { Bytes::new() } else { fields(entry.fields_json, seq)? },
        update_id: entry.update_id & MAX_SEQ,
        continued: entry.continued,
        no_newline: entry.no_newline,
        dropped,
    })
}

fn stream_of(number: i32, seq: u64) -> Result<Stream, Status> {
    match wire::Stream::try_from(number) {
        Ok(wire::Stream::Unspecified | wire::Stream::Stdout) => Ok(Stream::Stdout),
        Ok(wire::Stream::Stderr) => Ok(Stream::Stderr),
        Ok(wire::Stream::Log) => Ok(Stream::Log),
        Ok(wire::Stream::System) => Ok(Stream::System),
        Err(_) => Err(invalid(seq, &format!("unknown stream {number}"))),
    }
}

/// One JSON object, on one line: a raw line break in it would break the framing of whoever forwards it.
fn fields(json: Bytes, seq: u64) -> Result<Bytes, Status> {
    if json.is_empty() {
        return Ok(json);
    }
    let _: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|_| invalid(seq, "fields_json that is not a JSON object"))?;
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if json.iter().any(is_break) {
        // Between two tokens, since a string cannot hold one; so what it says stays, to the last digit.
        return Ok(json.iter().map(|byte| if is_break(byte) { b' ' } else { *byte }).collect::<Vec<_>>().into());
    }
    Ok(json)
}

fn invalid(seq: u64, what: &str) -> Status {
    Status::invalid_argument(format!("the entry at seq {seq} has {what}"))
}

/// `None`: the frame names no bar, so there is nothing it could replace.
pub(super) fn frame(frame: wire::Frame, producer: ProducerId, limits: Limits) -> Result<Option<FrameEvent>, Status> {
    if frame.message.len() > limits.max_line_bytes as usize {
        return Err(Status::out_of_range(format!(
            "a frame has {} bytes, the limit is {}",
            frame.message.len(),
            limits.max_line_bytes
        )));
    }
    let update_id = frame.update_id & MAX_SEQ;
    if update_id == 0 {
        return Ok(None);
    }
    let stream = stream_of(frame.stream, 0)?;
    Ok(Some(FrameEvent { producer, update_id, stream, message: frame.message }))
}

pub(super) fn close(close: &wire::Close) -> Result<Ending, Status> {
    let status = match wire::Status::try_from(close.status) {
        Ok(wire::Status::Succeeded) => TaskStatus::Succeeded,
        Ok(wire::Status::Unspecified) if close.exit_code.unwrap_or(0) == 0 => TaskStatus::Succeeded,
        Ok(wire::Status::Failed | wire::Status::Unspecified) => TaskStatus::Failed,
        Err(_) => return Err(Status::invalid_argument(format!("close.status {} is unknown", close.status))),
    };
    let proof = close.proof.as_ref().map(proof).transpose()?;
    let recovery = match wire::Recovery::try_from(close.recovery) {
        Ok(wire::Recovery::Unspecified) => None,
        Ok(wire::Recovery::Clean) => Some(Recovery::Clean),
        // What a later client may say is no reason to trust more.
        Ok(wire::Recovery::Damaged) | Err(_) => Some(Recovery::Damaged),
    };
    let claim = Claim { final_seq: close.final_seq, proof, recovery };
    Ok(Ending { outcome: Outcome { status, exit_code: close.exit_code }, claim })
}

fn proof(proof: &wire::Proof) -> Result<Proof, Status> {
    let digest: [u8; 32] = proof.digest.as_ref().try_into().map_err(|_| {
        Status::invalid_argument(format!("close.proof.digest must be 32 bytes, but has {}", proof.digest.len()))
    })?;
    if proof.lines > MAX_SEQ || proof.bytes > MAX_SEQ {
        return Err(Status::invalid_argument(format!("close.proof: lines and bytes must be at most {MAX_SEQ}")));
    }
    Ok(Proof { lines: proof.lines, bytes: proof.bytes, digest: hex(&digest) })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const LIMITS: Limits = Limits { max_line_bytes: 64, max_message_bytes: 1 << 20 };

    fn entry(message: &'static [u8]) -> LogEntry {
        LogEntry { message: Bytes::from_static(message), ..LogEntry::default() }
    }

    #[test]
    fn a_refusal_names_the_entry_and_the_rule() {
        let long = LogEntry { message: vec![b'x'; 65].into(), ..LogEntry::default() };
        let cases = [
            (long, Code::OutOfRange, "the entry at seq 8 has a message of 65 bytes, the limit is 64"),
            (LogEntry { level: 25, ..entry(b"") }, Code::InvalidArgument, "seq 8 has level 25"),
            (LogEntry { stream: 9, ..entry(b"") }, Code::InvalidArgument, "seq 8 has unknown stream 9"),
            (LogEntry { stream: 4, ..entry(b"") }, Code::InvalidArgument, "only with dropped"),
            (LogEntry { fields_json: "[1]".into(), ..entry(b"") }, Code::InvalidArgument, "not a JSON object"),
            (LogEntry { fields_json: "{\"a\":".into(), ..entry(b"") }, Code::InvalidArgument, "not a JSON object"),
        ];
        for (bad, code, words) in cases {
            let status = batch(LogBatch { first_seq: 7, entries: vec![entry(b"ok"), bad] }, LIMITS).unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(words), "{status}");
        }
    }

    #[test]
    fn fields_come_out_on_one_line() {
        let line = line(LogEntry { fields_json: "{\n \"a\": 1\r\n}".into(), ..entry(b"") }, 1, LIMITS).unwrap();
        assert_eq!(line.fields, "{  \"a\": 1  }".as_bytes());
    }

    #[test]
    fn numbers_that_cannot_be_stored_are_refused() {
        for first_seq in [0, u64::MAX] {
            assert!(batch(LogBatch { first_seq, entries: vec![entry(b"")] }, LIMITS).is_err());
        }
        let dropped = LogEntry { dropped: Some(wire::Dropped { lines: u64::MAX, bytes: 0 }), ..entry(b"") };
        assert!(batch(LogBatch { first_seq: 5, entries: vec![dropped] }, LIMITS).is_err());
        assert!(batch(LogBatch { first_seq: 1, entries: vec![] }, LIMITS).is_err());
    }

    #[test]
    fn the_exit_code_decides_where_the_status_does_not() {
        let said = |status, exit_code| wire::Close { status, exit_code, ..wire::Close::default() };
        let outcome = |status, exit_code| close(&said(status, exit_code)).unwrap().outcome.status;
        assert_eq!(outcome(0, None), TaskStatus::Succeeded);
        assert_eq!(outcome(0, Some(1)), TaskStatus::Failed);
        assert_eq!(outcome(1, Some(1)), TaskStatus::Succeeded);
        assert!(close(&said(7, None)).is_err());
    }

    #[test]
    fn a_claim_is_taken_as_it_is_and_a_bad_digest_is_refused() {
        let said = |digest: usize| wire::Close {
            final_seq: 9,
            proof: Some(wire::Proof { lines: 8, bytes: 70, digest: vec![0xab; digest].into() }),
            recovery: 7,
            ..wire::Close::default()
        };
        let claim = close(&said(32)).unwrap().claim;
        let proof = Proof { lines: 8, bytes: 70, digest: "ab".repeat(32) };
        assert_eq!(claim, Claim { final_seq: 9, proof: Some(proof), recovery: Some(Recovery::Damaged) });
        assert!(close(&said(31)).unwrap_err().message().contains("32 bytes, but has 31"));
    }

    #[test]
    fn a_hello_must_name_itself() {
        let good = wire::Hello { task_id: "t".into(), producer: vec![1; 16].into(), ..wire::Hello::default() };
        assert!(hello(good.clone()).is_ok());
        for producer in [vec![], vec![1; 15], vec![0; 16]] {
            assert!(hello(wire::Hello { producer: producer.into(), ..good.clone() }).is_err());
        }
        assert!(hello(wire::Hello { task_id: "../x".into(), ..good.clone() }).is_err());
        assert!(hello(wire::Hello { name: "x".repeat(257), ..good }).is_err());
    }
}
