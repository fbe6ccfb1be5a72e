//! One insert: the lines, then what they say of their tasks. The order is the point, see the module above.

use std::collections::HashMap;

use bytes::Bytes;
use clickhouse::Client;

use super::error::{failed, insert_failed, rejected};
use super::hosts::{Hosts, Lane};
use super::layout::{LINES, Layout, STATES};
use super::row;
use super::state::{self, StateRow, TaskState};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::record::{LogRecord, ProducerId, TaskLines};

/// Rows are encoded, compressed and sent in pieces of about this size.
const PIECE: usize = 1 << 20;

/// Commits the lines. See [`LogStore::insert`](crate::LogStore::insert).
pub(super) async fn insert(hosts: &Hosts, layout: &Layout, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
    let mut tasks = Vec::with_capacity(lines.len());
    for TaskLines { task, records } in lines.iter().filter(|lines| !lines.records.is_empty()) {
        records.iter().try_for_each(|record| check(task, record))?;
        tasks.push(task);
    }
    tasks.sort_unstable();
    tasks.dedup();
    if tasks.is_empty() {
        return Ok(());
    }
    let sql = format!("INSERT INTO {} ({}) FORMAT RowBinary", layout.table(LINES), row::INSERT_COLUMNS);
    let sent = hosts.run(|client| send(client, &sql, lines)).await;
    sent.map_err(|error| insert_failed("cannot insert lines into ClickHouse", error))?;
    let states = state::load_in(Lane::Free, hosts, layout, &tasks, false).await?;
    let booked = book(lines, &states);
    if booked.is_empty() {
        return Ok(());
    }
    let inserted = hosts.insert(&layout.table(STATES), &booked).await;
    inserted.map_err(|error| failed("cannot write the state of tasks to ClickHouse", error))
}

/// An insert without rows.
pub(super) async fn nothing(hosts: &Hosts, layout: &Layout) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO {} ({}) FORMAT RowBinary", layout.table(LINES), row::INSERT_COLUMNS);
    let sent = hosts.run(|client| send(client, &sql, &[])).await;
    sent.map_err(|error| failed("ClickHouse does not take inserts", error))
}

/// What no store holds.
fn check(task: &TaskKey, record: &LogRecord) -> Result<(), StoreError> {
    let LogRecord { offset, epoch, seq, .. } = record;
    if [offset, epoch, seq].into_iter().any(|number| i64::try_from(*number).is_err()) {
        return Err(rejected(format!("line {offset} of task {task} (epoch {epoch}, seq {seq}) cannot be stored")));
    }
    if !record.fields.is_empty() && record.fields_json().is_none() {
        return Err(rejected(format!("the fields of line {offset} of task {task} are not UTF-8")));
    }
    Ok(())
}

async fn send(client: Client, sql: &str, lines: &[TaskLines<'_>]) -> clickhouse::error::Result<()> {
    let mut insert = client.insert_formatted_with(sql);
    let mut piece = Vec::new();
    for TaskLines { task, records } in lines {
        for record in *records {
            row::encode(task, record, &mut piece);
            if piece.len() >= PIECE {
                insert.send(Bytes::from(std::mem::take(&mut piece))).await?;
            }
        }
    }
    insert.send(Bytes::from(piece)).await?;
    insert.end().await
}

/// What the lines that count say, a row per (task, epoch, producer).
fn book(lines: &[TaskLines<'_>], states: &HashMap<TaskKey, TaskState>) -> Vec<StateRow> {
    let unknown = TaskState::default();
    let mut booked: HashMap<(&TaskKey, u64, ProducerId), StateRow> = HashMap::new();
    for TaskLines { task, records } in lines {
        let state = states.get(task).unwrap_or(&unknown);
        let current = state.start().epoch;
        for record in records.iter().filter(|record| state.counts(record)) {
            let epoch = record.epoch.max(current);
            let row = booked
                .entry((task, epoch, record.producer))
                .or_insert_with(|| StateRow::new(task, epoch, record.producer));
            row.end = row.end.max(record.offset);
            row.created_at_ms = row.created_at_ms.max(record.created_at_ms);
            row.seq = row.seq.max(record.seq);
        }
    }
    booked.into_values().collect()
}
