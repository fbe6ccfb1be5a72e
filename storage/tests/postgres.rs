//! What only the PostgreSQL store promises: several instances, a server that goes and comes back, partitions, roles, and what is
//! said at start-up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flowforge_storage::contract::sample::{insert, key, last, line, lines, of_epoch, offsets, read_all, record};
use flowforge_storage::postgres::PostgresOptions;
use flowforge_storage::{ErrorKind, LogRecord, LogStore, PostgresStore, StoreError, TaskLines};
use flowforge_test_services::postgres::{Database, PASSWORD, PostgresServer, SUPERUSER};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::timeout;

const DAY: i64 = 24 * 60 * 60 * 1000;

async fn open(url: &str) -> PostgresStore {
    let store = PostgresStore::open(PostgresOptions::new(url)).await.expect("open");
    store.migrate().await.expect("migrate");
    store
}

async fn shared() -> (PostgresStore, Database) {
    let database = Database::shared().await.expect("a database");
    (open(&database.url()).await, database)
}

async fn try_insert(store: &PostgresStore, records: &[LogRecord]) -> Result<(), StoreError> {
    store.insert(&[TaskLines { task: key("t"), records }]).await
}

/// As a writer does it.
async fn insert_until_stored(store: &PostgresStore, records: &[LogRecord]) -> u32 {
    for failures in 0..1000 {
        match try_insert(store, records).await {
            Ok(()) => return failures,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    panic!("the server never came back");
}

/// The same lines on this day.
fn on_day(day: i64, lines: Vec<LogRecord>) -> Vec<LogRecord> {
    lines.into_iter().map(|line| LogRecord { created_at_ms: day * DAY + line.offset as i64, ..line }).collect()
}

async fn partitions(conn: &mut PgConnection) -> Vec<String> {
    const SQL: &str =
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'task_logs'::regclass ORDER BY 1";
    sqlx::query_scalar(SQL).fetch_all(conn).await.expect("partitions")
}

async fn number(conn: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.expect("a number")
}

/// The error of an open that must fail for a reason that a person can mend.
async fn refused(url: &str, kind: ErrorKind) -> String {
    let error = match PostgresStore::open(PostgresOptions::new(url)).await {
        Err(error) => error,
        Ok(store) => store.migrate().await.expect_err("open or migrate must fail"),
    };
    assert_eq!(error.kind(), kind, "{error}");
    let message = error.to_string();
    assert!(!message.contains("hunter2") && !message.contains(PASSWORD), "{message}");
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_start_together_migrate_once_and_insert_at_once() {
    const STORES: u64 = 6;
    let database = Database::shared().await.unwrap();
    let url = database.url();
    let start = async |n: u64| {
        let store = open(&url).await;
        // Everyone writes its own part of one task that all share, and all of another.
        for batch in 0..20 {
            let first = batch * 10 * STORES + n * 10 + 1;
            insert(&store, &key("parts"), &lines(first..=first + 9)).await;
            insert(&store, &key("same"), &lines(batch * 50 + 1..=batch * 50 + 50)).await;
        }
        store
    };
    let (store, ..) = tokio::join!(start(0), start(1), start(2), start(3), start(4), start(5));
    assert_eq!(read_all(&store, &key("parts")).await, lines(1..=200 * STORES));
    assert_eq!(read_all(&store, &key("same")).await, lines(1..=1000));
    let mut shell = database.connect().await.unwrap();
    assert_eq!(number(&mut shell, "SELECT count(*) FROM _sqlx_migrations").await, 1);
    assert_eq!(number(&mut shell, "SELECT count(*) FROM task_logs").await, (200 * STORES + 1000) as i64);
}

#[tokio::test]
async fn terminated_backends_cost_nothing_but_a_retry() {
    const BATCHES: u64 = 200;
    let (store, database) = shared().await;
    let mut shell = database.connect().await.unwrap();
    let stored = AtomicU64::new(0);
    let write = async {
        let mut failures = 0;
        for n in 0..BATCHES {
            failures += insert_until_stored(&store, &lines(n * 100 + 1..=n * 100 + 100)).await;
            stored.store(n, Ordering::Relaxed);
        }
        failures
    };
    let terminate = async {
        const SQL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'";
        loop {
            // One hit, then some progress.
            let goal = stored.load(Ordering::Relaxed) + 3;
            while number(&mut shell, SQL).await == 0 {}
            while stored.load(Ordering::Relaxed) < goal {
                tokio::task::yield_now().await;
            }
        }
    };
    let failures = tokio::select! {
        failures = write => failures,
        () = terminate => unreachable!("it never ends"),
    };
    assert!(failures > 0, "no insert was hit: the test shows nothing");
    assert_eq!(read_all(&store, &key("t")).await, lines(1..=BATCHES * 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_keeps_what_it_acked() {
    let mut server = PostgresServer::start().await.unwrap();
    let database = server.database().await.unwrap();
    let store = open(&database.url()).await;
    let mut next = 1;
    for _ in 0..3 {
        let write = async {
            loop {
                let batch = lines(next..=next + 99);
                if let Err(error) = try_insert(&store, &batch).await {
                    assert!(error.is_retryable(), "{error}");
                    return;
                }
                next += 100;
            }
        };
        let kill = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.kill9().unwrap();
        };
        tokio::join!(write, kill);
        server.restart().await.unwrap();
        let acked = next - 1;
        let found = offsets(&store, &key("t")).await;
        assert!(acked > 0 && found.len() as u64 >= acked, "{} of {acked} acked lines are left", found.len());
        assert_eq!(last(&store, &key("t")).await.end, found.len() as u64);
    }
    insert_until_stored(&store, &lines(1..=next + 99)).await;
    assert_eq!(read_all(&store, &key("t")).await, lines(1..=next + 99));
}

#[tokio::test]
async fn days_are_there_ahead_and_made_on_need() {
    let (store, database) = shared().await;
    let mut shell = database.connect().await.unwrap();
    let ahead = number(&mut shell, "SELECT count(*) FROM generate_series(0, 3) AS d
        WHERE to_regclass('task_logs_' || to_char(now() AT TIME ZONE 'UTC' + d * interval '1 day', 'YYYYMMDD')) IS NOT NULL");
    assert_eq!(ahead.await, 4);
    // A clock that jumps, both ways, within one insert.
    let records = [on_day(0, lines(1..=2)), on_day(20_000, lines(3..=4)), on_day(10_957, lines(5..=6))].concat();
    insert(&store, &key("t"), &records).await;
    assert_eq!(read_all(&store, &key("t")).await, records);
    let made = partitions(&mut shell).await;
    for name in ["task_logs_19700101", "task_logs_20241004", "task_logs_20000101"] {
        assert!(made.iter().any(|made| made == name), "{name} is not in {made:?}");
    }
    // Somebody drops one that is thought to be there.
    database.run("DROP TABLE task_logs_20241004").await.unwrap();
    insert(&store, &key("u"), &on_day(20_000, lines(1..=2))).await;
    assert_eq!(offsets(&store, &key("u")).await, [1, 2]);
}

#[tokio::test]
async fn one_row_an_offset_whatever_day_its_epochs_are_of() {
    let (store, database) = shared().await;
    let old = on_day(100, lines(1..=9));
    let new = on_day(102, of_epoch(2000, lines(4..=6)));
    insert(&store, &key("up"), &old).await;
    insert(&store, &key("up"), &new).await;
    insert(&store, &key("down"), &new).await;
    insert(&store, &key("down"), &old).await;
    insert(&store, &key("down"), &new).await;
    let expected = [old[..3].to_vec(), new.clone(), old[6..].to_vec()].concat();
    for task in ["up", "down"] {
        assert_eq!(read_all(&store, &key(task)).await, expected, "{task}");
    }
    let mut shell = database.connect().await.unwrap();
    assert_eq!(number(&mut shell, "SELECT count(*) FROM task_logs").await, 18);
}

#[tokio::test]
async fn whole_days_are_dropped_and_their_disk_comes_back() {
    let (store, database) = shared().await;
    store.put_task(&record(&key("t"))).await.unwrap();
    let long = |line: LogRecord| LogRecord { message: vec![b'x'; 1000].into(), ..line };
    for day in 0..4 {
        let first = day as u64 * 5000 + 1;
        let batch = on_day(1000 + day, lines(first..=first + 4999)).into_iter().map(long).collect::<Vec<_>>();
        insert(&store, &key("t"), &batch).await;
    }
    let mut shell = database.connect().await.unwrap();
    let size = "SELECT pg_database_size(current_database())";
    let before = number(&mut shell, size).await;
    // Two days whole, and some lines of the third.
    let border = 1002 * DAY + 12_001;
    let deleted = store.delete_before(border).await.unwrap();
    assert_eq!((deleted.lines, deleted.tasks, deleted.oldest_ms), (12_000, 1, Some(border)));
    let left = partitions(&mut shell).await;
    assert!(!left.contains(&"task_logs_19720927".to_owned()) && !left.contains(&"task_logs_19720928".to_owned()));
    assert!(left.contains(&"task_logs_19720929".to_owned()), "{left:?}");
    let freed = before - number(&mut shell, size).await;
    assert!(freed > 10_000_000, "{freed} bytes freed by 10,000 lines of 1000");
    let stored = store.task(&key("t")).await.unwrap().unwrap();
    assert_eq!((stored.floor, stored.end), (12_001, 20_000));
    assert_eq!(last(&store, &key("t")).await.end, 20_000);
    assert_eq!(offsets(&store, &key("t")).await.len(), 8000);
    // Everything, the days ahead included: those are made again.
    assert_eq!(store.delete_before(i64::MAX).await.unwrap().lines, 8000);
    assert_eq!(partitions(&mut shell).await.len(), 4);
    assert_eq!(last(&store, &key("t")).await.end, 20_000);
}

#[tokio::test]
async fn a_day_in_use_is_dropped_later() {
    let (store, database) = shared().await;
    insert(&store, &key("t"), &lines(1..=10)).await;
    let mut reader = database.connect().await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM task_logs").execute(&mut *reading).await.unwrap();
    let late = async { insert(&store, &key("t"), &lines(11..=12)).await };
    let (deleted, ()) = tokio::join!(store.delete_before(DAY), late);
    assert_eq!(deleted.unwrap().lines, 0, "a transaction that reads is not broken");
    reading.rollback().await.unwrap();
    assert_eq!(store.delete_before(DAY).await.unwrap().lines, 12);
    assert_eq!(last(&store, &key("t")).await.end, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_is_done_by_one_instance_at_a_time() {
    const HOLD: &str = "SELECT 1::int8 FROM pg_advisory_lock(252768334, 2)";
    let (store, database) = shared().await;
    let other = open(&database.url()).await;
    for day in 0..5 {
        insert(&store, &key("t"), &on_day(day, lines(day as u64 * 1000 + 1..=day as u64 * 1000 + 1000))).await;
    }
    let border = 4 * DAY + 4501;
    let (one, two) = tokio::join!(store.delete_before(border), other.delete_before(border));
    assert_eq!(one.unwrap().lines + two.unwrap().lines, 4500, "each line is counted once");
    assert_eq!(offsets(&store, &key("t")).await.first(), Some(&4501));

    // Somebody else is at it.
    let mut holder = database.connect().await.unwrap();
    assert_eq!(number(&mut holder, HOLD).await, 1);
    let start = Instant::now();
    let idle = store.delete_before(i64::MAX).await.unwrap();
    assert_eq!((idle.lines, idle.tasks, idle.oldest_ms), (0, 0, Some(border)));
    assert!(start.elapsed() < Duration::from_secs(10), "it does not wait");
    holder.close().await.unwrap();
}

#[tokio::test]
async fn a_plain_role_is_enough() {
    let database = Database::shared().await.unwrap();
    let role = format!("plain_{}", database.name());
    database.run(&format!("CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD 'p'; GRANT CREATE, USAGE ON SCHEMA public TO {role}")).await.unwrap();
    let store = open(&database.url_for(&role)).await;
    insert(&store, &key("t"), &on_day(5, lines(1..=10))).await;
    store.put_task(&record(&key("t"))).await.unwrap();
    assert_eq!(store.delete_before(6 * DAY).await.unwrap().lines, 10);
    store.health().await.unwrap();
    store.close().await;

    let bare = Database::shared().await.unwrap();
    bare.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await.unwrap();
    let message = refused(&bare.url_for(&role), ErrorKind::Misconfigured).await;
    assert!(message.contains("does not let this user make tables") && message.contains("GRANT CREATE"), "{message}");
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

/// Small and large batches go different ways into the table.
#[tokio::test]
async fn large_batches_come_back_as_exactly_as_small_ones() {
    let (store, _database) = shared().await;
    let vary = |line: LogRecord| LogRecord {
        message: [&b"\xff\0 cut"[..], b"", "\u{1f389} \\N \t".as_bytes(), b"plain"][line.offset as usize % 4]
            .to_vec()
            .into(),
        fields: if line.offset.is_multiple_of(3) { "{\"a\": \"\u{e9}\"}".into() } else { bytes::Bytes::new() },
        update_id: if line.offset.is_multiple_of(5) { u64::MAX } else { 0 },
        continued: line.offset.is_multiple_of(2),
        no_newline: line.offset.is_multiple_of(7),
        level: line.offset as u8 % 25,
        time_ns: i64::MIN + line.offset as i64,
        ..line
    };
    let records: Vec<_> = on_day(19_000, lines(1..=12_000)).into_iter().map(vary).collect();
    insert(&store, &key("large"), &records).await;
    for batch in records.chunks(1000) {
        insert(&store, &key("small"), batch).await;
    }
    assert!(read_all(&store, &key("large")).await == records);
    assert!(read_all(&store, &key("small")).await == records);
}

#[tokio::test]
async fn closed_store_is_unavailable() {
    let (store, _database) = shared().await;
    store.close().await;
    store.close().await;
    assert!(try_insert(&store, &lines(1..=1)).await.unwrap_err().is_retryable());
    assert!(store.last(&key("t")).await.unwrap_err().is_retryable());
    assert!(store.delete_before(1).await.unwrap_err().is_retryable());
    assert!(store.health().await.unwrap_err().is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_inserts_are_whole_or_absent_and_leave_the_store_usable() {
    const BATCH: u64 = 300;
    let (store, _database) = shared().await;
    let mut cancelled = 0;
    for n in 0..60 {
        let batch = lines(n * BATCH + 1..=(n + 1) * BATCH);
        cancelled += u32::from(timeout(Duration::from_micros(300 * n), try_insert(&store, &batch)).await.is_err());
    }
    assert!(cancelled > 0, "no insert was cut off: the test shows nothing");
    let next = 60 * BATCH + 1;
    insert(&store, &key("t"), &[line(next)]).await;
    let found = offsets(&store, &key("t")).await;
    assert_eq!(found.last(), Some(&next));
    for batch in 0..60 {
        let of_batch = found.iter().filter(|offset| (*offset - 1) / BATCH == batch).count() as u64;
        assert!(of_batch == 0 || of_batch == BATCH, "{of_batch} lines of batch {batch}");
    }
}

#[tokio::test]
async fn dropped_reads_give_their_connection_back() {
    let database = Database::shared().await.unwrap();
    let options = PostgresOptions { max_connections: 3, ..PostgresOptions::new(database.url()) };
    let store = PostgresStore::open(options).await.unwrap();
    store.migrate().await.unwrap();
    insert(&store, &key("t"), &lines(1..=5000)).await;
    for n in 0..50 {
        let _cut_off = timeout(Duration::from_micros(100 * n), read_all(&store, &key("t"))).await;
    }
    assert_eq!(offsets(&store, &key("t")).await.len(), 5000);
}

async fn poison_row_is_rejected(poison: &str) {
    let (store, database) = shared().await;
    database.run(poison).await.expect("poison");
    let batch = [line(1), LogRecord { message: "poison".into(), ..line(2) }, line(3)];
    assert_eq!(try_insert(&store, &batch).await.expect_err("a poison row").kind(), ErrorKind::Rejected);
    assert_eq!(store.last(&key("t")).await.expect("last"), None, "nothing of the batch is left");
    let mut kinds = Vec::new();
    for row in batch.chunks(1) {
        kinds.push(try_insert(&store, row).await.err().map(|error| error.kind()));
    }
    assert_eq!(kinds, [None, Some(ErrorKind::Rejected), None]);
    assert_eq!(offsets(&store, &key("t")).await, [1, 3]);
}

#[tokio::test]
async fn row_that_a_trigger_refuses_is_rejected_alone() {
    poison_row_is_rejected(
        "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.message = 'poison' THEN RAISE EXCEPTION 'no such line'; END IF; RETURN new; END $$;
        CREATE TRIGGER poison BEFORE INSERT ON task_logs FOR EACH ROW EXECUTE FUNCTION poison()",
    )
    .await;
}

#[tokio::test]
async fn row_that_breaks_a_check_is_rejected_alone() {
    poison_row_is_rejected("ALTER TABLE task_logs ADD CHECK (message <> 'poison')").await;
}

#[tokio::test]
async fn locks_of_others_are_waited_for_no_longer_than_told() {
    let database = Database::shared().await.unwrap();
    let limit = Duration::from_millis(300);
    let options = PostgresOptions { statement_timeout: limit, ..PostgresOptions::new(database.url()) };
    let store = PostgresStore::open(options).await.unwrap();
    store.migrate().await.unwrap();
    insert(&store, &key("t"), &lines(1..=3)).await;
    let mut other = database.connect().await.unwrap();
    let mut lock = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE task_logs IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let start = Instant::now();
    assert!(try_insert(&store, &lines(4..=5)).await.unwrap_err().is_retryable());
    let query = flowforge_storage::ReadQuery::forward(1, 10, 10);
    assert!(store.read(&key("t"), &query).await.unwrap_err().is_retryable());
    assert!(start.elapsed() >= limit && start.elapsed() < 40 * limit, "{:?}", start.elapsed());
    lock.rollback().await.unwrap();
    insert(&store, &key("t"), &lines(4..=5)).await;
    assert_eq!(offsets(&store, &key("t")).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn read_only_server_is_unavailable() {
    let (store, database) = shared().await;
    insert(&store, &key("t"), &lines(1..=3)).await;
    database.run(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name())).await.unwrap();
    let later = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    assert!(try_insert(&later, &lines(4..=5)).await.unwrap_err().is_retryable());
    let error = later.health().await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("read-only"), "{error}");
    assert_eq!(offsets(&later, &key("t")).await, [1, 2, 3]);
}

#[tokio::test]
async fn what_is_wrong_at_start_is_said_with_what_to_do() {
    let server = PostgresServer::start().await.unwrap();
    let message = refused(&server.over_tcp("hunter2", "postgres"), ErrorKind::Misconfigured).await;
    assert!(message.contains("Check user and password in postgres.url") && message.contains(SUPERUSER), "{message}");
    let message = refused(&server.over_tcp(PASSWORD, "no_such"), ErrorKind::Misconfigured).await;
    assert!(message.contains("does not have this database. Create it") && message.contains("no_such"), "{message}");
    let no_tls = format!("{}?sslmode=verify-full", server.over_tcp(PASSWORD, "postgres"));
    let message = refused(&no_tls, ErrorKind::Misconfigured).await;
    assert!(message.contains("Check sslmode"), "{message}");
    let good = server.over_tcp(PASSWORD, "postgres");
    drop(server);
    let message = refused(&good, ErrorKind::Unavailable).await;
    assert!(message.contains("cannot reach PostgreSQL") && message.contains("Start the server"), "{message}");
    let message = refused("postgres://me:hunter2@%2Fno%2Fsuch/db", ErrorKind::Unavailable).await;
    assert!(message.contains("/no/such") && message.contains("Start the server"), "{message}");
}

#[tokio::test]
async fn databases_that_are_not_ours_are_refused() {
    let foreign = Database::shared().await.unwrap();
    foreign.run("CREATE TABLE tasks (title text)").await.unwrap();
    let message = refused(&foreign.url(), ErrorKind::Misconfigured).await;
    assert!(message.contains("Set postgres.url to a database of its own"), "{message}");

    let (store, newer) = shared().await;
    store.close().await;
    newer
        .run("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'to come', true, '', 0)")
        .await
        .unwrap();
    let message = refused(&newer.url(), ErrorKind::Misconfigured).await;
    assert!(message.contains("schema version 999, written by a newer flowforge"), "{message}");
}

#[tokio::test]
async fn a_read_looks_only_into_the_days_of_its_task() {
    let (store, database) = shared().await;
    insert(&store, &key("other"), &[on_day(1, lines(1..=1)), on_day(9, lines(2..=2))].concat()).await;
    insert(&store, &key("t"), &on_day(5, lines(1..=2000))).await;
    let mut shell = database.connect().await.unwrap();
    let plan = "EXPLAIN SELECT * FROM task_logs WHERE task_key = 2 AND created_at BETWEEN to_timestamp(432000) AND to_timestamp(432009)
        AND \"offset\" BETWEEN 1 AND 100 ORDER BY \"offset\" LIMIT 10";
    let rows = sqlx::query(plan).fetch_all(&mut shell).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("task_logs_19700106") && !plan.contains("19700102") && !plan.contains("19700110"), "{plan}");
}
