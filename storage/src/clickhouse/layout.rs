//! Names and shapes of the tables, on one server or on a cluster.
//!
//! On a cluster each table is two: `<name>_local`, replicated, which holds the rows of a shard, and `<name>`, which spreads
//! them by task. Everything of one task lies on one shard, so that deduplication stays there.

use super::SearchIndex;
use super::error::misconfigured;
use super::schema::TableSettings;
use crate::error::StoreError;

pub(super) const LINES: &str = "task_logs";
pub(super) const STATES: &str = "task_states";
pub(super) const RECORDS: &str = "task_records";
pub(super) const VERSIONS: &str = "schema_migrations";

/// Indexes over the text of messages, by name and definition. Measured on a million lines of 110 bytes: ngram costs 8 bytes
/// a row and two thirds of the insert rate, token 35 bytes and four fifths.
pub(super) const INDEXES: [(SearchIndex, &str, &str); 2] = [
    (SearchIndex::Token, "message_tokens", "TYPE text(tokenizer = splitByNonAlpha)"),
    (SearchIndex::Ngram, "message_ngrams", "TYPE ngrambf_v1(4, 16384, 2, 0) GRANULARITY 1"),
];

/// Sorted as reads want it. Codecs: what grows by even steps as differences of differences, the nanoseconds as differences;
/// then ZSTD, also for what repeats. Names are LowCardinality: compared as numbers. `level` and `flags` are bytes already,
/// where a dictionary would add to them.
const LINE_COLUMNS: &str = "
    tenant     LowCardinality(String) CODEC(ZSTD(1)),
    task_id    LowCardinality(String) CODEC(ZSTD(1)),
    offset     UInt64 CODEC(DoubleDelta, ZSTD(1)),
    epoch      UInt64 CODEC(DoubleDelta, ZSTD(1)),
    producer   FixedString(16) CODEC(ZSTD(1)),
    seq        UInt64 CODEC(DoubleDelta, ZSTD(1)),
    time_ns    Int64 CODEC(Delta, ZSTD(1)),
    created_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    stream     Enum8('stdout' = 1, 'stderr' = 2, 'log' = 3, 'system' = 4) CODEC(ZSTD(1)),
    level      UInt8 CODEC(ZSTD(1)),
    flags      UInt8 CODEC(ZSTD(1)),
    update_id  UInt64 CODEC(ZSTD(1)),
    fields     String CODEC(ZSTD(1)),
    message    String CODEC(ZSTD(1))";

/// See `state`.
const STATE_COLUMNS: &str = "
    tenant        LowCardinality(String),
    task_id       String,
    epoch         UInt64,
    producer      FixedString(16),
    recorded      SimpleAggregateFunction(max, UInt8),
    base          SimpleAggregateFunction(max, UInt64),
    floor         SimpleAggregateFunction(max, UInt64),
    end           SimpleAggregateFunction(max, UInt64),
    created_at_ms SimpleAggregateFunction(max, Int64),
    seq           SimpleAggregateFunction(max, UInt64)";

/// Lists and dictionaries are JSON.
const RECORD_COLUMNS: &str = "
    tenant        LowCardinality(String),
    task_id       String,
    version       UInt64,
    workflow_id   String,
    name          String,
    labels        String,
    attempt       UInt32,
    attempt_base  UInt64,
    dropped       UInt64,
    status        LowCardinality(String),
    exit_code     Nullable(Int32),
    created_at_ms Int64,
    started_at_ms Int64,
    ended_at_ms   Nullable(Int64),
    epochs        String,
    producers     String";

const VERSION_COLUMNS: &str = "
    version    UInt32,
    applied_at DateTime DEFAULT now()";

/// Rows that are looked up one task at a time: small granules.
const LOOKUP_SETTINGS: &str = "index_granularity = 512";

const CLUSTER_KEY: &str = "clickhouse.cluster";

/// Where the tables are.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    database: String,
    cluster: Option<String>,
}

/// Whether this can be the name of a database or cluster: letters, digits and `_`, not first a digit.
pub fn check_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= 64
}

impl Layout {
    pub(super) fn new(database: &str, cluster: &str) -> Result<Self, StoreError> {
        let is_good = |key, name: &str| check_identifier(name) || (key == CLUSTER_KEY && name.is_empty());
        for (key, name) in [("clickhouse.database", database), (CLUSTER_KEY, cluster)] {
            if !is_good(key, name) {
                let context = format!("{key} is {name:?}. Use letters, digits and _, not first a digit");
                return Err(misconfigured(context, "not a name"));
            }
        }
        let cluster = (!cluster.is_empty()).then(|| cluster.to_owned());
        Ok(Self { database: database.to_owned(), cluster })
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// What is read from and inserted into.
    pub(super) fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.database)
    }

    /// The name of the table that holds rows.
    pub(super) fn local(&self, name: &str) -> String {
        let suffix = if self.is_cluster() { "_local" } else { "" };
        format!("{name}{suffix}")
    }

    /// The table that holds rows, in statements that change it: ` ON CLUSTER …` with it.
    pub(super) fn target(&self, name: &str) -> String {
        format!("{}.{}{}", self.database, self.local(name), self.on_cluster())
    }

    /// A system table, of every server that holds rows.
    pub(super) fn system(&self, name: &str) -> String {
        match &self.cluster {
            None => format!("system.{name}"),
            Some(cluster) => format!("clusterAllReplicas('{cluster}', system.{name})"),
        }
    }

    pub(super) fn create_database(&self) -> String {
        format!("CREATE DATABASE IF NOT EXISTS {}{}", self.database, self.on_cluster())
    }

    pub(super) fn create_versions(&self) -> Vec<String> {
        self.create(VERSIONS, VERSION_COLUMNS, ("ReplacingMergeTree", ""), "ORDER BY version", "")
    }

    /// The first version of the schema. TTL, index and fsync are as the settings want them, and are changed later by ALTER.
    pub(super) fn create_tables(&self, settings: TableSettings) -> Vec<String> {
        let fsync = settings.fsync_settings();
        let mut lines = String::from("PARTITION BY toYYYYMMDD(created_at)\nORDER BY (tenant, task_id, offset, epoch)");
        if let Some(ttl) = settings.ttl() {
            lines = format!("{lines}\nTTL {ttl}");
        }
        // A day goes as a whole, never row by row; a changed TTL is only calculated anew, nothing is rewritten.
        let lines_settings = format!("ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1, {fsync}");
        let lookup_settings = format!("{LOOKUP_SETTINGS}, {fsync}");
        [
            self.create(LINES, LINE_COLUMNS, ("ReplacingMergeTree", ""), &lines, &lines_settings),
            self.create(
                STATES,
                STATE_COLUMNS,
                ("AggregatingMergeTree", ""),
                "ORDER BY (tenant, task_id, epoch, producer)",
                &lookup_settings,
            ),
            self.create(
                RECORDS,
                RECORD_COLUMNS,
                ("ReplacingMergeTree", "version"),
                "ORDER BY (tenant, task_id)",
                &lookup_settings,
            ),
        ]
        .concat()
    }

    fn create(
        &self,
        name: &str,
        columns: &str,
        (engine, argument): (&str, &str),
        order: &str,
        settings: &str,
    ) -> Vec<String> {
        let (target, engine) = (self.target(name), self.engine(engine, argument));
        let settings = if settings.is_empty() { String::new() } else { format!("\nSETTINGS {settings}") };
        let table = format!("CREATE TABLE IF NOT EXISTS {target} ({columns}\n)\nENGINE = {engine}\n{order}{settings}");
        let Some(cluster) = &self.cluster else { return vec![table] };
        let (database, local, on_cluster) = (&self.database, self.local(name), self.on_cluster());
        // The versions are few and alike on every shard.
        let key = if name == VERSIONS { "rand()" } else { "cityHash64(tenant, task_id)" };
        let distributed = format!(
            "CREATE TABLE IF NOT EXISTS {database}.{name}{on_cluster} AS {database}.{local}\nENGINE = Distributed('{cluster}', '{database}', '{local}', {key})"
        );
        vec![table, distributed]
    }

    fn engine(&self, engine: &str, argument: &str) -> String {
        if !self.is_cluster() {
            return if argument.is_empty() { engine.to_owned() } else { format!("{engine}({argument})") };
        }
        let argument = if argument.is_empty() { String::new() } else { format!(", {argument}") };
        format!("Replicated{engine}('/clickhouse/tables/{{uuid}}/{{shard}}', '{{replica}}'{argument})")
    }

    fn on_cluster(&self) -> String {
        self.cluster.as_ref().map_or_else(String::new, |cluster| format!(" ON CLUSTER {cluster}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_statements_are_the_golden_ones() {
        let layout = Layout::new("logs", "prod").unwrap();
        let settings = TableSettings { search_index: SearchIndex::Ngram, retention_days: 7, fsync: true };
        let mut statements = vec![layout.create_database()];
        statements.extend(layout.create_versions());
        statements.extend(layout.create_tables(settings));
        statements.extend(super::super::schema::alterations(&layout, settings, "", &[]));
        let text = statements.join(";\n\n") + ";\n";
        // UPDATE_GOLDEN=1 writes the file anew.
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clickhouse/cluster.golden.sql");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&golden).unwrap(), text);
    }

    #[test]
    fn names_that_could_be_more_than_names_are_refused() {
        for bad in ["", "a b", "a;DROP", "1a", "a`", "a.b"] {
            let error = Layout::new(bad, "").unwrap_err().to_string();
            assert!(error.contains("clickhouse.database"), "{error}");
        }
        assert!(Layout::new("a", "b'c").unwrap_err().to_string().contains("clickhouse.cluster"));
    }
}
