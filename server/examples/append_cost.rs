//! What an append costs Redis: CPU seconds of the server per million lines, by lines a batch.
//!
//! `cargo run --release -p flowforge-server --example append_cost` starts a Redis of its own, without persistence, so that the
//! figures are the script's. `REDIS_URL` names another; its database is used as it is.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use flowforge_server::broker::queue::QueueLimits;
use flowforge_server::broker::redis::{RedisBroker, RedisOptions};
use flowforge_server::broker::{Broker as _, NewLine, ProducerHello};
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{LogStore as _, ProducerId, SqliteStore, Stream, TaskKey};
use flowforge_test_services::redis::{Persistence, Redis, own_url};

/// Producers that append at once, each to a task of its own.
const PRODUCERS: u64 = 16;

/// Message bytes of a line.
const LINE: usize = 110;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn main() -> Result<()> {
    println!("lines a batch     lines/s   redis CPU-s per million lines   round trip");
    for (batch, lines) in [(1, 60_000), (10, 300_000), (100, 1_000_000), (500, 1_000_000)] {
        measure(batch, lines).await?;
    }
    Ok(())
}
#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn measure(batch: u64, lines: u64) -> Result<()> {
    let redis = Redis::start(Persistence::None).await?;
    let url = own_url().unwrap_or_else(|| redis.url());
    let folder = tempfile::tempdir()?;
    let store = Arc::new(SqliteStore::open(SqliteOptions::new(folder.path().join("t.db"))).await?);
    store.migrate().await?;
    let queue = QueueLimits { max_bytes: usize::MAX, max_tenant_bytes: usize::MAX };
    let options = RedisOptions {
        url,
        pubsub_url: String::new(),
        ca_file: std::path::PathBuf::new(),
        shards: 4,
        claim_idle: Duration::from_secs(30),
        worker: false,
        lease: Duration::from_secs(30),
        recent_bytes: 1 << 20,
        max_producers: 10,
        queue,
        patience: Duration::from_secs(10),
    };
    let broker = Arc::new(RedisBroker::start(store, options).await?);
    let mut sessions = Vec::new();
    for number in 0..PRODUCERS {
        sessions.push(broker.open(hello(number)?).await?);
    }
    let (cpu, start) = (cpu_seconds(&redis)?, Instant::now());
    let each = lines / PRODUCERS / batch;
    let running: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            tokio::spawn(async move {
                for round in 0..each {
                    session.append(round * batch + 1, vec![line(); usize::try_from(batch)?]).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for one in running {
        one.await??;
    }
    let (took, sent) = (start.elapsed(), each * batch * PRODUCERS);
    let cost = (cpu_seconds(&redis)? - cpu) / sent as f64 * 1e6;
    let trip = took.div_f64((each * PRODUCERS) as f64) * u32::try_from(PRODUCERS)?;
    println!("{batch:13} {:11.0} {cost:31.1} {trip:>12.0?}", sent as f64 / took.as_secs_f64());
    Ok(())
}

fn cpu_seconds(redis: &Redis) -> Result<f64> {
    let info = redis.command(&["INFO", "cpu"])?;
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).context("no CPU time")?;
        Ok::<f64, anyhow::Error>(line.trim_start_matches(':').trim().parse()?)
    };
    Ok(value("used_cpu_user")? + value("used_cpu_sys")?)
}

fn hello(number: u64) -> Result<ProducerHello> {
    Ok(ProducerHello {
        task: TaskKey::new("", &format!("task-{number}"))?,
        producer: ProducerId(u128::from(number + 1).to_be_bytes()),
        first_unacked_seq: 1,
        owner: true,
        attempt: 0,
        workflow_id: String::new(),
        name: String::new(),
        labels: BTreeMap::new(),
    })
}

fn line() -> NewLine {
    NewLine {
        time_ns: 1_700_000_000_123_456_789,
        stream: Stream::Stdout,
        level: 0,
        message: Bytes::from(vec![b'x'; LINE]),
        fields: Bytes::new(),
        update_id: 0,
        continued: false,
        no_newline: false,
        dropped: None,
    }
}
