//! The connections, and who may have how many of them.
//!
//! - **Inserts and lookups** (the end or the record of one task) may use all of them.
//! - **Pages** leave two for those, however many readers there are.
//! - **Scans** pass over lines that nobody asked for, in windows. At most half of the connections do so at once, and a scan
//!   lets go of its connection after each window, so that many of them take turns.
//!
//! Invariant: a connection comes back to the pool only after what it did ended well. Whatever else happens (an error, a caller
//! that dropped its future half-way, a network that went silent) costs the connection, by which PostgreSQL rolls back;
//! nobody waits for it, and the pool makes another.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::SqlResult;

/// A read that gets no turn for so long has failed.
const TURN: Duration = Duration::from_secs(30);

/// A pool that gives no connection for so long has none to give: the server is away, or full.
const ACQUIRE: Duration = Duration::from_secs(5);

/// Connections that readers leave to inserts and lookups.
const RESERVED: u32 = 2;

/// Hands out connections. They are made on demand.
pub(super) struct Connections {
    pool: PgPool,
    pages: Semaphore,
    scans: Semaphore,
    patience: Duration,
}

impl Connections {
    /// `patience`: how long an answer to one call may take.
    pub(super) fn new(options: PgConnectOptions, max: u32, patience: Duration) -> Self {
        let max = max.max(RESERVED + 1);
        let pool = PgPoolOptions::new().max_connections(max).acquire_timeout(ACQUIRE).connect_lazy_with(options);
        let pages = (max - RESERVED) as usize;
        let scans = (max as usize / 2).min(pages);
        Self { pool, pages: Semaphore::new(pages), scans: Semaphore::new(scans), patience }
    }

    /// For inserts, and statements that find one task.
    pub(super) async fn any(&self) -> SqlResult<Lease<'_>> {
        Ok(Lease { conn: Some(self.pool.acquire().await?), _turns: [None, None] })
    }

    /// For statements that a limit keeps short.
    pub(super) async fn page(&self) -> SqlResult<Lease<'_>> {
        let page = turn(&self.pages).await?;
        Ok(Lease { conn: Some(self.pool.acquire().await?), _turns: [Some(page), None] })
    }

    /// For one window of a scan.
    pub(super) async fn scan(&self) -> SqlResult<Lease<'_>> {
        let scan = turn(&self.scans).await?;
        let page = turn(&self.pages).await?;
        Ok(Lease { conn: Some(self.pool.acquire().await?), _turns: [Some(page), Some(scan)] })
    }

    /// For what uses a connection of its own.
    pub(super) fn check_open(&self) -> SqlResult<()> {
        if self.pool.is_closed() { Err(sqlx::Error::PoolClosed) } else { Ok(()) }
    }

    /// A statement of a read: a network that went silent must not hold its caller for ever.
    pub(super) async fn patiently<T>(&self, call: impl Future<Output = SqlResult<T>> + Send) -> SqlResult<T> {
        let answer = tokio::time::timeout(self.patience, call).await;
        answer.unwrap_or_else(|late| Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, late))))
    }

    /// Waits for the statements under way; later ones fail.
    pub(super) async fn close(&self) {
        self.scans.close();
        self.pages.close();
        self.pool.close().await;
    }
}

async fn turn(turns: &Semaphore) -> SqlResult<SemaphorePermit<'_>> {
    let turn = tokio::time::timeout(TURN, turns.acquire()).await.map_err(|_late| sqlx::Error::PoolTimedOut)?;
    turn.map_err(|_closed| sqlx::Error::PoolClosed)
}

/// A connection, and the right to use it.
pub(super) struct Lease<'a> {
    conn: Option<PoolConnection<Postgres>>,
    _turns: [Option<SemaphorePermit<'a>>; 2],
}

impl Lease<'_> {
    /// The connection.
    pub(super) fn conn(&mut self) -> SqlResult<&mut PgConnection> {
        self.conn.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// What it was for is done: the connection goes back to the pool.
    pub(super) fn give_back(mut self) {
        drop(self.conn.take());
    }

    /// Goes back to the pool if all was well.
    pub(super) fn finish<T>(self, outcome: SqlResult<T>) -> SqlResult<T> {
        if outcome.is_ok() {
            self.give_back();
        }
        outcome
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}

/// One transaction on a lease. Dropped without [`Tx::commit`], the connection is closed and PostgreSQL rolls back.
pub(super) struct Tx<'a>(Lease<'a>);

impl<'a> Tx<'a> {
    pub(super) async fn begin(mut lease: Lease<'a>) -> SqlResult<Self> {
        sqlx::raw_sql("BEGIN").execute(lease.conn()?).await?;
        Ok(Self(lease))
    }

    pub(super) fn conn(&mut self) -> SqlResult<&mut PgConnection> {
        self.0.conn()
    }

    pub(super) async fn commit(mut self) -> SqlResult<()> {
        sqlx::raw_sql("COMMIT").execute(self.0.conn()?).await?;
        self.0.give_back();
        Ok(())
    }
}
