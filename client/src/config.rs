//! What a [`Client`](crate::Client) has to be told, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Endpoint;

use crate::assemble::Mode;
use crate::budget::Budget;
use crate::spool::SpoolConfig;

/// What happens to a line that the buffer has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest lines go, and a record in the log says how many: the writer never waits.
    #[default]
    DropOldest,
    /// The writer waits for room, however long that takes: nothing is ever lost.
    Wait,
    /// The writer waits while the server makes progress. After this long with a full buffer and without any, the oldest
    /// lines go as in [`Overflow::DropOldest`], until there is progress again.
    WaitForProgress(Duration),
}

/// Told the highest stored sequence number whenever it moved, on the sender's thread. Must not block.
pub type AckHook = Arc<dyn Fn(u64) + Send + Sync>;

/// A command from a person to the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What the answer must name, see [`Client::reply`](crate::Client::reply).
    pub id: String,
    /// What to do.
    pub name: String,
    /// A JSON value, or empty.
    pub data: bytes::Bytes,
}

/// Told of each command, on the sender's thread. Must not block.
pub type CommandHook = Arc<dyn Fn(Command) + Send + Sync>;

/// How the connection began: the address at which people look at the task (empty if the server does not say), or why the
/// server cannot be reached.
pub type ConnectHook = Arc<dyn Fn(Result<&str, &str>) + Send + Sync>;

/// Told once why the server refuses this producer for good, on the sender's thread. Must not block.
pub type RefusedHook = Arc<dyn Fn(&str) + Send + Sync>;

/// All of a client's settings. Begin with [`ClientConfig::new`].
#[derive(Clone)]
pub struct ClientConfig {
    /// `http://host:port`.
    pub server: String,
    /// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`; empty = `default`.
    pub tenant: String,
    /// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    pub task_id: String,
    /// The workflow this task belongs to, at most 256 bytes.
    pub workflow_id: String,
    /// Which try of the task this is, from 1; 0 = unknown.
    pub attempt: u32,
    /// Shown to people, at most 256 bytes.
    pub name: String,
    /// At most 64 pairs of at most 256 bytes each.
    pub labels: BTreeMap<String, String>,
    /// This producer decides the task's final status: a supervisor.
    pub owner: bool,
    /// At the end the server reads the lines back and says whether they are complete, see [`CloseOutcome::completeness`]. Closing
    /// takes longer by some seconds at most.
    ///
    /// [`CloseOutcome::completeness`]: crate::CloseOutcome::completeness
    pub verify: bool,
    /// Name and version of the program that uses this crate, for operators.
    pub sdk: String,
    /// Bytes of captured lines, with [overhead](crate#memory), that may wait for the server.
    pub max_buffer_bytes: usize,
    /// Keeps what is captured in a file, so that it survives this process. Lines are then there and not in memory, and the
    /// file's size is the bound instead of `max_buffer_bytes`, which holds again where the disk is full.
    pub spool: Option<SpoolConfig>,
    /// Bytes that this and other clients may hold together; for [`Overflow::DropOldest`].
    pub budget: Option<Arc<Budget>>,
    /// What happens beyond it.
    pub overflow: Overflow,
    /// A batch leaves at once when it has so many lines.
    pub batch_lines: usize,
    /// Batches of a busy producer are at least this far apart. A line after a pause leaves at once.
    pub linger: Duration,
    /// An HTTP/2 PING goes out after this long without traffic; a server that does not answer it in as long is gone.
    pub keepalive: Duration,
    /// How long one attempt to connect, and the server's Welcome, may take.
    pub connect_timeout: Duration,
    /// What `\r` means in [`Client::write`](crate::Client::write).
    pub mode: Mode,
    /// The `\r` of `\r\n` was added by a terminal.
    pub strip_cr: bool,
    /// Severity of the lines from [`Client::write`](crate::Client::write), 0 = unset.
    pub level: u8,
    /// Observes acks.
    pub on_ack: Option<AckHook>,
    /// Receives commands. Without it each is answered "not supported".
    pub on_command: Option<CommandHook>,
    /// Told once that the server answers, and before that at most once that it does not, on the sender's thread.
    pub on_connect: Option<ConnectHook>,
    /// Told that nothing will be delivered any more.
    pub on_refused: Option<RefusedHook>,
}

impl ClientConfig {
    /// Defaults for everything but where to and what.
    pub fn new(server: impl Into<String>, task_id: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            tenant: String::new(),
            task_id: task_id.into(),
            workflow_id: String::new(),
            attempt: 0,
            name: String::new(),
            labels: BTreeMap::new(),
            owner: false,
            verify: false,
            sdk: concat!("flowforge-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_buffer_bytes: 64 << 20,
            spool: None,
            budget: None,
            overflow: Overflow::default(),
            batch_lines: 500,
            linger: Duration::from_millis(5),
            keepalive: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            mode: Mode::default(),
            strip_cr: false,
            level: 0,
            on_ack: None,
            on_command: None,
            on_connect: None,
            on_refused: None,
        }
    }

    /// Checks what the server would refuse, and makes the endpoint.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, ClientError> {
        check_id("task_id", &self.task_id)?;
        if !self.tenant.is_empty() {
            check_id("tenant", &self.tenant)?;
        }
        check_text("workflow_id", &self.workflow_id)?;
        check_text("name", &self.name)?;
        check_text("sdk", &self.sdk)?;
        if self.labels.len() > MAX_LABELS {
            return Err(ClientError::TooManyLabels(self.labels.len()));
        }
        for (key, value) in &self.labels {
            check_text("label", key)?;
            check_text("label", value)?;
        }
        self.parse_server()
    }

    fn parse_server(&self) -> Result<Endpoint, ClientError> {
        if self.server.starts_with("https://") {
            return Err(ClientError::TlsUnsupported(self.server.clone()));
        }
        let invalid = || ClientError::InvalidServer(self.server.clone());
        if !self.server.starts_with("http://") {
            return Err(invalid());
        }
        let endpoint = Endpoint::from_shared(self.server.clone()).map_err(|_| invalid())?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(invalid());
        }
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keepalive)
            .keep_alive_timeout(self.keepalive)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 20))
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("server", &self.server)
            .field("tenant", &self.tenant)
            .field("task_id", &self.task_id)
            .field("max_buffer_bytes", &self.max_buffer_bytes)
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}

const MAX_LABELS: usize = 64;
const MAX_TEXT_BYTES: usize = 256;

/// Whether a tenant or task may be called so: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
pub fn is_valid_id(id: &str) -> bool {
    id.len() <= 128
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn check_id(field: &'static str, value: &str) -> Result<(), ClientError> {
    if is_valid_id(value) { Ok(()) } else { Err(ClientError::InvalidId { field, value: value.to_owned() }) }
}

fn check_text(field: &'static str, value: &str) -> Result<(), ClientError> {
    if value.len() <= MAX_TEXT_BYTES { Ok(()) } else { Err(ClientError::TooLong { field, bytes: value.len() }) }
}

/// Why a client could not be started. What happens to a started one is told by [`Stats`](crate::Stats) and
/// [`CloseOutcome`](crate::CloseOutcome): a program's own work never fails because of its log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// `https://` was asked for.
    #[error("server {0}: TLS is not supported yet; use http://host:port, through a local proxy if need be")]
    TlsUnsupported(String),
    /// Not `http://host:port`.
    #[error("server {0:?} is not of the form http://host:port")]
    InvalidServer(String),
    /// An id breaks the rule of [`is_valid_id`].
    #[error(
        "{field} {value:?} is not valid: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128"
    )]
    InvalidId {
        /// Which setting.
        field: &'static str,
        /// What it was.
        value: String,
    },
    /// A text is over 256 bytes.
    #[error("{field} has {bytes} bytes; at most 256 are allowed")]
    TooLong {
        /// Which setting.
        field: &'static str,
        /// How long it was.
        bytes: usize,
    },
    /// More than 64 labels.
    #[error("{0} labels; at most 64 are allowed")]
    TooManyLabels(usize),
    /// The operating system gave no random bytes for the producer id.
    #[error("no random bytes for a producer id: {0}")]
    Random(getrandom::Error),
    /// The sender's thread or runtime could not be made.
    #[error("cannot start the sender: {0}")]
    Start(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_before_anything_runs() {
        let check = |server: &str, task: &str| ClientConfig::new(server, task).endpoint().map(drop);
        assert!(check("http://localhost:50051", "a").is_ok());
        assert!(matches!(check("https://localhost:50051", "a"), Err(ClientError::TlsUnsupported(_))));
        assert!(matches!(check("localhost:50051", "a"), Err(ClientError::InvalidServer(_))));
        assert!(matches!(check("http://", "a"), Err(ClientError::InvalidServer(_))));
        assert!(matches!(check("http://h", ""), Err(ClientError::InvalidId { field: "task_id", .. })));
        assert!(matches!(check("http://h", "-a"), Err(ClientError::InvalidId { .. })));
        let mut config = ClientConfig::new("http://h", "a");
        config.name = "x".repeat(257);
        assert!(matches!(config.endpoint(), Err(ClientError::TooLong { field: "name", .. })));
    }

    #[test]
    fn ids_follow_the_rule() {
        assert!(is_valid_id("0a.B_c-") && is_valid_id(&"a".repeat(128)));
        assert!(!is_valid_id(&"a".repeat(129)) && !is_valid_id(".a") && !is_valid_id("a b") && !is_valid_id("é"));
    }
}
