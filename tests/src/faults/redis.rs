//! The broker's Redis.

use std::time::Duration;

use anyhow::Result;
use flowforge_test_services::proxy::Mode;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::site::Site;
use crate::wait::{self, PATIENCE};

/// SIGKILL, and it comes back with what it had written.
pub(super) async fn killed(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..2 {
        site.redis()?.0.kill9()?;
        sleep(Duration::from_millis(fastrand::u64(0..500))).await;
        site.redis()?.0.restart().await?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// Everything is gone, at once.
pub(super) async fn wiped(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        sleep(Duration::from_millis(fastrand::u64(0..500))).await;
        site.redis()?.0.command(&["FLUSHALL"])?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// It answers nobody; then nobody reaches it; then its process stands still.
pub(super) async fn stalls(site: &mut Site) -> Result<Duration> {
    site.redis()?.0.command(&["CLIENT", "PAUSE", "3000", "ALL"])?;
    let mut longest = site.recovered().await?;

    let (_, way) = site.redis()?;
    way.set(Mode::Hold);
    sleep(Duration::from_secs(3)).await;
    way.set(Mode::Pass);
    longest = longest.max(site.recovered().await?);

    site.redis()?.0.signal(Signal::STOP)?;
    sleep(Duration::from_secs(3)).await;
    site.redis()?.0.signal(Signal::CONT)?;
    Ok(longest.max(site.recovered().await?))
}

/// It refuses to write, until it is given more.
pub(super) async fn out_of_memory(site: &mut Site) -> Result<Duration> {
    site.redis()?.0.command(&["CONFIG", "SET", "maxmemory", "1mb"])?;
    wait::until("lines to wait with their producers", PATIENCE, async || Ok((site.unacked() > 2000).then_some(())))
        .await?;
    site.redis()?.0.command(&["CONFIG", "SET", "maxmemory", "0"])?;
    site.recovered().await
}

/// Viewers are complete again without asking anybody.
pub(super) async fn subscription_cut(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        site.redis()?.0.command(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}
