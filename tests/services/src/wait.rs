//! Waiting on conditions, never on the clock alone.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// What anything on a busy machine may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Polls until the condition gives a value; fails with `what` after `limit`.
pub async fn until<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}
