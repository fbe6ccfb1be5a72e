//! Deletes lines by age, for stores that do not do it themselves.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::LogStore;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::clock::{now_ms, rfc3339_ms};

/// How often the worker looks. A line may live so much longer than it should.
const CHECK_INTERVAL: Duration = Duration::from_mins(10);

/// Runs until dropped: first at once, then every ten minutes.
pub async fn run(store: Arc<dyn LogStore>, keep: Duration) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let before = now_ms() - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        match store.delete_before(before).await {
            Ok(deleted) => {
                let oldest = deleted.oldest_ms.map(rfc3339_ms);
                info!(lines = deleted.lines, tasks = deleted.tasks, ?oldest, "retention done");
            }
            Err(error) => warn!(%error, "retention failed, will try again"),
        }
    }
}
