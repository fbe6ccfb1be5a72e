//! Going down in order, and standing still when the store does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::Close;
use flowforge_proto::v1::stream_logs_request::Message as Request;
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::producer::{Call, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read::{self, WriteLock};
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};
use reqwest::StatusCode;
use rustix::process::Signal;
use tonic::Code;

use crate::canary::with_canary;
use crate::protocol::lines;

fn blocked_store() -> Overrides {
    Overrides::none().set("sqlite.busy_timeout", "100ms").set("shutdown.grace", "2s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_stores_what_it_acked_and_everybody_goes_on() -> Result<()> {
    let mut server = Server::start().await?;
    let plan = |n: u32| Plan::endless(&server.grpc_url(), "term", &format!("p{n}"), 2000);
    let generators: Vec<_> = (0..3).map(|n| Generator::start(plan(n))).collect();
    let viewer = tokio::spawn(Viewer::whole("v", &server.task_url("term")).follow());
    for round in 0..3 {
        let before: Vec<u64> = generators.iter().map(|generator| generator.journal().acked).collect();
        wait::until("acks", PATIENCE, async || {
            let mut pairs = generators.iter().zip(&before);
            Ok(pairs.all(|(generator, before)| generator.journal().acked > *before).then_some(()))
        })
        .await?;
        let start = Instant::now();
        let status = server.terminate(Duration::from_secs(15)).await?;
        ensure!(status.success(), "round {round}: exit {status}");
        ensure!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
        // Whatever was acked is in the file that is left.
        let rows = store_read::from_file(&server.database(), "term").await?;
        for generator in &generators {
            let journal = generator.journal();
            let stored = rows.iter().filter(|row| row.producer == journal.producer).count() as u64;
            ensure!(stored >= journal.acked, "{}: acked {}, stored {stored}", journal.tag, journal.acked);
            ensure!(journal.failures.last() == Some(&Code::Unavailable), "{}: {:?}", journal.tag, journal.failures);
        }
        server.restart().await?;
    }
    let mut journals = Vec::new();
    for generator in generators {
        journals.push(generator.finish().await?);
    }
    let store = store_read::over_http(&server.task_url("term")).await?;
    check_store(&store, &journals)?;
    // A drained server has lost nothing: there is nothing to take back.
    check_viewer(&viewer.await??, &store, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test]
async fn sigterm_with_a_blocked_store_ends_in_time_and_says_what_is_left() -> Result<()> {
    let mut server = Server::start_with(blocked_store()).await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("stuck", new_producer())).await?;
    call.lines(1, &["stored"]).await?;
    call.stored(1).await?;
    let lock = WriteLock::take(&server.database()).await?;
    let mut viewer = Viewer::whole("v", &server.task_url("stuck"));
    viewer.open().await?;
    call.lines(2, &["never stored", "nor this"]).await?;
    for _ in 0..3 {
        viewer.next_named("log").await?;
    }
    let start = Instant::now();
    let status = server.terminate(Duration::from_secs(15)).await?;
    ensure!(status.code() == Some(1), "exit {status}");
    ensure!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    let log = server.log();
    ensure!(log.contains("2 lines stay with their producers"), "no clear message");
    lock.release().await?;
    server.restart().await?;
    ensure!(lines(&server, "stuck").await?.len() == 1);
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_at_once() -> Result<()> {
    let mut server = Server::start_with(blocked_store().set("shutdown.grace", "60s")).await?;
    let (call, _) = Call::hello(&server.grpc_url(), hello("twice", new_producer())).await?;
    let lock = WriteLock::take(&server.database()).await?;
    let mut viewer = Viewer::whole("v", &server.task_url("twice"));
    viewer.open().await?;
    call.lines(1, &["never stored"]).await?;
    viewer.next_named("log").await?;
    server.signal(Signal::TERM)?;
    wait::until("the first signal to be noticed", PATIENCE, async || {
        Ok(server.log().contains("stopping").then_some(()))
    })
    .await?;
    let start = Instant::now();
    server.signal(Signal::TERM)?;
    let status = server.exited(Duration::from_secs(15)).await?;
    ensure!(status.code() == Some(1) && start.elapsed() < Duration::from_secs(3), "{status} in {:?}", start.elapsed());
    lock.release().await
}

/// So that load balancers stop sending: while the canary ends its task, while the store is waited for, and until nobody is
/// answered any more.
#[tokio::test]
async fn readiness_ends_with_the_signal() -> Result<()> {
    let mut server = Server::start_with(with_canary(blocked_store().set("shutdown.grace", "60s"))).await?;
    let address = format!("{}/readyz", server.http_url());
    ensure!(reqwest::get(&address).await?.status() == StatusCode::OK, "not ready before");
    let (call, _) = Call::hello(&server.grpc_url(), hello("waiting", new_producer())).await?;
    let mut lock = Some(WriteLock::take(&server.database()).await?);
    let mut viewer = Viewer::whole("v", &server.task_url("waiting"));
    viewer.open().await?;
    call.lines(1, &["holds the end up until the lock is gone"]).await?;
    viewer.next_named("log").await?;
    server.signal(Signal::TERM)?;
    wait::until("the signal to be noticed", PATIENCE, async || Ok(server.log().contains("stopping").then_some(())))
        .await?;
    let mut told = 0;
    while let Ok(response) = reqwest::get(&address).await {
        let status = response.status();
        let Ok(text) = response.text().await else { break };
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE && text.contains("shutting down"), "{status}: {text}");
        told += 1;
        if let Some(lock) = lock.take_if(|_| told == 20) {
            lock.release().await?;
        }
    }
    ensure!(told >= 20, "only {told} were told");
    let status = server.exited(Duration::from_secs(15)).await?;
    ensure!(status.success(), "exit {status}");
    Ok(())
}

/// Clients that hang about must not hold a shutdown up.
#[tokio::test]
async fn idle_and_silent_connections_do_not_delay_the_end() -> Result<()> {
    let mut server = Server::start().await?;
    let _mute = Call::open(&server.grpc_url()).await?;
    let (_idle, _) = Call::hello(&server.grpc_url(), hello("idle", new_producer())).await?;
    let mut viewer = Viewer::whole("v", &server.task_url("idle"));
    viewer.open().await?;
    let mut waiting = Viewer::whole("w", &server.task_url("unknown"));
    waiting.open().await?;
    let start = Instant::now();
    let status = server.terminate(Duration::from_secs(15)).await?;
    ensure!(status.success() && start.elapsed() < Duration::from_secs(3), "{status} in {:?}", start.elapsed());
    Ok(())
}

/// One that has closed, and was told that this is stored, but does not hang up.
#[tokio::test]
async fn a_client_that_does_not_hang_up_after_close_does_not_delay_the_end() -> Result<()> {
    let mut server = Server::start().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("open", new_producer())).await?;
    call.lines(1, &["one"]).await?;
    call.send(Request::Close(Close { final_seq: 1, ..Close::default() })).await?;
    call.stored(1).await?;
    let start = Instant::now();
    let status = server.terminate(Duration::from_secs(15)).await?;
    ensure!(status.success() && start.elapsed() < Duration::from_secs(3), "{status} in {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_poison_row_is_replaced_and_its_neighbours_are_not() -> Result<()> {
    poisoned(Overrides::none()).await
}

#[tokio::test]
async fn over_redis_poison_rows_are_dead_letters_as_well() -> Result<()> {
    let redis = Redis::start(Persistence::None).await?;
    poisoned(Overrides::none().set("broker.driver", "redis").set("redis.url", &redis.url())).await?;
    let keys = redis.command(&["KEYS", "logs:dead:*"])?;
    let letters = redis.command(&["XRANGE", &keys, "-", "+"])?;
    for n in [17, 18, 50] {
        ensure!(letters.contains(&format!("\"message\":\"poison {n}\"")), "{n} is not among {letters}");
    }
    ensure!(redis.command(&["XLEN", &keys])? == "3" && letters.contains("poison is not stored here"), "{letters}");
    Ok(())
}

async fn poisoned(overrides: Overrides) -> Result<()> {
    let server = Server::start_with(overrides).await?;
    let mut db = store_read::open(&server.database()).await?;
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON lines WHEN NEW.message LIKE '%poison%' AND NEW.stream != 4
        BEGIN SELECT RAISE(ABORT, 'poison is not stored here'); END";
    sqlx::raw_sql(trigger).execute(&mut db).await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("poison", new_producer())).await?;
    let texts: Vec<String> = (1..=50)
        .map(|n| if n == 17 || n == 18 || n == 50 { format!("poison {n}") } else { format!("line {n}") })
        .collect();
    call.lines(1, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    call.stored(50).await?;
    call.close(Close { final_seq: 50, ..Close::default() }).await??;
    let lines = lines(&server, "poison").await?;
    ensure!(lines.len() == 51, "{} rows", lines.len());
    for (line, n) in lines.iter().zip(1..=50) {
        ensure!(line["offset"] == n && line["seq"] == n, "{line}");
        if [17, 18, 50].contains(&n) {
            ensure!(line["stream"] == "system" && line["fields"]["rejected"]["stream"] == "stdout", "{line}");
        } else {
            ensure!(line["message"] == format!("line {n}"), "{line}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_store_stops_the_producers_and_loses_nothing() -> Result<()> {
    let overrides = blocked_store().set("queue.max_bytes", "4MiB").set("queue.max_tenant_bytes", "4MiB");
    let server = Server::start_with(overrides).await?;
    // As fast as it may, until it is told to finish.
    let plan = Plan { lines: None, window: u64::MAX / 2, ..Plan::new(&server.grpc_url(), "pressure", "p", 0) };
    let before = server.rss()?;
    let generator = Generator::start(plan);
    let viewer = tokio::spawn(Viewer::whole("v", &server.task_url("pressure")).follow());
    wait::until("the load to be on its way", PATIENCE, async || Ok((generator.journal().acked > 0).then_some(())))
        .await?;
    let lock = WriteLock::take(&server.database()).await?;
    // The load stands still: twice the same count, half a second apart.
    let standstill = wait::until("the producer to be stopped", PATIENCE, async || {
        let sent = generator.journal().captured;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((generator.journal().captured == sent).then_some(sent))
    })
    .await?;
    let grown = server.rss()?.saturating_sub(before);
    eprintln!("stopped at line {standstill}, grown by {grown} bytes");
    ensure!(grown < 120 << 20, "grown by {grown} bytes while 4 MiB may wait");
    lock.release().await?;
    let journal = generator.finish().await?;
    let store = store_read::over_http(&server.task_url("pressure")).await?;
    check_viewer(&viewer.await??, &store, Allowed::Undisturbed)?;
    check_store(&store, &[journal]).context("after the store was free again")?;
    Ok(())
}
