//! The contract over every backend. A new one adds its `make` and one line.

mod clickhouse_server;

use std::sync::Arc;

use flowforge_storage::postgres::PostgresOptions;
use flowforge_storage::sqlite::SqliteOptions;
use flowforge_storage::{ClickhouseStore, LogStore, PostgresStore, SqliteStore};
use flowforge_test_services::clickhouse::Engine;
use flowforge_test_services::postgres::Database;
use tempfile::TempDir;

async fn make_sqlite() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("logs.db"))).await.expect("open");
    (store, folder)
}

async fn make_postgres() -> (PostgresStore, Database) {
    let database = Database::shared().await.expect("a database");
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.expect("open");
    store.migrate().await.expect("migrate");
    (store, database)
}

async fn make_clickhouse() -> (ClickhouseStore, Option<Arc<Engine>>) {
    let engine = clickhouse_server::engine().await;
    let store = ClickhouseStore::open(clickhouse_server::options(engine.as_deref())).await.expect("open");
    (store, engine)
}

flowforge_storage::store_contract!(sqlite, make_sqlite);
flowforge_storage::store_contract!(postgres, make_postgres);
flowforge_storage::store_contract!(clickhouse, make_clickhouse);
