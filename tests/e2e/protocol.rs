//! The rules of `logs.proto`, each from the side of a client that keeps or breaks it.

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::stream_logs_request::Message as Request;
use flowforge_proto::v1::stream_logs_response::Message as Response;
use flowforge_proto::v1::{Close, Dropped, Hello, LogEntry, Stream};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::producer::{Call, entry, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::{Opened, Viewer};
use flowforge_tests::wait::{self, PATIENCE};
use serde_json::Value;
use tonic::Code;

/// The lines of a small task, as JSON.
pub(crate) async fn lines(server: &Server, task: &str) -> Result<Vec<Value>> {
    let url = format!("{}/logs?limit=5000", server.task_url(task));
    let mut page: Value = serde_json::from_str(&reqwest::get(url).await?.error_for_status()?.text().await?)?;
    serde_json::from_value(page["lines"].take()).context("no lines")
}

/// The messages of a small task.
pub(crate) async fn messages(server: &Server, task: &str) -> Result<Vec<String>> {
    let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
    Ok(lines(server, task).await?.iter().map(text).collect())
}

/// `GET /tasks/{id}`.
pub(crate) async fn task(server: &Server, task: &str) -> Result<Value> {
    Ok(serde_json::from_str(&reqwest::get(server.task_url(task)).await?.error_for_status()?.text().await?)?)
}

fn close(final_seq: u64) -> Close {
    Close { final_seq, ..Close::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_producers_at_full_speed_have_one_order_for_everybody() -> Result<()> {
    let server = Server::start().await?;
    let url = server.task_url("two");
    let live: Vec<_> = (0..3).map(|n| tokio::spawn(Viewer::whole(&format!("live {n}"), &url).follow())).collect();
    // Many times what an HTTP/2 window holds, so that the two have to take turns.
    let plan = |tag| Plan { batch: 20, ..Plan::new(&server.grpc_url(), "two", tag, 60_000) };
    let generators = ["a", "b"].map(|tag| Generator::start(plan(tag)));
    let mut journals = Vec::new();
    for generator in generators {
        journals.push(generator.join().await?);
    }
    let store = store_read::over_http(&url).await?;
    check_store(&store, &journals)?;
    ensure!(store.rows.len() == 120_001, "{} rows", store.rows.len());
    let turns = store.rows.windows(2).filter(|pair| pair[0].producer != pair[1].producer).count();
    ensure!(turns >= 4, "the producers hardly met: {turns} turns");
    for viewer in live {
        check_viewer(&viewer.await??, &store, Allowed::Undisturbed)?;
    }
    check_viewer(&Viewer::whole("later", &url).follow().await?, &store, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test]
async fn a_newer_hello_fences_the_older_stream_and_goes_on_where_it_was() -> Result<()> {
    let server = Server::start().await?;
    let producer = new_producer();
    let (mut old, first) = Call::hello(&server.grpc_url(), hello("fence", producer)).await?;
    old.lines(1, &["one", "two"]).await?;
    old.stored(2).await?;
    let (mut new, second) = Call::hello(&server.grpc_url(), hello("fence", producer)).await?;
    ensure!(second.generation > first.generation && second.queued_seq == 2 && second.stored_seq == 2, "{second:?}");
    old.refused(Code::Aborted).await?;
    // What the fenced stream still has in the air is not taken.
    let _ = old.lines(3, &["from the dead"]).await;
    new.lines(2, &["two", "three"]).await?;
    new.stored(3).await?;
    new.close(close(3)).await??;
    let messages = messages(&server, "fence").await?;
    ensure!(messages[..3] == ["one", "two", "three"] && messages.len() == 4, "{messages:?}");
    Ok(())
}

#[tokio::test]
async fn a_gap_in_the_numbers_is_answered_with_resync_and_repeats_are_dropped() -> Result<()> {
    let server = Server::start().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("resync", new_producer())).await?;
    call.lines(1, &["one"]).await?;
    let mut viewer = Viewer::whole("live", &server.task_url("resync"));
    viewer.open().await?;
    viewer.next_named("live").await?;
    call.lines(4, &["four"]).await?;
    call.lines(5, &["five, under way when Resync was sent"]).await?;
    let expected = loop {
        match call.next().await??.context("the call ended")? {
            Response::Resync(resync) => break resync.expected_seq,
            Response::Ack(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
    };
    ensure!(expected == 2, "Resync to {expected}");
    call.lines(1, &["one", "two", "three"]).await?;
    call.lines(2, &["two", "three"]).await?;
    call.lines(3, &["three", "four"]).await?;
    call.stored(4).await?;
    call.close(close(4)).await??;
    let messages = messages(&server, "resync").await?;
    ensure!(messages[..4] == ["one", "two", "three", "four"] && messages.len() == 5, "{messages:?}");
    // What was refused or repeated was not shown either.
    viewer.next_named("end").await?;
    let store = store_read::over_http(&server.task_url("resync")).await?;
    check_viewer(&viewer.follow().await?, &store, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test]
async fn lines_that_are_gone_become_a_row_that_says_so() -> Result<()> {
    let server = Server::start().await?;
    let producer = new_producer();
    // 1 and 2 arrive; 3 to 9 are gone on both sides; 10 to 14 were dropped by the client and say so.
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("gone", producer)).await?;
    call.lines(1, &["one", "two"]).await?;
    call.stored(2).await?;
    let (mut call, welcome) =
        Call::hello(&server.grpc_url(), Hello { first_unacked_seq: 10, ..hello("gone", producer) }).await?;
    ensure!(welcome.queued_seq == 9, "{welcome:?}");
    let dropped = LogEntry {
        stream: Stream::System as i32,
        dropped: Some(Dropped { lines: 5, bytes: 77 }),
        ..LogEntry::default()
    };
    call.batch(10, vec![dropped, entry("fifteen")]).await?;
    call.stored(15).await?;
    call.close(close(15)).await??;
    let lines = lines(&server, "gone").await?;
    ensure!(lines.len() == 6, "{lines:#?}");
    ensure!(lines[2]["stream"] == "system" && lines[2]["seq"] == 9, "{}", lines[2]);
    ensure!(
        lines[2]["fields"]["gap"] == serde_json::json!({"lines": 7, "first_seq": 3, "last_seq": 9}),
        "{}",
        lines[2]
    );
    let said = serde_json::json!({"lines": 5, "bytes": 77, "first_seq": 10, "last_seq": 14});
    ensure!(lines[3]["stream"] == "system" && lines[3]["fields"]["dropped"] == said, "{}", lines[3]);
    ensure!(lines[4]["seq"] == 15 && lines[4]["message"] == "fifteen", "{}", lines[4]);
    let end = &lines[5]["fields"]["end"];
    ensure!(end["dropped"] == 12 && end["complete"] == false, "{end}");
    Ok(())
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_its_number_and_the_rule() -> Result<()> {
    let server = Server::start().await?;
    let limit = 64 * 1024;
    let (mut call, welcome) = Call::hello(&server.grpc_url(), hello("rules", new_producer())).await?;
    ensure!(welcome.limits.is_some_and(|limits| limits.max_line_bytes == limit), "{welcome:?}");
    let exact = entry(vec![b'x'; limit as usize]);
    let over = entry(vec![b'x'; limit as usize + 1]);
    call.batch(1, vec![exact, entry("kept")]).await?;
    call.batch(3, vec![entry("not kept"), over]).await?;
    let status = call.refused(Code::OutOfRange).await?;
    ensure!(status.message().contains("seq 4") && status.message().contains("65536"), "{status:?}");
    wait::until("the accepted lines", PATIENCE, async || Ok((lines(&server, "rules").await?.len() == 2).then_some(())))
        .await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("rules-2", new_producer())).await?;
    call.batch(1, (0..80).map(|_| entry(vec![b'x'; 60_000])).collect()).await?;
    call.refused(Code::OutOfRange).await.context("a message over limits.max_message_bytes")?;

    let long = "x".repeat(10_000);
    let hostile = ["../x", "%2e%2e", "a*", "{x}", "a:b", "a\r\nb", "a\0b", "", ".a", "-a", "ä", &long];
    for id in hostile {
        for bad in [hello(id, new_producer()), Hello { tenant: id.to_owned(), ..hello("t", new_producer()) }] {
            if bad.tenant.is_empty() && bad.task_id == "t" {
                continue; // No tenant is the default one.
            }
            let mut call = Call::open(&server.grpc_url()).await?;
            call.send(Request::Hello(bad)).await?;
            let status = call.refused(Code::InvalidArgument).await.with_context(|| format!("id {id:.20?}"))?;
            ensure!(status.message().contains("start with a letter or digit"), "the rule is not named: {status:?}");
            ensure!(status.message().len() < 1000, "the id is echoed in full");
        }
    }
    let mut call = Call::open(&server.grpc_url()).await?;
    call.lines(1, &["no Hello"]).await?;
    call.refused(Code::FailedPrecondition).await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("rules-3", new_producer())).await?;
    call.send(Request::Hello(hello("rules-3", new_producer()))).await?;
    call.refused(Code::FailedPrecondition).await.context("a second Hello")?;
    Ok(())
}

#[tokio::test]
async fn close_ends_the_task_once_also_when_repeated_after_a_restart() -> Result<()> {
    let mut server = Server::start().await?;
    let producer = new_producer();
    let mut viewer = Viewer::whole("v", &server.task_url("close"));
    let (mut call, _) = Call::hello(&server.grpc_url(), Hello { name: "n".into(), ..hello("close", producer) }).await?;
    viewer.open().await?;
    call.lines(1, &["one"]).await?;
    let failed = Close { final_seq: 1, status: 2, exit_code: Some(7), ..Close::default() };
    call.close(failed.clone()).await??;
    // OK means stored: the file has the end row, whatever becomes of the server now.
    server.kill9()?;
    let rows = store_read::from_file(&server.database(), "close").await?;
    ensure!(rows.len() == 2 && rows[1].seq == 0, "{rows:?}");
    let viewer = tokio::spawn(viewer.follow());
    server.restart().await?;
    let (mut call, welcome) =
        Call::hello(&server.grpc_url(), Hello { first_unacked_seq: 2, ..hello("close", producer) }).await?;
    ensure!(welcome.stored_seq == 1, "{welcome:?}");
    call.close(failed).await??;
    let lines = lines(&server, "close").await?;
    ensure!(lines.len() == 2 && lines[1]["stream"] == "system", "{lines:#?}");
    let task = task(&server, "close").await?;
    ensure!(task["status"] == "failed" && task["exit_code"] == 7 && task["attempt"] == 1, "{task}");
    let viewer = viewer.await??;
    for mut end in viewer.controls("end") {
        ensure!(end["completeness"]["state"] == "unproven", "{end}");
        end.as_object_mut().context("an object")?.remove("completeness");
        let wanted = serde_json::json!({"attempt": 1, "offset": 2, "status": "failed", "exit_code": 7, "lines": 1, "dropped": 0, "complete": true});
        ensure!(end == wanted, "{end}");
    }
    check_viewer(&viewer, &store_read::over_http(&server.task_url("close")).await?, Allowed::Rollback)?;
    Ok(())
}

#[tokio::test]
async fn a_task_ends_when_every_producer_has_closed_and_the_owner_decides() -> Result<()> {
    let server = Server::start().await?;
    let (mut child, _) = Call::hello(&server.grpc_url(), hello("owner", new_producer())).await?;
    let (mut owner, _) =
        Call::hello(&server.grpc_url(), Hello { owner: true, ..hello("owner", new_producer()) }).await?;
    child.lines(1, &["child"]).await?;
    child.close(Close { final_seq: 1, status: 1, exit_code: Some(0), ..Close::default() }).await??;
    ensure!(task(&server, "owner").await?["status"] == "running");
    owner.close(Close { final_seq: 0, status: 2, exit_code: Some(3), ..Close::default() }).await??;
    let ended = task(&server, "owner").await?;
    ensure!(ended["status"] == "failed" && ended["exit_code"] == 3 && ended["complete"] == true, "{ended}");

    // A new producer after the end is a new attempt.
    let mut viewer = Viewer::whole("v", &server.task_url("owner"));
    viewer.open().await?;
    viewer.next_named("end").await?;
    let (mut next, _) = Call::hello(&server.grpc_url(), hello("owner", new_producer())).await?;
    next.lines(1, &["again"]).await?;
    next.stored(1).await?;
    let again = task(&server, "owner").await?;
    ensure!(again["status"] == "running" && again["attempt"] == 2 && again["exit_code"].is_null(), "{again}");
    // The viewer that had seen the end goes on: no 204 for a task that lives again.
    ensure!(viewer.open().await? == Opened::Events);
    ensure!(viewer.next_named("log").await?.data.contains("again"));
    next.close(close(1)).await??;
    let end = viewer.next_named("end").await?;
    let end: Value = serde_json::from_str(&end.data)?;
    ensure!(end["attempt"] == 2 && end["lines"] == 1 && end["status"] == "succeeded", "{end}");
    Ok(())
}

#[tokio::test]
async fn a_lease_that_runs_out_ends_the_task_as_lost_and_a_comeback_reopens_it() -> Result<()> {
    let server = Server::start_with(Overrides::none().set("broker.lease", "1s")).await?;
    let producer = new_producer();
    let mut viewer = Viewer::whole("v", &server.task_url("lease"));
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("lease", producer)).await?;
    viewer.open().await?;
    call.lines(1, &["one"]).await?;
    call.stored(1).await?;
    // A connection that is open and silent is alive.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    ensure!(task(&server, "lease").await?["status"] == "running", "an open stream lost its lease");
    drop(call);
    let gone = std::time::Instant::now();
    let end: Value = serde_json::from_str(&viewer.next_named("end").await?.data)?;
    ensure!((1..11).contains(&gone.elapsed().as_secs()), "a lease of 1 s ended after {:?}", gone.elapsed());
    ensure!(end["status"] == "lost" && end["complete"] == false && end["offset"] == 2, "{end}");
    ensure!(viewer.open().await? == Opened::NothingMore, "no 204 after the end");

    let (mut call, welcome) =
        Call::hello(&server.grpc_url(), Hello { first_unacked_seq: 2, ..hello("lease", producer) }).await?;
    ensure!(welcome.queued_seq == 1, "{welcome:?}");
    call.lines(2, &["back"]).await?;
    call.stored(2).await?;
    let task = task(&server, "lease").await?;
    ensure!(task["status"] == "running" && task["attempt"] == 1, "{task}");
    ensure!(viewer.open().await? == Opened::Events);
    ensure!(viewer.next_named("log").await?.data.contains("back"));
    call.close(close(2)).await??;
    let end: Value = serde_json::from_str(&viewer.next_named("end").await?.data)?;
    ensure!(end["status"] == "succeeded" && end["complete"] == true, "{end}");
    check_viewer(&viewer, &store_read::over_http(&server.task_url("lease")).await?, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test]
async fn producers_that_leave_for_ever_during_a_restart_end_as_lost() -> Result<()> {
    let mut server = Server::start_with(Overrides::none().set("broker.lease", "1s")).await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("left", new_producer())).await?;
    call.lines(1, &["one"]).await?;
    call.stored(1).await?;
    server.kill9()?;
    server.restart().await?;
    wait::until("the task to be lost", PATIENCE, async || {
        Ok((task(&server, "left").await?["status"] == "lost").then_some(()))
    })
    .await?;
    ensure!(lines(&server, "left").await?.len() == 2);
    Ok(())
}
