//! The broker over Redis (7.0 or newer): several servers, one order, and a queue that outlives them.
//!
//! Redis holds the truth about every live task; `keys` has its layout. Lines take the fast path, one script a batch
//! (`session`, `append.lua`). Everything else that changes a task (Hello, Close, a lost producer, a lost memory) is worked
//! out from what was read, by the same rules as in the embedded broker, and committed if nothing has changed meanwhile
//! (`change`, `task`, `commit.lua`). Viewers read a mirror of the window (`mirror`, `subscriber`), the writer is fed from the
//! shards that this process holds (`worker`, `holds`), and `lease` ends producers that are gone.
//!
//! Invariants beside those of every broker: no new epoch is shown, and nothing appended to it, before the store has the record
//! that says so. Pub/Sub is a hint: whatever it loses is found by comparing. What is tried again after an error is safe to do
//! twice. Failure: while Redis is away appends wait and then say so, viewers keep what they have, and nothing is lost that was
//! acked, because an ack means stored.

mod change;
mod check;
mod dead;
mod face;
mod holds;
mod keys;
mod lease;
mod link;
mod mirror;
mod options;
mod record;
mod registry;
mod room;
mod script;
mod session;
mod subscriber;
mod target;
mod task;
pub mod url;
mod wire;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use flowforge_storage::{LogRecord, LogStore, StoreError, TaskKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

pub use self::check::StartError;
use self::face::Faces;
use self::keys::Shards;
use self::link::Link;
use self::mirror::Mirror;
pub use self::options::{RedisOptions, check_address};
use self::room::Room;
use self::session::{RedisSession, Seat};
use self::subscriber::Order;
use super::queue::Queue;
use super::{
    Batch, Broker, BrokerError, Delivery, FlushLimits, Position, ProducerHello, ProducerSession, QueueSize,
    Subscription,
};

/// How often everything is compared with Redis although no hint came.
const COMPARE: Duration = Duration::from_secs(2);

/// See the module.
pub struct RedisBroker {
    shared: Arc<Shared>,
    /// Ended when the broker is dropped.
    background: Vec<JoinHandle<()>>,
}

/// What all parts of the broker use.
struct Shared {
    options: RedisOptions,
    /// This instance's name: as a worker, and in the consumer group.
    id: String,
    store: Arc<dyn LogStore>,
    link: Link,
    /// A server for Pub/Sub alone.
    publisher: Option<Link>,
    shards: Shards,
    seats: Mutex<HashMap<TaskKey, Vec<Arc<Seat>>>>,
    mirrors: Mutex<HashMap<TaskKey, Arc<Mirror>>>,
    /// For the order of publishing on a second server.
    turns: Mutex<HashMap<TaskKey, Arc<tokio::sync::Mutex<()>>>>,
    /// To the Pub/Sub connection.
    orders: mpsc::Sender<Order>,
    /// Counts hints, for those who wait for something to be stored.
    moved: watch::Sender<u64>,
    /// What this worker has read and the writer has not stored.
    queue: Queue,
    holds: Mutex<holds::Holds>,
    leaving: AtomicBool,
    room: Room,
    faces: Mutex<Faces>,
}

impl RedisBroker {
    /// Checks the servers, and starts what runs in the background.
    pub async fn start(store: Arc<dyn LogStore>, options: RedisOptions) -> Result<Self, StartError> {
        // Two TLS providers may be compiled in; ours is ring. An error says that one is chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let link = check::link("redis.url", &options.url, &options.ca_file)?;
        check::server(&link, "redis.url", &options.url, true).await?;
        let publisher = match options.pubsub_url.as_str() {
            "" => None,
            url => {
                let publisher = check::link("redis.pubsub_url", url, &options.ca_file)?;
                check::server(&publisher, "redis.pubsub_url", url, false).await?;
                Some(publisher)
            }
        };
        check::shards(&link, options.shards).await?;
        let (orders, received) = mpsc::channel(subscriber::ORDERS);
        let shared = Arc::new(Shared {
            id: format!("{}-{:08x}", std::process::id(), fastrand::u32(..)),
            store,
            link,
            publisher,
            shards: Shards::new(options.shards),
            seats: Mutex::default(),
            mirrors: Mutex::default(),
            turns: Mutex::default(),
            orders,
            moved: watch::Sender::new(0),
            queue: Queue::new(options.queue),
            holds: Mutex::default(),
            leaving: AtomicBool::new(false),
            room: Room::new(options.queue),
            faces: Mutex::default(),
            options,
        });
        let mut background = vec![
            tokio::spawn(subscriber::run(Arc::clone(&shared), received)),
            tokio::spawn(every(COMPARE, Arc::clone(&shared), |shared| async move { shared.compare().await })),
            tokio::spawn(every(room::COUNT, Arc::clone(&shared), |shared| async move { shared.count().await })),
            tokio::spawn(every(shared.options.lease / 3, Arc::clone(&shared), |shared| async move {
                shared.renew(&shared.all_seats()).await;
            })),
        ];
        if shared.options.worker {
            background.push(tokio::spawn(worker::run(Arc::clone(&shared))));
            background.push(tokio::spawn(every(face::EVERY, Arc::clone(&shared), |shared| async move {
                shared.show_faces().await;
            })));
        }
        Ok(Self { shared, background })
    }
}

#[cfg(test)]
impl RedisBroker {
    /// As SIGSTOP does to a process: nothing runs any more, nothing is said.
    pub(in crate::broker) fn freeze(&self) {
        self.background.iter().for_each(JoinHandle::abort);
    }

    /// How many shards this worker reads.
    pub(in crate::broker) fn held(&self) -> usize {
        self.shared.held()
    }
}

impl Drop for RedisBroker {
    fn drop(&mut self) {
        self.background.iter().for_each(JoinHandle::abort);
    }
}

async fn every<F: Future<Output = ()>>(period: Duration, shared: Arc<Shared>, work: impl Fn(Arc<Shared>) -> F) {
    let mut ticks = interval(period.max(Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work(Arc::clone(&shared)).await;
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn open(&self, hello: ProducerHello) -> Result<Box<dyn ProducerSession>, BrokerError> {
        Ok(Box::new(RedisSession::open(&self.shared, &hello).await?))
    }

    async fn admit(&self, tenant: &str) {
        self.shared.room.admit(tenant).await;
    }

    async fn subscribe(&self, task: &TaskKey) -> Result<Subscription, BrokerError> {
        let (mirror, subscription) = self.shared.mirrored(task);
        if mirror.position().is_none() {
            self.shared.watch(task).await?;
            self.shared.refresh(&mirror).await?;
        }
        Ok(subscription)
    }

    async fn position(&self, task: &TaskKey) -> Result<Position, BrokerError> {
        if let Some(mirror) = self.shared.mirror(task)
            && mirror.position().is_some()
        {
            // While Redis is away readers go on with what there is.
            if let Err(error) = self.shared.compare_mirror(&mirror).await {
                debug!(%task, %error, "cannot compare a watched task now");
            }
            return Ok(mirror.position().unwrap_or_default());
        }
        loop {
            let seen = self.shared.look(task).await?;
            if seen.is_missing() {
                return Ok(self.shared.position_in_store(task).await?);
            }
            if seen.is_ready() {
                return Ok(seen.state(&[])?.position());
            }
            self.shared.persist(task).await?;
        }
    }

    fn peek(&self, task: &TaskKey) -> Option<Position> {
        self.shared.mirror(task)?.position()
    }

    async fn recover(&self) -> Result<usize, BrokerError> {
        self.shared.recover_tasks().await
    }

    async fn sweep(&self) {
        for shard in self.shared.shards.iter() {
            if let Err(error) = self.shared.sweep_shard(shard).await {
                debug!(shard = shard.number, %error, "the sweep failed, will try again");
                return;
            }
            self.shared.help(shard).await;
        }
        self.shared.forget_mirrors();
    }

    async fn take(&self, limits: &FlushLimits) -> Delivery {
        self.shared.queue.take(limits).await
    }

    async fn refused(&self, task: &TaskKey, record: &LogRecord, why: &str) {
        self.shared.bury_row(task, record, why).await;
    }

    async fn stored(&self, delivery: Delivery) {
        let mut by_shard: HashMap<usize, Vec<Arc<Batch>>> = HashMap::new();
        for batch in &delivery.batches {
            let Some(entry) = &batch.entry else { continue };
            by_shard.entry(entry.shard).or_default().push(Arc::clone(batch));
        }
        for (shard, batches) in by_shard {
            self.shared.tell_stored(shard, &batches).await;
        }
        self.shared.queue.release(&delivery.batches);
    }

    fn drain(&self) {
        self.shared.queue.drain();
    }

    async fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Release);
        self.shared.queue.emptied().await;
        if self.shared.options.worker {
            self.shared.show_faces().await;
            self.shared.leave_shards().await;
        }
    }

    fn queued(&self) -> QueueSize {
        self.shared.queue.size()
    }
}

impl Shared {
    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    fn faces(&self) -> MutexGuard<'_, Faces> {
        self.faces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn compare(self: &Arc<Self>) {
        self.compare_seats(&self.all_seats()).await;
        self.compare_mirrors().await;
    }

    async fn position_in_store(&self, task: &TaskKey) -> Result<Position, StoreError> {
        let Some(stored) = self.store.task(task).await? else { return Ok(Position::default()) };
        Ok(Position { record: Some(Arc::new(stored.record)), end: stored.end, stored: stored.end })
    }

    /// Messages of one channel, in order. One that is lost is found by comparing.
    async fn publish(&self, channel: &str, messages: Vec<Vec<u8>>) {
        let link = self.publisher.as_ref().unwrap_or(&self.link);
        let Ok(conn) = link.conn().await else { return };
        let commands: Vec<_> =
            messages.iter().map(|message| redis::cmd("PUBLISH").arg(channel).arg(message).clone()).collect();
        for result in futures_util::future::join_all(commands.iter().map(|command| conn.run(command))).await {
            if let Err(error) = result {
                link.failed(&conn, &error);
            }
        }
    }

    /// Someone waits for the task's lines to be stored.
    async fn flush_soon(&self, task: &TaskKey) {
        self.queue.flush_now();
        self.publish(&self.shards.of(task).hints, vec![b"F".to_vec()]).await;
    }
}
