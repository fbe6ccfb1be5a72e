//! The broker: order, live fan-out, and the queue towards the store.
//!
//! Input: batches of one producer's lines, each with its sequence number. Output: the same lines with offsets, to every
//! viewer at once through the task's [`Feed`], and to the writer as a [`Delivery`].
//!
//! Invariants, for every implementation:
//!
//! - **Append is atomic.** Under one lock per task it checks the fence, drops what is already there, refuses a gap, gives
//!   contiguous offsets, keeps the lines in the recent window, queues them, and publishes them last. So the order of
//!   publishing is the order of offsets, and a line that a viewer sees is in the queue.
//! - **Every offset has a row.** What a client gave up, or never sent, becomes a `system` row that says so.
//! - **The recent window holds at least every line that is not stored yet**, so that stored history and recent window
//!   together are always the whole log.
//! - **A lost memory begins a new epoch**, whose base is the last stored offset; offsets go on from there.
//!
//! The broker knows neither gRPC nor HTTP; of the store it uses only the trait, to begin an epoch and to keep the task
//! record.

mod batch;
#[cfg(test)]
mod contract;
mod feed;
pub mod memory;
mod position;
pub mod queue;
pub mod redis;
pub mod rows;
#[cfg(test)]
pub(crate) mod samples;
mod task;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flowforge_storage::{Claim, LogRecord, Outcome, ProducerId, StoreError, Stream, TaskKey};
use tokio::sync::watch;

pub use batch::{Batch, QueueEntry};
pub use feed::{Feed, FeedRead, FrameEvent, Subscription};
pub use position::{EndInfo, Position};

/// Gives order, fans out, queues. One per process; see [`memory::MemoryBroker`].
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// A producer says Hello. Loads the task (beginning a new epoch if memory was lost), opens or reopens it, fences the
    /// producer's older session, and returns when the task record is stored.
    async fn open(&self, hello: ProducerHello) -> Result<Box<dyn ProducerSession>, BrokerError>;

    /// Waits until the queue has room for this tenant: back-pressure, called before each read from a producer.
    async fn admit(&self, tenant: &str);

    /// A viewer's subscription, in force when this returns. A task that nobody knows yet is waited for.
    async fn subscribe(&self, task: &TaskKey) -> Result<Subscription, BrokerError>;

    /// Where the task stands now, wherever it changed last; loading it if need be.
    async fn position(&self, task: &TaskKey) -> Result<Position, BrokerError>;

    /// Where the task stands as far as this process knows: for lists, which must not load every task, and for readers, who are
    /// woken when it changes. `None` if nobody here watches it or writes to it.
    fn peek(&self, task: &TaskKey) -> Option<Position>;

    /// Loads every task that the store holds as running, so that their leases start anew after a restart.
    async fn recover(&self) -> Result<usize, BrokerError>;

    /// Ends producers whose lease ran out, and forgets what nobody needs. Called every few hundred milliseconds.
    async fn sweep(&self);

    /// The next batches to store, in offset order per task. Waits until `limits` call for a flush.
    async fn take(&self, limits: &FlushLimits) -> Delivery;

    /// The store refuses this row for itself: kept for operators, where there is a place for it.
    async fn refused(&self, task: &TaskKey, record: &LogRecord, why: &str);

    /// The delivery is committed in the store: acks go out, the recent window may shrink. Consumes it, so that a delivery
    /// cannot be acked twice.
    async fn stored(&self, delivery: Delivery);

    /// From now on `take` hands out whatever is queued at once.
    fn drain(&self);

    /// This process goes: it takes nothing new over for the store. Returns when everything that it took is stored.
    async fn leave(&self);

    /// Lines and bytes that this process has queued for the store, and that are not stored yet.
    fn queued(&self) -> QueueSize;
}

/// One producer's side of the broker. Dropping it starts the producer's lease.
#[async_trait]
pub trait ProducerSession: Send + Sync {
    /// Whose session it is.
    fn producer(&self) -> ProducerId;

    /// What Welcome says.
    fn welcome(&self) -> &Welcome;

    /// Moves with every ack, and when a newer session fences this one.
    fn progress(&self) -> watch::Receiver<Progress>;

    /// Takes lines whose first has sequence number `first_seq`; those already there are dropped silently.
    async fn append(&mut self, first_seq: u64, lines: Vec<NewLine>) -> Result<(), BrokerError>;

    /// Shows a transient frame to whoever is watching. Nothing is kept.
    fn frame(&self, frame: FrameEvent);

    /// The producer is done. Returns when everything up to the claim's `final_seq`, the end row if this ended the task, and
    /// the task record are stored.
    async fn close(&mut self, ending: Ending) -> Result<(), BrokerError>;
}

/// What a Close says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How the process ended.
    pub outcome: Outcome,
    /// What it sent; kept in the task record, for whoever checks it.
    pub claim: Claim,
}

/// What a producer says of itself and its task; checked by ingest.
#[derive(Debug, Clone)]
pub struct ProducerHello {
    /// The task.
    pub task: TaskKey,
    /// The producer.
    pub producer: ProducerId,
    /// Lowest sequence number it still holds, at least 1.
    pub first_unacked_seq: u64,
    /// It decides the task's status.
    pub owner: bool,
    /// 0 = unknown.
    pub attempt: u32,
    /// Empty = none.
    pub workflow_id: String,
    /// Empty = none.
    pub name: String,
    /// Free pairs.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// The broker's answer to a Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// Milliseconds; when the memory of this task began.
    pub epoch: u64,
    /// Counts the producer's Hellos in the epoch.
    pub generation: u64,
    /// Accepted up to here.
    pub queued_seq: u64,
    /// Stored up to here.
    pub stored_seq: u64,
}

/// How far a producer's lines have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The newest session's number; a session with a lower one is fenced.
    pub generation: u64,
    /// Accepted up to here.
    pub queued_seq: u64,
    /// Stored up to here.
    pub stored_seq: u64,
}

/// A line as a producer sends it, checked by ingest.
#[derive(Debug, Clone)]
pub struct NewLine {
    /// Nanoseconds, the producer's clock.
    pub time_ns: i64,
    /// Where it came from.
    pub stream: Stream,
    /// 0 to 24.
    pub level: u8,
    /// Without its newline.
    pub message: Bytes,
    /// A JSON object without line breaks, or empty.
    pub fields: Bytes,
    /// 0 = none.
    pub update_id: u64,
    /// See `LogRecord`.
    pub continued: bool,
    /// See `LogRecord`.
    pub no_newline: bool,
    /// Set where the client gave lines up: this entry covers `lines` sequence numbers.
    pub dropped: Option<DroppedRun>,
}

impl NewLine {
    /// How many sequence numbers it takes.
    pub fn seq_count(&self) -> u64 {
        self.dropped.map_or(1, |run| run.lines)
    }
}

/// A run of lines that a client gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedRun {
    /// At least 1.
    pub lines: u64,
    /// Message bytes lost with them.
    pub bytes: u64,
}

/// When queued lines are flushed to the store.
#[derive(Debug, Clone, Copy)]
pub struct FlushLimits {
    /// So many lines start a flush.
    pub max_rows: usize,
    /// So old a line starts a flush.
    pub max_delay: Duration,
    /// No flush carries more lines than this, unless one batch alone does. So many waiting lines are flushed at once.
    pub hard_max_rows: usize,
    /// The shortest time between two flushes that are not full: each costs an fsync, and an ack to every producer in it.
    pub min_interval: Duration,
}

/// Batches on their way to the store. Must be given back to [`Broker::stored`] once committed.
#[derive(Debug)]
pub struct Delivery {
    /// In offset order per task.
    pub batches: Vec<Arc<Batch>>,
}

impl Delivery {
    /// Lines in it.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(|batch| batch.records.len()).sum()
    }

    /// The lines, task by task: stores insert grouped lines many times faster than interleaved ones.
    pub fn sorted_by_task(&self) -> Vec<&Batch> {
        let mut batches: Vec<&Batch> = self.batches.iter().map(AsRef::as_ref).collect();
        batches.sort_by(|a, b| a.task.cmp(&b.task));
        batches
    }
}

/// What waits in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSize {
    /// Lines, those under way to the store included.
    pub rows: usize,
    /// Their weight in memory.
    pub bytes: usize,
}

/// Why the broker refused.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A newer session of the same producer took over.
    #[error("a newer stream of producer {0} took over this one")]
    Fenced(ProducerId),
    /// A batch begins beyond the next expected sequence number.
    #[error("a sequence number is missing: expected {expected_seq}")]
    Gap {
        /// Where the producer must go on.
        expected_seq: u64,
    },
    /// Something the protocol does not allow.
    #[error("{0}")]
    Invalid(String),
    /// The task has as many producers as it may have.
    #[error("task has {0} producers, which is the limit (broker.max_producers)")]
    TooManyProducers(usize),
    /// The broker's memory of the task is gone or another one's: a new epoch begins with the next Hello.
    #[error("the broker lost its state of this task; say Hello again and send what is not stored")]
    StateLost,
    /// The broker's own server does not answer. What was being done may have happened.
    #[error("the queue cannot be reached: {0}")]
    Unavailable(String),
    /// The queue has no room, and none was made while this waited.
    #[error("the queue is full: {0}")]
    QueueFull(String),
    /// The store failed while a task was loaded or its record written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gives records their places: the one way a record is made of a line.
fn record_of(line: NewLine, producer: ProducerId, seq: u64, offset: u64, epoch: u64, created_at_ms: i64) -> LogRecord {
    LogRecord {
        offset,
        epoch,
        producer,
        seq,
        time_ns: line.time_ns,
        created_at_ms,
        stream: line.stream,
        level: line.level,
        message: line.message,
        fields: line.fields,
        update_id: line.update_id,
        continued: line.continued,
        no_newline: line.no_newline,
    }
}
