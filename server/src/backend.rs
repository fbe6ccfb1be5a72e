//! Which broker and which store: the one place where the configuration chooses, and knows them all.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::clickhouse::ClickhouseOptions;
use flowforge_storage::postgres::PostgresOptions;
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{ClickhouseStore, LogStore, PostgresStore, SqliteStore};

use crate::broker::Broker;
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::broker::queue::QueueLimits;
use crate::broker::redis::{RedisBroker, RedisOptions};
use crate::config::{BrokerDriver, ClickhouseConfig, Config, PostgresConfig, StorageDriver};
use crate::role::{Role, Roles};

/// How long a producer's call waits for Redis before it is told to try elsewhere.
const REDIS_PATIENCE: Duration = Duration::from_secs(10);

/// Opens the store that `logging.storage_driver` names, with all that it needs created.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn LogStore>> {
    let store: Arc<dyn LogStore> = match config.logging.storage_driver {
        StorageDriver::Sqlite => Arc::new(SqliteStore::open(sqlite_options(config)).await?),
        StorageDriver::Postgres => Arc::new(PostgresStore::open(postgres_options(config)).await?),
        StorageDriver::Clickhouse => Arc::new(ClickhouseStore::open(clickhouse_options(config)).await?),
    };
    store.migrate().await?;
    Ok(store)
}

/// Starts the broker that `broker.driver` names.
pub async fn open_broker(config: &Config, roles: &Roles, store: &Arc<dyn LogStore>) -> anyhow::Result<Arc<dyn Broker>> {
    Ok(match config.broker.driver {
        BrokerDriver::Memory => Arc::new(MemoryBroker::new(Arc::clone(store), memory_options(config))),
        BrokerDriver::Redis => Arc::new(RedisBroker::start(Arc::clone(store), redis_options(config, roles)).await?),
    })
}

fn sqlite_options(config: &Config) -> SqliteOptions {
    SqliteOptions {
        path: config.sqlite.path.clone(),
        busy_timeout: config.sqlite.busy_timeout.duration(),
        read_connections: config.sqlite.read_connections,
    }
}

fn postgres_options(config: &Config) -> PostgresOptions {
    let PostgresConfig { url, max_connections, statement_timeout } = &config.postgres;
    PostgresOptions {
        url: url.reveal().to_owned(),
        max_connections: *max_connections,
        statement_timeout: statement_timeout.duration(),
    }
}

fn clickhouse_options(config: &Config) -> ClickhouseOptions {
    let ClickhouseConfig { hosts, ca_file, database, user, password, search_index, cluster, fsync, timeout } =
        config.clickhouse.clone();
    ClickhouseOptions {
        hosts,
        ca_file,
        database,
        user,
        password: password.reveal().to_owned(),
        search_index: search_index.into(),
        cluster,
        retention_days: config.retention.days,
        fsync,
        timeout: timeout.duration(),
    }
}

fn memory_options(config: &Config) -> MemoryOptions {
    MemoryOptions {
        lease: config.broker.lease.duration(),
        recent_bytes: config.tail.buffer.in_memory(),
        max_producers: config.broker.max_producers,
        queue: QueueLimits {
            max_bytes: config.queue.max_bytes.in_memory(),
            max_tenant_bytes: config.queue.max_tenant_bytes.in_memory(),
        },
    }
}

fn redis_options(config: &Config, roles: &Roles) -> RedisOptions {
    let MemoryOptions { lease, recent_bytes, max_producers, queue } = memory_options(config);
    RedisOptions {
        url: config.redis.url.reveal().to_owned(),
        pubsub_url: config.redis.pubsub_url.reveal().to_owned(),
        ca_file: config.redis.ca_file.clone(),
        shards: config.queue.shards,
        claim_idle: config.queue.claim_idle.duration(),
        worker: roles.has(Role::Worker),
        lease,
        recent_bytes,
        max_producers,
        queue,
        patience: REDIS_PATIENCE,
    }
}
