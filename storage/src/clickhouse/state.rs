//! What is known of a task: where it begins and ends, its epochs, and how far each producer is stored.
//!
//! `task_states` holds a row per (task, epoch, producer), of which merges keep the greatest of each number:
//!
//! - `recorded`, `base`: 1 and the base, if a record with this epoch was put.
//! - `floor`: what retention has come to, under this epoch.
//! - `end`, `created_at_ms`, `seq`: of the lines inserted under this epoch.
//!
//! A line is booked under its own epoch or the current one, whichever is later; a new epoch begins with what is to be kept
//! of the state before it (`put`). So the current state is what the rows at or above the current epoch say.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::error::failed;
use super::hosts::{Hosts, Lane};
use super::layout::{Layout, STATES};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::record::{LogRecord, ProducerId};
use crate::store::LastStored;
use crate::task::EpochStart;

/// Tasks asked for in one statement: with the longest names it stays under the server's limit of 256 KiB (`max_query_size`).
pub(super) const TASKS_A_QUERY: usize = 800;

const WHAT: &str = "cannot read the state of a task from ClickHouse";

/// A row of `task_states`.
#[derive(Debug, Clone, Row, Serialize, Deserialize)]
pub(super) struct StateRow {
    pub(super) tenant: String,
    pub(super) task_id: String,
    pub(super) epoch: u64,
    pub(super) producer: [u8; 16],
    pub(super) recorded: u8,
    pub(super) base: u64,
    pub(super) floor: u64,
    pub(super) end: u64,
    pub(super) created_at_ms: i64,
    pub(super) seq: u64,
}

impl StateRow {
    /// Says nothing yet.
    pub(super) fn new(task: &TaskKey, epoch: u64, producer: ProducerId) -> Self {
        Self {
            tenant: task.tenant().to_owned(),
            task_id: task.task_id().to_owned(),
            epoch,
            producer: producer.0,
            recorded: 0,
            base: 0,
            floor: 0,
            end: 0,
            created_at_ms: 0,
            seq: 0,
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct TaskState {
    /// Every epoch of which a record was put, ascending.
    pub(super) starts: Vec<EpochStart>,
    /// Lines were inserted under an epoch of which no record was put, after another: only their epochs say which of two
    /// lines at one offset counts.
    pub(super) is_unsettled: bool,
    /// First offset kept.
    pub(super) floor: u64,
    /// Last offset that counts.
    pub(super) end: u64,
    pub(super) created_at_ms: i64,
    /// Empty unless asked for.
    pub(super) producers: BTreeMap<ProducerId, u64>,
}

impl Default for TaskState {
    /// Of a task that nobody knows.
    fn default() -> Self {
        Self::of(&[])
    }
}

impl TaskState {
    fn of(rows: &[StateRow]) -> Self {
        let mut starts: Vec<_> = rows
            .iter()
            .filter(|row| row.recorded > 0)
            .map(|row| EpochStart { epoch: row.epoch, base: row.base })
            .collect();
        starts.sort_unstable_by_key(|start| start.epoch);
        let current = starts.last().map_or(0, |start| start.epoch);
        let lowest = rows.iter().map(|row| row.epoch).min();
        let is_unsettled = rows.iter().any(|row| {
            row.end > 0 && Some(row.epoch) != lowest && !starts.iter().any(|start| start.epoch == row.epoch)
        });
        let counting = || rows.iter().filter(|row| row.epoch >= current);
        let floor = counting().map(|row| row.floor).max().unwrap_or(0).max(1);
        let end = counting().map(|row| row.end).max().unwrap_or(0).max(floor - 1);
        let mut producers = BTreeMap::new();
        for row in counting().filter(|row| row.producer != ProducerId::SERVER.0 && row.end > 0) {
            let seq = producers.entry(ProducerId(row.producer)).or_insert(0);
            *seq = row.seq.max(*seq);
        }
        let created_at_ms = rows.iter().map(|row| row.created_at_ms).max().unwrap_or(0);
        Self { starts, is_unsettled, floor, end, created_at_ms, producers }
    }

    /// The current epoch and its base; (0, 0) if no record was put.
    pub(super) fn start(&self) -> EpochStart {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Whether a line is not deleted already, and not of an epoch that lost.
    pub(super) fn counts(&self, record: &LogRecord) -> bool {
        let lost = |start: &EpochStart| record.epoch < start.epoch && record.offset > start.base;
        record.offset >= self.floor && !self.starts.iter().any(lost)
    }

    /// The same as a condition on rows, but for the floor.
    pub(super) fn rule(&self) -> String {
        let mut sql = String::from("true");
        for EpochStart { epoch, base } in &self.starts {
            // Nothing can be older than the epoch 0.
            if *epoch > 0 {
                let _ = write!(sql, " AND (epoch >= {epoch} OR offset <= {base})");
            }
        }
        sql
    }

    pub(super) fn into_last(self) -> LastStored {
        LastStored { end: self.end, created_at_ms: self.created_at_ms, producers: self.producers.into_iter().collect() }
    }
}

/// The state of one task. `None`: nothing is known of it.
pub(super) async fn of_task(hosts: &Hosts, layout: &Layout, task: &TaskKey) -> Result<Option<TaskState>, StoreError> {
    Ok(load(hosts, layout, &[task], false).await?.remove(task))
}

/// The same with its producers.
pub(super) async fn with_producers(
    hosts: &Hosts,
    layout: &Layout,
    task: &TaskKey,
) -> Result<Option<TaskState>, StoreError> {
    Ok(load(hosts, layout, &[task], true).await?.remove(task))
}

/// The same for a read that has its turn.
pub(super) async fn of_task_read(
    hosts: &Hosts,
    layout: &Layout,
    task: &TaskKey,
) -> Result<Option<TaskState>, StoreError> {
    Ok(load_in(Lane::Free, hosts, layout, &[task], false).await?.remove(task))
}

/// The states of those tasks that are known.
pub(super) async fn load(
    hosts: &Hosts,
    layout: &Layout,
    tasks: &[&TaskKey],
    with_producers: bool,
) -> Result<HashMap<TaskKey, TaskState>, StoreError> {
    load_in(Lane::Lookup, hosts, layout, tasks, with_producers).await
}

/// The same in any lane.
pub(super) async fn load_in(
    lane: Lane,
    hosts: &Hosts,
    layout: &Layout,
    tasks: &[&TaskKey],
    with_producers: bool,
) -> Result<HashMap<TaskKey, TaskState>, StoreError> {
    let mut states = HashMap::with_capacity(tasks.len());
    for some in tasks.chunks(TASKS_A_QUERY) {
        let found = hosts.rows_in::<StateRow>(lane, &select(layout, some, with_producers)).await;
        let mut rows: HashMap<_, Vec<StateRow>> = HashMap::with_capacity(some.len());
        for row in found.map_err(|error| failed(WHAT, error))? {
            rows.entry((row.tenant.clone(), row.task_id.clone())).or_default().push(row);
        }
        for task in some {
            if let Some(rows) = rows.get(&(task.tenant().to_owned(), task.task_id().to_owned())) {
                states.insert((*task).clone(), TaskState::of(rows));
            }
        }
    }
    Ok(states)
}

fn select(layout: &Layout, tasks: &[&TaskKey], with_producers: bool) -> String {
    let producer = if with_producers { "producer" } else { "toFixedString('', 16)" };
    format!(
        "SELECT tenant, task_id, epoch, {producer} AS who, max(recorded), max(base), max(floor), max(end), max(created_at_ms), max(seq)
        FROM {} WHERE (tenant, task_id) IN ({}) GROUP BY tenant, task_id, epoch, who",
        layout.table(STATES),
        names(tasks)
    )
}

/// `('tenant', 'task'), …`. A valid name needs no escaping.
pub(super) fn names(tasks: &[&TaskKey]) -> String {
    let mut list = String::with_capacity(tasks.len() * 48);
    for task in tasks {
        let comma = if list.is_empty() { "" } else { ", " };
        let _ = write!(list, "{comma}('{}', '{}')", task.tenant(), task.task_id());
    }
    list
}

/// `tenant = … AND task_id = …`.
pub(super) fn is_task(task: &TaskKey) -> String {
    format!("tenant = '{}' AND task_id = '{}'", task.tenant(), task.task_id())
}
