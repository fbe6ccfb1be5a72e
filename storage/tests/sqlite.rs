//! What only the SQLite store promises: one process a file, messages at start-up, locks and broken transactions.

use std::path::Path;
use std::time::{Duration, Instant};

use flowforge_storage::contract::sample::{insert, key, last, line, lines, offsets, read_all, record};
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{
    ErrorKind, LogRecord, LogStore, ReadQuery, SqliteStore, StoreError, Stream, StreamSet, TaskLines,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

const BUSY_TIMEOUT: Duration = Duration::from_millis(200);

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(SqliteOptions { busy_timeout: BUSY_TIMEOUT, ..SqliteOptions::new(path) }).await
}

/// The error of an open that must fail for a reason that a person can mend.
async fn refused(path: &Path) -> String {
    let error = open(path).await.err().expect("open must fail");
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    error.to_string()
}

/// A connection beside the store, as a shell or a backup has one.
async fn shell(path: &Path, sql: &'static str) -> SqliteConnection {
    let mut conn = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.expect("connect");
    sqlx::raw_sql(sql).execute(&mut conn).await.expect(sql);
    conn
}

async fn try_insert(store: &SqliteStore, records: &[LogRecord]) -> Result<(), StoreError> {
    store.insert(&[TaskLines { task: key("t"), records }]).await
}

#[tokio::test]
async fn a_file_belongs_to_one_store() {
    let folder = folder();
    let path = folder.path().join("new/folders/logs.db");
    let store = open(&path).await.unwrap();
    let message = refused(&path).await;
    assert!(message.contains("another flowforge process"), "{message}");
    assert!(message.contains(&path.display().to_string()), "{message}");
    assert!(message.contains("set sqlite.path"), "{message}");
    insert(&store, &key("t"), &lines(1..=2)).await;
    store.close().await;
    open(&path).await.unwrap().close().await;
}

#[tokio::test]
async fn reopened_store_has_everything() {
    let folder = folder();
    let path = folder.path().join("logs.db");
    let store = open(&path).await.unwrap();
    store.put_task(&record(&key("t"))).await.unwrap();
    insert(&store, &key("t"), &lines(1..=500)).await;
    store.delete_before(100).await.unwrap();
    let before = (last(&store, &key("t")).await, store.task(&key("t")).await.unwrap());
    store.close().await;
    assert!(!folder.path().join("logs.db-wal").exists(), "the WAL is moved into the file at close");

    let store = open(&path).await.unwrap();
    assert_eq!(read_all(&store, &key("t")).await, lines(100..=500));
    assert_eq!((last(&store, &key("t")).await, store.task(&key("t")).await.unwrap()), before);
    insert(&store, &key("t"), &lines(490..=510)).await;
    assert_eq!(last(&store, &key("t")).await.end, 510);
}

#[tokio::test]
async fn closed_store_is_unavailable() {
    let folder = folder();
    let store = open(&folder.path().join("logs.db")).await.unwrap();
    store.close().await;
    store.close().await;
    assert!(try_insert(&store, &lines(1..=1)).await.unwrap_err().is_retryable());
    assert!(store.last(&key("t")).await.unwrap_err().is_retryable());
    assert!(store.health().await.unwrap_err().is_retryable());
}

#[tokio::test]
async fn write_lock_of_another_process_is_waited_for_and_survived() {
    let folder = folder();
    let path = folder.path().join("logs.db");
    let store = open(&path).await.unwrap();
    insert(&store, &key("t"), &lines(1..=3)).await;
    let other = shell(&path, "BEGIN IMMEDIATE").await;

    let start = Instant::now();
    assert!(try_insert(&store, &lines(4..=5)).await.unwrap_err().is_retryable());
    assert!(store.health().await.unwrap_err().is_retryable());
    assert!(start.elapsed() >= BUSY_TIMEOUT, "it waits for as long as it was told");
    assert!(start.elapsed() < 20 * BUSY_TIMEOUT, "and not much longer");
    assert_eq!(offsets(&store, &key("t")).await, [1, 2, 3], "reads go on");

    other.close().await.unwrap();
    store.health().await.unwrap();
    insert(&store, &key("t"), &lines(4..=5)).await;
    assert_eq!(offsets(&store, &key("t")).await, [1, 2, 3, 4, 5]);
}

/// `abort` leaves the transaction to us, `rollback` ends it behind our back.
async fn poison_row_is_rejected(trigger: &'static str) {
    let folder = folder();
    let path = folder.path().join("logs.db");
    let store = open(&path).await.expect("open");
    shell(&path, trigger).await.close().await.expect("close");
    let poison = LogRecord { message: "poison".into(), ..line(2) };
    let batch = [line(1), poison, line(3)];
    assert_eq!(try_insert(&store, &batch).await.expect_err("a poison row").kind(), ErrorKind::Rejected);
    assert_eq!(store.last(&key("t")).await.expect("last"), None, "nothing of the batch is left");
    let mut kinds = Vec::new();
    for row in batch.chunks(1) {
        kinds.push(try_insert(&store, row).await.err().map(|error| error.kind()));
    }
    assert_eq!(kinds, [None, Some(ErrorKind::Rejected), None]);
    assert_eq!(offsets(&store, &key("t")).await, [1, 3]);
}

#[tokio::test]
async fn poison_row_is_rejected_alone() {
    poison_row_is_rejected(
        "CREATE TRIGGER poison BEFORE INSERT ON lines WHEN new.message = 'poison'
         BEGIN SELECT raise(ABORT, 'no such line'); END",
    )
    .await;
}

#[tokio::test]
async fn transaction_that_sqlite_ended_by_itself_is_survived() {
    poison_row_is_rejected(
        "CREATE TRIGGER poison BEFORE INSERT ON lines WHEN new.message = 'poison'
         BEGIN SELECT raise(ROLLBACK, 'no such line'); END",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_inserts_are_whole_or_absent_and_leave_the_store_usable() {
    const BATCH: u64 = 300;
    let folder = folder();
    // Under load a cancelled commit may hold the lock for longer than the other tests wait.
    let options =
        SqliteOptions { busy_timeout: Duration::from_secs(20), ..SqliteOptions::new(folder.path().join("logs.db")) };
    let store = SqliteStore::open(options).await.unwrap();
    let mut cancelled = 0;
    for n in 0..60 {
        let batch = lines(n * BATCH + 1..=(n + 1) * BATCH);
        let limit = Duration::from_micros(100 * n);
        cancelled += u32::from(tokio::time::timeout(limit, try_insert(&store, &batch)).await.is_err());
    }
    assert!(cancelled > 0, "no insert was cut off: the test shows nothing");
    let next = 60 * BATCH + 1;
    insert(&store, &key("t"), &[line(next)]).await;
    let found = offsets(&store, &key("t")).await;
    assert_eq!(found.last(), Some(&next));
    for batch in 0..60 {
        let of_batch = found.iter().filter(|offset| (*offset - 1) / BATCH == batch).count() as u64;
        assert!(of_batch == 0 || of_batch == BATCH, "{of_batch} lines of batch {batch}");
    }
}

#[tokio::test]
async fn dropped_reads_give_their_connection_back() {
    let folder = folder();
    let options = SqliteOptions { read_connections: 1, ..SqliteOptions::new(folder.path().join("logs.db")) };
    let store = SqliteStore::open(options).await.unwrap();
    insert(&store, &key("t"), &lines(1..=5000)).await;
    for n in 0..50 {
        let _cut_off = tokio::time::timeout(Duration::from_micros(20 * n), read_all(&store, &key("t"))).await;
    }
    assert_eq!(offsets(&store, &key("t")).await.len(), 5000);
}

#[tokio::test]
async fn retention_gives_space_back() {
    let folder = folder();
    let path = folder.path().join("logs.db");
    let store = open(&path).await.unwrap();
    let long = |line: LogRecord| LogRecord { message: vec![b'x'; 2000].into(), ..line };
    for first in (1..20_000).step_by(5000) {
        insert(&store, &key("t"), &lines(first..=first + 4999).into_iter().map(long).collect::<Vec<_>>()).await;
    }
    assert_eq!(store.delete_before(19_001).await.unwrap().lines, 19_000);
    store.close().await;
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 5 << 20, "{size} bytes for a thousand lines of 2000");
}

#[tokio::test]
async fn folder_instead_of_a_file() {
    let folder = folder();
    let message = refused(folder.path()).await;
    assert!(message.contains("a folder"), "{message}");
    assert!(message.contains("flowforge.db"), "it names a file that would do: {message}");
}

#[tokio::test]
async fn folder_that_cannot_be_made() {
    let folder = folder();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let message = refused(&folder.path().join("file/below/logs.db")).await;
    assert!(message.contains("cannot create the folder"), "{message}");
}

#[tokio::test]
async fn file_that_is_no_database() {
    let folder = folder();
    let path = folder.path().join("notes.txt");
    let text = "dear diary\n".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let message = refused(&path).await;
    assert!(message.contains("notes.txt is not a SQLite database"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "it is left as it was");
}

#[tokio::test]
async fn database_of_another_program() {
    let folder = folder();
    let path = folder.path().join("browser.db");
    shell(&path, "CREATE TABLE bookmarks (url TEXT)").await.close().await.unwrap();
    let message = refused(&path).await;
    assert!(message.contains("another program"), "{message}");
}

#[tokio::test]
async fn database_of_the_first_version_is_upgraded() {
    let folder = folder();
    let path = folder.path().join("logs.db");
    let store = open(&path).await.unwrap();
    let system = LogRecord { stream: Stream::System, ..line(2) };
    insert(&store, &key("t"), &[line(1), system.clone(), line(3)]).await;
    store.close().await;
    let first = "DROP INDEX lines_system; DELETE FROM _sqlx_migrations WHERE version > 1";
    shell(&path, first).await.close().await.unwrap();
    let store = open(&path).await.unwrap();
    let mut query = ReadQuery::forward(1, 3, 10);
    query.filter.streams = StreamSet::default().with(Stream::System);
    assert_eq!(store.read(&key("t"), &query).await.unwrap().records, [system]);
}

#[tokio::test]
async fn database_of_a_newer_version() {
    let folder = folder();
    let path = folder.path().join("logs.db");
    open(&path).await.unwrap().close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (999, 'to come', true, x'00', 0)";
    shell(&path, newer).await.close().await.unwrap();
    let message = refused(&path).await;
    assert!(message.contains("schema version 999, written by a newer flowforge"), "{message}");
}
