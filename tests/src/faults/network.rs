//! The way from producers to servers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowforge_test_services::proxy::Mode;
use tokio::time::sleep;

use crate::site::Site;
use crate::wait::{self, PATIENCE};

/// Nothing passes and nobody is told. Producers go elsewhere, and what they had said arrives after all.
pub(super) async fn half_open(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..2 {
        // Earlier faults may have driven everybody to one server.
        let way = site.ways.iter().max_by_key(|way| way.connections()).context("a site has a way")?;
        let before = site.welcomes();
        way.set(Mode::Hold);
        // With one server there is only one way, and it has to open again before anybody comes back.
        if site.ways.len() > 1 {
            wait::until("producers to go elsewhere", PATIENCE, async || Ok((site.welcomes() > before).then_some(())))
                .await?;
        } else {
            sleep(Duration::from_secs(6)).await;
        }
        way.set(Mode::Pass);
        longest = longest.max(site.recovered().await?);
        ensure!(site.welcomes() > before, "no stream was given up");
    }
    Ok(longest)
}

/// After any number of bytes, also in the middle of a message's.
pub(super) async fn cut_in_mid_frame(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for round in 0..12 {
        let way = &site.ways[round % site.ways.len()];
        let before = site.welcomes();
        way.cut_after(fastrand::u32(1..20_000));
        // The other way has nobody on it, perhaps.
        let cut = wait::until("a connection to be cut", Duration::from_secs(2), async || {
            Ok((site.welcomes() > before).then_some(()))
        });
        if cut.await.is_err() {
            way.cut();
        }
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// Slower than the producers, for a while.
pub(super) async fn slow(site: &mut Site) -> Result<Duration> {
    let before = total_rss(site)?;
    for way in &site.ways {
        way.set(Mode::Slow(20_000));
    }
    sleep(Duration::from_secs(4)).await;
    let grown = total_rss(site)?.saturating_sub(before);
    ensure!(site.unacked() > 1000, "the link was not slow: {} lines wait", site.unacked());
    for way in &site.ways {
        way.set(Mode::Pass);
    }
    ensure!(grown < 64 << 20, "the servers grew by {grown} bytes");
    site.recovered().await
}

fn total_rss(site: &Site) -> Result<u64> {
    site.servers.iter().map(crate::server::Server::rss).sum()
}
