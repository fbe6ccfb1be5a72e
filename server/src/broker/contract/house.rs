//! A store, the servers of a broker, and instances over them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{LogRecord, LogStore, ReadQuery, SqliteStore};
use flowforge_test_services::redis::{Persistence, Redis, RedisCluster, RedisSentinel, own_url};
use flowforge_test_services::wait;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use super::gate::Gate;
use super::sending::{hello, task};
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::broker::queue::QueueLimits;
use crate::broker::redis::{RedisBroker, RedisOptions, StartError};
use crate::broker::{Broker, FlushLimits, Position, ProducerSession, Subscription};
use crate::tail::history::History;
use crate::tail::scan::{Scan, Scanner};
use crate::writer::Writer;

/// Flushes come soon, so that tests do.
pub(super) const SOON: FlushLimits =
    FlushLimits { max_rows: 1, max_delay: Duration::ZERO, hard_max_rows: 1000, min_interval: Duration::from_millis(5) };

/// How long anything may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The servers behind the brokers of a test.
pub(super) enum Servers {
    Memory,
    /// A user's own; one test at a time.
    Own(String, #[allow(dead_code, reason = "held")] OwnedMutexGuard<()>),
    One(Box<Redis>),
    Two(Box<Redis>, Box<Redis>),
    Cluster(RedisCluster),
    Sentinel(Box<RedisSentinel>),
}

/// Times and bounds that a case wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) lease: Duration,
    pub(super) queue_bytes: usize,
    pub(super) max_producers: usize,
    pub(super) worker: bool,
    pub(super) patience: Duration,
    pub(super) shards: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease: Duration::from_mins(1),
            queue_bytes: 64 << 20,
            max_producers: 8,
            worker: true,
            patience: Duration::from_secs(10),
            shards: 2,
        }
    }
}

pub(super) struct House {
    pub(super) store: Arc<dyn LogStore>,
    /// The same, to be told what to refuse.
    pub(super) gate: Arc<Gate>,
    pub(super) servers: Servers,
    _dir: tempfile::TempDir,
}

/// One broker, perhaps with what a server runs over it.
pub(super) struct Instance {
    pub(super) broker: Arc<dyn Broker>,
    store: Arc<dyn LogStore>,
    running: Vec<JoinHandle<()>>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

impl House {
    async fn over(servers: Servers) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(dir.path().join("t.db"))).await.unwrap();
        store.migrate().await.unwrap();
        let gate = Arc::new(Gate::new(Arc::new(store)));
        Some(Self { store: Arc::clone(&gate) as Arc<dyn LogStore>, gate, servers, _dir: dir })
    }

    pub(super) async fn memory() -> Option<Self> {
        Self::over(Servers::Memory).await
    }

    pub(super) async fn redis() -> Option<Self> {
        if let Some(url) = own_url() {
            static TURN: std::sync::LazyLock<Arc<tokio::sync::Mutex<()>>> = std::sync::LazyLock::new(Arc::default);
            let turn = Arc::clone(&TURN).lock_owned().await;
            let client = ::redis::Client::open(url.as_str()).unwrap();
            let mut conn = client.get_multiplexed_async_connection().await.unwrap();
            ::redis::cmd("FLUSHDB").exec_async(&mut conn).await.unwrap();
            return Self::over(Servers::Own(url, turn)).await;
        }
        Self::over(Servers::One(Box::new(Redis::start(Persistence::Always).await.unwrap()))).await
    }

    pub(super) async fn redis_with_pubsub() -> Option<Self> {
        let (one, two) =
            (Redis::start(Persistence::Always).await.unwrap(), Redis::start(Persistence::None).await.unwrap());
        Self::over(Servers::Two(Box::new(one), Box::new(two))).await
    }

    pub(super) async fn redis_cluster() -> Option<Self> {
        Self::over(Servers::Cluster(RedisCluster::start().await.unwrap())).await
    }

    pub(super) async fn redis_sentinel() -> Option<Self> {
        Self::over(Servers::Sentinel(Box::new(RedisSentinel::start().await.unwrap()))).await
    }

    /// A broker and nothing that runs over it. For memory: one with a memory of its own.
    pub(super) async fn bare(&self, terms: Terms) -> Instance {
        let broker: Arc<dyn Broker> = match self.options(terms) {
            None => {
                let queue = QueueLimits { max_bytes: terms.queue_bytes, max_tenant_bytes: terms.queue_bytes };
                let (lease, max_producers) = (terms.lease, terms.max_producers);
                let options = MemoryOptions { lease, recent_bytes: 1 << 16, max_producers, queue };
                Arc::new(MemoryBroker::new(Arc::clone(&self.store), options))
            }
            Some(_) => Arc::new(self.start(terms).await.unwrap()),
        };
        Instance { broker, store: Arc::clone(&self.store), running: Vec::new() }
    }

    /// A broker with its writer and its sweep, as in a server.
    pub(super) async fn instance(&self, terms: Terms) -> Instance {
        let mut instance = self.bare(terms).await;
        instance.sweep();
        if terms.worker {
            instance.write();
        }
        instance
    }

    pub(super) async fn start(&self, terms: Terms) -> Result<RedisBroker, StartError> {
        RedisBroker::start(Arc::clone(&self.store), self.options(terms).expect("a broker over Redis")).await
    }

    /// `None` for memory.
    pub(super) fn options(&self, terms: Terms) -> Option<RedisOptions> {
        let (url, pubsub_url) = match &self.servers {
            Servers::Memory => return None,
            Servers::Own(url, _) => (url.clone(), String::new()),
            Servers::One(redis) => (redis.url(), String::new()),
            Servers::Two(redis, pubsub) => (redis.url(), pubsub.url()),
            Servers::Cluster(cluster) => (cluster.url(), String::new()),
            Servers::Sentinel(sentinel) => (sentinel.url(), String::new()),
        };
        Some(RedisOptions {
            url,
            pubsub_url,
            ca_file: PathBuf::new(),
            shards: terms.shards,
            claim_idle: Duration::from_secs(1),
            worker: terms.worker,
            lease: terms.lease,
            recent_bytes: 1 << 16,
            max_producers: terms.max_producers,
            queue: QueueLimits { max_bytes: terms.queue_bytes, max_tenant_bytes: terms.queue_bytes },
            patience: terms.patience,
        })
    }

    /// The durable servers, to be asked directly; empty for a user's own and for memory.
    pub(super) fn durable(&self) -> Vec<&Redis> {
        match &self.servers {
            Servers::Memory | Servers::Own(..) => Vec::new(),
            Servers::One(redis) | Servers::Two(redis, _) => vec![redis],
            Servers::Cluster(cluster) => cluster.nodes.iter().collect(),
            Servers::Sentinel(sentinel) => vec![&sentinel.master],
        }
    }

    /// The servers that publish.
    pub(super) fn publishing(&self) -> Vec<&Redis> {
        match &self.servers {
            Servers::Two(_, pubsub) => vec![pubsub],
            _ => self.durable(),
        }
    }

    /// The one durable server, to be killed; `None` for a user's own.
    pub(super) fn one(&mut self) -> Option<&mut Redis> {
        match &mut self.servers {
            Servers::One(redis) | Servers::Two(redis, _) => Some(redis),
            _ => None,
        }
    }

    /// Everything that the store has of the task.
    pub(super) async fn stored(&self) -> Vec<LogRecord> {
        let mut rows = Vec::new();
        loop {
            let from = rows.last().map_or(1, |row: &LogRecord| row.offset + 1);
            let page = self.store.read(&task(), &ReadQuery::forward(from, u64::MAX >> 1, 1000)).await.unwrap();
            if page.records.is_empty() {
                return rows;
            }
            rows.extend(page.records);
        }
    }
}

impl Instance {
    pub(super) fn write(&mut self) {
        let writer = Writer { broker: Arc::clone(&self.broker), store: Arc::clone(&self.store), limits: SOON };
        self.running.push(tokio::spawn(writer.run()));
    }

    pub(super) fn sweep(&mut self) {
        let broker = Arc::clone(&self.broker);
        self.running.push(tokio::spawn(async move {
            loop {
                broker.sweep().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    pub(super) async fn insert(&self, delivery: &crate::broker::Delivery) {
        let lines: Vec<_> = delivery
            .batches
            .iter()
            .map(|batch| flowforge_storage::TaskLines { task: batch.task.clone(), records: &batch.records })
            .collect();
        self.store.insert(&lines).await.unwrap();
    }

    pub(super) async fn open(&self, number: u8) -> Box<dyn ProducerSession> {
        self.broker.open(hello(number)).await.unwrap()
    }

    pub(super) async fn position(&self) -> Position {
        self.broker.position(&task()).await.unwrap()
    }

    /// Waits until the position is as wanted.
    pub(super) async fn position_where(&self, what: &str, wanted: impl Fn(&Position) -> bool) -> Position {
        wait::until(what, LIMIT, async || {
            let position = self.position().await;
            Ok(wanted(&position).then_some(position))
        })
        .await
        .unwrap()
    }

    pub(super) async fn watch(&self) -> Subscription {
        self.broker.subscribe(&task()).await.unwrap()
    }

    /// Follows the task from its first line as a viewer does, through every epoch, until it has ended.
    pub(super) fn follow(&self) -> JoinHandle<Vec<LogRecord>> {
        let scanner =
            Scanner { task: task(), broker: Arc::clone(&self.broker), history: History::new(Arc::clone(&self.store)) };
        tokio::spawn(async move {
            let mut viewer = scanner.broker.subscribe(&task()).await.unwrap();
            let (mut rows, mut next): (Vec<LogRecord>, u64) = (Vec::new(), 1);
            loop {
                viewer.mark_seen();
                let Some(position) = scanner.broker.peek(&task()) else { continue };
                // What stands above the base of an epoch that it does not belong to is void.
                let void = |row: &LogRecord| {
                    let epochs = position.record.iter().flat_map(|record| &record.epochs);
                    epochs.filter(|start| start.epoch > row.epoch).any(|start| row.offset > start.base)
                };
                while rows.last().is_some_and(void) {
                    rows.pop();
                    next -= 1;
                }
                match scanner.scan(viewer.feed(), next, &position, 4096).await.unwrap() {
                    Scan::Recent(batches) => {
                        let read = batches.iter().flat_map(|batch| &batch.records);
                        rows.extend(read.filter(|row| row.offset >= next).cloned());
                    }
                    Scan::Stored(page) => rows.extend_from_slice(page.records()),
                    Scan::Missing { .. } => tokio::time::sleep(Duration::from_millis(5)).await,
                    Scan::CaughtUp if position.ended().is_some() => return rows,
                    Scan::CaughtUp => {
                        let _ = tokio::time::timeout(Duration::from_secs(2), viewer.changed()).await;
                    }
                }
                next = rows.last().map_or(1, |row| row.offset + 1);
            }
        })
    }
}

pub(super) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}
