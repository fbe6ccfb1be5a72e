//! What one insert is going to write: its lines by task, without those that do not count.

use std::collections::{BTreeMap, HashMap};

use super::error::rejected;
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::record::{LogRecord, ProducerId, TaskLines};

/// The lines of one task in one insert.
pub(super) struct TaskPart<'a> {
    pub(super) task: &'a TaskKey,
    pub(super) slices: Vec<&'a [LogRecord]>,
}

/// A task as the database knows it when the transaction begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskState {
    pub(super) task_key: i64,
    pub(super) epoch: u64,
    pub(super) base: u64,
    pub(super) floor: u64,
    /// [`i64::MAX`] if there is no line.
    pub(super) first_created_at_ms: i64,
}

/// Groups by task and refuses what SQLite's integers cannot hold.
pub(super) fn by_task<'a>(lines: &'a [TaskLines<'a>]) -> Result<Vec<TaskPart<'a>>, StoreError> {
    let mut parts: Vec<TaskPart<'a>> = Vec::with_capacity(lines.len());
    let mut places = HashMap::with_capacity(lines.len());
    for TaskLines { task, records } in lines.iter().filter(|lines| !lines.records.is_empty()) {
        for record in *records {
            check(task, record)?;
        }
        let place = *places.entry(task).or_insert(parts.len());
        match parts.get_mut(place) {
            Some(part) => part.slices.push(records),
            None => parts.push(TaskPart { task, slices: vec![records] }),
        }
    }
    Ok(parts)
}

fn check(task: &TaskKey, record: &LogRecord) -> Result<(), StoreError> {
    let LogRecord { offset, epoch, seq, .. } = record;
    if [offset, epoch, seq].into_iter().any(|number| i64::try_from(*number).is_err()) {
        return Err(rejected(format!("line {offset} of task {task} (epoch {epoch}, seq {seq}) cannot be stored")));
    }
    if !record.fields.is_empty() && record.fields_json().is_none() {
        return Err(rejected(format!("the fields of line {offset} of task {task} are not UTF-8")));
    }
    Ok(())
}

/// Everything that one insert writes, in the order of the tables' keys.
#[derive(Default)]
pub(super) struct Plan<'a> {
    pub(super) rows: Vec<(i64, &'a LogRecord)>,
    pub(super) totals: Vec<Totals>,
    pub(super) producers: BTreeMap<(i64, ProducerId), u64>,
}

/// What the rows of one task change in its own row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) task_key: i64,
    pub(super) end: u64,
    pub(super) last_created_at_ms: i64,
    pub(super) first_created_at_ms: i64,
    /// The first is earlier than any line known.
    pub(super) is_older: bool,
}

impl<'a> Plan<'a> {
    /// `states` are those of `parts`, one each.
    pub(super) fn new(parts: &[TaskPart<'a>], states: &[TaskState]) -> Self {
        let mut plan = Self::default();
        for (part, state) in parts.iter().zip(states) {
            plan.add_task(part, *state);
        }
        // Neighbours in the table are written together: this is what makes an insert of many tasks fast.
        plan.rows.sort_by_key(|(task_key, record)| (*task_key, record.offset));
        plan
    }

    fn add_task(&mut self, part: &TaskPart<'a>, state: TaskState) {
        let mut totals: Option<Totals> = None;
        for record in part.slices.iter().copied().flatten().filter(|record| counts(record, state)) {
            let totals = totals.get_or_insert_with(|| Totals::before(state));
            totals.end = totals.end.max(record.offset);
            totals.last_created_at_ms = totals.last_created_at_ms.max(record.created_at_ms);
            totals.first_created_at_ms = totals.first_created_at_ms.min(record.created_at_ms);
            if record.producer != ProducerId::SERVER {
                let last = self.producers.entry((state.task_key, record.producer)).or_default();
                *last = record.seq.max(*last);
            }
            self.rows.push((state.task_key, record));
        }
        if let Some(mut totals) = totals {
            totals.is_older = totals.first_created_at_ms < state.first_created_at_ms;
            self.totals.push(totals);
        }
    }
}

impl Totals {
    fn before(state: TaskState) -> Self {
        Self {
            task_key: state.task_key,
            end: 0,
            last_created_at_ms: i64::MIN,
            first_created_at_ms: i64::MAX,
            is_older: false,
        }
    }
}

/// Not deleted by retention already, and not of an epoch that lost.
fn counts(record: &LogRecord, state: TaskState) -> bool {
    let is_stale = record.epoch < state.epoch && record.offset > state.base;
    record.offset >= state.floor && !is_stale
}
