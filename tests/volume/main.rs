//! Much at once: a million lines of one task, and a thousand tasks at the same time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowforge_client::{Client, ClientConfig, Entry, Overflow, Status, Stream};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Journal, Plan};
use flowforge_tests::server::Server;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::{line, store_read};

/// One of these at a time: each wants the machine for itself.
static TURN: Mutex<()> = Mutex::new(());

fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test)
}

#[test]
fn a_million_lines_of_one_task() -> Result<()> {
    run(async {
        const LINES: u64 = 1_000_000;
        let server = Server::start().await?;
        let url = server.task_url("million");
        let viewers: Vec<_> = (0..2).map(|n| tokio::spawn(Viewer::whole(&format!("v{n}"), &url).follow())).collect();
        let mut config = ClientConfig::new(server.grpc_url(), "million");
        config.overflow = Overflow::Wait;
        let client = Client::start(config)?;
        let start = Instant::now();
        for seq in 1..=LINES {
            client.push_async(Entry::new(Stream::Stdout, line::text("p", seq))).await;
        }
        let producer = u128::from_be_bytes(client.producer());
        let outcome = client.close_async(Status::Succeeded, Some(0), Duration::from_mins(1)).await;
        ensure!(outcome.is_complete() && outcome.undelivered == 0 && outcome.dropped == 0, "{outcome:?}");
        eprintln!("stored after {:?}", start.elapsed());
        let journal = Journal {
            producer,
            tag: "p".to_owned(),
            captured: LINES,
            acked: LINES,
            closed: true,
            welcomes: client.stats().welcomes,
            failures: Vec::new(),
            longest_stall: Duration::ZERO,
            broken: None,
        };
        let mut seen = Vec::new();
        for viewer in viewers {
            seen.push(viewer.await??);
        }
        eprintln!("viewed after {:?}", start.elapsed());
        let store = store_read::over_http(&url).await?;
        eprintln!("read back after {:?}", start.elapsed());
        ensure!(store.rows.len() as u64 == LINES + 1, "{} rows", store.rows.len());
        check_store(&store, &[journal])?;
        for viewer in &seen {
            check_viewer(viewer, &store, Allowed::Undisturbed)?;
        }
        Ok(())
    })
}

#[test]
fn a_thousand_tasks_at_once() -> Result<()> {
    run(async {
        let server = Server::start().await?;
        let start = Instant::now();
        let name = |n: usize| format!("task-{n}");
        let watched = [0, 333, 999].map(|n| {
            let url = server.task_url(&name(n));
            (n, tokio::spawn(Viewer::whole(&name(n), &url).follow()))
        });
        let plan = |n| Plan { batch: 100, ..Plan::new(&server.grpc_url(), &name(n), &name(n), 1000) };
        let generators: Vec<_> = (0..1000).map(|n| Generator::start(plan(n))).collect();
        let mut journals = Vec::new();
        for generator in generators {
            journals.push(generator.join().await?);
        }
        eprintln!("stored after {:?}", start.elapsed());
        let mut stores = Vec::new();
        for journal in &journals {
            let store = store_read::over_http(&server.task_url(&journal.tag)).await?;
            check_store(&store, std::slice::from_ref(journal))?;
            ensure!(store.rows.len() == 1001, "{}: {} rows", journal.tag, store.rows.len());
            stores.push(store);
        }
        for (n, viewer) in watched {
            check_viewer(&viewer.await??, &stores[n], Allowed::Undisturbed)?;
        }
        eprintln!("checked after {:?}", start.elapsed());
        Ok(())
    })
}
