//! What only the ClickHouse store promises: its tables, TTL, hosts, messages at start-up, and what a killed server keeps.

mod clickhouse_server;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickhouse::Client;
use flowforge_storage::clickhouse::{ClickhouseOptions, SearchIndex};
use flowforge_storage::contract::sample::{insert, key, last, line, lines, offsets, read_all, record};
use flowforge_storage::{
    ClickhouseStore, ErrorKind, LogRecord, LogStore, ProducerId, StoreError, TaskLines, TaskRecord,
};
use flowforge_test_services::clickhouse::Engine;
use flowforge_test_services::free_port;

use clickhouse_server::{engine, options};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64
}

/// A client beside the store, as an operator has one.
fn shell(options: &ClickhouseOptions) -> Client {
    let url = if options.hosts[0].starts_with("http") {
        options.hosts[0].clone()
    } else {
        format!("http://{}", options.hosts[0])
    };
    Client::default()
        .with_url(url)
        .with_database(&options.database)
        .with_user(&options.user)
        .with_password(&options.password)
        .with_validation(false)
}

async fn text(options: &ClickhouseOptions, sql: &str) -> String {
    shell(options).query(sql).fetch_all::<String>().await.expect(sql).join("\n")
}

async fn number(options: &ClickhouseOptions, sql: &str) -> u64 {
    shell(options).query(sql).fetch_one::<u64>().await.expect(sql)
}

async fn run(options: &ClickhouseOptions, sql: &str) {
    shell(options).query(sql).execute().await.expect(sql);
}

async fn open(options: &ClickhouseOptions) -> ClickhouseStore {
    ClickhouseStore::open(options.clone()).await.expect("open")
}

/// The error of an open that must fail for a reason that a person can mend.
async fn refused(options: &ClickhouseOptions) -> String {
    let error = ClickhouseStore::open(options.clone()).await.err().expect("open must fail");
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    error.to_string()
}

async fn try_insert(store: &ClickhouseStore, records: &[LogRecord]) -> Result<(), StoreError> {
    store.insert(&[TaskLines { task: key("t"), records }]).await
}

fn at(created_at_ms: i64, line: LogRecord) -> LogRecord {
    LogRecord { created_at_ms, ..line }
}

const ENGINE_OF_LINES: &str =
    "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'task_logs'";

#[tokio::test]
async fn tables_are_as_documented() {
    let engine = engine().await;
    let options = ClickhouseOptions { retention_days: 7, ..options(engine.as_deref()) };
    let _store = open(&options).await;
    let table = text(&options, ENGINE_OF_LINES).await;
    for words in [
        "ReplacingMergeTree",
        "PARTITION BY toYYYYMMDD(created_at)",
        "ORDER BY (tenant, task_id, offset, epoch)",
        "TTL toDateTime(created_at) + toIntervalDay(7)",
        "ttl_only_drop_parts = 1",
        "fsync_after_insert = 1",
        "fsync_part_directory = 1",
    ] {
        assert!(table.contains(words), "{words} is not in {table}");
    }
    let columns = "SELECT concat(name, ' ', type, ' ', compression_codec) FROM system.columns
        WHERE database = currentDatabase() AND table = 'task_logs'";
    let columns = text(&options, columns).await;
    for words in [
        "tenant LowCardinality(String) CODEC(ZSTD(1))",
        "task_id LowCardinality(String)",
        "offset UInt64 CODEC(DoubleDelta, ZSTD(1))",
        "time_ns Int64 CODEC(Delta(8), ZSTD(1))",
        "created_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))",
        "message String CODEC(ZSTD(1))",
    ] {
        assert!(columns.contains(words), "{words} is not in:\n{columns}");
    }
}

#[tokio::test]
async fn a_changed_retention_alters_the_table() {
    let engine = engine().await;
    let mut options = options(engine.as_deref());
    for (days, expected) in [(0, None), (3, Some("toIntervalDay(3)")), (30, Some("toIntervalDay(30)")), (0, None)] {
        options.retention_days = days;
        open(&options).await.close().await;
        let table = text(&options, ENGINE_OF_LINES).await;
        assert_eq!(table.contains(" TTL "), expected.is_some(), "{days}: {table}");
        assert!(expected.is_none_or(|words| table.contains(words)), "{days}: {table}");
    }
    options.fsync = false;
    open(&options).await;
    assert!(text(&options, ENGINE_OF_LINES).await.contains("fsync_after_insert = 0"));
}

/// The table deletes by itself, and what is left of the task is a floor and an end.
#[tokio::test]
async fn lines_past_the_ttl_are_gone_and_the_floor_says_so() {
    let engine = engine().await;
    let mut options = options(engine.as_deref());
    let store = open(&options).await;
    let (old, task) = (now_ms() - 10 * DAY_MS, key("t"));
    store.put_task(&record(&task)).await.unwrap();
    let all: Vec<_> =
        lines(1..=20).into_iter().map(|line| at(if line.offset > 15 { now_ms() } else { old }, line)).collect();
    insert(&store, &task, &all).await;
    insert(&store, &key("all-old"), &all[..15]).await;
    store.put_task(&record(&key("all-old"))).await.unwrap();
    store.close().await;

    options.retention_days = 7;
    let store = open(&options).await;
    run(&options, "OPTIMIZE TABLE task_logs FINAL").await;
    let rows = "SELECT count() FROM task_logs";
    assert_eq!(number(&options, rows).await, 5, "the table itself has let go of them");
    assert_eq!(read_all(&store, &task).await, all[15..]);
    let stored = store.task(&task).await.unwrap().unwrap();
    assert_eq!((stored.floor, stored.end), (16, 20));
    let stored = store.task(&key("all-old")).await.unwrap().unwrap();
    assert_eq!((stored.floor, stored.end), (16, 15));
    assert_eq!(last(&store, &key("all-old")).await.end, 15, "numbers are not given again");
}

#[tokio::test]
async fn whole_days_are_dropped_and_the_rest_is_hidden() {
    const PARTITIONS: &str = "SELECT DISTINCT partition_id FROM system.parts
        WHERE database = currentDatabase() AND table = 'task_logs' AND active ORDER BY partition_id";
    let engine = engine().await;
    let options = options(engine.as_deref());
    let store = open(&options).await;
    let day = |n: u64| 1_790_000_000_000 / DAY_MS * DAY_MS + n as i64 * DAY_MS;
    let each: Vec<_> = (1..=30).map(|offset| at(day((offset - 1) / 10) + offset as i64, line(offset))).collect();
    insert(&store, &key("t"), &each).await;
    assert_eq!(text(&options, PARTITIONS).await, "20260921\n20260922\n20260923");
    let deleted = store.delete_before(day(1) + 15).await.unwrap();
    assert_eq!((deleted.lines, deleted.tasks, deleted.oldest_ms), (14, 1, Some(day(1) + 15)));
    assert_eq!(text(&options, PARTITIONS).await, "20260922\n20260923");
    assert_eq!(read_all(&store, &key("t")).await, each[14..]);
}

#[tokio::test]
async fn the_same_lines_are_one_row_after_a_merge() {
    let engine = engine().await;
    let options = options(engine.as_deref());
    let store = open(&options).await;
    for _ in 0..3 {
        insert(&store, &key("t"), &lines(1..=100)).await;
    }
    run(&options, "OPTIMIZE TABLE task_logs FINAL").await;
    assert_eq!(number(&options, "SELECT count() FROM task_logs").await, 100);
    assert_eq!(read_all(&store, &key("t")).await, lines(1..=100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_instances_start_and_insert_at_once() {
    let engine = engine().await;
    let options =
        ClickhouseOptions { retention_days: 7, search_index: SearchIndex::Ngram, ..options(engine.as_deref()) };
    let one = async |n: u8| {
        let store = open(&options).await;
        let own = |line| LogRecord { producer: ProducerId([n + 1; 16]), created_at_ms: now_ms(), ..line };
        let own: Vec<_> = lines(1..=200).into_iter().map(own).collect();
        insert(&store, &key(&format!("own-{n}")), &own).await;
        insert(&store, &key("shared"), &own[..1]).await;
        store.put_task(&TaskRecord { version: u64::from(n), ..record(&key("shared")) }).await.unwrap();
        assert_eq!(read_all(&store, &key(&format!("own-{n}"))).await, own);
        store
    };
    let (store, ..) = tokio::join!(one(0), one(1), one(2), one(3));
    assert_eq!(offsets(&store, &key("shared")).await, [1]);
    assert_eq!(last(&store, &key("shared")).await.producers.len(), 4);
    assert_eq!(store.task(&key("shared")).await.unwrap().unwrap().record.version, 3);
    assert_eq!(number(&options, "SELECT uniq(version) FROM schema_migrations").await, 1);
}

#[tokio::test]
async fn a_database_of_a_newer_version() {
    let engine = engine().await;
    let options = options(engine.as_deref());
    open(&options).await;
    run(&options, "INSERT INTO schema_migrations (version) VALUES (999)").await;
    let message = refused(&options).await;
    assert!(message.contains("schema version 999, written by a newer flowforge"), "{message}");
}

#[tokio::test]
async fn search_indexes_come_and_go() {
    const INDEXES: &str = "SELECT concat(name, ' ', type_full) FROM system.data_skipping_indices
        WHERE database = currentDatabase() AND table = 'task_logs' ORDER BY name";
    let engine = engine().await;
    let mut options = options(engine.as_deref());
    for (index, expected) in [
        (SearchIndex::Token, "message_tokens text(tokenizer = splitByNonAlpha)"),
        (SearchIndex::Ngram, "message_ngrams ngrambf_v1(4, 16384, 2, 0)"),
        (SearchIndex::None, ""),
    ] {
        options.search_index = index;
        let store = open(&options).await;
        assert_eq!(text(&options, INDEXES).await, expected);
        insert(&store, &key(&format!("{index:?}")), &lines(1..=1000)).await;
        assert_eq!(offsets(&store, &key(&format!("{index:?}"))).await.len(), 1000);
    }
}

#[tokio::test]
async fn a_row_that_breaks_a_constraint_is_rejected_alone() {
    let engine = engine().await;
    let options = options(engine.as_deref());
    let store = open(&options).await;
    run(&options, "ALTER TABLE task_logs ADD CONSTRAINT no_poison CHECK message != 'poison'").await;
    let poison = LogRecord { message: "poison".into(), ..line(2) };
    let batch = [line(1), poison, line(3)];
    assert_eq!(try_insert(&store, &batch).await.unwrap_err().kind(), ErrorKind::Rejected);
    let mut kinds = Vec::new();
    for row in batch.chunks(1) {
        kinds.push(try_insert(&store, row).await.err().map(|error| error.kind()));
    }
    assert_eq!(kinds, [None, Some(ErrorKind::Rejected), None]);
    assert_eq!(offsets(&store, &key("t")).await, [1, 3]);
}

#[tokio::test]
async fn a_missing_table_is_no_rows_fault() {
    let engine = engine().await;
    let options = options(engine.as_deref());
    let store = open(&options).await;
    store.health().await.unwrap();
    run(&options, "DROP TABLE task_logs").await;
    assert!(store.health().await.unwrap_err().is_retryable());
    assert!(try_insert(&store, &lines(1..=1)).await.unwrap_err().is_retryable());
    store.migrate().await.unwrap_err();
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let engine = engine().await;
    let store = open(&options(engine.as_deref())).await;
    store.close().await;
    assert!(try_insert(&store, &lines(1..=1)).await.unwrap_err().is_retryable());
    assert!(store.health().await.unwrap_err().is_retryable());
}

/// What was acked is there after the kill; what was not is whole, absent, or above the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_keeps_exactly_what_was_acked() {
    const BATCH: u64 = 50;
    let mut engine = Engine::start().await.unwrap();
    let options = ClickhouseOptions { timeout: Duration::from_secs(5), ..options(Some(&engine)) };
    let store = open(&options).await;
    let (mut acked, some) = (0, tokio::sync::Notify::new());
    for life in 0..3 {
        let kill = async {
            some.notified().await;
            tokio::time::sleep(Duration::from_millis(70 * life)).await; // Another moment each time.
        };
        let before = acked;
        let insert_on = async {
            while try_insert(&store, &lines(acked + 1..=acked + BATCH)).await.is_ok() {
                acked += BATCH;
                if acked == before + 4 * BATCH {
                    some.notify_one();
                }
            }
        };
        tokio::select! {
            () = insert_on => panic!("an insert failed before the kill"),
            () = kill => {}
        }
        engine.kill9().unwrap();
        assert!(try_insert(&store, &lines(acked + 1..=acked + 1)).await.unwrap_err().is_retryable());
        engine.restart().await.unwrap();
        let end = last(&store, &key("t")).await;
        assert!(end.end == acked || end.end == acked + BATCH, "acked {acked}, stored {}", end.end);
        assert_eq!(end.producers[0].1, end.end, "end and sequence numbers are of the same insert");
        assert_eq!(read_all(&store, &key("t")).await, lines(1..=end.end));
        acked = end.end;
    }
}

#[tokio::test]
async fn the_next_host_is_used_while_the_first_is_away() {
    let engine = Engine::start().await.unwrap();
    let away = format!("http://127.0.0.1:{}", free_port().unwrap());
    let options = ClickhouseOptions { hosts: vec![away, engine.url()], ..options(Some(&engine)) };
    let store = open(&options).await;
    insert(&store, &key("t"), &lines(1..=10)).await;
    assert_eq!(read_all(&store, &key("t")).await, lines(1..=10));
}

#[tokio::test]
async fn a_host_that_dies_is_left_for_the_next() {
    let (mut first, second) = (Engine::start().await.unwrap(), Engine::start().await.unwrap());
    let options = ClickhouseOptions { hosts: vec![first.url(), second.url()], ..options(Some(&first)) };
    // The two share nothing here: only who answers is looked at.
    open(&ClickhouseOptions { hosts: vec![second.url()], ..options.clone() }).await;
    let store = open(&options).await;
    insert(&store, &key("t"), &lines(1..=3)).await;
    first.kill9().unwrap();
    insert(&store, &key("t"), &lines(1..=7)).await;
    assert_eq!(offsets(&store, &key("t")).await.len(), 7);
}

#[tokio::test]
async fn wrong_password() {
    let engine = Engine::start_with_password("right").await.unwrap();
    let options = ClickhouseOptions { password: "hunter2".to_owned(), ..options(Some(&engine)) };
    let message = refused(&options).await;
    assert!(message.contains("refuses user \"default\"") && message.contains("clickhouse.password"), "{message}");
    assert!(!message.contains("hunter2") && !format!("{options:?}").contains("hunter2"), "{message}");
    open(&ClickhouseOptions { password: "right".to_owned(), ..options }).await;
}

#[tokio::test]
async fn hosts_that_cannot_be_right() {
    for (host, words) in [
        ("127.0.0.1:9000", "port is 8123"),
        ("https://db/path", "not host, host:port"),
        ("http://user:hunter2@db", "keys of their own"),
        ("db:port", "not a port"),
    ] {
        let message = refused(&ClickhouseOptions::new(host, "logs")).await;
        assert!(message.contains(words) && !message.contains("hunter2"), "{message}");
    }
    let nobody = ClickhouseOptions::new(format!("127.0.0.1:{}", free_port().unwrap()), "logs");
    let error = ClickhouseStore::open(nobody).await.err().unwrap();
    assert!(
        error.is_retryable() && error.to_string().contains("cannot open ClickHouse at http://127.0.0.1:"),
        "{error}"
    );
    assert!(error.to_string().contains("Connection refused"), "{error}");
}
