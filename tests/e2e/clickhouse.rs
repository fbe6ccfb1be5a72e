//! The whole product on a real ClickHouse.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowforge_test_services::clickhouse::{Engine, genuine};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};

/// An engine, if no server is named, and the settings to use it with a database of our own.
pub(crate) async fn store(search_index: &str) -> Result<(Option<Engine>, Overrides)> {
    let database = format!("flowforge_e2e_{:08x}", fastrand::u32(..));
    let overrides = Overrides::none()
        .set("logging.storage_driver", "clickhouse")
        .set("clickhouse.database", &database)
        .set("clickhouse.search_index", search_index);
    let Some(server) = genuine() else {
        let engine = Engine::start().await?;
        let overrides = overrides.set("clickhouse.hosts", &format!("[{}]", engine.url()));
        return Ok((Some(engine), overrides));
    };
    let user = if server.user.is_empty() { "default" } else { &server.user };
    let overrides = overrides
        .set("clickhouse.hosts", &format!("[\"{}\"]", server.url))
        .set("clickhouse.user", user)
        .set("clickhouse.password", &format!("\"{}\"", server.password));
    Ok((None, overrides))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_lines_through_kill_9_of_the_server() -> Result<()> {
    const EACH: u64 = 5000;
    let (_engine, overrides) = store("none").await?;
    let mut server = Server::start_with(overrides).await?;
    let tasks = ["ch-a", "ch-b"];
    let mut generators = Vec::new();
    for task in tasks {
        for number in 0..2 {
            let plan = Plan::new(&server.grpc_url(), task, &format!("{task}/{number}"), EACH);
            let plan = Plan { rate: Some(1500), ..plan };
            generators.push((task, Generator::start(plan)));
        }
    }
    let viewers = tasks.map(|task| (task, tokio::spawn(Viewer::whole(task, &server.task_url(task)).follow())));
    for _ in 0..3 {
        let before: Vec<u64> = generators.iter().map(|(_, generator)| generator.journal().acked).collect();
        wait::until("some producer to be acked again", PATIENCE, async || {
            let moved =
                generators.iter().zip(&before).any(|((_, generator), acked)| generator.journal().acked > *acked);
            let over = generators.iter().all(|(_, generator)| generator.journal().closed);
            Ok((moved || over).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        server.kill9()?;
        server.restart().await?;
    }
    let mut journals = Vec::new();
    for (task, generator) in generators {
        journals.push((task, generator.join().await?));
    }
    for (task, viewer) in viewers {
        let viewer = viewer.await??;
        let store = store_read::over_http(&server.task_url(task)).await?;
        let of_task: Vec<_> =
            journals.iter().filter(|(of, _)| *of == task).map(|(_, journal)| journal.clone()).collect();
        check_store(&store, &of_task)?;
        check_viewer(&viewer, &store, Allowed::Rollback)?;
        ensure!(store.rows.len() as u64 > 2 * EACH, "{task}: {} rows", store.rows.len());
        ensure!(of_task.iter().all(|journal| journal.closed && journal.captured == EACH), "{of_task:?}");
    }
    Ok(())
}

/// The store goes away and comes back: lines wait, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse_is_killed_under_load() -> Result<()> {
    let (engine, overrides) = store("none").await?;
    // A server of the user's own is not ours to kill.
    let Some(mut engine) = engine else { return Ok(()) };
    let server = Server::start_with(overrides).await?;
    let task = "ch-outage";
    let generator = Generator::start(Plan::endless(&server.grpc_url(), task, "p", 2000));
    let viewer = tokio::spawn(Viewer::whole("v", &server.task_url(task)).follow());
    for _ in 0..3 {
        let before = generator.journal().acked;
        wait::until("the producer to be acked again", PATIENCE, async || {
            Ok((generator.journal().acked > before).then_some(()))
        })
        .await?;
        engine.kill9()?;
        engine.restart().await?;
    }
    let journal = generator.finish().await?;
    let viewer = viewer.await??;
    let store = store_read::over_http(&server.task_url(task)).await?;
    check_store(&store, std::slice::from_ref(&journal))?;
    check_viewer(&viewer, &store, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test]
async fn serve_says_in_one_line_why_it_does_not_start() -> Result<()> {
    let cases = [
        ("[\"127.0.0.1:9000\"]", "HTTP, whose port is 8123"),
        ("[\"http://127.0.0.1:1\"]", "cannot open ClickHouse at http://127.0.0.1:1"),
    ];
    for (hosts, words) in cases {
        let overrides = Overrides::none()
            .set("logging.storage_driver", "clickhouse")
            .set("clickhouse.password", "hunter2")
            .set("clickhouse.hosts", hosts);
        let mut server = Server::prepare(overrides)?;
        server.spawn()?;
        let status = server.exited(PATIENCE).await?;
        let log = server.log();
        ensure!(!status.success(), "{hosts}: {status}");
        ensure!(log.contains(words) && !log.contains("hunter2"), "{log}");
        ensure!(log.trim().lines().count() == 1, "{log}");
    }
    Ok(())
}
