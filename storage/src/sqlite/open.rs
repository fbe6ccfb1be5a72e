//! Opening: who owns the file, how connections are set up, and what is said when it cannot be.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};

use super::error::{misconfigured, opening};
use super::{batch, schema};
use crate::error::StoreError;

/// Pages kept by each connection, in KiB (negative: that is how the pragma tells KiB from pages).
const CACHE_SIZE: &str = "-32768";

/// The WAL is cut back to this many bytes after a checkpoint that emptied it: long reads can make it grow.
const WAL_KEPT_BYTES: &str = "67108864";

/// Pages written to the WAL (64 MiB of them) before they are moved into the database file. With many tasks each insert
/// rewrites the same last page of each; the more inserts share one move, the better: 1.3 times the rate of 4000 pages.
const CHECKPOINT_PAGES: &str = "16000";

/// Rows that may wait between SQLite's thread and the reader: the memory of a read beside its page.
const ROWS_AHEAD: usize = 256;

/// Makes the folder and locks the file for this process.
pub(super) fn claim(path: &Path) -> Result<File, StoreError> {
    let file = path.display();
    if path.is_dir() {
        let context = format!("sqlite.path is {file}, a folder. Name a file in it, such as {file}/flowforge.db");
        return Err(misconfigured(context, "a database is one file"));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            let folder = folder.display();
            let context = format!("cannot create the folder {folder} for sqlite.path. Create it, or set sqlite.path to a place where this user may write");
            misconfigured(context, error)
        })?;
    }
    lock(path)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = lock_path(path);
    let shown = lock_path.display();
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
    let lock = opened.map_err(|error| {
        let context = format!("cannot write {shown}, the lock beside the database. Give this user write access to the folder, or set sqlite.path to another place");
        misconfigured(context, error)
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let context = format!(
                "another flowforge process has the database {} open. Stop it, or set sqlite.path to another file: a SQLite database belongs to one process",
                path.display()
            );
            Err(misconfigured(context, format!("{shown} is locked")))
        }
        Err(TryLockError::Error(error)) => {
            let context = format!(
                "cannot lock {shown}. Set sqlite.path to a file system that supports locks (many network shares do not)"
            );
            Err(misconfigured(context, error))
        }
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

/// What every connection has in common.
pub(super) fn connect_options(path: &Path, busy_timeout: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .busy_timeout(busy_timeout)
        .pragma("cache_size", CACHE_SIZE)
        .pragma("journal_size_limit", WAL_KEPT_BYTES)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("temp_store", "MEMORY")
        .statement_cache_capacity(16 * batch::STATEMENTS_EACH)
        .row_buffer_size(ROWS_AHEAD)
        .thread_name(|id| format!("sqlite-{id}"))
        .disable_statement_logging()
}

/// The connection that will write, with the schema in place and the write lock tried.
pub(super) async fn first_connection(
    options: &SqliteConnectOptions,
    path: &Path,
) -> Result<SqliteConnection, StoreError> {
    // What the file remembers is set once: it takes the write lock, for which a later connection must not have to wait. sqlx
    // sets `auto_vacuum` before the journal mode, as a new file needs it.
    let options = options.clone().auto_vacuum(SqliteAutoVacuum::Incremental).journal_mode(SqliteJournalMode::Wal);
    let mut conn = options.connect().await.map_err(|error| opening(path, error))?;
    refuse_foreign(&mut conn, path).await?;
    // A file without write permission is opened read-only without a word; only writing shows it.
    sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut conn).await.map_err(|error| opening(path, error))?;
    schema::migrate(&mut conn, path).await?;
    Ok(conn)
}

/// Some other program's database must not get our tables.
async fn refuse_foreign(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    const FOREIGN: &str = "SELECT count(*) > 0 AND NOT coalesce(max(name = '_sqlx_migrations'), 0) FROM sqlite_schema";
    let foreign: bool = sqlx::query_scalar(FOREIGN).fetch_one(conn).await.map_err(|error| opening(path, error))?;
    if !foreign {
        return Ok(());
    }
    let context = format!("{} is a database of another program. Set sqlite.path to another file", path.display());
    Err(misconfigured(context, "it holds tables, but none of flowforge"))
}
