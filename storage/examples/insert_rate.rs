//! How fast a store inserts and reads: `cargo run --release -p flowforge-storage --example insert_rate [folder | URL [history]]`.
//!
//! A folder is for SQLite, `postgres://…` for PostgreSQL, whose database should be empty: its lines are deleted in between.
//! Each line has a message of 110 bytes. Every insert is committed before the next one starts. With `history`, PostgreSQL gets so
//! many lines more, and pages of 1,000 of them are read at random places.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use flowforge_storage::contract::sample::Random;
use flowforge_storage::postgres::PostgresOptions;
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{
    LogFilter, LogRecord, LogStore, PostgresStore, ProducerId, ReadQuery, SqliteStore, Stream, TaskKey, TaskLines,
};
use sqlx::{Connection, PgConnection};

const PAGE: usize = 2000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let place = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    if !place.starts_with("postgres") {
        return sqlite(&place).await;
    }
    match args.next() {
        None => postgres(&place).await,
        Some(lines) => history(&place, lines.parse()?).await,
    }
}

async fn sqlite(folder: &str) -> Outcome<()> {
    for (batch, tasks) in [(1000, 1), (1000, 10), (1000, 1000), (10_000, 1), (10_000, 10), (10_000, 1000)] {
        let file = Path::new(folder).join(format!("insert-rate-{}.db", std::process::id()));
        let store = SqliteStore::open(SqliteOptions::new(&file)).await?;
        measure(&store, 1_000_000, batch, tasks).await?;
        store.close().await;
        report_size(std::fs::metadata(&file)?.len(), 1_000_000);
        for suffix in ["", ".lock"] {
            std::fs::remove_file(format!("{}{suffix}", file.display()))?;
        }
    }
    Ok(())
}

async fn postgres(url: &str) -> Outcome<()> {
    let store = PostgresStore::open(PostgresOptions::new(url)).await?;
    store.migrate().await?;
    for (lines, batch, tasks) in [
        (100_000, 100, 10),
        (1_000_000, 1000, 10),
        (1_000_000, 1000, 1000),
        (1_000_000, 5000, 10),
        (1_000_000, 5000, 1000),
    ] {
        store.delete_before(i64::MAX).await?;
        measure(&store, lines, batch, tasks).await?;
        report_size(size(url).await?, lines);
    }
    store.delete_before(i64::MAX).await?;
    store.close().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn history(url: &str, lines: u64) -> Outcome<()> {
    const TASKS: u64 = 20;
    let store = PostgresStore::open(PostgresOptions::new(url)).await?;
    store.migrate().await?;
    let tasks = names(TASKS)?;
    let start = Instant::now();
    insert(&store, &tasks, lines, 10_000).await?;
    println!("{lines} lines inserted in {:.0?}", start.elapsed());
    report_size(size(url).await?, lines);
    let mut random = Random::new(1);
    let mut times = Vec::new();
    for _ in 0..200 {
        let (task, from) = (random.pick(&tasks), 1 + random.below(lines / TASKS - 1000));
        let start = Instant::now();
        let page = store.read(task, &ReadQuery::forward(from, u64::MAX, 1000)).await?;
        times.push(start.elapsed());
        assert_eq!((page.records.len(), page.records[0].offset), (1000, from));
    }
    times.sort_unstable();
    println!("1,000 lines out of them: half in {:.1?}, 99 of 100 in {:.1?}", times[100], times[198]);
    store.close().await;
    Ok(())
}

/// Bytes of the lines and their indexes.
async fn size(url: &str) -> Outcome<u64> {
    const SQL: &str =
        "SELECT sum(pg_total_relation_size(inhrelid))::int8 FROM pg_inherits WHERE inhparent = 'task_logs'::regclass";
    let mut conn = PgConnection::connect(url).await?;
    let bytes: i64 = sqlx::query_scalar(SQL).fetch_one(&mut conn).await?;
    conn.close().await?;
    Ok(bytes as u64)
}

#[allow(clippy::print_stdout, reason = "the figures are its output")]
fn report_size(bytes: u64, lines: u64) {
    println!("{:>24} {:.0} bytes a row", "", bytes as f64 / lines as f64);
}

/// Of one run: a task whose lines were deleted goes on where it ended.
fn names(tasks: u64) -> Outcome<Vec<TaskKey>> {
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    Ok((0..tasks).map(|n| TaskKey::new("", &format!("run-{run}-task-{n}"))).collect::<Result<Vec<_>, _>>()?)
}

async fn insert(store: &dyn LogStore, tasks: &[TaskKey], lines: u64, batch: u64) -> Outcome<()> {
    let each = batch / tasks.len() as u64;
    let mut next = 1;
    while next * tasks.len() as u64 <= lines {
        let records: Vec<Vec<_>> = tasks.iter().map(|_| (next..next + each).map(line).collect()).collect();
        let batch: Vec<_> =
            tasks.iter().zip(&records).map(|(task, records)| TaskLines { task: task.clone(), records }).collect();
        store.insert(&batch).await?;
        next += each;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn measure(store: &dyn LogStore, lines: u64, batch: u64, tasks: u64) -> Outcome<()> {
    let names = names(tasks)?;
    let start = Instant::now();
    insert(store, &names, lines, batch).await?;
    let written = lines as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let read = read_all(store, &names).await?;
    let read = read as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let filter = LogFilter::default().contains("no such text");
    let query = ReadQuery { filter, ..ReadQuery::forward(1, u64::MAX, PAGE) };
    for task in &names {
        store.read(task, &query).await?;
    }
    let searched = lines as f64 / start.elapsed().as_secs_f64();
    println!(
        "{batch:>6} rows over {tasks:>4} tasks: insert {written:>7.0} rows/s, read {read:>7.0} rows/s, search {searched:>7.0} rows/s"
    );
    Ok(())
}

async fn read_all(store: &dyn LogStore, tasks: &[TaskKey]) -> Outcome<usize> {
    let mut count = 0;
    for task in tasks {
        let mut from = Some(1);
        while let Some(first) = from {
            let page = store.read(task, &ReadQuery::forward(first, u64::MAX, PAGE)).await?;
            count += page.records.len();
            from = page.next;
        }
    }
    Ok(count)
}

fn line(offset: u64) -> LogRecord {
    LogRecord {
        offset,
        epoch: 1_790_000_000_000,
        producer: ProducerId([7; 16]),
        seq: offset,
        time_ns: 1_790_000_000_000_000_000 + offset as i64,
        created_at_ms: 1_790_000_000_000 + offset as i64,
        stream: Stream::Stdout,
        level: 0,
        message: Bytes::from(
            format!(
                "{offset:>10} {}",
                "the quick brown fox jumps over the lazy dog and goes on to do it again and again until it stops."
            )
            .into_bytes(),
        ),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
    }
}
