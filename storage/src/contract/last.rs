//! What the broker needs to go on after it lost its memory.

use super::sample::{PRODUCER, insert, key, last, line, lines, record};
use crate::{LastStored, LogRecord, LogStore, ProducerId};

/// Neither a line nor a record.
pub async fn nothing_known(store: &dyn LogStore) {
    assert_eq!(store.last(&key("t")).await.expect("last"), None);
    assert_eq!(store.task(&key("t")).await.expect("task"), None);
}

/// End, time and sequence numbers only grow, whatever is inserted again.
pub async fn follows_inserts(store: &dyn LogStore) {
    let task = key("t");
    let other = ProducerId([1; 16]);
    let of_other = |line: LogRecord| LogRecord { producer: other, seq: line.seq * 10, ..line };
    insert(store, &task, &lines(1..=4)).await;
    insert(store, &task, &lines(5..=6).into_iter().map(of_other).collect::<Vec<_>>()).await;
    let expected = LastStored { end: 6, created_at_ms: 6, producers: vec![(other, 60), (PRODUCER, 4)] };
    assert_eq!(last(store, &task).await, expected);
    insert(store, &task, &lines(1..=2)).await;
    assert_eq!(last(store, &task).await, expected);
}

/// The server's own rows have an offset but no sequence.
pub async fn server_rows_have_no_producer(store: &dyn LogStore) {
    let row = LogRecord { producer: ProducerId::SERVER, seq: 0, ..line(1) };
    insert(store, &key("t"), &[row]).await;
    assert_eq!(last(store, &key("t")).await, LastStored { end: 1, created_at_ms: 1, producers: vec![] });
}

/// A record alone makes a task known.
pub async fn record_without_lines(store: &dyn LogStore) {
    store.put_task(&record(&key("t"))).await.expect("put_task");
    assert_eq!(last(store, &key("t")).await, LastStored::default());
    let stored = store.task(&key("t")).await.expect("task").expect("a record");
    assert_eq!((stored.floor, stored.end), (1, 0));
}
