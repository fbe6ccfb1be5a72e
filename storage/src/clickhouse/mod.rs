//! The store for many lines: a ClickHouse server, or several, over HTTP.
//!
//! Input: batches from the writer, task records, queries. Output: pages of lines and tasks.
//!
//! Tables (`layout`): `task_logs`, a row a line; `task_states`, what an insert or a read must know of a task; `task_records`,
//! each record as last put; `schema_migrations`.
//!
//! Invariants:
//!
//! - **Lines first, then what is said of them.** An insert is two requests: the lines, then one row per task and producer
//!   into `task_states` with their highest offset and sequence number. `last` is answered from the second alone, so that it
//!   never claims a line that is not there; a line whose claim was never written is above the end, and nobody reads it. A
//!   materialized view would save a request, but promises no order between the two.
//! - **The reading rule is applied on read** (`state`): a table of ClickHouse cannot refuse a row for what another table
//!   says. `task_states` keeps every (epoch, base) that was ever put, so that a row counts if its offset is not above the
//!   base of any later epoch. Rows that lost stay until their partition goes.
//! - **The same row twice shows once**: reads take one row an offset (`LIMIT 1 BY`), and merges of the
//!   `ReplacingMergeTree` throw the copy away. The epoch is part of the key, so that no merge decides between epochs.
//! - **Retention raises floors, then drops whole days** (`retention`). What is below a task's floor is never read, whether
//!   its partition is gone, waits for its day to be over, or was inserted again. The table's TTL does the same work where no
//!   server runs.
//! - A new epoch takes over what is known of the task (`put`), so only rows of `task_states` at or above it count.
//!
//! Durability: with `fsync` (the default) both parts of an insert are synced before it is acked. Without, a power loss takes
//! what the system had not written yet, some seconds; a killed server loses nothing.
//!
//! Failure: what a row itself is to blame for is `Rejected`, everything else `Unavailable`. A host that cannot be reached is
//! passed over for the next one (`hosts`).
//!
//! Limits: offsets, epochs, sequence numbers and record versions up to `i64::MAX`, as in every store. Clusters: the
//! statements are generated and tested as text; no test runs them.

mod connect;
mod error;
mod hosts;
mod insert;
mod layout;
mod put;
mod read;
mod record;
mod retention;
mod row;
mod schema;
mod search;
mod state;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::StoreError;
use crate::key::TaskKey;
use crate::query::{Page, ReadQuery, TaskCursor, TaskFilter, TaskPage};
use crate::record::TaskLines;
use crate::store::{Deleted, LastStored, LogStore};
use crate::task::{StoredTask, TaskRecord};

use hosts::Hosts;
use layout::Layout;
use put::Puts;

pub use connect::check_host;
pub use layout::check_identifier;

/// How a [`ClickhouseStore`] is opened.
#[derive(Clone)]
pub struct ClickhouseOptions {
    /// `host`, `host:port`, `http://host:port` or `https://host:port`, at least one; the first that answers is used. The port
    /// is that of HTTP, 8123 if none is given, or of HTTPS, 8443.
    pub hosts: Vec<String>,
    /// PEM file of authorities that are trusted beside the machine's own; empty = none.
    pub ca_file: PathBuf,
    /// Created if it is not there.
    pub database: String,
    /// Who reads and writes.
    pub user: String,
    /// Never shown.
    pub password: String,
    /// An index over the messages' text.
    pub search_index: SearchIndex,
    /// Name of the cluster on which the tables are made, replicated and distributed; empty = one server.
    pub cluster: String,
    /// Lines older than this are deleted by the table itself; 0 = never.
    pub retention_days: u32,
    /// Sync to the disk before an insert returns.
    pub fsync: bool,
    /// How long any one request may take.
    pub timeout: Duration,
}

impl ClickhouseOptions {
    /// The defaults for this host and database: user `default` without a password, no index, no cluster, lines kept for
    /// ever, synced, 30 s.
    pub fn new(host: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            hosts: vec![host.into()],
            ca_file: PathBuf::new(),
            database: database.into(),
            user: "default".to_owned(),
            password: String::new(),
            search_index: SearchIndex::None,
            cluster: String::new(),
            retention_days: 0,
            fsync: true,
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for ClickhouseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, ca_file, database, user, search_index, cluster, retention_days, fsync, timeout, password: _ } =
            self;
        f.debug_struct("ClickhouseOptions")
            .field("hosts", hosts)
            .field("ca_file", ca_file)
            .field("database", database)
            .field("user", user)
            .field("search_index", search_index)
            .field("cluster", cluster)
            .field("retention_days", retention_days)
            .field("fsync", fsync)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// An index over the messages' text. What is there stays as it is; new parts, and parts that are merged, get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchIndex {
    /// The smallest table and the fastest inserts. The search within one task needs no index.
    None,
    /// Whole words.
    Token,
    /// Any part of a word, four characters or more.
    Ngram,
}

/// A [`LogStore`] in ClickHouse.
pub struct ClickhouseStore {
    hosts: Hosts,
    layout: Layout,
    settings: schema::TableSettings,
    puts: Puts,
}

impl ClickhouseStore {
    /// Finds a host that answers, and creates or upgrades the database. Every error that a person must act on is
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured) and says what to do.
    pub async fn open(options: ClickhouseOptions) -> Result<Self, StoreError> {
        let layout = Layout::new(&options.database, &options.cluster)?;
        let hosts = Hosts::new(&options)?;
        let ClickhouseOptions { search_index, retention_days, fsync, .. } = options;
        let settings = schema::TableSettings { search_index, retention_days, fsync };
        let store = Self { hosts, layout, settings, puts: Puts::default() };
        schema::migrate(&store.hosts, &store.layout, settings).await?;
        Ok(store)
    }
}

#[async_trait]
impl LogStore for ClickhouseStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        schema::migrate(&self.hosts, &self.layout, self.settings).await
    }

    async fn insert(&self, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
        insert::insert(&self.hosts, &self.layout, lines).await
    }

    async fn read(&self, task: &TaskKey, query: &ReadQuery) -> Result<Page, StoreError> {
        read::read(&self.hosts, &self.layout, task, query).await
    }

    async fn last(&self, task: &TaskKey) -> Result<Option<LastStored>, StoreError> {
        let state = state::with_producers(&self.hosts, &self.layout, task).await?;
        Ok(state.map(state::TaskState::into_last))
    }

    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
        self.puts.put(&self.hosts, &self.layout, record).await
    }

    async fn task(&self, task: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
        record::get(&self.hosts, &self.layout, task).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        after: Option<&TaskCursor>,
        limit: usize,
    ) -> Result<TaskPage, StoreError> {
        record::list(&self.hosts, &self.layout, filter, after, limit).await
    }

    async fn delete_before(&self, before_ms: i64) -> Result<Deleted, StoreError> {
        retention::delete_before(&self.hosts, &self.layout, before_ms).await
    }

    /// An insert of no rows: it fails where one with rows would, for a missing table, a read-only one or a server that is
    /// away.
    async fn health(&self) -> Result<(), StoreError> {
        insert::nothing(&self.hosts, &self.layout).await
    }

    async fn close(&self) {
        self.hosts.close();
    }
}
