//! Records that are put at the same time.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::LogStore;
use crate::contract::sample::{key, record};
use crate::sqlite::{SqliteOptions, SqliteStore};

async fn open() -> (Arc<SqliteStore>, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("logs.db"))).await.expect("open");
    (Arc::new(store), folder)
}

fn numbered(n: u64) -> TaskRecord {
    TaskRecord { name: format!("name {n}"), ..record(&key(&format!("task-{n}"))) }
}

type Running = tokio::task::JoinHandle<Outcome>;

fn start(store: &Arc<SqliteStore>, record: TaskRecord) -> Running {
    let store = Arc::clone(store);
    tokio::spawn(async move { store.put_task(&record).await })
}

/// Starts them while the writer is taken, so that all wait together.
async fn start_together(store: &Arc<SqliteStore>, records: impl Iterator<Item = TaskRecord>) -> Vec<Running> {
    let tx = store.writer.begin().await.expect("begin");
    let running: Vec<_> = records.map(|record| start(store, record)).collect();
    while store.puts.pending().len() < running.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tx.abandon().await.expect("abandon");
    running
}

async fn run_sql(store: &SqliteStore, sql: &'static str) {
    store.writer.run(sql).await.expect(sql);
}

async fn stored(store: &SqliteStore, n: u64) -> Option<TaskRecord> {
    store.task(&numbered(n).task).await.expect("task").map(|stored| stored.record)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_of_many_tasks_all_land() {
    // More than two groups, all waiting at once; then 200 that come as they come.
    const TOGETHER: u64 = 2 * GROUP as u64 + 100;
    let (store, _folder) = open().await;
    let mut running = start_together(&store, (0..TOGETHER).map(numbered)).await;
    running.extend((TOGETHER..TOGETHER + 200).map(|n| start(&store, numbered(n))));
    for put in running {
        put.await.expect("no panic").expect("put_task");
    }
    for n in 0..TOGETHER + 200 {
        assert_eq!(stored(&store, n).await, Some(numbered(n)));
    }
    assert!(store.puts.pending().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn highest_version_wins_among_puts_of_one_task() {
    let (store, _folder) = open().await;
    // Neither ascending nor descending, each once.
    let versions = (0..100).map(|n| 1 + n * 37 % 100);
    let of_version = |version| TaskRecord { version, name: format!("version {version}"), ..numbered(0) };
    for put in start_together(&store, versions.map(of_version)).await {
        put.await.expect("no panic").expect("put_task");
    }
    assert_eq!(stored(&store, 0).await, Some(of_version(100)));
}

/// One record of fifty is rejected: `abort` leaves the transaction to us, `rollback` ends it behind our back.
async fn one_rejected_record(trigger: &'static str) {
    let (store, _folder) = open().await;
    run_sql(&store, trigger).await;
    let too_large = TaskRecord { version: u64::MAX, ..numbered(50) };
    let running = start_together(&store, (0..50).map(numbered)).await;
    assert_eq!(store.put_task(&too_large).await.expect_err("too large").kind(), ErrorKind::Rejected);
    for (n, put) in (0..).zip(running) {
        let kind = put.await.expect("no panic").err().map(|error| error.kind());
        assert_eq!(kind, (n == 31).then_some(ErrorKind::Rejected), "record {n}");
        assert_eq!(stored(&store, n).await, (n != 31).then(|| numbered(n)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_record_harms_only_itself() {
    one_rejected_record(
        "CREATE TRIGGER poison BEFORE INSERT ON task_records WHEN new.name = 'name 31'
         BEGIN SELECT raise(ABORT, 'no such record'); END",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_record_that_ends_the_transaction_harms_only_itself() {
    one_rejected_record(
        "CREATE TRIGGER poison BEFORE INSERT ON task_records WHEN new.name = 'name 31'
         BEGIN SELECT raise(ROLLBACK, 'no such record'); END",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_harm_nobody() {
    let (store, _folder) = open().await;
    for round in 0..40_u64 {
        let mut running = start_together(&store, (round * 20..(round + 1) * 20).map(numbered)).await;
        // The first on the list leads. Earlier and later into its transaction it goes, and two of its followers as
        // well.
        tokio::time::sleep(Duration::from_micros(100 * round)).await;
        for cancelled in [0, 7, 1] {
            running[cancelled].abort();
        }
        for (n, put) in running.drain(..).enumerate() {
            match tokio::time::timeout(Duration::from_secs(10), put).await.expect("nobody hangs") {
                Ok(outcome) => outcome.expect("put_task"),
                Err(error) => assert!(error.is_cancelled() && [0, 7, 1].contains(&n), "{error}"),
            }
        }
        for n in (0..20).filter(|n| ![0, 7, 1].contains(n)) {
            assert_eq!(stored(&store, round * 20 + n).await, Some(numbered(round * 20 + n)), "round {round}");
        }
    }
    assert!(store.puts.pending().is_empty());
    store.health().await.expect("health");
}

/// A leader is dropped at the very moment when it has all records in hand.
#[tokio::test]
async fn followers_of_a_dropped_leader_go_on() {
    let (store, _folder) = open().await;
    let running = start_together(&store, (0..30).map(numbered)).await;
    while !store.puts.pending().is_empty() {
        tokio::task::yield_now().await;
    }
    running[0].abort();
    for (n, put) in running.into_iter().enumerate() {
        match put.await {
            Ok(outcome) => outcome.expect("put_task"),
            Err(error) => assert!(error.is_cancelled() && n == 0, "{error}"),
        }
    }
    for n in 1..30 {
        assert_eq!(stored(&store, n).await, Some(numbered(n)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_store_answers_everyone() {
    let (store, _folder) = open().await;
    store.close().await;
    let running: Vec<_> = (0..20).map(|n| start(&store, numbered(n))).collect();
    for put in running {
        assert!(put.await.expect("no panic").expect_err("the store is closed").is_retryable());
    }
}

#[test]
fn records_of_cancelled_callers_do_not_pile_up() {
    let puts = Puts::default();
    for n in 0..10 * GROUP as u64 {
        drop(puts.push(Arc::new(numbered(n))));
    }
    assert!(puts.pending().len() <= 4 * GROUP, "{}", puts.pending().len());
}
