//! Behind a real nginx: lines come through at once, and silence does not end a stream.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowforge_test_services::{Nginx, free_address};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::producer::{Call, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::{Seen, Viewer};

const OURS: &str = include_str!("../../deploy/nginx.conf");

fn address(url: &str) -> &str {
    url.trim_start_matches("http://")
}

fn task_url(proxy: SocketAddr, task: &str) -> String {
    format!("http://{proxy}/api/v1/tasks/{task}")
}

/// A proxy that buffers by default, and ends what is silent for a second: the short form of a minute, or of ten.
#[tokio::test]
async fn behind_a_default_nginx_lines_come_at_once_and_silence_survives() -> Result<()> {
    let server = Server::start_with(Overrides::none().set("tail.heartbeat", "200ms")).await?;
    let proxy = free_address()?;
    let conf = format!(
        "server {{ listen {proxy}; location / {{ proxy_pass {}; proxy_read_timeout 1s; }} }}",
        server.http_url()
    );
    let _nginx = Nginx::start(&conf, proxy).await?;
    let (call, _) = Call::hello(&server.grpc_url(), hello("t", new_producer())).await?;
    let mut viewer = Viewer::whole("v", &task_url(proxy, "t"));
    viewer.open().await?;
    for (seq, silence) in [(1, 0), (2, 100), (3, 3000), (4, 0)] {
        tokio::time::sleep(Duration::from_millis(silence)).await; // The silence is what is tested.
        let sent = Instant::now();
        call.lines(seq, &["a line"]).await?;
        viewer.next_named("log").await?;
        ensure!(sent.elapsed() < Duration::from_secs(1), "line {seq} took {:?}", sent.elapsed());
    }
    let opened = viewer.journal.iter().filter(|seen| matches!(seen, Seen::Open(_))).count();
    ensure!(opened == 1, "the stream was opened {opened} times");
    Ok(())
}

/// Producers and viewers through `deploy/nginx.conf`, while a server behind it is killed and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_nginx_conf_carries_producers_and_viewers_through_a_crash() -> Result<()> {
    let mut server = Server::start().await?;
    let (http, grpc) = (free_address()?, free_address()?);
    let conf = OURS
        .replace("listen 8080", &format!("listen {http}"))
        .replace("listen 50051", &format!("listen {grpc}"))
        // One instance: the embedded store has one owner.
        .replace("    server flowforge-2:8080 fail_timeout=2s;\n", "")
        .replace("    server flowforge-2:50051 fail_timeout=2s;\n", "")
        .replace("flowforge-1:8080", address(&server.http_url()))
        .replace("flowforge-1:50051", address(&server.grpc_url()));
    let _nginx = Nginx::start(&conf, http).await?;
    let generator = Generator::start(Plan::new(&format!("http://{grpc}"), "t", "p", 20_000));
    let viewer = tokio::spawn(Viewer::whole("v", &task_url(http, "t")).follow());
    flowforge_tests::wait::until("some acks", flowforge_tests::wait::PATIENCE, async || {
        Ok((generator.journal().acked > 2_000).then_some(()))
    })
    .await?;
    let metrics = reqwest::get(format!("http://{http}/metrics")).await?;
    ensure!(metrics.status() == 404, "metrics are not for everybody: {}", metrics.status());
    server.kill9()?;
    server.restart().await?;
    let journal = generator.join().await?;
    let store = store_read::over_http(&task_url(http, "t")).await?;
    check_store(&store, &[journal])?;
    check_viewer(&viewer.await??, &store, Allowed::Rollback)?;
    Ok(())
}
