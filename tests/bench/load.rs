//! Producers: the real client, one per task.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowforge_client::{Client, ClientConfig, Entry, Overflow, Status, Stream};
use flowforge_tests::server::Server;

/// Enough for any scenario; none should reach it.
const PATIENCE: Duration = Duration::from_mins(5);

/// The name of the `index`-th task.
pub(crate) fn task(index: usize) -> String {
    format!("bench-{index}")
}

/// Nanoseconds since the first call: what a line carries, and a viewer subtracts.
pub(crate) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Connects one producer per task, and waits until each is welcome.
pub(crate) async fn start(server: &Server, tasks: usize) -> Result<Vec<Client>> {
    let mut producers = Vec::new();
    for index in 0..tasks {
        let mut config = ClientConfig::new(server.grpc_url(), task(index));
        config.overflow = Overflow::Wait;
        config.max_buffer_bytes = (256 << 20) / tasks.clamp(8, 256);
        producers.push(Client::start_on(config, &tokio::runtime::Handle::current())?);
    }
    for producer in &producers {
        ensure!(producer.wait_welcome_async(PATIENCE).await, "no welcome: {:?}", producer.stats().last_error);
    }
    Ok(producers)
}

/// Sends at a steady rate, task after task. Returns how many lines each task got.
pub(crate) async fn paced(producers: &[Client], rate: usize, length: Duration, line_bytes: usize) -> Vec<u64> {
    let mut sent = vec![0; producers.len()];
    let started = Instant::now();
    let (mut count, mut next) = (0_u64, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let all = length.as_secs() * rate as u64;
    while count < all {
        ticks.tick().await;
        let due = all.min((started.elapsed().as_secs_f64() * rate as f64) as u64);
        while count < due {
            producers[next].push_async(line(line_bytes)).await;
            sent[next] += 1;
            count += 1;
            next = (next + 1) % producers.len();
        }
    }
    sent
}

/// Sends `lines` in all, every producer as fast as it is let, and waits until all are stored.
pub(crate) async fn flat_out(producers: &[Client], lines: usize, line_bytes: usize) -> Result<()> {
    let each = lines / producers.len();
    let sends = producers.iter().map(|producer| async move {
        for sent in 0..each {
            producer.push_async(line(line_bytes)).await;
            if sent % 256 == 255 {
                tokio::task::yield_now().await;
            }
        }
        producer.flush_async(PATIENCE).await
    });
    let stored = futures_util::future::join_all(sends).await;
    ensure!(stored.iter().all(|stored| *stored), "not everything was stored within {PATIENCE:?}");
    Ok(())
}

/// Ends every task.
pub(crate) async fn close(producers: Vec<Client>) -> Result<()> {
    let ends = producers.iter().map(|producer| producer.close_async(Status::Succeeded, Some(0), PATIENCE));
    let outcomes = futures_util::future::join_all(ends).await;
    ensure!(outcomes.iter().all(flowforge_client::CloseOutcome::is_complete), "a producer could not close");
    Ok(())
}

fn line(bytes: usize) -> Entry {
    let mut text = format!("t={:020} ", now_ns()).into_bytes();
    text.resize(bytes.max(text.len()), b'x');
    Entry::new(Stream::Stdout, text)
}
