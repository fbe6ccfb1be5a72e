//! A real ClickHouse: the engine of the PyPI package `chdb-core`, behind an HTTP front of our own (`clickhouse/front.py`), or
//! the server that `CLICKHOUSE_URL` names (with `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD`).
//!
//! The engine comes from a venv that `.ci/prepare test` makes: `target/venv-clickhouse`, or `CLICKHOUSE_VENV`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{Process, free_port};

/// What the front says once it serves.
const SERVES: &str = "listening on";

/// A server of the user's own.
#[derive(Debug, Clone)]
pub struct Genuine {
    /// `http://host:port`.
    pub url: String,
    /// Empty: ClickHouse's default.
    pub user: String,
    /// May be empty.
    pub password: String,
}

/// The server that the environment names.
pub fn genuine() -> Option<Genuine> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let url = variable("CLICKHOUSE_URL");
    let (user, password) = (variable("CLICKHOUSE_USER"), variable("CLICKHOUSE_PASSWORD"));
    (!url.is_empty()).then_some(Genuine { url, user, password })
}

/// An engine of the test's own. Killed when dropped, with its data.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    port: u16,
    /// Deleted after the process is gone: fields are dropped in this order.
    folder: TempDir,
}

impl Engine {
    /// Starts one without a password.
    pub async fn start() -> Result<Self> {
        Self::start_with_password("").await
    }

    /// Starts one whose only user has this password.
    pub async fn start_with_password(password: &str) -> Result<Self> {
        let mut engine = Self::prepare(password)?;
        engine.restart().await?;
        Ok(engine)
    }

    /// A folder and a port, and no process yet.
    pub fn prepare(password: &str) -> Result<Self> {
        let (python, port) = (python()?, free_port()?);
        let folder = tempfile::Builder::new().prefix("flowforge-clickhouse-").tempdir()?;
        let (data, password) = (folder.path().join("data"), password.to_owned());
        let process = Process::new("clickhouse", &folder.path().join("front.log"), move || {
            let mut command = Command::new(&python);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clickhouse/front.py"));
            command.arg("--path").arg(&data).args(["--port", &port.to_string(), "--password", &password]);
            command
        });
        Ok(Self { process, port, folder })
    }

    /// Starts it, or starts it again on the same port and data after it was killed.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.start_until_it_says(SERVES).await
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where its data lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The venv's Python.
fn python() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let default = workspace.join("target/venv-clickhouse");
    let python = std::env::var_os("CLICKHOUSE_VENV").map_or(default, PathBuf::from).join("bin/python");
    ensure!(python.is_file(), "{} is not there: run .ci/prepare test, or set CLICKHOUSE_URL", python.display());
    Ok(python)
}
