//! All rows of a task, read back: through HTTP, and straight from the SQLite file.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Row as _};

use crate::line::Row;

/// Rows of a page.
const PAGE: usize = 5000;

/// A task's rows and where they begin and end.
#[derive(Debug, Clone, Default)]
pub struct StoreRows {
    /// First offset kept.
    pub floor: u64,
    /// Last offset.
    pub end: u64,
    /// In the order in which they were read.
    pub rows: Vec<Row>,
    /// Ascending offsets of rows of the server's own, with their JSON.
    pub system: Vec<(u64, String)>,
}

/// One page of `GET …/logs`.
#[derive(Debug, Deserialize)]
pub struct Page<'a> {
    /// Lines, each as it came.
    #[serde(borrow)]
    pub lines: Vec<&'a RawValue>,
    /// First offset kept.
    pub floor: u64,
    /// Last offset.
    pub end: u64,
    /// Where the next page begins.
    pub next_from: Option<u64>,
}

/// Reads everything, page by page.
pub async fn over_http(task_url: &str) -> Result<StoreRows> {
    let (http, mut all, mut from) = (reqwest::Client::new(), StoreRows::default(), 1);
    loop {
        let url = format!("{task_url}/logs?from={from}&limit={PAGE}");
        let body = http.get(&url).send().await?.error_for_status()?.text().await?;
        let page: Page<'_> = serde_json::from_str(&body).context("not a page of lines")?;
        (all.floor, all.end) = (page.floor, page.end);
        for line in &page.lines {
            let row = Row::parse(line.get())?;
            if row.producer == 0 || line.get().contains(r#""stream":"system""#) {
                all.system.push((row.offset, line.get().to_owned()));
            }
            all.rows.push(row);
        }
        let Some(next) = page.next_from else { return Ok(all) };
        ensure!(next > from, "next_from {next} does not go on from {from}");
        from = next;
    }
}

/// A row as the SQLite file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Place in the task.
    pub offset: u64,
    /// Of its memory.
    pub epoch: u64,
    /// Who sent it.
    pub producer: u128,
    /// Its number.
    pub seq: u64,
    /// When it was given its place, ms.
    pub created_at_ms: i64,
    /// The exact bytes.
    pub message: Vec<u8>,
}

/// A connection of our own to a database, which fails at once where it would have to wait.
pub async fn open(database: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(database).busy_timeout(std::time::Duration::from_secs(20));
    Ok(options.connect().await?)
}

/// Changes rows behind the server's back; how many.
pub async fn alter(database: &Path, sql: &'static str) -> Result<u64> {
    let mut db = open(database).await?;
    Ok(sqlx::query(sql).execute(&mut db).await?.rows_affected())
}

/// Reads the file; the server may run or not.
pub async fn from_file(database: &Path, task: &str) -> Result<Vec<FileRow>> {
    let mut db = open(database).await?;
    let sql = r#"SELECT l."offset", l.epoch, l.producer, l.seq, l.created_at_ms, coalesce(l.raw, CAST(l.message AS BLOB))
        FROM lines l JOIN tasks t USING (task_key) WHERE t.tenant = 'default' AND t.task_id = ? ORDER BY l."offset""#;
    let rows = sqlx::query(sql).bind(task).fetch_all(&mut db).await?;
    rows.iter()
        .map(|row| {
            let producer: Vec<u8> = row.try_get(2)?;
            Ok(FileRow {
                offset: u64::try_from(row.try_get::<i64, _>(0)?)?,
                epoch: u64::try_from(row.try_get::<i64, _>(1)?)?,
                producer: u128::from_be_bytes(producer.as_slice().try_into()?),
                seq: u64::try_from(row.try_get::<i64, _>(3)?)?,
                created_at_ms: row.try_get(4)?,
                message: row.try_get(5)?,
            })
        })
        .collect()
}

/// The write lock of a database, held until it is released.
#[derive(Debug)]
pub struct WriteLock(SqliteConnection);

impl WriteLock {
    /// Takes it; waits for whoever has it.
    pub async fn take(database: &Path) -> Result<Self> {
        let mut db = open(database).await?;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut db).await?;
        Ok(Self(db))
    }

    /// Gives it back.
    pub async fn release(mut self) -> Result<()> {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await?;
        Ok(())
    }
}
