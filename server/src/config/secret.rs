//! A URL that may hold a password, and never shows it.

use std::fmt;

use flowforge_storage::postgres::redacted;
use serde::{Deserialize, Serialize, Serializer};

/// Shown, also by `Debug` and as JSON, without password and parameters.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Of the whole text.
    pub fn new(url: &str) -> Self {
        Self(url.to_owned())
    }

    /// The whole text, for connecting.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, StorageDriver, describe};
    use super::*;

    #[test]
    fn a_password_is_used_and_not_shown() {
        let mut config = Config::default();
        config.logging.storage_driver = StorageDriver::Postgres;
        config.postgres.url = SecretUrl::new("postgres://me:hunter2@db:5432/logs?password=hunter2");
        assert!(config.postgres.url.reveal().contains("hunter2"));
        for shown in [describe(&config), format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
            assert!(shown.contains("me:***@db:5432/logs") && !shown.contains("hunter2"), "{shown}");
        }
    }
}
