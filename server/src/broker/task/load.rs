//! Bringing a task into memory from what the store knows: the rebuild after a lost memory.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{
    Direction, EpochStart, LogFilter, LogRecord, LogStore, Outcome, ProducerId, ProducerRecord, ReadQuery, StoreError,
    Stream, StreamSet, TaskKey, TaskRecord, TaskStatus,
};

use super::record;
use super::state::{TaskState, lease_until};
use crate::broker::{EndInfo, rows};
use crate::clock::now_ms;

/// The task as the store has it. A task that was running begins a new epoch at the last stored offset, since whatever was
/// in memory above it is lost; the epoch is stored before this returns, so that no reader ever meets one that a later
/// server does not know.
pub(in crate::broker) async fn load(
    store: &dyn LogStore,
    task: &TaskKey,
    lease: Duration,
) -> Result<TaskState, StoreError> {
    let last = store.last(task).await?.unwrap_or_default();
    let record = store.task(task).await?.map(|stored| stored.record);
    let mut state = TaskState {
        end: last.end,
        stored: last.end,
        last_created_ms: last.created_at_ms,
        persisted_version: record.as_ref().map_or(0, |record| record.version),
        ..TaskState::default()
    };
    for (producer, seq) in last.producers {
        state.restore_producer(producer, seq, lease_until(lease));
    }
    let Some(mut record) = record else { return Ok(state) };
    for producer in record.producers.iter().filter_map(|producer| ProducerId::from_hex(&producer.id)) {
        state.restore_producer(producer, 0, lease_until(lease));
    }
    let last_row = store.read(task, &ReadQuery::forward(last.end, last.end, 1)).await?.records.pop();
    if settle(&mut record, last_row.as_ref()) {
        begin_epoch(&mut record, last.end);
        record.dropped = count_lost(store, task, record.attempt_base + 1, last.end).await?;
        store.put_task(&record).await?;
        state.persisted_version = record.version;
    }
    state.record = Some(Arc::new(record));
    Ok(state)
}

/// A new epoch out of what is left of a broker's memory (nothing: the default) and what the store has: whatever either knows
/// to have been given or stored stays so. Nothing is written: the caller makes the result the one truth first, then stores its
/// record, and shows it to nobody before. A task that neither knows has no record in the result.
pub(in crate::broker) async fn rebuild(
    store: &dyn LogStore,
    task: &TaskKey,
    mut memory: TaskState,
) -> Result<TaskState, StoreError> {
    let last = store.last(task).await?.unwrap_or_default();
    let stored = store.task(task).await?.map(|stored| stored.record);
    memory.persisted_version = stored.as_ref().map_or(0, |record| record.version);
    let remembered = memory.record.take().map(Arc::unwrap_or_clone);
    let store_knows_more = remembered.is_none() || last.end > memory.end;
    for (producer, seq) in last.producers {
        memory.note_stored_seq(producer, seq);
    }
    memory.end = memory.end.max(last.end);
    memory.stored = memory.stored.max(last.end);
    memory.last_created_ms = memory.last_created_ms.max(last.created_at_ms);
    let newest = [remembered, stored].into_iter().flatten().max_by_key(|record| record.version);
    let Some(mut record) = newest else { return Ok(memory) };
    if store_knows_more {
        let last_row = store.read(task, &ReadQuery::forward(last.end, last.end, 1)).await?.records.pop();
        settle(&mut record, last_row.as_ref());
    }
    begin_epoch(&mut record, memory.end);
    if store_knows_more {
        record.dropped = count_lost(store, task, record.attempt_base + 1, last.end).await?;
    }
    memory.record = Some(Arc::new(record));
    Ok(memory)
}

/// Makes record and rows agree, where the process died between the two. Returns whether the task was running when the memory
/// was lost, so that lines above the last stored one may have been seen.
fn settle(record: &mut TaskRecord, last_row: Option<&LogRecord>) -> bool {
    let end_row = last_row.and_then(rows::parse_end).filter(|info| info.attempt == record.attempt);
    match (record.status, last_row, end_row) {
        // The end row is stored before the record that says so: the row tells.
        (TaskStatus::Running, Some(row), Some(info)) => finish(record, &info, row.created_at_ms),
        (TaskStatus::Running, ..) => {}
        // Lines after the end reopened the task, and the record that says so is lost.
        (_, Some(row), None) => go_on(record, row.producer),
        _ => return false,
    }
    true
}

fn finish(record: &mut TaskRecord, info: &EndInfo, ended_at_ms: i64) {
    record.status = info.status;
    record.exit_code = info.exit_code;
    record.ended_at_ms = Some(ended_at_ms);
    let someone_lost = !info.complete && info.dropped == 0;
    let outcome = Outcome { status: info.status, exit_code: info.exit_code };
    for producer in &mut record.producers {
        producer.outcome.get_or_insert(if someone_lost { record::LOST } else { outcome });
    }
}

fn go_on(record: &mut TaskRecord, producer: ProducerId) {
    let id = producer.to_string();
    match record.producers.iter_mut().find(|known| known.id == id) {
        Some(known) => record::go_on(known),
        None => record.producers.push(ProducerRecord::open(id, false)),
    }
    record::reopen(record);
}

fn begin_epoch(record: &mut TaskRecord, end: u64) {
    let epoch = (now_ms().max(0) as u64).max(record.epoch().epoch + 1);
    record.epochs.push(EpochStart { epoch, base: end });
    let surplus = record.epochs.len().saturating_sub(TaskRecord::MAX_EPOCHS);
    record.epochs.drain(..surplus);
    record.attempt_base = record.attempt_base.min(end);
    record::bump(record, now_ms());
}

/// Lost lines, by the rows that say so.
async fn count_lost(store: &dyn LogStore, task: &TaskKey, from: u64, to: u64) -> Result<u64, StoreError> {
    let mut filter = LogFilter::default();
    filter.streams = StreamSet::default().with(Stream::System);
    let (mut lost, mut next) = (0, Some(from));
    while let Some(from) = next.filter(|from| *from <= to) {
        let query =
            ReadQuery { direction: Direction::Forward, filter: filter.clone(), ..ReadQuery::forward(from, to, 1000) };
        let page = store.read(task, &query).await?;
        lost = page.records.iter().map(rows::lost_lines).fold(lost, u64::saturating_add).min(record::MAX_COUNT);
        next = page.next;
    }
    Ok(lost)
}
