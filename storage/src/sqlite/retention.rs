//! Deleting what is too old, in steps between which inserts go on.
//!
//! `created_at_ms` never falls from one offset to the next, so what is too old in a task is a prefix of it: each step looks
//! only at lines that go and at the first that stays.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::batch::SqlResult;
use super::error::failed;
use super::writer::Writer;
use crate::error::StoreError;
use crate::store::Deleted;

/// Lines a transaction: some ten milliseconds.
const LINES_A_STEP: u64 = 4000;

/// Tasks a transaction, for when each has but a few lines.
const TASKS_A_STEP: usize = 200;

/// Gives so many pages (4 KiB each) back to the file system at a time.
const VACUUM: &str = "PRAGMA incremental_vacuum(1000)";
const PAGES_A_VACUUM: i64 = 1000;

/// What one transaction did.
#[derive(Default)]
struct Step {
    lines: u64,
    touched: Vec<i64>,
    is_last: bool,
}

/// Deletes lines. See [`LogStore::delete_before`](crate::LogStore::delete_before).
pub(super) async fn delete_before(writer: &Writer, before_ms: i64) -> Result<Deleted, StoreError> {
    let fail = |error| failed("cannot delete old lines of the SQLite database", error);
    let mut lines = 0;
    let mut touched = HashSet::new();
    loop {
        let mut tx = writer.begin().await?;
        let outcome = delete_some(tx.conn(), before_ms).await.map_err(fail);
        let step = tx.finish(outcome).await?;
        lines += step.lines;
        touched.extend(step.touched);
        if step.is_last {
            break;
        }
    }
    if lines > 0 {
        shrink(writer).await?;
    }
    let mut tx = writer.begin().await?;
    let oldest = sqlx::query_scalar("SELECT min(first_created_at_ms) FROM tasks WHERE first_created_at_ms IS NOT NULL");
    let outcome = oldest.fetch_one(tx.conn()).await.map_err(fail);
    let oldest_ms = tx.finish(outcome).await?;
    Ok(Deleted { lines, tasks: touched.len() as u64, oldest_ms })
}

/// The next tasks by their oldest line, until one step's worth of lines is gone.
async fn delete_some(conn: &mut SqliteConnection, before_ms: i64) -> SqlResult<Step> {
    const DUE: &str = "SELECT task_key FROM tasks WHERE first_created_at_ms < ? ORDER BY first_created_at_ms LIMIT ?";
    let due: Vec<i64> = sqlx::query_scalar(DUE).bind(before_ms).bind(TASKS_A_STEP as i64).fetch_all(&mut *conn).await?;
    let mut step = Step { is_last: due.len() < TASKS_A_STEP, ..Step::default() };
    for task_key in due {
        if step.lines >= LINES_A_STEP {
            step.is_last = false;
            break;
        }
        let room = LINES_A_STEP - step.lines;
        let deleted = delete_prefix(conn, task_key, before_ms, room).await?;
        if deleted > 0 {
            step.touched.push(task_key);
        }
        step.is_last &= deleted < room;
        step.lines += deleted;
    }
    Ok(step)
}

/// Deletes at most `room` lines from the start of one task and raises its floor.
async fn delete_prefix(conn: &mut SqliteConnection, task_key: i64, before_ms: i64, room: u64) -> SqlResult<u64> {
    const OLDEST: &str = r#"UPDATE tasks SET first_created_at_ms =
            (SELECT created_at_ms FROM lines WHERE task_key = ?1 ORDER BY "offset" LIMIT 1)
        WHERE task_key = ?1"#;
    let mut deleted = 0;
    if let Some(cut) = prefix_end(conn, task_key, before_ms, room).await? {
        deleted = sqlx::query(r#"DELETE FROM lines WHERE task_key = ? AND "offset" <= ?"#)
            .bind(task_key)
            .bind(cut)
            .execute(&mut *conn)
            .await?
            .rows_affected();
        sqlx::query("UPDATE tasks SET floor = max(floor, ? + 1) WHERE task_key = ?")
            .bind(cut)
            .bind(task_key)
            .execute(&mut *conn)
            .await?;
    }
    sqlx::query(OLDEST).bind(task_key).execute(&mut *conn).await?;
    if deleted > 0 {
        forget_producers(conn, task_key).await?;
    }
    Ok(deleted)
}

/// A task whose id is used again and again has new producers each time. When no line is left, those that its record
/// does not name are over.
async fn forget_producers(conn: &mut SqliteConnection, task_key: i64) -> SqlResult<()> {
    const SQL: &str = r#"DELETE FROM task_producers WHERE task_key = ?1
        AND (SELECT floor > "end" FROM tasks WHERE task_key = ?1)
        AND EXISTS (SELECT 1 FROM task_records WHERE task_key = ?1)
        AND lower(hex(producer)) NOT IN (SELECT lower(named.value ->> 'id')
            FROM task_records AS r, json_each(r.producers) AS named WHERE r.task_key = ?1)"#;
    sqlx::query(SQL).bind(task_key).execute(conn).await?;
    Ok(())
}

/// Offset of the last line to go; `None` if the first one stays.
async fn prefix_end(conn: &mut SqliteConnection, task_key: i64, before_ms: i64, room: u64) -> SqlResult<Option<i64>> {
    const SQL: &str = r#"SELECT max("offset"), min(CASE WHEN created_at_ms >= ?2 THEN "offset" END), min("offset")
        FROM (SELECT "offset", created_at_ms FROM lines WHERE task_key = ?1 ORDER BY "offset" LIMIT ?3)"#;
    let row = sqlx::query(SQL).bind(task_key).bind(before_ms).bind(room as i64).fetch_one(conn).await?;
    let (last, first_kept, first): (Option<i64>, Option<i64>, Option<i64>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let cut = first_kept.map(|kept| kept - 1).or(last);
    Ok(cut.filter(|cut| first.is_some_and(|first| first <= *cut)))
}

/// Gives free pages back to the file system, with the writer free in between.
async fn shrink(writer: &Writer) -> Result<(), StoreError> {
    let mut free = writer.pragma("PRAGMA freelist_count").await?;
    while free > 0 {
        writer.run(VACUUM).await?;
        let left = writer.pragma("PRAGMA freelist_count").await?;
        // Inserts that take the free pages meanwhile are as good; no progress at all means that it cannot be done.
        if left >= free || free <= PAGES_A_VACUUM {
            break;
        }
        free = left;
    }
    Ok(())
}
