//! The load generator: how fast, how late, at what cost. Starts a server of its own and prints one table a scenario.
//!
//! Everything shares the machine: the server, the producers, and the viewers that measure. Figures are of this machine in
//! this hour; compare them within one run.

mod load;
mod stores;
mod usage;
mod watch;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_tests::server::{Overrides, Server};
use hdrhistogram::Histogram;

use crate::usage::Usage;

/// FlowForge Logs under load.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: FLOWFORGE_BIN=target/release/flowforge target/release/flowforge-bench --seconds 10"
)]
struct Args {
    /// Tasks that print at once.
    #[arg(long, default_value_t = 1_000)]
    tasks: usize,
    /// Lines per second of all tasks together, in the latency scenarios.
    #[arg(long, default_value_t = 10_000)]
    rate: usize,
    /// Live viewers.
    #[arg(long, default_value_t = 100)]
    viewers: usize,
    /// Length of each latency scenario.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Lines of the throughput scenario.
    #[arg(long, default_value_t = 2_000_000)]
    lines: usize,
    /// Bytes of a line.
    #[arg(long, default_value_t = 120)]
    line_bytes: usize,
    /// More server settings, section.key=value.
    #[arg(long = "set")]
    settings: Vec<String>,
    #[command(subcommand)]
    scenario: Option<Scenario>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Scenario {
    /// The stores beside each other: inserts, disk, history
    Stores {
        /// Lines in each
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
    },
    /// Redis with each store: a task at 10,000 lines/s, and a viewer of it
    Redis {
        /// Lines in each
        #[arg(long, default_value_t = 50_000)]
        rows: u64,
    },
}

impl Args {
    fn overrides(&self) -> Overrides {
        self.settings.iter().filter_map(|setting| setting.split_once('=')).fold(
            Overrides::none().set("logging.level", "warn,flowforge_server::serve=info"),
            |overrides, (key, value)| overrides.set(key, value),
        )
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match args.scenario {
            None => {
                spread_latency(&args).await?;
                one_task_latency(&args).await?;
                throughput(&args).await
            }
            Some(Scenario::Stores { rows }) => stores::compare(rows).await,
            Some(Scenario::Redis { rows }) => over_redis(&args, rows).await,
        }
    })
}

/// Every viewer watches a task of its own.
async fn spread_latency(args: &Args) -> Result<()> {
    let watched = args.viewers.min(args.tasks);
    say(&format!("{} tasks, {} lines/s, {watched} viewers of {watched} tasks", args.tasks, args.rate));
    latency(args, args.overrides(), args.tasks, |viewer| viewer % args.tasks).await
}

/// All viewers watch the same task, which prints a tenth of the lines.
async fn one_task_latency(args: &Args) -> Result<()> {
    let rate = args.rate / 10;
    say(&format!("1 task, {rate} lines/s, {} viewers of it: {} deliveries/s", args.viewers, rate * args.viewers));
    let args = Args { rate, settings: args.settings.clone(), ..*args };
    latency(&args, args.overrides(), 1, |_| 0).await
}

/// Everything between a line and its viewer that a site of several servers has.
async fn over_redis(args: &Args, rows: u64) -> Result<()> {
    for name in stores::STORES {
        say(&format!("Redis and {name}: {rows} lines of 1 task, {} lines/s, 1 viewer of it", args.rate));
        let redis = Redis::start(Persistence::Always).await?;
        let folder = tempfile::tempdir()?;
        let (settings, _server) = stores::settings(name, folder.path()).await?;
        let overrides = args.overrides().set("broker.driver", "redis").set("redis.url", &redis.url());
        let overrides = settings.iter().fold(overrides, |overrides, (key, value)| overrides.set(key, value));
        let seconds = rows / args.rate as u64;
        let args = Args { viewers: 1, seconds, settings: Vec::new(), ..*args };
        latency(&args, overrides, 1, |_| 0).await?;
    }
    Ok(())
}

async fn latency(args: &Args, overrides: Overrides, tasks: usize, watched: impl Fn(usize) -> usize) -> Result<()> {
    let server = Server::start_with(overrides).await?;
    let producers = load::start(&server, tasks).await?;
    let viewers: Vec<_> = (0..args.viewers)
        .map(|viewer| tokio::spawn(watch::watch(server.task_url(&load::task(watched(viewer))), args.line_bytes)))
        .collect();
    let before = Usage::of(server.pid())?;
    let sent = load::paced(&producers, args.rate, Duration::from_secs(args.seconds), args.line_bytes).await;
    let after = Usage::of(server.pid())?;
    load::close(producers).await?;

    let mut all = Histogram::<u64>::new(3)?;
    let (mut seen, mut due) = (0, 0);
    for (viewer, handle) in viewers.into_iter().enumerate() {
        let report = handle.await??;
        seen += report.lines;
        due +=
            sent.iter().enumerate().filter(|(task, _)| *task == watched(viewer)).map(|(_, lines)| lines).sum::<u64>();
        all.add(&report.latency)?;
    }
    ensure!(seen == due, "viewers saw {seen} lines of {due}");
    let lines: u64 = sent.iter().sum();
    row("lines sent, deliveries, lost", &format!("{lines}, {seen}, 0"));
    let ms = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1e6;
    let (p50, p99, p999) = (ms(0.5), ms(0.99), ms(0.999));
    row("print to SSE, p50 / p99 / p99.9 / max", &format!("{p50:.2} / {p99:.2} / {p999:.2} / {:.2} ms", ms(1.0)));
    cost(&before, &after, lines);
    Ok(())
}

/// As fast as it goes, until everything is stored.
async fn throughput(args: &Args) -> Result<()> {
    for tasks in [1, args.tasks] {
        say(&format!("{tasks} tasks, {} lines as fast as they go, until the last is stored", args.lines));
        let server = Server::start_with(args.overrides()).await?;
        let producers = load::start(&server, tasks).await?;
        let before = Usage::of(server.pid())?;
        let started = std::time::Instant::now();
        load::flat_out(&producers, args.lines, args.line_bytes).await?;
        let elapsed = started.elapsed();
        let after = Usage::of(server.pid())?;
        load::close(producers).await?;
        let lines = (args.lines / tasks * tasks) as u64;
        row("stored lines/s", &format!("{:.0}", lines as f64 / elapsed.as_secs_f64()));
        cost(&before, &after, lines);
        let bytes = std::fs::metadata(server.database())?.len();
        row("bytes on disk a line", &format!("{}", bytes / lines.max(1)));
    }
    Ok(())
}

fn cost(before: &Usage, after: &Usage, lines: u64) {
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    row("server CPU-s per million lines", &format!("{:.2}", cpu * 1e6 / lines.max(1) as f64));
    row("server RSS, peak", &format!("{} MiB, {} MiB", after.rss >> 20, after.peak_rss >> 20));
}

#[allow(clippy::print_stderr, reason = "the table goes elsewhere")]
fn progress(words: &str) {
    eprintln!("  {words}");
}

#[allow(clippy::print_stdout, reason = "the table is what this program is for")]
fn say(title: &str) {
    println!("\n{title}");
}

#[allow(clippy::print_stdout, reason = "the table is what this program is for")]
fn row(name: &str, value: &str) {
    println!("  {name:<40} {value}");
}
