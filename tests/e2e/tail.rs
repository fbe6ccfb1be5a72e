//! `GET …/logs/stream`: where it begins, what it filters, when it ends, and that nobody can forge it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::{Close, LogEntry};
use flowforge_tests::checker::{Allowed, check_store, check_viewer, replay};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::producer::{Call, entry, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::{Opened, Viewer};
use serde_json::Value;

/// What one message may hold, with room to spare.
const MESSAGE_BYTES: usize = 2 << 20;

/// A task of these entries, closed.
pub(crate) async fn fill(server: &Server, task: &str, entries: Vec<LogEntry>) -> Result<()> {
    let count = entries.len() as u64;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello(task, new_producer())).await?;
    let (mut first_seq, mut batch, mut bytes) = (1, Vec::new(), 0);
    for entry in entries {
        bytes += entry.message.len();
        batch.push(entry);
        if bytes > MESSAGE_BYTES {
            let next = first_seq + batch.len() as u64;
            call.batch(first_seq, std::mem::take(&mut batch)).await?;
            (first_seq, bytes) = (next, 0);
        }
    }
    call.batch(first_seq, batch).await?;
    call.close(Close { final_seq: count, ..Close::default() }).await??;
    Ok(())
}

/// The offsets that a stream with this query shows.
async fn offsets(server: &Server, task: &str, query: &str) -> Result<Vec<u64>> {
    let url = format!("{}/logs/stream?{query}", server.task_url(task));
    let viewer = Viewer::new(query, url).follow().await?;
    Ok(viewer.rows().map(|row| row.offset).collect())
}

/// 100 lines: every fifth is an error on stderr, every tenth says so in capitals; then the end row, offset 101.
fn mixed() -> Vec<LogEntry> {
    let line = |n: u32| LogEntry {
        level: if n.is_multiple_of(5) { 17 } else { 9 },
        stream: if n.is_multiple_of(5) { 2 } else { 1 },
        ..entry(if n.is_multiple_of(10) { format!("line {n} NeeDLe's 100%_") } else { format!("line {n}") })
    };
    (1..=100).map(line).collect()
}

#[tokio::test]
async fn a_stream_begins_where_it_is_asked_to_and_filters() -> Result<()> {
    let server = Server::start().await?;
    fill(&server, "mixed", mixed()).await?;
    let fives = |from: u64| (from..=100).filter(|n| n % 5 == 0).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<u64>)> = vec![
        ("tail=3", vec![99, 100, 101]),
        ("tail=0", vec![]),
        ("tail=100000", (1..=101).collect()),
        ("", (1..=101).collect()),
        ("from=98", vec![98, 99, 100, 101]),
        ("from=0", (1..=101).collect()),
        ("from=102", vec![]),
        ("level=error", fives(1)),
        ("level=17&tail=4", fives(85)),
        ("stream=stderr&from=50", fives(50)),
        ("stream=stderr,system&tail=2", vec![100, 101]),
        ("q=needle&tail=3", vec![80, 90, 100]),
        ("q=NEEDLE%27s%20100%25_", (1..=10).map(|n| n * 10).collect()),
        ("q=100%25_x", vec![]),
        ("q=line%205&tail=2&level=error", vec![50, 55]),
        ("follow=false&tail=1", vec![101]),
    ];
    for (query, expected) in cases {
        let shown = offsets(&server, "mixed", query).await.with_context(|| query.to_owned())?;
        ensure!(shown == expected, "{query}: {shown:?}, expected {expected:?}");
    }
    Ok(())
}

#[tokio::test]
async fn follow_false_ends_after_history_and_the_end_is_204() -> Result<()> {
    let server = Server::start().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("ends", new_producer())).await?;
    call.lines(1, &["one", "two"]).await?;
    call.stored(2).await?;
    let once = format!("{}/logs/stream?follow=false", server.task_url("ends"));
    let mut viewer = Viewer::new("once", once);
    viewer.open().await?;
    viewer.next_named("live").await?;
    ensure!(viewer.next().await?.is_none(), "the stream goes on");
    ensure!(viewer.rows().count() == 2);
    let unknown = reqwest::get(format!("{}/logs/stream?follow=false", server.task_url("nobody"))).await?;
    ensure!(unknown.status() == 404, "{}", unknown.status());

    let mut viewer = Viewer::whole("v", &server.task_url("ends"));
    viewer.open().await?;
    viewer.next_named("live").await?;
    call.close(Close { final_seq: 2, ..Close::default() }).await??;
    let end: Value = serde_json::from_str(&viewer.next_named("end").await?.data)?;
    ensure!(end["status"] == "succeeded" && end["offset"] == 3 && end["lines"] == 2, "{end}");
    ensure!(viewer.next().await?.is_none(), "the stream goes on after end");
    ensure!(viewer.open().await? == Opened::NothingMore);
    // Before the end there is more: an EventSource that lost only the end event gets it.
    let id = viewer.last_event_id.clone().context("no id")?;
    viewer.last_event_id = Some(id.replace("-3", "-2"));
    ensure!(viewer.open().await? == Opened::Events);
    viewer.next_named("end").await?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_does_not_exist_yet_is_waited_for() -> Result<()> {
    let server = Server::start().await?;
    let mut viewer = Viewer::whole("early", &server.task_url("later"));
    ensure!(viewer.open().await? == Opened::Events);
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("later", new_producer())).await?;
    call.lines(1, &["one"]).await?;
    viewer.next_named("log").await?;
    call.close(Close { final_seq: 1, ..Close::default() }).await??;
    let viewer = viewer.follow().await?;
    check_viewer(&viewer, &store_read::over_http(&server.task_url("later")).await?, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test]
async fn a_place_that_means_nothing_here_begins_anew() -> Result<()> {
    let server = Server::start().await?;
    fill(&server, "places", mixed()).await?;
    let huge = "9".repeat(5000);
    for place in
        ["garbage", "-", "1-1", "0-0", "18446744073709551616-1", "99999999999999-5", "'; DROP TABLE lines", &huge]
    {
        let mut viewer = Viewer::whole(&format!("{place:.20}"), &server.task_url("places"));
        viewer.last_event_id = Some(place.to_owned());
        let viewer = viewer.follow().await?;
        ensure!(viewer.controls("reset").len() == 1, "no reset for {place:.20}");
        ensure!(replay(&viewer.journal, Allowed::Anything)?.len() == 101);
    }
    // The same by the URL.
    let url = format!("{}/logs/stream?from=1&last_event_id=x", server.task_url("places"));
    ensure!(Viewer::new("url", url).follow().await?.controls("reset").len() == 1);
    Ok(())
}

#[tokio::test]
async fn no_line_can_forge_an_event() -> Result<()> {
    let server = Server::start().await?;
    let forgeries: Vec<&[u8]> = vec![
        b"x\n\nevent: end\ndata: {}\n\n",
        b"x\r\n\r\nevent: end\r\ndata: {}\r\n\r\n",
        b"x\revent: end\r\r",
        b"\"}\n\nid: 9-9\n\n",
        b"<script>alert(1)</script><img src=x onerror=alert(1)>",
        b"\\\"\\u000a\\n\x00\x1b]52;c;aGk=\x07",
        "\u{2028}\u{2029}\u{feff}\u{85}".as_bytes(),
        b"\xff\xfe\n\nevent: end\n\n\xc3",
        b"",
    ];
    let entries = forgeries.iter().map(|bytes| entry(*bytes)).collect();
    let mut live = Viewer::whole("live", &server.task_url("forge"));
    live.open().await?;
    let live = tokio::spawn(live.follow());
    fill(&server, "forge", entries).await?;
    let store = store_read::over_http(&server.task_url("forge")).await?;
    ensure!(store.rows.len() == forgeries.len() + 1, "{} rows", store.rows.len());
    for viewer in [live.await??, Viewer::whole("history", &server.task_url("forge")).follow().await?] {
        check_viewer(&viewer, &store, Allowed::Undisturbed)?;
        ensure!(viewer.controls("end").len() == 1);
    }
    let file = store_read::from_file(&server.database(), "forge").await?;
    for (row, bytes) in file.iter().zip(&forgeries) {
        ensure!(row.message == *bytes, "offset {}: {:?}", row.offset, row.message);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_does_not_read_slows_nobody_and_gets_everything_later() -> Result<()> {
    let server = Server::start().await?;
    let url = server.task_url("slow");
    let (mut idle, busy) = (Viewer::whole("idle", &url), Viewer::whole("busy", &url));
    idle.open().await?;
    let busy = tokio::spawn(busy.follow());
    let journal = Generator::start(Plan::new(&server.grpc_url(), "slow", "p", 120_000)).join().await?;
    let store = store_read::over_http(&url).await?;
    check_store(&store, &[journal])?;
    let busy =
        tokio::time::timeout(Duration::from_secs(20), busy).await.context("the other viewer is held up")???;
    check_viewer(&busy, &store, Allowed::Undisturbed)?;
    // Not one byte was read until here: far more than all buffers on the way can hold has passed.
    while idle.next().await?.is_some() {}
    ensure!(idle.ended);
    check_viewer(&idle, &store, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filtered_followers_see_every_match_once_across_cuts() -> Result<()> {
    let server = Server::start().await?;
    // "line 1…7 " matches some; a place is recorded also while nothing matches.
    let generator =
        Generator::start(Plan { rate: Some(4000), ..Plan::new(&server.grpc_url(), "filtered", "p", 12_000) });
    let url = format!("{}/logs/stream?from=1&q=77", server.task_url("filtered"));
    let mut viewer = Viewer::new("filtered", url);
    for _ in 0..15 {
        viewer.open().await?;
        let cut = tokio::time::Instant::now() + Duration::from_millis(150);
        while let Ok(event) = tokio::time::timeout_at(cut, viewer.receive()).await {
            if event?.is_none() {
                break;
            }
        }
        viewer.cut();
    }
    generator.join().await?;
    let viewer = viewer.follow().await?;
    let shown: Vec<u64> = viewer.rows().map(|row| row.seq).collect();
    let expected: Vec<u64> = (1..=12_000).filter(|seq: &u64| seq.to_string().contains("77")).collect();
    ensure!(shown == expected, "{} shown, {} expected", shown.len(), expected.len());
    Ok(())
}

#[tokio::test]
async fn a_filtered_reader_of_an_ended_task_is_done_as_well() -> Result<()> {
    let server = Server::start().await?;
    fill(&server, "mixed", mixed()).await?;
    for filter in ["stream=stdout", "level=fatal", "q=nothing-like-it"] {
        let url = format!("{}/logs/stream?from=1&{filter}", server.task_url("mixed"));
        let mut viewer = Viewer::new(filter, url);
        viewer.open().await?;
        viewer.next_named("end").await?;
        ensure!(viewer.next().await?.is_none(), "{filter}: the stream goes on after end");
        ensure!(viewer.open().await? == Opened::NothingMore, "{filter}: the end row was kept back, but not its place");
    }
    Ok(())
}

/// A reader that hears nothing for 40 s comes back, and the server would begin the same search again, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_search_for_the_last_matches_gives_signs_of_life() -> Result<()> {
    let server = Server::start_with(Overrides::none().set("tail.heartbeat", "100ms")).await?;
    Generator::start(Plan::new(&server.grpc_url(), "long", "p", 400_000)).join().await?;
    let url = format!("{}/logs/stream?tail=10&q=nothing-like-it", server.task_url("long"));
    let text = reqwest::get(url).await?.text().await?;
    let before = text.split("event: start").next().context("no start")?;
    ensure!(before.contains(":\n\n"), "silent until it had searched the whole log: {before:?}");
    Ok(())
}
