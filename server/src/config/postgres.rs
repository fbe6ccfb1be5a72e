//! The section `postgres`.

use serde::{Deserialize, Serialize};

use super::{Period, SecretUrl};

/// The store in a PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// Where it is. What the URL leaves out comes from `PGUSER`, `PGPASSWORD` and so on, and from `~/.pgpass`.
    pub url: SecretUrl,
    /// Connections of this process.
    pub max_connections: u32,
    /// The server ends a statement that takes longer.
    pub statement_timeout: Period,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        let url = SecretUrl::new("postgres://localhost:5432/flowforge");
        Self { url, max_connections: 10, statement_timeout: Period::seconds(30) }
    }
}
