//! The one connection that writes, and its transactions.
//!
//! Invariant: a connection comes back here only after its transaction has ended cleanly. Whatever else happens — the
//! caller's future is dropped half-way, SQLite rolled back by itself (disk full, I/O error), a COMMIT whose outcome is not
//! known — the connection is closed, by which SQLite rolls back, and the next transaction opens another.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::error::{failed, opening};
use super::schema;
use crate::error::{ErrorKind, StoreError};

/// Hands the write connection to one transaction at a time.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    path: PathBuf,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    /// `None` while a transaction has it, and after one that did not end cleanly.
    idle: Option<SqliteConnection>,
    closed: bool,
}

impl Writer {
    /// Takes over the connection that migrated the database.
    pub(super) fn new(options: SqliteConnectOptions, path: PathBuf, conn: SqliteConnection) -> Self {
        Self { options, path, slot: Mutex::new(Slot { idle: Some(conn), closed: false }) }
    }

    /// Waits for its turn and takes SQLite's write lock, so that nothing in the transaction can fail for want of it.
    pub(super) async fn begin(&self) -> Result<WriteTx<'_>, StoreError> {
        let mut slot = self.slot.lock().await;
        let conn = self.take(&mut slot).await?;
        let mut tx = WriteTx { slot, conn };
        match sqlx::raw_sql("BEGIN IMMEDIATE").execute(tx.conn()).await {
            Ok(_) => Ok(tx),
            Err(error) => {
                // No transaction began, so the connection is as clean as before.
                tx.give_back();
                Err(failed("cannot begin a transaction in the SQLite database", error))
            }
        }
    }

    /// Like [`Writer::begin`], but does not wait for its turn longer than this.
    pub(super) async fn begin_within(&self, limit: Duration) -> Result<WriteTx<'_>, StoreError> {
        match tokio::time::timeout(limit, self.begin()).await {
            Ok(begun) => begun,
            Err(late) => {
                Err(StoreError::new(ErrorKind::Unavailable, "the SQLite database is busy with other writes", late))
            }
        }
    }

    /// Runs one statement outside of a transaction, for pragmas that need it so.
    pub(super) async fn run(&self, sql: &'static str) -> Result<(), StoreError> {
        let mut slot = self.slot.lock().await;
        let mut conn = self.take(&mut slot).await?;
        sqlx::raw_sql(sql).execute(&mut conn).await.map_err(|error| failed(sql, error))?;
        slot.idle = Some(conn);
        Ok(())
    }

    /// The number that a pragma answers.
    pub(super) async fn pragma(&self, sql: &'static str) -> Result<i64, StoreError> {
        let mut slot = self.slot.lock().await;
        let mut conn = self.take(&mut slot).await?;
        let number = sqlx::query_scalar(sql).fetch_one(&mut conn).await.map_err(|error| failed(sql, error))?;
        slot.idle = Some(conn);
        Ok(number)
    }

    /// Brings the schema up to date once more.
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let mut slot = self.slot.lock().await;
        let mut conn = self.take(&mut slot).await?;
        schema::migrate(&mut conn, &self.path).await?;
        slot.idle = Some(conn);
        Ok(())
    }

    async fn take(&self, slot: &mut Slot) -> Result<SqliteConnection, StoreError> {
        if slot.closed {
            return Err(StoreError::new(ErrorKind::Unavailable, "cannot write", "the SQLite store is closed"));
        }
        match slot.idle.take() {
            Some(conn) => Ok(conn),
            None => self.options.connect().await.map_err(|error| as_unavailable(opening(&self.path, error))),
        }
    }

    /// Lets the running transaction finish, then closes the connection for good.
    pub(super) async fn close(&self) -> Option<SqliteConnection> {
        let mut slot = self.slot.lock().await;
        slot.closed = true;
        slot.idle.take()
    }
}

/// The file was fine at start-up, so what fails now may pass.
fn as_unavailable(error: StoreError) -> StoreError {
    StoreError::new(ErrorKind::Unavailable, "the SQLite database cannot be opened again", error)
}

/// One transaction. Dropped without [`WriteTx::finish`], it rolls back.
pub(super) struct WriteTx<'a> {
    slot: MutexGuard<'a, Slot>,
    conn: SqliteConnection,
}

impl WriteTx<'_> {
    /// The connection, inside of the transaction.
    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.conn
    }

    /// Commits what succeeded, rolls back what did not.
    pub(super) async fn finish<T>(mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        let sql = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        match sqlx::raw_sql(sql).execute(self.conn()).await {
            Ok(_) => {
                self.give_back();
                outcome
            }
            Err(error) => outcome.and(Err(failed("cannot commit to the SQLite database", error))),
        }
    }

    /// Ends a transaction that was not meant to write.
    pub(super) async fn abandon(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("ROLLBACK")
            .execute(self.conn())
            .await
            .map_err(|error| failed("the SQLite database does not answer", error))?;
        self.give_back();
        Ok(())
    }

    fn give_back(self) {
        let Self { mut slot, conn } = self;
        slot.idle = Some(conn);
    }
}
