//! What a Hello does: it fences the producer's older session, and begins, goes on with or supersedes an attempt.

use std::sync::Arc;

use flowforge_storage::{LogRecord, ProducerId, ProducerRecord, TaskStatus};
use tokio::sync::watch;

use super::super::record;
use super::{Lease, Producer, TaskState};
use crate::broker::{BrokerError, NewLine, ProducerHello, Progress, Welcome, rows};

/// What opening a session gives.
#[derive(Debug)]
pub(in crate::broker) struct Opened {
    pub(in crate::broker) welcome: Welcome,
    pub(in crate::broker) progress: watch::Receiver<Progress>,
    /// The end row of a superseded attempt.
    pub(in crate::broker) rows: Vec<LogRecord>,
    /// Lines are missing for good: to be appended as the producer's next, once the store has the record.
    pub(in crate::broker) gap: Option<NewLine>,
}

impl TaskState {
    /// A producer says Hello.
    pub(in crate::broker) fn open(
        &mut self,
        hello: &ProducerHello,
        max_producers: usize,
        now_ms: i64,
    ) -> Result<Opened, BrokerError> {
        let rows = self.join(hello, max_producers, now_ms)?;
        let producer = self
            .producers
            .entry(hello.producer)
            .or_insert_with(|| Producer { progress: watch::Sender::new(Progress::default()), lease: Lease::Held });
        producer.lease = Lease::Held;
        // Raising the generation in the watched value is what tells the older session that it is fenced.
        producer.progress.send_modify(|progress| progress.generation += 1);
        let progress = *producer.progress.borrow();
        let receiver = producer.progress.subscribe();

        let expected = progress.queued_seq + 1;
        let gap =
            (hello.first_unacked_seq > expected).then(|| rows::gap(now_ms, expected, hello.first_unacked_seq - 1));
        let Progress { generation, queued_seq, stored_seq } = progress;
        let welcome = Welcome { epoch: self.position().epoch().epoch, generation, queued_seq, stored_seq };
        Ok(Opened { welcome, progress: receiver, rows, gap })
    }

    /// Puts the producer into the record, beginning an attempt or reopening the task where that is due. Returns the end row
    /// of the attempt that this one supersedes, if any.
    fn join(
        &mut self,
        hello: &ProducerHello,
        max_producers: usize,
        now_ms: i64,
    ) -> Result<Vec<LogRecord>, BrokerError> {
        let id = hello.producer.to_string();
        let (mut known, mut supersedes) = (None, false);
        if let Some(record) = &self.record {
            known = record.producers.iter().position(|producer| producer.id == id);
            if known.is_some_and(|at| record::is_closed(&record.producers[at])) {
                return Ok(Vec::new()); // It comes back only to learn that its Close is stored.
            }
            let running = record.status == TaskStatus::Running;
            supersedes = running && known.is_none() && hello.attempt > record.attempt && !record.producers.is_empty();
            if known.is_none() && running && !supersedes && record.producers.len() >= max_producers {
                return Err(BrokerError::TooManyProducers(max_producers));
            }
        }
        let rows = if supersedes { self.end_attempt_as_lost(now_ms) } else { Vec::new() };
        let end = self.end;
        let before = self.record.clone();
        let record = self.record.get_or_insert_with(|| Arc::new(record::of_new_task(hello, end, now_ms)));
        let record = Arc::make_mut(record);
        if record.status != TaskStatus::Running {
            if known.is_none() {
                record::begin_attempt(record, end, now_ms);
                self.hold = self.hold.max(end);
            }
            record::reopen(record);
        }
        record::describe(record, hello);
        match known {
            Some(at) => record::go_on(&mut record.producers[at]),
            None => record.producers.push(ProducerRecord::open(id, hello.owner)),
        }
        let was_ended = before.as_ref().is_some_and(|before| before.status != TaskStatus::Running);
        if before.is_none_or(|before| *before != *record) {
            record::bump(record, now_ms);
        }
        if was_ended {
            self.reopened_version = record.version;
        }
        Ok(rows)
    }

    /// A new attempt begins while producers of this one are still expected: nobody speaks for them any more.
    fn end_attempt_as_lost(&mut self, now_ms: i64) -> Vec<LogRecord> {
        let open =
            self.record.iter().flat_map(|record| &record.producers).filter(|producer| producer.outcome.is_none());
        let open: Vec<ProducerId> = open.filter_map(|producer| ProducerId::from_hex(&producer.id)).collect();
        open.into_iter().filter_map(|id| self.finish(id, record::LOST, now_ms)).collect()
    }
}
