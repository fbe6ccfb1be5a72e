//! A `flowforge serve` process with a directory of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_test_services::{Process, free_address};
use rustix::process::Signal;
use tempfile::TempDir;

/// What differs from the defaults: `section.key` to a YAML value.
#[derive(Debug, Clone, Default)]
pub struct Overrides(BTreeMap<(String, String), String>);

impl Overrides {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Of several servers over one Redis and one store.
    ///
    /// The store is a SQLite file in `folder`. It belongs to one process, and is locked by its name; each server is given a
    /// name of its own for it. SQLite itself lets several processes use one file on one machine; nobody should in earnest.
    pub fn sharing(folder: &Path, name: &str, redis_url: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.db"));
        if !path.exists() {
            std::os::unix::fs::symlink(folder.join("shared.db"), &path)?;
        }
        let settings = Self::none().set("broker.driver", "redis").set("redis.url", redis_url);
        Ok(settings.set("queue.claim_idle", "2s").set("sqlite.path", &path.display().to_string()))
    }

    /// Of several servers over one Redis and one PostgreSQL database.
    pub fn sharing_postgres(database_url: &str, redis_url: &str) -> Self {
        let settings = Self::none().set("broker.driver", "redis").set("redis.url", redis_url);
        let settings = settings.set("logging.storage_driver", "postgres");
        settings.set("postgres.url", &format!("\"{database_url}\""))
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
/// the output of a test that fails.
#[derive(Debug)]
pub struct Server {
    overrides: Overrides,
    process: Process,
    dir: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
    /// With `FLOWFORGE_TEST_BROKER=redis`: its own, which outlives its restarts.
    redis: Option<Redis>,
    /// What its process is started with besides.
    environment: Arc<Mutex<Environment>>,
}

type Environment = BTreeMap<String, String>;

/// A process under a limit of file sizes is killed at it, unless it ignores that signal; then its writes fail, as on a full
/// disk.
const WRITES_MAY_FAIL: &str = r#"trap "" XFSZ; exec "$0" "$@""#;

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

    /// Starts one that does a part of the work: `--roles`.
    pub async fn start_as(roles: &'static str, overrides: Overrides) -> Result<Self> {
        let mut server = Self::prepare_as(Some(roles), overrides)?;
        server.restart().await?;
        Ok(server)
    }

    /// Directory and addresses, and no process yet.
    pub fn prepare(overrides: Overrides) -> Result<Self> {
        Self::prepare_as(None, overrides)
    }

    fn prepare_as(roles: Option<&'static str>, overrides: Overrides) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flowforge-test-").tempdir()?;
        let (binary, folder) = (binary()?, dir.path().to_owned());
        let environment = Arc::new(Mutex::new(Environment::new()));
        let shared = Arc::clone(&environment);
        let process = Process::new("flowforge serve", &dir.path().join("server.log"), move || {
            let mut command = Command::new("sh");
            command.args(["-c", WRITES_MAY_FAIL]).arg(&binary);
            command.args(["serve", "--config", "config.yaml"]).current_dir(&folder);
            command.envs(&*shared.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(roles) = roles {
                command.args(["--roles", roles]);
            }
            command
        });
        Ok(Self { overrides, process, dir, grpc: free_address()?, http: free_address()?, redis: None, environment })
    }

    /// Starts the process again after it ended, on the same addresses and data.
    pub async fn restart(&mut self) -> Result<()> {
        let wanted = std::env::var("FLOWFORGE_TEST_BROKER").is_ok_and(|broker| broker == "redis");
        if wanted && self.redis.is_none() {
            self.redis = Some(Redis::start(Persistence::Always).await?);
        }
        self.write_config()?;
        self.process.start_until_it_says("flowforge is serving").await
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        self.write_config()?;
        self.process.spawn()
    }

    fn write_config(&self) -> Result<()> {
        let mut defaults = Overrides::none()
            .set("server.grpc", &self.grpc.to_string())
            .set("server.http", &self.http.to_string())
            .set("sqlite.path", &self.database().display().to_string());
        if let Some(redis) = &self.redis {
            defaults = defaults.set("broker.driver", "redis").set("redis.url", &redis.url());
        }
        let mut overrides = self.overrides.clone();
        for (key, value) in defaults.0 {
            overrides.0.entry(key).or_insert(value);
        }
        Ok(std::fs::write(self.dir.path().join("config.yaml"), overrides.yaml())?)
    }

    /// A variable of its environment, from the next start on; `None` takes it away.
    pub fn set_env(&self, name: &str, value: Option<&str>) {
        let mut environment = self.environment.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => environment.insert(name.to_owned(), value.to_owned()),
            None => environment.remove(name),
        };
    }

    /// Where producers connect.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where readers connect.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Other settings, from the next start on.
    pub fn reconfigure(&mut self, overrides: Overrides) {
        self.overrides = overrides;
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits until the process has ended by itself.
    pub async fn exited(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.exited(limit).await
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.exited(limit).await
    }

    /// The process's id; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> Result<u64> {
        crate::memory::rss(self.pid())
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
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its directory, for other files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// The executable under test: `FLOWFORGE_BIN`, or `flowforge` of this build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLOWFORGE_BIN") {
        return Ok(path.into());
    }
    // This executable is <target>/<profile>/<name>, or a test, <target>/<profile>/deps/<name>-<hash>.
    let here = std::env::current_exe()?;
    let folder = here.parent().context("this program is nowhere")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = profile.join("flowforge");
    ensure!(binary.is_file(), "{} is not there. Build it: cargo build -p flowforge-server", binary.display());
    Ok(binary)
}
