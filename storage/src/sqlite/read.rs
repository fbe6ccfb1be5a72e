//! Reading lines, and what is known of their end.

use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, SqlitePool};

use super::batch::SqlResult;
use super::error::failed;
use super::row::{self, select_columns};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::query::{Direction, Page, ReadQuery};
use crate::record::{LogRecord, UNSET_LEVEL_FILTERS_AS};
use crate::store::LastStored;

/// Level and stream are tested in SQL, so that rows that cannot match never leave SQLite's thread. Both directions take
/// the same values: key, first, last, least level, what level 0 counts as, streams as bits, limit.
macro_rules! select_lines {
    ($order:literal) => {
        concat!(
            "SELECT ",
            select_columns!(),
            r#" FROM lines WHERE task_key = ?1 AND "offset" BETWEEN ?2 AND ?3
                AND CASE level WHEN 0 THEN ?5 ELSE level END >= ?4 AND ?6 >> stream & 1 = 1
                ORDER BY "offset" "#,
            $order,
            " LIMIT ?7"
        )
    };
}

const FORWARD: &str = select_lines!("ASC");
const BACKWARD: &str = select_lines!("DESC");

/// SQLite's "no limit".
const UNLIMITED: i64 = -1;

/// One page. See [`LogStore::read`](crate::LogStore::read).
pub(super) async fn read(pool: &SqlitePool, task: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError> {
    let fail = |error| failed("cannot read lines from the SQLite database", error);
    let mut conn = pool.acquire().await.map_err(fail)?;
    let Some(range) = Range::of(&mut conn, task, query).await.map_err(fail)? else { return Ok(Page::default()) };
    range.read(&mut conn, query).await.map_err(fail)
}

/// The part of the query's range in which there can be lines.
struct Range {
    task_key: i64,
    first: i64,
    last: i64,
}

impl Range {
    /// `None`: the task is not known, or has nothing there.
    async fn of(conn: &mut SqliteConnection, task: &TaskKey, query: &ReadQuery) -> SqlResult<Option<Self>> {
        let Some(row) = task_row(conn, task).await? else { return Ok(None) };
        let (floor, end): (i64, i64) = (row.try_get("floor")?, row.try_get("end")?);
        let Ok(from) = i64::try_from(query.from) else { return Ok(None) };
        let first = from.max(floor);
        let last = i64::try_from(query.to).unwrap_or(i64::MAX).min(end);
        Ok((first <= last).then_some(Self { task_key: row.try_get("task_key")?, first, last }))
    }

    /// One statement, hence one snapshot; rows come a few at a time and the statement stops when the page is full.
    async fn read(&self, conn: &mut SqliteConnection, query: &ReadQuery) -> SqlResult<Page> {
        let ReadQuery { direction, limit, max_bytes, filter, .. } = query;
        let limit = (*limit).max(1);
        let (sql, is_backward) = match direction {
            Direction::Forward => (FORWARD, false),
            Direction::Backward => (BACKWARD, true),
        };
        let streams = filter.streams.named().fold(0_i64, |bits, stream| bits | 1 << stream as u8);
        // The text is searched here, so how many rows must be seen is not known.
        let sql_limit = if filter.needle().is_some() { UNLIMITED } else { i64::try_from(limit).unwrap_or(UNLIMITED) };
        let mut rows = sqlx::query(sql)
            .bind(self.task_key)
            .bind(self.first)
            .bind(self.last)
            .bind(filter.min_level.unwrap_or(0))
            .bind(UNSET_LEVEL_FILTERS_AS)
            .bind(if streams == 0 { -1 } else { streams })
            .bind(sql_limit)
            .fetch(conn);
        let mut page = Page::default();
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            let record = row::decode(&row)?;
            if !filter.matches(&record) {
                continue;
            }
            bytes += record.message.len();
            page.records.push(record);
            if page.records.len() == limit || bytes > *max_bytes {
                page.next = page.records.last().and_then(|last| self.after(last, is_backward));
                break;
            }
        }
        if is_backward {
            page.records.reverse();
        }
        Ok(page)
    }

    /// Where the range goes on after this line, if it does.
    fn after(&self, record: &LogRecord, is_backward: bool) -> Option<u64> {
        let offset = record.offset as i64;
        if is_backward {
            return (offset > self.first).then(|| record.offset - 1);
        }
        (offset < self.last).then(|| record.offset + 1)
    }
}

async fn task_row(conn: &mut SqliteConnection, task: &TaskKey) -> SqlResult<Option<SqliteRow>> {
    const SQL: &str =
        r#"SELECT task_key, floor, "end", last_created_at_ms FROM tasks WHERE tenant = ? AND task_id = ?"#;
    sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_optional(conn).await
}

/// The end of a task. See [`LogStore::last`](crate::LogStore::last).
pub(super) async fn last(pool: &SqlitePool, task: &TaskKey) -> Result<Option<LastStored>, StoreError> {
    let outcome = find_last(pool, task).await;
    outcome.map_err(|error| failed("cannot read the end of a task from the SQLite database", error))
}

/// One statement, so that end and sequence numbers are of the same moment.
async fn find_last(pool: &SqlitePool, task: &TaskKey) -> SqlResult<Option<LastStored>> {
    const SQL: &str = r#"SELECT t."end", t.last_created_at_ms, p.producer, p.last_seq
        FROM tasks AS t LEFT JOIN task_producers AS p ON p.task_key = t.task_key
        WHERE t.tenant = ? AND t.task_id = ? ORDER BY p.producer"#;
    let rows = sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_all(pool).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut last = LastStored {
        end: first.try_get::<i64, _>(0)? as u64,
        created_at_ms: first.try_get(1)?,
        producers: Vec::with_capacity(rows.len()),
    };
    for row in &rows {
        if let Some(producer) = row.try_get::<Option<&[u8]>, _>(2)? {
            last.producers.push((row::producer(producer)?, row.try_get::<i64, _>(3)? as u64));
        }
    }
    Ok(Some(last))
}
