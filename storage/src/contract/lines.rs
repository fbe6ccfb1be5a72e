//! Lines come back as they were inserted, once, and in their own task.

use bytes::Bytes;

use super::sample::{EPOCH, insert, key, last, line, lines, offsets, read_all};
use crate::{ErrorKind, LogRecord, LogStore, ProducerId, ReadQuery, Stream, TaskKey, TaskLines};

/// UTF-8 or not, NUL or not, empty or long.
pub async fn exact_bytes(store: &dyn LogStore) {
    let messages: [&[u8]; 14] = [
        b"",
        b" ",
        b"\0",
        b"a\0b",
        b"\0\xff\0",
        b"\xff\xfe not utf-8",
        b"cut \xf0\x9f\x8e",
        "\u{fffd} in the original".as_bytes(),
        "\u{feff}\u{1f389}\u{1f469}\u{200d}\u{1f680} \u{fc}ml\u{e4}ut".as_bytes(),
        b"quotes ' \" ` \\ '' ; -- %_ {x} ? ?1 $1 :a @b",
        b"\t\r\x1b[31mred\x1b[0m\x7f",
        &vec![b'x'; 64 << 10],
        &vec![0xff; 64 << 10],
        &[0; 1000],
    ];
    let messages = messages.iter().zip(1..);
    let records: Vec<_> = messages
        .map(|(message, offset)| LogRecord { message: Bytes::copy_from_slice(message), ..line(offset) })
        .collect();
    insert(store, &key("t"), &records).await;
    assert_eq!(read_all(store, &key("t")).await, records);
}

/// Nothing but the message is ordinary here.
pub async fn every_field(store: &dyn LogStore) {
    let mut records = Vec::new();
    for (stream, offset) in Stream::ALL.into_iter().zip(1..) {
        records.push(LogRecord {
            stream,
            level: offset as u8 * 6,
            producer: ProducerId([offset as u8; 16]),
            seq: offset * 100,
            time_ns: -(offset as i64),
            update_id: offset,
            continued: offset % 2 == 0,
            no_newline: offset > 2,
            fields: Bytes::from_static("{\"a\": [1, \"\u{e9} '\\u0000\"],  \"b\":null}".as_bytes()),
            ..line(offset)
        });
    }
    insert(store, &key("t"), &records).await;
    assert_eq!(read_all(store, &key("t")).await, records);
}

/// Offsets, epochs and sequence numbers go up to `i64::MAX`, which no task reaches.
pub async fn extreme_numbers(store: &dyn LogStore) {
    let most = i64::MAX as u64;
    let low = LogRecord { epoch: 0, seq: 0, time_ns: i64::MIN, created_at_ms: 0, ..line(1) };
    let high = LogRecord {
        offset: most,
        epoch: most,
        seq: most,
        time_ns: i64::MAX,
        created_at_ms: 4_102_444_800_000,
        level: 24,
        update_id: u64::MAX,
        producer: ProducerId([0xff; 16]),
        ..line(1)
    };
    let records = [low, high];
    insert(store, &key("t"), &records).await;
    assert_eq!(read_all(store, &key("t")).await, records);
    assert_eq!(last(store, &key("t")).await.end, most);
    let past = store.read(&key("t"), &ReadQuery::forward(u64::MAX, u64::MAX, 10)).await.expect("read");
    assert_eq!((past.records, past.next), (vec![], None));
}

/// A number beyond that is the line's own fault.
pub async fn out_of_range_is_rejected(store: &dyn LogStore) {
    let over = i64::MAX as u64 + 1;
    for bad in [
        LogRecord { offset: over, ..line(1) },
        LogRecord { epoch: over, ..line(1) },
        LogRecord { seq: over, ..line(1) },
    ] {
        let outcome = store.insert(&[TaskLines { task: key("t"), records: &[bad] }]).await;
        assert_eq!(outcome.expect_err("out of range").kind(), ErrorKind::Rejected);
    }
    insert(store, &key("t"), &lines(1..=1)).await;
}

/// An empty insert makes no task.
pub async fn nothing_to_insert(store: &dyn LogStore) {
    store.insert(&[]).await.expect("no tasks");
    insert(store, &key("t"), &[]).await;
    assert_eq!(store.last(&key("t")).await.expect("last"), None);
}

/// Once is as good as thrice.
pub async fn repeated_insert(store: &dyn LogStore) {
    let records = lines(1..=300);
    for _ in 0..3 {
        insert(store, &key("t"), &records).await;
        assert_eq!(read_all(store, &key("t")).await, records);
    }
}

/// What is there is left, what is new is added, also below what is there.
pub async fn insert_in_parts_that_overlap(store: &dyn LogStore) {
    for part in [40..=60, 50..=70, 1..=45, 70..=70, 71..=90] {
        insert(store, &key("t"), &lines(part)).await;
    }
    assert_eq!(read_all(store, &key("t")).await, lines(1..=90));
    assert_eq!(last(store, &key("t")).await.end, 90);
}

/// A task may come in several pieces, with others in between.
pub async fn same_task_twice_in_one_insert(store: &dyn LogStore) {
    let (first, other, second) = (lines(1..=3), lines(1..=2), lines(3..=5));
    let of = |task: &str, records| TaskLines { task: key(task), records };
    store.insert(&[of("a", &first), of("b", &other), of("a", &second)]).await.expect("insert");
    assert_eq!(offsets(store, &key("a")).await, [1, 2, 3, 4, 5]);
    assert_eq!(offsets(store, &key("b")).await, [1, 2]);
}

/// The same id in two tenants, and ids that begin alike, are different tasks.
pub async fn isolated_tasks(store: &dyn LogStore) {
    let names = [("", "t"), ("other", "t"), ("", "t.1"), ("", "T"), ("t", "other")];
    let tasks = names.map(|(tenant, task)| TaskKey::new(tenant, task).expect("a valid name"));
    for (task, count) in tasks.iter().zip(1..) {
        let own = |line: LogRecord| LogRecord { epoch: EPOCH + count, ..line };
        insert(store, task, &lines(1..=count).into_iter().map(own).collect::<Vec<_>>()).await;
    }
    for (task, count) in tasks.iter().zip(1..) {
        let records = read_all(store, task).await;
        assert_eq!(records.len() as u64, count, "{task}");
        assert!(records.iter().all(|record| record.epoch == EPOCH + count), "{task}");
        assert_eq!(last(store, task).await.end, count, "{task}");
    }
}
