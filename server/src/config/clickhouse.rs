//! The section of the ClickHouse store.

use std::path::PathBuf;

use flowforge_storage::clickhouse::{SearchIndex, check_host, check_identifier};
use serde::{Deserialize, Serialize};

use super::{Period, Secret};

/// The store for many lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickhouseConfig {
    /// `host`, `host:port`, `http://host:port` or `https://host:port`; the first that answers is used.
    pub hosts: Vec<String>,
    /// PEM file of authorities that are trusted beside the machine's own; empty = none.
    pub ca_file: PathBuf,
    /// Created if it is not there.
    pub database: String,
    /// Who reads and writes.
    pub user: String,
    /// Theirs.
    pub password: Secret,
    /// An index over the messages' text.
    pub search_index: SearchIndexConfig,
    /// On which cluster the tables are made; empty = one server.
    pub cluster: String,
    /// Sync to the disk before an ack.
    pub fsync: bool,
    /// How long any one request may take.
    pub timeout: Period,
}

impl Default for ClickhouseConfig {
    fn default() -> Self {
        Self {
            hosts: vec!["http://127.0.0.1:8123".to_owned()],
            ca_file: PathBuf::new(),
            database: "flowforge".to_owned(),
            user: "default".to_owned(),
            password: Secret::default(),
            search_index: SearchIndexConfig::None,
            cluster: String::new(),
            fsync: true,
            timeout: Period::seconds(30),
        }
    }
}

impl ClickhouseConfig {
    /// Tells `rule` whether each rule holds.
    pub(super) fn problems(&self, rule: &mut impl FnMut(bool, &'static str, String)) {
        let name = "must be letters, digits and _, not first a digit".to_owned();
        rule(check_identifier(&self.database), "clickhouse.database", name.clone());
        rule(self.cluster.is_empty() || check_identifier(&self.cluster), "clickhouse.cluster", name);
        rule(!self.hosts.is_empty(), "clickhouse.hosts", "must name at least one host".to_owned());
        for words in self.hosts.iter().filter_map(|host| check_host(host).err()) {
            rule(false, "clickhouse.hosts", words);
        }
        rule(self.timeout >= Period::seconds(1), "clickhouse.timeout", "must be at least 1s".to_owned());
    }
}

/// An index over the messages' text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchIndexConfig {
    /// None.
    None,
    /// Whole words.
    Token,
    /// Any part of a word.
    Ngram,
}

impl From<SearchIndexConfig> for SearchIndex {
    fn from(index: SearchIndexConfig) -> Self {
        match index {
            SearchIndexConfig::None => Self::None,
            SearchIndexConfig::Token => Self::Token,
            SearchIndexConfig::Ngram => Self::Ngram,
        }
    }
}
