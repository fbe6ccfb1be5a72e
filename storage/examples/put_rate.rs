//! How fast the SQLite store takes task records that all come at once, as after a restart of the broker: `cargo run
//! --release -p flowforge-storage --example put_rate [folder]`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowforge_storage::contract::sample::{key, record};
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{LogStore, SqliteStore, TaskRecord};
use tokio::task::JoinSet;

const PUTS: u64 = 1000;
const ROUNDS: u64 = 5;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let file = Path::new(&folder).join(format!("put-rate-{}.db", std::process::id()));
    let store = Arc::new(SqliteStore::open(SqliteOptions::new(&file)).await?);
    for round in 1..=ROUNDS {
        let start = Instant::now();
        let mut waits = put_all(&store, round).await?;
        let seconds = start.elapsed().as_secs_f64();
        waits.sort_unstable();
        println!(
            "round {round}: {PUTS} puts at once in {seconds:.3} s, {:.0} puts/s; half took {:.0?}, the last {:.0?}",
            PUTS as f64 / seconds,
            waits[waits.len() / 2],
            waits[waits.len() - 1],
        );
    }
    store.close().await;
    for suffix in ["", ".lock"] {
        std::fs::remove_file(format!("{}{suffix}", file.display()))?;
    }
    Ok(())
}

/// How long each put took. The first round makes the tasks, later ones write their records again.
async fn put_all(store: &Arc<SqliteStore>, version: u64) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let mut running = JoinSet::new();
    for n in 0..PUTS {
        let store = Arc::clone(store);
        running.spawn(async move {
            let start = Instant::now();
            let task = key(&format!("task-{n}"));
            store.put_task(&TaskRecord { version, ..record(&task) }).await.map(|()| start.elapsed())
        });
    }
    let mut waits = Vec::new();
    while let Some(done) = running.join_next().await {
        waits.push(done??);
    }
    Ok(waits)
}
