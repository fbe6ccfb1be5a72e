//! Writing task records. Those that come together are written together: a part for each would be too many.
//!
//! Each caller puts its record on a list. One of the callers on the list leads: it takes what is on the list, writes it and
//! tells each caller how its record fared. A leader whose future is dropped half-way drops what it had in hand; those callers
//! see that and put their records on the list again.
//!
//! A record that begins an epoch is preceded by rows of `task_states`: the epoch's base, and what is known of the task at
//! that moment, as far as it counts from now on. Only then the record: whoever reads the new record finds the new state.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::error::failed;
use super::hosts::{Hosts, Lane};
use super::layout::{LINES, Layout, RECORDS, STATES};
use super::record::RecordRow;
use super::state::{self, StateRow, TaskState, is_task};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::record::ProducerId;
use crate::task::{EpochStart, TaskRecord};

/// Records an insert.
const GROUP: usize = state::TASKS_A_QUERY;

const WHAT: &str = "cannot write a task record to ClickHouse";

type Outcome = Result<(), StoreError>;

/// Where records wait.
#[derive(Default)]
pub(super) struct Puts {
    pending: Mutex<VecDeque<Put>>,
    /// Held by the caller that leads.
    lead: tokio::sync::Mutex<()>,
}

struct Put {
    record: Arc<(TaskRecord, RecordRow)>,
    answer: oneshot::Sender<Outcome>,
}

impl Puts {
    /// Writes the record. See [`LogStore::put_task`](crate::LogStore::put_task).
    pub(super) async fn put(&self, hosts: &Hosts, layout: &Layout, record: &TaskRecord) -> Outcome {
        let record = Arc::new((record.clone(), RecordRow::of(record)?));
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.pending().push_back(Put { record: Arc::clone(&record), answer });
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = &mut answered => break outcome.ok(),
                    _leads = self.lead.lock() => self.write_some(hosts, layout).await,
                }
            };
            // None: another leader had the record in hand and was cancelled.
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Put>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_some(&self, hosts: &Hosts, layout: &Layout) {
        let group = self.take_group();
        let records: Vec<_> = group.iter().map(|put| Arc::clone(&put.record)).collect();
        let outcome = write(hosts, layout, &records).await.map_err(Arc::new);
        for put in group {
            let own = outcome
                .as_ref()
                .copied()
                .map_err(|error| StoreError::new(error.kind(), "a task record was not written", Arc::clone(error)));
            // A caller that is gone wants no answer.
            let _ = put.answer.send(own);
        }
    }

    /// The longest waiting, without those whose callers are gone. Of one task only one: the next version must find this one
    /// stored.
    fn take_group(&self) -> Vec<Put> {
        let mut pending = self.pending();
        let (mut group, mut later, mut tasks) = (Vec::new(), VecDeque::new(), std::collections::HashSet::new());
        while let Some(put) = pending.pop_front() {
            if put.answer.is_closed() {
                continue;
            }
            if group.len() < GROUP && tasks.insert(put.record.0.task.clone()) {
                group.push(put);
            } else {
                later.push_back(put);
            }
        }
        *pending = later;
        group
    }
}

/// Writes records of different tasks.
async fn write(hosts: &Hosts, layout: &Layout, records: &[Arc<(TaskRecord, RecordRow)>]) -> Outcome {
    let tasks: Vec<&TaskKey> = records.iter().map(|record| &record.0.task).collect();
    let (versions, states) =
        tokio::try_join!(stored_versions(hosts, layout, &tasks), state::load(hosts, layout, &tasks, true))?;
    let newest = |record: &TaskRecord| versions.get(&record.task).is_none_or(|stored| record.version >= *stored);
    let due: Vec<_> = records.iter().filter(|record| newest(&record.0)).collect();
    let mut begun = Vec::new();
    for record in &due {
        let (task, start) = (&record.0.task, record.0.epoch());
        let state = states.get(task).cloned().unwrap_or_default();
        // A record of an epoch before the current one changes nothing in what counts.
        if start.epoch > state.start().epoch || !states.contains_key(task) {
            begun.extend(begin_epoch(hosts, layout, task, state, start).await?);
        }
    }
    if !begun.is_empty() {
        hosts.insert(&layout.table(STATES), &begun).await.map_err(|error| failed(WHAT, error))?;
    }
    let rows: Vec<RecordRow> = due.iter().map(|record| record.1.clone()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    hosts.insert(&layout.table(RECORDS), &rows).await.map_err(|error| failed(WHAT, error))
}

#[derive(Row, Deserialize)]
struct VersionRow {
    tenant: String,
    task_id: String,
    version: u64,
}

async fn stored_versions(
    hosts: &Hosts,
    layout: &Layout,
    tasks: &[&TaskKey],
) -> Result<HashMap<TaskKey, u64>, StoreError> {
    let sql = format!(
        "SELECT tenant, task_id, max(version) FROM {} WHERE (tenant, task_id) IN ({}) GROUP BY tenant, task_id",
        layout.table(RECORDS),
        state::names(tasks)
    );
    let rows = hosts.rows::<VersionRow>(&sql).await.map_err(|error| failed(WHAT, error))?;
    let keyed = |row: VersionRow| Some((TaskKey::new(&row.tenant, &row.task_id).ok()?, row.version));
    Ok(rows.into_iter().filter_map(keyed).collect())
}

/// The rows with which an epoch begins.
async fn begin_epoch(
    hosts: &Hosts,
    layout: &Layout,
    task: &TaskKey,
    before: TaskState,
    start: EpochStart,
) -> Result<Vec<StateRow>, StoreError> {
    // Before a first record there was no other epoch, so what retention deleted then was of this one. Else the offsets that
    // the new epoch gives again must not lie below the floor.
    let floor = if before.starts.is_empty() { before.floor } else { before.floor.min(start.base + 1) };
    let (end, producers) = if before.end > start.base {
        what_is_left(hosts, layout, task, &before, start).await?
    } else {
        (before.end, before.producers)
    };
    // A producer is known by its end, also where retention has deleted all that came before.
    let end = end.max(floor - 1);
    let new = |producer| StateRow { end, ..StateRow::new(task, start.epoch, producer) };
    let mut rows = vec![StateRow {
        recorded: 1,
        base: start.base,
        floor,
        created_at_ms: before.created_at_ms,
        ..new(ProducerId::SERVER)
    }];
    rows.extend(producers.into_iter().map(|(producer, seq)| StateRow { seq, ..new(producer) }));
    Ok(rows)
}

/// Of one producer, among the lines that counted until now.
#[derive(Row, Deserialize)]
struct LeftRow {
    producer: [u8; 16],
    kept: u64,
    last_kept: u64,
    last_seq: u64,
    first_lost_seq: u64,
}

/// End and sequence numbers after an epoch that begins below the end: what older epochs wrote above its base no longer
/// counts. It is seldom: a worker that was left behind stored lines between the moment when the broker asked for the end and
/// the one when it put the new epoch. A sequence number kept too high would make the broker take the re-sent lines for
/// duplicates, and they would be lost.
async fn what_is_left(
    hosts: &Hosts,
    layout: &Layout,
    task: &TaskKey,
    before: &TaskState,
    EpochStart { epoch, base }: EpochStart,
) -> Result<(u64, BTreeMap<ProducerId, u64>), StoreError> {
    let (table, is_task, rule) = (layout.table(LINES), is_task(task), before.rule());
    let TaskState { floor, end, .. } = *before;
    let sql = format!(
        "SELECT producer, countIf(counts), maxIf(offset, counts), maxIf(seq, counts), minIf(seq, NOT counts)
        FROM (SELECT producer, offset, seq, offset <= {base} OR epoch >= {epoch} AS counts FROM {table}
            WHERE {is_task} AND offset BETWEEN {floor} AND {end} AND {rule}
            ORDER BY tenant, task_id, offset, epoch DESC LIMIT 1 BY offset)
        GROUP BY producer"
    );
    let add = |rows: &mut Vec<LeftRow>, row| {
        rows.push(row);
        true
    };
    let rows = hosts.collect(Lane::Free, &sql, Vec::new, add).await.map_err(|error| failed(WHAT, error))?;
    let end = rows.iter().map(|row| row.last_kept).max().unwrap_or(0);
    let by_producer: HashMap<_, _> = rows.into_iter().map(|row| (ProducerId(row.producer), row)).collect();
    let mut producers = BTreeMap::new();
    for (producer, seq) in &before.producers {
        let seq = match by_producer.get(producer) {
            Some(row) if row.kept > 0 => row.last_seq,
            // Retention has deleted lines: those before the first one lost.
            Some(row) if floor > 1 => row.first_lost_seq.saturating_sub(1),
            None if floor > 1 => *seq,
            _ => continue,
        };
        if seq > 0 {
            producers.insert(*producer, seq);
        }
    }
    Ok((end, producers))
}
