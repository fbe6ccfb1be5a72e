//! One producer's open stream, on the broker's side.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowforge_storage::{LogStore, ProducerId};
use tokio::sync::watch;

use super::TaskSlot;
use crate::broker::queue::Queue;
use crate::broker::task::state::{Opened, TaskState, lease_until};
use crate::broker::{BrokerError, Ending, FrameEvent, NewLine, ProducerHello, ProducerSession, Progress, Welcome};
use crate::clock::now_ms;

/// While it lives the producer's lease is held; dropping it starts the lease's clock.
pub(super) struct MemorySession {
    slot: Arc<TaskSlot>,
    queue: Arc<Queue>,
    store: Arc<dyn LogStore>,
    producer: ProducerId,
    welcome: Welcome,
    progress: watch::Receiver<Progress>,
    lease: Duration,
}

impl MemorySession {
    pub(super) fn new(
        slot: Arc<TaskSlot>,
        queue: Arc<Queue>,
        store: Arc<dyn LogStore>,
        hello: &ProducerHello,
        opened: Opened,
        lease: Duration,
    ) -> Self {
        let Opened { welcome, progress, .. } = opened;
        Self { slot, queue, store, producer: hello.producer, welcome, progress, lease }
    }

    /// What the producer will never send becomes its next row.
    pub(super) async fn declare(&mut self, gap: NewLine) -> Result<(), BrokerError> {
        self.append(self.welcome.queued_seq + 1, vec![gap]).await?;
        self.welcome.queued_seq = self.progress.borrow().queued_seq;
        Ok(())
    }

    /// Appends, unless an ended task has to be taken up again first. Returns the version of the record that must be stored
    /// before the lines are tried again; until then they are left where they are.
    fn append_or_reopen(&self, first_seq: u64, lines: &mut Vec<NewLine>) -> Result<Option<u64>, BrokerError> {
        let published = {
            let mut state = self.slot.lock();
            let (producer, generation, now) = (self.producer, self.welcome.generation, now_ms());
            if let Some(version) = state.reopen_for(producer, generation, first_seq, lines, now)? {
                return Ok(Some(version));
            }
            let records = state.append(producer, generation, first_seq, std::mem::take(lines), now)?;
            self.slot.publish(&self.queue, producer, records)
        };
        if published {
            self.slot.feed.wake();
        }
        Ok(None)
    }
}

#[async_trait]
impl ProducerSession for MemorySession {
    fn producer(&self) -> ProducerId {
        self.producer
    }

    fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    async fn append(&mut self, first_seq: u64, mut lines: Vec<NewLine>) -> Result<(), BrokerError> {
        while let Some(version) = self.append_or_reopen(first_seq, &mut lines)? {
            self.slot.store_comeback(version, &self.queue, self.store.as_ref()).await?;
        }
        Ok(())
    }

    fn frame(&self, frame: FrameEvent) {
        self.slot.feed.push_frame(frame);
    }

    async fn close(&mut self, ending: Ending) -> Result<(), BrokerError> {
        let rules = |state: &mut TaskState| {
            let rows = state.close(self.producer, self.welcome.generation, ending, now_ms())?;
            self.slot.publish(&self.queue, ProducerId::SERVER, rows);
            Ok(state.version())
        };
        let version = self.slot.change(&self.queue, self.store.as_ref(), rules).await?;
        self.slot.feed.wake();
        self.queue.flush_now();
        // The record that says so is stored only after everything that it says is.
        self.slot.persist_through(version, self.store.as_ref()).await?;
        Ok(())
    }
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        self.slot.lock().release(self.producer, self.welcome.generation, lease_until(self.lease));
    }
}
