//! How fast the ClickHouse store inserts and reads, and what a line takes on the disk:
//! `cargo run --release -p flowforge-storage --example clickhouse_rate [insert|history|tasks]`, with the engine of the tests
//! (`.ci/prepare test` installs it) or the server that `CLICKHOUSE_URL` names.
//!
//! Each line has a message of 110 bytes. Every insert is committed and synced before the next one starts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clickhouse::Client;
use flowforge_storage::clickhouse::{ClickhouseOptions, SearchIndex};
use flowforge_storage::contract::sample::record;
use flowforge_storage::{
    ClickhouseStore, LogFilter, LogRecord, LogStore, ProducerId, ReadQuery, Stream, TaskFilter, TaskKey, TaskLines,
    TaskRecord,
};
use flowforge_test_services::clickhouse::{Engine, genuine};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const LINES: u64 = 1_000_000;
const HISTORY_LINES: u64 = 10_000_000;
const READS: usize = 50;

#[tokio::main]
async fn main() -> Outcome {
    let what = std::env::args().nth(1).unwrap_or_default();
    let engine = if genuine().is_some() { None } else { Some(Engine::start().await?) };
    let options = options(engine.as_ref());
    match what.as_str() {
        "history" => history(&options).await,
        "tasks" => tasks(&options).await,
        _ => inserts(&options).await,
    }
}

fn options(engine: Option<&Engine>) -> ClickhouseOptions {
    let database = format!("rate_{}", std::process::id());
    match (engine, genuine()) {
        (Some(engine), _) => ClickhouseOptions::new(engine.url(), database),
        (None, server) => {
            let server = server.expect("an engine is started where no server is named");
            let defaults = ClickhouseOptions::new(server.url, database);
            let user = if server.user.is_empty() { defaults.user.clone() } else { server.user };
            ClickhouseOptions { user, password: server.password, ..defaults }
        }
    }
}

#[allow(clippy::print_stdout, reason = "the figures are its output")]
fn say(line: &str) {
    println!("{line}");
}

async fn inserts(options: &ClickhouseOptions) -> Outcome {
    for (batch, tasks, fsync) in [
        (500, 1, true),
        (500, 100, true),
        (5000, 1, true),
        (5000, 100, true),
        (20_000, 1, true),
        (20_000, 100, true),
        (5000, 100, false),
    ] {
        let database = format!("{}_{batch}_{tasks}_{fsync}", options.database);
        let options = ClickhouseOptions { database, fsync, ..options.clone() };
        let store = ClickhouseStore::open(options.clone()).await?;
        // Small batches take long; their rate does not change with the number of lines.
        let lines = if batch == 500 { LINES / 5 } else { LINES };
        let rate = fill(&store, lines, batch, tasks).await?;
        let fsync = if fsync { "fsync" } else { "no fsync" };
        say(&format!("{batch:>6} rows over {tasks:>3} tasks, {fsync}: {rate:>7.0} rows/s, {}", size(&options).await?));
    }
    for search_index in [SearchIndex::Token, SearchIndex::Ngram] {
        let database = format!("{}_{search_index:?}", options.database);
        let options = ClickhouseOptions { database, search_index, ..options.clone() };
        let store = ClickhouseStore::open(options.clone()).await?;
        let rate = fill(&store, LINES, 20_000, 100).await?;
        say(&format!(
            " 20000 rows over 100 tasks, index {search_index:?}: {rate:>7.0} rows/s, {}",
            size(&options).await?
        ));
    }
    Ok(())
}

/// Rows a second.
async fn fill(store: &ClickhouseStore, lines: u64, batch: u64, tasks: u64) -> Outcome<f64> {
    let names = (0..tasks).map(|n| TaskKey::new("", &format!("task-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let (each, start, mut next) = (batch / tasks, Instant::now(), 1);
    while next * tasks <= lines {
        let records: Vec<_> = (next..next + each).map(line).collect();
        let of = |task: &TaskKey| TaskLines { task: task.clone(), records: &records };
        store.insert(&names.iter().map(of).collect::<Vec<_>>()).await?;
        next += each;
    }
    Ok(lines as f64 / start.elapsed().as_secs_f64())
}

/// After the merges that would come by themselves.
async fn size(options: &ClickhouseOptions) -> Outcome<String> {
    let client = Client::default()
        .with_url(&options.hosts[0])
        .with_database(&options.database)
        .with_user(&options.user)
        .with_password(&options.password)
        .with_validation(false);
    client.query("OPTIMIZE TABLE task_logs FINAL").execute().await?;
    let sql = "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts
        WHERE database = currentDatabase() AND table = 'task_logs' AND active";
    let (bytes, rows) = client.query(sql).fetch_one::<(u64, u64)>().await?;
    Ok(format!("{:.1} bytes a line on the disk", bytes as f64 / rows as f64))
}

/// Pages out of a task of ten million lines.
async fn history(options: &ClickhouseOptions) -> Outcome {
    let store = ClickhouseStore::open(options.clone()).await?;
    let start = Instant::now();
    fill(&store, HISTORY_LINES, 100_000, 1).await?;
    say(&format!("{HISTORY_LINES} lines of one task in {:.0} s", start.elapsed().as_secs_f64()));
    let task = TaskKey::new("", "task-0")?;
    let end = store.last(&task).await?.map_or(0, |last| last.end);
    let mut from = 1;
    let mut somewhere = || {
        from = (from + 7_919_999) % (end - 1000);
        from
    };
    let pages: Vec<_> = (0..READS).map(|_| ReadQuery::forward(somewhere(), u64::MAX, 1000)).collect();
    measure(&store, &task, "1,000 lines from anywhere", &pages).await?;
    let last = ReadQuery::backward(1, u64::MAX, 1000, LogFilter::default());
    measure(&store, &task, "the last 1,000 lines", &vec![last; READS]).await?;
    let mut level = LogFilter::default();
    level.min_level = Some(13);
    for (what, filter) in [
        ("a level that no line has", level),
        ("text that no line has", LogFilter::default().contains("no such text")),
        ("text of one line", LogFilter::default().contains("   9876543 took")),
    ] {
        measure(&store, &task, what, &vec![ReadQuery::backward(1, u64::MAX, 1000, filter); 3]).await?;
    }
    let (start, n) = (Instant::now(), 20);
    for _ in 0..n {
        store.last(&task).await?;
    }
    say(&format!("last: {:.1} ms", start.elapsed().as_secs_f64() * 1000.0 / f64::from(n)));
    Ok(())
}

async fn measure(store: &ClickhouseStore, task: &TaskKey, what: &str, queries: &[ReadQuery]) -> Outcome {
    let (mut times, mut lines): (Vec<Duration>, _) = (Vec::new(), 0);
    for query in queries {
        let (start, mut next) = (Instant::now(), Some(query.clone()));
        lines = 0;
        while let Some(query) = next.take() {
            let page = store.read(task, &query).await?;
            lines += page.records.len();
            // A search goes on to its end; a page is one read.
            next = page.next.filter(|_| page.records.is_empty()).map(|to| ReadQuery { to, ..query });
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    say(&format!("{what}: {lines} lines, p50 {:.1} ms, worst {:.1} ms", at(0.5), at(1.0)));
    Ok(())
}

/// Lists, with many tasks.
async fn tasks(options: &ClickhouseOptions) -> Outcome {
    const TASKS: u64 = 100_000;
    let store = ClickhouseStore::open(options.clone()).await?;
    let start = Instant::now();
    for first in (0..TASKS).step_by(800) {
        let puts = (first..TASKS.min(first + 800)).map(async |n| {
            let task = TaskKey::new("", &format!("task-{n}")).expect("a valid name");
            store.put_task(&TaskRecord { created_at_ms: n as i64, ..record(&task) }).await
        });
        futures_util::future::try_join_all(puts).await?;
    }
    say(&format!("{TASKS} new tasks: {:.0} a second, 800 at a time", TASKS as f64 / start.elapsed().as_secs_f64()));
    let start = Instant::now();
    let page = store.tasks(&TaskFilter::default(), None, 100).await?;
    say(&format!("the newest {} of them: {:.0} ms", page.tasks.len(), start.elapsed().as_secs_f64() * 1000.0));
    let (start, n) = (Instant::now(), 20_u32);
    for _ in 0..n {
        store.task(&TaskKey::new("", "task-77777")?).await?;
    }
    say(&format!("one of them: {:.1} ms", start.elapsed().as_secs_f64() * 1000.0 / f64::from(n)));
    Ok(())
}

fn line(offset: u64) -> LogRecord {
    LogRecord {
        offset,
        epoch: 1_790_000_000_000,
        producer: ProducerId([7; 16]),
        seq: offset,
        time_ns: 1_790_000_000_000_000_000 + offset as i64 * 1_000_003,
        created_at_ms: 1_790_000_000_000 + offset as i64,
        stream: Stream::Stdout,
        level: 0,
        message: Bytes::from(message(offset)),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
    }
}

/// 110 bytes that compress about as a program's lines do: a fixed beginning, a counter, words of a small vocabulary, and two
/// numbers of which nothing is known.
fn message(offset: u64) -> String {
    const WORDS: [&str; 16] = [
        "loaded", "batch", "retry", "epoch", "model", "shard", "cache", "writing", "reading", "stage", "metric",
        "worker", "rows", "from", "upload", "queue",
    ];
    let mut random = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text =
        format!("2026-11-21 INFO  pipeline.step {offset:>10} took {:>4} ms id={:08x}", random >> 54, random >> 32);
    while text.len() < 110 {
        random = (random ^ (random >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        text.push(' ');
        text.push_str(WORDS[(random >> 60) as usize]);
    }
    text.truncate(110);
    text
}
