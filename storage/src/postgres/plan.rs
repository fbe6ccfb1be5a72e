//! What one insert is going to write: its lines by task, without those that do not count.

use std::collections::{BTreeMap, HashMap};

use super::error::rejected;
use super::partition::Day;
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::record::{LogRecord, ProducerId, TaskLines};

/// The lines of one task in one insert.
pub(super) struct TaskPart<'a> {
    pub(super) task: &'a TaskKey,
    pub(super) slices: Vec<&'a [LogRecord]>,
}

/// A task as the database knows it, its row locked.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskState {
    pub(super) task_key: i64,
    pub(super) epoch: u64,
    pub(super) base: u64,
    pub(super) floor: u64,
    pub(super) end: u64,
}

/// Groups by task and refuses what PostgreSQL's types cannot hold.
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
    let LogRecord { offset, epoch, seq, created_at_ms, .. } = record;
    let fits = [offset, epoch, seq].into_iter().all(|number| i64::try_from(*number).is_ok());
    if !fits || Day::of_ms(*created_at_ms).is_none() {
        return Err(rejected(format!(
            "line {offset} of task {task} (epoch {epoch}, seq {seq}, created_at {created_at_ms} ms) cannot be stored"
        )));
    }
    if !record.fields.is_empty() && record.fields_json().is_none_or(|json| json.contains('\0')) {
        return Err(rejected(format!("the fields of line {offset} of task {task} are not text without NUL")));
    }
    Ok(())
}

/// Every day that the lines lie in.
pub(super) fn days(parts: &[TaskPart<'_>]) -> Vec<Day> {
    let records = parts.iter().flat_map(|part| &part.slices).copied().flatten();
    let mut days: Vec<_> = records.filter_map(|record| Day::of_ms(record.created_at_ms)).collect();
    days.sort_unstable();
    days.dedup();
    days
}

/// One row to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) task_key: i64,
    pub(super) record: &'a LogRecord,
}

/// Everything that one insert writes, in the order of the tables' keys.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// Above the end of their tasks, where no row can be.
    pub(super) fresh: Vec<Line<'a>>,
    /// Up to it: these, or others of another epoch, may be there already.
    pub(super) known: Vec<Line<'a>>,
    pub(super) totals: Vec<Totals>,
    pub(super) producers: BTreeMap<(i64, ProducerId), u64>,
}

/// What the rows of one task change in its own row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) task_key: i64,
    pub(super) end: u64,
    pub(super) first_created_at_ms: i64,
    pub(super) last_created_at_ms: i64,
}

impl<'a> Plan<'a> {
    /// `states` are those of `parts`, one each.
    pub(super) fn new(parts: &[TaskPart<'a>], states: &[TaskState]) -> Self {
        let mut plan = Self::default();
        for (part, state) in parts.iter().zip(states) {
            plan.add_task(part, *state);
        }
        // Neighbours in the index are written together.
        for lines in [&mut plan.fresh, &mut plan.known] {
            lines.sort_by_key(|line| (line.task_key, line.record.offset, std::cmp::Reverse(line.record.epoch)));
            lines.dedup_by_key(|line| (line.task_key, line.record.offset));
        }
        plan.totals.sort_unstable_by_key(|totals| totals.task_key);
        plan
    }

    fn add_task(&mut self, part: &TaskPart<'a>, state: TaskState) {
        let mut totals: Option<Totals> = None;
        for record in part.slices.iter().copied().flatten().filter(|record| counts(record, state)) {
            let totals = totals.get_or_insert(Totals {
                task_key: state.task_key,
                end: 0,
                first_created_at_ms: i64::MAX,
                last_created_at_ms: i64::MIN,
            });
            totals.end = totals.end.max(record.offset);
            totals.first_created_at_ms = totals.first_created_at_ms.min(record.created_at_ms);
            totals.last_created_at_ms = totals.last_created_at_ms.max(record.created_at_ms);
            if record.producer != ProducerId::SERVER {
                let last = self.producers.entry((state.task_key, record.producer)).or_default();
                *last = record.seq.max(*last);
            }
            let lines = if record.offset > state.end { &mut self.fresh } else { &mut self.known };
            lines.push(Line { task_key: state.task_key, record });
        }
        self.totals.extend(totals);
    }
}

/// Not deleted by retention already, and not of an epoch that lost.
fn counts(record: &LogRecord, state: TaskState) -> bool {
    let is_stale = record.epoch < state.epoch && record.offset > state.base;
    record.offset >= state.floor && !is_stale
}
