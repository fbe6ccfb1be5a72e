//! The contract of the cold path.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::key::TaskKey;
use crate::query::{Page, ReadQuery, TaskCursor, TaskFilter, TaskPage};
use crate::record::{ProducerId, TaskLines};
use crate::task::{StoredTask, TaskRecord};

/// Keeps lines and task records. Every backend passes [`crate::contract`].
///
/// Invariants:
///
/// - **Idempotent.** The key of a line is (task, offset). Inserting a line again shows it once.
/// - **The highest epoch wins** at one offset, whichever came first.
/// - **Above the current base only the current epoch counts.** A row whose epoch is older than the task record's and whose
///   offset is above the record's base is never read, whenever it was inserted.
/// - **Committed means durable** to the level that the backend documents, and visible to every read that starts later.
/// - **Exact bytes.** A message is read back as it was inserted, valid UTF-8 or not, NUL or not.
/// - **All or nothing is not promised** across one insert: after an error the caller inserts the same lines again.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Creates or upgrades what the backend needs. Safe to repeat, and for several instances at once.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Commits lines of any number of tasks. Tasks need no record yet. `records` ascend by offset per task; an empty
    /// slice is no error.
    ///
    /// An error with [`is_retryable`](StoreError::is_retryable) says nothing about what was committed. One without means
    /// that some line can never be stored; insert them one by one to find it.
    async fn insert(&self, lines: &[TaskLines<'_>]) -> Result<(), StoreError>;

    /// Lines of one task in ascending offset order. A task not known has none.
    async fn read(&self, task: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError>;

    /// What the broker needs to go on after it lost its memory. `None`: neither a record nor a line is known.
    async fn last(&self, task: &TaskKey) -> Result<Option<LastStored>, StoreError>;

    /// Writes the record, unless the stored one has a higher version.
    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError>;

    /// The task's record and the range of its lines. `None` if no record was ever put.
    async fn task(&self, task: &TaskKey) -> Result<Option<StoredTask>, StoreError>;

    /// Tasks, newest first (`created_at_ms`, then tenant and id ascending), after the cursor, at most `limit`.
    async fn tasks(
        &self,
        filter: &TaskFilter,
        after: Option<&TaskCursor>,
        limit: usize,
    ) -> Result<TaskPage, StoreError>;

    /// Deletes lines with `created_at_ms < before_ms`, oldest first, and raises the floor of their tasks. Task records
    /// stay. Works in small transactions, so that inserts go on meanwhile.
    async fn delete_before(&self, before_ms: i64) -> Result<Deleted, StoreError>;

    /// One cheap round trip that fails when the store could not take an insert now.
    async fn health(&self) -> Result<(), StoreError>;

    /// Finishes what is under way and lets go of the store.
    async fn close(&self);
}

/// The stored end of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastStored {
    /// Last offset that counts (see the reading rule of [`LogStore`]), also when retention has deleted the row; 0 if none.
    pub end: u64,
    /// `created_at_ms` of the newest row ever inserted; 0 if none.
    pub created_at_ms: i64,
    /// The highest stored sequence number of each producer. Once retention has deleted every line of a task that has a
    /// record, only the producers that the record names are left.
    pub producers: Vec<(ProducerId, u64)>,
}

/// What retention freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Lines deleted.
    pub lines: u64,
    /// Tasks that lost lines.
    pub tasks: u64,
    /// `created_at_ms` of the oldest line that is left; `None` if none is.
    pub oldest_ms: Option<i64>,
}
