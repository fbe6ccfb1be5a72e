//! A store, the servers of a broker, and instances over them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{
    Claim, LogRecord, LogStore, Outcome, ProducerId, ReadQuery, SqliteStore, Stream, TaskKey, TaskStatus,
};
use flowforge_test_services::redis::{Persistence, Redis, RedisCluster, RedisSentinel, own_url};
use flowforge_test_services::wait;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::broker::queue::QueueLimits;
use crate::broker::redis::{RedisBroker, RedisOptions, StartError};
use crate::broker::{
    Broker, BrokerError, Ending, FlushLimits, NewLine, Position, ProducerHello, ProducerSession, Subscription,
};
use crate::tail::history::History;
use crate::tail::scan::{Scan, Scanner};
use crate::writer::Writer;

pub(super) const OK: Outcome = Outcome { status: TaskStatus::Succeeded, exit_code: Some(0) };

/// What a Close says without a proof.
pub(super) fn ending(final_seq: u64, outcome: Outcome) -> Ending {
    Ending { outcome, claim: Claim { final_seq, proof: None, recovery: None } }
}

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
        Some(Self { store: Arc::new(store), servers, _dir: dir })
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

/// Waits until so many of the producer's lines are stored.
pub(super) async fn acked(session: &dyn ProducerSession, seq: u64) {
    let mut progress = session.progress();
    in_time(progress.wait_for(|progress| progress.stored_seq >= seq)).await.unwrap();
}

/// Sends lines 1 to `count` as a client does: after an error it says Hello again and sends what is not accepted.
pub(super) async fn send_all(broker: Arc<dyn Broker>, number: u8, count: u64, batch: u64) -> Box<dyn ProducerSession> {
    let give_up = tokio::time::Instant::now() + 2 * LIMIT;
    'hello: loop {
        assert!(tokio::time::Instant::now() < give_up, "producer {number} could not send everything");
        let Ok(mut session) = broker.open(hello(number)).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut next = session.welcome().queued_seq + 1;
        while next <= count {
            let last = (next + batch - 1).min(count);
            match session.append(next, lines(number, next..=last)).await {
                Ok(()) => next = last + 1,
                Err(BrokerError::Gap { expected_seq }) => next = expected_seq,
                Err(_) => continue 'hello,
            }
        }
        let mut progress = session.progress();
        match tokio::time::timeout(LIMIT, progress.wait_for(|progress| progress.stored_seq >= count)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => continue,
            Err(late) => panic!("{number} is not told that all is stored, {late}: {:?}", session.progress().borrow()),
        }
        return session;
    }
}

/// Every offset once, every producer's lines once and in order.
pub(super) fn check(rows: &[LogRecord], producers: &[(u8, u64)]) {
    for (row, offset) in rows.iter().zip(1..) {
        assert_eq!(row.offset, offset, "offsets are contiguous");
    }
    for (number, count) in producers {
        let id = producer(*number);
        let seqs: Vec<u64> = rows.iter().filter(|row| row.producer == id).map(|row| row.seq).collect();
        assert_eq!(seqs, (1..=*count).collect::<Vec<_>>(), "lines of producer {number}");
        for row in rows.iter().filter(|row| row.producer == id) {
            assert_eq!(row.message, message(*number, row.seq));
        }
    }
}

pub(super) fn task() -> TaskKey {
    TaskKey::new("", "t").unwrap()
}

pub(super) fn producer(number: u8) -> ProducerId {
    ProducerId([number; 16])
}

pub(super) fn hello(number: u8) -> ProducerHello {
    ProducerHello {
        task: task(),
        producer: producer(number),
        first_unacked_seq: 1,
        owner: number == 1,
        attempt: 0,
        workflow_id: "w".to_owned(),
        name: String::new(),
        labels: BTreeMap::new(),
    }
}

fn message(number: u8, seq: u64) -> Bytes {
    // Not UTF-8 now and then.
    let mut text = format!("line {seq} of {number}").into_bytes();
    if seq.is_multiple_of(7) {
        text.push(0xff);
    }
    text.into()
}

pub(super) fn lines(number: u8, seqs: std::ops::RangeInclusive<u64>) -> Vec<NewLine> {
    let line = |seq| NewLine {
        time_ns: 1_700_000_000_000_000_000 + seq as i64,
        stream: Stream::Stdout,
        level: 0,
        message: message(number, seq),
        fields: if seq % 5 == 0 { Bytes::from_static(b"{\"a\": 1.0}") } else { Bytes::new() },
        update_id: 0,
        continued: false,
        no_newline: false,
        dropped: None,
    };
    seqs.map(line).collect()
}

pub(super) fn dropped(lines: u64) -> NewLine {
    NewLine {
        stream: Stream::System,
        dropped: Some(crate::broker::DroppedRun { lines, bytes: 10 * lines }),
        ..self::lines(1, 1..=1).remove(0)
    }
}
