//! What real programs print arrives byte for byte: a build of a crate, and a script that prints as a training run does.

use std::path::Path;
use std::process::Command as Shell;

use anyhow::{Context as _, Result, ensure};
use flowforge_tests::cli;
use flowforge_tests::server::Server;

/// A crate of this workspace's own dependencies: its build runs compilers and build scripts for some seconds.
const BUILT: &str = "async-stream";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_build_equals_what_tee_saw() -> Result<()> {
    let server = Server::start().await?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // Standard error through one tee back to standard error, standard output around it through another.
    let script = r#"set -o pipefail
        { "$CARGO_BIN" build -v --offline --package "$BUILT" --target-dir "$WORK/target" 2>&1 >&3 3>&- |
            tee "$WORK/stderr" >&2 3>&-; } 3>&1 | tee "$WORK/stdout""#;
    let mut command =
        cli::command(&server, ["run", "--raw", "--quiet", "--task", "build", "--", "bash", "-c", script])?;
    command.env("CARGO_BIN", cargo).env("BUILT", BUILT).env("WORK", server.dir()).env_remove("RUSTFLAGS");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = cli::output(&mut command).await?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the build failed: {words}");
    ensure!(words.contains("Running `"), "the build printed no commands: {words}");
    compare(&server, "build", &output).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_run_equals_its_own_journal() -> Result<()> {
    let server = Server::start().await?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/real/training.py");
    let (stdout, stderr) = (server.dir().join("stdout"), server.dir().join("stderr"));
    let args = ["run", "--raw", "--quiet", "--task", "train", "--", "python3", script];
    let mut command = cli::command(&server, args)?;
    let output = cli::output(command.arg(&stdout).arg(&stderr)).await?;
    ensure!(output.status.code() == Some(3), "the exit code is not kept: {:?}", output.status);
    ensure!(std::fs::metadata(&stdout)?.len() > 600_000, "the script printed less than it should");
    compare(&server, "train", &output).await
}

/// The journal, the echo and the download agree, stream by stream.
async fn compare(server: &Server, task: &str, echoed: &std::process::Output) -> Result<()> {
    for (stream, echo) in [("stdout", &echoed.stdout), ("stderr", &echoed.stderr)] {
        let journal = server.dir().join(stream);
        let expected = std::fs::read(&journal)?;
        same(&format!("{task}: echo of {stream}"), &expected, echo, &journal)?;
        let url = format!("{}/logs/download?format=text&stream={stream}", server.task_url(task));
        let download = reqwest::get(url).await?.error_for_status()?.bytes().await?;
        same(&format!("{task}: download of {stream}"), &expected, &download, &journal)?;
        eprintln!("{task} {stream}: {} bytes equal", expected.len());
    }
    Ok(())
}

/// Names the first difference; leaves the rest to `cmp`.
fn same(what: &str, expected: &[u8], found: &[u8], journal: &Path) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let other = journal.with_extension("found");
    std::fs::write(&other, found)?;
    let context = Shell::new("cmp").arg(journal).arg(&other).output().context("cmp")?;
    anyhow::bail!(
        "{what} differs at byte {at} ({} bytes expected, {} found): {}",
        expected.len(),
        found.len(),
        String::from_utf8_lossy(&context.stdout)
    )
}
