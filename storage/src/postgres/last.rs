//! What is known of a task's end.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::error::SqlResult;
use super::moment::Moment;
use super::row;
use crate::key::TaskKey;
use crate::store::LastStored;

/// The end of a task, in one statement, so that end and sequence numbers are of the same moment. See
/// [`LogStore::last`](crate::LogStore::last).
pub(super) async fn last(conn: &mut PgConnection, task: &TaskKey) -> SqlResult<Option<LastStored>> {
    const SQL: &str = r#"SELECT t."end", t.last_created_at, p.producer, p.last_seq
        FROM tasks AS t LEFT JOIN task_producers AS p ON p.task_key = t.task_key
        WHERE t.tenant = $1 AND t.task_id = $2 ORDER BY p.producer"#;
    let rows = sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_all(conn).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut last = LastStored {
        end: first.try_get::<i64, _>(0)? as u64,
        created_at_ms: first.try_get::<Option<Moment>, _>(1)?.map_or(0, |moment| moment.0),
        producers: Vec::with_capacity(rows.len()),
    };
    for row in &rows {
        if let Some(producer) = row.try_get::<Option<&[u8]>, _>(2)? {
            last.producers.push((row::producer(producer)?, row.try_get::<i64, _>(3)? as u64));
        }
    }
    Ok(Some(last))
}
