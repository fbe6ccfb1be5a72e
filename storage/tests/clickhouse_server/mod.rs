//! One engine for all tests of a binary, one database for each test.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use flowforge_storage::clickhouse::ClickhouseOptions;
use flowforge_test_services::clickhouse::{Engine, genuine};
use tokio::sync::Mutex;

/// Shared by the tests that run at the moment, and killed with the last of them: a static is never dropped.
static SHARED: Mutex<std::sync::Weak<Engine>> = Mutex::const_new(std::sync::Weak::new());

/// The engine of this binary; `None` where the environment names a server.
pub(crate) async fn engine() -> Option<Arc<Engine>> {
    if genuine().is_some() {
        return None;
    }
    let mut shared = SHARED.lock().await;
    if let Some(engine) = shared.upgrade() {
        return Some(engine);
    }
    let engine = Arc::new(Engine::start().await.expect("an engine"));
    *shared = Arc::downgrade(&engine);
    Some(engine)
}

/// Options for a database that no other test has.
pub(crate) fn options(engine: Option<&Engine>) -> ClickhouseOptions {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
    let database = format!("flowforge_test_{nanos}");
    match (engine, genuine()) {
        (Some(engine), _) => ClickhouseOptions::new(engine.url(), database),
        (None, Some(server)) => {
            let defaults = ClickhouseOptions::new(server.url, database);
            let user = if server.user.is_empty() { defaults.user.clone() } else { server.user };
            ClickhouseOptions { user, password: server.password, ..defaults }
        }
        (None, None) => unreachable!("an engine is started where no server is named"),
    }
}
