//! Streams opened at random instants while lines arrive.

use std::time::Duration;

use anyhow::Result;
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::Server;
use flowforge_tests::store_read;
use flowforge_tests::viewer::{Opened, Viewer};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// Long enough for every viewer to come, be cut and come back.
const LOAD: Duration = Duration::from_secs(12);
const RATE: u32 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_random_opens_miss_nothing_and_repeat_nothing() -> Result<()> {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::start().await?;
    let generator = Generator::start(Plan::endless(&server.grpc_url(), "opens", "p", RATE));
    let mut viewers = JoinSet::new();
    for number in 0..200 {
        let from = if random.bool() { "from=1".to_owned() } else { format!("tail={}", random.u32(1..3000)) };
        let url = format!("{}/logs/stream?{from}", server.task_url("opens"));
        let viewer = Viewer::new(&format!("{number} {from}"), url);
        let ms = |random: &mut fastrand::Rng, up_to| Duration::from_millis(random.u64(0..up_to));
        viewers.spawn(cut_once(viewer, ms(&mut random, 8_000), ms(&mut random, 3_000), ms(&mut random, 500)));
    }
    let patient = tokio::spawn(cut_often(Viewer::whole("cut 100 times", &server.task_url("opens")), LOAD / 110));
    sleep(LOAD).await;
    let journal = generator.finish().await?;
    let store = store_read::over_http(&server.task_url("opens")).await?;
    check_store(&store, &[journal])?;
    check_viewer(&patient.await??, &store, Allowed::Undisturbed)?;
    while let Some(viewer) = viewers.join_next().await {
        check_viewer(&viewer??, &store, Allowed::Undisturbed)?;
    }
    Ok(())
}

/// Opens after `wait`, is cut after `first`, comes back after `pause` and stays.
async fn cut_once(mut viewer: Viewer, wait: Duration, first: Duration, pause: Duration) -> Result<Viewer> {
    sleep(wait).await;
    read_for(&mut viewer, first).await?;
    sleep(pause).await;
    viewer.follow().await
}

async fn cut_often(mut viewer: Viewer, each: Duration) -> Result<Viewer> {
    for _ in 0..100 {
        read_for(&mut viewer, each).await?;
    }
    viewer.follow().await
}

async fn read_for(viewer: &mut Viewer, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    if viewer.open().await? == Opened::Events {
        while let Ok(event) = timeout_at(end, viewer.receive()).await {
            if event?.is_none() {
                break;
            }
        }
    }
    viewer.cut();
    Ok(())
}
