//! The other commands of the program, run to their end.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::server::{Server, binary};
use crate::wait::PATIENCE;

/// `flowforge <args>` that knows where this server is. Killed when dropped.
pub fn command<S: AsRef<OsStr>>(server: &Server, args: impl IntoIterator<Item = S>) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(args).env("FLOWFORGE_SERVER", server.grpc_url()).env("FLOWFORGE_HTTP", server.http_url());
    // Not the spool of whoever runs the tests.
    command.env("FLOWFORGE_SPOOL", server.dir().join("spool")).env_remove("FLOWFORGE_SPOOL_SIZE");
    for name in ["FLOWFORGE_TASK_ID", "FLOWFORGE_TENANT_ID", "FLOWFORGE_WORKFLOW_ID", "PYTHONUNBUFFERED"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// Runs it to its end.
pub async fn output(command: &mut Command) -> Result<Output> {
    Ok(timeout(PATIENCE, command.output()).await.context("the command did not end")??)
}

/// Runs it to its end, with this standard input.
pub async fn output_of(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_vec();
    let feed = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = timeout(PATIENCE, child.wait_with_output()).await.context("the command did not end")??;
    match feed.await? {
        // A command may end before it has read its input; how it ended is what counts.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(output)
}
