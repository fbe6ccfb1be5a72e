//! The embedded store: one SQLite file, for one process.
//!
//! Input: batches from the writer, task records, queries. Output: pages of lines and tasks.
//!
//! Invariants:
//!
//! - One process owns the file; a lock on `<path>.lock` says so. Inside of it one connection writes (`writer`) and a
//!   few read (`readers`); in WAL mode neither waits for the other.
//! - A commit is on the disk (`synchronous=FULL`) before `insert` or `put_task` returns; records that are put at the
//!   same time share one (`puts`).
//! - The table holds only lines that count: rows of an older epoch above the base are dropped at insert, and deleted when
//!   the record that makes them stale is put (`rollback`). So a read needs no rule.
//! - Retention deletes from the start of a task only, and nothing below its floor comes back.
//! - No read keeps others from a connection for longer than a page or a window of lines takes (`read`).
//!
//! Failure: what a row itself is to blame for is `Rejected`, everything else `Unavailable`; a transaction that did not end
//! cleanly costs its connection, never the store.
//!
//! Limits: offsets, epochs, sequence numbers and record versions up to `i64::MAX`; a message or its fields up to SQLite's
//! 1,000,000,000 bytes.

mod batch;
mod error;
mod insert;
mod last;
mod open;
mod plan;
mod puts;
mod read;
mod readers;
mod retention;
mod rollback;
mod row;
mod schema;
mod task;
mod task_list;
mod writer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection;

use crate::error::StoreError;
use crate::key::TaskKey;
use crate::query::{Page, ReadQuery, TaskCursor, TaskFilter, TaskPage};
use crate::record::TaskLines;
use crate::store::{Deleted, LastStored, LogStore};
use crate::task::{StoredTask, TaskRecord};

use error::failed;
use puts::Puts;
use readers::Readers;
use writer::Writer;

/// How a [`SqliteStore`] is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file; its folders are created. `<path>-wal`, `<path>-shm` and `<path>.lock` lie beside it.
    pub path: PathBuf,
    /// How long a write waits for a lock that someone else (a backup, a shell) holds on the file before it fails.
    pub busy_timeout: Duration,
    /// Connections that read lines, at least 1: so many reads run at once, others wait. Reads with a filter get half of
    /// them at most. What a producer needs to begin does not wait for them.
    pub read_connections: u32,
}

impl SqliteOptions {
    /// The defaults for this file: 5 s, 4 read connections.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), busy_timeout: Duration::from_secs(5), read_connections: 4 }
    }
}

/// A [`LogStore`] in one SQLite file.
pub struct SqliteStore {
    writer: Writer,
    puts: Puts,
    readers: Readers,
    busy_timeout: Duration,
    /// Held for as long as the store is open: the file is ours.
    lock: Mutex<Option<File>>,
}

impl SqliteStore {
    /// Opens the file, creates or upgrades what is in it, and locks it for this process. Every error that a person must
    /// act on is [`Misconfigured`](crate::ErrorKind::Misconfigured) and says what to do.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let SqliteOptions { path, busy_timeout, read_connections } = options;
        let lock = open::claim(&path)?;
        let connect = open::connect_options(&path, busy_timeout);
        let conn = open::first_connection(&connect, &path).await?;
        let readers = Readers::new(&connect, read_connections);
        let writer = Writer::new(connect, path, conn);
        Ok(Self { writer, puts: Puts::default(), readers, busy_timeout, lock: Mutex::new(Some(lock)) })
    }
}

#[async_trait]
impl LogStore for SqliteStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.writer.migrate().await
    }

    async fn insert(&self, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
        insert::insert(&self.writer, lines).await
    }

    async fn read(&self, task: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError> {
        let page = read::read(&self.readers, task, query).await;
        page.map_err(|error| failed("cannot read lines from the SQLite database", error))
    }

    async fn last(&self, task: &TaskKey) -> Result<Option<LastStored>, StoreError> {
        let last = last::last(self.readers.lookups(), task).await;
        last.map_err(|error| failed("cannot read the end of a task from the SQLite database", error))
    }

    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
        self.puts.put(&self.writer, record).await
    }

    async fn task(&self, task: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
        task::get(self.readers.lookups(), task).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        after: Option<&TaskCursor>,
        limit: usize,
    ) -> Result<TaskPage, StoreError> {
        task_list::list(self.readers.pages(), filter, after, limit).await
    }

    async fn delete_before(&self, before_ms: i64) -> Result<Deleted, StoreError> {
        retention::delete_before(&self.writer, before_ms).await
    }

    /// Takes and releases the write lock, as an insert would.
    async fn health(&self) -> Result<(), StoreError> {
        // Once for the insert before us, once for whoever else holds the file.
        let tx = self.writer.begin_within(2 * self.busy_timeout).await?;
        tx.abandon().await
    }

    async fn close(&self) {
        self.readers.close().await;
        if let Some(mut conn) = self.writer.close().await {
            // Best effort: what is not moved into the database file now is recovered from the WAL at the next start.
            if let Err(error) = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await {
                tracing::warn!(%error, "sqlite checkpoint at close failed");
            }
            if let Err(error) = conn.close().await {
                tracing::warn!(%error, "sqlite close failed");
            }
        }
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
