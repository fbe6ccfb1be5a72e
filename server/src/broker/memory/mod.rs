//! The embedded broker: everything in this process's memory.
//!
//! What it holds is lost with the process. That costs no line that was acked, because an ack means stored: after a restart
//! each running task begins a new epoch at its last stored offset (`load`), and its producers send the rest again.
//!
//! Locks, in the order in which they may be taken: task map → task state → queue or feed. None is held across an await.

mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flowforge_storage::{LogRecord, LogStore, ProducerId, StoreError, TaskFilter, TaskKey, TaskStatus};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::{OnceCell, watch};
use tracing::warn;

use self::session::MemorySession;
use super::queue::{Queue, QueueLimits};
use super::task::load;
use super::task::state::{TaskState, lease_until};
use super::{
    Batch, Broker, BrokerError, Delivery, Feed, FlushLimits, Position, ProducerHello, ProducerSession, QueueSize,
    Subscription,
};
use crate::clock::now_ms;

/// Bounds and times of the embedded broker.
#[derive(Debug, Clone, Copy)]
pub struct MemoryOptions {
    /// How long a producer may be away before it counts as lost.
    pub lease: Duration,
    /// Stored lines kept per task for viewers that are a little behind, bytes.
    pub recent_bytes: usize,
    /// Producers per task and attempt.
    pub max_producers: usize,
    /// What may wait for the store.
    pub queue: QueueLimits,
}

/// See the module.
pub struct MemoryBroker {
    options: MemoryOptions,
    store: Arc<dyn LogStore>,
    tasks: Mutex<HashMap<TaskKey, Arc<TaskSlot>>>,
    queue: Arc<Queue>,
}

/// One task's place in memory.
struct TaskSlot {
    key: TaskKey,
    /// Set once the store was asked; until then `state` is empty.
    loaded: OnceCell<()>,
    state: Mutex<TaskState>,
    feed: Arc<Feed>,
    /// The stored offset, for those who wait for one.
    stored: watch::Sender<u64>,
    /// One writer of the record at a time, so that the newest is written last.
    persisting: tokio::sync::Mutex<()>,
}

impl MemoryBroker {
    /// An empty memory over a store.
    pub fn new(store: Arc<dyn LogStore>, options: MemoryOptions) -> Self {
        Self { options, store, tasks: Mutex::default(), queue: Arc::new(Queue::new(options.queue)) }
    }

    /// The task's place, loaded from the store.
    async fn slot(&self, task: &TaskKey) -> Result<Arc<TaskSlot>, StoreError> {
        let slot = {
            let mut tasks = self.lock_tasks();
            let slot = tasks.entry(task.clone()).or_insert_with(|| Arc::new(TaskSlot::new(task, &self.options)));
            Arc::clone(slot)
        };
        slot.loaded
            .get_or_try_init(|| async {
                let state = load::load(self.store.as_ref(), task, self.options.lease).await?;
                slot.stored.send_replace(state.stored);
                *slot.lock() = state;
                Ok::<_, StoreError>(())
            })
            .await?;
        Ok(slot)
    }

    fn lock_tasks(&self) -> MutexGuard<'_, HashMap<TaskKey, Arc<TaskSlot>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded_slots(&self) -> Vec<Arc<TaskSlot>> {
        self.lock_tasks().values().filter(|slot| slot.loaded.initialized()).cloned().collect()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn open(&self, hello: ProducerHello) -> Result<Box<dyn ProducerSession>, BrokerError> {
        let slot = self.slot(&hello.task).await?;
        let rules = |state: &mut TaskState| {
            let mut opened = state.open(&hello, self.options.max_producers, now_ms())?;
            slot.publish(&self.queue, hello.producer, std::mem::take(&mut opened.rows));
            Ok((opened, state.version()))
        };
        let (mut opened, version) = slot.change(&self.queue, self.store.as_ref(), rules).await?;
        let gap = opened.gap.take();
        // From here on a drop starts the lease, also when writing the record fails.
        let (queue, store) = (Arc::clone(&self.queue), Arc::clone(&self.store));
        let mut session = MemorySession::new(Arc::clone(&slot), queue, store, &hello, opened, self.options.lease);
        slot.feed.wake();
        slot.persist_through(version, self.store.as_ref()).await?;
        if let Some(gap) = gap {
            session.declare(gap).await?;
        }
        Ok(Box::new(session))
    }

    async fn admit(&self, tenant: &str) {
        self.queue.admit(tenant).await;
    }

    async fn subscribe(&self, task: &TaskKey) -> Result<Subscription, BrokerError> {
        let slot = self.slot(task).await?;
        Ok(Subscription::new(Arc::clone(&slot.feed)))
    }

    async fn position(&self, task: &TaskKey) -> Result<Position, BrokerError> {
        Ok(self.slot(task).await?.lock().position())
    }

    fn peek(&self, task: &TaskKey) -> Option<Position> {
        let slot = self.lock_tasks().get(task).filter(|slot| slot.loaded.initialized()).cloned()?;
        Some(slot.lock().position())
    }

    async fn recover(&self) -> Result<usize, BrokerError> {
        let filter = TaskFilter { status: Some(TaskStatus::Running), ..TaskFilter::default() };
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.store.tasks(&filter, after.as_ref(), 500).await?;
            count += page.tasks.len();
            // At once, so that the store can write their new epochs together.
            try_join_all(page.tasks.iter().map(|task| self.slot(&task.record.task))).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let until = lease_until(self.options.lease);
        self.loaded_slots().iter().for_each(|slot| slot.lock().restart_leases(until));
        Ok(count)
    }

    async fn sweep(&self) {
        let (now, clock) = (Instant::now(), now_ms());
        let slots = self.loaded_slots();
        for slot in &slots {
            let ended = {
                let mut state = slot.lock();
                let row = state.expire(now, clock);
                slot.feed.trim(state.stored); // The last viewer may have left.
                slot.publish(&self.queue, ProducerId::SERVER, row.into_iter().collect())
            };
            if ended {
                slot.feed.wake();
                self.queue.flush_now();
            }
        }
        let changed = slots.iter().filter(|slot| slot.lock().record_to_persist().is_some());
        join_all(changed.map(async |slot| {
            if let Err(error) = slot.persist(self.store.as_ref()).await {
                warn!(task = %slot.key, %error, "writing the task record failed, will try again");
            }
        }))
        .await;
        drop(slots);
        self.forget_finished();
    }

    async fn take(&self, limits: &FlushLimits) -> Delivery {
        self.queue.take(limits).await
    }

    /// Here the server's own log is the place.
    async fn refused(&self, _: &TaskKey, _: &LogRecord, _: &str) {}

    async fn stored(&self, delivery: Delivery) {
        for batch in &delivery.batches {
            let Some(slot) = self.lock_tasks().get(&batch.task).cloned() else { continue };
            slot.lock().mark_stored(batch.producer, batch.last_seq(), batch.last());
            slot.stored.send_if_modified(|stored| {
                let moved = batch.last() > *stored;
                *stored = batch.last().max(*stored);
                moved
            });
            slot.feed.trim(batch.last());
        }
        self.queue.release(&delivery.batches);
    }

    fn drain(&self) {
        self.queue.drain();
    }

    async fn leave(&self) {
        self.queue.emptied().await;
    }

    fn queued(&self) -> QueueSize {
        self.queue.size()
    }
}

impl MemoryBroker {
    /// Drops tasks that are wholly in the store and that nobody holds. The map's lock keeps new holders out meanwhile.
    fn forget_finished(&self) {
        self.lock_tasks().retain(|_, slot| {
            let held = Arc::strong_count(slot) > 1 || slot.feed.viewers() > 0;
            held || !slot.lock().is_forgettable()
        });
    }
}

impl TaskSlot {
    fn new(task: &TaskKey, options: &MemoryOptions) -> Self {
        Self {
            key: task.clone(),
            loaded: OnceCell::new(),
            state: Mutex::default(),
            feed: Arc::new(Feed::new(options.recent_bytes)),
            stored: watch::Sender::new(0),
            persisting: tokio::sync::Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queue first, then window: what a viewer sees is queued. The caller holds the state's lock and wakes the feed after
    /// letting go of it. Returns whether there was anything.
    fn publish(&self, queue: &Queue, producer: ProducerId, records: Vec<LogRecord>) -> bool {
        if records.is_empty() {
            return false;
        }
        let batch = Arc::new(Batch::new(self.key.clone(), producer, records));
        queue.push(Arc::clone(&batch));
        self.feed.push(batch);
        true
    }

    /// Applies rules to the task, once nothing has to be stored before.
    async fn change<T>(
        &self,
        queue: &Queue,
        store: &dyn LogStore,
        rules: impl FnOnce(&mut TaskState) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        loop {
            let version = {
                let mut state = self.lock();
                match state.unstored_comeback() {
                    None => return rules(&mut state),
                    Some(version) => version,
                }
            };
            self.store_comeback(version, queue, store).await?;
        }
    }

    /// Returns when the store knows that the task was taken up again. Its end has to be stored before, and soon.
    async fn store_comeback(&self, version: u64, queue: &Queue, store: &dyn LogStore) -> Result<(), StoreError> {
        queue.flush_now();
        self.persist_through(version, store).await
    }

    /// Returns when the record is stored in this version or a later one.
    async fn persist_through(&self, version: u64, store: &dyn LogStore) -> Result<(), StoreError> {
        let mut stored = self.stored.subscribe();
        loop {
            stored.mark_unchanged();
            self.persist(store).await?;
            if self.lock().persisted_version >= version {
                return Ok(());
            }
            // The lines before it are not stored yet. The sender is held by `self`: this cannot fail.
            let _ = stored.changed().await;
        }
    }

    /// Writes the record if it has changes that may be stored now.
    async fn persist(&self, store: &dyn LogStore) -> Result<(), StoreError> {
        if self.lock().record_to_persist().is_none() {
            return Ok(());
        }
        let _turn = self.persisting.lock().await;
        let Some(record) = self.lock().record_to_persist() else { return Ok(()) };
        store.put_task(&record).await?;
        let mut state = self.lock();
        state.persisted_version = state.persisted_version.max(record.version);
        Ok(())
    }
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
