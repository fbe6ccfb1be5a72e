//! The rules of a task over random histories of several producers: lines, Closes, leases, sessions that newer ones took over,
//! whatever is given up half-way, and memories that are lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use flowforge_storage::{LogRecord, LogStore as _, Outcome, ProducerId, TaskLines, TaskStatus};
use proptest::prelude::*;

use super::load;
use super::state::TaskState;
use crate::broker::samples::{self, line_or_run as line, task};
use crate::broker::{BrokerError, Ending, NewLine, ProducerHello, rows};
use crate::test_store::Store;

const LEASE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
enum Op {
    /// `lost`: so many lines it will never send. `is_abandoned`: it is gone before its record is stored.
    Open {
        producer: u8,
        lost: u64,
        attempt: u32,
        is_abandoned: bool,
    },
    /// `is_abandoned`: given up if an ended task would have to be taken up again, before that is stored.
    Append {
        producer: u8,
        back: u64,
        ahead: u64,
        lines: Vec<Option<u64>>,
        is_abandoned: bool,
    },
    Close {
        producer: u8,
    },
    Leave {
        producer: u8,
    },
    /// A session that a newer one took over does all that it can.
    Fenced {
        producer: u8,
    },
    LeasesRunOut,
    /// So many rows more are stored.
    Store(usize),
    Persist,
    /// So many rows are stored, nobody is told, and the memory is lost.
    Crash(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let producer = 0..3u8;
    let lines = prop::collection::vec(prop_oneof![4 => Just(None), 1 => (1..5u64).prop_map(Some)], 1..6);
    let (lost, ahead) = (prop_oneof![5 => Just(0), 1 => 1..4u64], prop_oneof![6 => Just(0), 1 => 1..3u64]);
    let gives_up = || prop::bool::weighted(0.2);
    let op = prop_oneof![
        3 => (producer.clone(), lost, 0..4u32, gives_up())
            .prop_map(|(producer, lost, attempt, is_abandoned)| Op::Open { producer, lost, attempt, is_abandoned }),
        8 => (producer.clone(), 0..8u64, ahead, lines, gives_up()).prop_map(
            |(producer, back, ahead, lines, is_abandoned)| Op::Append { producer, back, ahead, lines, is_abandoned }
        ),
        3 => producer.clone().prop_map(|producer| Op::Close { producer }),
        1 => producer.clone().prop_map(|producer| Op::Leave { producer }),
        1 => producer.prop_map(|producer| Op::Fenced { producer }),
        1 => Just(Op::LeasesRunOut),
        3 => (1..12usize).prop_map(Op::Store),
        2 => Just(Op::Persist),
        1 => (0..6usize).prop_map(Op::Crash),
    ];
    prop::collection::vec(op, 1..60)
}

fn id(producer: u8) -> ProducerId {
    samples::producer(producer + 1)
}

fn hello(producer: u8, first_unacked_seq: u64, attempt: u32) -> ProducerHello {
    ProducerHello { first_unacked_seq, attempt, ..samples::hello(producer + 1) }
}

fn succeeded(final_seq: u64) -> Ending {
    samples::ending(final_seq, Outcome { status: TaskStatus::Succeeded, exit_code: None })
}

/// What the rules say, kept beside the machine; the store's part and the broker's are played here.
#[derive(Default)]
struct Model {
    state: TaskState,
    store: Store,
    sessions: HashMap<u8, u64>,
    queued: HashMap<ProducerId, u64>,
    /// Everything that was given an offset, and so may have been seen.
    rows: Vec<LogRecord>,
    /// So many of them are stored.
    stored: usize,
    now_ms: i64,
}

impl Model {
    fn queued(&self, producer: u8) -> u64 {
        self.queued.get(&id(producer)).copied().unwrap_or(0)
    }

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

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Open { producer, lost, attempt, is_abandoned } => {
                self.open(producer, lost, attempt, is_abandoned).await;
            }
            Op::Append { producer, back, ahead, lines, is_abandoned } => {
                self.append(producer, back, ahead, &lines, is_abandoned).await;
            }
            Op::Close { producer } => self.close(producer).await,
            Op::Leave { producer } => {
                let Some(generation) = self.sessions.remove(&producer) else { return };
                self.state.release(id(producer), generation, Instant::now());
            }
            Op::Fenced { producer } => self.fenced(producer),
            Op::LeasesRunOut => self.leases_run_out(),
            Op::Store(count) => self.store_rows(count).await,
            Op::Persist => self.persist().await,
            Op::Crash(inserted) => self.crash(inserted).await,
        }
        self.check_end();
    }

    async fn open(&mut self, producer: u8, lost: u64, attempt: u32, is_abandoned: bool) {
        if is_abandoned && self.state.unstored_comeback().is_some() {
            return;
        }
        self.store_comeback().await;
        let queued = self.queued(producer);
        let opened = self.state.open(&hello(producer, queued + 1 + lost, attempt), 8, self.now_ms).unwrap();
        let generation = opened.welcome.generation;
        assert_eq!(opened.welcome.queued_seq, queued);
        assert_eq!(opened.gap.is_some(), lost > 0);
        self.take(opened.rows);
        if is_abandoned {
            self.sessions.remove(&producer);
            return self.state.release(id(producer), generation, Instant::now());
        }
        self.sessions.insert(producer, generation);
        self.persist_through(self.state.version()).await;
        if let Some(gap) = opened.gap {
            self.send(producer, queued + 1, vec![gap], false).await.unwrap();
            assert_eq!(self.queued(producer), queued + lost, "a gap is declared, and passed");
        }
    }

    async fn append(&mut self, producer: u8, back: u64, ahead: u64, lines: &[Option<u64>], is_abandoned: bool) {
        if !self.sessions.contains_key(&producer) {
            return;
        }
        let queued = self.queued(producer);
        let first = if ahead > 0 { queued + 1 + ahead } else { (queued + 1).saturating_sub(back).max(1) };
        let last = first + lines.iter().map(|lines| lines.unwrap_or(1)).sum::<u64>() - 1;
        let lines = lines.iter().map(|lines| line(*lines)).collect();
        match self.send(producer, first, lines, is_abandoned).await {
            Err(BrokerError::Gap { expected_seq }) => {
                assert!(ahead > 0 && expected_seq == queued + 1, "only a gap is refused");
            }
            Err(error) => panic!("{error}"),
            Ok(false) => {}
            Ok(true) => {
                assert_eq!(ahead, 0, "a gap must be refused");
                assert_eq!(self.queued(producer), queued.max(last), "what is new is taken");
            }
        }
    }

    /// As brokers append. Returns whether it was not given up.
    async fn send(
        &mut self,
        producer: u8,
        first: u64,
        lines: Vec<NewLine>,
        is_abandoned: bool,
    ) -> Result<bool, BrokerError> {
        let (id, generation) = (id(producer), self.sessions[&producer]);
        while let Some(version) = self.state.reopen_for(id, generation, first, &lines, self.now_ms)? {
            if is_abandoned {
                return Ok(false);
            }
            self.persist_through(version).await;
        }
        let rows = self.state.append(id, generation, first, lines, self.now_ms)?;
        self.take(rows);
        Ok(true)
    }

    async fn close(&mut self, producer: u8) {
        let Some(generation) = self.sessions.get(&producer).copied() else { return };
        self.store_comeback().await;
        let queued = self.queued(producer);
        let beyond = self.state.close(id(producer), generation, succeeded(queued + 1), self.now_ms);
        assert!(matches!(beyond, Err(BrokerError::Gap { expected_seq }) if expected_seq == queued + 1));
        let rows = self.state.close(id(producer), generation, succeeded(queued), self.now_ms).unwrap();
        self.take(rows);
    }

    /// Nothing of it has an effect: were its leaving to begin the lease, [`Model::leases_run_out`] would notice.
    fn fenced(&mut self, producer: u8) {
        let Some(generation) = self.sessions.get(&producer).map(|generation| generation - 1) else { return };
        let (id, before, now) = (id(producer), self.state.record.clone(), self.now_ms);
        let refused = [
            self.state.append(id, generation, 1, vec![line(None)], now).map(drop),
            self.state.reopen_for(id, generation, self.queued(producer) + 1, &[line(None)], now).map(drop),
            self.state.close(id, generation, succeeded(self.queued(producer)), now).map(drop),
        ];
        assert!(refused.iter().all(|refused| matches!(refused, Err(BrokerError::Fenced(_)))), "{refused:?}");
        self.state.release(id, generation, Instant::now());
        assert_eq!(self.state.record, before);
        assert_eq!(self.state.end, self.rows.len() as u64);
    }

    fn open_producers(&self) -> Vec<ProducerId> {
        let producers = self.state.record.iter().flat_map(|record| &record.producers);
        let open = producers.filter(|producer| producer.outcome.is_none());
        open.filter_map(|producer| ProducerId::from_hex(&producer.id)).collect()
    }

    fn leases_run_out(&mut self) {
        let (is_held_back, before) = (self.state.unstored_comeback().is_some(), self.open_producers());
        let row = self.state.expire(Instant::now() + 2 * LEASE, self.now_ms);
        self.take(row.into_iter().collect());
        let held: Vec<ProducerId> = self.sessions.keys().map(|producer| id(*producer)).collect();
        let expected: Vec<ProducerId> = before.into_iter().filter(|id| is_held_back || held.contains(id)).collect();
        assert_eq!(self.open_producers(), expected, "those that nobody speaks for are lost, and no others");
    }

    async fn insert(&self, count: usize) -> usize {
        let to = self.rows.len().min(self.stored + count);
        let lines = TaskLines { task: task(), records: &self.rows[self.stored..to] };
        self.store.insert(&[lines]).await.unwrap();
        to
    }

    async fn store_rows(&mut self, count: usize) {
        let to = self.insert(count).await;
        for row in &self.rows[std::mem::replace(&mut self.stored, to)..to] {
            self.state.mark_stored(row.producer, row.seq, row.offset);
        }
        for (producer, progress) in self.state.progress() {
            let mine = self.rows[..to].iter().rev().find(|row| row.producer == producer);
            assert_eq!(progress.stored_seq, mine.map_or(0, |row| row.seq), "whoever appended it");
        }
        assert_eq!(self.state.stored, to as u64);
    }

    async fn persist(&mut self) {
        if let Some(record) = self.state.record_to_persist() {
            self.store.put_task(&record).await.unwrap();
            self.state.persisted_version = record.version;
        }
    }

    async fn persist_through(&mut self, version: u64) {
        self.persist().await;
        while self.state.persisted_version < version {
            assert!(self.stored < self.rows.len(), "it waits for lines that are not there");
            self.store_rows(1).await;
            self.persist().await;
        }
    }

    async fn store_comeback(&mut self) {
        if let Some(version) = self.state.unstored_comeback() {
            self.persist_through(version).await;
        }
    }

    /// What anybody may have seen, and is not stored, is taken back by a new epoch.
    async fn crash(&mut self, inserted: usize) {
        self.insert(inserted).await;
        let before = self.state.position().epoch();
        let is_known = self.store.task(&task()).await.unwrap().is_some();
        self.state = load::load(&self.store, &task(), LEASE).await.unwrap();
        let (end, after) = (self.store.end(), self.state.position().epoch());
        if is_known && self.rows.len() as u64 > end {
            assert!(after.epoch > before.epoch && after.base == end, "{after:?} after {before:?}, {end} are stored");
        }
        self.rows.truncate(usize::try_from(end).unwrap());
        (self.stored, self.sessions) = (self.rows.len(), HashMap::new());
        self.queued = HashMap::new();
        for row in self.rows.iter().filter(|row| row.producer != ProducerId::SERVER) {
            self.queued.insert(row.producer, row.seq);
        }
        assert_eq!((self.state.end, self.state.stored), (end, end));
        for (producer, progress) in self.state.progress() {
            let seq = self.queued.get(&producer).copied().unwrap_or(0);
            assert_eq!((progress.queued_seq, progress.stored_seq), (seq, seq));
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
    // A case takes a fifth of a millisecond; what is wrong only after an end, a comeback and a crash takes hundreds of them.
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_rules_hold_over_any_history(ops in ops(), clock in prop::collection::vec(-5_000i64..5_000, 60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut model = Model::default();
        for (op, skew) in ops.into_iter().zip(clock) {
            model.now_ms = 1_700_000_000_000 + skew;
            runtime.block_on(model.apply(op));
        }
    }
}
