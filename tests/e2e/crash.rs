//! A server that dies without a word: nothing that was acked is lost, nothing is shown twice, nobody has to ask.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::Close;
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::producer::{Call, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read::{self, WriteLock};
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_ten_times_under_load() -> Result<()> {
    let mut server = Server::start().await?;
    let tasks = ["crash-a", "crash-b"];
    let mut generators = Vec::new();
    for task in tasks {
        for number in 0..2 {
            let plan = Plan::endless(&server.grpc_url(), task, &format!("{task}/{number}"), 1500);
            generators.push((task, Generator::start(plan)));
        }
    }
    let mut viewers = Vec::new();
    for task in tasks {
        for number in 0..3 {
            let mut viewer = Viewer::whole(&format!("{task}/{number}"), &server.task_url(task));
            // One cannot keep up, and is still behind when the next server begins.
            viewer.events_per_second = (number == 2).then_some(2000);
            viewers.push((task, tokio::spawn(viewer.follow())));
        }
    }
    for round in 0..10 {
        // Each life is long enough for something to be acked in it, and ends at a random moment of the store's rhythm.
        let before: Vec<u64> = generators.iter().map(|(_, generator)| generator.journal().acked).collect();
        wait::until("every producer to be acked again", PATIENCE, async || {
            let moved =
                generators.iter().zip(&before).all(|((_, generator), before)| generator.journal().acked > *before);
            Ok(moved.then_some(()))
        })
        .await
        .with_context(|| format!("life {round}"))?;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        server.kill9()?;
        server.restart().await?;
    }
    let mut journals = Vec::new();
    for (task, generator) in generators {
        journals.push((task, generator.finish().await?));
    }
    let mut seen = Vec::new();
    for (task, viewer) in viewers {
        seen.push((task, viewer.await??));
    }
    for task in tasks {
        let store = store_read::over_http(&server.task_url(task)).await?;
        let producers: Vec<_> =
            journals.iter().filter(|(of, _)| *of == task).map(|(_, journal)| journal.clone()).collect();
        check_store(&store, &producers)?;
        crate::proof::is_verified(&server, task, producers.iter().map(|journal| journal.captured).sum()).await?;
        for journal in &producers {
            ensure!(journal.closed && journal.welcomes >= 10, "{}: {} welcomes", journal.tag, journal.welcomes);
            eprintln!(
                "{}: {} lines, longest time without an ack {:?}",
                journal.tag, journal.captured, journal.longest_stall
            );
        }
        for (_, viewer) in seen.iter().filter(|(of, _)| *of == task) {
            check_viewer(viewer, &store, Allowed::Rollback)?;
            let rollbacks = viewer.controls("rollback").len();
            eprintln!("viewer {}: {rollbacks} rollbacks, longest silence {:?}", viewer.name, viewer.longest_outage);
        }
    }
    Ok(())
}

/// The hardest case: a viewer has a line that was only ever in the memory of a server that died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_shown_but_never_stored_is_taken_back_and_comes_again() -> Result<()> {
    let mut server = Server::start_with(Overrides::none().set("sqlite.busy_timeout", "100ms")).await?;
    let (task, producer) = ("unstored", new_producer());
    let (mut call, first_welcome) = Call::hello(&server.grpc_url(), hello(task, producer)).await?;
    call.lines(1, &["one", "two"]).await?;
    call.stored(2).await?;

    let lock = WriteLock::take(&server.database()).await?;
    let mut viewer = Viewer::whole("v", &server.task_url(task));
    viewer.open().await?;
    viewer.next_named("live").await?;
    call.lines(3, &["three", "four"]).await?;
    viewer.next_named("log").await?;
    let unstored = viewer.next_named("log").await?;
    ensure!(unstored.data.contains(r#""message":"four""#), "{}", unstored.data);
    wait::until("the store to refuse them", PATIENCE, async || {
        Ok(server.log().contains("nothing is acked").then_some(()))
    })
    .await?;
    let told = crate::protocol::task(&server, task).await?;
    ensure!(told["stored"] == 2, "what the store refuses is said to be stored: {told}");
    server.kill9()?;
    lock.release().await?;
    let on_disk = store_read::from_file(&server.database(), task).await?;
    ensure!(on_disk.len() == 2, "the test wants lines 3 and 4 unstored, but the file has {} rows", on_disk.len());
    server.restart().await?;

    // The viewer is back before the producer: it must not keep what nobody has any more.
    viewer.open().await?;
    viewer.next_named("start").await?;
    let rollback = viewer.controls("rollback").pop().context("no rollback before start")?;
    ensure!(rollback["to"] == 2, "{rollback}");
    let mut again = hello(task, producer);
    again.first_unacked_seq = 3;
    let (mut call, welcome) = Call::hello(&server.grpc_url(), again).await?;
    ensure!(welcome.epoch > first_welcome.epoch, "epoch {} after {}", welcome.epoch, first_welcome.epoch);
    ensure!((welcome.queued_seq, welcome.stored_seq) == (2, 2), "{welcome:?}");
    call.lines(3, &["three", "four"]).await?;
    for message in ["three", "four"] {
        let event = viewer.next_named("log").await?;
        ensure!(event.data.contains(&format!(r#""message":"{message}""#)), "{}", event.data);
        ensure!(event.id.as_ref().is_some_and(|id| id.starts_with(&welcome.epoch.to_string())), "{event:?}");
    }
    call.stored(4).await?;
    call.close(Close { final_seq: 4, ..Close::default() }).await??;
    let viewer = viewer.follow().await?;
    let store = store_read::over_http(&server.task_url(task)).await?;
    check_viewer(&viewer, &store, Allowed::Rollback)?;
    ensure!(store.rows.len() == 5 && viewer.controls("rollback").len() == 1, "{store:?}");
    Ok(())
}
