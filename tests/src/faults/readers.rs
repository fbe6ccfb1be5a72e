//! Those who do not read.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::site::{Site, TASKS};

const VIEWERS: usize = 500;

/// They ask for everything and take nothing.
pub(super) async fn stalled(site: &mut Site) -> Result<Duration> {
    let server = &site.servers[0];
    let before = server.rss()?;
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
    let grown = server.rss()?.saturating_sub(before);
    eprintln!("{VIEWERS} viewers that do not read: the server grew by {} KiB", grown >> 10);
    // Half a MiB each: what may be under way to one of them, twice.
    ensure!(grown < (VIEWERS as u64) << 19, "grown by {grown} bytes");
    drop(stalled);
    Ok(longest.max(site.recovered().await?))
}
