//! Pages, downloads, retention, and what bad requests get.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::{Close, LogEntry};
use flowforge_tests::producer::{Call, entry, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read::{self, WriteLock};
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use crate::tail::fill;

async fn get(url: &str) -> Result<Value> {
    let response = reqwest::get(url).await?;
    ensure!(response.status().is_success(), "{url}: {}", response.status());
    Ok(serde_json::from_str(&response.text().await?)?)
}

fn offsets(page: &Value) -> Vec<u64> {
    let lines = page["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    lines.iter().filter_map(|line| line["offset"].as_u64()).collect()
}

#[tokio::test]
async fn pages_say_where_the_next_one_begins() -> Result<()> {
    let server = Server::start().await?;
    let text = |n: u64| if n.is_multiple_of(100) { format!("hundred {n}") } else { format!("line {n}") };
    fill(&server, "pages", (1..=2500).map(|n| entry(text(n))).collect()).await?;
    let url = |query: &str| format!("{}/logs?{query}", server.task_url("pages"));
    let page = get(&url("")).await?;
    ensure!(offsets(&page) == (1..=1000).collect::<Vec<_>>() && page["next_from"] == 1001, "the default page");
    ensure!(page["floor"] == 1 && page["end"] == 2501, "{} {}", page["floor"], page["end"]);
    let cases: Vec<(&str, Vec<u64>, Value)> = vec![
        ("from=10&to=12", vec![10, 11, 12], Value::Null),
        ("from=2499&limit=100", vec![2499, 2500, 2501], Value::Null),
        ("from=2499&limit=3", vec![2499, 2500, 2501], Value::Null),
        ("from=2499&limit=2", vec![2499, 2500], json!(2501)),
        ("from=2502", vec![], Value::Null),
        ("before=4", vec![1, 2, 3], Value::Null),
        ("before=2000&limit=2", vec![1998, 1999], Value::Null),
        ("before=99999&limit=1", vec![2501], Value::Null),
        ("before=1", vec![], Value::Null),
        ("q=HUNDRED&limit=2", vec![100, 200], json!(201)),
        ("q=hundred&before=500&limit=2", vec![300, 400], Value::Null),
        ("q=hundred&from=2401&to=2501", vec![2500], Value::Null),
        ("stream=system", vec![2501], Value::Null),
    ];
    for (query, expected, next) in cases {
        let page = get(&url(query)).await?;
        ensure!(offsets(&page) == expected, "{query}: {:?}, expected {expected:?}", offsets(&page));
        ensure!(page["next_from"] == next, "{query}: next_from {}, expected {next}", page["next_from"]);
    }
    let markers = [
        ("before=4", Value::Null),
        ("before=2000&limit=2", json!(1998)),
        ("before=3&limit=2", Value::Null),
        ("q=hundred&before=500&limit=2", json!(300)),
        ("q=hundred&before=500&limit=9", Value::Null),
    ];
    for (query, expected) in markers {
        let next = &get(&url(query)).await?["next_before"];
        ensure!(*next == expected, "{query}: next_before {next}, expected {expected}");
    }
    let task = get(&server.task_url("pages")).await?;
    ensure!(task["lines"] == 2500 && task["end"] == 2501, "the end row is no line: {task}");
    ensure!(offsets(&get(&url("limit=999999")).await?).len() == 2501, "limit is at most 5000");
    Ok(())
}

/// Its stream begins as soon as its first producer says Hello, which the store may not know yet.
#[tokio::test]
async fn a_task_is_known_as_soon_as_its_stream_begins() -> Result<()> {
    let server = Server::start_with(Overrides::none().set("sqlite.busy_timeout", "20s")).await?;
    let mut viewer = Viewer::whole("v", &server.task_url("new"));
    viewer.open().await?;
    let lock = WriteLock::take(&server.database()).await?;
    let url = server.grpc_url();
    let producer = tokio::spawn(async move { Call::hello(&url, hello("new", new_producer())).await });
    viewer.next_named("start").await?;
    let task = get(&server.task_url("new")).await?;
    ensure!(task["status"] == "running" && task["end"] == 0 && task["floor"] == 1, "{task}");
    let page = get(&format!("{}/logs", server.task_url("new"))).await?;
    ensure!(offsets(&page).is_empty() && page["floor"] == 1 && page["end"] == 0, "{page}");
    ensure!(!producer.is_finished(), "the store was not locked: this shows nothing");
    lock.release().await?;
    producer.await??;
    Ok(())
}

/// Long lines end a page before its limit: only the marker says that there is more.
#[tokio::test]
async fn pages_of_long_lines_end_early_and_say_so_in_both_directions() -> Result<()> {
    let server = Server::start().await?;
    fill(&server, "fat", (1..=400).map(|n| entry(format!("{n} {}", "x".repeat(40_000)))).collect()).await?;
    let url = |query: &str| format!("{}/logs?{query}&stream=stdout", server.task_url("fat"));
    let mut seen = Vec::new();
    let mut next = 402;
    for _ in 0..10 {
        let page = get(&url(&format!("before={next}&limit=512"))).await?;
        ensure!(offsets(&page).len() < 400, "this page is not cut, so it shows nothing");
        seen.splice(0..0, offsets(&page));
        match page["next_before"].as_u64() {
            Some(before) => next = before,
            None => break,
        }
    }
    ensure!(seen == (1..=400).collect::<Vec<_>>(), "{seen:?}");
    Ok(())
}

/// Every form of bytes that a process can print.
fn odd_lines() -> Vec<LogEntry> {
    let stderr = |message: &[u8]| LogEntry { stream: 2, ..entry(message) };
    vec![
        entry(&b"plain"[..]),
        stderr(b"error \xff\xfe\x00 bytes"),
        LogEntry { continued: true, ..entry("é".repeat(100)) },
        stderr(b"between the parts"),
        entry(&b" and the rest\r"[..]),
        entry(&b""[..]),
        LogEntry { fields_json: "{\"a\":[1,{\"b\":null}]}".into(), stream: 3, level: 13, ..entry(&b"structured"[..]) },
        LogEntry { no_newline: true, ..stderr(b"the last, unfinished \xc3") },
    ]
}

#[tokio::test]
async fn downloads_are_what_was_printed_byte_for_byte() -> Result<()> {
    let server = Server::start().await?;
    fill(&server, "bytes", odd_lines()).await?;
    let url = |query: &str| format!("{}/logs/download?{query}", server.task_url("bytes"));
    let out = reqwest::get(url("format=text&stream=stdout")).await?.bytes().await?;
    let expected = format!("plain\n{} and the rest\r\n\n", "é".repeat(100));
    ensure!(out == expected.as_bytes(), "stdout is {:?}", String::from_utf8_lossy(&out));
    let err = reqwest::get(url("stream=stderr")).await?.bytes().await?;
    let expected = b"error \xff\xfe\x00 bytes\nbetween the parts\nthe last, unfinished \xc3";
    ensure!(err == expected[..], "stderr is {err:?}");

    let all = reqwest::get(url("format=text")).await?.bytes().await?;
    let end = b"the last, unfinished \xc3\n[flowforge] task succeeded, 8 lines\n";
    ensure!(all.ends_with(end), "our own row is part of a line: {:?}", String::from_utf8_lossy(&all));

    let ndjson = reqwest::get(url("format=ndjson")).await?.text().await?;
    let page = reqwest::get(format!("{}/logs", server.task_url("bytes"))).await?.text().await?;
    let page: store_read::Page<'_> = serde_json::from_str(&page)?;
    let lines: Vec<&str> = page.lines.iter().map(|line| line.get()).collect();
    ensure!(ndjson.lines().collect::<Vec<_>>() == lines, "NDJSON and pages differ");
    let second: Value = serde_json::from_str(lines[1])?;
    ensure!(second["message"] == "error \u{fffd}\u{fffd}\u{0} bytes" && second["raw"].is_string(), "{second}");
    let seventh: Value = serde_json::from_str(lines[6])?;
    ensure!(seventh["fields"] == json!({"a": [1, {"b": null}]}) && seventh["level"] == "warn", "{seventh}");
    ensure!(reqwest::get(url("format=exe")).await?.status() == 400);
    ensure!(reqwest::get(format!("{}/logs/download", server.task_url("nobody"))).await?.status() == 404);
    Ok(())
}

#[tokio::test]
async fn bad_requests_are_problems_that_name_the_rule() -> Result<()> {
    let server = Server::start().await?;
    fill(&server, "good", vec![entry("x")]).await?;
    let long = "x".repeat(10_000);
    let ids = ["..%2Fx", "%252e%252e", "a*", "%7Bx%7D", "a:b", "a%0D%0Ab", "a%00b", ".a", "%C3%A4", "%FF", &long];
    for id in ids {
        for rest in ["", "/logs", "/logs/stream", "/logs/download"] {
            problem(&format!("{}{rest}", server.task_url(id)), "").await?;
        }
    }
    for (query, words) in [
        ("from=x", "from"),
        ("limit=-1", "limit"),
        ("tail=1", "tail"),
        ("levle=error", "levle"),
        ("level=loud", "level"),
        ("stream=stdin", "stream"),
        ("from=1&from=2", "from"),
        ("from=1&before=2", "before"),
        ("tenant=a/b", "tenant"),
    ] {
        problem(&format!("{}/logs?{query}", server.task_url("good")), words).await?;
    }
    for query in ["tail=1&from=1", "follow=maybe", "tail=x", "unknown=1"] {
        problem(&format!("{}/logs/stream?{query}", server.task_url("good")), "").await?;
    }
    // A quote in a filter is a letter like any other.
    let page = get(&format!("{}/logs?q=%27%3B%20DROP%20TABLE%20lines%3B--", server.task_url("good"))).await?;
    ensure!(offsets(&page).is_empty());
    let missing = reqwest::get(format!("{}/nothing/here", server.http_url())).await?;
    ensure!(missing.status() == 404 && missing.headers()["content-type"] == "application/problem+json");
    let posted = reqwest::Client::new().delete(server.task_url("good")).send().await?;
    ensure!(posted.status() == 405, "{}", posted.status());
    Ok(())
}

async fn problem(url: &str, words: &str) -> Result<()> {
    let response = reqwest::get(url).await?;
    let shown: String = url.chars().take(120).collect();
    ensure!(response.status() == 400, "{shown}: {}", response.status());
    let kind = response.headers().get("content-type").cloned().context("no content type")?;
    let text = response.text().await?;
    ensure!(kind == "application/problem+json", "{shown}: {kind:?}: {text}");
    let problem: Value = serde_json::from_str(&text)?;
    ensure!(problem["status"] == 400 && problem["title"] == "Bad Request", "{shown}: {problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(!detail.is_empty() && detail.contains(words), "{shown}: {problem}");
    Ok(())
}

#[tokio::test]
async fn readers_of_what_retention_deleted_are_told() -> Result<()> {
    let mut server = Server::start().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("old", new_producer())).await?;
    let texts: Vec<String> = (1..=10).map(|n| format!("line {n}")).collect();
    call.lines(1, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    call.close(Close { final_seq: 10, ..Close::default() }).await??;
    let mut viewer = Viewer::whole("v", &server.task_url("old"));
    viewer.open().await?;
    for _ in 0..3 {
        viewer.next_named("log").await?;
    }
    viewer.cut();
    ensure!(server.terminate(Duration::from_secs(20)).await?.success());
    let mut db = store_read::open(&server.database()).await?;
    let aged = "UPDATE lines SET created_at_ms = created_at_ms - 8 * 86400000 WHERE \"offset\" <= 6;
        UPDATE tasks SET first_created_at_ms = first_created_at_ms - 8 * 86400000";
    sqlx::raw_sql(aged).execute(&mut db).await?;
    drop(db);
    server.restart().await?;
    wait::until("retention", PATIENCE, async || Ok((get(&server.task_url("old")).await?["floor"] == 7).then_some(())))
        .await?;
    // Its last id was 3; 4, 5 and 6 are gone.
    viewer.open().await?;
    viewer.next_named("end").await?;
    ensure!(viewer.controls("gap") == [json!({"from": 4, "to": 6, "reason": "retention"})], "{:?}", viewer.journal);
    let shown: Vec<u64> = viewer.rows().map(|row| row.offset).collect();
    ensure!(shown == [1, 2, 3, 7, 8, 9, 10, 11], "{shown:?}");
    let page = get(&format!("{}/logs?from=1", server.task_url("old"))).await?;
    ensure!(offsets(&page) == [7, 8, 9, 10, 11] && page["floor"] == 7, "{page}");
    let text = reqwest::get(format!("{}/logs/download", server.task_url("old"))).await?.text().await?;
    ensure!(text.starts_with("[flowforge] lines 1 to 6 are not here any more: retention\n"), "{text}");
    let tail = Viewer::new("tail", format!("{}/logs/stream?tail=100", server.task_url("old"))).follow().await?;
    ensure!(tail.rows().next().is_some_and(|row| row.offset == 7) && tail.controls("gap").is_empty());
    Ok(())
}

#[tokio::test]
async fn ten_thousand_lines_of_one_instant_stay_in_order() -> Result<()> {
    let server = Server::start().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("instant", new_producer())).await?;
    let line = |n: u64| LogEntry { time_unix_nano: 1_700_000_000_000_000_000, ..entry(format!("{n}")) };
    call.batch(1, (1..=10_000).map(line).collect()).await?;
    call.close(Close { final_seq: 10_000, ..Close::default() }).await??;
    let text =
        reqwest::get(format!("{}/logs/download?stream=stdout", server.task_url("instant"))).await?.text().await?;
    let numbers: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(numbers == (1..=10_000).collect::<Vec<_>>());
    let rows = store_read::from_file(&server.database(), "instant").await?;
    ensure!(rows.windows(2).all(|pair| pair[0].created_at_ms <= pair[1].created_at_ms), "created_at goes back");
    let viewer = Viewer::whole("v", &server.task_url("instant")).follow().await?;
    ensure!(viewer.rows().map(|row| row.seq).take(10_000).eq(1..=10_000));
    Ok(())
}

#[tokio::test]
async fn health_and_the_page_are_there() -> Result<()> {
    let server = Server::start().await?;
    for path in ["/healthz", "/readyz", "/metrics", "/", "/viewer/main.js", "/viewer/page.css", "/viewer/icon.svg"] {
        let response = reqwest::get(format!("{}{path}", server.http_url())).await?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        let csp = response.headers().get("content-security-policy").context("no CSP")?.to_str()?.to_owned();
        ensure!(csp.contains("default-src 'none'") && !csp.contains("unsafe-inline"), "{csp}");
    }
    Ok(())
}
