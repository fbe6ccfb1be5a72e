//! What viewers are given of a broker that may lose its memory under them: one window and one position, as an instance over
//! Redis has them, in front of an embedded broker that is replaced when it dies.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flowforge_storage::{LogRecord, TaskKey};
use tokio::task::yield_now;

use crate::broker::memory::MemoryBroker;
use crate::broker::{
    Broker, BrokerError, Delivery, Feed, FlushLimits, Position, ProducerHello, ProducerSession, QueueSize, Subscription,
};

pub(super) struct Relay {
    inner: Mutex<Arc<MemoryBroker>>,
    pub(super) feed: Arc<Feed>,
    /// Says that everything is stored. For the proof, which would wait for seconds for rows that were lost meanwhile.
    is_hasty: bool,
}

impl Relay {
    pub(super) fn new(inner: Arc<MemoryBroker>, keep_bytes: usize) -> Self {
        Self { inner: Mutex::new(inner), feed: Arc::new(Feed::new(keep_bytes)), is_hasty: false }
    }

    pub(super) fn hasty(&self) -> Arc<dyn Broker> {
        Arc::new(Self { inner: Mutex::new(self.inner()), feed: Arc::new(Feed::new(0)), is_hasty: true })
    }

    pub(super) fn inner(&self) -> Arc<MemoryBroker> {
        Arc::clone(&self.inner.lock().unwrap())
    }

    /// Another memory takes the place of this one.
    pub(super) fn replace(&self, inner: Arc<MemoryBroker>) {
        *self.inner.lock().unwrap() = inner;
        self.feed.clear();
    }
}

#[async_trait]
impl Broker for Relay {
    async fn subscribe(&self, _: &TaskKey) -> Result<Subscription, BrokerError> {
        let subscription = Subscription::new(Arc::clone(&self.feed));
        yield_now().await;
        Ok(subscription)
    }

    async fn position(&self, task: &TaskKey) -> Result<Position, BrokerError> {
        yield_now().await;
        let mut position = self.inner().position(task).await?;
        if self.is_hasty {
            position.stored = u64::MAX;
        }
        yield_now().await;
        Ok(position)
    }

    fn peek(&self, task: &TaskKey) -> Option<Position> {
        self.inner().peek(task)
    }

    async fn open(&self, _: ProducerHello) -> Result<Box<dyn ProducerSession>, BrokerError> {
        unreachable!("no viewer does this")
    }
    async fn admit(&self, _: &str) {
        unreachable!("no viewer does this")
    }
    async fn recover(&self) -> Result<usize, BrokerError> {
        unreachable!("no viewer does this")
    }
    async fn sweep(&self) {
        unreachable!("no viewer does this")
    }
    async fn take(&self, _: &FlushLimits) -> Delivery {
        unreachable!("no viewer does this")
    }
    async fn refused(&self, _: &TaskKey, _: &LogRecord, _: &str) {
        unreachable!("no viewer does this")
    }
    async fn stored(&self, _: Delivery) {
        unreachable!("no viewer does this")
    }
    fn drain(&self) {
        unreachable!("no viewer does this")
    }
    async fn leave(&self) {
        unreachable!("no viewer does this")
    }
    fn queued(&self) -> QueueSize {
        unreachable!("no viewer does this")
    }
}
