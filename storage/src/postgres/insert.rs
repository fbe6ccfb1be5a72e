//! One insert, one transaction of four round trips: begin, lock the tasks, write everything, commit.
//!
//! The tasks' own rows are locked first. Under that lock nothing can come above their end, so lines above it need no check for
//! duplicates: that is what makes the usual insert fast (an `ON CONFLICT` costs a third of the rate). The few lines up to the
//! end are looked up and sorted out beforehand (`merge`).
//!
//! Rows travel as one array a column (`unnest`), in one message with everything else. A large batch goes as a binary COPY, which
//! is faster, but needs two more round trips, and over TCP stops for 40 ms whenever its last packet waits for an ack: with 100
//! rows at a time it is thirty times slower. `examples/postgres_ways.rs` measures them.

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::copy;
use super::error::{SqlResult, failed, is_partition_missing};
use super::merge;
use super::moment::Moment;
use super::partition;
use super::plan::{Line, Plan, TaskPart, TaskState, by_task, days};
use super::pool::{Connections, Tx};
use super::row::Columns;
use crate::error::StoreError;
use crate::record::TaskLines;

/// How often a missing partition is made before the insert fails: retention may drop it again in between.
const ATTEMPTS: u32 = 3;

/// Tasks' rows in the order of their keys, in which everybody locks them.
const LOCK: &str = r#"SELECT v.place, t.task_key, t.epoch, t.base, t.floor, t."end"
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS v(tenant, task_id, place)
    JOIN tasks AS t ON t.tenant = v.tenant AND t.task_id = v.task_id
    ORDER BY t.task_key FOR NO KEY UPDATE OF t"#;

const ADD_TASKS: &str = "INSERT INTO tasks (tenant, task_id)
    SELECT v.tenant, v.task_id FROM unnest($1::text[], $2::text[]) AS v(tenant, task_id) ORDER BY 1, 2
    ON CONFLICT DO NOTHING";

const WRITE: &str = r#"WITH written AS (
        INSERT INTO task_logs (task_key, "offset", epoch, seq, time_ns, created_at, update_id, stream, level, flags, producer,
            fields, message, raw)
        SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::timestamptz[], $7::int8[],
            $8::int2[], $9::int2[], $10::int2[], $11::bytea[], $12::text[], $13::text[], $14::bytea[])
    ), totals AS (
        UPDATE tasks AS t SET "end" = greatest(t."end", v.e), first_created_at = least(t.first_created_at, v.f),
            last_created_at = greatest(t.last_created_at, v.l)
        FROM unnest($15::int8[], $16::int8[], $17::timestamptz[], $18::timestamptz[]) AS v(k, e, f, l)
        WHERE t.task_key = v.k
    )
    INSERT INTO task_producers AS p (task_key, producer, last_seq)
    SELECT * FROM unnest($19::int8[], $20::bytea[], $21::int8[])
    ON CONFLICT (task_key, producer) DO UPDATE SET last_seq = excluded.last_seq WHERE excluded.last_seq > p.last_seq"#;

/// Commits the lines. See [`LogStore::insert`](crate::LogStore::insert).
pub(super) async fn insert(connections: &Connections, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
    let parts = by_task(lines)?;
    if parts.is_empty() {
        return Ok(());
    }
    let mut attempt = 1;
    loop {
        let outcome = match connections.patiently(write(connections, &parts)).await {
            Err(error) if is_partition_missing(&error) && attempt < ATTEMPTS => {
                make_partitions(connections, &parts).await
            }
            outcome => return outcome.map_err(|error| failed("cannot insert lines into PostgreSQL", error)),
        };
        outcome.map_err(|error| failed("cannot make a partition in PostgreSQL", error))?;
        attempt += 1;
    }
}

async fn make_partitions(connections: &Connections, parts: &[TaskPart<'_>]) -> SqlResult<()> {
    let mut lease = connections.any().await?;
    let made = partition::make(lease.conn()?, days(parts).into_iter()).await;
    lease.finish(made)
}

async fn write(connections: &Connections, parts: &[TaskPart<'_>]) -> SqlResult<()> {
    let mut tx = Tx::begin(connections.any().await?).await?;
    let states = lock_tasks(tx.conn()?, parts).await?;
    let mut plan = Plan::new(parts, &states);
    let missing = merge::settle(tx.conn()?, &plan.known).await?;
    plan.fresh.extend(missing);
    write_plan(tx.conn()?, plan).await?;
    tx.commit().await
}

/// The state of each task, in the order of `parts`; tasks not known are added.
async fn lock_tasks(conn: &mut PgConnection, parts: &[TaskPart<'_>]) -> SqlResult<Vec<TaskState>> {
    let mut states: Vec<Option<TaskState>> = vec![None; parts.len()];
    let everything: Vec<usize> = (0..parts.len()).collect();
    find(conn, parts, &everything, &mut states).await?;
    let unknown: Vec<usize> = everything.into_iter().filter(|place| states[*place].is_none()).collect();
    if !unknown.is_empty() {
        let (tenants, task_ids) = names(parts, &unknown);
        sqlx::query(ADD_TASKS).bind(tenants).bind(task_ids).execute(&mut *conn).await?;
        find(conn, parts, &unknown, &mut states).await?;
    }
    let states: Option<Vec<_>> = states.into_iter().collect();
    states.ok_or(sqlx::Error::RowNotFound)
}

async fn find(
    conn: &mut PgConnection,
    parts: &[TaskPart<'_>],
    places: &[usize],
    states: &mut [Option<TaskState>],
) -> SqlResult<()> {
    let (tenants, task_ids) = names(parts, places);
    for row in sqlx::query(LOCK).bind(tenants).bind(task_ids).fetch_all(conn).await? {
        let place = places[row.try_get::<i64, _>(0)? as usize - 1];
        states[place] = Some(state(&row)?);
    }
    Ok(())
}

fn state(row: &PgRow) -> SqlResult<TaskState> {
    let number = |column: usize| row.try_get::<i64, _>(column);
    Ok(TaskState {
        task_key: number(1)?,
        epoch: number(2)? as u64,
        base: number(3)? as u64,
        floor: number(4)? as u64,
        end: number(5)? as u64,
    })
}

fn names<'a>(parts: &'a [TaskPart<'_>], places: &[usize]) -> (Vec<&'a str>, Vec<&'a str>) {
    places.iter().map(|place| (parts[*place].task.tenant(), parts[*place].task.task_id())).unzip()
}

async fn write_plan(conn: &mut PgConnection, plan: Plan<'_>) -> SqlResult<()> {
    let Plan { fresh, known: _, totals, producers } = plan;
    let mut columns = Columns::of(fresh.iter().map(|Line { task_key, record }| Line { task_key: *task_key, record }));
    if fresh.len() >= copy::WORTH_IT {
        copy::write(conn, &columns).await?;
        columns = Columns::default();
    }
    let (producer_tasks, producer_ids): (Vec<i64>, Vec<&[u8]>) =
        producers.keys().map(|(task_key, producer)| (*task_key, &producer.0[..])).unzip();
    sqlx::query(WRITE)
        .bind(columns.task_keys)
        .bind(columns.offsets)
        .bind(columns.epochs)
        .bind(columns.seqs)
        .bind(columns.times)
        .bind(columns.created)
        .bind(columns.updates)
        .bind(columns.streams)
        .bind(columns.levels)
        .bind(columns.flags)
        .bind(columns.producers)
        .bind(columns.fields)
        .bind(columns.messages)
        .bind(columns.raws)
        .bind(totals.iter().map(|of| of.task_key).collect::<Vec<_>>())
        .bind(totals.iter().map(|of| of.end as i64).collect::<Vec<_>>())
        .bind(totals.iter().map(|of| Moment(of.first_created_at_ms)).collect::<Vec<_>>())
        .bind(totals.iter().map(|of| Moment(of.last_created_at_ms)).collect::<Vec<_>>())
        .bind(producer_tasks)
        .bind(producer_ids)
        .bind(producers.values().map(|seq| *seq as i64).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}
