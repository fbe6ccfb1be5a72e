//! `run`, `send` and `tail`, as a person uses them.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::Close;
use flowforge_tests::cli::{command, output, output_of};
use flowforge_tests::producer::{Call, entry, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read::WriteLock;
use flowforge_tests::wait::{self, PATIENCE};
use flowforge_tests::{line, viewer::Viewer};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;

use crate::protocol::{lines, messages, task};

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn download(server: &Server, task: &str, query: &str) -> Result<Vec<u8>> {
    let url = format!("{}/logs/download?{query}", server.task_url(task));
    Ok(reqwest::get(url).await?.error_for_status()?.bytes().await?.to_vec())
}

async fn sh(server: &Server, task: &str, options: &[&str], script: &str) -> Result<Output> {
    let args =
        ["run", "--task", task].iter().chain(options).chain(&["--", "sh", "-c", script]).copied().collect::<Vec<_>>();
    output(&mut command(server, args)?).await
}

#[tokio::test]
async fn run_echoes_unchanged_and_stores_every_byte() -> Result<()> {
    let server = Server::start().await?;
    let script = r"printf 'one\ntwo \377\000\n'; printf 'err\n' >&2; printf 'no newline'";
    let ran = sh(&server, "echo", &["--quiet"], script).await?;
    ensure!(ran.status.code() == Some(0), "{}", err(&ran));
    ensure!(ran.stdout == b"one\ntwo \xff\x00\nno newline", "{:?}", ran.stdout);
    ensure!(ran.stderr == b"err\n", "{:?}", err(&ran));
    ensure!(download(&server, "echo", "stream=stdout").await? == ran.stdout);
    ensure!(download(&server, "echo", "stream=stderr").await? == ran.stderr);
    let task = task(&server, "echo").await?;
    ensure!(task["status"] == "succeeded" && task["exit_code"] == 0 && task["complete"] == true, "{task}");
    let loud = sh(&server, "loud", &[], "true").await?;
    ensure!(err(&loud).contains(&format!("{}/?task=loud", server.http_url())), "no address: {}", err(&loud));
    Ok(())
}

#[tokio::test]
async fn run_exits_as_the_command_does() -> Result<()> {
    let server = Server::start().await?;
    let text = server.dir().join("not-executable");
    std::fs::write(&text, "x")?;
    let text = text.display().to_string();
    let cases: [(&str, Vec<&str>, i32); 5] = [
        ("code-3", vec!["sh", "-c", "exit 3"], 3),
        ("signal-9", vec!["sh", "-c", "kill -9 $$"], 137),
        ("signal-15", vec!["sh", "-c", "kill -15 $$"], 143),
        ("missing", vec!["/nonexistent/command"], 127),
        ("denied", vec![&text], 126),
    ];
    for (name, argv, code) in cases {
        let args: Vec<&str> = ["run", "--task", name, "--"].into_iter().chain(argv).collect();
        let ran = output(&mut command(&server, args)?).await?;
        ensure!(ran.status.code() == Some(code), "{name}: {:?}: {}", ran.status, err(&ran));
        let task = task(&server, name).await?;
        ensure!(task["status"] == "failed" && task["exit_code"] == code, "{name}: {task}");
    }
    Ok(())
}

#[tokio::test]
async fn an_absent_server_harms_nobody() -> Result<()> {
    let server = Server::prepare(Overrides::none())?;
    let start = Instant::now();
    let ran = sh(&server, "alone", &[], "echo out; echo err >&2; exit 5").await?;
    ensure!(ran.status.code() == Some(5), "{:?}", ran.status);
    ensure!(ran.stdout == b"out\n" && err(&ran).starts_with("err\n"), "{:?}", err(&ran));
    ensure!(err(&ran).contains("not delivered"), "it does not say so: {}", err(&ran));
    ensure!(start.elapsed() < Duration::from_secs(4), "held up for {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn signals_reach_the_command_and_its_last_words_are_kept() -> Result<()> {
    let server = Server::start().await?;
    let script = "trap 'printf goodbye; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = command(&server, ["run", "--quiet", "--task", "term", "--", "sh", "-c", script])?.spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let mut ready = [0; 6];
    tokio::time::timeout(PATIENCE, stdout.read_exact(&mut ready)).await??;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("no process id")?;
    kill_process(pid, Signal::TERM)?;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
    ensure!(status.code() == Some(9) && status.signal().is_none(), "{status}");
    ensure!(download(&server, "term", "stream=stdout").await? == b"ready\ngoodbye");
    ensure!(lines(&server, "term").await?[1]["no_newline"] == true);
    Ok(())
}

/// A build: fast, on both streams, with colours, progress bars, long lines and bytes that are no text.
const BUILD: &str = r"i=0; while [ $i -lt 3000 ]; do i=$((i+1));
  printf '   \033[32mCompiling\033[0m crate-%d v1.0.%d (/src/%d)\n' $i $i $i
  [ $((i % 7)) = 0 ] && printf 'warning: unused variable `x%d`\n --> src/lib.rs:%d\n' $i $i >&2
  [ $((i % 50)) = 0 ] && printf '\r[%d/3000] \r[%d/3000]....' $i $i >&2
  [ $((i % 500)) = 0 ] && { head -c 150000 /dev/zero | tr '\0' 'y'; echo; head -c 3000 /dev/urandom; echo; }
done; printf 'done\r\n'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_build_is_what_tee_saw() -> Result<()> {
    let server = Server::start().await?;
    let (out, both) = (server.dir().join("out"), server.dir().join("err"));
    // What the command wrote, recorded beside it and not by the product.
    let script = server.dir().join("build.sh");
    std::fs::write(&script, BUILD)?;
    let teed = format!("sh {} > >(tee {}) 2> >(tee {} >&2)", script.display(), out.display(), both.display());
    let ran =
        output(&mut command(&server, ["run", "--raw", "-q", "--task", "build", "--", "bash", "-c", &teed])?).await?;
    ensure!(ran.status.success(), "{:?}", ran.status);
    for (stream, file, echoed) in [("stdout", out, &ran.stdout), ("stderr", both, &ran.stderr)] {
        let teed = std::fs::read(file)?;
        ensure!(teed.len() > 10_000, "{stream} has only {} bytes", teed.len());
        ensure!(*echoed == teed, "{stream}: the echo has {} bytes, tee {}", echoed.len(), teed.len());
        let stored = download(&server, "build", &format!("format=text&stream={stream}")).await?;
        let same = stored.iter().zip(&teed).take_while(|(a, b)| a == b).count();
        ensure!(stored == teed, "{stream}: {} stored, {} teed, the same up to {same}", stored.len(), teed.len());
    }
    Ok(())
}

#[tokio::test]
async fn send_ships_its_input_and_waits_for_the_store() -> Result<()> {
    let server = Server::start().await?;
    let input: String = (1..=20_000).map(|n| line::text("s", n) + "\n").collect();
    let args = ["send", "--task", "sent", "--stream", "log", "--level", "warn"];
    let sent = output_of(&mut command(&server, args)?, input.as_bytes()).await?;
    ensure!(sent.status.success(), "{}", err(&sent));
    ensure!(download(&server, "sent", "stream=log&level=warn").await? == input.as_bytes());
    let bad = output_of(&mut command(&server, ["send", "--task", "../x"])?, b"x").await?;
    ensure!(bad.status.code() == Some(2), "{:?}: {}", bad.status, err(&bad));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_prints_every_byte_once_across_a_restart_and_sums_up() -> Result<()> {
    let mut server = Server::start().await?;
    let producer = new_producer();
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("tailed", producer)).await?;
    let message = |n: u64| if n == 3 { b"\xff raw".to_vec() } else { line::text("t", n).into_bytes() };
    call.batch(1, (1..=500).map(|n| entry(message(n))).collect()).await?;
    call.stored(500).await?;
    let args = ["tail", "tailed", "--from", "1", "--stream", "stdout", "--exit-code"];
    let mut child = command(&server, args)?.spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let expected = |to: u64| (1..=to).flat_map(|n| [message(n), b"\n".to_vec()].concat()).collect::<Vec<u8>>();
    let mut seen = vec![0; expected(500).len()];
    tokio::time::timeout(PATIENCE, stdout.read_exact(&mut seen)).await??;
    ensure!(seen == expected(500), "the first half differs");
    server.kill9()?;
    server.restart().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("tailed", producer)).await?;
    call.batch(501, (501..=1000).map(|n| entry(message(n))).collect()).await?;
    call.close(Close { final_seq: 1000, status: 2, exit_code: Some(4), ..Close::default() }).await??;
    tokio::time::timeout(PATIENCE, stdout.read_to_end(&mut seen)).await??;
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
    ensure!(seen == expected(1000), "{} bytes, expected {}", seen.len(), expected(1000).len());
    ensure!(ended.status.code() == Some(4), "--exit-code: {:?}", ended.status);
    let said = err(&ended);
    ensure!(said.contains("failed, exit code 4") && said.contains("1,000 lines"), "no summary: {said}");
    ensure!(!said.contains("broke its promise"), "{said}");
    Ok(())
}

#[tokio::test]
async fn tail_filters_and_does_not_follow() -> Result<()> {
    let server = Server::start().await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("grep", new_producer())).await?;
    call.lines(1, &["apple", "Banana", "cherry banana"]).await?;
    call.stored(3).await?;
    let tail = output(&mut command(&server, ["tail", "grep", "--grep", "BANANA", "--no-follow"])?).await?;
    ensure!(tail.status.success() && tail.stdout == b"Banana\ncherry banana\n", "{tail:?}");
    let json = output(&mut command(&server, ["tail", "grep", "-n", "1", "--no-follow", "--output", "json"])?).await?;
    let row: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    ensure!(row["offset"] == 3 && row["message"] == "cherry banana", "{row}");
    let unknown = output(&mut command(&server, ["tail", "nobody", "--no-follow"])?).await?;
    ensure!(unknown.status.code() == Some(1) && err(&unknown).contains("nobody"), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn a_restart_during_run_costs_nothing() -> Result<()> {
    let mut server = Server::start().await?;
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.01; done";
    let child = command(&server, ["run", "-q", "--task", "bridge", "--", "sh", "-c", script])?.spawn()?;
    let mut viewer = Viewer::whole("v", &server.task_url("bridge"));
    viewer.open().await?;
    for _ in 0..20 {
        viewer.next_named("log").await?;
    }
    server.kill9()?;
    server.restart().await?;
    let ran = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
    ensure!(ran.status.success(), "{}", err(&ran));
    let wanted: Vec<String> = (1..=300).map(|n| format!("line {n}")).collect();
    wait::until("the end row", PATIENCE, async || {
        Ok((task(&server, "bridge").await?["status"] == "succeeded").then_some(()))
    })
    .await?;
    ensure!(messages(&server, "bridge").await?[..300] == wanted);
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_is_told_in_one_line() -> Result<()> {
    let server = Server::start().await?;
    let taken = server.http_url().trim_start_matches("http://").to_owned();
    let cases = [
        ("servre:\n  grpc: 127.0.0.1:0\n", "servre"),
        ("server: [\n", "config.yaml"),
        ("batch:\n  max_rows: many\n", "max_rows"),
        (
            &format!("server:\n  grpc: 127.0.0.1:0\n  http: {taken}\nsqlite:\n  path: other.db\n") as &str,
            "cannot listen",
        ),
    ];
    for (yaml, words) in cases {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, yaml)?;
        let args = [OsStr::new("serve"), OsStr::new("--config"), path.as_os_str()];
        let ran = output(command(&server, args)?.current_dir(dir.path())).await?;
        let said = err(&ran);
        ensure!(ran.status.code() == Some(1), "{words}: {:?}: {said}", ran.status);
        ensure!(said.contains(words) && said.starts_with("flowforge: "), "{words}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn health_answers_by_its_exit_code() -> Result<()> {
    let mut server = Server::start_with(Overrides::none().set("sqlite.busy_timeout", "100ms")).await?;
    let well = output(&mut command(&server, ["health"])?).await?;
    ensure!(well.status.code() == Some(0) && err(&well).contains("ready"), "{}", err(&well));
    let lock = WriteLock::take(&server.database()).await?;
    let locked = output(&mut command(&server, ["health"])?).await?;
    ensure!(locked.status.code() == Some(1) && err(&locked).contains("not ready (503"), "{}", err(&locked));
    lock.release().await?;
    server.kill9()?;
    let away = output(&mut command(&server, ["health"])?).await?;
    ensure!(away.status.code() == Some(1) && err(&away).contains("no answer from"), "{}", err(&away));
    Ok(())
}
