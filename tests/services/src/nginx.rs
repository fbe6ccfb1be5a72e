//! A real nginx in front of whatever is tested.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::Process;

/// What every nginx writes to; below its own folder, so that nothing outside is touched.
const TEMP_PATHS: [&str; 5] = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];

/// nginx with a configuration of its own. One process, so that killing it leaves no workers behind.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    _dir: TempDir,
}

impl Nginx {
    /// Starts with `servers` inside of `http { … }`, and returns once `listens` answers.
    pub async fn start(servers: &str, listens: SocketAddr) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flowforge-nginx-").tempdir()?;
        let path = dir.path().display();
        let mut conf =
            format!("daemon off; master_process off; pid {path}/pid; error_log stderr warn;\nevents {{}}\nhttp {{\n");
        for name in TEMP_PATHS {
            writeln!(conf, "{name}_temp_path {path}/{name};")?;
        }
        writeln!(conf, "access_log off;\n{servers}\n}}")?;
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, conf)?;
        let prefix = dir.path().to_owned();
        let mut process = Process::new("nginx", &dir.path().join("log"), move || {
            // Debian keeps it where only root's PATH looks.
            let path = std::env::var("PATH").unwrap_or_default();
            let mut command = Command::new("nginx");
            command.env("PATH", format!("{path}:/usr/sbin")).arg("-p").arg(&prefix).arg("-c").arg(&file);
            command
        });
        process.start(async || Ok(TcpStream::connect(listens).is_ok().then_some(()))).await?;
        Ok(Self { _process: process, _dir: dir })
    }
}
