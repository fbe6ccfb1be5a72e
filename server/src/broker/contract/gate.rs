//! A store that can be told to refuse task records, in front of a real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use flowforge_storage::{
    Deleted, ErrorKind, LastStored, LogStore, Page, ReadQuery, StoreError, StoredTask, TaskCursor, TaskFilter, TaskKey,
    TaskLines, TaskPage, TaskRecord,
};

pub(super) struct Gate {
    store: Arc<dyn LogStore>,
    refuses_records: AtomicBool,
}

impl Gate {
    pub(super) fn new(store: Arc<dyn LogStore>) -> Self {
        Self { store, refuses_records: AtomicBool::new(false) }
    }

    /// From now on no record is stored, or records are again.
    pub(super) fn refuse_records(&self, refuse: bool) {
        self.refuses_records.store(refuse, Ordering::Release);
    }
}

#[async_trait]
impl LogStore for Gate {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.store.migrate().await
    }

    async fn insert(&self, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
        self.store.insert(lines).await
    }

    async fn read(&self, task: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError> {
        self.store.read(task, query).await
    }

    async fn last(&self, task: &TaskKey) -> Result<Option<LastStored>, StoreError> {
        self.store.last(task).await
    }

    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
        if self.refuses_records.load(Ordering::Acquire) {
            return Err(StoreError::new(ErrorKind::Unavailable, "closed", "the gate is closed"));
        }
        self.store.put_task(record).await
    }

    async fn task(&self, task: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
        self.store.task(task).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        after: Option<&TaskCursor>,
        limit: usize,
    ) -> Result<TaskPage, StoreError> {
        self.store.tasks(filter, after, limit).await
    }

    async fn delete_before(&self, before_ms: i64) -> Result<Deleted, StoreError> {
        self.store.delete_before(before_ms).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
