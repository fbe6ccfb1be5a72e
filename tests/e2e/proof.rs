//! "Verified" is said if and only if what is stored is what was sent.

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::stream_logs_request::Message as Request;
use flowforge_proto::v1::stream_logs_response::Message as Response;
use flowforge_proto::v1::{Close, Dropped, Hello, LogEntry, Proof, Recovery, Stream};
use flowforge_tests::cli::{command, output, output_of};
use flowforge_tests::producer::{Call, entry, hello, new_producer, prove};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use crate::protocol::task;

/// What the server says of a task.
pub(crate) async fn completeness(server: &Server, name: &str) -> Result<Value> {
    Ok(task(server, name).await?["completeness"].take())
}

/// The task is verified, and has so many lines.
pub(crate) async fn is_verified(server: &Server, name: &str, lines: u64) -> Result<()> {
    let found = completeness(server, name).await?;
    ensure!(found["state"] == "verified" && found["missing"] == 0 && found["dropped"] == 0, "{name}: {found}");
    ensure!(found["lines"] == lines && found["captured"] == lines, "{name}: {found}, but {lines} were sent");
    Ok(())
}

async fn is_not(server: &Server, name: &str, state: &str, reason: &str) -> Result<Value> {
    let found = completeness(server, name).await?;
    ensure!(found["state"] == state, "{name}: {found}");
    ensure!(found["reason"].as_str().is_some_and(|said| said.contains(reason)), "{name}: {found}");
    Ok(found)
}

/// Lines of every kind that travel.
fn entries(count: u64) -> Vec<LogEntry> {
    let line = |n: u64| LogEntry {
        stream: [0, 1, 2, 3][(n % 4) as usize],
        level: (n % 25) as u32,
        fields_json: if n.is_multiple_of(3) { format!("{{\"n\": {n}}}").into() } else { Vec::new().into() },
        update_id: n << 57,
        continued: n.is_multiple_of(5),
        no_newline: n.is_multiple_of(7),
        ..entry([format!("line {n} ").as_bytes(), &[n as u8, 0, 0xff]].concat())
    };
    (1..=count).map(line).collect()
}

fn close(final_seq: u64, proof: Option<Proof>) -> Close {
    Close { final_seq, proof, ..Close::default() }
}

/// A task of one producer that has sent these and closed.
async fn closed(server: &Server, name: &str, entries: &[LogEntry], close: Close) -> Result<()> {
    let (mut call, _) = Call::hello(&server.grpc_url(), hello(name, new_producer())).await?;
    if !entries.is_empty() {
        call.batch(1, entries.to_vec()).await?;
    }
    call.close(close).await??;
    Ok(())
}

#[tokio::test]
async fn what_is_stored_as_it_was_sent_is_verified() -> Result<()> {
    let server = Server::start().await?;
    let sent = entries(500);
    let mut viewer = Viewer::whole("live", &server.task_url("whole"));
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("whole", new_producer())).await?;
    viewer.open().await?;
    call.batch(1, sent[..300].to_vec()).await?;
    call.batch(100, sent[99..400].to_vec()).await?;
    ensure!(completeness(&server, "whole").await?["state"] == "running");
    call.batch(401, sent[400..].to_vec()).await?;
    call.close(close(500, Some(prove(1, sent)))).await??;
    let whole = json!({"state": "verified", "lines": 500, "captured": 500, "missing": 0, "dropped": 0});
    let seen = viewer.follow().await?;
    let end = seen.controls("end").pop().context("no end")?;
    ensure!(end["completeness"] == whole, "{end}");
    let mut found = completeness(&server, "whole").await?;
    let producers = found.as_object_mut().and_then(|found| found.remove("producers")).context("no producers")?;
    ensure!(found == whole && producers[0]["state"] == "verified", "{found} {producers}");
    closed(&server, "nothing", &[], close(0, Some(prove(1, [])))).await?;
    is_verified(&server, "nothing", 0).await
}

#[tokio::test]
async fn a_changed_row_is_noticed() -> Result<()> {
    let server = Server::start().await?;
    let sent = entries(9);
    for (name, sql) in [
        ("message", "UPDATE lines SET message = 'line 3 ', raw = NULL WHERE seq = 3"),
        ("level", "UPDATE lines SET level = level + 1 WHERE seq = 4"),
        ("time", "UPDATE lines SET time_ns = time_ns - 1 WHERE seq = 5"),
    ] {
        closed(&server, name, &sent, close(9, Some(prove(1, sent.clone())))).await?;
        ensure!(store_read::alter(&server.database(), sql).await? > 0, "{name}");
        let found = completeness(&server, name).await?;
        ensure!(found["state"] == "incomplete" && found["lines"] == 9 && found["missing"] == 0, "{name}: {found}");
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_row_and_one_too_many_are_named() -> Result<()> {
    let server = Server::start().await?;
    let sent = entries(9);
    closed(&server, "hole", &sent, close(9, Some(prove(1, sent.clone())))).await?;
    store_read::alter(&server.database(), "DELETE FROM lines WHERE seq = 7").await?;
    let found = is_not(&server, "hole", "incomplete", "seq 7 is not stored").await?;
    ensure!((&found["lines"], &found["captured"], &found["missing"]) == (&json!(8), &json!(9), &json!(1)), "{found}");
    closed(&server, "twice", &sent, close(9, Some(prove(1, sent.clone())))).await?;
    store_read::alter(&server.database(), "UPDATE lines SET seq = 4 WHERE seq = 5").await?;
    is_not(&server, "twice", "incomplete", "seq 4 is stored twice").await?;
    Ok(())
}

#[tokio::test]
async fn what_nobody_proves_is_not_called_verified() -> Result<()> {
    let server = Server::start_with(Overrides::none().set("broker.lease", "1s")).await?;
    let sent = entries(5);
    closed(&server, "old", &sent, close(5, None)).await?;
    is_not(&server, "old", "unproven", "says nothing of what it sent").await?;
    let wrong = Proof { digest: vec![0; 32].into(), ..prove(1, sent.clone()) };
    closed(&server, "wrong", &sent, close(5, Some(wrong))).await?;
    is_not(&server, "wrong", "incomplete", "not what the producer sent").await?;
    closed(&server, "fewer", &sent, close(5, Some(prove(1, sent[..4].to_vec())))).await?;
    is_not(&server, "fewer", "incomplete", "5 lines of").await?;
    for (recovery, words) in
        [(Recovery::Clean, "all that it had captured is stored"), (Recovery::Damaged, "could be read")]
    {
        let name = format!("died-{}", recovery as i32);
        closed(&server, &name, &sent, Close { recovery: recovery.into(), ..close(5, None) }).await?;
        is_not(&server, &name, "unproven", words).await?;
    }
    let (call, _) = Call::hello(&server.grpc_url(), hello("left", new_producer())).await?;
    call.batch(1, sent).await?;
    drop(call);
    wait::until("the lease to run out", PATIENCE, async || {
        let found = task(&server, "left").await;
        Ok(found.is_ok_and(|found| found["status"] == "lost").then_some(()))
    })
    .await?;
    is_not(&server, "left", "unproven", "left without a Close").await?;
    Ok(())
}

#[tokio::test]
async fn losses_are_counted_and_the_rest_is_proven() -> Result<()> {
    let server = Server::start().await?;
    let (first, last) = (entry("one"), entry("nine"));
    let run = LogEntry {
        stream: Stream::System.into(),
        dropped: Some(Dropped { lines: 7, bytes: 70 }),
        ..LogEntry::default()
    };
    let mut proof = prove(1, [first.clone()]);
    // The run's numbers are passed over: from outside, the chain goes on with 9.
    let mut fold = flowforge_proto::proof::Fold { lines: 1, bytes: proof.bytes, digest: [0; 32] };
    fold.digest.copy_from_slice(&proof.digest);
    fold.add(&flowforge_proto::proof::Line {
        seq: 9,
        time_unix_nano: last.time_unix_nano,
        stream: 1,
        level: 0,
        continued: false,
        no_newline: false,
        update_id: 0,
        message: &last.message,
        fields_json: b"",
    });
    proof = fold.to_proof();
    closed(&server, "dropped", &[first, run, last], close(9, Some(proof))).await?;
    let found = is_not(&server, "dropped", "incomplete", "7 lines were given up by the producer; the others").await?;
    ensure!((&found["lines"], &found["captured"], &found["dropped"]) == (&json!(2), &json!(9), &json!(7)), "{found}");
    Ok(())
}

#[tokio::test]
async fn each_producer_of_a_task_is_judged() -> Result<()> {
    let server = Server::start().await?;
    let (one, two) = (entries(30), entries(20));
    let (mut first, _) = Call::hello(&server.grpc_url(), hello("two", 1)).await?;
    let (mut second, _) = Call::hello(&server.grpc_url(), Hello { owner: true, ..hello("two", 2) }).await?;
    for at in 0..10 {
        first.batch(at * 3 + 1, one[at as usize * 3..][..3].to_vec()).await?;
        second.batch(at * 2 + 1, two[at as usize * 2..][..2].to_vec()).await?;
    }
    first.close(Close { verify: true, ..close(30, Some(prove(1, one))) }).await??;
    // The task ends with the second, which asks and is told of the whole.
    second.send(Request::Close(Close { verify: true, ..close(20, Some(prove(1, two))) })).await?;
    second.half_close();
    let told = loop {
        match second.next().await?? {
            Some(Response::Completeness(told)) => break told,
            Some(_) => {}
            None => anyhow::bail!("it was not told"),
        }
    };
    ensure!(told.state() == flowforge_proto::v1::completeness::State::Verified && told.lines == 50, "{told:?}");
    is_verified(&server, "two", 50).await?;
    let found = completeness(&server, "two").await?;
    let lines = found["producers"].as_array().context("producers")?.iter().map(|of| of["lines"].as_u64());
    ensure!(lines.flatten().collect::<Vec<_>>() == [30, 20], "{found}");
    Ok(())
}

#[tokio::test]
async fn the_commands_say_so_in_one_line() -> Result<()> {
    let server = Server::start().await?;
    let wanted = "flowforge: 1,000 of 1,000 lines, 0 missing, verified";
    let run = output(&mut command(&server, ["run", "--task", "ran", "--", "seq", "1", "1000"])?).await?;
    let input: String = (1..=1000).map(|n| n.to_string() + "\n").collect();
    let sent = output_of(&mut command(&server, ["send", "--task", "sent"])?, input.as_bytes()).await?;
    let tailed = output(&mut command(&server, ["tail", "sent"])?).await?;
    for (name, output) in [("run", run), ("send", sent), ("tail", tailed)] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && said.lines().any(|line| line == wanted), "{name}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_killed_under_a_command_leave_it_verified() -> Result<()> {
    let mut server = Server::start().await?;
    let script = "for i in $(seq 1 60); do seq 1 500; sleep 0.05; done";
    let args = ["run", "--task", "through", "--flush-timeout", "30", "--", "sh", "-c", script];
    let run = command(&server, args)?.spawn()?;
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(300..900))).await;
        server.kill9()?;
        server.restart().await?;
    }
    let ended = tokio::time::timeout(PATIENCE, run.wait_with_output()).await??;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(said.contains("30,000 of 30,000 lines, 0 missing, verified"), "{said}");
    server.kill9()?;
    server.restart().await?;
    is_verified(&server, "through", 30_000).await
}
