//! What the broker's tests send: a test overrides what it is about.

use std::collections::BTreeMap;

use bytes::Bytes;
use flowforge_storage::{Claim, Outcome, ProducerId, Stream, TaskKey, TaskStatus};

use super::{DroppedRun, Ending, NewLine, ProducerHello};

pub(crate) const OK: Outcome = Outcome { status: TaskStatus::Succeeded, exit_code: Some(0) };

pub(crate) fn task() -> TaskKey {
    TaskKey::new("", "t").unwrap()
}

pub(crate) fn producer(number: u8) -> ProducerId {
    ProducerId([number; 16])
}

/// The first producer owns the task.
pub(crate) fn hello(number: u8) -> ProducerHello {
    ProducerHello {
        task: task(),
        producer: producer(number),
        first_unacked_seq: 1,
        owner: number == 1,
        attempt: 0,
        workflow_id: String::new(),
        name: String::new(),
        labels: BTreeMap::new(),
    }
}

pub(crate) fn line(message: impl Into<Bytes>) -> NewLine {
    NewLine {
        time_ns: 0,
        stream: Stream::Stdout,
        level: 0,
        message: message.into(),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
        dropped: None,
    }
}

/// So many lines that were given up, of a byte each; `None`: a line.
pub(crate) fn line_or_run(dropped: Option<u64>) -> NewLine {
    let stream = if dropped.is_some() { Stream::System } else { Stream::Stdout };
    NewLine { stream, dropped: dropped.map(|lines| DroppedRun { lines, bytes: lines }), ..line("x") }
}

/// A Close without a proof.
pub(crate) fn ending(final_seq: u64, outcome: Outcome) -> Ending {
    Ending { outcome, claim: Claim { final_seq, proof: None, recovery: None } }
}
