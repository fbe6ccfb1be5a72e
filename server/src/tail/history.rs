//! Stored lines, read and encoded once for all who need them at about the same time.
//!
//! Input: a task, a position and an offset. Output: the page that begins there, shared.
//!
//! A page ends where its block of offsets does, so readers that began at different places meet. Readers who ask for a page
//! that is being read wait for that read, and share its failure too. Stored lines do not change within an epoch, and the key
//! names the epoch: what a rollback voided is never found again. Pages are forgotten soon, because retention may delete lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowforge_storage::{LogRecord, LogStore, ReadQuery, StoreError, TaskKey};
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use super::event::GapReason;
use crate::broker::{Batch, Position};

/// Lines of one block of offsets, and the most of one store read.
pub(super) const HISTORY_ROWS: usize = 1_000;

/// Message bytes of one store read.
const HISTORY_BYTES: usize = 256 << 10;

/// What all pages may weigh, their encoded lines included.
const CACHE_BYTES: u64 = 32 << 20;

/// Tasks whose floor is remembered.
const FLOORS: u64 = 10_000;

/// How long something is shared: as long as readers that arrive together stay close to each other.
const SHARED_FOR: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub struct History {
    store: Arc<dyn LogStore>,
    pages: Cache<PageKey, Arc<Batch>>,
    floors: Cache<TaskKey, u64>,
    /// Somebody will let go of what is too old.
    sweeping: Arc<AtomicBool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PageKey {
    task: TaskKey,
    epoch: u64,
    from: u64,
}

/// Contiguous lines from the offset asked for on. Never empty.
#[derive(Debug, Clone)]
pub struct Page {
    batch: Arc<Batch>,
    /// The reader's share: another may know of more.
    count: usize,
}

/// Why there is no page.
#[derive(Debug, Clone)]
pub(super) enum NoPage {
    /// These offsets do not exist any more.
    Missing {
        to: u64,
        reason: GapReason,
    },
    Failed(StoreError),
}

impl Page {
    fn until(batch: Arc<Batch>, end: u64) -> Self {
        let count = batch.records.partition_point(|record| record.offset <= end);
        Self { batch, count }
    }

    /// The lines.
    pub fn records(&self) -> &[LogRecord] {
        &self.batch.records[..self.count]
    }

    /// With what was encoded once for all.
    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }
}

impl History {
    /// Of this store.
    pub fn new(store: Arc<dyn LogStore>) -> Self {
        Self::bounded(store, CACHE_BYTES, SHARED_FOR)
    }

    fn bounded(store: Arc<dyn LogStore>, bytes: u64, shared_for: Duration) -> Self {
        // The default policy would not let a new page in before it was asked for often.
        let pages = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, batch: &Arc<Batch>| u32::try_from(batch.weight).unwrap_or(u32::MAX))
            .max_capacity(bytes)
            .time_to_live(shared_for)
            .build();
        let floors = Cache::builder().max_capacity(FLOORS).time_to_live(shared_for).build();
        Self { store, pages, floors, sweeping: Arc::default() }
    }

    /// The store itself, for what nobody else would ask.
    pub fn store(&self) -> &dyn LogStore {
        self.store.as_ref()
    }

    /// First offset kept, as of a moment ago.
    pub async fn floor(&self, task: &TaskKey) -> Result<u64, StoreError> {
        let floor = self.floors.try_get_with_by_ref(task, self.read_floor(task)).await;
        floor.map_err(Arc::unwrap_or_clone)
    }

    async fn read_floor(&self, task: &TaskKey) -> Result<u64, StoreError> {
        Ok(self.store.task(task).await?.map_or(1, |task| task.floor))
    }

    /// The page from `from` on, which must not be beyond the position's end.
    pub(super) async fn page(&self, task: &TaskKey, position: &Position, from: u64) -> Result<Page, NoPage> {
        let key = PageKey { task: task.clone(), epoch: position.epoch().epoch, from };
        match self.pages.try_get_with(key, self.read_page(task, from, position.end)).await {
            Ok(batch) => Ok(Page::until(batch, position.end)),
            Err(why) => Err(Arc::unwrap_or_clone(why).until(position.end)),
        }
    }

    async fn read_page(&self, task: &TaskKey, from: u64, end: u64) -> Result<Arc<Batch>, NoPage> {
        let last = end.min(from.next_multiple_of(HISTORY_ROWS as u64));
        let query = ReadQuery { max_bytes: HISTORY_BYTES, ..ReadQuery::forward(from, last, HISTORY_ROWS) };
        let mut records = self.store.read(task, &query).await?.records;
        let contiguous = records.iter().zip(from..).take_while(|(record, offset)| record.offset == *offset).count();
        if contiguous == 0 {
            return Err(self.missing(task, from, records.first(), last).await?);
        }
        records.truncate(contiguous);
        let producer = records[0].producer;
        self.sweep_later();
        Ok(Arc::new(Batch::new(task.clone(), producer, records)))
    }

    async fn missing(
        &self,
        task: &TaskKey,
        from: u64,
        next: Option<&LogRecord>,
        last: u64,
    ) -> Result<NoPage, StoreError> {
        let floor = self.read_floor(task).await?;
        if from < floor {
            return Ok(NoPage::Missing { to: floor - 1, reason: GapReason::Retention });
        }
        let to = next.map_or(last, |record| record.offset - 1);
        Ok(NoPage::Missing { to, reason: GapReason::Missing })
    }

    /// The cache lets go of what is too old when it is used next, and after the last reader nobody uses it.
    fn sweep_later(&self) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let (pages, sweeping) = (self.pages.clone(), Arc::clone(&self.sweeping));
        tokio::spawn(async move {
            tokio::time::sleep(SHARED_FOR * 2).await;
            sweeping.store(false, Ordering::Release);
            pages.run_pending_tasks().await;
        });
    }
}

impl NoPage {
    fn until(self, end: u64) -> Self {
        match self {
            Self::Missing { to, reason } => Self::Missing { to: to.min(end), reason },
            failed @ Self::Failed(_) => failed,
        }
    }
}

impl From<StoreError> for NoPage {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
