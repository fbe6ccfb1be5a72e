//! Servers that die, freeze, or are restarted.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::site::Site;
use crate::wait::PATIENCE;

/// What a server names its moments: see `fail_point.rs` of the server.
const FAIL_POINT: &str = "FLOWFORGE_FAIL_POINT";

/// SIGKILL, at random moments of the store's rhythm.
pub(super) async fn killed(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for round in 0..4 {
        sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        let server = round % site.servers.len();
        site.servers[server].kill9()?;
        site.servers[server].restart().await?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// Dies at an exact moment, after a random number of passages.
pub(super) async fn killed_at(site: &mut Site, point: &str) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for round in 0..3 {
        let number = round % site.servers.len();
        let server = &mut site.servers[number];
        server.terminate(PATIENCE).await?;
        server.set_env(FAIL_POINT, Some(&format!("{point}:{}", fastrand::u32(1..12))));
        let died = match server.restart().await {
            Ok(()) => {
                // Producers that went to another server meanwhile are sent back.
                let others = site.ways.iter().enumerate().filter(|(other, _)| *other != number);
                others.for_each(|(_, way)| way.cut());
                site.servers[number].exited(PATIENCE).await?.to_string()
            }
            // So soon that nobody saw it serve.
            Err(error) => error.to_string(),
        };
        ensure!(died.contains("SIGABRT"), "{point}: {died}");
        let server = &mut site.servers[number];
        server.set_env(FAIL_POINT, None);
        server.restart().await?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// Longer than the hold on its part of the queue; somebody else stores that meanwhile, and then both may.
pub(super) async fn frozen(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for server in &site.servers {
        server.signal(Signal::STOP)?;
        sleep(Duration::from_secs(4)).await;
        server.signal(Signal::CONT)?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// SIGTERM, one after the other.
pub(super) async fn rolling_restart(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..2 {
        for number in 0..site.servers.len() {
            sleep(Duration::from_millis(fastrand::u64(0..400))).await;
            let status = site.servers[number].terminate(Duration::from_secs(20)).await?;
            ensure!(status.success(), "server {number} ended with {status}");
            site.servers[number].restart().await?;
            longest = longest.max(site.recovered().await?);
        }
    }
    Ok(longest)
}
