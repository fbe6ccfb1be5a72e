//! The store in a PostgreSQL database (13 or newer), for any number of processes. Its role needs to be able to make tables, and
//! nothing more.
//!
//! Input: batches from the writer, task records, queries. Output: pages of lines and tasks.
//!
//! Invariants:
//!
//! - `task_logs` has a native partition for each UTC day of `created_at`: made three days ahead, and on need when an insert
//!   finds none (`partition`). Retention drops them whole.
//! - **One row an offset, across partitions.** A unique key of a partitioned table would have to contain `created_at`, and two
//!   epochs may have given one offset on two days; no index can forbid that. Instead every insert locks its tasks' own rows
//!   (`tasks`, one small row a task) in the order of their keys, and under that lock decides which row an offset has (`merge`).
//!   Reads therefore need no rule: the alternative, every epoch in the table and `DISTINCT ON` in each read, would make each
//!   reader pay for what hardly ever happens, and retention could not count. Each partition has a primary key of its own.
//! - Lines are keyed by a number for (tenant, task), not by the two texts: half as much index, and faster.
//! - The table holds only lines that count: rows of an older epoch above the base are dropped at insert, and deleted when the
//!   record that makes them stale is put (`rollback`).
//! - What outlives the lines (end, floor, newest time, the producers' numbers) is in `tasks` and `task_producers`.
//! - Nothing below a task's floor comes back.
//! - No read keeps others from a connection for longer than a page or a window of lines takes (`read`); the server ends each
//!   statement after `statement_timeout`, and we stop waiting for it soon after.
//!
//! Durability: `insert` and `put_task` return after COMMIT did. With the server's defaults (`synchronous_commit=on`, `fsync=on`)
//! the commit is then on the server's disk, and on that of synchronous standbys if there are any. With
//! `synchronous_commit=off` a crash of the server loses what it acked in the last 0.6 s or so: `open` warns of it.
//!
//! Failure: what a row itself is to blame for is `Rejected`, everything else `Unavailable`; a statement that failed or that
//! nobody waited for costs its connection, never the store (`pool`).
//!
//! Limits: offsets, epochs, sequence numbers and record versions up to `i64::MAX`; `created_at` in the years 1970 to 9999; a
//! batch up to PostgreSQL's 1 GB. Connections must be sessions: a pooler in transaction mode does not do.

mod copy;
mod error;
mod insert;
mod last;
mod merge;
mod moment;
mod open;
mod partition;
mod plan;
mod pool;
mod read;
mod retention;
mod rollback;
mod row;
mod schema;
mod task;
mod task_list;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{ErrorKind, StoreError};
use crate::key::TaskKey;
use crate::query::{Page, ReadQuery, TaskCursor, TaskFilter, TaskPage};
use crate::record::TaskLines;
use crate::store::{Deleted, LastStored, LogStore};
use crate::task::{StoredTask, TaskRecord};

use error::{SqlResult, failed};
use open::Target;
pub use open::redacted;
use pool::Connections;

/// Beyond the server's own limit for a statement: for what it answers to arrive, and for a connection to be made.
const ANSWER: Duration = Duration::from_secs(15);

/// How a [`PostgresStore`] is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`. What it leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE` and `~/.pgpass`.
    pub url: String,
    /// Connections of this process, at least 3. Two are kept from readers; retention has one more while it runs.
    pub max_connections: u32,
    /// The server ends a statement that takes longer.
    pub statement_timeout: Duration,
}

impl PostgresOptions {
    /// The defaults for this database: 10 connections, 30 s.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), max_connections: 10, statement_timeout: Duration::from_secs(30) }
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("url", &redacted(&self.url))
            .field("max_connections", &self.max_connections)
            .field("statement_timeout", &self.statement_timeout)
            .finish()
    }
}

/// A [`LogStore`] in a PostgreSQL database.
pub struct PostgresStore {
    target: Target,
    connections: Connections,
}

impl PostgresStore {
    /// Connects once, to find out early what cannot work; [`LogStore::migrate`] makes the tables. Every error that a person
    /// must act on says what to do.
    pub async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let target = Target::new(&options)?;
        target.probe().await?;
        let patience = options.statement_timeout + ANSWER;
        let connections = Connections::new(target.options.clone(), options.max_connections, patience);
        Ok(Self { target, connections })
    }

    async fn find_last(&self, task: &TaskKey) -> SqlResult<Option<LastStored>> {
        let mut lease = self.connections.any().await?;
        let last = last::last(lease.conn()?, task).await;
        lease.finish(last)
    }

    /// Fails where an insert would: no connection, and a server that takes no writes.
    async fn is_read_only(&self) -> SqlResult<bool> {
        let mut lease = self.connections.any().await?;
        let query = sqlx::query_scalar("SELECT current_setting('transaction_read_only') = 'on'");
        let is_read_only = query.fetch_one(lease.conn()?).await;
        lease.finish(is_read_only)
    }
}

#[async_trait]
impl LogStore for PostgresStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        schema::migrate(&self.target).await
    }

    async fn insert(&self, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
        insert::insert(&self.connections, lines).await
    }

    async fn read(&self, task: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError> {
        let page = read::read(&self.connections, task, query).await;
        page.map_err(|error| failed("cannot read lines from PostgreSQL", error))
    }

    async fn last(&self, task: &TaskKey) -> Result<Option<LastStored>, StoreError> {
        let last = self.connections.patiently(self.find_last(task)).await;
        last.map_err(|error| failed("cannot read the end of a task from PostgreSQL", error))
    }

    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
        task::put(&self.connections, record).await
    }

    async fn task(&self, task: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
        task::get(&self.connections, task).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        after: Option<&TaskCursor>,
        limit: usize,
    ) -> Result<TaskPage, StoreError> {
        task_list::list(&self.connections, filter, after, limit).await
    }

    async fn delete_before(&self, before_ms: i64) -> Result<Deleted, StoreError> {
        self.connections.check_open().map_err(|error| failed("cannot delete old lines of PostgreSQL", error))?;
        retention::delete_before(&self.target, before_ms).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        const WHAT: &str = "PostgreSQL does not take inserts";
        let is_read_only = self.connections.patiently(self.is_read_only()).await;
        if is_read_only.map_err(|error| failed(WHAT, error))? {
            return Err(StoreError::new(ErrorKind::Unavailable, WHAT, "it is read-only: a standby, or set so"));
        }
        Ok(())
    }

    async fn close(&self) {
        self.connections.close().await;
    }
}
