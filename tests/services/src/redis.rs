//! Real Redis servers: one, a Cluster of three, or a master with a replica and a Sentinel.
//!
//! `REDIS_URL` names a server of the user's own for the tests that need only one and do not stop it. Its database is emptied
//! by every test, and it is used by one test at a time.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Process, free_address, free_port, wait};

/// How long a server may take to answer one command.
const ANSWER: Duration = Duration::from_secs(10);

/// What a server writes to its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: a restart is a new memory.
    None,
    /// An append-only file, synced with every command: a restart loses nothing.
    Always,
}

/// One `redis-server` with a folder of its own, which survives its restarts.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    dir: TempDir,
    address: SocketAddr,
}

impl Redis {
    /// Starts one.
    pub async fn start(persistence: Persistence) -> Result<Self> {
        Self::start_with(persistence, &[]).await
    }

    /// Starts one with further settings, `name value` each.
    pub async fn start_with(persistence: Persistence, settings: &[&str]) -> Result<Self> {
        let mut server = Self::prepare("redis-server", persistence, settings, free_address()?)?;
        server.restart().await?;
        Ok(server)
    }

    fn prepare(
        program: &'static str,
        persistence: Persistence,
        settings: &[&str],
        address: SocketAddr,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flowforge-redis-").tempdir()?;
        let config = dir.path().join("redis.conf");
        let mut text = format!("bind {}\nport {}\ndir {}\n", address.ip(), address.port(), dir.path().display());
        settings.iter().try_for_each(|setting| writeln!(text, "{setting}"))?;
        if program == "redis-server" {
            text.push_str("save \"\"\nmaxmemory-policy noeviction\n");
            if persistence == Persistence::Always {
                text.push_str("appendonly yes\nappendfsync always\n");
            }
        }
        std::fs::write(&config, text)?;
        let log = dir.path().join("redis.log");
        let process = Process::new(program, &log, move || {
            let mut command = Command::new(program);
            command.arg(&config);
            command
        });
        Ok(Self { process, dir, address })
    }

    /// Starts it again after it was killed, on the same port and folder; returns once it answers.
    pub async fn restart(&mut self) -> Result<()> {
        let address = self.address;
        self.process
            .start(async || {
                let answer = ask(address, &["PING"]);
                Ok(answer.ok().filter(|answer| answer == "PONG").map(drop))
            })
            .await
            .context("redis-server is needed: apt-get install redis-server")
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// STOP freezes it, CONT thaws it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// One command, and its answer as text: items one a line.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        ask(self.address, words)
    }
}

/// A user's own server, if `REDIS_URL` names one.
pub fn own_url() -> Option<String> {
    std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty())
}

/// One command over a connection of its own.
pub fn ask(address: SocketAddr, words: &[&str]) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut request = format!("*{}\r\n", words.len());
    words.iter().try_for_each(|word| write!(request, "${}\r\n{word}\r\n", word.len()))?;
    stream.write_all(request.as_bytes())?;
    read_answer(&mut BufReader::new(stream))
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).context("no answer")?;
    Ok(match kind {
        "+" | ":" => rest.to_owned(),
        "-" => bail!("redis says {rest}"),
        "$" if rest == "-1" => String::new(),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>()? + 2];
            stream.read_exact(&mut bytes)?;
            String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()
        }
        "*" => {
            let items = (0..rest.parse::<i64>()?.max(0)).map(|_| read_answer(stream));
            items.collect::<Result<Vec<_>>>()?.join("\n")
        }
        _ => bail!("an answer that is not understood: {line}"),
    })
}

/// Three masters that share the slots.
#[derive(Debug)]
pub struct RedisCluster {
    /// Its nodes.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts it; returns once every node says that the Cluster is whole.
    pub async fn start() -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            // The usual bus port, 10000 above the other, may belong to a client's connection.
            let bus = format!("cluster-port {}", free_port()?);
            let settings = ["cluster-enabled yes", "cluster-node-timeout 2000", &bus];
            nodes.push(Redis::start_with(Persistence::None, &settings).await?);
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(nodes.iter().map(|node| node.address.to_string()));
        create.args(["--cluster-replicas", "0", "--cluster-yes"]).stdin(Stdio::null());
        let output = create.output().context("redis-cli is needed: apt-get install redis-tools")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        wait::until("the Cluster to be whole", wait::PATIENCE, async || {
            let whole = |node: &Redis| {
                let info = node.command(&["CLUSTER", "INFO"]).unwrap_or_default();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            };
            Ok(cluster.nodes.iter().all(whole).then_some(()))
        })
        .await?;
        Ok(cluster)
    }

    /// `redis+cluster://…`.
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| node.address.to_string()).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }
}

/// A master, a replica, and the Sentinel that promotes it.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The first master.
    pub master: Redis,
    /// Its replica.
    pub replica: Redis,
    sentinel: Redis,
}

impl RedisSentinel {
    /// Starts them; returns once the Sentinel knows the replica.
    pub async fn start() -> Result<Self> {
        let master = Redis::start_with(Persistence::None, &["repl-diskless-sync-delay 0"]).await?;
        let port = master.address.port();
        let replica = Redis::start_with(Persistence::None, &[&format!("replicaof 127.0.0.1 {port}")]).await?;
        let settings = [
            format!("sentinel monitor main 127.0.0.1 {port} 1"),
            "sentinel down-after-milliseconds main 500".to_owned(),
            "sentinel failover-timeout main 5000".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut sentinel = Redis::prepare("redis-sentinel", Persistence::None, &settings, free_address()?)?;
        sentinel.restart().await.context("redis-sentinel is needed: apt-get install redis-sentinel")?;
        let all = Self { master, replica, sentinel };
        wait::until("the Sentinel to know the replica", wait::PATIENCE, async || {
            let replicas = all.sentinel.command(&["SENTINEL", "REPLICAS", "main"])?;
            let synced = all.replica.command(&["INFO", "replication"])?.contains("master_link_status:up");
            Ok((replicas.contains("master-link-status\nok") && synced).then_some(()))
        })
        .await?;
        Ok(all)
    }

    /// `redis+sentinel://…/main`.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/main", self.sentinel.address)
    }

    /// Kills the master; returns once the replica is one.
    pub async fn fail_over(&mut self) -> Result<()> {
        self.master.kill9()?;
        wait::until("the replica to be promoted", wait::PATIENCE, async || {
            // Its promotion cuts connections.
            let role = self.replica.command(&["ROLE"]).unwrap_or_default();
            Ok(role.starts_with("master").then_some(()))
        })
        .await
    }
}
