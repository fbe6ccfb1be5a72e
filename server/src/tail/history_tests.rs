use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use flowforge_storage::contract::sample;
use flowforge_storage::{
    Deleted, EpochStart, ErrorKind, LastStored, Page as StoredPage, StoredTask, TaskCursor, TaskFilter, TaskLines,
    TaskPage, TaskRecord,
};
use futures_util::future::join_all;

use super::*;

/// One task, with as many lines as it says; it counts what it is asked.
#[derive(Default)]
struct Fake {
    end: Mutex<u64>,
    floor: Mutex<u64>,
    message: Mutex<&'static [u8]>,
    is_away: AtomicBool,
    reads: AtomicUsize,
    lookups: AtomicUsize,
}

#[async_trait]
impl LogStore for Fake {
    async fn read(&self, _: &TaskKey, query: &ReadQuery) -> Result<StoredPage, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::new(ErrorKind::Unavailable, "away", "away"));
        }
        let (floor, end) = (*self.floor.lock().unwrap(), *self.end.lock().unwrap());
        let message = *self.message.lock().unwrap();
        let offsets = (query.from.max(floor)..=query.to.min(end)).take(query.limit);
        Ok(StoredPage { records: offsets.map(|offset| line(offset, message)).collect(), next: None })
    }

    async fn task(&self, _: &TaskKey) -> Result<Option<StoredTask>, StoreError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (floor, end) = (*self.floor.lock().unwrap(), *self.end.lock().unwrap());
        Ok(Some(StoredTask { record: record(1), floor, end }))
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        unreachable!("no reader does this")
    }
    async fn insert(&self, _: &[TaskLines<'_>]) -> Result<(), StoreError> {
        unreachable!("no reader does this")
    }
    async fn last(&self, _: &TaskKey) -> Result<Option<LastStored>, StoreError> {
        unreachable!("no reader does this")
    }
    async fn put_task(&self, _: &TaskRecord) -> Result<(), StoreError> {
        unreachable!("no reader does this")
    }
    async fn tasks(&self, _: &TaskFilter, _: Option<&TaskCursor>, _: usize) -> Result<TaskPage, StoreError> {
        unreachable!("no reader does this")
    }
    async fn delete_before(&self, _: i64) -> Result<Deleted, StoreError> {
        unreachable!("no reader does this")
    }
    async fn health(&self) -> Result<(), StoreError> {
        unreachable!("no reader does this")
    }
    async fn close(&self) {}
}

fn line(offset: u64, message: &'static [u8]) -> LogRecord {
    LogRecord { epoch: 1, message: message.into(), ..sample::line(offset) }
}

fn task() -> TaskKey {
    sample::key("t")
}

fn record(epoch: u64) -> TaskRecord {
    TaskRecord { epochs: vec![EpochStart { epoch, base: 0 }], ..sample::record(&task()) }
}

fn position(epoch: u64, end: u64) -> Position {
    Position { record: Some(Arc::new(record(epoch))), end, stored: end }
}

fn history(end: u64) -> (Arc<Fake>, History) {
    let fake = Arc::new(Fake { end: end.into(), floor: 1.into(), message: Mutex::new(b"line"), ..Fake::default() });
    (Arc::clone(&fake), History::bounded(fake, CACHE_BYTES, Duration::from_millis(200)))
}

fn reads(fake: &Fake) -> usize {
    fake.reads.load(Ordering::Relaxed)
}

async fn range(history: &History, position: &Position, from: u64) -> (u64, u64) {
    let page = history.page(&task(), position, from).await.unwrap();
    (page.records()[0].offset, page.records().last().unwrap().offset)
}

#[tokio::test]
async fn readers_at_once_cost_one_read_and_one_encoding() {
    let (fake, history) = history(5_000);
    let at = position(1, 5_000);
    let key = task();
    let pages = join_all((0..500).map(|_| history.page(&key, &at, 1))).await;
    assert_eq!(reads(&fake), 1);
    let encoded: Vec<_> = pages.into_iter().map(|page| page.unwrap().batch().events(0..1_000).as_ptr()).collect();
    assert!(encoded.iter().all(|bytes| *bytes == encoded[0]), "shared, not copied");
    join_all((0..500).map(|_| history.floor(&key))).await;
    assert_eq!(fake.lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn readers_that_began_anywhere_meet_at_the_blocks() {
    let (fake, history) = history(5_000);
    let at = position(1, 5_000);
    assert_eq!(range(&history, &at, 1).await, (1, 1_000));
    assert_eq!(range(&history, &at, 990).await, (990, 1_000));
    assert_eq!(range(&history, &at, 1_000).await, (1_000, 1_000));
    assert_eq!(range(&history, &at, 1_001).await, (1_001, 2_000));
    assert_eq!(range(&history, &at, 4_991).await, (4_991, 5_000));
    assert_eq!(reads(&fake), 5);
}

#[tokio::test]
async fn a_reader_is_not_shown_more_than_it_knows_of() {
    let (fake, history) = history(700);
    assert_eq!(range(&history, &position(1, 700), 1).await, (1, 700));
    assert_eq!(range(&history, &position(1, 300), 1).await, (1, 300));
    assert_eq!(range(&history, &position(1, 900), 1).await, (1, 700), "it goes on from there");
    assert_eq!(reads(&fake), 1);
}

/// A page that was read before the memory was lost may hold what the new epoch voids; other lines are at those offsets then.
#[tokio::test]
async fn another_epoch_reads_again() {
    let (fake, history) = history(1_000);
    let first = async |epoch| history.page(&task(), &position(epoch, 1_000), 1).await.unwrap().records()[0].clone();
    assert_eq!(first(1).await.message, "line");
    *fake.message.lock().unwrap() = b"another line";
    assert_eq!(first(2).await.message, "another line", "what a rollback voided is never found again");
    assert_eq!(first(2).await.message, "another line");
    assert_eq!(reads(&fake), 2);
}

#[tokio::test]
async fn what_retention_deleted_is_forgotten() {
    let (fake, history) = history(1_000);
    let at = position(1, 1_000);
    range(&history, &at, 1).await;
    *fake.floor.lock().unwrap() = 501;
    tokio::time::sleep(Duration::from_millis(250)).await;
    let gone = history.page(&task(), &at, 1).await;
    assert!(matches!(gone, Err(NoPage::Missing { to: 500, reason: GapReason::Retention })), "{gone:?}");
    assert_eq!(range(&history, &at, 501).await, (501, 1_000));
}

#[tokio::test]
async fn a_failure_is_shared_and_not_kept() {
    let (fake, history) = history(1_000);
    let (at, key) = (position(1, 1_000), task());
    fake.is_away.store(true, Ordering::Relaxed);
    let pages = join_all((0..50).map(|_| history.page(&key, &at, 1))).await;
    assert!(pages.iter().all(|page| matches!(page, Err(NoPage::Failed(error)) if error.is_retryable())));
    assert_eq!(reads(&fake), 1);
    fake.is_away.store(false, Ordering::Relaxed);
    assert_eq!(range(&history, &at, 1).await, (1, 1_000));
}

#[tokio::test]
async fn lines_that_are_not_there_are_asked_for_again() {
    let (fake, history) = history(10);
    let at = position(1, 20);
    let missing = history.page(&task(), &at, 11).await;
    assert!(matches!(missing, Err(NoPage::Missing { to: 20, reason: GapReason::Missing })), "{missing:?}");
    *fake.end.lock().unwrap() = 20;
    assert_eq!(range(&history, &at, 11).await, (11, 20));
}

#[tokio::test]
async fn pages_are_bounded_by_their_bytes() {
    let message: &[u8] = Vec::leak(vec![b'x'; 200]);
    let fake = Arc::new(Fake { end: 200_000.into(), floor: 1.into(), message: message.into(), ..Fake::default() });
    let history = History::bounded(fake, 4 << 20, Duration::from_mins(1));
    let at = position(1, 200_000);
    for block in 0..50 {
        range(&history, &at, block * 1_000 + 1).await;
    }
    history.pages.run_pending_tasks().await;
    assert!(history.pages.entry_count() > 1, "something is kept");
    assert!(history.pages.weighted_size() <= 4 << 20, "{}", history.pages.weighted_size());
}
