//! What must be survived: each fault is done to a [`Site`] under load, and the checker says what became of it.
//!
//! A fault returns once it is over and lines flow again; the longest that this took is its time to recovery. Random choices come
//! from the thread's generator, so that a seed repeats them.
//!
//! The numbers that are not here are of producers and of retention, and have tests of their own:
//!
//! | number | fault | test |
//! |---|---|---|
//! | 5 | a producer without a spool is killed | `sdk-python/tests/test_delivery.py`, the lease in `tests/e2e/protocol.rs` |
//! | 6 | a producer with a spool is killed | `tests/e2e/spool.rs`, `sdk-python/tests/test_spool.py` |
//! | 7 | a producer forks | `sdk-python/tests/test_fork.py` |
//! | 21 | retention passes a reader | `tests/e2e/http.rs`, `tests/e2e/retention.rs` |
//! | 25 | a spool's end is corrupt | `tests/e2e/spool.rs`, `client/src/spool/fuzz` |

mod clock;
mod network;
mod readers;
mod redis;
mod server;
mod store;

pub use store::small_queue;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::LocalBoxFuture;

use crate::checker::Allowed;
use crate::server::Overrides;
use crate::site::{BrokerKind, Pair, Report, Site, StoreKind};

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its number: names change, numbers do not.
    pub number: u8,
    /// For names of tests and for `--only`.
    pub name: &'static str,
    /// Where it can happen.
    pub applies: fn(Pair) -> bool,
    /// What viewers may be told because of it.
    pub allowed: fn(Pair) -> Allowed,
    /// What the servers need for it.
    pub settings: fn() -> Overrides,
    /// Does it, and waits until it is over. Gives the time to recovery.
    pub inject: Inject,
}

type Inject = for<'a> fn(&'a mut Site) -> LocalBoxFuture<'a, Result<Duration>>;

impl Fault {
    /// Everywhere, with the defaults, and unnoticed by viewers.
    const fn new(number: u8, name: &'static str, inject: Inject) -> Self {
        let settings = Overrides::none;
        Self { number, name, applies: |_| true, allowed: |_| Allowed::Undisturbed, settings, inject }
    }

    const fn only(self, applies: fn(Pair) -> bool) -> Self {
        Self { applies, ..self }
    }

    const fn may(self, allowed: fn(Pair) -> Allowed) -> Self {
        Self { allowed, ..self }
    }

    const fn set(self, settings: fn() -> Overrides) -> Self {
        Self { settings, ..self }
    }
}

/// How a fault ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The longest from the end of the fault until all that was captured by then was stored and shown.
    pub recovery: Duration,
    /// From start to verdict.
    pub took: Duration,
    /// What was checked.
    pub report: Report,
}

/// Starts a site, does this to it, and checks.
pub async fn survive(fault: &Fault, pair: Pair) -> Result<Outcome> {
    let since = Instant::now();
    let mut site = Site::under_load(pair, (fault.settings)()).await?;
    let recovery = (fault.inject)(&mut site).await.with_context(|| format!("{} on {pair}", fault.name))?;
    let report = site.check((fault.allowed)(pair)).await.with_context(|| format!("{} on {pair}", fault.name))?;
    Ok(Outcome { recovery, took: since.elapsed(), report })
}

fn with_redis(pair: Pair) -> bool {
    pair.0 == BrokerKind::Redis
}

fn with_sqlite(pair: Pair) -> bool {
    pair.1 == StoreKind::Sqlite
}

fn with_a_way_to_the_store(pair: Pair) -> bool {
    pair.1 != StoreKind::Sqlite
}

fn with_postgres(pair: Pair) -> bool {
    pair.1 == StoreKind::Postgres
}

/// What a server had only in its memory is taken back when it dies; Redis outlives it.
fn rollback_of_memory(pair: Pair) -> Allowed {
    if with_redis(pair) { Allowed::Undisturbed } else { Allowed::Rollback }
}

fn rollback(_: Pair) -> Allowed {
    Allowed::Rollback
}

/// In the order of the table.
pub const ALL: &[Fault] = &[
    Fault::new(1, "server_killed", |site| Box::pin(server::killed(site))).may(rollback_of_memory),
    Fault::new(2, "killed_between_append_and_ack", |site| Box::pin(server::killed_at(site, "Appended")))
        .may(rollback_of_memory),
    Fault::new(3, "killed_between_commit_and_acknowledgement", |site| Box::pin(server::killed_at(site, "Committed")))
        .may(rollback_of_memory),
    Fault::new(4, "worker_frozen_past_its_hold", |site| Box::pin(server::frozen(site))).only(with_redis),
    Fault::new(8, "half_open_stream", |site| Box::pin(network::half_open(site))),
    Fault::new(9, "connection_cut_in_mid_frame", |site| Box::pin(network::cut_in_mid_frame(site))),
    Fault::new(10, "slow_link", |site| Box::pin(network::slow(site))),
    Fault::new(11, "redis_killed_and_restarted", |site| Box::pin(redis::killed(site))).only(with_redis).may(rollback),
    Fault::new(12, "redis_wiped", |site| Box::pin(redis::wiped(site))).only(with_redis).may(rollback),
    Fault::new(13, "redis_stalls", |site| Box::pin(redis::stalls(site))).only(with_redis),
    Fault::new(14, "redis_out_of_memory", |site| Box::pin(redis::out_of_memory(site))).only(with_redis),
    Fault::new(15, "subscription_cut", |site| Box::pin(redis::subscription_cut(site))).only(with_redis),
    Fault::new(16, "postgres_backends_killed", |site| Box::pin(store::backends_killed(site))).only(with_postgres),
    Fault::new(17, "store_away", |site| Box::pin(store::away(site))).set(store::small_queue),
    Fault::new(18, "commit_outcome_unknown", |site| Box::pin(store::answers_lost(site))).only(with_a_way_to_the_store),
    Fault::new(19, "disk_full", |site| Box::pin(store::disk_full(site))).only(with_sqlite),
    Fault::new(20, "poison_rows", |site| Box::pin(store::poison(site))),
    Fault::new(22, "clock_jumps", |site| Box::pin(clock::jumps(site))).may(rollback_of_memory),
    Fault::new(23, "five_hundred_viewers_that_do_not_read", |site| Box::pin(readers::stalled(site))),
    Fault::new(24, "rolling_restart", |site| Box::pin(server::rolling_restart(site))),
];
