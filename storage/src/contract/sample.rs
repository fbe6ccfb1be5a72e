//! Lines, tasks and shorthands for the cases.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::{
    EpochStart, LastStored, LogRecord, LogStore, ProducerId, ProducerRecord, ReadQuery, Stream, TaskKey, TaskLines,
    TaskRecord, TaskStatus,
};

/// The epoch of [`line()`].
pub const EPOCH: u64 = 1000;

/// The producer of [`line()`].
pub const PRODUCER: ProducerId = ProducerId([7; 16]);

/// A task of the default tenant.
pub fn key(task_id: &str) -> TaskKey {
    TaskKey::new("", task_id).expect("a valid task id")
}

/// An ordinary line: `seq` is the offset, and so is `created_at_ms`.
pub fn line(offset: u64) -> LogRecord {
    LogRecord {
        offset,
        epoch: EPOCH,
        producer: PRODUCER,
        seq: offset,
        time_ns: 1_790_000_000_000_000_000,
        created_at_ms: offset as i64,
        stream: Stream::Stdout,
        level: 0,
        message: Bytes::from(format!("line {offset}")),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
    }
}

/// Ordinary lines.
pub fn lines(offsets: RangeInclusive<u64>) -> Vec<LogRecord> {
    offsets.map(line).collect()
}

/// The same lines, given by another epoch.
pub fn of_epoch(epoch: u64, lines: Vec<LogRecord>) -> Vec<LogRecord> {
    let change = |line: LogRecord| LogRecord { epoch, message: format!("epoch {epoch}").into(), ..line };
    lines.into_iter().map(change).collect()
}

/// An ordinary record in its first epoch, [`EPOCH`].
pub fn record(task: &TaskKey) -> TaskRecord {
    TaskRecord {
        task: task.clone(),
        version: 1,
        workflow_id: String::new(),
        name: String::new(),
        labels: BTreeMap::new(),
        attempt: 1,
        attempt_base: 0,
        dropped: 0,
        status: TaskStatus::Running,
        exit_code: None,
        created_at_ms: 1,
        started_at_ms: 1,
        ended_at_ms: None,
        epochs: vec![EpochStart { epoch: EPOCH, base: 0 }],
        producers: Vec::new(),
    }
}

/// An open producer, as a record names it.
pub fn named(id: ProducerId) -> ProducerRecord {
    ProducerRecord::open(id.to_string(), true)
}

/// Puts a record whose newest epoch is this.
pub async fn begin_epoch(store: &dyn LogStore, task: &TaskKey, version: u64, start: EpochStart) {
    let epochs = vec![EpochStart { epoch: EPOCH, base: 0 }, start];
    store.put_task(&TaskRecord { version, epochs, ..record(task) }).await.expect("put_task");
}

/// Inserts lines of one task.
pub async fn insert(store: &dyn LogStore, task: &TaskKey, records: &[LogRecord]) {
    store.insert(&[TaskLines { task: task.clone(), records }]).await.expect("insert");
}

/// Every line of the task, page by page.
pub async fn read_all(store: &dyn LogStore, task: &TaskKey) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let mut from = Some(0);
    while let Some(first) = from {
        let page = store.read(task, &ReadQuery::forward(first, u64::MAX, 1000)).await.expect("read");
        records.extend(page.records);
        from = page.next;
    }
    records
}

/// Every offset of the task.
pub async fn offsets(store: &dyn LogStore, task: &TaskKey) -> Vec<u64> {
    read_all(store, task).await.iter().map(|record| record.offset).collect()
}

/// The end of a task that is known.
pub async fn last(store: &dyn LogStore, task: &TaskKey) -> LastStored {
    let mut last = store.last(task).await.expect("last").expect("a known task");
    last.producers.sort_unstable();
    last
}

/// A small generator (xorshift64*), so that a failed random case can be run again from its seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Any seed but 0.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// From 0 up to `bound`, exclusive.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
