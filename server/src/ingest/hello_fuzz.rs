//! Hostile producers, for `tests/fuzz` and the tests: one message as it comes off the wire, decoded and checked.

use flowforge_proto::v1::{Limits, StreamLogsRequest, stream_logs_request::Message};
use flowforge_storage::{ProducerId, Stream, TaskKey};
use prost::Message as _;
use serde_json::{Map, Value};

use super::validate;
use crate::broker::{Ending, FrameEvent, NewLine, ProducerHello};

/// So small that an input can exceed them.
const LIMITS: Limits = Limits { max_line_bytes: 200, max_message_bytes: 4096 };
const MAX_SEQ: u64 = i64::MAX as u64;

/// The body of the target `hello`: what is accepted keeps every promise that the rest of the server relies on.
pub(crate) fn hello(input: &[u8]) {
    let Ok(request) = StreamLogsRequest::decode(input) else { return };
    match request.message {
        Some(Message::Hello(hello)) => drop(validate::hello(hello).map(|hello| check_hello(&hello))),
        Some(Message::Batch(batch)) => {
            let (first_seq, sent) = (batch.first_seq, batch.entries.clone());
            if let Ok(lines) = validate::batch(batch, LIMITS) {
                check_numbers(first_seq, &lines);
                assert_eq!(lines.len(), sent.len());
                lines.iter().zip(&sent).for_each(|(line, sent)| check_line(line, &sent.fields_json));
            }
        }
        Some(Message::Frame(frame)) => {
            let frame = validate::frame(frame, ProducerId([1; 16]), LIMITS);
            frame.iter().flatten().for_each(check_frame);
        }
        Some(Message::Close(close)) => drop(validate::close(&close).map(|ending| check_ending(&ending))),
        _ => {}
    }
}

fn check_hello(hello: &ProducerHello) {
    assert_eq!(TaskKey::new(hello.task.tenant(), hello.task.task_id()).expect("both names are valid"), hello.task);
    assert_ne!(hello.producer, ProducerId::SERVER);
    assert!((1..=MAX_SEQ).contains(&hello.first_unacked_seq));
    assert!(hello.labels.len() <= 64);
    let labels = hello.labels.iter().flat_map(|(key, value)| [key, value]);
    assert!([&hello.workflow_id, &hello.name].into_iter().chain(labels).all(|text| text.len() <= 256));
}

/// Neither the numbers of the lines nor the one after them leave what a database can hold.
fn check_numbers(first_seq: u64, lines: &[NewLine]) {
    assert!(first_seq >= 1 && (1..=10_000).contains(&lines.len()));
    let last = lines.iter().try_fold(first_seq, |seq, line| seq.checked_add(line.seq_count()));
    assert!(last.is_some_and(|seq| seq <= MAX_SEQ));
}

fn check_line(line: &NewLine, sent_fields: &[u8]) {
    let most = LIMITS.max_line_bytes as usize;
    assert!(line.message.len() <= most && line.fields.len() <= most, "{} bytes of fields", line.fields.len());
    assert!(line.level <= 24 && line.update_id <= MAX_SEQ);
    assert!(line.dropped.is_none_or(|run| (1..=MAX_SEQ).contains(&run.lines)));
    assert!(line.dropped.is_some() || line.stream != Stream::System, "only the server speaks as the system");
    if line.fields.is_empty() {
        assert!(line.dropped.is_some() || sent_fields.is_empty(), "what was sent is kept");
        return;
    }
    assert!(!line.fields.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
    let object = |json| serde_json::from_slice::<Map<String, Value>>(json).expect("a JSON object");
    assert_eq!(object(&line.fields), object(sent_fields));
}

fn check_frame(frame: &FrameEvent) {
    assert!((1..=MAX_SEQ).contains(&frame.update_id), "it names a bar");
    assert!(frame.message.len() <= LIMITS.max_line_bytes as usize);
}

fn check_ending(ending: &Ending) {
    if let Some(proof) = &ending.claim.proof {
        assert!(proof.lines <= MAX_SEQ && proof.bytes <= MAX_SEQ);
        assert!(proof.digest.len() == 64 && proof.digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[cfg(test)]
mod tests {
    use flowforge_proto::v1::{self as wire, Dropped, LogBatch, LogEntry};

    use super::*;
    use crate::replay;

    #[test]
    fn what_a_hostile_producer_says_is_checked() {
        replay::replay("hello", 20_000, hello);
    }

    fn seed(message: Message) -> Vec<u8> {
        StreamLogsRequest { message: Some(message) }.encode_to_vec()
    }

    fn batch(first_seq: u64, entries: Vec<LogEntry>) -> Vec<u8> {
        seed(Message::Batch(LogBatch { first_seq, entries }))
    }

    /// `cargo test -p flowforge-server --lib writes_the_hello_seeds -- --ignored`
    #[test]
    #[ignore = "makes the corpus"]
    fn writes_the_hello_seeds() {
        let labels = [("team".to_owned(), "a".to_owned())].into();
        let hello = wire::Hello {
            tenant: "a".to_owned(),
            task_id: "t-1".to_owned(),
            producer: vec![1; 16].into(),
            labels,
            first_unacked_seq: 9,
            owner: true,
            ..wire::Hello::default()
        };
        let line = |fields: &'static str| LogEntry {
            time_unix_nano: 1,
            stream: 3,
            level: 9,
            message: "text".into(),
            fields_json: fields.into(),
            update_id: 3,
            ..LogEntry::default()
        };
        let dropped = LogEntry { stream: 4, dropped: Some(Dropped { lines: 5, bytes: 50 }), ..LogEntry::default() };
        let frame = |update_id| wire::Frame { update_id, stream: 1, message: "50 %".into() };
        let proof = Some(wire::Proof { lines: 8, bytes: 70, digest: vec![0xab; 32].into() });
        let close = wire::Close { status: 1, exit_code: Some(0), final_seq: 9, proof, ..wire::Close::default() };
        let seeds = [
            ("hello", seed(Message::Hello(hello))),
            ("lines", batch(1, vec![line("{\"a\": 1.5}"), dropped, line("")])),
            ("broken_fields", batch(7, vec![line("{\"a\":\r\n[1e15,1e15,\n\"x\\u0001\"]}")])),
            ("last_number", batch(MAX_SEQ - 1, vec![line("")])),
            ("frame", seed(Message::Frame(frame(1)))),
            ("frame_of_no_bar", seed(Message::Frame(frame(1 << 63)))),
            ("close", seed(Message::Close(close))),
        ];
        replay::write_seeds("hello", &seeds);
    }
}
