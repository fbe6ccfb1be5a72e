//! Bringing a task into memory from what the store knows: the rebuild after a lost memory.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{
    Direction, EpochStart, LogFilter, LogStore, Outcome, ProducerId, ReadQuery, StoreError, Stream, StreamSet, TaskKey,
    TaskRecord, TaskStatus,
};

use super::state::{TaskState, lease_until};
use crate::broker::rows;
use crate::clock::now_ms;

/// The task as the store has it. A task that was running begins a new epoch at the last stored offset, since whatever was
/// in memory above it is lost; the epoch is stored before this returns, so that no reader ever meets one that a later
/// server does not know.
pub(super) async fn load(store: &dyn LogStore, task: &TaskKey, lease: Duration) -> Result<TaskState, StoreError> {
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
    if record.status == TaskStatus::Running {
        if !finish_from_end_row(store, &mut record, last.end, last.created_at_ms).await? {
            begin_epoch(store, &mut record, last.end).await?;
        }
        record.version += 1;
        store.put_task(&record).await?;
        state.persisted_version = record.version;
    }
    state.record = Some(Arc::new(record));
    Ok(state)
}

/// The end row is stored before the record that says so. If the process died in between, the row tells.
async fn finish_from_end_row(
    store: &dyn LogStore,
    record: &mut TaskRecord,
    end: u64,
    created_at_ms: i64,
) -> Result<bool, StoreError> {
    let last_row = store.read(&record.task, &ReadQuery::forward(end, end, 1)).await?.records.pop();
    let Some(info) = last_row.as_ref().and_then(rows::parse_end).filter(|info| info.attempt == record.attempt) else {
        return Ok(false);
    };
    let outcome = Outcome { status: info.status, exit_code: info.exit_code };
    record.status = info.status;
    record.exit_code = info.exit_code;
    record.ended_at_ms = Some(created_at_ms);
    record.dropped = info.dropped;
    for producer in &mut record.producers {
        producer.outcome.get_or_insert(outcome);
    }
    Ok(true)
}

async fn begin_epoch(store: &dyn LogStore, record: &mut TaskRecord, end: u64) -> Result<(), StoreError> {
    let epoch = (now_ms().max(0) as u64).max(record.epoch().epoch + 1);
    record.epochs.push(EpochStart { epoch, base: end });
    let surplus = record.epochs.len().saturating_sub(TaskRecord::MAX_EPOCHS);
    record.epochs.drain(..surplus);
    if record.dropped > 0 {
        record.dropped = count_lost(store, &record.task, record.attempt_base + 1, end).await?;
    }
    Ok(())
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
        lost += page.records.iter().map(rows::lost_lines).sum::<u64>();
        next = page.next;
    }
    Ok(lost)
}
