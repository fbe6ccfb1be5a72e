//! What the broker is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use super::url::RedisAddress;
use crate::broker::queue::QueueLimits;

/// Bounds, times and addresses.
#[derive(Clone)]
pub struct RedisOptions {
    /// The durable Redis.
    pub url: String,
    /// Another one for Pub/Sub alone; empty: the same.
    pub pubsub_url: String,
    /// PEM file of authorities that are trusted instead of the machine's own, for TLS; empty = none.
    pub ca_file: PathBuf,
    /// Into how many streams the queue is split.
    pub shards: usize,
    /// How long a worker's hold on a shard lasts when it is not renewed.
    pub claim_idle: Duration,
    /// This process stores what is queued.
    pub worker: bool,
    /// How long a producer may be away before it counts as lost.
    pub lease: Duration,
    /// Stored lines kept per watched task for viewers that are a little behind, bytes.
    pub recent_bytes: usize,
    /// Producers per task and attempt.
    pub max_producers: usize,
    /// What may wait for the store.
    pub queue: QueueLimits,
    /// How long to go on trying while Redis does not answer, before a caller is told.
    pub patience: Duration,
}

/// What the configuration says of an address; words that follow the key's name.
pub fn check_address(url: &str) -> Result<(), String> {
    RedisAddress::parse(url).map(drop)
}
