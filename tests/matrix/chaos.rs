//! Random faults, one after the other on one site, then the verdict; then the next site.
//!
//! What happens, and where, follows from the seed. When exactly it happens does not: the processes have a life of their own.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowforge_tests::checker::Allowed;
use flowforge_tests::faults;
use flowforge_tests::site::{Pair, Site};

/// Faults of one site.
const FAULTS: usize = 6;

/// `true`: all survived. Stops at the first that did not, and says how to repeat it.
pub(crate) async fn run(minutes: u64, seed: Option<u64>, pair: &str) -> Result<bool> {
    let pairs: Vec<Pair> = Pair::ALL.into_iter().filter(|known| known.to_string().contains(pair)).collect();
    ensure!(!pairs.is_empty(), "there is no such pairing");
    let (mut out, until) = (std::io::stdout(), Instant::now() + Duration::from_secs(minutes * 60));
    let mut seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let (mut sites, mut rows) = (0, 0);
    while sites == 0 || Instant::now() < until {
        fastrand::seed(seed);
        match episode(&pairs, &mut out).await {
            Ok(stored) => rows += stored,
            Err(error) => {
                writeln!(out, "FAILED: {error:#}\nagain: --seed {seed}")?;
                return Ok(false);
            }
        }
        sites += 1;
        seed += 1;
    }
    writeln!(out, "{sites} sites survived {} faults, {rows} rows: none lost, twice or out of order", sites * FAULTS)?;
    Ok(true)
}

async fn episode(pairs: &[Pair], out: &mut impl std::io::Write) -> Result<usize> {
    let pair = pairs[fastrand::usize(..pairs.len())];
    let fitting: Vec<_> = faults::ALL.iter().filter(|fault| (fault.applies)(pair)).collect();
    let chosen: Vec<_> = (0..FAULTS).map(|_| fitting[fastrand::usize(..fitting.len())]).collect();
    let names: Vec<&str> = chosen.iter().map(|fault| fault.name).collect();
    writeln!(out, "{pair}: {}", names.join(", "))?;
    let mut site = Site::under_load(pair, faults::small_queue()).await?;
    for fault in chosen {
        (fault.inject)(&mut site).await.with_context(|| format!("{} on {pair}", fault.name))?;
    }
    let report =
        site.check(Allowed::Rollback).await.with_context(|| format!("after {} on {pair}", names.join(", ")))?;
    Ok(report.rows)
}
