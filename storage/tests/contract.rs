//! The contract over every backend. A new one adds its `make` and one line.

mod clickhouse_server;

use flowforge_storage::SqliteStore;
use flowforge_storage::sqlite::SqliteOptions;
use tempfile::TempDir;

use clickhouse_server::make_clickhouse;

async fn make_sqlite() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("logs.db"))).await.expect("open");
    (store, folder)
}

flowforge_storage::store_contract!(sqlite, make_sqlite);
flowforge_storage::store_contract!(clickhouse, make_clickhouse);
