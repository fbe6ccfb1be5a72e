//! Batches between append and store, in this process's memory.
//!
//! Bounded: past its mark, `Queue::admit` does not return, and ingest stops reading. What was admitted is never dropped;
//! it is lost with the process, which is why an ack means stored.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::broker::{Batch, Delivery, FlushLimits, QueueSize};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Of all tenants, bytes.
    pub max_bytes: usize,
    /// Of one tenant, bytes.
    pub max_tenant_bytes: usize,
}

#[derive(Debug)]
pub(in crate::broker) struct Queue {
    limits: QueueLimits,
    inner: Mutex<Inner>,
    /// Rung for the writer: a line came, or a flush is wanted.
    arrived: Notify,
    /// Rung for ingest: there may be room.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<(Instant, Arc<Batch>)>,
    /// Waiting rows, without those under way.
    waiting_rows: usize,
    /// Waiting and under way.
    size: QueueSize,
    tenant_bytes: HashMap<Box<str>, usize>,
    /// Batches by the part of a queue elsewhere that they stand in.
    shards: HashMap<usize, usize>,
    flush_now: bool,
    draining: bool,
    /// Waiting rows at which the writer wants to be woken.
    ring_at: usize,
    last_take: Option<Instant>,
}

impl Queue {
    pub(in crate::broker) fn new(limits: QueueLimits) -> Self {
        Self { limits, inner: Mutex::default(), arrived: Notify::new(), freed: Notify::new() }
    }

    /// The caller holds the task's lock, so batches of one task come in offset order.
    pub(in crate::broker) fn push(&self, batch: Arc<Batch>) {
        let rows = batch.records.len();
        let mut inner = self.lock();
        let before = inner.waiting_rows;
        inner.waiting_rows += rows;
        inner.size.rows += rows;
        inner.size.bytes += batch.weight;
        add_tenant_bytes(&mut inner.tenant_bytes, &batch);
        if let Some(entry) = &batch.entry {
            *inner.shards.entry(entry.shard).or_default() += 1;
        }
        inner.waiting.push_back((Instant::now(), batch));
        // The writer is woken only where its decision may change, not for each line.
        let ring = before < inner.ring_at && inner.ring_at <= inner.waiting_rows;
        drop(inner);
        if ring {
            self.arrived.notify_one();
        }
    }

    /// Someone waits for what is queued: do not wait for more.
    pub(in crate::broker) fn flush_now(&self) {
        self.lock().flush_now = true;
        self.arrived.notify_one();
    }

    /// From now on nothing waits for company.
    pub(in crate::broker) fn drain(&self) {
        self.lock().draining = true;
        self.arrived.notify_one();
    }

    pub(in crate::broker) async fn admit(&self, tenant: &str) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable(); // Before looking, so that room made in between is not missed.
            if self.has_room(tenant) {
                return;
            }
            freed.await;
        }
    }

    fn has_room(&self, tenant: &str) -> bool {
        let inner = self.lock();
        inner.size.bytes < self.limits.max_bytes
            && inner.tenant_bytes.get(tenant).is_none_or(|bytes| *bytes < self.limits.max_tenant_bytes)
    }

    /// Waits until the limits call for a flush, then takes what they allow. Cancel-safe: nothing is taken before the end.
    pub(in crate::broker) async fn take(&self, limits: &FlushLimits) -> Delivery {
        loop {
            match self.try_take(limits) {
                Take::Ready(delivery) => return delivery,
                Take::NotBefore(due) => {
                    let _ = timeout_at(due.into(), self.arrived.notified()).await;
                }
                Take::Empty => self.arrived.notified().await,
            }
        }
    }

    fn try_take(&self, limits: &FlushLimits) -> Take {
        let mut inner = self.lock();
        let now = Instant::now();
        let Some((oldest, _)) = inner.waiting.front() else {
            inner.flush_now = false;
            inner.ring_at = 1;
            return Take::Empty;
        };
        let full = inner.draining || inner.waiting_rows >= limits.hard_max_rows;
        let wanted = inner.flush_now || inner.waiting_rows >= limits.max_rows;
        let due = if wanted { now } else { *oldest + limits.max_delay };
        let due = inner.last_take.map_or(due, |last| due.max(last + limits.min_interval));
        if !full && now < due {
            inner.ring_at = if wanted { limits.hard_max_rows } else { limits.max_rows };
            return Take::NotBefore(due);
        }
        inner.last_take = Some(now);
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some((_, batch)) = inner.waiting.front() {
            let more = batch.records.len();
            if !batches.is_empty() && rows + more > limits.hard_max_rows {
                break;
            }
            rows += more;
            batches.extend(inner.waiting.pop_front().map(|(_, batch)| batch));
        }
        inner.waiting_rows -= rows;
        inner.flush_now = inner.flush_now && !inner.waiting.is_empty();
        Take::Ready(Delivery { batches })
    }

    /// These are stored: their room is free.
    pub(in crate::broker) fn release(&self, batches: &[Arc<Batch>]) {
        let mut inner = self.lock();
        for batch in batches {
            inner.size.rows -= batch.records.len();
            inner.size.bytes -= batch.weight;
            if let Some(entry) = &batch.entry
                && let Some(count) = inner.shards.get_mut(&entry.shard)
            {
                *count -= 1;
                if *count == 0 {
                    inner.shards.remove(&entry.shard);
                }
            }
            let tenant = batch.task.tenant();
            if let Some(bytes) = inner.tenant_bytes.get_mut(tenant) {
                *bytes -= batch.weight;
                if *bytes == 0 {
                    inner.tenant_bytes.remove(tenant);
                }
            }
        }
        drop(inner);
        self.freed.notify_waiters();
    }

    /// Returns when nothing is queued and nothing is under way.
    pub(in crate::broker) async fn emptied(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.size().rows == 0 {
                return;
            }
            freed.await;
        }
    }

    /// Forgets waiting batches that someone else has taken over. What is under way stays.
    pub(in crate::broker) fn forget(&self, mut gone: impl FnMut(&Batch) -> bool) {
        let mut inner = self.lock();
        let (forgotten, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut inner.waiting).into_iter().partition(|(_, batch)| gone(batch));
        inner.waiting = kept;
        inner.waiting_rows -= forgotten.iter().map(|(_, batch)| batch.records.len()).sum::<usize>();
        drop(inner);
        self.release(&forgotten.into_iter().map(|(_, batch)| batch).collect::<Vec<_>>());
    }

    /// Whether anything of this part of a queue elsewhere is waiting or under way.
    pub(in crate::broker) fn has_of_shard(&self, shard: usize) -> bool {
        self.lock().shards.contains_key(&shard)
    }

    pub(in crate::broker) fn size(&self) -> QueueSize {
        self.lock().size
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Take {
    Ready(Delivery),
    NotBefore(Instant),
    Empty,
}

fn add_tenant_bytes(tenants: &mut HashMap<Box<str>, usize>, batch: &Batch) {
    let tenant = batch.task.tenant();
    if let Some(bytes) = tenants.get_mut(tenant) {
        *bytes += batch.weight;
    } else {
        tenants.insert(tenant.into(), batch.weight);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
