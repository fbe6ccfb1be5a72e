//! A site under load: one pairing of broker and store, with producers and viewers, and everything in reach that can break.
//!
//! Between producers and servers, servers and Redis, servers and store there is a proxy, so that each way can fail. A pairing
//! that allows several servers has two, each with every role.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowforge_test_services::clickhouse::Engine;
use flowforge_test_services::postgres::{Database, PASSWORD, PostgresServer};
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_test_services::{Proxy, wait};
use tokio::task::JoinHandle;

use crate::checker::{Allowed, check_store, check_viewer};
use crate::generator::{Generator, Plan};
use crate::server::{Overrides, Server};
use crate::store_read;
use crate::viewer::Viewer;
use crate::wait::PATIENCE;

/// Lines a second of one producer.
const RATE: u32 = 700;

/// Lines without which a site has proven nothing.
const LEAST_LINES: u64 = 3_000;

/// Of each site.
pub(crate) const TASKS: [&str; 2] = ["site-a", "site-b"];

/// Who queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    /// The server itself.
    Memory,
    /// A Redis.
    Redis,
}

/// Who keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// A file of the server's own.
    Sqlite,
    /// A PostgreSQL.
    Postgres,
    /// A ClickHouse.
    ClickHouse,
}

/// What the configuration can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair(pub BrokerKind, pub StoreKind);

impl Pair {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self(BrokerKind::Memory, StoreKind::Sqlite),
        Self(BrokerKind::Redis, StoreKind::Postgres),
        Self(BrokerKind::Memory, StoreKind::ClickHouse),
        Self(BrokerKind::Redis, StoreKind::Sqlite),
        Self(BrokerKind::Memory, StoreKind::Postgres),
        Self(BrokerKind::Redis, StoreKind::ClickHouse),
    ];

    /// Whether several servers may work together.
    pub fn is_shared(self) -> bool {
        self.0 == BrokerKind::Redis && self.1 != StoreKind::Sqlite
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broker = match self.0 {
            BrokerKind::Memory => "memory",
            BrokerKind::Redis => "redis",
        };
        let store = match self.1 {
            StoreKind::Sqlite => "sqlite",
            StoreKind::Postgres => "postgres",
            StoreKind::ClickHouse => "clickhouse",
        };
        write!(f, "{broker}+{store}")
    }
}

/// The store's own server.
#[derive(Debug)]
pub enum Store {
    /// None: the file is [`Server::database`].
    Sqlite,
    /// A server, a database on it, and the way to it.
    Postgres(PostgresServer, Database, Proxy),
    /// An engine, and the way to it.
    ClickHouse(Engine, Proxy),
}

impl Store {
    async fn start(kind: StoreKind) -> Result<Self> {
        Ok(match kind {
            StoreKind::Sqlite => Self::Sqlite,
            StoreKind::Postgres => {
                let server = PostgresServer::start().await?;
                let database = server.database().await?;
                let proxy = Proxy::start(server.address()).await?;
                Self::Postgres(server, database, proxy)
            }
            StoreKind::ClickHouse => {
                let engine = Engine::start().await?;
                let proxy = Proxy::start(engine.address()).await?;
                Self::ClickHouse(engine, proxy)
            }
        })
    }

    fn settings(&self, settings: Overrides) -> Overrides {
        match self {
            Self::Sqlite => settings.set("sqlite.busy_timeout", "100ms"),
            Self::Postgres(_, database, proxy) => {
                let url =
                    format!("\"postgres://boss:{PASSWORD}@{}/{}?sslmode=disable\"", proxy.address(), database.name());
                settings.set("logging.storage_driver", "postgres").set("postgres.url", &url)
            }
            Self::ClickHouse(_, proxy) => settings
                .set("logging.storage_driver", "clickhouse")
                .set("clickhouse.timeout", "5s")
                .set("clickhouse.hosts", &format!("[\"http://{}\"]", proxy.address())),
        }
    }

    /// The way to it, if there is one.
    pub fn way(&self) -> Option<&Proxy> {
        match self {
            Self::Sqlite => None,
            Self::Postgres(_, _, proxy) | Self::ClickHouse(_, proxy) => Some(proxy),
        }
    }
}

/// A viewer that follows on its own.
#[derive(Debug)]
struct Watcher {
    task: &'static str,
    /// Reads as fast as it can.
    eager: bool,
    shown: Arc<AtomicU64>,
    following: JoinHandle<Result<Viewer>>,
}

/// See the module.
#[derive(Debug)]
pub struct Site {
    /// What it is made of.
    pub pair: Pair,
    /// The store's server.
    pub store: Store,
    /// The broker's, with the way to it.
    pub redis: Option<(Redis, Proxy)>,
    /// One or two.
    pub servers: Vec<Server>,
    /// From producers to each server.
    pub ways: Vec<Proxy>,
    generators: Vec<(&'static str, Generator)>,
    watchers: Vec<Watcher>,
}

/// What a site came through with.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Rows stored, those of the server's own included.
    pub rows: usize,
    /// The longest that an eager viewer was shown nothing.
    pub longest_silence: Duration,
}

impl Site {
    /// Starts everything, and returns when lines flow from every producer to the store and to every viewer.
    pub async fn under_load(pair: Pair, settings: Overrides) -> Result<Self> {
        let mut site = Self::start(pair, settings).await?;
        for (number, task) in TASKS.iter().cycle().take(3).enumerate() {
            let home = site.ways[number % site.ways.len()].address();
            let away = site.ways[(number + 1) % site.ways.len()].address();
            let plan = Plan::endless(&format!("http://{home}"), task, &format!("{task}/{number}"), RATE);
            let plan = Plan { batch: 50, others: vec![format!("http://{away}")], ..plan };
            site.generators.push((task, Generator::start(plan)));
        }
        for (number, task) in TASKS.iter().cycle().take(4).enumerate() {
            site.watch(task, &format!("{task}/v{number}"), number % site.servers.len(), number < 3);
        }
        site.recovered().await.context("before any fault")?;
        Ok(site)
    }

    /// Starts everything, without producers and viewers.
    pub async fn start(pair: Pair, settings: Overrides) -> Result<Self> {
        let store = Store::start(pair.1).await?;
        let mut settings = store.settings(settings).set("shutdown.grace", "5s");
        let mut redis = None;
        if pair.0 == BrokerKind::Redis {
            let server = Redis::start(Persistence::Always).await?;
            let proxy = Proxy::start(server.address()).await?;
            settings = settings.set("broker.driver", "redis").set("queue.claim_idle", "2s");
            settings = settings.set("redis.url", &format!("redis://{}", proxy.address()));
            redis = Some((server, proxy));
        }
        let (mut servers, mut ways) = (Vec::new(), Vec::new());
        for _ in 0..if pair.is_shared() { 2 } else { 1 } {
            let server = Server::start_with(settings.clone()).await?;
            ways.push(Proxy::start(server.grpc_address()).await?);
            servers.push(server);
        }
        Ok(Self { pair, store, redis, servers, ways, generators: Vec::new(), watchers: Vec::new() })
    }

    fn watch(&mut self, task: &'static str, name: &str, server: usize, eager: bool) {
        let mut viewer = Viewer::whole(name, &self.servers[server].task_url(task));
        // One cannot keep up.
        viewer.events_per_second = (!eager).then_some(RATE);
        let shown = Arc::clone(&viewer.shown);
        self.watchers.push(Watcher { task, eager, shown, following: tokio::spawn(viewer.follow()) });
    }

    /// The broker's Redis.
    pub fn redis(&mut self) -> Result<&mut (Redis, Proxy)> {
        self.redis.as_mut().context("this site has no Redis")
    }

    /// Lines captured and not acked, of all producers.
    pub fn unacked(&self) -> u64 {
        self.generators.iter().map(|(_, generator)| generator.journal()).map(|now| now.captured - now.acked).sum()
    }

    /// Calls that have begun well, of all producers.
    pub fn welcomes(&self) -> u64 {
        self.generators.iter().map(|(_, generator)| generator.journal().welcomes).sum()
    }

    /// Waits until what is captured by now is acked, and until eager viewers have been shown what the store has then. Gives how
    /// long that took.
    pub async fn recovered(&self) -> Result<Duration> {
        let since = Instant::now();
        let due: Vec<u64> = self.generators.iter().map(|(_, generator)| generator.journal().captured + 1).collect();
        wait::until("everything that was captured to be acked", PATIENCE, async || {
            let mut pairs = self.generators.iter().zip(&due);
            Ok(pairs.all(|((_, generator), due)| generator.journal().acked >= *due).then_some(()))
        })
        .await?;
        for task in TASKS {
            // Each acked line is a row; other rows only make more of them.
            let due: u64 =
                self.generators.iter().zip(&due).filter(|((of, _), _)| *of == task).map(|(_, due)| due).sum();
            wait::until("viewers to be shown what was acked", PATIENCE, async || {
                let mut of_task = self.watchers.iter().filter(|watcher| watcher.eager && watcher.task == task);
                Ok(of_task.all(|watcher| watcher.shown.load(Ordering::Relaxed) >= due).then_some(()))
            })
            .await?;
        }
        Ok(since.elapsed())
    }

    /// Lets the producers finish, and checks every promise: in the store, as every server tells it, and at every viewer.
    pub async fn check(self, allowed: Allowed) -> Result<Report> {
        // What was broken unnoticed shows in what comes after.
        wait::until("life to go on", PATIENCE, async || {
            let captured: u64 = self.generators.iter().map(|(_, generator)| generator.journal().captured).sum();
            Ok((captured >= LEAST_LINES).then_some(()))
        })
        .await?;
        let mut journals = Vec::new();
        for (task, generator) in self.generators {
            journals.push((task, generator.finish().await?));
        }
        let mut report = Report { rows: 0, longest_silence: Duration::ZERO };
        let mut stores = Vec::new();
        for task in TASKS {
            let of_task: Vec<_> =
                journals.iter().filter(|(of, _)| *of == task).map(|(_, journal)| journal.clone()).collect();
            for server in &self.servers {
                let rows = store_read::over_http(&server.task_url(task)).await?;
                check_store(&rows, &of_task)?;
                stores.push((task, rows));
            }
        }
        for watcher in self.watchers {
            let viewer = watcher.following.await??;
            for (_, rows) in stores.iter().filter(|(task, _)| *task == watcher.task) {
                check_viewer(&viewer, rows, allowed)?;
            }
            if watcher.eager {
                report.longest_silence = report.longest_silence.max(viewer.longest_outage);
            }
        }
        report.rows = stores.iter().map(|(_, rows)| rows.rows.len()).sum::<usize>() / self.servers.len();
        ensure!(report.rows as u64 >= LEAST_LINES, "only {} rows", report.rows);
        if let Some((redis, _)) = &self.redis {
            nothing_pending(redis).await?;
        }
        Ok(report)
    }
}

/// What was given to a worker and not acknowledged: nothing, in the end.
async fn nothing_pending(redis: &Redis) -> Result<()> {
    let streams = redis.command(&["KEYS", "logs:stream*"])?;
    for stream in streams.lines().filter(|name| redis.command(&["TYPE", name]).is_ok_and(|kind| kind == "stream")) {
        wait::until(&format!("no entry of {stream} to be pending"), PATIENCE, async || {
            let left = redis.command(&["XLEN", stream])?;
            Ok((left == "0").then_some(()))
        })
        .await?;
    }
    Ok(())
}
