//! The list of tasks, newest first.

use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder};

use super::error::{SqlResult, failed};
use super::pool::Connections;
use super::row::storable;
use super::task::{decode, record_columns};
use crate::error::StoreError;
use crate::query::{TaskCursor, TaskFilter, TaskPage};

/// One page. See [`LogStore::tasks`](crate::LogStore::tasks).
pub(super) async fn list(
    connections: &Connections,
    filter: &TaskFilter,
    after: Option<&TaskCursor>,
    limit: usize,
) -> Result<TaskPage, StoreError> {
    let limit = limit.max(1);
    let found = connections.patiently(fetch(connections, filter, after, limit)).await;
    let rows = found.map_err(|error| failed("cannot list tasks of PostgreSQL", error))?;
    let tasks = rows.iter().take(limit).map(decode).collect::<Result<Vec<_>, _>>()?;
    let next = tasks
        .last()
        .filter(|_| rows.len() > limit)
        .map(|last| TaskCursor { created_at_ms: last.record.created_at_ms, task: last.record.task.clone() });
    Ok(TaskPage { tasks, next })
}

async fn fetch(
    connections: &Connections,
    filter: &TaskFilter,
    after: Option<&TaskCursor>,
    limit: usize,
) -> SqlResult<Vec<PgRow>> {
    let mut sql = select(filter, after);
    // One more than wanted shows whether there is a next page.
    sql.push(" ORDER BY r.created_at_ms DESC, r.tenant, r.task_id LIMIT ");
    sql.push_bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
    let mut lease = connections.page().await?;
    let rows = sql.build().fetch_all(lease.conn()?).await;
    lease.finish(rows)
}

fn select(filter: &TaskFilter, after: Option<&TaskCursor>) -> QueryBuilder<Postgres> {
    let TaskFilter { tenant, status, text } = filter;
    let mut sql = QueryBuilder::new(concat!("SELECT ", record_columns!(), " WHERE true"));
    if let Some(tenant) = tenant {
        sql.push(" AND r.tenant = ").push_bind(storable(tenant).into_owned());
    }
    if let Some(status) = status {
        sql.push(" AND r.status = ").push_bind(status.name());
    }
    if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
        // strpos instead of LIKE: nothing to escape. In the collation "C" lower() changes ASCII only, as wanted.
        let text = storable(&text.to_ascii_lowercase()).into_owned();
        sql.push(" AND (strpos(lower(r.task_id), ").push_bind(text.clone());
        sql.push(r#") > 0 OR strpos(lower(r.name COLLATE "C"), "#).push_bind(text).push(") > 0)");
    }
    if let Some(TaskCursor { created_at_ms, task }) = after {
        // The first condition alone would do to start in the middle of the index.
        sql.push(" AND r.created_at_ms <= ").push_bind(*created_at_ms);
        sql.push(" AND (r.created_at_ms < ").push_bind(*created_at_ms);
        sql.push(" OR (r.tenant, r.task_id) > (").push_bind(task.tenant().to_owned());
        sql.push(", ").push_bind(task.task_id().to_owned()).push("))");
    }
    sql
}
