//! The configuration alone chooses broker and store: every pair starts from it and keeps its promises through a crash, which
//! its canary finds too.

use anyhow::{Result, ensure};
use flowforge_test_services::postgres::Database;
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};

const LINES: u64 = 5_000;

async fn through_a_crash(broker: &str, store: Overrides) -> Result<()> {
    let redis = if broker == "redis" { Some(Redis::start(Persistence::Always).await?) } else { None };
    let mut overrides = crate::canary::with_canary(store.set("broker.driver", broker));
    if let Some(redis) = &redis {
        overrides = overrides.set("redis.url", &redis.url());
    }
    let mut server = Server::start_with(overrides).await?;
    let generator = Generator::start(Plan { rate: Some(5_000), ..Plan::new(&server.grpc_url(), "pair", "p", LINES) });
    let viewer = tokio::spawn(Viewer::whole("v", &server.task_url("pair")).follow());
    wait::until("lines to be acked", PATIENCE, async || Ok((generator.journal().acked > 500).then_some(()))).await?;
    server.kill9()?;
    server.restart().await?;
    let journal = generator.join().await?;
    let rows = store_read::over_http(&server.task_url("pair")).await?;
    check_store(&rows, &[journal])?;
    check_viewer(&viewer.await??, &rows, Allowed::Rollback)?;
    crate::proof::is_verified(&server, "pair", LINES).await?;
    crate::canary::sings(&server, 20).await?;
    let status = server.terminate(PATIENCE).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

async fn on_postgres(broker: &str) -> Result<()> {
    let database = Database::shared().await?;
    let url = format!("\"{}\"", database.url());
    let store = Overrides::none().set("logging.storage_driver", "postgres").set("postgres.url", &url);
    through_a_crash(broker, store).await
}

async fn on_clickhouse(broker: &str) -> Result<()> {
    let (_engine, store) = crate::clickhouse::store("none").await?;
    through_a_crash(broker, store).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_sqlite() -> Result<()> {
    through_a_crash("memory", Overrides::none().set("logging.storage_driver", "sqlite")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_postgres() -> Result<()> {
    on_postgres("memory").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_clickhouse() -> Result<()> {
    on_clickhouse("memory").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_sqlite() -> Result<()> {
    through_a_crash("redis", Overrides::none().set("logging.storage_driver", "sqlite")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_postgres() -> Result<()> {
    on_postgres("redis").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_clickhouse() -> Result<()> {
    on_clickhouse("redis").await
}
