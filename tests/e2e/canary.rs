//! The canary: an ordinary task that says whether the promises hold, and the metrics that it is read from.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::wait::{self, PATIENCE};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::Value;

use crate::proof::is_verified;

/// With a canary that has much to tell in little time.
pub(crate) fn with_canary(settings: Overrides) -> Overrides {
    settings.set("canary.enabled", "true").set("canary.interval", "20ms").set("canary.fail_after", "2s")
}

/// Lines enough that one which is missing among the first of them is overdue at the last.
const ENOUGH: u64 = 200;

/// What `/metrics` says: `name{labels}` to value. Fails unless it is the OpenMetrics text.
async fn metrics(server: &Server) -> Result<BTreeMap<String, f64>> {
    let response = reqwest::get(format!("{}/metrics", server.http_url())).await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    let form = response.headers().get("content-type").context("no content type")?.to_str()?.to_owned();
    ensure!(form == "application/openmetrics-text; version=1.0.0; charset=utf-8", "{form}");
    let text = response.text().await?;
    parse(&text).with_context(|| text.clone())
}

fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let text = text.strip_suffix("# EOF\n").context("it does not end with EOF")?;
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').context("a comment")?;
            let (name, value) = rest.split_once(' ').context("metadata without a value")?;
            match word {
                "TYPE" => ensure!(kinds.insert(name, value).is_none(), "{name} has two types"),
                "UNIT" => ensure!(name.ends_with(&format!("_{value}")), "{name} is not in {value}"),
                "HELP" => ensure!(value.len() > 20, "{name} says nothing"),
                _ => anyhow::bail!("{word:?} is not OpenMetrics"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').context("a sample without a value")?;
        let bare = name.split('{').next().unwrap_or_default();
        let known = kinds.iter().any(|(family, kind)| {
            let suffixes: &[&str] = match *kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[],
            };
            bare.strip_prefix(family).is_some_and(|suffix| suffixes.contains(&suffix))
        });
        ensure!(known, "{bare} belongs to no family");
        ensure!(samples.insert(name.to_owned(), value.parse()?).is_none(), "{name} is there twice");
    }
    Ok(samples)
}

fn canary(samples: &BTreeMap<String, f64>, name: &str) -> Result<f64> {
    samples.get(&format!("flowforge_canary_{name}")).copied().with_context(|| format!("no {name}"))
}

/// `/readyz`: its status, and the reason if it says no.
async fn ready(server: &Server) -> Result<(StatusCode, String)> {
    let response = reqwest::get(format!("{}/readyz", server.http_url())).await?;
    let status = response.status();
    let problem: Value = serde_json::from_str(&response.text().await?).unwrap_or_default();
    Ok((status, problem["detail"].as_str().unwrap_or_default().to_owned()))
}

/// A busy machine may stall for longer than the canary here has patience; it is forgiven at once.
async fn becomes_ready(server: &Server) -> Result<()> {
    wait::until("the server to be ready", PATIENCE, async || {
        Ok((ready(server).await?.0 == StatusCode::OK).then_some(()))
    })
    .await
}

/// Waits until so many more lines were seen; nothing is wrong then.
pub(crate) async fn sings(server: &Server, lines: u64) -> Result<()> {
    let before = canary(&metrics(server).await?, "seen_total")?;
    let samples = wait::until("the canary's lines to be seen", PATIENCE, async || {
        let samples = metrics(server).await?;
        Ok((canary(&samples, "seen_total")? >= before + lines as f64).then_some(samples))
    })
    .await?;
    for promise in ["lost_total", "duplicate_total", "out_of_order_total"] {
        ensure!(canary(&samples, promise)? == 0.0, "{promise}: {samples:?}");
    }
    ensure!(canary(&samples, "sent_total")? >= canary(&samples, "seen_total")?, "{samples:?}");
    Ok(())
}

/// Its task, as everybody sees it.
async fn task(server: &Server) -> Result<Value> {
    let text = reqwest::get(format!("{}/api/v1/tasks", server.http_url())).await?.text().await?;
    let list: Value = serde_json::from_str(&text)?;
    let is_canary = |task: &&Value| task["task_id"].as_str().is_some_and(|id| id.starts_with("flowforge-canary-"));
    let mut canaries = list["tasks"].as_array().context("no list")?.iter().filter(is_canary);
    let task = canaries.next().context("no canary")?.clone();
    ensure!(canaries.next().is_none(), "more than one: {list}");
    Ok(task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_task_that_is_seen_and_ends_well() -> Result<()> {
    let mut server = Server::start_with(with_canary(Overrides::none())).await?;
    sings(&server, ENOUGH).await?;
    let samples = metrics(&server).await?;
    // The two are read one after the other; a line may come in between.
    let measured = canary(&samples, "latency_seconds_count")?;
    ensure!((measured - canary(&samples, "seen_total")?).abs() <= 1.0, "{samples:?}");
    ensure!(canary(&samples, "latency_seconds_bucket{le=\"10.0\"}")? >= 1.0, "{samples:?}");
    becomes_ready(&server).await?;
    let running = task(&server).await?;
    ensure!(running["status"] == "running" && running["attempt"] == 1 && running["name"] == "Canary", "{running}");

    let start = Instant::now();
    let status = server.terminate(PATIENCE).await?;
    ensure!(status.success() && start.elapsed() < Duration::from_secs(3), "{status} in {:?}", start.elapsed());
    server.reconfigure(Overrides::none());
    server.restart().await?;
    let ended = task(&server).await?;
    ensure!(ended["status"] == "succeeded" && ended["complete"] == true && ended["dropped"] == 0, "{ended}");
    let lines = ended["lines"].as_u64().context("no lines")?;
    is_verified(&server, ended["task_id"].as_str().unwrap_or_default(), lines).await?;

    // Without one nothing is said of it. Retention has looked by now, or does so soon.
    let samples = wait::until("the age of the oldest line", PATIENCE, async || {
        let samples = metrics(&server).await?;
        Ok(samples.contains_key("flowforge_oldest_row_age_seconds{store=\"sqlite\"}").then_some(samples))
    })
    .await?;
    ensure!(!samples.keys().any(|name| name.contains("canary")), "{samples:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_a_name_is_the_same_task_wherever_it_runs() -> Result<()> {
    let mut server = Server::start_with(with_canary(Overrides::none().set("canary.name", "blue"))).await?;
    sings(&server, 1).await?;
    server.terminate(PATIENCE).await?;
    server.restart().await?;
    sings(&server, 1).await?;
    let task = task(&server).await?;
    ensure!(task["task_id"] == "flowforge-canary-blue" && task["attempt"] == 2, "{task}");
    Ok(())
}

/// Redis holds the lines' order: while it is frozen nothing passes, and the store, which is well, cannot know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_makes_the_server_unready_until_it_goes_on() -> Result<()> {
    let redis = Redis::start(Persistence::Always).await?;
    let settings = Overrides::none().set("broker.driver", "redis").set("redis.url", &redis.url());
    let server = Server::start_with(with_canary(settings)).await?;
    sings(&server, 20).await?;
    becomes_ready(&server).await?;

    redis.signal(Signal::STOP)?;
    let why = wait::until("the server to be unready", PATIENCE, async || {
        let (status, why) = ready(&server).await?;
        Ok((status == StatusCode::SERVICE_UNAVAILABLE).then_some(why))
    })
    .await?;
    ensure!(why.starts_with("the canary fails: a line is not seen for "), "{why}");
    ensure!(canary(&metrics(&server).await?, "unseen_seconds")? > 2.0);

    redis.signal(Signal::CONT)?;
    becomes_ready(&server).await?;
    sings(&server, ENOUGH).await?;
    wait::until("the log to say so", PATIENCE, async || {
        Ok(server.log().contains("the canary is well again").then_some(()))
    })
    .await?;
    // Once for the state, not for each of the hundred lines; a busy machine may stall besides.
    let told = server.log().matches("the canary fails: ").count();
    ensure!((1..=3).contains(&told), "told {told} times");
    Ok(())
}

/// What is taken back comes again, and is neither lost nor doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_redis_costs_a_rollback_and_nothing_else() -> Result<()> {
    let redis = Redis::start(Persistence::None).await?;
    let settings = Overrides::none().set("broker.driver", "redis").set("redis.url", &redis.url());
    let server = Server::start_with(with_canary(settings)).await?;
    sings(&server, 20).await?;
    for _ in 0..3 {
        redis.command(&["FLUSHALL"])?;
        sings(&server, ENOUGH).await?;
    }
    becomes_ready(&server).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_it_is_another_attempt_and_nothing_is_lost() -> Result<()> {
    let mut server = Server::start_with(with_canary(Overrides::none())).await?;
    for attempt in 1..=3 {
        sings(&server, 50).await?;
        let task = task(&server).await?;
        ensure!(task["attempt"] == attempt && task["status"] == "running", "{task}");
        becomes_ready(&server).await?;
        server.kill9()?;
        server.restart().await?;
    }
    sings(&server, ENOUGH).await
}

/// Processes that share the work share the configuration too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_the_roles_has_metrics_and_no_canary() -> Result<()> {
    let (folder, redis) = (tempfile::tempdir()?, Redis::start(Persistence::None).await?);
    let settings = Overrides::sharing(folder.path(), "worker", &redis.url())?;
    let server = Server::start_as("worker", with_canary(settings)).await?;
    let samples = metrics(&server).await?;
    ensure!(samples.get("flowforge_queue_lines") == Some(&0.0), "{samples:?}");
    ensure!(samples.get("flowforge_queue_bytes") == Some(&0.0), "{samples:?}");
    ensure!(samples.keys().any(|name| name.starts_with("flowforge_build_info{version=")), "{samples:?}");
    ensure!(!samples.keys().any(|name| name.contains("canary")), "{samples:?}");
    ensure!(ready(&server).await?.0 == StatusCode::OK);
    ensure!(server.log().contains("a canary needs the roles ingest and tail"), "{}", server.log());
    Ok(())
}
