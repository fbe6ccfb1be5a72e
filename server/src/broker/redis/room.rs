//! Back-pressure: how much room the queue in Redis has. Counted now and then; what this process appends in between is added.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::FromRedisValue as _;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Shared;
use crate::broker::queue::QueueLimits;

/// How often queued bytes are counted.
pub(super) const COUNT: Duration = Duration::from_millis(200);

/// How much room the queue has, as last counted.
pub(super) struct Room {
    limits: QueueLimits,
    bytes: Mutex<HashMap<String, usize>>,
    counted: Notify,
}

impl Room {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, bytes: Mutex::default(), counted: Notify::new() }
    }

    /// Appended since the last count.
    pub(super) fn note(&self, tenant: &str, bytes: usize) {
        let mut known = self.lock();
        match known.get_mut(tenant) {
            Some(known) => *known += bytes,
            None => drop(known.insert(tenant.to_owned(), bytes)),
        }
    }

    pub(super) async fn admit(&self, tenant: &str) {
        while !self.has_room(tenant) {
            // Bounded, so that a count between looking and waiting is not missed for long.
            let _ = timeout(COUNT, self.counted.notified()).await;
        }
    }

    fn has_room(&self, tenant: &str) -> bool {
        let known = self.lock();
        known.values().sum::<usize>() < self.limits.max_bytes
            && known.get(tenant).is_none_or(|bytes| *bytes < self.limits.max_tenant_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Counts what is queued, of every tenant.
    pub(super) async fn count(&self) {
        let mut sum: HashMap<String, usize> = HashMap::new();
        for shard in self.shards.iter() {
            let Ok(bytes) = self.link.run(redis::cmd("HGETALL").arg(&shard.bytes)).await else { return };
            let bytes = HashMap::<String, i64>::from_redis_value(bytes).unwrap_or_default();
            for (tenant, bytes) in bytes {
                *sum.entry(tenant).or_default() += usize::try_from(bytes).unwrap_or(0);
            }
        }
        *self.room.lock() = sum;
        self.room.counted.notify_waiters();
    }
}
