//! A `flowforge serve` process with a directory of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait;

/// Lines of a server's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 80;

/// What differs from the defaults: `section.key` to a YAML value.
#[derive(Debug, Clone, Default)]
pub struct Overrides(BTreeMap<(String, String), String>);

impl Overrides {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Sets `section.key`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        self.0.insert((section.to_owned(), name.to_owned()), value.to_owned());
        self
    }

    fn yaml(&self) -> String {
        let (mut yaml, mut current) = (String::new(), None);
        for ((section, name), value) in &self.0 {
            if current != Some(section) {
                let _ = writeln!(yaml, "{section}:");
                current = Some(section);
            }
            let _ = writeln!(yaml, "  {name}: {value}");
        }
        yaml
    }
}

/// A server that can be killed and started again on the same addresses and data. Killed when dropped; its log then goes to
/// this test's output, which a passing test does not show.
#[derive(Debug)]
pub struct Server {
    overrides: Overrides,
    child: Option<Child>,
    dir: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Server {
    /// Starts with defaults.
    pub async fn start() -> Result<Self> {
        Self::start_with(Overrides::none()).await
    }

    /// Starts, and returns once it serves.
    pub async fn start_with(overrides: Overrides) -> Result<Self> {
        let mut server = Self::prepare(overrides)?;
        server.restart().await?;
        Ok(server)
    }

    /// Directory and addresses, and no process yet.
    pub fn prepare(overrides: Overrides) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flowforge-test-").tempdir()?;
        Ok(Self { overrides, child: None, dir, grpc: free_address()?, http: free_address()? })
    }

    /// Starts the process again after it ended, on the same addresses and data.
    pub async fn restart(&mut self) -> Result<()> {
        let seen = self.log()?.len();
        self.spawn()?;
        wait::until("the server to serve", wait::PATIENCE, async || {
            if let Some(status) = self.try_exit()? {
                bail!("the server ended at its start with {status}:\n{}", &self.log()?[seen..]);
            }
            Ok(self.log()?[seen..].contains("flowforge is serving").then_some(()))
        })
        .await
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server runs already");
        let config = self.dir.path().join("config.yaml");
        let defaults = Overrides::none()
            .set("server.grpc", &self.grpc.to_string())
            .set("server.http", &self.http.to_string())
            .set("sqlite.path", &self.database().display().to_string());
        let mut overrides = self.overrides.clone();
        for (key, value) in defaults.0 {
            overrides.0.entry(key).or_insert(value);
        }
        std::fs::write(&config, overrides.yaml())?;
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(binary()?);
        command.arg("serve").arg("--config").arg(config).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start flowforge")?);
        Ok(())
    }

    /// Other settings, from the next start on.
    pub fn reconfigure(&mut self, overrides: Overrides) {
        self.overrides = overrides;
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the server does not run")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until the process has ended by itself.
    pub async fn exited(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait::until("the server to exit", limit, async || self.try_exit()).await?;
        self.child = None;
        Ok(status)
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.exited(limit).await
    }

    fn try_exit(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the server does not run")?;
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// The process's id; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> Result<u64> {
        let child = self.child.as_ref().context("the server does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// `http://host:port` of gRPC.
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// `http://host:port` of HTTP.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `<http>/api/v1/tasks/<task>`.
    pub fn task_url(&self, task: &str) -> String {
        format!("{}/api/v1/tasks/{task}", self.http_url())
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("flowforge.db")
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> Result<String> {
        match std::fs::read(self.log_path()) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Its directory, for other files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        eprintln!("--- log of the server at {} (the last {} of {} lines)", self.http, shown.len(), lines.len());
        for line in shown {
            eprintln!("{line}");
        }
    }
}

/// The executable under test: `FLOWFORGE_BIN`, or `flowforge` of this build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLOWFORGE_BIN") {
        return Ok(path.into());
    }
    // This executable is <target>/<profile>/deps/<name>-<hash>.
    let here = std::env::current_exe()?;
    let profile = here.parent().and_then(Path::parent).context("this test is not in a target directory")?;
    let binary = profile.join("flowforge");
    ensure!(binary.is_file(), "{} is not there. Build it: cargo build -p flowforge-server", binary.display());
    Ok(binary)
}

/// A free address below the ports that the kernel gives to clients: nobody takes it while the server is down, and no client
/// that calls it then can be connected to itself.
fn free_address() -> Result<SocketAddr> {
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(12_000..32_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port")
}
