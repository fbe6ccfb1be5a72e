//! The reading rule: per offset the highest epoch wins; above the current base only the current epoch counts.

use super::sample::{
    EPOCH, PRODUCER, begin_epoch, insert, key, last, line, lines, of_epoch, offsets, read_all, record,
};
use crate::{EpochStart, LogRecord, LogStore, ProducerId};

const NEWER: u64 = EPOCH + 1;
const OTHER: ProducerId = ProducerId([9; 16]);

/// It does not matter which came first.
pub async fn highest_epoch_wins_in_either_order(store: &dyn LogStore) {
    let (old, new) = (lines(1..=5), of_epoch(NEWER, lines(3..=5)));
    insert(store, &key("up"), &old).await;
    insert(store, &key("up"), &new).await;
    insert(store, &key("down"), &new).await;
    insert(store, &key("down"), &old).await;
    let expected = [lines(1..=2), new].concat();
    assert_eq!(read_all(store, &key("up")).await, expected);
    assert_eq!(read_all(store, &key("down")).await, expected);
}

/// A worker that was left behind changes nothing above the base.
pub async fn older_epoch_above_base_never_counts(store: &dyn LogStore) {
    let task = key("t");
    insert(store, &task, &lines(1..=5)).await;
    begin_epoch(store, &task, 2, EpochStart { epoch: NEWER, base: 5 }).await;
    insert(store, &task, &of_epoch(NEWER, lines(6..=7))).await;
    let before = last(store, &task).await;
    let late = |line: LogRecord| LogRecord { seq: line.seq + 100, created_at_ms: 1_000_000, ..line };
    insert(store, &task, &lines(6..=20).into_iter().map(late).collect::<Vec<_>>()).await;
    assert_eq!(read_all(store, &task).await, [lines(1..=5), of_epoch(NEWER, lines(6..=7))].concat());
    assert_eq!(last(store, &task).await, before);
    assert_eq!(store.task(&task).await.expect("task").expect("a record").end, 7);
}

/// Its lines up to the base are as good as any.
pub async fn older_epoch_up_to_base_counts(store: &dyn LogStore) {
    let task = key("t");
    begin_epoch(store, &task, 2, EpochStart { epoch: NEWER, base: 5 }).await;
    insert(store, &task, &lines(1..=6)).await;
    assert_eq!(offsets(store, &task).await, [1, 2, 3, 4, 5]);
    assert_eq!(last(store, &task).await.producers, [(PRODUCER, 5)]);
}

/// Lines that were stored before the new epoch's record, above its base, are as if they had never been.
pub async fn new_base_below_end_rolls_back(store: &dyn LogStore) {
    let task = key("t");
    store.put_task(&record(&task)).await.expect("put_task");
    let stray = LogRecord { producer: OTHER, seq: 1, ..line(8) };
    insert(store, &task, &[lines(1..=7), vec![stray]].concat()).await;
    begin_epoch(store, &task, 2, EpochStart { epoch: NEWER, base: 5 }).await;
    assert_eq!(offsets(store, &task).await, [1, 2, 3, 4, 5]);
    let stored = last(store, &task).await;
    assert_eq!((stored.end, stored.producers), (5, vec![(PRODUCER, 5)]));
    insert(store, &task, &of_epoch(NEWER, lines(6..=6))).await;
    assert_eq!(offsets(store, &task).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(last(store, &task).await.end, 6);
}

/// Retention has been further than the new base: the offsets given again are read all the same.
pub async fn rollback_below_the_floor(store: &dyn LogStore) {
    let task = key("t");
    store.put_task(&record(&task)).await.expect("put_task");
    insert(store, &task, &lines(1..=10)).await;
    store.delete_before(9).await.expect("delete");
    begin_epoch(store, &task, 2, EpochStart { epoch: NEWER, base: 5 }).await;
    assert_eq!(last(store, &task).await.end, 5);
    let again = of_epoch(NEWER, lines(6..=7));
    insert(store, &task, &again).await;
    assert_eq!(read_all(store, &task).await, again);
    let stored = store.task(&task).await.expect("task").expect("a record");
    assert_eq!((stored.floor, stored.end), (6, 7));
}

/// The record may come after the first lines of its epoch.
pub async fn lines_of_the_new_epoch_before_its_record(store: &dyn LogStore) {
    let task = key("t");
    insert(store, &task, &lines(1..=9)).await;
    let new = of_epoch(NEWER, lines(6..=7));
    insert(store, &task, &new).await;
    begin_epoch(store, &task, 2, EpochStart { epoch: NEWER, base: 5 }).await;
    assert_eq!(read_all(store, &task).await, [lines(1..=5), new].concat());
    assert_eq!(last(store, &task).await.end, 7);
}
