//! How fast the SQLite store inserts and reads: `cargo run --release -p flowforge-storage --example insert_rate [folder]`.
//!
//! Each line has a message of 110 bytes. Every insert is committed and synced before the next one starts.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{
    LogFilter, LogRecord, LogStore, ProducerId, ReadQuery, SqliteStore, Stream, TaskKey, TaskLines,
};

const LINES: u64 = 1_000_000;
const PAGE: usize = 2000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| std::env::temp_dir().display().to_string());
    for (batch, tasks) in [(1000, 1), (1000, 10), (1000, 1000), (10_000, 1), (10_000, 10), (10_000, 1000)] {
        let file = Path::new(&folder).join(format!("insert-rate-{}.db", std::process::id()));
        measure(&file, batch, tasks).await?;
        for suffix in ["", ".lock"] {
            std::fs::remove_file(format!("{}{suffix}", file.display()))?;
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn measure(file: &Path, batch: u64, tasks: u64) -> Result<(), Box<dyn std::error::Error>> {
    let store = SqliteStore::open(SqliteOptions::new(file)).await?;
    let names = (0..tasks).map(|n| TaskKey::new("", &format!("task-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let each = batch / tasks;
    let start = Instant::now();
    let mut next = 1;
    while next * tasks <= LINES {
        let records: Vec<Vec<_>> = names.iter().map(|_| (next..next + each).map(line).collect()).collect();
        let lines: Vec<_> =
            names.iter().zip(&records).map(|(task, records)| TaskLines { task: task.clone(), records }).collect();
        store.insert(&lines).await?;
        next += each;
    }
    let written = LINES as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let read = read_all(&store, &names).await?;
    let read = read as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let filter = LogFilter::default().contains("no such text");
    let query = ReadQuery { filter, ..ReadQuery::forward(1, u64::MAX, PAGE) };
    for task in &names {
        store.read(task, &query).await?;
    }
    let searched = LINES as f64 / start.elapsed().as_secs_f64();
    store.close().await;
    let bytes_a_line = std::fs::metadata(file)?.len() as f64 / LINES as f64;
    println!(
        "{batch:>6} rows over {tasks:>4} tasks: insert {written:>7.0} rows/s, read {read:>7.0} rows/s, search {searched:>7.0} rows/s, {bytes_a_line:.0} bytes a row"
    );
    Ok(())
}

async fn read_all(store: &SqliteStore, tasks: &[TaskKey]) -> Result<usize, Box<dyn std::error::Error>> {
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
