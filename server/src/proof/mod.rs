//! Whether what is stored is what was sent.
//!
//! Input: a task's record, with what its producers said at their end, and its stored rows. Output: a [`Report`].
//!
//! Invariant: [`State::Verified`] is said if and only if every number from 1 to each producer's final one is stored once, with
//! the content that the producer sent. Nothing is believed but what was read back from the store; the only thing kept of a
//! producer is its claim, in the task record.
//!
//! Cost: one pass over the attempt's rows, when somebody asks for an ended task, and again after `KEPT_FOR`. Few passes run
//! at once; who asks waits for `PATIENCE` and is told "running" then, while the pass goes on.
//!
//! Failure: a store that cannot be read proves nothing, and the next who asks tries again. What retention deleted cannot be
//! proven any more.

mod reading;
mod verdict;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowforge_storage::{LogStore, ProducerId, TaskKey, TaskRecord, TaskStatus};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

pub use verdict::{Completeness, Counts, Report, State};

use crate::broker::{Broker, Position};

/// How long who asks waits for a pass.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a pass waits for the last rows to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// How soon to look again whether they are.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a report is repeated before the rows are read again.
const KEPT_FOR: Duration = Duration::from_hours(1);

/// Reports kept; each is some hundred bytes a producer.
const KEPT: usize = 1_000;

/// Passes at once: they take a core each, and the store's attention.
const PASSES: usize = 2;

/// Checks tasks. Cheap to clone.
#[derive(Clone)]
pub struct Prover {
    broker: Arc<dyn Broker>,
    store: Arc<dyn LogStore>,
    kept: Arc<Mutex<VecDeque<Kept>>>,
    passes: Arc<Semaphore>,
}

/// The report of one end of a task, once there is one.
struct Kept {
    end: EndOf,
    since: Instant,
    report: Arc<OnceCell<Arc<Report>>>,
}

/// A record in one version, and its last row: nothing that is checked changes as long as they are the same.
#[derive(Clone, PartialEq, Eq)]
struct EndOf {
    task: TaskKey,
    version: u64,
    end: u64,
}

impl Prover {
    /// `broker`: to know when the last row is stored.
    pub fn new(broker: Arc<dyn Broker>, store: Arc<dyn LogStore>) -> Self {
        Self { broker, store, kept: Arc::default(), passes: Arc::new(Semaphore::new(PASSES)) }
    }

    /// What can be said of the task at this position; `None` if it has no record. A running task is not read.
    pub async fn report(&self, position: &Position) -> Option<Arc<Report>> {
        let record = position.record.as_ref()?;
        if record.status == TaskStatus::Running {
            return Some(Arc::new(Report::running()));
        }
        let kept = self.kept(EndOf { task: record.task.clone(), version: record.version, end: position.end });
        let (prover, position) = (self.clone(), position.clone());
        // On its own, so that the pass goes on when nobody waits any more.
        let pass = tokio::spawn(async move {
            kept.get_or_try_init(|| async { prover.pass(&position).await.map(Arc::new) }).await.cloned()
        });
        Some(match timeout(PATIENCE, pass).await {
            Ok(Ok(Ok(report))) => report,
            Ok(Ok(Err(reason))) => Arc::new(Report::without(State::Unproven, &reason)),
            Ok(Err(_)) => Arc::new(Report::without(State::Unproven, "the check failed")),
            Err(_) => Arc::new(Report::without(State::Running, "the lines are still being read back")),
        })
    }

    /// What a producer that has just closed is told: of the whole task if that ended it, else of itself.
    pub async fn after_close(&self, task: &TaskKey, producer: ProducerId) -> Option<Completeness> {
        let position = self.broker.position(task).await.ok()?;
        let record = position.record.as_ref()?;
        if record.status != TaskStatus::Running {
            return Some(self.report(&position).await?.task.clone());
        }
        let report = timeout(PATIENCE, self.pass(&position)).await.ok()?.ok()?;
        let id = producer.to_string();
        report.producers.into_iter().find_map(|(known, completeness)| (known == id).then_some(completeness))
    }

    fn kept(&self, end: EndOf) -> Arc<OnceCell<Arc<Report>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.since.elapsed() < KEPT_FOR);
        if let Some(known) = kept.iter().find(|kept| kept.end == end) {
            return Arc::clone(&known.report);
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let report = Arc::default();
        kept.push_back(Kept { end, since: Instant::now(), report: Arc::clone(&report) });
        report
    }

    /// Reads the rows and judges; the error is for people.
    async fn pass(&self, position: &Position) -> Result<Report, String> {
        let Some(record) = position.record.as_deref() else { return Err("the task is not known".to_owned()) };
        // Of a task that goes on only what its closed producers said is looked at, and that is stored.
        let end = if record.status == TaskStatus::Running { position.stored } else { position.end };
        self.wait_until_stored(record, end).await?;
        let Ok(_turn) = self.passes.acquire().await else { return Err("the server is going down".to_owned()) };
        let failed = |error: flowforge_storage::StoreError| {
            warn!(task = %record.task, %error, "a task could not be checked");
            format!("the store could not be read: {error}")
        };
        let rows = reading::read(self.store.as_ref(), record, end).await.map_err(failed)?;
        // After the rows: what was deleted meanwhile looks like a hole.
        let floor = self.store.task(&record.task).await.map_err(failed)?.map_or(1, |stored| stored.floor);
        Ok(verdict::judge(record, &rows, floor))
    }

    async fn wait_until_stored(&self, record: &TaskRecord, end: u64) -> Result<(), String> {
        let deadline = Instant::now() + STORED_WITHIN;
        loop {
            let now = self.broker.position(&record.task).await.map_err(|error| error.to_string())?;
            if now.stored >= end {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err("its last lines are not stored yet".to_owned());
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// What these rows prove, for tests of what comes before the store.
#[cfg(test)]
pub(crate) fn judge_rows(record: &TaskRecord, rows: &[flowforge_storage::LogRecord], floor: u64) -> Report {
    let mut read = reading::Rows::new(record, 1);
    for row in rows {
        read.take(row);
    }
    verdict::judge(record, &read, floor)
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // Writing to memory cannot fail.
        hex
    })
}
