//! A producer, a broker that dies, a store, and beside them the plain list of what is true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use flowforge_storage::{Claim, LogStore, Outcome, ProducerId, Stream, TaskKey, TaskLines, TaskStatus};

use super::relay::Relay;
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::broker::queue::QueueLimits;
use crate::broker::samples;
use crate::broker::{Broker, Delivery, Ending, FlushLimits, NewLine, ProducerHello, ProducerSession, Subscription};
use crate::test_store::Store;

/// Bytes of stored lines kept for viewers: a few lines.
const KEEP_BYTES: usize = 3_000;

/// A line as it is true now; its offset is its place in the list, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) message: String,
    pub(super) stream: Stream,
    pub(super) level: u8,
}

pub(super) struct Site {
    pub(super) store: Arc<Store>,
    pub(super) relay: Arc<Relay>,
    pub(super) truth: Vec<Row>,
    /// Keeps the inner window open, and reads it.
    watch: Subscription,
    /// The last offset that the relay has.
    relayed: u64,
    session: Option<Box<dyn ProducerSession>>,
    last_seq: u64,
    /// Committed, and not yet said to be.
    committed: Option<Delivery>,
    lines_ever: u64,
}

pub(super) fn task() -> TaskKey {
    TaskKey::new("", "t").unwrap()
}

fn broker(store: &Arc<Store>) -> Arc<MemoryBroker> {
    let queue = QueueLimits { max_bytes: 1 << 20, max_tenant_bytes: 1 << 20 };
    let lease = Duration::from_mins(1);
    let options = MemoryOptions { lease, recent_bytes: KEEP_BYTES, max_producers: 8, queue };
    Arc::new(MemoryBroker::new(Arc::clone(store) as Arc<dyn LogStore>, options))
}

impl Site {
    pub(super) async fn new() -> Self {
        let store = Arc::new(Store::default());
        let inner = broker(&store);
        let watch = inner.subscribe(&task()).await.unwrap();
        Self {
            relay: Arc::new(Relay::new(inner, KEEP_BYTES)),
            store,
            truth: Vec::new(),
            watch,
            relayed: 0,
            session: None,
            last_seq: 0,
            committed: None,
            lines_ever: 0,
        }
    }

    async fn session(&mut self) -> &mut Box<dyn ProducerSession> {
        if self.session.is_none() {
            let hello = ProducerHello {
                task: task(),
                producer: ProducerId([1; 16]),
                first_unacked_seq: 1,
                owner: true,
                attempt: 0,
                workflow_id: String::new(),
                name: String::new(),
                labels: BTreeMap::new(),
            };
            let session = self.relay.inner().open(hello).await.unwrap();
            self.last_seq = session.welcome().queued_seq;
            self.session = Some(session);
        }
        self.session.as_mut().unwrap()
    }

    pub(super) async fn append(&mut self, count: u8) {
        self.session().await;
        let rows: Vec<Row> = (0..count).map(|_| self.new_row()).collect();
        let lines = rows.iter().map(new_line).collect();
        let first_seq = self.last_seq + 1;
        self.session().await;
        let mut session = self.session.take().unwrap();
        let mut append = session.append(first_seq, lines);
        // It waits where an ended task goes on: its end must be stored before.
        while std::future::poll_fn(|cx| Poll::Ready(append.as_mut().poll(cx).map(Result::unwrap))).await.is_pending() {
            self.commit(100).await;
            self.tell_stored().await;
        }
        drop(append);
        self.session = Some(session);
        self.last_seq += u64::from(count);
        self.truth.extend(rows);
        self.relay().await;
    }

    /// No two lines are alike, not even those at one offset.
    fn new_row(&mut self) -> Row {
        self.lines_ever += 1;
        let number = self.lines_ever;
        let word = if number.is_multiple_of(3) { "needle" } else { "hay" };
        Row {
            message: format!("{word} {number}"),
            stream: if number.is_multiple_of(4) { Stream::Stderr } else { Stream::Stdout },
            level: if number.is_multiple_of(5) { 17 } else { 0 },
        }
    }

    pub(super) async fn close(&mut self) {
        self.session().await;
        let claim = Claim { final_seq: self.last_seq, proof: None, recovery: None };
        let outcome = Outcome { status: TaskStatus::Succeeded, exit_code: None };
        // It happens at once; what is not waited for is that it is stored.
        let mut closing = self.session().await.close(Ending { outcome, claim });
        let _ = std::future::poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx).is_ready())).await;
        drop(closing);
        let end = self.relay.inner().position(&task()).await.unwrap().end;
        if end > self.truth.len() as u64 {
            self.truth.push(Row { message: "task succeeded".to_owned(), stream: Stream::System, level: 9 });
        }
        self.relay().await;
    }

    /// Some of what is queued becomes durable; nobody is told yet.
    pub(super) async fn commit(&mut self, most: usize) {
        let inner = self.relay.inner();
        if self.committed.is_some() || inner.queued().rows == 0 {
            return;
        }
        let (max_delay, min_interval) = (Duration::ZERO, Duration::ZERO);
        let delivery = inner.take(&FlushLimits { max_rows: 1, max_delay, hard_max_rows: most, min_interval }).await;
        let all: Vec<_> = delivery.batches.iter().map(|batch| lines_of(batch)).collect();
        self.store.insert(&all).await.unwrap();
        self.committed = Some(delivery);
    }

    pub(super) async fn tell_stored(&mut self) {
        if let Some(delivery) = self.committed.take() {
            let inner = self.relay.inner();
            inner.stored(delivery).await;
            self.relay.feed.trim(inner.position(&task()).await.unwrap().stored);
            self.relay.feed.wake();
        }
    }

    pub(super) async fn sweep(&self) {
        self.relay.inner().sweep().await;
        self.relay.feed.wake();
    }

    /// The broker's memory is lost, and what was only there.
    pub(super) async fn crash(&mut self) {
        (self.session, self.committed) = (None, None);
        let inner = broker(&self.store);
        self.watch = inner.subscribe(&task()).await.unwrap();
        self.relay.replace(inner);
        self.relayed = self.store.end();
        self.truth.truncate(self.relayed as usize);
        self.relay().await;
    }

    /// Brings the relay up to date, and checks that the broker says what is true.
    async fn relay(&mut self) {
        for batch in self.watch.feed().read(self.relayed + 1, usize::MAX).batches {
            self.relayed = batch.last();
            self.relay.feed.push(batch);
        }
        let position = self.relay.inner().position(&task()).await.unwrap();
        assert_eq!(position.end, self.truth.len() as u64);
        assert_eq!(self.relayed, position.end);
        self.relay.feed.wake();
    }

    /// The task ends, and everything is stored.
    pub(super) async fn finish(&mut self) {
        self.append(1).await;
        self.close().await;
        while self.committed.is_some() || self.relay.inner().queued().rows > 0 {
            self.commit(100).await;
            self.tell_stored().await;
        }
        self.sweep().await;
    }
}

fn lines_of(batch: &crate::broker::Batch) -> TaskLines<'_> {
    TaskLines { task: batch.task.clone(), records: &batch.records }
}

fn new_line(row: &Row) -> NewLine {
    NewLine { stream: row.stream, level: row.level, ..samples::line(row.message.clone()) }
}
