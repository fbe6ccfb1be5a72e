//! Creating and upgrading the database.
//!
//! ClickHouse has neither locks nor transactions for this, so every statement can be repeated (`IF NOT EXISTS`): several
//! instances that start at once all run them, to the same end. `schema_migrations` says which versions are done, so that an
//! older flowforge refuses a newer database.
//!
//! What the configuration decides (TTL, index, fsync) is compared with the tables at each start, and altered where it
//! differs.

use super::SearchIndex;
use super::error::misconfigured;
use super::hosts::Hosts;
use super::layout::{INDEXES, LINES, Layout, RECORDS, STATES, VERSIONS};
use crate::error::StoreError;

/// The oldest release whose TTLs, lightweight deletes and settings are those used here.
const OLDEST_SERVER: (u32, u32) = (24, 8);

/// What the configuration decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableSettings {
    pub(super) search_index: SearchIndex,
    pub(super) retention_days: u32,
    pub(super) fsync: bool,
}

impl TableSettings {
    /// Of the lines. The cast is for servers before 25.7, which take no DateTime64 here.
    pub(super) fn ttl(self) -> Option<String> {
        (self.retention_days > 0).then(|| format!("toDateTime(created_at) + toIntervalDay({})", self.retention_days))
    }

    pub(super) fn fsync_settings(self) -> String {
        let on = u8::from(self.fsync);
        format!("fsync_after_insert = {on}, fsync_part_directory = {on}")
    }
}

/// Every version, oldest first. A released one never changes.
fn migrations(layout: &Layout, settings: TableSettings) -> Vec<(u32, Vec<String>)> {
    vec![(1, layout.create_tables(settings))]
}

/// Brings the database to the newest version and to these settings.
pub(super) async fn migrate(hosts: &Hosts, layout: &Layout, settings: TableSettings) -> Result<(), StoreError> {
    let fail = |error| hosts.opening(layout.database(), error);
    refuse_old_server(hosts, layout).await?;
    create_database(hosts, layout).await?;
    for sql in layout.create_versions() {
        hosts.execute(&sql).await.map_err(fail)?;
    }
    let done = format!("SELECT version FROM {} ORDER BY version", layout.table(VERSIONS));
    let done = hosts.rows::<u32>(&done).await.map_err(fail)?;
    let migrations = migrations(layout, settings);
    let newest = migrations.last().map_or(0, |(version, _)| *version);
    if let Some(newer) = done.last().filter(|version| **version > newest) {
        let context = format!(
            "the ClickHouse database {} has schema version {newer}, written by a newer flowforge; this one knows versions up to {newest}. Run the newer flowforge, or set clickhouse.database to another name",
            layout.database()
        );
        return Err(misconfigured(context, "a newer schema"));
    }
    for (version, statements) in migrations {
        if done.contains(&version) {
            continue;
        }
        for sql in statements {
            hosts.execute(&sql).await.map_err(fail)?;
        }
        let sql = format!("INSERT INTO {} (version) VALUES ({version})", layout.table(VERSIONS));
        hosts.execute(&sql).await.map_err(fail)?;
    }
    alter(hosts, layout, settings).await
}

async fn refuse_old_server(hosts: &Hosts, layout: &Layout) -> Result<(), StoreError> {
    let version = hosts.rows::<String>("SELECT version()").await;
    let version = version.map_err(|error| hosts.opening(layout.database(), error))?.pop().unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST_SERVER {
        return Ok(());
    }
    let (year, month) = OLDEST_SERVER;
    let context = format!(
        "ClickHouse at {} is version {version}; flowforge needs {year}.{month} or newer. Upgrade it, or set clickhouse.hosts to another server",
        hosts.shown()
    );
    Err(misconfigured(context, "the server is too old"))
}

/// A user without the right to create databases may still use one that is there.
async fn create_database(hosts: &Hosts, layout: &Layout) -> Result<(), StoreError> {
    let fail = |error| hosts.opening(layout.database(), error);
    let sql = format!("SELECT count() FROM system.databases WHERE name = '{}'", layout.database());
    let known = hosts.rows::<u64>(&sql).await.map_err(fail)?;
    if known.first() == Some(&1) && !layout.is_cluster() {
        return Ok(());
    }
    hosts.execute(&layout.create_database()).await.map_err(fail)
}

async fn alter(hosts: &Hosts, layout: &Layout, settings: TableSettings) -> Result<(), StoreError> {
    let fail = |error| hosts.opening(layout.database(), error);
    let of_lines = format!("database = '{}' AND table = '{}'", layout.database(), layout.local(LINES));
    let engine = format!("SELECT engine_full FROM system.tables WHERE {of_lines}");
    let engine = hosts.rows::<String>(&engine).await.map_err(fail)?.pop().unwrap_or_default();
    let indexes = format!("SELECT name FROM system.data_skipping_indices WHERE {of_lines} ORDER BY name");
    let indexes = hosts.rows::<String>(&indexes).await.map_err(fail)?;
    for sql in alterations(layout, settings, &engine, &indexes) {
        tracing::info!(sql, "altering the clickhouse tables to what is configured");
        hosts.execute(&sql).await.map_err(fail)?;
    }
    Ok(())
}

/// What makes tables with this engine and these indexes as configured. Only what we made is dropped.
pub(super) fn alterations(layout: &Layout, settings: TableSettings, engine: &str, indexes: &[String]) -> Vec<String> {
    let lines = layout.target(LINES);
    let mut statements = Vec::new();
    let has_ttl = engine.contains(" TTL ");
    match settings.ttl() {
        Some(ttl) if !engine.contains(&ttl) => statements.push(format!("ALTER TABLE {lines} MODIFY TTL {ttl}")),
        None if has_ttl => statements.push(format!("ALTER TABLE {lines} REMOVE TTL")),
        _ => {}
    }
    let fsync = settings.fsync_settings();
    if !engine.contains(&fsync) {
        for table in [LINES, STATES, RECORDS] {
            statements.push(format!("ALTER TABLE {} MODIFY SETTING {fsync}", layout.target(table)));
        }
    }
    for (index, name, definition) in INDEXES {
        let is_there = indexes.iter().any(|there| there == name);
        match (settings.search_index == index, is_there) {
            (true, false) => {
                statements.push(format!("ALTER TABLE {lines} ADD INDEX IF NOT EXISTS {name} message {definition}"));
            }
            (false, true) => statements.push(format!("ALTER TABLE {lines} DROP INDEX IF EXISTS {name}")),
            _ => {}
        }
    }
    statements
}
