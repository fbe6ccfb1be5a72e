//! The connections that read, and who may have how many of them.
//!
//! Three kinds of readers do not wait for each other:
//!
//! - **Lookups** (the end or the record of one task) have connections of their own: a producer that begins needs them.
//! - **Pages** end after the lines that were asked for; any connection will do.
//! - **Scans** pass over lines that nobody asked for, in windows. At most half of the connections do so at once, and a
//!   scan lets go of its connection after each window, so that many of them take turns.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::batch::SqlResult;

/// A read that gets no connection for so long has failed.
const WAIT: Duration = Duration::from_secs(30);

/// Lookups at once: each takes well under a millisecond.
const LOOKUPS: u32 = 2;

/// Hands out connections that may not write. They are made on demand.
pub(super) struct Readers {
    pages: SqlitePool,
    scans: Semaphore,
    lookups: SqlitePool,
}

impl Readers {
    /// `connections` are shared by pages and scans.
    pub(super) fn new(options: &SqliteConnectOptions, connections: u32) -> Self {
        let connections = connections.max(1);
        Self {
            pages: pool(options, connections),
            scans: Semaphore::new((connections as usize / 2).max(1)),
            lookups: pool(options, LOOKUPS),
        }
    }

    /// For statements that find one task.
    pub(super) fn lookups(&self) -> &SqlitePool {
        &self.lookups
    }

    /// For statements that a limit keeps short.
    pub(super) fn pages(&self) -> &SqlitePool {
        &self.pages
    }

    /// For one window of a scan.
    pub(super) async fn scan(&self) -> SqlResult<ScanConnection<'_>> {
        let turn = tokio::time::timeout(WAIT, self.scans.acquire()).await;
        let turn = turn.map_err(|_late| sqlx::Error::PoolTimedOut)?.map_err(|_closed| sqlx::Error::PoolClosed)?;
        Ok(ScanConnection { conn: self.pages.acquire().await?, _turn: turn })
    }

    /// Waits for the statements under way; later ones fail.
    pub(super) async fn close(&self) {
        self.scans.close();
        self.pages.close().await;
        self.lookups.close().await;
    }
}

/// A connection, and the right to scan with it.
pub(super) struct ScanConnection<'a> {
    pub(super) conn: PoolConnection<Sqlite>,
    _turn: SemaphorePermit<'a>,
}

fn pool(options: &SqliteConnectOptions, connections: u32) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.clone().pragma("query_only", "ON"))
}
