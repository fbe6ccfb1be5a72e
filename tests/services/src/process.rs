//! One server process: started, stopped, frozen, killed and started again.

use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Lines of its log that a failed test shows.
const LOG_LINES_SHOWN: usize = 80;

/// A server process that can be killed and started again. Killed when dropped; the end of its log then goes to the test's
/// output, which a passing test does not show.
pub struct Process {
    name: &'static str,
    log: PathBuf,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. `command` is called for each start; stdin is closed, stdout and stderr are appended to `log`.
    pub fn new(name: &'static str, log: &Path, command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Self { name, log: log.to_owned(), command: Box::new(command), child: None }
    }

    /// Starts it and does not wait until it serves.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = (self.command)();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let program = command.get_program().to_string_lossy().into_owned();
        self.child = Some(command.spawn().with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }

    /// Starts it and waits until `ready` gives a value; fails at once if the process ends before.
    pub async fn start<T>(&mut self, mut ready: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
        self.spawn()?;
        let name = self.name;
        wait::until(&format!("{name} to serve"), wait::PATIENCE, async || {
            if let Some(status) = self.try_exit()? {
                bail!("{name} ended at its start with {status}:\n{}", self.log());
            }
            ready().await
        })
        .await
    }

    /// Starts it and waits until its log says `words`, from here on.
    pub async fn start_until_it_says(&mut self, words: &str) -> Result<()> {
        let seen = self.log().len();
        let log = self.log.clone();
        self.start(async || Ok(read(&log).get(seen..).is_some_and(|new| new.contains(words)).then_some(()))).await
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends a signal and does not wait: STOP freezes it, CONT thaws it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until the process has ended by itself.
    pub async fn exited(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to exit", self.name);
        wait::until(&what, limit, async || self.try_exit()).await
    }

    /// How it ended, if it has.
    pub fn try_exit(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Its process id; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }
}

fn read(log: &Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        eprintln!("--- log of {} (the last {} of {} lines)", self.name, shown.len(), lines.len());
        for line in shown {
            eprintln!("{line}");
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("pid", &self.pid()).finish_non_exhaustive()
    }
}
