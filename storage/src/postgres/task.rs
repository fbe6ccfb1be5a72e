//! Task records: written whole, read together with the range of the task's lines.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::error::{SqlResult, failed, rejected, unreadable};
use super::pool::{Connections, Tx};
use super::rollback::{self, Stored};
use super::row::storable;
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::task::{EpochStart, StoredTask, TaskRecord, TaskStatus};

/// What [`decode`] needs, of `task_records AS r` joined with `tasks AS t`.
macro_rules! record_columns {
    () => {
        r#"r.tenant, r.task_id, r.version, r.workflow_id, r.name, r.labels, r.attempt, r.status, r.exit_code,
           r.created_at_ms, r.started_at_ms, r.ended_at_ms, r.epochs, r.producers, t.floor, t."end", r.attempt_base,
           r.dropped
           FROM task_records AS r JOIN tasks AS t ON t.task_key = r.task_key"#
    };
}
pub(super) use record_columns;

/// Writes the record, unless the stored one has a higher version. See [`LogStore::put_task`](crate::LogStore::put_task).
pub(super) async fn put(connections: &Connections, record: &TaskRecord) -> Result<(), StoreError> {
    check(record)?;
    let outcome = connections.patiently(write(connections, record)).await;
    outcome.map_err(|error| failed("cannot write a task record to PostgreSQL", error))
}

/// Rejects numbers that do not fit.
fn check(record: &TaskRecord) -> Result<(), StoreError> {
    let EpochStart { epoch, base } = record.epoch();
    let TaskRecord { version, attempt_base, dropped, .. } = *record;
    if [version, epoch, base, attempt_base, dropped].into_iter().any(|number| i64::try_from(number).is_err()) {
        return Err(rejected(format!("record {version} of task {} cannot be stored: a number in it", record.task)));
    }
    Ok(())
}

async fn write(connections: &Connections, record: &TaskRecord) -> SqlResult<()> {
    let mut tx = Tx::begin(connections.any().await?).await?;
    let stored = lock(tx.conn()?, &record.task).await?;
    if upsert(tx.conn()?, stored.task_key, record).await? {
        begin_epoch(tx.conn()?, stored, record.epoch()).await?;
    }
    tx.commit().await
}

async fn begin_epoch(conn: &mut PgConnection, stored: Stored, start: EpochStart) -> SqlResult<()> {
    if start == stored.start {
        return Ok(());
    }
    sqlx::query("UPDATE tasks SET epoch = $1, base = $2 WHERE task_key = $3")
        .bind(start.epoch as i64)
        .bind(start.base as i64)
        .bind(stored.task_key)
        .execute(&mut *conn)
        .await?;
    if start.base < stored.end {
        rollback::drop_older_epochs(conn, stored, start).await?;
    }
    Ok(())
}

/// The task's own row, locked; made if it is not there.
async fn lock(conn: &mut PgConnection, task: &TaskKey) -> SqlResult<Stored> {
    if let Some(stored) = find(conn, task).await? {
        return Ok(stored);
    }
    sqlx::query("INSERT INTO tasks (tenant, task_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(task.tenant())
        .bind(task.task_id())
        .execute(&mut *conn)
        .await?;
    find(conn, task).await?.ok_or(sqlx::Error::RowNotFound)
}

async fn find(conn: &mut PgConnection, task: &TaskKey) -> SqlResult<Option<Stored>> {
    const SQL: &str = r#"SELECT task_key, epoch, base, floor, "end" FROM tasks WHERE tenant = $1 AND task_id = $2
        FOR NO KEY UPDATE"#;
    let Some(row) = sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_optional(conn).await? else {
        return Ok(None);
    };
    Ok(Some(Stored {
        task_key: row.try_get(0)?,
        start: EpochStart { epoch: row.try_get::<i64, _>(1)? as u64, base: row.try_get::<i64, _>(2)? as u64 },
        floor: row.try_get::<i64, _>(3)? as u64,
        end: row.try_get::<i64, _>(4)? as u64,
    }))
}

/// Whether the record was written.
async fn upsert(conn: &mut PgConnection, task_key: i64, record: &TaskRecord) -> SqlResult<bool> {
    const SQL: &str =
        "INSERT INTO task_records AS r (task_key, tenant, task_id, version, workflow_id, name, labels, attempt,
            status, exit_code, created_at_ms, started_at_ms, ended_at_ms, epochs, producers, attempt_base, dropped)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
        ON CONFLICT (task_key) DO UPDATE SET version = excluded.version, workflow_id = excluded.workflow_id,
            name = excluded.name, labels = excluded.labels, attempt = excluded.attempt, status = excluded.status,
            exit_code = excluded.exit_code, created_at_ms = excluded.created_at_ms,
            started_at_ms = excluded.started_at_ms, ended_at_ms = excluded.ended_at_ms, epochs = excluded.epochs,
            producers = excluded.producers, attempt_base = excluded.attempt_base, dropped = excluded.dropped
        WHERE excluded.version >= r.version";
    // A new field must find its column.
    #[rustfmt::skip]
    let TaskRecord {
        task, version, workflow_id, name, labels, attempt, attempt_base, dropped, status, exit_code, created_at_ms,
        started_at_ms, ended_at_ms, epochs, producers,
    } = record;
    let done = sqlx::query(SQL)
        .bind(task_key)
        .bind(task.tenant())
        .bind(task.task_id())
        .bind(*version as i64)
        .bind(storable(workflow_id))
        .bind(storable(name))
        .bind(to_json(labels)?)
        .bind(i64::from(*attempt))
        .bind(status.name())
        .bind(*exit_code)
        .bind(*created_at_ms)
        .bind(*started_at_ms)
        .bind(*ended_at_ms)
        .bind(to_json(epochs)?)
        .bind(to_json(producers)?)
        .bind(*attempt_base as i64)
        .bind(*dropped as i64)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

fn to_json<T: Serialize>(value: &T) -> SqlResult<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// One task. See [`LogStore::task`](crate::LogStore::task).
pub(super) async fn get(connections: &Connections, task: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
    let row = connections.patiently(fetch(connections, task)).await.map_err(|error| failed(READING, error))?;
    row.as_ref().map(decode).transpose()
}

const READING: &str = "cannot read a task record from PostgreSQL";

async fn fetch(connections: &Connections, task: &TaskKey) -> SqlResult<Option<PgRow>> {
    const SQL: &str = concat!("SELECT ", record_columns!(), " WHERE t.tenant = $1 AND t.task_id = $2");
    let mut lease = connections.any().await?;
    let found = sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_optional(lease.conn()?).await;
    lease.finish(found)
}

/// The task in a row of [`record_columns`].
pub(super) fn decode(row: &PgRow) -> Result<StoredTask, StoreError> {
    const WHAT: &str = "a task record in PostgreSQL cannot be read";
    let text = |column: usize| row.try_get::<&str, _>(column).map_err(|error| failed(READING, error));
    let task = TaskKey::new(text(0)?, text(1)?).map_err(|error| unreadable(WHAT, error))?;
    decode_columns(row, task).map_err(|error| unreadable(WHAT, error))
}

fn decode_columns(row: &PgRow, task: TaskKey) -> SqlResult<StoredTask> {
    let status = row.try_get::<&str, _>(7)?;
    let status = TaskStatus::from_name(status)
        .ok_or_else(|| sqlx::Error::Decode(format!("{status:?} is not a status of a task").into()))?;
    let record = TaskRecord {
        task,
        version: row.try_get::<i64, _>(2)? as u64,
        workflow_id: row.try_get(3)?,
        name: row.try_get(4)?,
        labels: from_json(row, 5)?,
        attempt: row.try_get::<i64, _>(6)? as u32,
        attempt_base: row.try_get::<i64, _>(16)? as u64,
        dropped: row.try_get::<i64, _>(17)? as u64,
        status,
        exit_code: row.try_get(8)?,
        created_at_ms: row.try_get(9)?,
        started_at_ms: row.try_get(10)?,
        ended_at_ms: row.try_get(11)?,
        epochs: from_json(row, 12)?,
        producers: from_json(row, 13)?,
    };
    let (floor, end) = (row.try_get::<i64, _>(14)? as u64, row.try_get::<i64, _>(15)? as u64);
    Ok(StoredTask { record, floor, end })
}

fn from_json<T: DeserializeOwned>(row: &PgRow, column: usize) -> SqlResult<T> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
}
