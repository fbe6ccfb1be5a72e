//! Task records: each version a row, of which the highest counts (`FINAL`), read together with the range of the task's lines.

use clickhouse::Row;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{failed, rejected, unreadable};
use super::hosts::{Hosts, Lane};
use super::layout::{LINES, Layout, RECORDS};
use super::search::literal;
use super::state::{self, TaskState, is_task};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::query::{TaskCursor, TaskFilter, TaskPage};
use crate::task::{EpochStart, StoredTask, TaskRecord, TaskStatus};

const WHAT: &str = "a task record in ClickHouse cannot be read";

/// A row of `task_records`.
#[derive(Debug, Clone, Row, Serialize, Deserialize)]
pub(super) struct RecordRow {
    tenant: String,
    task_id: String,
    version: u64,
    workflow_id: String,
    name: String,
    labels: String,
    attempt: u32,
    attempt_base: u64,
    dropped: u64,
    status: String,
    exit_code: Option<i32>,
    created_at_ms: i64,
    started_at_ms: i64,
    ended_at_ms: Option<i64>,
    epochs: String,
    producers: String,
}

/// The order is that of [`RecordRow`].
const COLUMNS: &str = "tenant, task_id, version, workflow_id, name, labels, attempt, attempt_base, dropped, status, exit_code, created_at_ms, started_at_ms, ended_at_ms, epochs, producers";

impl RecordRow {
    /// Rejects numbers that no store holds.
    pub(super) fn of(record: &TaskRecord) -> Result<Self, StoreError> {
        let EpochStart { epoch, base } = record.epoch();
        // A new field must find its column.
        #[rustfmt::skip]
        let TaskRecord {
            task, version, workflow_id, name, labels, attempt, attempt_base, dropped, status, exit_code, created_at_ms,
            started_at_ms, ended_at_ms, epochs, producers,
        } = record;
        if [*version, epoch, base, *attempt_base, *dropped].into_iter().any(|number| i64::try_from(number).is_err()) {
            return Err(rejected(format!("record {version} of task {task} cannot be stored: a number in it")));
        }
        Ok(Self {
            tenant: task.tenant().to_owned(),
            task_id: task.task_id().to_owned(),
            version: *version,
            workflow_id: workflow_id.clone(),
            name: name.clone(),
            labels: to_json(labels)?,
            attempt: *attempt,
            attempt_base: *attempt_base,
            dropped: *dropped,
            status: status.name().to_owned(),
            exit_code: *exit_code,
            created_at_ms: *created_at_ms,
            started_at_ms: *started_at_ms,
            ended_at_ms: *ended_at_ms,
            epochs: to_json(epochs)?,
            producers: to_json(producers)?,
        })
    }

    fn into_record(self) -> Result<TaskRecord, StoreError> {
        let task = TaskKey::new(&self.tenant, &self.task_id).map_err(|error| unreadable(WHAT, error))?;
        let status = TaskStatus::from_name(&self.status)
            .ok_or_else(|| unreadable(WHAT, format!("{:?} is not a status of a task", self.status)))?;
        Ok(TaskRecord {
            task,
            version: self.version,
            workflow_id: self.workflow_id,
            name: self.name,
            labels: from_json(&self.labels)?,
            attempt: self.attempt,
            attempt_base: self.attempt_base,
            dropped: self.dropped,
            status,
            exit_code: self.exit_code,
            created_at_ms: self.created_at_ms,
            started_at_ms: self.started_at_ms,
            ended_at_ms: self.ended_at_ms,
            epochs: from_json(&self.epochs)?,
            producers: from_json(&self.producers)?,
        })
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unreadable("a task record cannot be written as JSON", error))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| unreadable(WHAT, error))
}

/// The records of these tasks.
pub(super) async fn of_tasks(
    hosts: &Hosts,
    layout: &Layout,
    tasks: &[&TaskKey],
) -> Result<Vec<TaskRecord>, StoreError> {
    let mut records = Vec::with_capacity(tasks.len());
    for some in tasks.chunks(state::TASKS_A_QUERY) {
        let table = layout.table(RECORDS);
        let sql = format!("SELECT {COLUMNS} FROM {table} FINAL WHERE (tenant, task_id) IN ({})", state::names(some));
        let rows = hosts.rows::<RecordRow>(&sql).await;
        for row in rows.map_err(|error| failed("cannot read task records from ClickHouse", error))? {
            records.push(row.into_record()?);
        }
    }
    Ok(records)
}

/// One task. See [`LogStore::task`](crate::LogStore::task).
pub(super) async fn get(hosts: &Hosts, layout: &Layout, task: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
    let Some(record) = of_tasks(hosts, layout, &[task]).await?.pop() else { return Ok(None) };
    let state = state::of_task(hosts, layout, task).await?.unwrap_or_default();
    let floor = first_kept(hosts, layout, task, &state).await?;
    Ok(Some(StoredTask { record, floor, end: state.end }))
}

/// The floor, also where the table's TTL was faster than the retention worker: no line is left below the first one there is.
async fn first_kept(hosts: &Hosts, layout: &Layout, task: &TaskKey, state: &TaskState) -> Result<u64, StoreError> {
    let TaskState { floor, end, .. } = *state;
    if floor > end {
        return Ok(floor);
    }
    let (table, is_task, rule) = (layout.table(LINES), is_task(task), state.rule());
    let sql = format!(
        "SELECT offset FROM {table} WHERE {is_task} AND offset BETWEEN {floor} AND {end} AND {rule} ORDER BY tenant, task_id, offset LIMIT 1"
    );
    let first = hosts.rows::<u64>(&sql).await;
    let first = first.map_err(|error| failed("cannot read the first line of a task from ClickHouse", error))?;
    Ok(first.first().copied().unwrap_or(end + 1))
}

/// One page of tasks. See [`LogStore::tasks`](crate::LogStore::tasks).
pub(super) async fn list(
    hosts: &Hosts,
    layout: &Layout,
    filter: &TaskFilter,
    after: Option<&TaskCursor>,
    limit: usize,
) -> Result<TaskPage, StoreError> {
    let limit = limit.max(1);
    // One more than wanted shows whether there is a next page.
    let sql = format!(
        "SELECT {COLUMNS} FROM {} FINAL WHERE {} ORDER BY created_at_ms DESC, tenant, task_id LIMIT {}",
        layout.table(RECORDS),
        condition(filter, after),
        limit.saturating_add(1)
    );
    let add = |rows: &mut Vec<RecordRow>, row| {
        rows.push(row);
        true
    };
    let rows = hosts.collect(Lane::Page, &sql, Vec::new, add).await;
    let rows = rows.map_err(|error| failed("cannot list tasks of ClickHouse", error))?;
    let has_more = rows.len() > limit;
    let records = rows.into_iter().take(limit).map(RecordRow::into_record).collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<&TaskKey> = records.iter().map(|record| &record.task).collect();
    let states = state::load(hosts, layout, &keys, false).await?;
    let next = records
        .last()
        .filter(|_| has_more)
        .map(|last| TaskCursor { created_at_ms: last.created_at_ms, task: last.task.clone() });
    let with_range = |record: TaskRecord| {
        let (floor, end) = states.get(&record.task).map_or((1, 0), |state| (state.floor, state.end));
        StoredTask { record, floor, end }
    };
    Ok(TaskPage { tasks: records.into_iter().map(with_range).collect(), next })
}

fn condition(filter: &TaskFilter, after: Option<&TaskCursor>) -> String {
    let TaskFilter { tenant, status, text } = filter;
    let mut conditions = vec!["true".to_owned()];
    conditions.extend(tenant.as_deref().map(|tenant| format!("tenant = {}", literal(tenant))));
    conditions.extend(status.map(|status| format!("status = '{}'", status.name())));
    if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
        // It changes the case of ASCII only, as wanted.
        let text = literal(text);
        conditions.push(format!(
            "(positionCaseInsensitive(task_id, {text}) > 0 OR positionCaseInsensitive(name, {text}) > 0)"
        ));
    }
    if let Some(TaskCursor { created_at_ms, task }) = after {
        conditions.push(format!(
            "(created_at_ms < {created_at_ms} OR (created_at_ms = {created_at_ms} AND (tenant, task_id) > ('{}', '{}')))",
            task.tenant(),
            task.task_id()
        ));
    }
    conditions.join(" AND ")
}
