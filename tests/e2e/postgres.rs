//! The same promises with the lines in PostgreSQL.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowforge_test_services::postgres::{Database, PASSWORD, PostgresServer};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};

fn on_postgres(url: &str) -> Overrides {
    Overrides::none().set("logging.storage_driver", "postgres").set("postgres.url", &format!("\"{url}\""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_lines_through_kills_of_the_server() -> Result<()> {
    const LINES: u64 = 20_000;
    let database = Database::shared().await?;
    let mut server = Server::start_with(on_postgres(&database.url())).await?;
    let plan = Plan { rate: Some(5000), batch: 100, ..Plan::new(&server.grpc_url(), "killed", "p", LINES) };
    let generator = Generator::start(plan);
    let viewer = tokio::spawn(Viewer::whole("v", &server.task_url("killed")).follow());
    for part in 1..=3 {
        wait::until("lines to be acked", PATIENCE, async || {
            Ok((generator.journal().acked >= part * LINES / 5).then_some(()))
        })
        .await?;
        server.kill9()?;
        server.restart().await?;
    }
    let journal = generator.join().await?;
    let viewer = viewer.await??;
    let store = store_read::over_http(&server.task_url("killed")).await?;
    ensure!(store.rows.len() as u64 == LINES + 1, "{} rows", store.rows.len());
    ensure!(journal.closed && journal.welcomes >= 4, "{journal:?}");
    check_store(&store, &[journal])?;
    check_viewer(&viewer, &store, Allowed::Rollback)?;
    let status = server.terminate(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{status}");
    ensure!(server.log().contains("oldest_age"), "no line of retention: {}", server.log());
    Ok(())
}

/// The store goes away and comes back; nobody but the writer notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_wait_while_the_database_is_away() -> Result<()> {
    let mut postgres = PostgresServer::start().await?;
    let database = postgres.database().await?;
    let mut server = Server::start_with(on_postgres(&database.url())).await?;
    let generator = Generator::start(Plan::endless(&server.grpc_url(), "away", "p", 1000));
    wait::until("lines to be acked", PATIENCE, async || Ok((generator.journal().acked > 500).then_some(()))).await?;
    postgres.kill9()?;
    let before = generator.journal().captured;
    wait::until(
        "lines to be taken",
        PATIENCE,
        async || Ok((generator.journal().captured > before + 500).then_some(())),
    )
    .await?;
    postgres.restart().await?;
    let journal = generator.finish().await?;
    check_store(&store_read::over_http(&server.task_url("away")).await?, &[journal])?;
    ensure!(server.terminate(Duration::from_secs(20)).await?.success(), "{}", server.log());
    Ok(())
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_one_clear_line() -> Result<()> {
    let postgres = PostgresServer::start().await?;
    let good = postgres.over_tcp(PASSWORD, "postgres");
    let wrong_password = postgres.over_tcp("hunter2", "postgres");
    refused(&wrong_password, "Check user and password in postgres.url").await?;
    drop(postgres);
    refused(&good, "cannot reach PostgreSQL at boss@127.0.0.1").await
}

async fn refused(url: &str, words: &str) -> Result<()> {
    let mut server = Server::prepare(on_postgres(url))?;
    server.spawn()?;
    let status = server.exited(Duration::from_secs(30)).await?;
    let log = server.log();
    ensure!(!status.success() && log.contains(words), "{status}: {log}");
    ensure!(log.trim().lines().count() == 1, "not one line: {log}");
    ensure!(!log.contains("hunter2") && !log.contains(PASSWORD), "the password is shown: {log}");
    Ok(())
}
