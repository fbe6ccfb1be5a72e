//! Configuration: defaults, then `config.yaml`, then `FLOWFORGE__SECTION__KEY` from the environment.
//!
//! One struct a section; the defaults are here, and `config.yaml` documents every key with its default (a test holds the two
//! equal). Loading reports all problems at once, each with its place (`load`).

mod canary;
mod clickhouse;
mod describe;
mod load;
mod postgres;
mod redis;
mod rules;
mod secret;
mod units;
mod unread;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use canary::CanaryConfig;
pub use clickhouse::{ClickhouseConfig, SearchIndexConfig};
pub use describe::{describe, describe_broker, describe_store};
pub use load::{ConfigError, DEFAULT_PATH};
pub use postgres::PostgresConfig;
pub use redis::RedisConfig;
pub use secret::{Secret, SecretUrl};
pub use units::{AutoPeriod, Period, Size};
pub use unread::unread_variables;

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the server listens.
    pub server: ServerConfig,
    /// The server's own log, and which store keeps the tasks' logs.
    pub logging: LoggingConfig,
    /// The embedded store.
    pub sqlite: SqliteConfig,
    /// The store in a PostgreSQL database.
    pub postgres: PostgresConfig,
    /// The store for many lines.
    pub clickhouse: ClickhouseConfig,
    /// Who gives order and keeps the queue; producers.
    pub broker: BrokerConfig,
    /// Where Redis is.
    pub redis: RedisConfig,
    /// When queued lines are written to the store.
    pub batch: BatchConfig,
    /// How much may wait for the store.
    pub queue: QueueConfig,
    /// What a producer may send.
    pub limits: LimitsConfig,
    /// Readers.
    pub tail: TailConfig,
    /// How long lines are kept.
    pub retention: RetentionConfig,
    /// A task of the server's own, which tests it all the time.
    pub canary: CanaryConfig,
    /// Going down.
    pub shutdown: ShutdownConfig,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// gRPC, for producers. Port 0: a free one, printed at start.
    pub grpc: SocketAddr,
    /// HTTP, for readers.
    pub http: SocketAddr,
    /// How people reach `http` from where they are; empty: `http://` and the address.
    pub public_url: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { grpc: ([127, 0, 0, 1], 50051).into(), http: ([127, 0, 0, 1], 8080).into(), public_url: String::new() }
    }
}

/// The server's own log, and which store keeps the tasks' logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// A level, or `tracing` directives such as `info,flowforge_server::writer=debug`.
    pub level: String,
    /// How the server's own log is written.
    pub format: LogFormat,
    /// Which store keeps the tasks' logs.
    pub storage_driver: StorageDriver,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, storage_driver: StorageDriver::Sqlite }
    }
}

/// How the server's own log is written, to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which store keeps the tasks' logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageDriver {
    /// One file, in this process.
    Sqlite,
    /// A PostgreSQL database.
    Postgres,
    /// A ClickHouse server, or several.
    Clickhouse,
}

impl StorageDriver {
    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Clickhouse => "clickhouse",
        }
    }
}

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file; its folders are created.
    pub path: PathBuf,
    /// How long a write waits for a lock that someone else holds on the file.
    pub busy_timeout: Period,
    /// Reads that run at once.
    pub read_connections: u32,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self { path: "./data/flowforge.db".into(), busy_timeout: Period::seconds(5), read_connections: 4 }
    }
}

/// Who gives order and keeps the queue; producers.
/// Producers and the recent window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// Which broker.
    pub driver: BrokerDriver,
    /// How long a producer without a connection still counts as running.
    pub lease: Period,
    /// Producers of one task and attempt.
    pub max_producers: usize,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { driver: BrokerDriver::Memory, lease: Period::seconds(30), max_producers: 1_000 }
    }
}

/// Which broker gives order and keeps the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerDriver {
    /// This process: one server.
    Memory,
    /// Redis: any number of servers.
    Redis,
}

/// When queued lines are written to the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// So old a line starts a flush.
    pub max_delay: Period,
    /// So many lines start a flush.
    pub max_rows: usize,
    /// No flush carries more lines.
    pub hard_max_rows: usize,
    /// The shortest time between two flushes that are not full; auto: what suits the store.
    pub min_interval: AutoPeriod,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_delay: Period::seconds(1), max_rows: 100, hard_max_rows: 20_000, min_interval: AutoPeriod::Auto }
    }
}

/// What waits for the store: in this process's memory, or in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Of all tenants. Past it no producer is read from.
    pub max_bytes: Size,
    /// Of one tenant. Past it no producer of that tenant is read from.
    pub max_tenant_bytes: Size,
    /// Into how many streams the queue in Redis is split.
    pub shards: usize,
    /// A worker that is silent for so long loses what it was given to another.
    pub claim_idle: Period,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_bytes: Size::mebibytes(256),
            max_tenant_bytes: Size::mebibytes(192),
            shards: 4,
            claim_idle: Period::seconds(10),
        }
    }
}

/// What a producer may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Longer lines are split by the client.
    pub max_line_bytes: Size,
    /// One gRPC message.
    pub max_message_bytes: Size,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_line_bytes: Size::kibibytes(64), max_message_bytes: Size::mebibytes(4) }
    }
}

/// Readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TailConfig {
    /// Lines that a stream begins with when its reader does not say.
    pub default_lines: u64,
    /// The most that one live write to a reader carries, and the recent window kept for readers that are a little behind.
    pub buffer: Size,
    /// The longest silence on a stream.
    pub heartbeat: Period,
}

impl Default for TailConfig {
    fn default() -> Self {
        Self { default_lines: 1_000, buffer: Size::kibibytes(256), heartbeat: Period::seconds(15) }
    }
}

/// How long lines are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Days; 0 = for ever.
    pub days: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { days: 7 }
    }
}

/// Going down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long a drain may take after SIGTERM or Ctrl-C.
    pub grace: Period,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { grace: Period::seconds(10) }
    }
}

impl Config {
    /// `batch.min_interval` of the store that is used. ClickHouse makes a part of every insert and merges them later: few
    /// and large ones cost it least.
    pub fn min_interval(&self) -> Duration {
        self.batch.min_interval.or(match self.logging.storage_driver {
            StorageDriver::Sqlite | StorageDriver::Postgres => Period::milliseconds(200),
            StorageDriver::Clickhouse => Period::milliseconds(500),
        })
    }
}
