//! The embedded broker over a real store, with crashes at the awkward moments: the broker is dropped, what it had not stored is
//! gone, and another one takes over.

use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{SqliteStore, Stream, TaskLines};

use super::*;
use crate::broker::samples::{self, OK, hello, task};
use crate::broker::{DroppedRun, Ending, NewLine};

struct House {
    store: Arc<dyn LogStore>,
    broker: MemoryBroker,
    _dir: tempfile::TempDir,
}

const NOW: FlushLimits =
    FlushLimits { max_rows: 1, max_delay: Duration::ZERO, hard_max_rows: 1000, min_interval: Duration::ZERO };

fn lines(count: usize) -> Vec<NewLine> {
    vec![samples::line("line"); count]
}

fn ending(final_seq: u64) -> Ending {
    samples::ending(final_seq, OK)
}

fn broker(store: &Arc<dyn LogStore>, lease: Duration) -> MemoryBroker {
    let queue = QueueLimits { max_bytes: 1 << 20, max_tenant_bytes: 1 << 20 };
    MemoryBroker::new(Arc::clone(store), MemoryOptions { lease, recent_bytes: 1 << 16, max_producers: 8, queue })
}

impl House {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(dir.path().join("t.db"))).await.unwrap();
        store.migrate().await.unwrap();
        let store: Arc<dyn LogStore> = Arc::new(store);
        Self { broker: broker(&store, Duration::from_mins(1)), store, _dir: dir }
    }

    /// One round of the writer.
    async fn store_what_is_queued(&self) {
        let delivery = self.broker.take(&NOW).await;
        self.insert(&delivery).await;
        self.broker.stored(delivery).await;
    }

    async fn insert(&self, delivery: &Delivery) {
        let lines: Vec<_> = delivery
            .batches
            .iter()
            .map(|batch| TaskLines { task: batch.task.clone(), records: &batch.records })
            .collect();
        self.store.insert(&lines).await.unwrap();
    }

    fn crash(&mut self) {
        self.broker = broker(&self.store, Duration::from_mins(1));
    }

    async fn position(&self) -> Position {
        self.broker.position(&task()).await.unwrap()
    }

    async fn stored_status(&self) -> TaskStatus {
        self.store.task(&task()).await.unwrap().unwrap().record.status
    }
}

/// One step of it.
async fn is_ready<F: Future + Unpin>(work: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *work).poll(cx).is_ready())).await
}

#[tokio::test]
async fn ok_to_a_close_means_that_the_close_is_stored() {
    let mut house = House::new().await;
    let mut first = house.broker.open(hello(1)).await.unwrap();
    let mut second = house.broker.open(hello(2)).await.unwrap();
    first.append(1, lines(1)).await.unwrap();
    let closing = tokio::spawn(async move { first.close(ending(1)).await });
    tokio::task::yield_now().await;
    let delivery = house.broker.take(&NOW).await;
    let also_closing = tokio::spawn(async move { second.close(ending(0)).await }); // Ends the task, with a row of its own.
    while house.position().await.ended().is_none() {
        tokio::task::yield_now().await;
    }
    house.insert(&delivery).await;
    house.broker.stored(delivery).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished(), "the record that says so is not stored, nor may it be before the end row");
    house.store_what_is_queued().await;
    closing.await.unwrap().unwrap();
    also_closing.await.unwrap().unwrap();
    house.crash();
    let end = house.position().await.ended().unwrap();
    assert_eq!((end.status, end.complete, end.lines), (TaskStatus::Succeeded, true, 1));
}

#[tokio::test]
async fn a_close_is_forgotten_with_the_lines_before_it() {
    let mut house = House::new().await;
    let mut first = house.broker.open(hello(1)).await.unwrap();
    let _second = house.broker.open(hello(2)).await.unwrap();
    first.append(1, lines(50)).await.unwrap();
    let closing = tokio::spawn(async move { first.close(ending(50)).await });
    tokio::task::yield_now().await;
    house.broker.sweep().await;
    closing.abort();
    house.crash();
    let record = house.position().await.record.unwrap();
    assert_eq!(record.producers[0].outcome, None, "its fifty lines are gone: it must come back");
    let back = house.broker.open(hello(1)).await.unwrap();
    assert_eq!(back.welcome().queued_seq, 0);
}

#[tokio::test]
async fn a_crash_between_the_end_row_and_the_record_ends_the_task_all_the_same() {
    let mut house = House::new().await;
    let mut only = house.broker.open(hello(1)).await.unwrap();
    let epoch = only.welcome().epoch;
    only.append(1, lines(2)).await.unwrap();
    let closing = tokio::spawn(async move { only.close(ending(2)).await });
    tokio::task::yield_now().await;
    let delivery = house.broker.take(&NOW).await;
    house.insert(&delivery).await;
    closing.abort();
    house.crash();
    let position = house.position().await;
    let end = position.ended().unwrap();
    assert_eq!((end.status, end.exit_code, end.offset), (TaskStatus::Succeeded, Some(0), 3));
    assert!(position.epoch().epoch > epoch, "what was above it may have been seen");
    let mut again = house.broker.open(hello(1)).await.unwrap();
    again.close(ending(2)).await.unwrap();
    assert_eq!(house.position().await.end, 3, "the repeated Close adds nothing");
}

#[tokio::test]
async fn lines_seen_after_a_comeback_are_void_after_a_crash() {
    let mut house = House::new().await;
    house.broker = broker(&house.store, Duration::ZERO);
    drop(house.broker.open(hello(1)).await.unwrap());
    house.broker.sweep().await; // The lease is over: the end row.
    house.store_what_is_queued().await;
    house.broker.sweep().await;
    let mut back = house.broker.open(hello(1)).await.unwrap();
    back.append(1, lines(2)).await.unwrap();
    let before = house.position().await;
    assert_eq!((before.end, before.stored), (3, 1));
    drop(back);
    house.crash();
    let after = house.position().await;
    assert!(after.epoch().epoch > before.epoch().epoch && after.epoch().base == 1, "{:?}", after.epoch());
}

#[tokio::test]
async fn a_task_that_went_on_after_its_end_is_running_after_a_crash() {
    let mut house = House::new().await;
    let mut only = house.broker.open(hello(1)).await.unwrap();
    {
        let closing = only.close(ending(0));
        let storing = house.store_what_is_queued();
        let (closed, ()) = tokio::join!(closing, storing);
        closed.unwrap();
    }
    drop(only);
    let mut late = house.broker.open(hello(1)).await.unwrap();
    late.append(1, lines(1)).await.unwrap();
    let delivery = house.broker.take(&NOW).await;
    house.insert(&delivery).await; // And no sweep: the record still says ended.
    drop(late);
    house.crash();
    let position = house.position().await;
    let record = position.record.clone().unwrap();
    assert_eq!((record.status, record.producers[0].outcome), (TaskStatus::Running, None));
    assert_eq!((position.end, position.epoch().base), (2, 2));
}

/// While late lines wait for the record that takes the task up again, another attempt comes and ends.
#[tokio::test]
async fn a_task_that_ended_again_meanwhile_is_taken_up_again() {
    let house = House::new().await;
    let mut late = house.broker.open(hello(1)).await.unwrap();
    let mut closing = late.close(ending(0));
    assert!(!is_ready(&mut closing).await, "its end is not stored");
    drop(closing);
    let mut appending = late.append(1, lines(1));
    assert!(!is_ready(&mut appending).await, "it waits for the record");
    house.store_what_is_queued().await;
    house.broker.sweep().await; // It is stored: the task runs again.

    let next = ProducerHello { attempt: 9, ..hello(2) };
    let (other, ()) = tokio::join!(house.broker.open(next), house.store_what_is_queued());
    let mut other = other.unwrap();
    let (closed, ()) = tokio::join!(other.close(ending(0)), house.store_what_is_queued());
    closed.unwrap();
    assert_eq!(house.stored_status().await, TaskStatus::Succeeded);
    appending.await.unwrap();
    assert_eq!(house.stored_status().await, TaskStatus::Running, "before anybody sees the line");
}

#[tokio::test]
async fn lost_lines_are_counted_anew_from_their_rows() {
    let mut house = House::new().await;
    let mut only = house.broker.open(hello(1)).await.unwrap();
    let mut dropped = lines(1);
    dropped[0].stream = Stream::System;
    dropped[0].dropped = Some(DroppedRun { lines: 7, bytes: 70 });
    only.append(1, dropped.clone()).await.unwrap();
    house.store_what_is_queued().await;
    only.append(8, dropped).await.unwrap();
    assert_eq!(house.position().await.record.unwrap().dropped, 14);
    drop(only);
    house.crash();
    assert_eq!(house.position().await.record.unwrap().dropped, 7, "the second run was not stored, and comes again");
}
