//! Those who do not read.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::memory::Curve;
use crate::site::{Site, TASKS};

const VIEWERS: usize = 500;

/// What the server keeps of stored pages for all of them, bytes.
const SHARED: u64 = 32 << 20;

/// What one costs beyond that: its connection, which keeps up to 16 writes of 8 KiB that no other reader shares.
const OWN: u64 = 160 << 10;

/// They ask for everything and take nothing.
pub(super) async fn stalled(site: &mut Site) -> Result<Duration> {
    let server = &site.servers[0];
    let curve = Curve::of(server.pid())?;
    let stalled = try_join_all((0..VIEWERS).map(async |number| {
        let mut socket = TcpStream::connect(server.http_address()).await?;
        let task = TASKS[number % TASKS.len()];
        let request = format!("GET /api/v1/tasks/{task}/logs/stream?from=1 HTTP/1.1\r\nHost: flowforge\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        anyhow::Ok(socket)
    }))
    .await?;
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        sleep(Duration::from_secs(1)).await;
        longest = longest.max(site.recovered().await?);
    }
    let grown = curve.grown(&format!("stalled_viewers-{}", site.pair))?;
    ensure!(grown < SHARED + VIEWERS as u64 * OWN, "grown by {grown} bytes");
    drop(stalled);
    Ok(longest.max(site.recovered().await?))
}
