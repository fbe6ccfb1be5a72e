//! One task's state machine: numbers in, records out. No lock, no clock, no input or output of its own, so that it can be
//! tested against a model. Here is what it holds, and what lines do; `hello` and `ending` are how producers come and go.

mod ending;
mod hello;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowforge_storage::{LogRecord, ProducerId, ProducerRecord, TaskRecord, TaskStatus};
use tokio::sync::watch;

pub(in crate::broker) use self::hello::Opened;
use super::record;
use crate::broker::{BrokerError, NewLine, Position, Progress, record_of, rows};

/// A task in memory.
#[derive(Debug, Default)]
pub(in crate::broker) struct TaskState {
    /// `None` until the first Hello of all.
    pub(in crate::broker) record: Option<Arc<TaskRecord>>,
    /// The record's version that the store has.
    pub(in crate::broker) persisted_version: u64,
    /// The record's version in which the ended task was last taken up again; 0: never in this memory.
    pub(in crate::broker) reopened_version: u64,
    /// The record may be persisted once this offset is stored.
    pub(in crate::broker) hold: u64,
    /// Last offset given.
    pub(in crate::broker) end: u64,
    /// Last offset stored.
    pub(in crate::broker) stored: u64,
    /// Of the newest row: the broker's clock must not go back within a task.
    pub(in crate::broker) last_created_ms: i64,
    pub(in crate::broker) producers: HashMap<ProducerId, Producer>,
}

/// One producer of the task, past or present.
#[derive(Debug)]
pub(in crate::broker) struct Producer {
    progress: watch::Sender<Progress>,
    lease: Lease,
}

/// Whether anyone speaks for the producer.
#[derive(Debug, Clone, Copy)]
enum Lease {
    /// A session is open; HTTP/2 keep-alive notices when its peer is gone.
    Held,
    /// No session; the producer counts as lost from then on.
    Until(Instant),
}

impl TaskState {
    /// Where the task stands.
    pub(in crate::broker) fn position(&self) -> Position {
        Position { record: self.record.clone(), end: self.end, stored: self.stored }
    }

    /// Makes a producer known that the store has lines of; its lease begins anew.
    pub(in crate::broker) fn restore_producer(&mut self, id: ProducerId, stored_seq: u64, lease_until: Instant) {
        let progress = Progress { generation: 0, queued_seq: stored_seq, stored_seq };
        let producer = Producer { progress: watch::Sender::new(progress), lease: Lease::Until(lease_until) };
        self.producers.entry(id).or_insert(producer);
    }

    /// A producer as another memory knows it. `expired`: its lease is over.
    pub(in crate::broker) fn recall_producer(&mut self, id: ProducerId, progress: Progress, expired: bool) {
        let lease = if expired { Lease::Until(Instant::now()) } else { Lease::Held };
        self.producers.insert(id, Producer { progress: watch::Sender::new(progress), lease });
    }

    /// The store has this producer's lines up to `seq`, whatever was known before.
    pub(in crate::broker) fn note_stored_seq(&mut self, id: ProducerId, seq: u64) {
        self.producer(id).progress.send_modify(|progress| {
            progress.stored_seq = progress.stored_seq.max(seq);
            progress.queued_seq = progress.queued_seq.max(seq);
        });
    }

    /// How far each producer has come.
    pub(in crate::broker) fn progress(&self) -> impl Iterator<Item = (ProducerId, Progress)> {
        self.producers.iter().map(|(id, producer)| (*id, *producer.progress.borrow()))
    }

    /// These lines are about to come. An ended task is running again then. Returns the version of the record that has to be
    /// stored before they are taken, if any.
    pub(in crate::broker) fn reopen_for(
        &mut self,
        id: ProducerId,
        generation: u64,
        first_seq: u64,
        lines: &[NewLine],
        now_ms: i64,
    ) -> Result<Option<u64>, BrokerError> {
        let queued_seq = self.check_fence(id, generation)?.queued_seq;
        let has_ended = self.record.as_ref().is_some_and(|record| record.status != TaskStatus::Running);
        if has_ended && first_seq <= queued_seq + 1 {
            let last_seq = lines.iter().map(NewLine::seq_count).fold(first_seq - 1, u64::saturating_add);
            if last_seq > queued_seq {
                self.note_lines(id, 0, now_ms);
                self.reopened_version = self.version();
            }
        }
        Ok(self.unstored_comeback())
    }

    /// The version in which the ended task was taken up again, as long as the store does not have it. Nothing may come after
    /// the end until it does: if the memory is lost after somebody saw that, a new epoch must begin.
    pub(in crate::broker) fn unstored_comeback(&self) -> Option<u64> {
        (self.reopened_version > self.persisted_version).then_some(self.reopened_version)
    }

    /// Gives offsets to the lines that are not here yet. `first_seq` is the number of the first line.
    pub(in crate::broker) fn append(
        &mut self,
        id: ProducerId,
        generation: u64,
        first_seq: u64,
        lines: Vec<NewLine>,
        now_ms: i64,
    ) -> Result<Vec<LogRecord>, BrokerError> {
        let progress = self.check_fence(id, generation)?;
        if first_seq > progress.queued_seq + 1 {
            return Err(BrokerError::Gap { expected_seq: progress.queued_seq + 1 });
        }
        let epoch = self.position().epoch().epoch;
        let created_at_ms = now_ms.max(self.last_created_ms);
        let (mut queued, mut lost) = (progress.queued_seq, 0);
        let mut records = Vec::with_capacity(lines.len());
        for (seq, line) in new_lines(first_seq, lines, progress.queued_seq, created_at_ms) {
            lost = line.dropped.map_or(lost, |run| run.lines.saturating_add(lost));
            queued = seq;
            self.end += 1;
            records.push(record_of(line, id, seq, self.end, epoch, created_at_ms));
        }
        if records.is_empty() {
            return Ok(records);
        }
        self.last_created_ms = created_at_ms;
        self.producer(id).progress.send_modify(|progress| progress.queued_seq = queued);
        self.note_lines(id, lost, now_ms);
        Ok(records)
    }

    /// Keeps the record true after lines: counts losses, and reopens what was closed too early.
    fn note_lines(&mut self, id: ProducerId, lost: u64, now_ms: i64) {
        let Some(record) = self.record.as_mut() else { return };
        let text = id.to_string();
        let known = record.producers.iter().position(|producer| producer.id == text);
        let open = known.is_some_and(|at| record.producers[at].outcome.is_none());
        if open && lost == 0 {
            return;
        }
        let record = Arc::make_mut(record);
        record.dropped = record.dropped.saturating_add(lost).min(record::MAX_COUNT);
        match known {
            Some(at) => record::go_on(&mut record.producers[at]),
            // Its session is older than this attempt.
            None => record.producers.push(ProducerRecord::open(text, false)),
        }
        if !open {
            record::reopen(record);
        }
        record::bump(record, now_ms);
    }

    /// The session of this generation is gone: the lease begins.
    pub(in crate::broker) fn release(&mut self, id: ProducerId, generation: u64, until: Instant) {
        if let Some(producer) = self.producers.get_mut(&id)
            && producer.progress.borrow().generation == generation
        {
            producer.lease = Lease::Until(until);
        }
    }

    /// Lines up to `offset` are stored, this producer's up to `seq`.
    pub(in crate::broker) fn mark_stored(&mut self, id: ProducerId, seq: u64, offset: u64) {
        self.stored = self.stored.max(offset);
        if let Some(producer) = self.producers.get(&id) {
            producer.progress.send_if_modified(|progress| {
                let moved = seq > progress.stored_seq;
                progress.stored_seq = progress.stored_seq.max(seq);
                moved
            });
        }
    }

    /// The record, if it has changes that the store may have now. What it says of an end must be stored first, so that a
    /// crash in between leaves a task that is still running and ends again, never one that ended without its last lines.
    pub(in crate::broker) fn record_to_persist(&self) -> Option<Arc<TaskRecord>> {
        let record = self.record.as_ref().filter(|record| record.version != self.persisted_version)?;
        (self.stored >= self.hold).then(|| Arc::clone(record))
    }

    /// The record's version; 0 if there is none.
    pub(in crate::broker) fn version(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.version)
    }

    /// Nothing would be lost by forgetting this task.
    pub(in crate::broker) fn is_forgettable(&self) -> bool {
        match &self.record {
            None => true,
            Some(record) => {
                record.status != TaskStatus::Running
                    && self.stored == self.end
                    && record.version == self.persisted_version
            }
        }
    }

    fn check_fence(&self, id: ProducerId, generation: u64) -> Result<Progress, BrokerError> {
        let progress = self.producers.get(&id).map(|producer| *producer.progress.borrow()).unwrap_or_default();
        if progress.generation == generation { Ok(progress) } else { Err(BrokerError::Fenced(id)) }
    }

    fn producer(&mut self, id: ProducerId) -> &mut Producer {
        self.producers
            .entry(id)
            .or_insert_with(|| Producer { progress: watch::Sender::new(Progress::default()), lease: Lease::Held })
    }
}

impl Producer {
    fn lease_is_over(&self, now: Instant) -> bool {
        matches!(self.lease, Lease::Until(until) if until <= now)
    }
}

impl TaskState {
    /// Every producer without a session gets a whole lease from now on: the server begins to listen only now.
    pub(in crate::broker) fn restart_leases(&mut self, until: Instant) {
        for producer in self.producers.values_mut() {
            if matches!(producer.lease, Lease::Until(_)) {
                producer.lease = Lease::Until(until);
            }
        }
    }
}

/// When a lease that begins now ends.
pub(in crate::broker) fn lease_until(lease: Duration) -> Instant {
    Instant::now() + lease
}

/// The lines that are not here yet, each with its last sequence number. `first_seq` is the number of the first line, `queued`
/// the last number that is here.
pub(in crate::broker) fn new_lines(
    first_seq: u64,
    lines: Vec<NewLine>,
    mut queued: u64,
    now_ms: i64,
) -> impl Iterator<Item = (u64, NewLine)> {
    let mut seq = first_seq - 1;
    lines.into_iter().filter_map(move |line| {
        let begin = seq + 1;
        seq += line.seq_count();
        if seq <= queued {
            return None;
        }
        let line = without_known_part(line, begin, queued, now_ms)?;
        queued = seq;
        Some((seq, line))
    })
}

/// A dropped run may overlap what has arrived: only its unknown part counts. Its row is written here, with our numbers.
fn without_known_part(line: NewLine, begin: u64, queued: u64, now_ms: i64) -> Option<NewLine> {
    let Some(run) = line.dropped else { return Some(line) };
    if line.stream == flowforge_storage::Stream::System && !line.fields.is_empty() {
        return Some(line); // Our own gap row.
    }
    let first = begin.max(queued + 1);
    let lines = (begin + run.lines).checked_sub(first).filter(|lines| *lines > 0)?;
    Some(rows::dropped(now_ms, first, crate::broker::DroppedRun { lines, bytes: run.bytes }))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
