//! A task of the server's own that prints numbered lines and reads them again, the whole real way: the client crate, gRPC,
//! broker, SSE. What goes wrong there goes wrong for everybody, and is known without anybody complaining.
//!
//! Input: the addresses that this process serves on. Output: metrics, a reason for `/readyz` to say no, and one message in the
//! server's log when that changes.
//!
//! ```text
//!  print ──gRPC──► this server ──SSE──► read
//!    └──────────► checker ◄───────────────┘
//! ```
//!
//! Invariants: the canary never takes the server down and holds nothing without a bound. What it cannot do (begin, connect) is a
//! line that is not seen, so that it never fails in silence.

mod checker;
#[cfg(test)]
mod checker_tests;
mod outstanding;
mod print;
mod read;
mod verdict;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use flowforge_client::Status;
use flowforge_storage::TaskKey;
use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::checker::Checker;
use self::verdict::Verdict;
use crate::broker::Broker;
use crate::config::CanaryConfig;
use crate::metrics::Metrics;
use crate::role::{Role, Roles};

/// How often overdue lines are looked for.
const JUDGE_INTERVAL: Duration = Duration::from_millis(250);

/// How long the end of the task may take when the server goes down. While the store keeps up it takes some milliseconds.
const CLOSING: Duration = Duration::from_secs(1);

/// Whether this process has a canary. One that shares the configuration with others may not have the roles for it: that is no
/// mistake, but somebody may wait for its metrics.
pub fn is_wanted(config: &CanaryConfig, roles: &Roles) -> bool {
    let can = roles.has(Role::Ingest) && roles.has(Role::Tail);
    if config.enabled && !can {
        warn!("canary.enabled is set, but a canary needs the roles ingest and tail in one process: there is none here");
    }
    config.enabled && can
}

/// The canary of this process.
pub struct Canary {
    config: CanaryConfig,
    task: TaskKey,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    grpc_url: String,
    http_url: String,
    http: reqwest::Client,
    /// What every line of this run begins with: those of others, and of runs before, are not its own.
    prefix: String,
    checker: Mutex<Checker>,
    /// What the log has said last: which promises are broken.
    told: Mutex<[bool; 4]>,
    /// The task runs: there is something to read.
    welcomed: SetOnce<()>,
    /// The reader stands at the end of what was there before: printing may begin.
    reading: SetOnce<()>,
    stop: CancellationToken,
}

/// A canary at work.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Canary {
    /// For the server on these addresses.
    pub fn new(
        config: &CanaryConfig,
        grpc: SocketAddr,
        http: SocketAddr,
        broker: &Arc<dyn Broker>,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Arc<Self>> {
        let host = rustix::system::uname();
        let task_id = config.task_id(&host.nodename().to_string_lossy(), grpc.port());
        Ok(Arc::new(Self {
            config: config.clone(),
            task: TaskKey::new("", &task_id)?,
            broker: Arc::clone(broker),
            metrics: Arc::clone(metrics),
            grpc_url: format!("http://{}", reachable(grpc)),
            http_url: format!("http://{}", reachable(http)),
            http: read::http_client().context("cannot make the canary's HTTP client")?,
            prefix: format!("canary {:08x} line ", fastrand::u32(..)),
            checker: Mutex::new(Checker::new(config.fail_after.duration(), Instant::now())),
            told: Mutex::new(Verdict::default().kinds()),
            welcomed: SetOnce::new(),
            reading: SetOnce::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Begins to print and to read. The addresses must be listened on by now.
    pub fn start(self: &Arc<Self>) -> Running {
        info!(task = %self.task, interval = ?self.config.interval, "the canary begins");
        Running { stop: self.stop.clone(), task: tokio::spawn(Arc::clone(self).run()) }
    }

    /// Why the server is not ready, in words; `None` while all is well.
    pub fn problem(&self) -> Option<String> {
        let verdict = self.judge();
        (!verdict.is_well()).then(|| format!("the canary fails: {verdict}"))
    }

    /// The age of the oldest line that is not seen yet.
    pub fn unseen(&self) -> Duration {
        self.with(|checker, now| checker.unseen(now))
    }

    async fn run(self: Arc<Self>) {
        let client = tokio::select! {
            client = print::run(&self) => client,
            () = read::run(&self) => None,
            () = self.watch() => None,
        };
        // Nobody reads any more: a reader would have the server prove the whole log for the end event.
        if let Some(client) = client {
            let outcome = client.close_async(Status::Succeeded, None, CLOSING).await;
            if !outcome.is_complete() {
                warn!(error = ?outcome.error, "the canary's end is not stored in time; its task ends as lost");
            }
        }
    }

    /// Judges also when nobody asks.
    async fn watch(&self) {
        let mut ticks = tokio::time::interval(JUDGE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.judge();
        }
    }

    /// How it stands; the server's log says so when that has changed, whoever asked.
    fn judge(&self) -> Verdict {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = self.with(|checker, now| {
            checker.tick(now);
            checker.verdict(now)
        });
        let before = std::mem::replace(&mut *told, verdict.kinds());
        if before != *told && verdict.is_well() {
            info!(task = %self.task, "the canary is well again");
        } else if before != *told {
            error!(task = %self.task, "the canary fails: {verdict}");
        }
        verdict
    }

    /// Asks or tells the checker; what it counts goes on to the metrics.
    fn with<T>(&self, act: impl FnOnce(&mut Checker, Instant) -> T) -> T {
        let mut checker = self.checker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = checker.counts();
        let result = act(&mut checker, Instant::now());
        let (counts, metrics) = (checker.counts(), &self.metrics.canary);
        metrics.sent.inc_by(counts.sent - before.sent);
        metrics.seen.inc_by(counts.seen - before.seen);
        metrics.lost.inc_by(counts.lost - before.lost);
        metrics.duplicate.inc_by(counts.duplicate - before.duplicate);
        metrics.out_of_order.inc_by(counts.out_of_order - before.out_of_order);
        result
    }
}

impl Running {
    /// Ends its task as succeeded, and returns when that is stored, or after a second.
    pub async fn stop(self) {
        self.stop.cancel();
        // It fails only if the canary panicked, which the log has told.
        let _ = self.task.await;
    }
}

/// Where to connect to what listens here: "everywhere" is no address.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_here() {
        for (listening, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("10.0.0.7:3", "10.0.0.7:3"),
            ("127.0.0.1:4", "127.0.0.1:4"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()), reached.parse().unwrap());
        }
    }

    #[test]
    fn a_canary_needs_both_ends_in_one_process() {
        let on = CanaryConfig { enabled: true, ..CanaryConfig::default() };
        assert!(is_wanted(&on, &Roles::of(&Role::ALL)) && is_wanted(&on, &Roles::of(&[Role::Tail, Role::Ingest])));
        assert!(
            !is_wanted(&on, &Roles::of(&[Role::Ingest, Role::Worker])) && !is_wanted(&on, &Roles::of(&[Role::Tail]))
        );
        assert!(!is_wanted(&CanaryConfig::default(), &Roles::of(&Role::ALL)));
    }
}
