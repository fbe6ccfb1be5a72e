//! How producers end, each by its Close or by its lease, and with the last of them the attempt.

use std::sync::Arc;
use std::time::Instant;

use flowforge_storage::{Claim, LogRecord, Outcome, ProducerId};

use super::super::record;
use super::TaskState;
use crate::broker::position::EndInfo;
use crate::broker::{BrokerError, Ending, record_of, rows};

impl TaskState {
    /// A producer is done. Returns the end row if it was the last one.
    pub(in crate::broker) fn close(
        &mut self,
        id: ProducerId,
        generation: u64,
        ending: Ending,
        now_ms: i64,
    ) -> Result<Vec<LogRecord>, BrokerError> {
        let progress = self.check_fence(id, generation)?;
        let final_seq = ending.claim.final_seq;
        if final_seq > progress.queued_seq {
            return Err(BrokerError::Gap { expected_seq: progress.queued_seq + 1 });
        }
        if final_seq < progress.queued_seq {
            return Err(BrokerError::Invalid(format!(
                "close.final_seq is {final_seq}, but this producer has already sent up to {}",
                progress.queued_seq
            )));
        }
        let rows = self.finish(id, ending.outcome, now_ms).into_iter().collect();
        self.note_claim(id, ending.claim, now_ms);
        Ok(rows)
    }

    /// Keeps what a closed producer says of itself. Also when its Close comes again: the first may have left no more than the
    /// end row, before a crash.
    fn note_claim(&mut self, id: ProducerId, claim: Claim, now_ms: i64) {
        let text = id.to_string();
        let Some(record) = self.record.as_mut() else { return };
        let Some(at) = record.producers.iter().position(|producer| producer.id == text) else { return };
        if record.producers[at].claim.as_ref() == Some(&claim) {
            return;
        }
        let record = Arc::make_mut(record);
        record.producers[at].claim = Some(claim);
        record::bump(record, now_ms);
    }

    /// Ends every open producer whose lease ran out. Returns the end row if none is left.
    pub(in crate::broker) fn expire(&mut self, now: Instant, now_ms: i64) -> Option<LogRecord> {
        if self.unstored_comeback().is_some() {
            return None; // Its next end waits for that as well.
        }
        let record = self.record.as_ref()?;
        let lost: Vec<ProducerId> = record
            .producers
            .iter()
            .filter(|producer| producer.outcome.is_none())
            .filter_map(|producer| ProducerId::from_hex(&producer.id))
            .filter(|id| self.producers.get(id).is_none_or(|producer| producer.lease_is_over(now)))
            .collect();
        lost.into_iter().filter_map(|id| self.finish(id, record::LOST, now_ms)).last()
    }

    /// Notes a producer's outcome; ends the attempt when it was the last.
    pub(super) fn finish(&mut self, id: ProducerId, outcome: Outcome, now_ms: i64) -> Option<LogRecord> {
        let text = id.to_string();
        let record = Arc::make_mut(self.record.as_mut()?);
        let producer =
            record.producers.iter_mut().find(|producer| producer.id == text && producer.outcome.is_none())?;
        producer.outcome = Some(outcome);
        record::bump(record, now_ms);
        // The outcome is true once everything before it is stored.
        self.hold = self.hold.max(self.end);
        if record.producers.iter().any(|producer| producer.outcome.is_none()) {
            return None;
        }
        let decisive = record.producers.iter().find(|producer| producer.owner).or_else(|| record.producers.first());
        let outcome = decisive.and_then(|producer| producer.outcome).unwrap_or(outcome);
        self.last_created_ms = now_ms.max(self.last_created_ms);
        record.status = outcome.status;
        record.exit_code = outcome.exit_code;
        record.ended_at_ms = Some(self.last_created_ms);
        self.end += 1;
        self.hold = self.end;
        let info = EndInfo::of(record, self.end)?;
        let line = rows::end(self.last_created_ms, &info);
        Some(record_of(line, ProducerId::SERVER, 0, self.end, record.epoch().epoch, self.last_created_ms))
    }
}
