//! Large inserts, and several callers at once.

use super::sample::{insert, key, last, lines, offsets, read_all};
use crate::{LogRecord, LogStore, ProducerId, TaskLines};

/// 10,000 lines of 1,000 tasks in one insert, interleaved.
pub async fn thousand_tasks_in_one_insert(store: &dyn LogStore) {
    let keys: Vec<_> = (0..1000).map(|n| key(&format!("task-{n}"))).collect();
    let records = lines(1..=10);
    let one_each = |records| keys.iter().map(move |task| TaskLines { task: task.clone(), records });
    let interleaved: Vec<_> = records.chunks(1).flat_map(one_each).collect();
    assert_eq!(interleaved.len(), 10_000);
    store.insert(&interleaved).await.expect("insert");
    for task in keys.iter().step_by(37) {
        assert_eq!(read_all(store, task).await, records, "{task}");
        assert_eq!(last(store, task).await.end, 10);
    }
}

/// Four writers, each with its own task, and as many readers that never see a hole.
pub async fn writers_and_readers_at_once(store: &dyn LogStore) {
    const BATCHES: u64 = 20;
    const BATCH: u64 = 50;
    let write = async |writer: u8| {
        let task = key(&format!("task-{writer}"));
        for batch in 0..BATCHES {
            let own = |line: LogRecord| LogRecord { producer: ProducerId([writer + 1; 16]), ..line };
            let records: Vec<_> = lines(batch * BATCH + 1..=(batch + 1) * BATCH).into_iter().map(own).collect();
            insert(store, &task, &records).await;
        }
    };
    let watch = async |writer: u8| {
        let task = key(&format!("task-{writer}"));
        let mut seen = 0;
        while seen < BATCHES * BATCH {
            let found = offsets(store, &task).await;
            assert!(found.iter().copied().eq(1..=found.len() as u64), "{task}: a hole in {found:?}");
            assert!(found.len() as u64 >= seen, "{task}: lines are gone");
            seen = found.len() as u64;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(write(0), write(1), write(2), write(3), watch(0), watch(1), watch(2), watch(3));
    assert_eq!(last(store, &key("task-3")).await.producers, [(ProducerId([4; 16]), BATCHES * BATCH)]);
}

/// Also with lines in the store.
pub async fn migrate_again(store: &dyn LogStore) {
    store.migrate().await.expect("migrate");
    insert(store, &key("t"), &lines(1..=3)).await;
    store.migrate().await.expect("migrate");
    assert_eq!(offsets(store, &key("t")).await, [1, 2, 3]);
}

/// A store that takes inserts says so.
pub async fn healthy(store: &dyn LogStore) {
    store.health().await.expect("health");
    insert(store, &key("t"), &lines(1..=3)).await;
    store.health().await.expect("health");
}
