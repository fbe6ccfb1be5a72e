//! Several servers over one Redis and one PostgreSQL, each with a part of the work: who dies, freezes or joins is not noticed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowforge_test_services::postgres::Database;
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};
use futures_util::future::try_join_all;
use rustix::process::Signal;

/// Shards, as by default.
const SHARDS: usize = 4;

/// One Redis, one database, and as many servers as a test wants.
struct Site {
    redis: Redis,
    database: Database,
}

impl Site {
    async fn start() -> Result<Self> {
        Ok(Self { redis: Redis::start(Persistence::Always).await?, database: Database::shared().await? })
    }

    async fn server(&self, roles: &'static str, claim_idle: &str) -> Result<Server> {
        let settings = Overrides::sharing_postgres(&self.database.url(), &self.redis.url());
        Server::start_as(roles, settings.set("queue.claim_idle", claim_idle)).await
    }

    /// How many shards each of these workers reads, in their order: by the leases in Redis, and only where it was also
    /// given lines of that shard.
    fn shares(&self, workers: &[&Server]) -> Result<Vec<usize>> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for shard in 0..SHARDS {
            let owner = self.redis.command(&["HGET", &format!("logs:worker:{{logs:stream:{shard}}}"), "owner"])?;
            let consumers =
                self.redis.command(&["XINFO", "CONSUMERS", &format!("logs:stream:{shard}"), "log_workers"])?;
            if consumers.lines().any(|line| line == owner) {
                *counts.entry(owner.split('-').next().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        Ok(workers.iter().map(|worker| counts.get(&worker.pid().to_string()).copied().unwrap_or(0)).collect())
    }

    async fn shares_are(&self, what: &str, workers: &[&Server], wanted: &[usize]) -> Result<()> {
        wait::until(what, PATIENCE, async || {
            // In any order: it follows from the workers' names.
            let (mut shares, mut wanted) = (self.shares(workers)?, wanted.to_vec());
            shares.sort_unstable();
            wanted.sort_unstable();
            Ok((shares == wanted).then_some(()))
        })
        .await
        .with_context(|| format!("shares: {:?}", self.shares(workers)))
    }

    /// Nothing is left in the queue.
    async fn emptied(&self) -> Result<()> {
        wait::until("an empty queue", PATIENCE, async || {
            let lengths = (0..SHARDS).map(|shard| self.redis.command(&["XLEN", &format!("logs:stream:{shard}")]));
            Ok(lengths.collect::<Result<Vec<_>>>()?.iter().all(|length| length == "0").then_some(()))
        })
        .await
    }
}

async fn acks_move(generators: &[(String, Generator)]) -> Result<()> {
    let before: Vec<u64> = generators.iter().map(|(_, generator)| generator.journal().acked).collect();
    wait::until("every producer to be acked again", PATIENCE, async || {
        let mut pairs = generators.iter().zip(&before);
        Ok(pairs.all(|((_, generator), before)| generator.journal().acked > *before).then_some(()))
    })
    .await
}

/// What is taken at A is seen at B and stored by C; A dies, and its producer goes on at D.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_go_on_through_another_instance_when_theirs_is_killed() -> Result<()> {
    const LINES: u64 = 10_000;
    let site = Site::start().await?;
    let mut a = site.server("ingest", "2s").await?;
    let d = site.server("ingest,tail", "2s").await?;
    let b = site.server("tail", "2s").await?;
    let _c = site.server("worker", "2s").await?;
    let plan = Plan { rate: Some(2000), batch: 50, ..Plan::new(&a.grpc_url(), "moved", "p", LINES) };
    let generator = Generator::start(Plan { others: vec![d.grpc_url()], ..plan });
    let viewers = [(&b, "b"), (&b, "b again"), (&d, "d")]
        .map(|(server, name)| tokio::spawn(Viewer::whole(name, &server.task_url("moved")).follow()));
    wait::until("lines that are under way", PATIENCE, async || {
        let journal = generator.journal();
        Ok((journal.acked > LINES / 4 && journal.captured > journal.acked).then_some(()))
    })
    .await?;
    a.kill9()?;
    let journal = generator.join().await?;
    ensure!(journal.closed && journal.welcomes == 2 && journal.acked == LINES, "{journal:?}");
    let store = store_read::over_http(&b.task_url("moved")).await?;
    ensure!(store.rows.len() as u64 == LINES + 1, "{} rows", store.rows.len());
    check_store(&store, &[journal])?;
    for viewer in viewers {
        check_viewer(&viewer.await??, &store, Allowed::Undisturbed)?;
    }
    site.emptied().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_the_shards_whoever_freezes_thaws_or_joins() -> Result<()> {
    let site = Site::start().await?;
    let (ingest, tail) = (site.server("ingest", "2s").await?, site.server("tail", "2s").await?);
    let (one, two) = (site.server("worker", "2s").await?, site.server("worker", "2s").await?);
    // Enough tasks for every shard, and never a moment without lines under way.
    let generators: Vec<_> = (0..16)
        .map(|number| {
            let task = format!("shared-{number}");
            let plan = Plan::endless(&ingest.grpc_url(), &task, &task, 100);
            (task.clone(), Generator::start(plan))
        })
        .collect();
    let viewers: Vec<_> =
        generators.iter().map(|(task, _)| tokio::spawn(Viewer::whole(task, &tail.task_url(task)).follow())).collect();
    site.shares_are("two workers to have two shards each", &[&one, &two], &[2, 2]).await?;
    acks_move(&generators).await?;

    one.signal(Signal::STOP)?;
    site.shares_are("the other to take all", &[&one, &two], &[0, SHARDS]).await?;
    acks_move(&generators).await.context("while one is frozen")?;
    one.signal(Signal::CONT)?;
    site.shares_are("the thawed one to get its shards back", &[&one, &two], &[2, 2]).await?;
    acks_move(&generators).await.context("after the thaw")?;

    let three = site.server("worker", "2s").await?;
    site.shares_are("the third to get a share", &[&one, &two, &three], &[2, 1, 1]).await?;
    acks_move(&generators).await.context("with a third worker")?;

    let ends = generators.into_iter().map(async |(task, generator)| anyhow::Ok((task, generator.finish().await?)));
    for ((task, journal), viewer) in try_join_all(ends).await?.into_iter().zip(viewers) {
        let store = store_read::over_http(&tail.task_url(&task)).await?;
        ensure!(store.rows.len() as u64 == journal.captured + 1, "{task}: {} rows", store.rows.len());
        check_store(&store, &[journal])?;
        check_viewer(&viewer.await??, &store, Allowed::Undisturbed)?;
    }
    site.emptied().await
}

/// Its hold would last for minutes; that its connection ended is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_is_not_waited_for() -> Result<()> {
    let site = Site::start().await?;
    let mut server = site.server("ingest,tail,worker", "5m").await?;
    let generators = [("soon".to_owned(), Generator::start(Plan::endless(&server.grpc_url(), "soon", "p", 1000)))];
    acks_move(&generators).await?;
    for _ in 0..3 {
        let killed = Instant::now();
        server.kill9()?;
        server.restart().await?;
        acks_move(&generators).await?;
        eprintln!("acks again after {:?}", killed.elapsed());
    }
    let [(_, generator)] = generators;
    let journal = generator.finish().await?;
    eprintln!("longest time without an ack {:?}", journal.longest_stall);
    check_store(&store_read::over_http(&server.task_url("soon")).await?, &[journal])?;
    let left = server.terminate(Duration::from_secs(20)).await?;
    ensure!(left.success(), "{left}");
    site.emptied().await
}
