//! Deleting what is too old.
//!
//! A day that is wholly too old goes as a partition: its disk comes back at once, whatever it held. What remains of the day in
//! which the border lies is deleted in small steps, between which inserts go on. A caller that moves its border from midnight
//! to midnight pays for no such step.
//!
//! One instance at a time works, by an advisory lock of a session of its own; another one returns at once.
//!
//! `created_at` never falls from one offset of a task to the next, so what is too old in a task is a prefix of it, and the
//! floor is the offset after the last line that went.

use std::collections::HashSet;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::error::{SqlResult, failed, is_lock_missed};
use super::moment::Moment;
use super::open::Target;
use super::partition::{self, DAY_MS, Day, LOCK_SPACE, RETENTION};
use crate::error::StoreError;
use crate::store::Deleted;

/// Lines that one step looks at: some ten milliseconds.
const LINES_A_STEP: i64 = 4000;

/// Dropping waits for reads and inserts under way, and others wait behind it: not for longer than this, and then again later.
/// An insert into the day that goes has its task locked and waits for the partition, while we wait for the task: this must
/// give way before PostgreSQL looks for deadlocks (1 s) and makes the insert fail.
const LOCK_TIMEOUT: &str = "500ms";
const DROP_ATTEMPTS: u32 = 10;

/// Pages at the start of a partition in which its oldest line is looked for: rows lie in the order in which they came.
const FIRST_PAGES: i64 = 1000;

/// Deletes lines. See [`LogStore::delete_before`](crate::LogStore::delete_before).
pub(super) async fn delete_before(target: &Target, before_ms: i64) -> Result<Deleted, StoreError> {
    let fail = |error| failed("cannot delete old lines of PostgreSQL", error);
    let mut conn = target.connect().await?;
    // Not a connection of the pool: whatever becomes of this run, the lock goes with the session.
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut conn).await.map_err(fail)?;
    let outcome = run(&mut conn, before_ms).await.map_err(fail)?;
    conn.close().await.map_err(fail)?;
    Ok(outcome)
}

async fn run(conn: &mut PgConnection, before_ms: i64) -> SqlResult<Deleted> {
    const LOCK: &str = "SELECT pg_try_advisory_lock($1, $2)";
    const UNLOCK: &str = "SELECT pg_advisory_unlock($1, $2)";
    let is_ours: bool = sqlx::query_scalar(LOCK).bind(LOCK_SPACE).bind(RETENTION).fetch_one(&mut *conn).await?;
    let mut gone = Gone::default();
    if is_ours {
        for day in partition::list(conn).await? {
            if day.start_ms().saturating_add(DAY_MS) <= before_ms {
                drop_day(conn, day, &mut gone).await?;
            } else if day.start_ms() < before_ms {
                delete_some(conn, day, before_ms, &mut gone).await?;
            }
        }
        partition::make_ahead(conn).await?;
        // A session that ends keeps its locks for a moment longer; the next run must not find them.
        sqlx::query(UNLOCK).bind(LOCK_SPACE).bind(RETENTION).execute(&mut *conn).await?;
    }
    let oldest_ms = oldest(conn).await?;
    Ok(Deleted { lines: gone.lines, tasks: gone.tasks.len() as u64, oldest_ms })
}

#[derive(Default)]
struct Gone {
    lines: u64,
    tasks: HashSet<i64>,
}

/// What goes of each task.
#[derive(Default)]
struct Cuts {
    task_keys: Vec<i64>,
    last: Vec<i64>,
    lines: i64,
}

impl Cuts {
    /// From rows of (task, its last offset that goes, how many lines go).
    fn of(rows: &[PgRow]) -> SqlResult<Self> {
        let mut cuts = Self::default();
        for row in rows {
            cuts.task_keys.push(row.try_get(0)?);
            cuts.last.push(row.try_get(1)?);
            cuts.lines += row.try_get::<i64, _>(2)?;
        }
        Ok(cuts)
    }

    fn add_to(&self, gone: &mut Gone) {
        gone.lines += self.lines as u64;
        gone.tasks.extend(&self.task_keys);
    }
}

/// Tries again when somebody reads or writes for long; a day that cannot be had goes in the next run.
async fn drop_day(conn: &mut PgConnection, day: Day, gone: &mut Gone) -> SqlResult<()> {
    for attempt in 1.. {
        match drop_partition(conn, day).await {
            Ok(cuts) => {
                cuts.add_to(gone);
                return Ok(());
            }
            Err(error) if is_lock_missed(&error) => {
                sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await?;
                if attempt == DROP_ATTEMPTS {
                    tracing::warn!(partition = day.table(), "partition is in use, it will be dropped in the next run");
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One transaction: nothing comes into the partition any more, the tasks' floors rise, it is dropped. The tasks are locked
/// before the whole table, as inserts do it.
async fn drop_partition(conn: &mut PgConnection, day: Day) -> SqlResult<Cuts> {
    let table = day.table();
    let begin =
        format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE");
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *conn).await?;
    let select =
        format!(r#"SELECT task_key, max("offset"), count(*) FROM {table} GROUP BY task_key ORDER BY task_key"#);
    let cuts = Cuts::of(&sqlx::query(AssertSqlSafe(select)).persistent(false).fetch_all(&mut *conn).await?)?;
    let size = format!("SELECT pg_total_relation_size('{table}')");
    let bytes: i64 = sqlx::query_scalar(AssertSqlSafe(size)).persistent(false).fetch_one(&mut *conn).await?;
    raise_floors(conn, &cuts).await?;
    forget_producers(conn, &cuts.task_keys).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE {table}; COMMIT"))).execute(&mut *conn).await?;
    tracing::info!(partition = table, lines = cuts.lines, bytes, "partition dropped");
    Ok(cuts)
}

/// Goes once through the partition's key, from step to step.
async fn delete_some(conn: &mut PgConnection, day: Day, before_ms: i64, gone: &mut Gone) -> SqlResult<()> {
    let table = day.table();
    let step_end = format!(
        r#"SELECT task_key, "offset" FROM (SELECT task_key, "offset" FROM {table} WHERE (task_key, "offset") > ($1, $2)
        ORDER BY task_key, "offset" LIMIT $3) AS step ORDER BY task_key DESC, "offset" DESC LIMIT 1"#
    );
    let (mut task_key, mut offset) = (i64::MIN, i64::MIN);
    loop {
        let next = sqlx::query(AssertSqlSafe(step_end.as_str())).bind(task_key).bind(offset).bind(LINES_A_STEP);
        let Some(next) = next.fetch_optional(&mut *conn).await? else { return Ok(()) };
        let to = (next.try_get(0)?, next.try_get(1)?);
        delete_step(conn, &table, (task_key, offset), to, before_ms).await?.add_to(gone);
        (task_key, offset) = to;
    }
}

async fn delete_step(
    conn: &mut PgConnection,
    table: &str,
    after: (i64, i64),
    to: (i64, i64),
    before_ms: i64,
) -> SqlResult<Cuts> {
    const LOCK: &str =
        "SELECT task_key FROM tasks WHERE task_key BETWEEN $1 AND $2 ORDER BY task_key FOR NO KEY UPDATE";
    let delete = format!(
        r#"WITH gone AS (DELETE FROM {table} WHERE (task_key, "offset") > ($1, $2) AND (task_key, "offset") <= ($3, $4)
            AND created_at < $5 RETURNING task_key, "offset")
        SELECT task_key, max("offset"), count(*) FROM gone GROUP BY task_key ORDER BY task_key"#
    );
    sqlx::raw_sql("BEGIN").execute(&mut *conn).await?;
    sqlx::query(LOCK).bind(after.0).bind(to.0).execute(&mut *conn).await?;
    let delete = sqlx::query(AssertSqlSafe(delete)).bind(after.0).bind(after.1).bind(to.0).bind(to.1);
    let cuts = Cuts::of(&delete.bind(Moment(before_ms)).fetch_all(&mut *conn).await?)?;
    raise_floors(conn, &cuts).await?;
    forget_producers(conn, &cuts.task_keys).await?;
    sqlx::raw_sql("COMMIT").execute(conn).await?;
    Ok(cuts)
}

async fn raise_floors(conn: &mut PgConnection, cuts: &Cuts) -> SqlResult<()> {
    const LOCK: &str = "SELECT task_key FROM tasks WHERE task_key = ANY($1) ORDER BY task_key FOR NO KEY UPDATE";
    const RAISE: &str = "UPDATE tasks AS t SET floor = greatest(t.floor, v.last + 1)
        FROM unnest($1::int8[], $2::int8[]) AS v(k, last) WHERE t.task_key = v.k";
    sqlx::query(LOCK).bind(&cuts.task_keys).execute(&mut *conn).await?;
    sqlx::query(RAISE).bind(&cuts.task_keys).bind(&cuts.last).execute(conn).await?;
    Ok(())
}

/// A task whose id is used again and again has new producers each time. When no line is left, those that its record
/// does not name are over.
async fn forget_producers(conn: &mut PgConnection, task_keys: &[i64]) -> SqlResult<()> {
    const SQL: &str = r#"DELETE FROM task_producers AS p USING tasks AS t, task_records AS r
        WHERE p.task_key = ANY($1) AND t.task_key = p.task_key AND r.task_key = p.task_key AND t.floor > t."end"
        AND encode(p.producer, 'hex') NOT IN (SELECT lower(named.value ->> 'id')
            FROM json_array_elements(r.producers::json) AS named)"#;
    sqlx::query(SQL).bind(task_keys).execute(conn).await?;
    Ok(())
}

/// The oldest line's time: that of the first partition that has one.
async fn oldest(conn: &mut PgConnection) -> SqlResult<Option<i64>> {
    for day in partition::list(conn).await? {
        let table = day.table();
        for part in [format!("WHERE ctid < '({FIRST_PAGES},0)'"), String::new()] {
            let sql = format!("SELECT min(created_at) FROM {table} {part}");
            let found = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_one(&mut *conn).await;
            match found {
                Ok(Some(Moment(ms))) => return Ok(Some(ms)),
                Ok(None) => {}
                // Another instance has dropped it since it was listed.
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// The table is not there.
fn is_gone(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "42P01")
}
