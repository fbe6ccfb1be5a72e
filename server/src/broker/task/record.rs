//! How the record of a task changes: what each event of its life writes into it.

use flowforge_storage::{EpochStart, Outcome, ProducerRecord, TaskRecord, TaskStatus};

use crate::broker::ProducerHello;

/// Labels of one task, whoever brought them.
const MAX_LABELS: usize = 64;

/// Counts are stored as signed 64-bit integers.
pub(in crate::broker) const MAX_COUNT: u64 = i64::MAX as u64;

/// The outcome of a producer that nobody has heard of for longer than its lease.
pub(in crate::broker) const LOST: Outcome = Outcome { status: TaskStatus::Lost, exit_code: None };

/// Whether the producer said Close.
pub(in crate::broker) fn is_closed(producer: &ProducerRecord) -> bool {
    producer.outcome.is_some_and(|outcome| outcome.status != TaskStatus::Lost)
}

/// It has more to say, whatever it said of its end.
pub(in crate::broker) fn go_on(producer: &mut ProducerRecord) {
    (producer.outcome, producer.claim) = (None, None);
}

/// The first Hello of all.
pub(in crate::broker) fn of_new_task(hello: &ProducerHello, end: u64, now_ms: i64) -> TaskRecord {
    TaskRecord {
        task: hello.task.clone(),
        version: 0,
        workflow_id: String::new(),
        name: String::new(),
        labels: hello.labels.clone(),
        attempt: hello.attempt.max(1),
        attempt_base: end,
        dropped: 0,
        status: TaskStatus::Running,
        exit_code: None,
        created_at_ms: now_ms,
        started_at_ms: now_ms,
        ended_at_ms: None,
        epochs: vec![EpochStart { epoch: now_ms.max(1) as u64, base: end }],
        producers: Vec::new(),
    }
}

/// What is said of a task later adds to what was said before.
pub(in crate::broker) fn describe(record: &mut TaskRecord, hello: &ProducerHello) {
    if !hello.workflow_id.is_empty() {
        record.workflow_id.clone_from(&hello.workflow_id);
    }
    if !hello.name.is_empty() {
        record.name.clone_from(&hello.name);
    }
    for (key, value) in &hello.labels {
        if record.labels.contains_key(key) || record.labels.len() < MAX_LABELS {
            record.labels.insert(key.clone(), value.clone());
        }
    }
    record.attempt = record.attempt.max(hello.attempt);
}

/// Another try of an ended task.
pub(in crate::broker) fn begin_attempt(record: &mut TaskRecord, end: u64, now_ms: i64) {
    record.attempt = record.attempt.saturating_add(1);
    record.attempt_base = end;
    record.dropped = 0;
    record.started_at_ms = now_ms;
    record.producers.clear();
}

/// The attempt goes on.
pub(in crate::broker) fn reopen(record: &mut TaskRecord) {
    record.status = TaskStatus::Running;
    record.exit_code = None;
    record.ended_at_ms = None;
}

/// Call after every change: the store keeps the highest version.
pub(in crate::broker) fn bump(record: &mut TaskRecord, now_ms: i64) {
    record.version = (record.version + 1).max(now_ms.max(0) as u64);
}
