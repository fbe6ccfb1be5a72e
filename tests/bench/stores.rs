//! The three stores beside each other: how fast lines go in, what they take on disk, how long a page of history takes.
//!
//! The store is used as the server uses it, in batches as its writer makes them when it is behind.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use flowforge_storage::clickhouse::ClickhouseOptions;
use flowforge_storage::postgres::PostgresOptions;
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{
    ClickhouseStore, LogRecord, LogStore, PostgresStore, ProducerId, ReadQuery, SqliteStore, Stream, TaskKey, TaskLines,
};
use flowforge_test_services::clickhouse::Engine;
use flowforge_test_services::postgres::{Database, PostgresServer};
use hdrhistogram::Histogram;

use crate::{progress, row, say};

/// Tasks that the lines are of.
const TASKS: u64 = 10;

/// Lines of one insert.
const BATCH: u64 = 10_000;

/// Lines of one page of history, and how many pages are read.
const PAGE: u64 = 1_000;
const PAGES: u64 = 200;

/// What is compared.
pub(crate) const STORES: [&str; 3] = ["SQLite", "PostgreSQL", "ClickHouse"];

const PRODUCER: ProducerId = ProducerId([7; 16]);

/// A store and what it runs on.
struct Site {
    store: Arc<dyn LogStore>,
    disk: Disk,
}

/// Where its bytes are counted.
enum Disk {
    Sqlite(tempfile::TempDir),
    Postgres(Database, #[allow(dead_code, reason = "lives as long as its database")] PostgresServer),
    Clickhouse(Engine),
}

/// Measures one after the other.
pub(crate) async fn compare(lines: u64) -> Result<()> {
    ensure!(
        lines >= TASKS * BATCH && lines.is_multiple_of(TASKS * BATCH),
        "--rows must be a multiple of {}",
        TASKS * BATCH
    );
    let mut table = Vec::new();
    for name in STORES {
        let site = Site::of(name).await?;
        let rate = site.fill(name, lines).await?;
        let pages = site.read_pages(lines).await?;
        site.store.close().await;
        let bytes = site.bytes(lines).await? as f64 / lines as f64;
        let ms = |quantile: f64| pages.value_at_quantile(quantile) as f64 / 1e6;
        table.push((name, format!("{rate:>10.0} {bytes:>12.0} {:>12.2} {:>10.2}", ms(0.5), ms(0.99))));
    }
    say(&format!("{lines} lines of {TASKS} tasks, in batches of {BATCH}; pages of {PAGE} lines anywhere in them, ms"));
    row("", "inserted/s   bytes/line     page p50        p99");
    for (name, figures) in &table {
        row(name, figures);
    }
    Ok(())
}

impl Site {
    async fn of(name: &str) -> Result<Self> {
        let (store, disk): (Arc<dyn LogStore>, _) = match name {
            "SQLite" => {
                let folder = tempfile::tempdir()?;
                let options = SqliteOptions::new(folder.path().join("bench.db"));
                (Arc::new(SqliteStore::open(options).await?), Disk::Sqlite(folder))
            }
            "PostgreSQL" => {
                let server = PostgresServer::start().await?;
                let database = server.database().await?;
                let store = PostgresStore::open(PostgresOptions::new(database.url())).await?;
                (Arc::new(store), Disk::Postgres(database, server))
            }
            _ => {
                let engine = Engine::start().await?;
                let store = ClickhouseStore::open(ClickhouseOptions::new(engine.url(), "bench")).await?;
                (Arc::new(store), Disk::Clickhouse(engine))
            }
        };
        store.migrate().await?;
        Ok(Self { store, disk })
    }

    /// Returns lines per second.
    async fn fill(&self, name: &str, lines: u64) -> Result<f64> {
        let (mut spent, mut done) = (Duration::ZERO, 0);
        while done < lines {
            let number = done / BATCH;
            let (task, first) = (task(number % TASKS)?, number / TASKS * BATCH + 1);
            let records = records(first)?;
            let start = Instant::now();
            self.store.insert(&[TaskLines { task, records: &records }]).await?;
            spent += start.elapsed();
            done += BATCH;
            if done % (lines / 10) < BATCH {
                progress(&format!("{name}: {done} of {lines} lines, {:.0}/s", done as f64 / spent.as_secs_f64()));
            }
        }
        Ok(lines as f64 / spent.as_secs_f64())
    }

    /// Pages at places all over.
    async fn read_pages(&self, lines: u64) -> Result<Histogram<u64>> {
        let mut times = Histogram::new(3)?;
        for _ in 0..PAGES {
            let from = fastrand::u64(1..=lines / TASKS - PAGE + 1);
            let task = task(fastrand::u64(0..TASKS))?;
            let query = ReadQuery::forward(from, from + PAGE - 1, usize::try_from(PAGE)?);
            let start = Instant::now();
            let page = self.store.read(&task, &query).await?;
            times.record(u64::try_from(start.elapsed().as_nanos())?)?;
            ensure!(page.records.len() as u64 == PAGE, "a page of {} lines", page.records.len());
        }
        Ok(times)
    }

    /// Once the store is closed, and without what it writes ahead of its tables, which does not grow with them.
    async fn bytes(&self, lines: u64) -> Result<u64> {
        match &self.disk {
            Disk::Sqlite(folder) => Ok(std::fs::metadata(folder.path().join("bench.db"))?.len()),
            Disk::Postgres(database, _) => {
                let mut conn = database.connect().await?;
                let sql = "SELECT pg_database_size(current_database())";
                let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await?;
                Ok(u64::try_from(bytes)?)
            }
            Disk::Clickhouse(engine) => {
                let sql = "SELECT sum(bytes_on_disk), sumIf(rows, table = 'task_logs') FROM system.parts
                    WHERE database = 'bench' AND active";
                let answer = reqwest::Client::new().post(engine.url()).body(sql).send().await?.error_for_status()?;
                let answer = answer.text().await?;
                let (bytes, rows) = answer.trim().split_once('\t').context("not two columns")?;
                ensure!(rows.parse::<u64>()? == lines, "{rows} rows of {lines}");
                Ok(bytes.parse()?)
            }
        }
    }
}

fn task(number: u64) -> Result<TaskKey> {
    TaskKey::new("", &format!("bench-{number}")).context("a name that is one")
}

/// Lines as a training script prints them: alike, and never the same.
fn records(first: u64) -> Result<Vec<LogRecord>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (created_at_ms, start_ns) = (i64::try_from(now.as_millis())?, i64::try_from(now.as_nanos())?);
    let line = |offset: u64| {
        let text = format!(
            "step {offset} of 4000000: loss {:.6}, accuracy {:.4}, lr 3.0e-4, {:.1} ms a batch, {} MiB on gpu:{}, rank {}",
            fastrand::f64() * 3.0,
            fastrand::f64(),
            80.0 + 40.0 * fastrand::f64(),
            fastrand::u32(18_000..24_000),
            offset % 8,
            fastrand::u32(0..64),
        );
        LogRecord {
            offset,
            epoch: 1,
            producer: PRODUCER,
            seq: offset,
            time_ns: start_ns + (offset - first) as i64 * 100_000,
            created_at_ms,
            stream: Stream::Stdout,
            level: 0,
            message: text.into(),
            fields: bytes::Bytes::new(),
            update_id: 0,
            continued: false,
            no_newline: false,
        }
    };
    Ok((first..first + BATCH).map(line).collect())
}

/// The settings of a server over this store, and what has to live as long.
pub(crate) async fn settings(
    name: &str,
    folder: &Path,
) -> Result<(Vec<(&'static str, String)>, Box<dyn std::any::Any>)> {
    let driver = |name: &str| ("logging.storage_driver", name.to_owned());
    Ok(match name {
        "SQLite" => {
            (vec![driver("sqlite"), ("sqlite.path", folder.join("bench.db").display().to_string())], Box::new(()))
        }
        "PostgreSQL" => {
            let server = PostgresServer::start().await?;
            let database = server.database().await?;
            (
                vec![driver("postgres"), ("postgres.url", format!("\"{}\"", database.url()))],
                Box::new((database, server)),
            )
        }
        _ => {
            let engine = Engine::start().await?;
            (vec![driver("clickhouse"), ("clickhouse.hosts", format!("[{}]", engine.url()))], Box::new(engine))
        }
    })
}
