//! What a person wants to see of a good configuration. Secrets stay out.

use std::path::{Path, PathBuf};

use super::{BrokerDriver, Config, StorageDriver};

/// All that matters, in one sentence.
pub fn describe(config: &Config) -> String {
    let Config { server, retention, .. } = config;
    let days = if retention.days == 0 { "for ever".to_owned() } else { format!("{} days", retention.days) };
    let (broker, store) = (describe_broker(config), describe_store(config));
    let canary = match &config.canary {
        canary if canary.enabled => {
            format!(", a canary every {:?} where ingest and tail are one process", canary.interval)
        }
        _ => String::new(),
    };
    format!(
        "gRPC on {}, HTTP on {}, lines queued in {broker}, kept {days} in {store}{canary}",
        server.grpc, server.http
    )
}

/// Where lines get their order and wait for the store.
pub fn describe_broker(config: &Config) -> String {
    let Config { broker, redis, queue, .. } = config;
    match broker.driver {
        BrokerDriver::Memory => "memory".to_owned(),
        BrokerDriver::Redis if redis.pubsub_url.is_empty() => {
            format!("Redis at {} ({} shards)", redis.url, queue.shards)
        }
        BrokerDriver::Redis => {
            format!("Redis at {} ({} shards), published at {}", redis.url, queue.shards, redis.pubsub_url)
        }
    }
}

/// Where lines are kept.
pub fn describe_store(config: &Config) -> String {
    match config.logging.storage_driver {
        StorageDriver::Sqlite => format!("SQLite at {}", full_path(&config.sqlite.path).display()),
        StorageDriver::Postgres => format!("PostgreSQL at {}", config.postgres.url),
        StorageDriver::Clickhouse => {
            let clickhouse = &config.clickhouse;
            format!("ClickHouse at {}, database {}", clickhouse.hosts.join(", "), clickhouse.database)
        }
    }
}

/// A relative path means another file in every working directory.
fn full_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
