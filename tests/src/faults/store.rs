//! The store and its disk.

use std::fs::metadata;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flowforge_proto::v1::Close;
use flowforge_test_services::proxy::Mode;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::time::sleep;

use crate::memory::Curve;
use crate::producer::{Call, entry, hello, new_producer};
use crate::server::Overrides;
use crate::site::{Site, Store};
use crate::store_read::WriteLock;
use crate::wait::{self, PATIENCE};

/// How long the store stays away after the queue is full.
const STANDS_STILL: Duration = Duration::from_secs(3);

/// A queue that is full after a second or two without a store.
pub fn small_queue() -> Overrides {
    let settings = Overrides::none().set("queue.max_bytes", "1MiB").set("queue.max_tenant_bytes", "1MiB");
    settings.set("limits.max_message_bytes", "512KiB")
}

/// Away for so long that the queue is full and nobody is read from any more.
pub(super) async fn away(site: &mut Site) -> Result<Duration> {
    let curves = site.servers.iter().map(|server| Curve::of(server.pid())).collect::<Result<Vec<_>>>()?;
    let lock = match &mut site.store {
        Store::Sqlite => Some(WriteLock::take(&site.servers[0].database()).await?),
        Store::Postgres(server, ..) => {
            server.kill9()?;
            None
        }
        Store::ClickHouse(engine, _) => {
            engine.kill9()?;
            None
        }
    };
    wait::until("the queue to be full", PATIENCE, async || Ok((site.unacked() > 20_000).then_some(()))).await?;
    sleep(STANDS_STILL).await; // What was not bounded would go on growing.
    match (&mut site.store, lock) {
        (_, Some(lock)) => lock.release().await?,
        (Store::Postgres(server, ..), _) => server.restart().await?,
        (Store::ClickHouse(engine, _), _) => engine.restart().await?,
        (Store::Sqlite, None) => bail!("nothing was locked"),
    }
    let recovery = site.recovered().await?;
    for (number, curve) in curves.iter().enumerate() {
        let grown = curve.grown(&format!("store_away-{}-{number}", site.pair))?;
        ensure!(grown < 96 << 20, "grown by {grown} bytes while 1 MiB may wait");
    }
    Ok(recovery)
}

/// Each connection's process on the server's side dies.
pub(super) async fn backends_killed(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        let Store::Postgres(_, database, _) = &site.store else { bail!("this needs PostgreSQL") };
        let others = "pid <> pg_backend_pid() AND datname = current_database()";
        database.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")).await?;
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// What is asked for happens, and the answer never comes.
pub(super) async fn answers_lost(site: &mut Site) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        let way = site.store.way().context("this store has no way that can fail")?;
        way.set(Mode::LoseAnswers);
        sleep(Duration::from_millis(fastrand::u64(500..1500))).await;
        way.set(Mode::Pass);
        way.cut();
        longest = longest.max(site.recovered().await?);
    }
    Ok(longest)
}

/// No file of the server's may grow, until it may.
pub(super) async fn disk_full(site: &mut Site) -> Result<Duration> {
    let server = &site.servers[0];
    let pid = Pid::from_raw(i32::try_from(server.pid())?);
    let database = server.database().display().to_string();
    let largest = ["", "-wal"].map(|end| metadata(format!("{database}{end}")).map_or(0, |file| file.len()));
    let full = Rlimit { current: largest.into_iter().max(), maximum: getrlimit(Resource::Fsize).maximum };
    let limits = prlimit(pid, Resource::Fsize, full)?;
    wait::until("lines to wait with their producers", PATIENCE, async || Ok((site.unacked() > 5000).then_some(())))
        .await?;
    prlimit(pid, Resource::Fsize, limits)?;
    site.recovered().await
}

/// What some store might not take: stored as it is, and what was beside it as well. It comes back byte for byte.
pub(super) async fn poison(site: &mut Site) -> Result<Duration> {
    let rows: [&[u8]; 8] = [
        b"before",
        b"nul \0 in the middle\0",
        b"not utf-8 \xff\xfe\x80",
        b"",
        b"'; DROP TABLE task_logs; --",
        b"\x1b[31m{} \\ \\N \\. \t\r \xf0\x9f\x92\xa9",
        b"\xef\xbb\xbf\xed\xa0\x80 lone surrogate",
        b"after",
    ];
    let mut written = rows.join(&b'\n');
    written.push(b'\n');
    for (number, server) in site.servers.iter().enumerate() {
        let task = format!("poison-{number}-{:08x}", fastrand::u32(..)); // It may happen more than once.
        let (mut call, _) = Call::hello(&server.grpc_url(), hello(&task, new_producer())).await?;
        call.batch(1, rows.iter().map(|row| entry(*row)).collect()).await?;
        call.stored(rows.len() as u64).await?;
        call.close(Close { final_seq: rows.len() as u64, ..Close::default() }).await??;
        for server in &site.servers {
            let url = format!("{}/logs/download?stream=stdout", server.task_url(&task));
            let read = reqwest::get(&url).await?.error_for_status()?.bytes().await?;
            ensure!(read == written, "written {written:?}, read {read:?}");
        }
    }
    site.recovered().await
}
