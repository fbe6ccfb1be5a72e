//! The task's state machine against its rules, over random histories of several producers.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use flowforge_storage::{Stream, TaskKey};
use proptest::prelude::*;

use super::*;
use crate::broker::DroppedRun;

fn hello(producer: u8, first_unacked_seq: u64) -> ProducerHello {
    ProducerHello {
        task: TaskKey::new("", "t").unwrap(),
        producer: ProducerId([producer + 1; 16]),
        first_unacked_seq,
        owner: producer == 0,
        attempt: 0,
        workflow_id: String::new(),
        name: String::new(),
        labels: std::collections::BTreeMap::new(),
    }
}

fn line(dropped: Option<u64>) -> NewLine {
    NewLine {
        time_ns: 0,
        stream: if dropped.is_some() { Stream::System } else { Stream::Stdout },
        level: 0,
        message: Bytes::from_static(b"x"),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
        dropped: dropped.map(|lines| DroppedRun { lines, bytes: lines }),
    }
}

fn closed(final_seq: u64, status: TaskStatus) -> Ending {
    let outcome = Outcome { status, exit_code: None };
    Ending { outcome, claim: Claim { final_seq, proof: None, recovery: None } }
}

#[derive(Debug, Clone)]
enum Op {
    Open { producer: u8, lost: u64, attempt: u32 },
    Append { producer: u8, back: u64, ahead: u64, lines: Vec<Option<u64>> },
    AppendFenced { producer: u8 },
    Close { producer: u8 },
    Leave { producer: u8 },
    LeasesRunOut,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let producer = 0..3u8;
    let lines = prop::collection::vec(prop_oneof![4 => Just(None), 1 => (1..5u64).prop_map(Some)], 1..6);
    let op = prop_oneof![
        3 => (producer.clone(), prop_oneof![5 => Just(0), 1 => 1..4u64], 0..4u32)
            .prop_map(|(producer, lost, attempt)| Op::Open { producer, lost, attempt }),
        8 => (producer.clone(), 0..8u64, prop_oneof![6 => Just(0), 1 => 1..3u64], lines)
            .prop_map(|(producer, back, ahead, lines)| Op::Append { producer, back, ahead, lines }),
        1 => producer.clone().prop_map(|producer| Op::AppendFenced { producer }),
        2 => producer.clone().prop_map(|producer| Op::Close { producer }),
        1 => producer.prop_map(|producer| Op::Leave { producer }),
        1 => Just(Op::LeasesRunOut),
    ];
    prop::collection::vec(op, 1..60)
}

/// What the rules say, kept beside the machine.
#[derive(Default)]
struct Model {
    state: TaskState,
    sessions: HashMap<u8, u64>,
    queued: HashMap<ProducerId, u64>,
    rows: Vec<LogRecord>,
}

impl Model {
    /// Checks every row that came out against all before it.
    fn take(&mut self, rows: Vec<LogRecord>) {
        for row in rows {
            assert_eq!(row.offset, self.rows.len() as u64 + 1, "offsets are contiguous");
            if let Some(last) = self.rows.last() {
                assert!(row.created_at_ms >= last.created_at_ms, "the broker's clock does not go back");
            }
            if row.producer != ProducerId::SERVER {
                let queued = self.queued.entry(row.producer).or_default();
                let covered = rows::lost_lines(&row).max(1);
                assert_eq!(*queued + covered, row.seq, "every number is covered once, in order");
                *queued = row.seq;
            }
            self.rows.push(row);
        }
        assert_eq!(self.state.end, self.rows.len() as u64);
    }

    fn apply(&mut self, op: Op, now_ms: i64) {
        match op {
            Op::Open { producer, lost, attempt } => {
                let id = ProducerId([producer + 1; 16]);
                let queued = self.queued.get(&id).copied().unwrap_or(0);
                let hello = ProducerHello { attempt, ..hello(producer, queued + 1 + lost) };
                let opened = self.state.open(&hello, 8, now_ms).unwrap();
                assert_eq!(opened.welcome.queued_seq, queued + lost, "a gap is declared, and passed");
                let gaps = opened.rows.iter().filter(|row| rows::lost_lines(row) > 0).count();
                assert_eq!(gaps, usize::from(lost > 0));
                self.sessions.insert(producer, opened.welcome.generation);
                self.take(opened.rows);
            }
            Op::Append { producer, back, ahead, lines } => self.append(producer, back, ahead, &lines, now_ms),
            Op::AppendFenced { producer } => {
                let Some(generation) = self.sessions.get(&producer) else { return };
                let id = ProducerId([producer + 1; 16]);
                let refused = self.state.append(id, generation.wrapping_sub(1), 1, vec![line(None)], now_ms);
                assert!(matches!(refused, Err(BrokerError::Fenced(_))));
            }
            Op::Close { producer } => {
                let Some(generation) = self.sessions.get(&producer).copied() else { return };
                let id = ProducerId([producer + 1; 16]);
                let queued = self.queued.get(&id).copied().unwrap_or(0);
                let beyond = self.state.close(id, generation, closed(queued + 1, TaskStatus::Succeeded), now_ms);
                assert!(matches!(beyond, Err(BrokerError::Gap { expected_seq }) if expected_seq == queued + 1));
                let rows = self.state.close(id, generation, closed(queued, TaskStatus::Succeeded), now_ms).unwrap();
                self.take(rows);
            }
            Op::Leave { producer } => {
                let Some(generation) = self.sessions.remove(&producer) else { return };
                self.state.release(ProducerId([producer + 1; 16]), generation, Instant::now());
            }
            Op::LeasesRunOut => {
                let row = self.state.expire(Instant::now() + Duration::from_secs(1), now_ms);
                self.take(row.into_iter().collect());
            }
        }
        self.check_end();
    }

    fn append(&mut self, producer: u8, back: u64, ahead: u64, lines: &[Option<u64>], now_ms: i64) {
        let Some(generation) = self.sessions.get(&producer).copied() else { return };
        let id = ProducerId([producer + 1; 16]);
        let queued = self.queued.get(&id).copied().unwrap_or(0);
        let first = if ahead > 0 { queued + 1 + ahead } else { (queued + 1).saturating_sub(back).max(1) };
        let last = first + lines.iter().map(|lines| lines.unwrap_or(1)).sum::<u64>() - 1;
        let lines = lines.iter().map(|lines| line(*lines)).collect();
        match self.state.append(id, generation, first, lines, now_ms) {
            Err(BrokerError::Gap { expected_seq }) => {
                assert!(ahead > 0 && expected_seq == queued + 1, "only a gap is refused");
            }
            other => {
                assert_eq!(ahead, 0, "a gap must be refused");
                self.take(other.unwrap());
                assert_eq!(self.queued.get(&id).copied().unwrap_or(0), queued.max(last), "what is new is taken");
            }
        }
    }

    /// A task has ended exactly when every producer has, and then its last row says so.
    fn check_end(&self) {
        let Some(record) = &self.state.record else { return };
        let all_ended = record.producers.iter().all(|producer| producer.outcome.is_some());
        assert_eq!(record.status != TaskStatus::Running, all_ended, "{record:?}");
        if let Some(info) = self.state.position().ended() {
            let said = self.rows.last().and_then(rows::parse_end).expect("the last row is the end row");
            assert_eq!((said.offset, said.status, said.lines), (info.offset, info.status, info.lines));
        }
        let base = record.attempt_base;
        let lost: u64 = self.rows.iter().filter(|row| row.offset > base).map(rows::lost_lines).sum();
        assert_eq!(record.dropped, lost, "every lost line is counted");
    }
}

proptest! {
    #[test]
    fn the_rules_hold_over_any_history(ops in ops(), clock in prop::collection::vec(-5_000i64..5_000, 60)) {
        let mut model = Model::default();
        for (op, skew) in ops.into_iter().zip(clock) {
            model.apply(op, 1_700_000_000_000 + skew);
        }
    }
}

#[test]
fn the_owner_decides_the_status() {
    let mut state = TaskState::default();
    let child = state.open(&hello(1, 1), 8, 0).unwrap().welcome.generation;
    let owner = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    assert!(state.close(ProducerId([1; 16]), owner, closed(0, TaskStatus::Failed), 0).unwrap().is_empty());
    let rows = state.close(ProducerId([2; 16]), child, closed(0, TaskStatus::Succeeded), 0).unwrap();
    assert_eq!(rows::parse_end(&rows[0]).unwrap().status, TaskStatus::Failed);
}

#[test]
fn a_closed_producer_that_comes_back_changes_nothing() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    assert_eq!(state.close(ProducerId([1; 16]), first, closed(0, TaskStatus::Succeeded), 0).unwrap().len(), 1);
    let version = state.record.as_ref().unwrap().version;
    let again = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    assert!(state.close(ProducerId([1; 16]), again, closed(0, TaskStatus::Succeeded), 0).unwrap().is_empty());
    let record = state.record.as_ref().unwrap();
    assert_eq!((record.status, record.attempt, record.version, state.end), (TaskStatus::Succeeded, 1, version, 1));
}

#[test]
fn another_producer_after_the_end_is_another_attempt() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.close(ProducerId([1; 16]), first, closed(0, TaskStatus::Failed), 0).unwrap();
    state.open(&hello(1, 1), 8, 5).unwrap();
    let record = state.record.clone().unwrap();
    assert_eq!((record.attempt, record.attempt_base, record.status), (2, 1, TaskStatus::Running));
    assert_eq!((record.exit_code, record.ended_at_ms, record.producers.len()), (None, None, 1));
}

#[test]
fn a_lost_producer_that_comes_back_goes_on_in_its_attempt() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.release(ProducerId([1; 16]), first, Instant::now());
    let row = state.expire(Instant::now() + Duration::from_secs(1), 0).unwrap();
    let info = rows::parse_end(&row).unwrap();
    assert_eq!((info.status, info.complete), (TaskStatus::Lost, false));
    state.open(&hello(0, 1), 8, 0).unwrap();
    let record = state.record.clone().unwrap();
    assert_eq!((record.attempt, record.status), (1, TaskStatus::Running));
}

#[test]
fn producers_are_limited_and_the_refused_one_leaves_no_trace() {
    let mut state = TaskState::default();
    state.open(&hello(0, 1), 1, 0).unwrap();
    let before = state.record.clone();
    assert!(matches!(state.open(&hello(1, 1), 1, 0), Err(BrokerError::TooManyProducers(1))));
    assert_eq!(state.record, before);
}

#[test]
fn a_higher_attempt_ends_the_one_that_nobody_speaks_for() {
    let mut state = TaskState::default();
    let dead = state.open(&ProducerHello { attempt: 1, ..hello(0, 1) }, 8, 0).unwrap().welcome.generation;
    state.release(ProducerId([1; 16]), dead, Instant::now() + Duration::from_secs(30));
    let opened = state.open(&ProducerHello { attempt: 2, owner: true, ..hello(1, 1) }, 8, 5).unwrap();
    let ended = rows::parse_end(&opened.rows[0]).unwrap();
    assert_eq!((ended.attempt, ended.status, ended.complete), (1, TaskStatus::Lost, false));
    let rows =
        state.close(ProducerId([2; 16]), opened.welcome.generation, closed(0, TaskStatus::Succeeded), 9).unwrap();
    let info = rows::parse_end(&rows[0]).unwrap();
    assert_eq!((info.attempt, info.status, info.complete, info.lines), (2, TaskStatus::Succeeded, true, 0));
}

#[test]
fn an_outcome_is_kept_back_until_the_lines_before_it_are_stored() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.open(&hello(1, 1), 8, 0).unwrap();
    state.persisted_version = state.version();
    state.append(ProducerId([1; 16]), first, 1, vec![line(None)], 0).unwrap();
    state.close(ProducerId([1; 16]), first, closed(1, TaskStatus::Succeeded), 0).unwrap();
    assert!(state.record_to_persist().is_none(), "the line is not stored");
    state.mark_stored(ProducerId([1; 16]), 1, 1);
    assert!(state.record_to_persist().is_some());
}

#[test]
fn numbers_from_outside_cannot_overflow() {
    let mut state = TaskState::default();
    let huge = ProducerHello { attempt: u32::MAX, ..hello(0, i64::MAX as u64) };
    let generation = state.open(&huge, 8, 0).unwrap().welcome.generation;
    state.open(&hello(1, i64::MAX as u64), 8, 0).unwrap();
    assert_eq!(state.record.as_ref().unwrap().dropped, i64::MAX as u64);
    state.close(ProducerId([1; 16]), generation, closed(i64::MAX as u64 - 1, TaskStatus::Failed), 0).unwrap();
    let generation = state.open(&hello(1, 1), 8, 0).unwrap().welcome.generation;
    state.close(ProducerId([2; 16]), generation, closed(i64::MAX as u64 - 1, TaskStatus::Failed), 0).unwrap();
    state.open(&hello(2, 1), 8, 0).unwrap();
    assert_eq!(state.record.as_ref().unwrap().attempt, u32::MAX);
}

#[test]
fn an_ended_record_is_kept_back_until_its_end_row_is_stored() {
    let mut state = TaskState::default();
    let opened = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.persisted_version = state.record_to_persist().unwrap().version;
    state.close(ProducerId([1; 16]), opened, closed(0, TaskStatus::Succeeded), 0).unwrap();
    assert!(state.record_to_persist().is_none());
    state.mark_stored(ProducerId::SERVER, 0, 1);
    assert!(state.record_to_persist().is_some());
}
