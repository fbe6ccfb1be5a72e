//! Real PostgreSQL servers: one for all tests of a process, or one of a test's own that can be killed.
//!
//! PostgreSQL refuses to run as root, so it runs as the user `postgres` (or `nobody`) then, in a folder which that user owns.
//! A cluster that a package made on the machine is never used. `DATABASE_URL` names a server of the user's own instead of the
//! shared one: its role must be able to make databases.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::certificate::Certificate;
use crate::{Process, free_port, wait};

/// The superuser of a server that is started here. It has a password over TCP, and needs none over the socket.
pub const SUPERUSER: &str = "boss";

/// Its password.
pub const PASSWORD: &str = "open-sesame";

/// Quick, for tests that lose nothing when a machine crashes. `COMMIT` waits for no disk.
const QUICK: &[&str] = &["fsync=off", "full_page_writes=off"];

/// As an operator has it.
const HONEST: &[&str] = &[];

/// In a server's folder.
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";

const COMMON: &[&str] =
    &["max_connections=300", "shared_buffers=128MB", "log_min_messages=warning", "max_wal_size=4GB"];

/// The shared server ends with the process that started it, however that ends: the shell reads from a pipe that nobody writes
/// to. The folder goes with it.
const UNTIL_STDIN_ENDS: &str =
    r#""$@" & server=$!; read -r _; kill -QUIT $server; wait $server; cd /; rm -rf "$FLOWFORGE_TEST_FOLDER""#;

/// A server of a test's own, on a Unix socket and a port. Killed when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    process: Process,
    place: Place,
    _folder: TempDir,
}

#[derive(Debug, Clone)]
struct Place {
    socket: PathBuf,
    port: u16,
}

impl Place {
    fn over_socket(&self, database: &str) -> String {
        let socket = self.socket.display().to_string().replace('/', "%2F");
        format!("postgres://{SUPERUSER}@{socket}:{}/{database}", self.port)
    }
}

impl PostgresServer {
    /// Starts one that syncs every commit, and returns once it serves.
    pub async fn start() -> Result<Self> {
        Self::start_with(HONEST, |_| Ok(())).await
    }

    /// The same with TLS over TCP, for who wants it.
    pub async fn start_encrypted(certificate: &Certificate) -> Result<Self> {
        // It reads a key only where nobody else can.
        let of_its_own = |folder: &Path| {
            for (from, name) in [(certificate.cert(), CERT), (certificate.key(), KEY)] {
                let to = folder.join(name);
                fs::copy(from, &to)?;
                fs::set_permissions(&to, Permissions::from_mode(0o600))?;
                give(&to)?;
            }
            Ok(())
        };
        let (cert, key) = (format!("ssl_cert_file=../{CERT}"), format!("ssl_key_file=../{KEY}"));
        Self::start_with(&["ssl=on", &cert, &key], of_its_own).await
    }

    async fn start_with(settings: &[&str], fill: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("flowforge-postgres-").tempdir()?;
        let (command, place) = prepare(folder.path(), settings)?;
        fill(folder.path())?;
        let process = Process::new("postgres", &folder.path().join("server.log"), move || command.build());
        let mut server = Self { process, place, _folder: folder };
        server.restart().await?;
        Ok(server)
    }

    /// Starts it again on the same data.
    pub async fn restart(&mut self) -> Result<()> {
        let url = self.place.over_socket("postgres");
        self.process.start(async || Ok(connect(&url).await.ok().map(drop))).await
    }

    /// SIGKILL for it and all its processes, as when its machine goes; returns when they are gone.
    pub fn kill9(&mut self) -> Result<()> {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.process.kill9()?;
        for child in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            // It may have gone by itself by now.
            let _ = kill_process(child, Signal::KILL);
            while Path::new(&format!("/proc/{}", child.as_raw_nonzero())).exists() {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// A new, empty database on it.
    pub async fn database(&self) -> Result<Database> {
        Database::create(self.place.over_socket("postgres")).await
    }

    /// Where it listens for TCP.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.port))
    }

    /// The URL over TCP, which asks for a password.
    pub fn over_tcp(&self, password: &str, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{}/{database}", self.place.port)
    }
}

/// A database of one test. Dropped with it, also on a server of the user's own.
#[derive(Debug)]
pub struct Database {
    admin: String,
    name: String,
}

impl Database {
    /// On the server that all tests of this process share, or on that of `DATABASE_URL`.
    pub async fn shared() -> Result<Self> {
        match std::env::var("DATABASE_URL") {
            Ok(url) => Self::create(url).await,
            Err(_) => Self::create(shared().await?.over_socket("postgres")).await,
        }
    }

    async fn create(admin: String) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Self { admin, name };
        database.administer(&format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", database.name)).await?;
        Ok(database)
    }

    /// Where a store finds it.
    pub fn url(&self) -> String {
        self.url_of(None)
    }

    /// The same for another role, without a password.
    pub fn url_for(&self, role: &str) -> String {
        self.url_of(Some(role))
    }

    fn url_of(&self, role: Option<&str>) -> String {
        let (scheme, rest) = self.admin.split_once("://").unwrap_or(("postgres", &self.admin));
        let (rest, parameters) =
            rest.split_once('?').map_or((rest, String::new()), |(rest, end)| (rest, format!("?{end}")));
        let place = rest.split_once('/').map_or(rest, |(place, _)| place);
        let place = match (role, place.rsplit_once('@')) {
            (Some(role), Some((_, host))) => format!("{role}@{host}"),
            (Some(role), None) => format!("{role}@{place}"),
            (None, _) => place.to_owned(),
        };
        format!("{scheme}://{place}/{}{parameters}", self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection beside the store, as a shell has one.
    pub async fn connect(&self) -> Result<PgConnection> {
        connect(&self.url()).await
    }

    /// Runs statements in it.
    pub async fn run(&self, sql: &str) -> Result<()> {
        let mut conn = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.with_context(|| sql.to_owned())?;
        Ok(conn.close().await?)
    }

    async fn administer(&self, sql: &str) -> Result<()> {
        let mut conn = connect(&self.admin).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.with_context(|| sql.to_owned())?;
        Ok(conn.close().await?)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A server that is gone keeps no database.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
                if let Ok(runtime) = runtime {
                    let _ = runtime.block_on(self.administer(&sql));
                }
            });
        });
    }
}

async fn connect(url: &str) -> Result<PgConnection> {
    Ok(PgConnectOptions::from_str(url)?.disable_statement_logging().connect().await?)
}

/// Started by the first test that wants it.
async fn shared() -> Result<&'static Place> {
    static SERVER: OnceCell<(Place, Child)> = OnceCell::const_new();
    let (place, _child) = SERVER.get_or_try_init(start_shared).await?;
    Ok(place)
}

async fn start_shared() -> Result<(Place, Child)> {
    // The shell removes the folder, also when this process is killed.
    let folder = tempfile::Builder::new().prefix("flowforge-postgres-").tempdir()?.keep();
    let (command, place) = prepare(&folder, QUICK)?;
    let log = fs::File::create(folder.join("server.log"))?;
    let mut shell = Command::new("sh");
    shell.args(["-c", UNTIL_STDIN_ENDS, "sh"]).args(command.words).env("FLOWFORGE_TEST_FOLDER", &folder);
    let child = shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let url = place.over_socket("postgres");
    let serves =
        wait::until("postgres to serve", wait::PATIENCE, async || Ok(connect(&url).await.ok().map(drop))).await;
    serves.with_context(|| read(&folder.join("server.log")))?;
    Ok((place, child))
}

/// The words of a command.
struct Words {
    words: Vec<String>,
}

impl Words {
    fn build(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command
    }
}

/// Makes a cluster below this folder; gives the command that serves it, and where.
fn prepare(folder: &Path, settings: &[&str]) -> Result<(Words, Place)> {
    let (bin, user, data) = (binaries()?, user()?, folder.join("data"));
    give(folder)?;
    let password = folder.join("password");
    fs::write(&password, PASSWORD)?;
    give(&password)?;
    let mut initdb = as_user(user.as_ref());
    initdb.push(bin.join("initdb").display().to_string());
    initdb.extend(
        ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256"]
            .map(str::to_owned),
    );
    initdb.extend([
        format!("--username={SUPERUSER}"),
        format!("--pwfile={}", password.display()),
        data.display().to_string(),
    ]);
    let made = Words { words: initdb }.build().stdin(Stdio::null()).current_dir(folder).output()?;
    ensure!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    let place = Place { socket: folder.to_owned(), port: free_port()? };
    let mut words = as_user(user.as_ref());
    words.extend([bin.join("postgres").display().to_string(), "-D".to_owned(), data.display().to_string()]);
    let own = [
        format!("port={}", place.port),
        format!("unix_socket_directories={}", folder.display()),
        "listen_addresses=127.0.0.1".to_owned(),
    ];
    for setting in settings.iter().chain(COMMON).map(|setting| (*setting).to_owned()).chain(own) {
        words.extend(["-c".to_owned(), setting]);
    }
    Ok((Words { words }, place))
}

/// Who the server runs as where we are root.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

fn user() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut parts = line.split(':').skip(2);
        Some(User { uid: parts.next()?.parse().ok()?, gid: parts.next()?.parse().ok()? })
    };
    let user = find("postgres").or_else(|| find("nobody"));
    Ok(Some(user.context("there is neither a user postgres nor nobody, and PostgreSQL does not run as root")?))
}

/// Makes the user that the server runs as the owner.
fn give(path: &Path) -> Result<()> {
    if let Some(User { uid, gid }) = user()? {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// What a command begins with so that it runs as this user. `setpriv` becomes the command, so that its process id is ours.
fn as_user(user: Option<&User>) -> Vec<String> {
    let Some(User { uid, gid }) = user else { return Vec::new() };
    vec!["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]
}

/// Debian keeps them off the PATH, a folder a version; the newest is taken.
fn binaries() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for version in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let bin = version.path().join("bin");
        if bin.join("initdb").is_file() {
            found.push((version.file_name().to_string_lossy().parse().unwrap_or(0), bin));
        }
    }
    if let Some((_, bin)) = found.into_iter().max() {
        return Ok(bin);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    found.context("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql)")
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    let _ = fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    text
}
