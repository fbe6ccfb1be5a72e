//! What operators' monitoring reads at `GET /metrics`: the OpenMetrics text.
//!
//! One value, shared by whoever has something to tell. What is a state and not a count (the queue, ages) is looked at when
//! somebody asks.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::broker::QueueSize;

/// What the text is, for the header of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds. A line takes some milliseconds on a well server, and no reader waits for more than ten seconds.
const LATENCY_BUCKETS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

type Seconds = Gauge<f64, AtomicU64>;

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Told by the canary.
    pub canary: CanaryMetrics,
    queue_lines: Gauge,
    queue_bytes: Gauge,
    oldest_age: Family<[(&'static str, &'static str); 1], Seconds>,
    store: &'static str,
    /// When the oldest stored row was stored, milliseconds since 1970.
    oldest_ms: Mutex<Option<i64>>,
}

/// What the canary found.
#[derive(Debug)]
pub struct CanaryMetrics {
    /// Lines printed.
    pub sent: Counter,
    /// Lines seen.
    pub seen: Counter,
    /// Lines that did not come.
    pub lost: Counter,
    /// Lines that came twice.
    pub duplicate: Counter,
    /// Lines that came after a later one.
    pub out_of_order: Counter,
    /// From print to the reader.
    pub latency: Histogram,
    unseen: Seconds,
}

/// What is looked at when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// What waits for the store.
    pub queued: QueueSize,
    /// The age of the canary's oldest line that is not seen.
    pub unseen: Duration,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

impl Metrics {
    /// `store` names the kind of store; a process without a canary has no metrics of one.
    pub fn new(store: &'static str, canary: bool) -> Self {
        let mut registry = Registry::with_prefix("flowforge");
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs; after an update all servers should say the same", info);
        let (queue_lines, queue_bytes) = (Gauge::default(), Gauge::default());
        let lines = "Lines that this process has taken and the store has not; if it grows, the store is slow or away";
        registry.register_with_unit("queue", lines, Unit::Other("lines".to_owned()), queue_lines.clone());
        let bytes = "The same in bytes; at queue.max_bytes producers are made to wait";
        registry.register_with_unit("queue", bytes, Unit::Bytes, queue_bytes.clone());
        let oldest_age = Family::default();
        let age = "Age of the oldest stored line, from the last retention pass of this process; if it is more than a day \
                   above retention.days, retention fails: see the server's log";
        registry.register_with_unit("oldest_row_age", age, Unit::Seconds, oldest_age.clone());
        let mut untold = Registry::default();
        let canary = CanaryMetrics::new(if canary { &mut registry } else { &mut untold });
        Self { registry, canary, queue_lines, queue_bytes, oldest_age, store, oldest_ms: Mutex::new(None) }
    }

    /// Retention has looked: when the oldest row that is left was stored. `None`: there is none.
    pub fn oldest_row(&self, oldest_ms: Option<i64>) {
        *self.oldest_ms.lock().unwrap_or_else(PoisonError::into_inner) = oldest_ms;
    }

    /// Everything, as text.
    pub fn render(&self, now: Now) -> String {
        self.queue_lines.set(i64::try_from(now.queued.rows).unwrap_or(i64::MAX));
        self.queue_bytes.set(i64::try_from(now.queued.bytes).unwrap_or(i64::MAX));
        self.canary.unseen.set(now.unseen.as_secs_f64());
        let labels = [("store", self.store)];
        if let Some(oldest_ms) = *self.oldest_ms.lock().unwrap_or_else(PoisonError::into_inner) {
            let age_ms = u64::try_from(now.now_ms.saturating_sub(oldest_ms)).unwrap_or(0);
            self.oldest_age.get_or_create(&labels).set(Duration::from_millis(age_ms).as_secs_f64());
        } else {
            self.oldest_age.remove(&labels);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to memory cannot fail");
        text
    }
}

impl CanaryMetrics {
    fn new(registry: &mut Registry) -> Self {
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(format!("canary_{name}"), help, counter.clone());
            counter
        };
        let sent =
            counter("sent", "Lines that the canary printed; if it stands still, nothing else here says anything");
        let seen = counter("seen", "Lines that the canary's reader was shown, each counted once");
        let lost =
            counter("lost", "Lines that never came; must be 0, each is a broken promise: keep the logs, report it");
        let duplicate = counter("duplicate", "Lines shown twice without a rollback; must be 0, as for lost");
        let out_of_order = counter("out_of_order", "Lines shown after a later one; must be 0, as for lost");
        let (latency, unseen) = (Histogram::new(LATENCY_BUCKETS), Seconds::default());
        let help = "From print to reader; if it grows, look at the processor, Redis, and flowforge_queue_lines";
        registry.register_with_unit("canary_latency", help, Unit::Seconds, latency.clone());
        let help = "Age of the oldest line not seen yet; above canary.fail_after readiness fails: the broker or this server \
                    stands still";
        registry.register_with_unit("canary_unseen", help, Unit::Seconds, unseen.clone());
        Self { sent, seen, lost, duplicate, out_of_order, latency, unseen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_units_and_states_are_of_the_moment() {
        let metrics = Metrics::new("sqlite", true);
        metrics.canary.lost.inc();
        metrics.canary.latency.observe(0.004);
        metrics.oldest_row(Some(1_000));
        let now = Now { queued: QueueSize { rows: 3, bytes: 400 }, unseen: Duration::from_millis(1500), now_ms: 3_500 };
        let text = metrics.render(now);
        for line in [
            concat!("flowforge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "flowforge_queue_lines 3",
            "flowforge_queue_bytes 400",
            "flowforge_oldest_row_age_seconds{store=\"sqlite\"} 2.5",
            "flowforge_canary_lost_total 1",
            "flowforge_canary_sent_total 0",
            "flowforge_canary_latency_seconds_bucket{le=\"0.005\"} 1",
            "flowforge_canary_latency_seconds_bucket{le=\"0.002\"} 0",
            "flowforge_canary_unseen_seconds 1.5",
            "# UNIT flowforge_oldest_row_age_seconds seconds",
        ] {
            assert!(text.lines().any(|is| is == line), "{line:?} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_is_not_known_here_is_not_told() {
        let metrics = Metrics::new("postgres", false);
        metrics.oldest_row(Some(1));
        assert!(metrics.render(Now::default()).contains("{store=\"postgres\"} 0"), "a clock that went back");
        metrics.oldest_row(None);
        let text = metrics.render(Now::default());
        assert!(!text.contains("canary") && !text.contains("store="), "{text}");
    }
}
