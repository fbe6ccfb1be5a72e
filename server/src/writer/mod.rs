//! The cold path: queued batches into the store, then the ack.
//!
//! Input: [`Delivery`]s from the broker. Output: committed rows, and `Broker::stored` for each delivery.
//!
//! Invariants: a delivery is reported stored only after its insert returned without an error. One insert is under way at a
//! time, so a task's lines are stored in offset order. Failure: what the store cannot take now is tried again for as long as
//! it takes, with back-off, while the queue fills up to its mark and ingest stops reading; a row that the store can never
//! take is replaced at its own offset by a row that says so.

mod poison;

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{LogStore, StoreError, TaskLines};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::broker::{Broker, Delivery, FlushLimits};
use crate::fail_point::{self, FailPoint};

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// Stores what the broker queues. One per process.
pub struct Writer {
    /// Where lines come from, and acks go.
    pub broker: Arc<dyn Broker>,
    /// Where lines go.
    pub store: Arc<dyn LogStore>,
    /// When to flush.
    pub limits: FlushLimits,
}

impl Writer {
    /// Runs until dropped. Dropping it between a commit and the ack repeats the insert later, which is harmless.
    pub async fn run(self) {
        loop {
            let delivery = self.broker.take(&self.limits).await;
            fail_point::pass(FailPoint::Taken);
            self.store_delivery(&delivery).await;
            fail_point::pass(FailPoint::Committed);
            self.broker.stored(delivery).await;
            fail_point::pass(FailPoint::Acknowledged);
        }
    }

    async fn store_delivery(&self, delivery: &Delivery) {
        let batches = delivery.sorted_by_task();
        let lines: Vec<TaskLines<'_>> =
            batches.iter().map(|batch| TaskLines { task: batch.task.clone(), records: &batch.records }).collect();
        if let Err(error) = insert_with_retries(self.store.as_ref(), &lines).await {
            warn!(%error, rows = delivery.rows(), "the store refuses a row, inserting in parts to find it");
            poison::insert_around(self, &lines).await;
        }
    }
}

/// Inserts until it works. Returns only an error that trying again cannot mend.
async fn insert_with_retries(store: &dyn LogStore, lines: &[TaskLines<'_>]) -> Result<(), StoreError> {
    let (mut delay, since) = (RETRY_FIRST, Instant::now());
    loop {
        match store.insert(lines).await {
            Ok(()) => {
                if delay > RETRY_FIRST {
                    info!(after = ?since.elapsed(), "the store takes rows again");
                }
                return Ok(());
            }
            Err(error) if !error.is_retryable() => return Err(error),
            Err(error) => {
                warn!(%error, next_try = ?delay, "insert failed, nothing is acked, will try again");
                sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(RETRY_MOST);
            }
        }
    }
}
