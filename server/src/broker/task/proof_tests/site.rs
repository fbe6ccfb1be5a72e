//! Producers of one task, the rows that they leave, and a store for what a lost memory comes back from.

use bytes::Bytes;
use flowforge_proto::proof::{Fold, Line};
use flowforge_storage::{Claim, LogRecord, LogStore as _, ProducerId, Proof, Stream, TaskLines, TaskRecord};

use super::super::load;
use super::super::state::TaskState;
use crate::broker::samples::{self, OK, task};
use crate::broker::{BrokerError, DroppedRun, Ending, NewLine, ProducerHello};
use crate::proof::{Completeness, Counts, hex, judge_rows};
use crate::test_store::Store;

pub(super) fn id(producer: u8) -> ProducerId {
    samples::producer(producer + 1)
}

fn hello(producer: u8, first_unacked_seq: u64) -> ProducerHello {
    ProducerHello { first_unacked_seq, ..samples::hello(producer + 1) }
}

/// What a producer numbers `seq`: every field depends on it.
pub(super) fn line(producer: u8, seq: u64) -> NewLine {
    NewLine {
        time_ns: 1_700_000_000_000_000_000 + seq.cast_signed(),
        stream: [Stream::Stdout, Stream::Stderr, Stream::Log][(seq % 3) as usize],
        level: (seq % 25) as u8,
        message: Bytes::from(format!("{producer} says {seq}").repeat((seq % 4) as usize)),
        fields: if seq.is_multiple_of(5) { Bytes::from(format!("{{\"n\":{seq}}}")) } else { Bytes::new() },
        update_id: seq / 7,
        continued: seq.is_multiple_of(11),
        no_newline: seq.is_multiple_of(13),
        dropped: None,
    }
}

/// What the producer says at its end, folded by itself over the numbers that it sent as lines.
pub(super) fn claim(producer: u8, final_seq: u64, is_line: impl Fn(u64) -> bool) -> Claim {
    let mut fold = Fold::default();
    for seq in (1..=final_seq).filter(|seq| is_line(*seq)) {
        let line = line(producer, seq);
        fold.add(&Line {
            seq,
            time_unix_nano: line.time_ns,
            stream: line.stream as u8,
            level: line.level,
            continued: line.continued,
            no_newline: line.no_newline,
            update_id: line.update_id,
            message: &line.message,
            fields_json: &line.fields,
        });
    }
    let proof = Proof { lines: fold.lines, bytes: fold.bytes, digest: hex(&fold.digest) };
    Claim { final_seq, proof: Some(proof), recovery: None }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Producers that send, repeat, reconnect and come between each other.
#[derive(Default)]
pub(super) struct Site {
    pub(super) state: TaskState,
    pub(super) rows: Vec<LogRecord>,
    /// Of each producer: its session, and its last number.
    pub(super) open: Vec<(u64, u64)>,
    store: Store,
}

impl Site {
    pub(super) fn new(producers: u8) -> Self {
        let mut site = Self::default();
        (0..producers).for_each(|producer| site.connect(producer));
        site
    }

    pub(super) fn connect(&mut self, producer: u8) {
        let opened = self.state.open(&hello(producer, 1), 8, 0).unwrap();
        let last = self.open.get(usize::from(producer)).map_or(0, |(_, last)| *last);
        self.open.resize(self.open.len().max(usize::from(producer) + 1), (0, 0));
        self.open[usize::from(producer)] = (opened.welcome.generation, last);
        self.rows.extend(opened.rows);
        self.store_rows(); // A Hello is answered when the record is stored.
    }

    /// Sends so many new lines, and before them so many that were sent already.
    pub(super) fn send(&mut self, producer: u8, again: u64, new: u64) {
        let (generation, last) = self.open[usize::from(producer)];
        let first = (last + 1).saturating_sub(again).max(1);
        let lines: Vec<_> = (first..=last + new).map(|seq| line(producer, seq)).collect();
        if !lines.is_empty() {
            if self.state.reopen_for(id(producer), generation, first, &lines, 0).unwrap().is_some() {
                self.store_rows();
            }
            self.rows.extend(self.state.append(id(producer), generation, first, lines, 0).unwrap());
            self.open[usize::from(producer)].1 = last + new;
        }
    }

    /// What a session that was taken over says changes nothing.
    pub(super) fn fenced(&mut self, producer: u8) {
        let (generation, last) = self.open[usize::from(producer)];
        let (id, before) = (id(producer), self.state.record.clone());
        let ending = Ending { outcome: OK, claim: claim(producer, last, |_| false) };
        let refused = [
            self.state.append(id, generation - 1, last + 1, vec![line(producer, last + 2)], 0),
            self.state.close(id, generation - 1, ending, 0),
        ];
        assert!(refused.iter().all(|refused| matches!(refused, Err(BrokerError::Fenced(_)))), "{refused:?}");
        self.state.release(id, generation - 1, std::time::Instant::now());
        assert_eq!(self.state.record, before);
    }

    /// The memory is lost when so many rows are stored; everybody comes back and sends again what is not.
    pub(super) fn crash(&mut self, stored: usize) {
        self.rows.truncate(stored.max(self.store.end() as usize));
        self.store_rows();
        self.state = block_on(load::load(&self.store, &task(), std::time::Duration::from_mins(1))).unwrap();
        for producer in 0..self.open.len() as u8 {
            self.connect(producer);
            self.send(producer, u64::MAX, 0);
        }
    }

    /// All of them, and the record where that is due.
    fn store_rows(&mut self) {
        block_on(self.store.insert(&[TaskLines { task: task(), records: &self.rows }])).unwrap();
        if let Some(last) = self.rows.last() {
            self.state.mark_stored(last.producer, last.seq, last.offset);
        }
        if let Some(record) = self.state.record_to_persist() {
            block_on(self.store.put_task(&record)).unwrap();
            self.state.persisted_version = record.version;
        }
    }

    pub(super) fn drop_lines(&mut self, producer: u8, count: u64) {
        let (generation, last) = self.open[usize::from(producer)];
        let run = NewLine { dropped: Some(DroppedRun { lines: count, bytes: 9 }), ..line(producer, 0) };
        self.rows.extend(self.state.append(id(producer), generation, last + 1, vec![run], 0).unwrap());
        self.open[usize::from(producer)].1 += count;
    }

    pub(super) fn close(&mut self, producer: u8, claim: Claim) {
        let generation = self.open[usize::from(producer)].0;
        let rows = self.state.close(id(producer), generation, Ending { outcome: OK, claim }, 0).unwrap();
        self.rows.extend(rows);
    }

    pub(super) fn close_all(&mut self) {
        for producer in 0..self.open.len() as u8 {
            self.close(producer, claim(producer, self.open[usize::from(producer)].1, |_| true));
        }
    }

    pub(super) fn record(&self) -> &TaskRecord {
        self.state.record.as_ref().unwrap()
    }

    pub(super) fn judge(&self) -> Completeness {
        judge_rows(self.record(), &self.rows, 1).task
    }

    pub(super) fn counts(&self) -> Counts {
        self.judge().counts.unwrap()
    }
}
