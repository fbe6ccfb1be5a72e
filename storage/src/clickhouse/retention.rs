//! Deleting what is too old.
//!
//! `created_at_ms` never falls from one offset to the next, so what is too old in a task is a prefix of it. Its floor is
//! raised, and from then on nothing below is read: that is the deletion, exact to the millisecond. The rows themselves go
//! with their day's partition, as soon as all of that day is too old: dropping it costs nothing, while deleting rows out of
//! a part means to write the rest anew. A re-inserted row goes with the next drop of its day, or by the table's TTL.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use clickhouse::Row;
use serde::Deserialize;

use super::error::failed;
use super::hosts::{Hosts, Lane};
use super::layout::{LINES, Layout, STATES};
use super::record;
use super::state::{self, StateRow, TaskState};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::record::ProducerId;
use crate::store::Deleted;

const WHAT: &str = "cannot delete old lines of ClickHouse";

/// The end of DateTime64's range, 2299-12-31. What is compared with it must be within.
const LAST_MS: i64 = 10_413_791_999_999;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Producers that one statement forgets.
const PRODUCERS_A_DELETE: usize = 400;

/// What goes of one task.
#[derive(Row, Deserialize)]
struct OldRow {
    tenant: String,
    task_id: String,
    lines: u64,
    last: u64,
}

/// Deletes lines. See [`LogStore::delete_before`](crate::LogStore::delete_before).
pub(super) async fn delete_before(hosts: &Hosts, layout: &Layout, before_ms: i64) -> Result<Deleted, StoreError> {
    let before_ms = before_ms.min(LAST_MS);
    let old = old_lines(hosts, layout, before_ms).await?;
    let deleted = Deleted { lines: old.values().map(|row| row.lines).sum(), tasks: old.len() as u64, oldest_ms: None };
    // Floors first: a reader must never find lines missing that no floor explains.
    raise_floors(hosts, layout, &old).await?;
    let oldest_ms = drop_days(hosts, layout, before_ms).await?;
    Ok(Deleted { oldest_ms, ..deleted })
}

/// Lines that count, as `lines`, with what is known of their tasks, as `states`.
fn counting_lines(layout: &Layout) -> String {
    format!(
        "FROM {} AS lines LEFT JOIN (
            SELECT tenant, task_id, groupArrayIf((epoch, base), recorded = 1) AS starts,
                maxIf((epoch, floor), floor > 0).2 AS floor
            FROM (SELECT tenant, task_id, epoch, max(recorded) AS recorded, max(base) AS base, max(floor) AS floor
                FROM {} GROUP BY tenant, task_id, epoch)
            GROUP BY tenant, task_id) AS states
        ON lines.tenant = states.tenant AND lines.task_id = states.task_id
        WHERE lines.offset >= states.floor
            AND arrayAll(start -> lines.epoch >= start.1 OR lines.offset <= start.2, states.starts)",
        layout.table(LINES),
        layout.table(STATES)
    )
}

async fn old_lines(hosts: &Hosts, layout: &Layout, before_ms: i64) -> Result<HashMap<TaskKey, OldRow>, StoreError> {
    let sql = format!(
        "SELECT lines.tenant, lines.task_id, uniqExact(lines.offset), max(lines.offset) {}
            AND lines.created_at < fromUnixTimestamp64Milli({before_ms})
        GROUP BY lines.tenant, lines.task_id",
        counting_lines(layout)
    );
    let add = |rows: &mut Vec<OldRow>, row| {
        rows.push(row);
        true
    };
    let rows = hosts.collect(Lane::Page, &sql, Vec::new, add).await.map_err(|error| failed(WHAT, error))?;
    let keyed = |row: OldRow| Some((TaskKey::new(&row.tenant, &row.task_id).ok()?, row));
    Ok(rows.into_iter().filter_map(keyed).collect())
}

async fn raise_floors(hosts: &Hosts, layout: &Layout, old: &HashMap<TaskKey, OldRow>) -> Result<(), StoreError> {
    let tasks: Vec<&TaskKey> = old.keys().collect();
    for some in tasks.chunks(state::TASKS_A_QUERY) {
        let states = state::load(hosts, layout, some, true).await?;
        let floors: Vec<StateRow> = some
            .iter()
            .filter_map(|task| {
                let (state, row) = (states.get(*task)?, old.get(*task)?);
                let floor = StateRow::new(task, state.start().epoch, ProducerId::SERVER);
                // What a forgotten producer knew of the task is kept here.
                Some(StateRow { floor: row.last + 1, end: state.end, created_at_ms: state.created_at_ms, ..floor })
            })
            .collect();
        hosts.insert(&layout.table(STATES), &floors).await.map_err(|error| failed(WHAT, error))?;
        let is_empty = |task: &&&TaskKey| match (states.get(**task), old.get(**task)) {
            (Some(state), Some(row)) => row.last >= state.end,
            _ => false,
        };
        let emptied: Vec<&TaskKey> = some.iter().filter(is_empty).copied().collect();
        forget_producers(hosts, layout, &emptied, &states).await?;
    }
    Ok(())
}

/// A task whose id is used again and again has new producers each time. When no line is left, those that its record does
/// not name are over.
async fn forget_producers(
    hosts: &Hosts,
    layout: &Layout,
    tasks: &[&TaskKey],
    states: &HashMap<TaskKey, TaskState>,
) -> Result<(), StoreError> {
    let mut over = Vec::new();
    for record in record::of_tasks(hosts, layout, tasks).await? {
        let named: HashSet<_> =
            record.producers.iter().filter_map(|producer| ProducerId::from_hex(&producer.id)).collect();
        let known = states.get(&record.task).into_iter().flat_map(|state| state.producers.keys());
        over.extend(
            known.filter(|producer| !named.contains(producer)).map(|producer| (record.task.clone(), *producer)),
        );
    }
    for some in over.chunks(PRODUCERS_A_DELETE) {
        let mut list = String::new();
        for (task, producer) in some {
            let comma = if list.is_empty() { "" } else { ", " };
            let _ = write!(list, "{comma}('{}', '{}', unhex('{producer}'))", task.tenant(), task.task_id());
        }
        // Of all epochs: the next one must not take them over.
        let sql =
            format!("DELETE FROM {} WHERE (tenant, task_id, toString(producer)) IN ({list})", layout.target(STATES));
        hosts.execute(&sql).await.map_err(|error| failed(WHAT, error))?;
    }
    Ok(())
}

/// The time of the oldest line left, after dropping the partitions that are too old as a whole.
async fn drop_days(hosts: &Hosts, layout: &Layout, before_ms: i64) -> Result<Option<i64>, StoreError> {
    let sql = format!(
        "SELECT DISTINCT partition_id FROM {} WHERE database = '{}' AND table = '{}' AND active ORDER BY partition_id",
        layout.system("parts"),
        layout.database(),
        layout.local(LINES)
    );
    let days = hosts.rows::<String>(&sql).await.map_err(|error| failed(WHAT, error))?;
    let mut oldest = None;
    for day in days {
        if day_end_ms(&day).is_some_and(|end| end <= before_ms) {
            let sql = format!("ALTER TABLE {} DROP PARTITION ID '{day}'", layout.target(LINES));
            hosts.execute(&sql).await.map_err(|error| failed(WHAT, error))?;
        } else if oldest.is_none() {
            oldest = oldest_of(hosts, layout, &day).await?;
        }
    }
    Ok(oldest)
}

#[derive(Row, Deserialize)]
struct OldestRow {
    lines: u64,
    created_at_ms: i64,
}

async fn oldest_of(hosts: &Hosts, layout: &Layout, day: &str) -> Result<Option<i64>, StoreError> {
    let sql = format!(
        "SELECT count(), toUnixTimestamp64Milli(min(lines.created_at)) {} AND lines._partition_id = '{day}'",
        counting_lines(layout)
    );
    let add = |rows: &mut Vec<OldestRow>, row| {
        rows.push(row);
        true
    };
    let rows = hosts.collect(Lane::Page, &sql, Vec::new, add).await.map_err(|error| failed(WHAT, error))?;
    Ok(rows.first().filter(|row| row.lines > 0).map(|row| row.created_at_ms))
}

/// When the day of a partition such as `20261121` is over.
fn day_end_ms(partition: &str) -> Option<i64> {
    let day = jiff::civil::Date::strptime("%Y%m%d", partition).ok()?;
    let start = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    Some(start + DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_a_day_of_utc() {
        assert_eq!(day_end_ms("19700101"), Some(DAY_MS));
        assert_eq!(day_end_ms("20261121"), Some(1_795_305_600_000));
        assert_eq!(day_end_ms("all"), None);
    }
}
