//! One insert, one transaction.

use std::sync::LazyLock;

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::batch::{BatchSql, SqlResult, Values};
use super::error::failed;
use super::plan::{Plan, TaskPart, TaskState, by_task};
use super::row;
use super::writer::Writer;
use crate::error::StoreError;
use crate::record::TaskLines;

struct Statements {
    find_tasks: BatchSql,
    add_tasks: BatchSql,
    lines: BatchSql,
    totals: BatchSql,
    oldest: BatchSql,
    producers: BatchSql,
}

static STATEMENTS: LazyLock<Statements> = LazyLock::new(|| Statements {
    find_tasks: BatchSql::new(
        "SELECT v.column1, t.task_key, t.epoch, t.base, t.floor, t.first_created_at_ms FROM (",
        3,
        // CROSS JOIN keeps SQLite from turning the loops around and scanning the table.
        ") AS v CROSS JOIN tasks AS t WHERE t.tenant = v.column2 AND t.task_id = v.column3",
    ),
    add_tasks: BatchSql::new("INSERT INTO tasks (tenant, task_id)", 2, "ON CONFLICT DO NOTHING"),
    lines: BatchSql::new(row::INSERT_HEAD, row::COLUMNS, row::INSERT_TAIL),
    totals: BatchSql::new(
        r#"UPDATE tasks SET "end" = max("end", v.column2), last_created_at_ms = max(last_created_at_ms, v.column3) FROM ("#,
        3,
        ") AS v WHERE task_key = v.column1",
    ),
    // Apart from the totals, since it touches an index and is seldom needed.
    oldest: BatchSql::new(
        "UPDATE tasks SET first_created_at_ms = v.column2 FROM (",
        2,
        ") AS v WHERE task_key = v.column1",
    ),
    producers: BatchSql::new(
        "INSERT INTO task_producers (task_key, producer, last_seq)",
        3,
        "ON CONFLICT DO UPDATE SET last_seq = excluded.last_seq WHERE excluded.last_seq > last_seq",
    ),
});

/// Commits the lines. See [`LogStore::insert`](crate::LogStore::insert).
pub(super) async fn insert(writer: &Writer, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
    let parts = by_task(lines)?;
    if parts.is_empty() {
        return Ok(());
    }
    let mut tx = writer.begin().await?;
    let outcome = write(tx.conn(), &parts).await;
    tx.finish(outcome.map_err(|error| failed("cannot insert lines into the SQLite database", error))).await
}

async fn write(conn: &mut SqliteConnection, parts: &[TaskPart<'_>]) -> SqlResult<()> {
    let sql = &*STATEMENTS;
    let states = resolve(conn, parts).await?;
    let plan = Plan::new(parts, &states);
    sql.lines.run(conn, &plan.rows, |values, (task_key, record)| row::bind(values, *task_key, record)).await?;
    sql.totals
        .run(conn, &plan.totals, |values, totals| {
            values.add(totals.task_key)?;
            values.add(totals.end as i64)?;
            values.add(totals.last_created_at_ms)
        })
        .await?;
    let older: Vec<_> = plan.totals.iter().filter(|totals| totals.is_older).collect();
    sql.oldest
        .run(conn, &older, |values, totals| {
            values.add(totals.task_key)?;
            values.add(totals.first_created_at_ms)
        })
        .await?;
    let producers: Vec<_> = plan.producers.into_iter().collect();
    sql.producers
        .run(conn, &producers, |values, ((task_key, producer), last_seq)| {
            values.add(*task_key)?;
            values.add(&producer.0[..])?;
            values.add(*last_seq as i64)
        })
        .await
}

/// The state of each task, in the order of `parts`; tasks not known are added.
async fn resolve(conn: &mut SqliteConnection, parts: &[TaskPart<'_>]) -> SqlResult<Vec<TaskState>> {
    let mut states: Vec<Option<TaskState>> = vec![None; parts.len()];
    let everything: Vec<usize> = (0..parts.len()).collect();
    find(conn, parts, &everything, &mut states).await?;
    let unknown: Vec<usize> = everything.into_iter().filter(|place| states[*place].is_none()).collect();
    if !unknown.is_empty() {
        STATEMENTS.add_tasks.run(conn, &unknown, |values, place| bind_names(values, &parts[*place])).await?;
        find(conn, parts, &unknown, &mut states).await?;
    }
    let states: Option<Vec<_>> = states.into_iter().collect();
    states.ok_or(sqlx::Error::RowNotFound)
}

async fn find(
    conn: &mut SqliteConnection,
    parts: &[TaskPart<'_>],
    places: &[usize],
    states: &mut [Option<TaskState>],
) -> SqlResult<()> {
    let bind = |values: &mut Values, place: &usize| {
        values.add(*place as i64)?;
        bind_names(values, &parts[*place])
    };
    let take = |row: &sqlx::sqlite::SqliteRow| {
        let first: Option<i64> = row.try_get(5)?;
        states[row.try_get::<i64, _>(0)? as usize] = Some(TaskState {
            task_key: row.try_get(1)?,
            epoch: row.try_get::<i64, _>(2)? as u64,
            base: row.try_get::<i64, _>(3)? as u64,
            floor: row.try_get::<i64, _>(4)? as u64,
            first_created_at_ms: first.unwrap_or(i64::MAX),
        });
        Ok(())
    };
    STATEMENTS.find_tasks.fetch(conn, places, bind, take).await
}

fn bind_names(values: &mut Values, part: &TaskPart<'_>) -> SqlResult<()> {
    values.add(part.task.tenant())?;
    values.add(part.task.task_id())
}
