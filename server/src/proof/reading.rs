//! The rows of a task's producers, read back and folded in the order of their numbers.

use std::collections::HashMap;

use flowforge_proto::proof::{Fold, Line};
use flowforge_storage::{LogRecord, LogStore, ProducerId, ReadQuery, StoreError, Stream, TaskRecord};

use crate::broker::rows;

const PAGE_LINES: usize = 1000;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The first offset that was asked for.
    pub(super) from: u64,
    pub(super) producers: HashMap<ProducerId, Seen>,
}

/// One producer's rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The first number that a row covers.
    first: Option<u64>,
    /// The last one.
    pub(super) last: u64,
    /// Its lines.
    pub(super) fold: Fold,
    /// Lines that rows say are lost.
    pub(super) dropped: u64,
    /// Numbers without a line, and without a row that says why.
    pub(super) missing: u64,
    /// The first thing that is wrong.
    pub(super) problem: Option<String>,
}

/// Reads the attempt's rows up to offset `end`. A producer that began in an earlier attempt has rows there.
pub(super) async fn read(store: &dyn LogStore, record: &TaskRecord, end: u64) -> Result<Rows, StoreError> {
    let rows = read_from(store, record, record.attempt_base + 1, end).await?;
    let began_before = |seen: &Seen| seen.first.is_some_and(|first| first > 1);
    if record.attempt_base > 0 && rows.producers.values().any(began_before) {
        return read_from(store, record, 1, end).await;
    }
    Ok(rows)
}

async fn read_from(store: &dyn LogStore, record: &TaskRecord, from: u64, end: u64) -> Result<Rows, StoreError> {
    let mut rows = Rows::new(record, from);
    let mut next = Some(from);
    while let Some(from) = next.filter(|from| *from <= end) {
        let page = store.read(&record.task, &ReadQuery::forward(from, end, PAGE_LINES)).await?;
        for row in &page.records {
            rows.take(row);
        }
        next = page.next;
    }
    Ok(rows)
}

impl Rows {
    /// Of the record's producers, none read yet.
    pub(super) fn new(record: &TaskRecord, from: u64) -> Self {
        let ids = record.producers.iter().filter_map(|producer| ProducerId::from_hex(&producer.id));
        Self { from, producers: ids.map(|id| (id, Seen::default())).collect() }
    }

    /// The task's next row.
    pub(super) fn take(&mut self, row: &LogRecord) {
        if let Some(seen) = self.producers.get_mut(&row.producer) {
            seen.take(row);
        }
    }
}

impl Seen {
    /// The producer's next row, in the order of offsets.
    fn take(&mut self, row: &LogRecord) {
        let lost = rows::lost_lines(row);
        let begin = (row.seq + 1).saturating_sub(lost.max(1));
        self.first.get_or_insert(begin);
        let expected = self.last + 1;
        if begin < expected {
            self.note(format!("seq {begin} is stored twice"));
            return;
        }
        if begin > expected {
            self.missing = self.missing.saturating_add(begin - expected);
            self.note(not_stored(expected, begin - 1));
        }
        self.last = row.seq;
        match (row.stream, lost) {
            (Stream::System, 0) => {
                self.missing += 1;
                self.note(format!("seq {begin} was refused by the store"));
            }
            (Stream::System, lost) => self.dropped = self.dropped.saturating_add(lost),
            _ => self.fold.add(&line_of(row)),
        }
    }

    fn note(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }
}

/// A hole, for people.
pub(super) fn not_stored(first: u64, last: u64) -> String {
    if first == last { format!("seq {first} is not stored") } else { format!("seq {first} to {last} are not stored") }
}

fn line_of(row: &LogRecord) -> Line<'_> {
    Line {
        seq: row.seq,
        time_unix_nano: row.time_ns,
        stream: row.stream as u8,
        level: row.level,
        continued: row.continued,
        no_newline: row.no_newline,
        update_id: row.update_id,
        message: &row.message,
        fields_json: &row.fields,
    }
}
