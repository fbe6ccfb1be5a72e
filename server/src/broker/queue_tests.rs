use std::time::Duration;

use bytes::Bytes;
use flowforge_storage::{LogRecord, ProducerId, Stream, TaskKey};

use super::*;

fn batch(tenant: &str, rows: u64) -> Arc<Batch> {
    let record = |offset| LogRecord {
        offset,
        epoch: 1,
        producer: ProducerId([1; 16]),
        seq: offset,
        time_ns: 0,
        created_at_ms: 0,
        stream: Stream::Stdout,
        level: 0,
        message: Bytes::from_static(b"line"),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
    };
    let task = TaskKey::new(tenant, "t").unwrap();
    Arc::new(Batch::new(task, ProducerId([1; 16]), (1..=rows).map(record).collect()))
}

fn limits(max_rows: usize, max_delay: Duration) -> FlushLimits {
    FlushLimits { max_rows, max_delay, hard_max_rows: 5, min_interval: Duration::ZERO }
}

fn queue(max_bytes: usize, max_tenant_bytes: usize) -> Queue {
    Queue::new(QueueLimits { max_bytes, max_tenant_bytes })
}

const LONG: Duration = Duration::from_hours(1);

/// Whether the future is done without waiting for anything.
async fn is_ready<T>(future: impl Future<Output = T>) -> bool {
    tokio::select! {
        biased;
        _ = future => true,
        () = tokio::task::yield_now() => false,
    }
}

#[tokio::test]
async fn rows_age_or_a_wish_start_a_flush() {
    let queue = queue(1 << 20, 1 << 20);
    queue.push(batch("a", 2));
    assert!(!is_ready(queue.take(&limits(3, LONG))).await);
    queue.push(batch("a", 1));
    assert_eq!(queue.take(&limits(3, LONG)).await.rows(), 3);
    queue.push(batch("a", 1));
    assert_eq!(queue.take(&limits(3, Duration::ZERO)).await.rows(), 1);
    queue.push(batch("a", 1));
    queue.flush_now();
    assert_eq!(queue.take(&limits(3, LONG)).await.rows(), 1);
    queue.push(batch("a", 1));
    assert!(!is_ready(queue.take(&limits(3, LONG))).await, "a wish is granted once");
    queue.drain();
    assert_eq!(queue.take(&limits(3, LONG)).await.rows(), 1);
}

#[tokio::test]
async fn a_flush_stays_under_its_hard_limit_but_takes_one_batch_at_least() {
    let queue = queue(1 << 20, 1 << 20);
    for rows in [3, 2, 1, 9] {
        queue.push(batch("a", rows));
    }
    let limits = limits(1, LONG);
    for expected in [5, 1, 9] {
        assert_eq!(queue.take(&limits).await.rows(), expected);
    }
}

#[tokio::test]
async fn room_is_made_by_storing_only_and_per_tenant() {
    let weight = batch("a", 1).weight;
    let queue = queue(weight * 3, weight * 2);
    assert!(is_ready(queue.admit("a")).await);
    queue.push(batch("a", 1));
    queue.push(batch("a", 1));
    assert!(!is_ready(queue.admit("a")).await, "its own mark");
    assert!(is_ready(queue.admit("b")).await);
    queue.push(batch("b", 1));
    assert!(!is_ready(queue.admit("b")).await, "the mark of all");
    let delivery = queue.take(&limits(1, LONG)).await;
    assert!(!is_ready(queue.admit("b")).await, "under way is not stored");
    queue.release(&delivery.batches);
    assert!(is_ready(queue.admit("a")).await && is_ready(queue.admit("b")).await);
    assert_eq!(queue.size(), QueueSize::default());
}

#[tokio::test]
async fn flushes_keep_their_distance_unless_they_are_full() {
    let queue = queue(1 << 20, 1 << 20);
    let limits = FlushLimits { max_rows: 1, max_delay: LONG, hard_max_rows: 5, min_interval: LONG };
    queue.push(batch("a", 1));
    assert_eq!(queue.take(&limits).await.rows(), 1, "the first has nothing to keep its distance from");
    queue.push(batch("a", 1));
    assert!(!is_ready(queue.take(&limits)).await);
    queue.push(batch("a", 4));
    assert_eq!(queue.take(&limits).await.rows(), 5);
}

#[tokio::test]
async fn a_waiting_writer_is_woken_by_the_line_that_decides() {
    let queue = Arc::new(queue(1 << 20, 1 << 20));
    let taker = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.take(&limits(3, LONG)).await.rows() }
    });
    for _ in 0..3 {
        tokio::task::yield_now().await;
        queue.push(batch("a", 1));
    }
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), taker).await.unwrap().unwrap(), 3);
}
