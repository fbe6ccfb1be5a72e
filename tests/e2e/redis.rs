//! Several servers over one Redis: any of them may die, and Redis may lose what it holds.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};
use rustix::process::Signal;
use tempfile::TempDir;

const TASK: &str = "shared";

/// Two that take lines, one that shows them, two that store them.
struct Site {
    redis: Redis,
    ingest: Vec<Server>,
    tail: Server,
    workers: Vec<Server>,
    generators: Vec<Generator>,
    viewers: Vec<tokio::task::JoinHandle<Result<Viewer>>>,
    _folder: TempDir,
}

impl Site {
    async fn under_load() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis = Redis::start(Persistence::Always).await?;
        let server = async |roles: &'static str, name: &str| {
            Server::start_as(roles, settings(folder.path(), name, &redis)?).await
        };
        let ingest = vec![server("ingest", "a").await?, server("ingest", "b").await?];
        let tail = server("tail", "c").await?;
        let workers = vec![server("worker", "d").await?, server("worker,retention", "e").await?];
        let mut generators = Vec::new();
        for (number, server) in ingest.iter().enumerate() {
            let plan = Plan::endless(&server.grpc_url(), TASK, &format!("p{number}"), 1000);
            generators.push(Generator::start(Plan { batch: 50, ..plan }));
        }
        let viewers = (0..3).map(|number| {
            let mut viewer = Viewer::whole(&format!("v{number}"), &tail.task_url(TASK));
            // One cannot keep up.
            viewer.events_per_second = (number == 2).then_some(1500);
            tokio::spawn(viewer.follow())
        });
        let viewers = viewers.collect();
        let site = Self { redis, ingest, tail, workers, generators, viewers, _folder: folder };
        site.acks_move().await?;
        Ok(site)
    }

    /// Every producer is acked something new.
    async fn acks_move(&self) -> Result<()> {
        let before: Vec<u64> = self.generators.iter().map(|generator| generator.journal().acked).collect();
        wait::until("every producer to be acked again", PATIENCE, async || {
            let mut pairs = self.generators.iter().zip(&before);
            Ok(pairs.all(|(generator, before)| generator.journal().acked > before + 500).then_some(()))
        })
        .await
    }

    async fn check(self, allowed: Allowed) -> Result<()> {
        self.acks_move().await.context("after the fault")?;
        let mut journals = Vec::new();
        for generator in self.generators {
            journals.push(generator.finish().await?);
        }
        let store = store_read::over_http(&self.tail.task_url(TASK)).await?;
        check_store(&store, &journals)?;
        for viewer in self.viewers {
            check_viewer(&viewer.await??, &store, allowed)?;
        }
        ensure!(store.rows.len() > 2000, "only {} rows", store.rows.len());
        Ok(())
    }
}

fn settings(folder: &Path, name: &str, redis: &Redis) -> Result<Overrides> {
    Overrides::sharing(folder, name, &redis.url())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_server_is_killed_and_nobody_sees_it() -> Result<()> {
    let mut site = Site::under_load().await?;
    for _ in 0..3 {
        site.ingest[0].kill9()?;
        site.ingest[0].restart().await?;
        site.acks_move().await?;
    }
    // What was accepted is in Redis: there is nothing to take back.
    site.check(Allowed::Undisturbed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_frozen_past_its_hold_and_thawed() -> Result<()> {
    let site = Site::under_load().await?;
    for worker in &site.workers {
        worker.signal(Signal::STOP)?;
        site.acks_move().await.context("the other worker takes over")?;
        worker.signal(Signal::CONT)?;
        site.acks_move().await?;
    }
    site.check(Allowed::Undisturbed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_killed() -> Result<()> {
    let mut site = Site::under_load().await?;
    site.workers[0].kill9()?;
    site.acks_move().await?;
    site.workers[0].restart().await?;
    site.workers[1].kill9()?;
    site.check(Allowed::Undisturbed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_wiped() -> Result<()> {
    let site = Site::under_load().await?;
    for _ in 0..3 {
        site.redis.command(&["FLUSHALL"])?;
        site.acks_move().await?;
    }
    site.check(Allowed::Rollback).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back_with_its_data() -> Result<()> {
    let mut site = Site::under_load().await?;
    for _ in 0..2 {
        site.redis.kill9()?;
        site.redis.restart().await?;
        site.acks_move().await?;
    }
    site.check(Allowed::Rollback).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_are_complete_again_soon_after_their_subscription_is_cut() -> Result<()> {
    let site = Site::under_load().await?;
    for _ in 0..5 {
        site.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
        site.acks_move().await?;
    }
    site.check(Allowed::Undisturbed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_stopped_in_order_under_load() -> Result<()> {
    let mut site = Site::under_load().await?;
    let status = site.ingest[0].terminate(Duration::from_secs(15)).await?;
    ensure!(status.success(), "ingest: {status}");
    site.ingest[0].restart().await?;
    let status = site.workers[0].terminate(Duration::from_secs(15)).await?;
    ensure!(status.success(), "worker: {status}");
    site.check(Allowed::Undisturbed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_not_there_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut redis = Redis::start(Persistence::None).await?;
    let overrides = settings(folder.path(), "a", &redis)?;
    redis.kill9()?;
    let mut server = Server::prepare(overrides)?;
    server.spawn()?;
    let status = server.exited(PATIENCE).await?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(server.log().contains("cannot reach Redis at redis://127.0.0.1"), "{}", server.log());
    Ok(())
}
