//! Values that are never shown.

use std::fmt;

use flowforge_storage::postgres::redacted;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Text such as a password. Whatever prints it prints stars.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.shown(), f)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// A number is refused without repeating it: YAML would read `007` as 7.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            _ => Err(de::Error::custom("must be text: put it in quotes")),
        }
    }
}

/// An address that may hold a password: shown, also by `Debug` and as JSON, without password and parameters.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
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

    /// Nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    fn a_password_in_an_address_is_used_and_not_shown() {
        let mut config = Config::default();
        config.logging.storage_driver = StorageDriver::Postgres;
        config.postgres.url = SecretUrl::new("postgres://me:hunter2@db:5432/logs?password=hunter2");
        config.redis.url = SecretUrl::new("redis://user:p@ss:hunter2@host:1/2");
        assert!(config.postgres.url.reveal().contains("hunter2") && config.redis.url.reveal().contains("hunter2"));
        for shown in [describe(&config), format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
            assert!(shown.contains("me:***@db:5432/logs") && !shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(config.redis.url.to_string(), "redis://user:***@host:1/2");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()), "\"***\" \"***\"");
        assert_eq!(format!("{:?}", Secret::default()), "\"\"");
        let error = serde_json::from_str::<Secret>("4711").unwrap_err().to_string();
        assert!(error.contains("quotes") && !error.contains("4711"), "{error}");
    }
}
