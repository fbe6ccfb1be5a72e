//! Filtered reads: what they find at the borders of windows, how SQLite finds the system's lines, and that nobody waits
//! for a scan.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::contract::sample::{Random, insert, key, lines, record};
use crate::sqlite::{SqliteOptions, SqliteStore};
use crate::{LogStore, TaskFilter};

const LINES: u64 = 2 * WINDOW + 3000;

/// The first line that retention leaves.
const FLOOR: u64 = 1235;

/// Long enough for anything that does not wait for a scan.
const SOON: Duration = Duration::from_secs(10);

async fn open(read_connections: u32) -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = SqliteOptions { read_connections, ..SqliteOptions::new(folder.path().join("logs.db")) };
    (SqliteStore::open(options).await.expect("open"), folder)
}

/// Mostly plain; a few that filters look for, also at every border of a window of either direction.
fn sparse_lines() -> Vec<LogRecord> {
    let mut random = Random::new(7);
    let is_border = |offset: u64| {
        let windows = [offset.abs_diff(FLOOR) % WINDOW, (LINES - offset) % WINDOW];
        windows.iter().any(|place| *place <= 2 || *place >= WINDOW - 2)
    };
    let mark = |line: LogRecord| match random.below(if is_border(line.offset) { 4 } else { 2000 }) {
        0 => LogRecord { message: format!("a Needle at {}", line.offset).into(), ..line },
        1 => LogRecord { level: 17, ..line },
        2 => LogRecord { stream: Stream::System, level: 13, ..line },
        _ => line,
    };
    lines(1..=LINES).into_iter().map(mark).collect()
}

fn filter(min_level: Option<u8>, streams: &[Stream]) -> LogFilter {
    let mut filter = LogFilter::default();
    filter.min_level = min_level;
    filter.streams = streams.iter().fold(StreamSet::default(), |set, stream| set.with(*stream));
    filter
}

fn filters() -> Vec<LogFilter> {
    use Stream::{Stderr, System};
    vec![
        LogFilter::default().contains("needle"),
        LogFilter::default().contains("no such text"),
        filter(Some(13), &[]),
        filter(Some(17), &[]),
        filter(Some(24), &[]),
        filter(None, &[Stderr]),
        filter(None, &[System]),
        filter(Some(14), &[System]),
        filter(None, &[System, Stderr]).contains("LINE"),
        filter(None, &[System]).contains("line"),
    ]
}

/// What the documentation of a page says, over all lines.
fn expected(records: &[LogRecord], query: &ReadQuery) -> Page {
    let mut found: Vec<_> = records
        .iter()
        .filter(|line| (query.from..=query.to).contains(&line.offset) && query.filter.matches(line))
        .cloned()
        .collect();
    let (first, last) = (query.from.max(records[0].offset), query.to.min(LINES));
    let is_full = found.len() >= query.limit;
    let next = match query.direction {
        Direction::Forward => {
            found.truncate(query.limit);
            found.last().map(|line| line.offset + 1).filter(|next| is_full && *next <= last)
        }
        Direction::Backward => {
            found.drain(..found.len().saturating_sub(query.limit));
            found.first().map(|line| line.offset - 1).filter(|next| is_full && *next >= first)
        }
    };
    Page { records: found, next }
}

async fn check(store: &SqliteStore, records: &[LogRecord], query: &ReadQuery) {
    let page = store.read(&key("t"), query).await.expect("read");
    let expected = expected(records, query);
    let shown = ReadQuery { filter: query.filter.clone(), ..*query };
    assert!(page.records == expected.records, "other lines than expected: {shown:?}");
    assert_eq!(page.next, expected.next, "{shown:?}");
}

#[tokio::test]
async fn filtered_reads_of_many_windows_agree_with_matches() {
    let (store, _folder) = open(4).await;
    let mut records = sparse_lines();
    for part in records.chunks(10_000) {
        insert(&store, &key("t"), part).await;
    }
    store.delete_before(FLOOR as i64).await.expect("delete_before");
    records.retain(|line| line.offset >= FLOOR);
    for filter in filters() {
        let matching: Vec<_> = records.iter().filter(|line| filter.matches(line)).collect();
        let count = |is_in: &dyn Fn(u64) -> bool| matching.iter().filter(|line| is_in(line.offset)).count();
        // As many as the first window has, in the direction of the read.
        let (forward, backward) = (count(&|at| at < FLOOR + WINDOW), count(&|at| at > LINES - WINDOW));
        for (direction, in_window) in [(Direction::Forward, forward), (Direction::Backward, backward)] {
            let query = ReadQuery { direction, filter: filter.clone(), ..ReadQuery::forward(0, u64::MAX, 1) };
            for limit in [1, in_window.max(1), in_window + 1, usize::MAX] {
                check(&store, &records, &ReadQuery { limit, ..query.clone() }).await;
            }
            let (from, to) = (FLOOR + 5, FLOOR + 5 + WINDOW);
            check(&store, &records, &ReadQuery { from, to, limit: 3, ..query.clone() }).await;
        }
    }
}

#[tokio::test]
async fn windows_of_long_messages_end_early() {
    let (store, _folder) = open(1).await;
    let long = |line: LogRecord| LogRecord { message: vec![b'x'; WINDOW_BYTES / 4].into(), ..line };
    let records: Vec<_> = lines(1..=12).into_iter().map(long).collect();
    insert(&store, &key("t"), &records).await;
    for direction in [Direction::Forward, Direction::Backward] {
        let filter = LogFilter::default().contains("y");
        let query = ReadQuery { direction, filter, ..ReadQuery::forward(1, 12, 5) };
        let mut conn = store.readers.scan().await.expect("a connection");
        let range = Range::of(&mut conn.conn, &key("t"), &query).await.expect("range").expect("a known task");
        let mut filling = Filling::new(&query, range);
        filling.read(&mut conn.conn, range).await.expect("read");
        assert_eq!(
            filling.rest.last - filling.rest.first + 1,
            12 - 5,
            "after five lines it is more than a window's bytes"
        );
        drop(conn);
        assert_eq!(store.read(&key("t"), &query).await.expect("read").next, None);
        let all = ReadQuery { filter: LogFilter::default().contains("x"), max_bytes: usize::MAX, limit: 20, ..query };
        assert_eq!(store.read(&key("t"), &all).await.expect("read").records.len(), 12);
    }
}

#[tokio::test]
async fn system_lines_are_found_by_their_index() {
    let (store, _folder) = open(1).await;
    for sql in [SYSTEM_FORWARD, SYSTEM_BACKWARD] {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(store.readers.pages()).await.expect("explain");
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let [step] = steps.as_slice() else { panic!("more than a search, such as a sort: {steps:?}") };
        assert!(
            step.contains("SEARCH lines USING INDEX lines_system (task_key=? AND offset>? AND offset<?)"),
            "{step}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_scans() {
    let (store, _folder) = open(4).await;
    let task = key("t");
    store.put_task(&record(&task)).await.expect("put_task");
    insert(&store, &task, &lines(1..=100)).await;
    let mut turns = vec![store.readers.scan().await.expect("a turn"), store.readers.scan().await.expect("a turn")];
    assert!(timeout(Duration::from_millis(50), store.readers.scan()).await.is_err(), "half of four may scan");

    let read =
        async |filter: LogFilter| store.read(&task, &ReadQuery::backward(1, 100, 10, filter)).await.expect("read");
    let system = filter(None, &[Stream::System]);
    let others = async {
        assert_eq!(read(LogFilter::default()).await.records.len(), 10);
        assert_eq!(read(system).await.records.len(), 0);
        assert_eq!(store.tasks(&TaskFilter::default(), None, 10).await.expect("tasks").tasks.len(), 1);
        store.health().await.expect("health");
    };
    timeout(SOON, others).await.expect("only scans wait for scans");

    let pages = [store.readers.pages().acquire().await, store.readers.pages().acquire().await];
    let lookups = async {
        assert_eq!(store.last(&task).await.expect("last").expect("a known task").end, 100);
        assert_eq!(store.task(&task).await.expect("task").expect("a record").end, 100);
    };
    timeout(SOON, lookups).await.expect("lookups wait for no reader of lines");
    drop(pages);

    let mut filtered = Box::pin(read(LogFilter::default().contains("line")));
    assert!(timeout(Duration::from_millis(50), &mut filtered).await.is_err(), "it waits for its turn");
    turns.pop();
    assert_eq!(timeout(SOON, filtered).await.expect("its turn came").records.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_take_turns_and_end_when_dropped() {
    let (store, _folder) = open(1).await;
    for first in (1..=10 * WINDOW).step_by(WINDOW as usize) {
        insert(&store, &key("t"), &lines(first..=first + WINDOW - 1)).await;
    }
    let store = Arc::new(store);
    let scan = |store: Arc<SqliteStore>| async move {
        let filter = filter(Some(24), &[]);
        store.read(&key("t"), &ReadQuery { filter, ..ReadQuery::forward(1, u64::MAX, 10) }).await
    };
    let running: Vec<_> = (0..16).map(|_| tokio::spawn(scan(Arc::clone(&store)))).collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let page = timeout(SOON, store.read(&key("t"), &ReadQuery::forward(1, 10, 10))).await;
    assert_eq!(page.expect("between two windows").expect("read").records.len(), 10);
    for scan in &running[..15] {
        scan.abort();
    }
    for (n, scan) in running.into_iter().enumerate() {
        match scan.await {
            Ok(page) => assert_eq!(page.expect("read").records.len(), 0),
            Err(error) => assert!(error.is_cancelled() && n < 15, "{error}"),
        }
    }
    let turn = timeout(SOON, store.readers.scan()).await;
    assert!(turn.expect("every dropped scan gave its turn back").is_ok());
}
