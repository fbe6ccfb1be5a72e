//! The contract over every backend. A new one adds its `make` and one line.

use flowforge_storage::SqliteStore;
use flowforge_storage::sqlite::SqliteOptions;
use tempfile::TempDir;

async fn make_sqlite() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("logs.db"))).await.expect("open");
    (store, folder)
}

flowforge_storage::store_contract!(sqlite, make_sqlite);
