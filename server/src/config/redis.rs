//! The section `redis`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SecretUrl;

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// The durable one.
    pub url: SecretUrl,
    /// Another for Pub/Sub alone; empty: the same.
    pub pubsub_url: SecretUrl,
    /// PEM file of authorities that are trusted instead of the machine's own, for `rediss`; empty = none.
    pub ca_file: PathBuf,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: SecretUrl::new("redis://127.0.0.1:6379"),
            pubsub_url: SecretUrl::default(),
            ca_file: PathBuf::new(),
        }
    }
}

impl RedisConfig {
    /// Tells `rule` whether each rule holds.
    pub(super) fn problems(&self, rule: &mut impl FnMut(bool, &'static str, String)) {
        let mut check = |key, url: &SecretUrl| {
            if let Err(words) = crate::broker::redis::check_address(url.reveal()) {
                rule(false, key, words);
            }
        };
        check("redis.url", &self.url);
        if !self.pubsub_url.is_empty() {
            check("redis.pubsub_url", &self.pubsub_url);
        }
    }
}
