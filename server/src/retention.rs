//! Deletes lines by age, for stores that do not do it themselves.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::LogStore;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::clock::{now_ms, rfc3339_ms};
use crate::metrics::Metrics;

/// How often the worker looks. A line may live so much longer than it should.
const CHECK_INTERVAL: Duration = Duration::from_mins(10);

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Which lines are too old.
#[derive(Debug, Clone, Copy)]
pub struct Border {
    /// Lines older than this go.
    pub days: u32,
    /// Only at the end of their UTC day, so that a store that keeps days apart never deletes single lines.
    pub at_midnight: bool,
}

impl Border {
    fn before_ms(self, now_ms: i64) -> i64 {
        let before = now_ms - i64::from(self.days) * DAY_MS;
        if self.at_midnight { before - before.rem_euclid(DAY_MS) } else { before }
    }
}

/// Runs until dropped: first at once, then every ten minutes.
pub async fn run(store: Arc<dyn LogStore>, border: Border, metrics: &Metrics) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match store.delete_before(border.before_ms(now_ms())).await {
            Ok(deleted) => {
                metrics.oldest_row(deleted.oldest_ms);
                let oldest = deleted.oldest_ms.map(rfc3339_ms);
                let age = deleted.oldest_ms.map(|oldest_ms| age(oldest_ms, now_ms()));
                info!(lines = deleted.lines, tasks = deleted.tasks, ?oldest, oldest_age = ?age, "retention done");
            }
            Err(error) => warn!(%error, "retention failed, will try again"),
        }
    }
}

/// To the second: it is for people.
fn age(oldest_ms: i64, now_ms: i64) -> Duration {
    Duration::from_secs(u64::try_from(now_ms - oldest_ms).unwrap_or(0) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_go_only_when_their_last_line_is_too_old() {
        let (noon_of_day_9, border) = (9 * DAY_MS + DAY_MS / 2, Border { days: 7, at_midnight: false });
        assert_eq!(border.before_ms(noon_of_day_9), 2 * DAY_MS + DAY_MS / 2);
        assert_eq!(Border { at_midnight: true, ..border }.before_ms(noon_of_day_9), 2 * DAY_MS);
        assert_eq!(Border { at_midnight: true, ..border }.before_ms(9 * DAY_MS), 2 * DAY_MS);
    }

    #[test]
    fn ages_are_of_whole_seconds() {
        assert_eq!(age(1_000, 3_999), Duration::from_secs(2));
        assert_eq!(age(4_000, 3_999), Duration::ZERO);
    }
}
