//! Deleting by time. In these cases `created_at_ms` is the offset, unless said.

use super::sample::{PRODUCER, insert, key, last, line, lines, named, offsets, read_all, record};
use crate::{Deleted, LastStored, LogFilter, LogRecord, LogStore, ProducerId, ReadQuery, TaskKey, TaskRecord};

async fn delete(store: &dyn LogStore, before_ms: i64) -> Deleted {
    store.delete_before(before_ms).await.expect("delete_before")
}

async fn range(store: &dyn LogStore, task: &TaskKey) -> (u64, u64) {
    let stored = store.task(task).await.expect("task").expect("a record");
    (stored.floor, stored.end)
}

/// An empty store, and one whose lines are all younger.
pub async fn nothing_to_delete(store: &dyn LogStore) {
    assert_eq!(delete(store, i64::MAX).await, Deleted::default());
    insert(store, &key("t"), &lines(5..=9)).await;
    assert_eq!(delete(store, 5).await, Deleted { lines: 0, tasks: 0, oldest_ms: Some(5) });
    assert_eq!(offsets(store, &key("t")).await, [5, 6, 7, 8, 9]);
}

/// The floor is the first line that stays.
pub async fn a_prefix_goes(store: &dyn LogStore) {
    let task = key("t");
    store.put_task(&record(&task)).await.expect("put_task");
    insert(store, &task, &lines(1..=10)).await;
    assert_eq!(delete(store, 4).await, Deleted { lines: 3, tasks: 1, oldest_ms: Some(4) });
    assert_eq!(read_all(store, &task).await, lines(4..=10));
    assert_eq!(range(store, &task).await, (4, 10));
    let page = store.read(&task, &ReadQuery::backward(0, u64::MAX, 7, LogFilter::default())).await.expect("read");
    assert_eq!((page.records, page.next), (lines(4..=10), None));
    assert_eq!(delete(store, 4).await, Deleted { lines: 0, tasks: 0, oldest_ms: Some(4) });
}

/// Record, end and the current producers' sequence numbers outlive the lines, and the task goes on.
pub async fn everything_goes(store: &dyn LogStore) {
    let task = key("t");
    store.put_task(&TaskRecord { producers: vec![named(PRODUCER)], ..record(&task) }).await.expect("put_task");
    insert(store, &task, &lines(1..=10)).await;
    assert_eq!(delete(store, i64::MAX).await, Deleted { lines: 10, tasks: 1, oldest_ms: None });
    assert_eq!(offsets(store, &task).await, [0; 0]);
    assert_eq!(range(store, &task).await, (11, 10));
    let expected = LastStored { end: 10, created_at_ms: 10, producers: vec![(PRODUCER, 10)] };
    assert_eq!(last(store, &task).await, expected);
    insert(store, &task, &lines(11..=12)).await;
    assert_eq!(read_all(store, &task).await, lines(11..=12));
    assert_eq!(range(store, &task).await, (11, 12));
}

/// A batch that is inserted again after its lines were deleted.
pub async fn nothing_comes_back(store: &dyn LogStore) {
    let task = key("t");
    insert(store, &task, &lines(1..=10)).await;
    delete(store, 6).await;
    insert(store, &task, &lines(1..=12)).await;
    assert_eq!(offsets(store, &task).await, [6, 7, 8, 9, 10, 11, 12]);
    delete(store, i64::MAX).await;
    insert(store, &task, &lines(1..=12)).await;
    assert_eq!(offsets(store, &task).await, [0; 0]);
    assert_eq!(delete(store, i64::MAX).await, Deleted::default());
}

/// A task id used again and again does not keep its producers for ever: with the last line go all but those of the
/// record.
pub async fn producers_of_earlier_attempts_go(store: &dyn LogStore) {
    let (task, without_record) = (key("t"), key("without-record"));
    let earlier = ProducerId([0xab; 16]);
    let of_earlier = |line: LogRecord| LogRecord { producer: earlier, seq: line.seq * 10, ..line };
    let records = [lines(1..=4).into_iter().map(of_earlier).collect(), lines(5..=9)].concat();
    insert(store, &task, &records).await;
    insert(store, &without_record, &records).await;
    let silent = ProducerId([0xcd; 16]);
    let current = TaskRecord { attempt: 2, producers: vec![named(silent), named(PRODUCER)], ..record(&task) };
    store.put_task(&current).await.expect("put_task");
    delete(store, 9).await;
    let before = LastStored { end: 9, created_at_ms: 9, producers: vec![(PRODUCER, 9), (earlier, 40)] };
    assert_eq!(last(store, &task).await, before, "a line is left");
    delete(store, i64::MAX).await;
    assert_eq!(last(store, &task).await, LastStored { producers: vec![(PRODUCER, 9)], ..before.clone() });
    assert_eq!(last(store, &without_record).await, before, "who is over is not known");
    insert(store, &task, &[LogRecord { producer: earlier, seq: 1, ..line(10) }]).await;
    assert_eq!(last(store, &task).await.producers, [(PRODUCER, 9), (earlier, 1)]);
}

/// Only those that lost lines.
pub async fn tasks_are_counted(store: &dyn LogStore) {
    for (task, first) in [("a", 1), ("b", 5), ("c", 20)] {
        insert(store, &key(task), &lines(first..=first + 9)).await;
    }
    assert_eq!(delete(store, 7).await, Deleted { lines: 8, tasks: 2, oldest_ms: Some(7) });
    assert_eq!(offsets(store, &key("a")).await, [7, 8, 9, 10]);
    assert_eq!(offsets(store, &key("b")).await, [7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!(offsets(store, &key("c")).await.len(), 10);
}

/// More than any one step takes, over many tasks, equal times at the border.
pub async fn many_lines(store: &dyn LogStore) {
    let at = |time| move |line: LogRecord| LogRecord { created_at_ms: time, ..line };
    let old: Vec<_> = lines(1..=9000).into_iter().map(at(10)).collect();
    insert(store, &key("long"), &old).await;
    insert(store, &key("long"), &lines(9001..=9003).into_iter().map(at(11)).collect::<Vec<_>>()).await;
    for n in 0..300 {
        insert(store, &key(&format!("short-{n}")), &[at(n % 20)(line(1))]).await;
    }
    assert_eq!(delete(store, 11).await, Deleted { lines: 9000 + 165, tasks: 1 + 165, oldest_ms: Some(11) });
    assert_eq!(offsets(store, &key("long")).await, [9001, 9002, 9003]);
    assert_eq!(offsets(store, &key("short-10")).await, [0; 0]);
    assert_eq!(offsets(store, &key("short-11")).await, [1]);
}
