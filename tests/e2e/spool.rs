//! What a killed producer had captured, and what becomes of it.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use flowforge_tests::cli::{command, output};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::wait::{self, PATIENCE};
use tokio::process::Child;

use crate::protocol::task;

const LINES: usize = 100_000;

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Soon after its producer is gone, a task is lost.
fn short_lease() -> Overrides {
    Overrides::none().set("broker.lease", "1s")
}

fn files(server: &Server) -> Result<Vec<PathBuf>> {
    let dir = server.dir().join("spool");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let all = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|path| path.extension().is_some_and(|of| of == "spool")).collect())
}

/// All rows of a task.
async fn lines(server: &Server, name: &str) -> Result<Vec<serde_json::Value>> {
    let url = format!("{}/logs/download?format=ndjson", server.task_url(name));
    let text = reqwest::get(url).await?.error_for_status()?.text().await?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What is stored of the command's output, whatever rows are between.
async fn printed(server: &Server, name: &str) -> Result<Vec<String>> {
    let rows = lines(server, name).await?;
    let is_output = |row: &&serde_json::Value| row["stream"] == "stdout";
    Ok(rows.iter().filter(is_output).map(|row| row["message"].as_str().unwrap_or_default().to_owned()).collect())
}

/// [`printed`], and what had no line end when its producer died.
async fn lines_and_half(server: &Server, name: &str) -> Result<(Vec<String>, String)> {
    let mut stored = printed(server, name).await?;
    let rows = lines(server, name).await?;
    let halves = rows.iter().filter(|row| row["no_newline"] == true).count();
    let half = if halves > 0 { stored.pop().unwrap_or_default() } else { String::new() };
    ensure!(halves <= 1, "{halves} lines without an end");
    Ok((stored, half))
}

async fn dropped(server: &Server, name: &str) -> Result<u64> {
    let rows = lines(server, name).await?;
    Ok(rows.iter().filter_map(|row| row["fields"]["dropped"]["lines"].as_u64()).sum())
}

async fn status(server: &Server, name: &str, wanted: &str) -> Result<()> {
    wait::until(&format!("{name} to be {wanted}"), PATIENCE, async || {
        Ok((task(server, name).await?["status"] == wanted).then_some(()))
    })
    .await
}

async fn push(server: &Server) -> Result<Output> {
    output(&mut command(server, ["spool", "push"])?).await
}

fn numbers(last: usize) -> Vec<String> {
    (1..=last).map(|number| format!("{number}")).collect()
}

/// A `flowforge run` whose echo goes to a file, so that what it has taken is known.
struct Run {
    child: Child,
    echo: PathBuf,
}

impl Run {
    fn start(server: &Server, name: &str, options: &[&str], script: &str) -> Result<Self> {
        let args = [&["run", "-q", "--task", name], options, &["--", "sh", "-c", script]].concat();
        let echo = server.dir().join(format!("{name}.echo"));
        let mut command = command(server, args)?;
        let child = command.stdout(std::fs::File::create(&echo)?).process_group(0).spawn()?;
        Ok(Self { child, echo })
    }

    fn echoed(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(&self.echo)?)
    }

    async fn has_echoed(&self, bytes: usize) -> Result<()> {
        wait::until("the echo", PATIENCE, async || Ok((self.echoed()?.len() >= bytes).then_some(()))).await
    }

    /// Kills the supervisor and its command, at once.
    async fn kill9(&mut self) -> Result<()> {
        let group = self.child.id().context("it has ended")?.cast_signed();
        let group = rustix::process::Pid::from_raw(group).context("no process")?;
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
        self.child.wait().await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_killed_without_a_server_loses_nothing() -> Result<()> {
    let mut server = Server::prepare(short_lease())?;
    let mut run = Run::start(&server, "orphan", &[], &format!("seq 1 {LINES}; sleep 1000"))?;
    let all = numbers(LINES).join("\n") + "\n";
    run.has_echoed(all.len()).await?;
    // The last chunk is echoed before it is captured; `list` shows a file in use, so that is how to see it.
    let in_use = output(&mut command(&server, ["spool", "list"])?).await?;
    ensure!(String::from_utf8_lossy(&in_use.stdout).contains("in use"), "{in_use:?}");
    let file = files(&server)?.pop().context("no file")?;
    wait::until("the last line in the file", PATIENCE, async || {
        Ok(std::fs::read(&file)?.windows(6).any(|bytes| bytes == b"100000").then_some(()))
    })
    .await?;
    run.kill9().await?;
    let listed = output(&mut command(&server, ["spool", "list"])?).await?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.contains("orphan") && listed.contains("100,000") && listed.contains("killed"), "{listed}");

    server.restart().await?;
    let pushed = push(&server).await?;
    ensure!(pushed.status.success() && err(&pushed).contains("orphan: 100,000 lines stored"), "{}", err(&pushed));
    ensure!(printed(&server, "orphan").await? == numbers(LINES));
    ensure!(files(&server)?.is_empty(), "{:?}", files(&server)?);
    // Nobody knows how it ended.
    status(&server, "orphan", "lost").await?;
    ensure!(dropped(&server, "orphan").await? == 0);
    let found = crate::proof::completeness(&server, "orphan").await?;
    ensure!(found["state"] == "unproven" && found["lines"] == LINES && found["missing"] == 0, "{found}");
    let again = push(&server).await?;
    ensure!(again.status.success() && err(&again).contains("nothing to upload"), "{}", err(&again));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_stream_is_completed_once_also_after_it_was_lost() -> Result<()> {
    let server = Server::start_with(short_lease()).await?;
    let script = "i=0; while :; do i=$((i+1)); echo $i; done";
    for (round, after_end) in [false, true, false, true].into_iter().enumerate() {
        let name = format!("mid-{round}");
        let mut run = Run::start(&server, &name, &[], script)?;
        run.has_echoed(fastrand::usize(1..200_000)).await?;
        run.kill9().await?;
        if after_end {
            wait::until("the end of the killed task", PATIENCE, async || {
                let found = task(&server, &name).await?;
                Ok((found["status"] != "running" && !found.is_null()).then_some(()))
            })
            .await?;
        }
        // Two at once: each file has one uploader.
        let (one, other) = tokio::try_join!(push(&server), push(&server))?;
        ensure!(one.status.success() && other.status.success(), "{}{}", err(&one), err(&other));
        wait::until("the files to go", PATIENCE, async || Ok(files(&server)?.is_empty().then_some(()))).await?;
        let echoed = run.echoed()?;
        let whole = echoed.split(|byte| *byte == b'\n').count() - 1;
        let (stored, half) = lines_and_half(&server, &name).await?;
        let last: usize = stored.iter().rev().find_map(|line| line.parse().ok()).unwrap_or(0);
        ensure!(stored == numbers(last), "{name}: not a prefix of {last}");
        ensure!((last + 1).to_string().starts_with(&half), "{name}: {half:?} after {last}");
        // The echo comes first; of one chunk that was echoed, the kill may have come before the capture.
        let missing: usize =
            echoed.split(|byte| *byte == b'\n').take(whole).skip(last).map(|line| line.len() + 1).sum();
        ensure!(missing <= 64 << 10, "{name}: {missing} bytes were echoed and are not stored");
        ensure!(dropped(&server, &name).await? == 0);
        status(&server, &name, "lost").await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_has_no_line_end_yet_survives_its_supervisor_once() -> Result<()> {
    let mut server = Server::prepare(short_lease())?;
    let script = "printf 'begin\\nhalf'; printf 'another half' >&2; sleep 1000";
    let mut run = Run::start(&server, "half", &[], script)?;
    wait::until("both halves in the file", PATIENCE, async || {
        let Some(file) = files(&server)?.pop() else { return Ok(None) };
        let bytes = std::fs::read(&file)?;
        let has = |text: &[u8]| bytes.windows(text.len()).any(|found| found == text);
        Ok((has(b"begin") && has(b"half") && has(b"another half")).then_some(()))
    })
    .await?;
    run.kill9().await?;
    server.restart().await?;
    let pushed = push(&server).await?;
    ensure!(pushed.status.success() && err(&pushed).contains("half: 3 lines stored"), "{}", err(&pushed));
    let rows = lines(&server, "half").await?;
    let outline =
        |row: &serde_json::Value| format!("{} {} {}", row["stream"], row["message"], row["no_newline"] == true);
    let mut found: Vec<_> = rows.iter().filter(|row| row["stream"] != "system").map(outline).collect();
    found.sort();
    let wanted = [r#""stderr" "another half" true"#, r#""stdout" "begin" false"#, r#""stdout" "half" true"#];
    ensure!(found == wanted, "{found:?}");
    ensure!(files(&server)?.is_empty(), "{:?}", files(&server)?);
    Ok(())
}

#[tokio::test]
async fn what_a_killed_child_had_captured_is_stored_and_said_to_be_all() -> Result<()> {
    let server = Server::start().await?;
    let bin = flowforge_tests::server::binary()?;
    // What is echoed is captured before anything that comes later is echoed.
    let child = "seq 1 100; sleep 0.1; echo end; exec sleep 4";
    let script = format!(
        "{} run -q -- sh -c '{child}' >{echo} & pid=$!; until grep -q end {echo}; do sleep 0.05; done; kill -9 $pid; wait",
        bin.display(),
        echo = server.dir().join("echo").display()
    );
    let ran = output(&mut command(&server, ["run", "--task", "family", "--", "sh", "-c", &script])?).await?;
    let said = err(&ran);
    ensure!(ran.status.success() && said.contains(" missing, verified"), "{said}");
    let found = crate::proof::completeness(&server, "family").await?;
    ensure!(found["state"] == "unproven", "{found}");
    let words = "the producer died; all that it had captured is stored";
    ensure!(found["reason"].as_str().is_some_and(|reason| reason.ends_with(words)), "{found}");
    let states = found["producers"].as_array().context("producers")?.iter().map(|of| of["state"].as_str());
    ensure!(states.flatten().collect::<Vec<_>>() == ["verified", "unproven"], "{found}");
    Ok(())
}

#[tokio::test]
async fn what_a_run_could_not_deliver_waits_and_the_next_run_sends_it() -> Result<()> {
    let mut server = Server::prepare(Overrides::none())?;
    let first =
        output(&mut command(&server, ["run", "--task", "first", "--", "sh", "-c", "seq 1 1000; exit 3"])?).await?;
    ensure!(first.status.code() == Some(3), "{:?}", first.status);
    let said = err(&first);
    ensure!(
        said.contains("1,000 lines not delivered") && said.contains("kept in the spool: `flowforge spool push`"),
        "{said}"
    );
    server.restart().await?;
    let left = files(&server)?.pop().context("no file")?;
    let script = format!("while [ -e {} ]; do sleep 0.05; done", left.display());
    let second = output(&mut command(&server, ["run", "-q", "--task", "second", "--", "sh", "-c", &script])?).await?;
    ensure!(second.status.success() && files(&server)?.is_empty(), "{}", err(&second));
    let found = task(&server, "first").await?;
    ensure!(found["status"] == "failed" && found["exit_code"] == 3 && found["complete"] == true, "{found}");
    ensure!(printed(&server, "first").await? == numbers(1000));
    crate::proof::is_verified(&server, "first", 1000).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ring_counts_what_gave_way() -> Result<()> {
    let mut server = Server::prepare(Overrides::none())?;
    let options = ["--spool-size", "1MiB"];
    let args = ["run", "-q", "--task", "full"].into_iter().chain(options);
    let args = args.chain(["--", "seq", "1", "100000"]).collect::<Vec<_>>();
    let ran = output(&mut command(&server, args)?).await?;
    ensure!(ran.status.success(), "{}", err(&ran));
    server.restart().await?;
    let pushed = push(&server).await?;
    ensure!(pushed.status.success(), "{}", err(&pushed));
    let (stored, gone) = (printed(&server, "full").await?, dropped(&server, "full").await? as usize);
    ensure!(gone > 50_000 && stored.len() > 10_000, "{gone} gone, {} stored", stored.len());
    ensure!(stored == numbers(LINES)[gone..], "{gone} and {} are not {LINES}", stored.len());
    let found = task(&server, "full").await?;
    ensure!(found["status"] == "succeeded" && found["dropped"] == gone, "{found}");
    let found = &found["completeness"];
    ensure!(found["state"] == "incomplete" && found["captured"] == LINES && found["dropped"] == gone, "{found}");
    ensure!(found["reason"].to_string().contains("the others are stored as they were sent"), "{found}");
    Ok(())
}

#[tokio::test]
async fn a_corrupt_tail_is_cut_counted_and_said() -> Result<()> {
    let mut server = Server::prepare(short_lease())?;
    for name in ["torn", "newer", "junk"] {
        output(&mut command(&server, ["run", "-q", "--task", name, "--", "seq", "1", "1000"])?).await?;
    }
    for file in files(&server)? {
        let mut bytes = std::fs::read(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("torn") {
            let at = bytes.windows(3).position(|three| three == b"700").context("line 700")?;
            bytes[at] = b'x';
        } else if name.starts_with("newer") {
            bytes[8] = 99;
        } else {
            bytes[300] ^= 0xFF;
        }
        std::fs::write(&file, &bytes)?;
    }
    server.restart().await?;
    let pushed = push(&server).await?;
    let said = err(&pushed);
    ensure!(pushed.status.code() == Some(1), "{:?}: {said}", pushed.status);
    ensure!(said.contains("torn: 301 lines at the end of the file cannot be read"), "{said}");
    ensure!(said.contains("written by a newer version (format 99") && said.contains("header is damaged"), "{said}");
    ensure!(printed(&server, "torn").await? == numbers(699));
    ensure!(dropped(&server, "torn").await? == 301);
    ensure!(files(&server)?.len() == 2, "they are left alone: {:?}", files(&server)?);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_costs_a_warning_and_no_line() -> Result<()> {
    let server = Server::start().await?;
    let disk = SmallDisk::mount(&server, "256k")?;
    let Some(disk) = disk else { return Ok(()) };
    let dir = disk.path.display().to_string();
    let args = ["run", "--spool", &dir, "--task", "tight", "--", "seq", "1", "50000"];
    let ran = output(&mut command(&server, args)?).await?;
    let said = err(&ran);
    ensure!(ran.status.success() && said.contains("no spool (") && said.contains("No space left"), "{said}");
    ensure!(said.matches("no spool").count() == 1, "{said}");
    ensure!(printed(&server, "tight").await? == numbers(50_000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_leaves_the_rest_to_memory() -> Result<()> {
    let mut server = Server::prepare(Overrides::none())?;
    // The first step fits, the second does not.
    let Some(disk) = SmallDisk::mount(&server, "2m")? else { return Ok(()) };
    let dir = disk.path.display().to_string();
    let go = server.dir().join("go");
    let script = format!("seq 1 {LINES}; while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let run = Run::start(&server, "growing", &["--spool", &dir, "--flush-timeout", "60"], &script)?;
    run.has_echoed((numbers(LINES).join("\n") + "\n").len()).await?;
    server.restart().await?;
    wait::until("the lines", PATIENCE, async || {
        // It is not known before its producer comes back.
        let stored = task(&server, "growing").await.map_or(None, |found| found["stored"].as_u64());
        Ok((stored >= Some(LINES as u64)).then_some(()))
    })
    .await?;
    std::fs::write(go, "")?;
    let ended = tokio::time::timeout(PATIENCE, run.child.wait_with_output()).await??;
    ensure!(ended.status.success(), "{}", err(&ended));
    ensure!(printed(&server, "growing").await? == numbers(LINES) && dropped(&server, "growing").await? == 0);
    Ok(())
}

/// A file system of its own; root may make one.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, and a word about it, where that is not allowed.
    fn mount(server: &Server, size: &str) -> Result<Option<Self>> {
        let path = server.dir().join("disk");
        std::fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self { path }));
        }
        eprintln!("mounting a tmpfs is not allowed here: not tested");
        Ok(None)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
