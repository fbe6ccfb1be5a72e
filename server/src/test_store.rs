//! A store in memory that keeps the rules of `LogStore` for one task, and lets everybody else run in the middle of each read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use flowforge_storage::{
    Deleted, Direction, LastStored, LogRecord, LogStore, Page, ProducerId, ReadQuery, StoreError, StoredTask,
    TaskCursor, TaskFilter, TaskKey, TaskLines, TaskPage, TaskRecord,
};
use tokio::task::yield_now;

#[derive(Default)]
pub(crate) struct Store(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// At each offset the row of the highest epoch.
    rows: BTreeMap<u64, LogRecord>,
    record: Option<TaskRecord>,
    /// Rows up to it are gone.
    deleted: u64,
}

impl Kept {
    /// Rows that count, also those that retention took.
    fn rows(&self) -> impl DoubleEndedIterator<Item = &LogRecord> {
        let current = self.record.as_ref().map(TaskRecord::epoch).unwrap_or_default();
        self.rows.values().filter(move |row| row.epoch >= current.epoch || row.offset <= current.base)
    }

    fn end(&self) -> u64 {
        self.rows().next_back().map_or(0, |row| row.offset)
    }

    fn read(&self, query: &ReadQuery) -> Page {
        let from = query.from.max(self.deleted + 1);
        let wanted = |row: &&LogRecord| (from..=query.to).contains(&row.offset) && query.filter.matches(row);
        let rows = self.rows().filter(wanted);
        let mut records: Vec<LogRecord> = match query.direction {
            Direction::Forward => rows.take(query.limit).cloned().collect(),
            Direction::Backward => rows.rev().take(query.limit).cloned().collect(),
        };
        let last = records.last().map(|row| row.offset).filter(|_| records.len() == query.limit);
        if query.direction == Direction::Backward {
            records.reverse();
            return Page { records, next: last.and_then(|offset| offset.checked_sub(1)) };
        }
        Page { records, next: last.map(|offset| offset + 1) }
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    /// Last offset that counts.
    pub(crate) fn end(&self) -> u64 {
        self.lock().end()
    }

    /// Retention takes the rows up to this one.
    pub(crate) fn delete_to(&self, offset: u64) {
        let mut kept = self.lock();
        kept.deleted = kept.deleted.max(offset.min(kept.end()));
    }

    pub(crate) fn deleted(&self) -> u64 {
        self.lock().deleted
    }
}

#[async_trait]
impl LogStore for Store {
    async fn insert(&self, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
        let mut kept = self.lock();
        for row in lines.iter().flat_map(|lines| lines.records) {
            if kept.rows.get(&row.offset).is_none_or(|known| known.epoch <= row.epoch) {
                kept.rows.insert(row.offset, row.clone());
            }
        }
        Ok(())
    }

    async fn read(&self, _: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError> {
        yield_now().await;
        let page = self.lock().read(query);
        yield_now().await;
        Ok(page)
    }

    async fn last(&self, _: &TaskKey) -> Result<Option<LastStored>, StoreError> {
        let kept = self.lock();
        let mut producers: HashMap<ProducerId, u64> = HashMap::new();
        for row in kept.rows().filter(|row| row.producer != ProducerId::SERVER) {
            let seq = producers.entry(row.producer).or_default();
            *seq = row.seq.max(*seq);
        }
        let created_at_ms = kept.rows.values().map(|row| row.created_at_ms).max().unwrap_or(0);
        Ok(Some(LastStored { end: kept.end(), created_at_ms, producers: producers.into_iter().collect() }))
    }

    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
        let mut kept = self.lock();
        if kept.record.as_ref().is_none_or(|known| known.version <= record.version) {
            kept.record = Some(record.clone());
        }
        Ok(())
    }

    async fn task(&self, _: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
        yield_now().await;
        let kept = self.lock();
        let stored =
            |record: &TaskRecord| StoredTask { record: record.clone(), floor: kept.deleted + 1, end: kept.end() };
        Ok(kept.record.as_ref().map(stored))
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        unreachable!("nobody does this here")
    }
    async fn tasks(&self, _: &TaskFilter, _: Option<&TaskCursor>, _: usize) -> Result<TaskPage, StoreError> {
        unreachable!("nobody does this here")
    }
    async fn delete_before(&self, _: i64) -> Result<Deleted, StoreError> {
        unreachable!("nobody does this here")
    }
    async fn health(&self) -> Result<(), StoreError> {
        unreachable!("nobody does this here")
    }
    async fn close(&self) {}
}
