//! One producer's open stream, on the broker's side.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowforge_storage::{LogStore, ProducerId};
use tokio::sync::watch;

use super::TaskSlot;
use crate::broker::queue::Queue;
use crate::broker::task::state::{Opened, lease_until};
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
        let Opened { welcome, progress, rows: _ } = opened;
        Self { slot, queue, store, producer: hello.producer, welcome, progress, lease }
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

    async fn append(&mut self, first_seq: u64, lines: Vec<NewLine>) -> Result<(), BrokerError> {
        let last_seq = lines.iter().map(NewLine::seq_count).fold(first_seq - 1, u64::saturating_add);
        let reopened = self.slot.lock().reopen_for(self.producer, self.welcome.generation, last_seq, now_ms())?;
        if let Some(version) = reopened {
            self.queue.flush_now();
            self.slot.persist_through(version, self.store.as_ref()).await?;
        }
        let published = {
            let mut state = self.slot.lock();
            let records = state.append(self.producer, self.welcome.generation, first_seq, lines, now_ms())?;
            self.slot.publish(&self.queue, self.producer, records)
        };
        if published {
            self.slot.feed.wake();
        }
        Ok(())
    }

    fn frame(&self, frame: FrameEvent) {
        self.slot.feed.push_frame(frame);
    }

    async fn close(&mut self, ending: Ending) -> Result<(), BrokerError> {
        let version = {
            let mut state = self.slot.lock();
            let rows = state.close(self.producer, self.welcome.generation, ending, now_ms())?;
            self.slot.publish(&self.queue, ProducerId::SERVER, rows);
            state.version()
        };
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
