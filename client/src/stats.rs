//! What a client tells about itself.

use std::path::PathBuf;

use flowforge_proto::v1;

/// Counters since the start of the client. All lines are in one of `stored`, `buffered_lines`, `dropped_lines` and
/// `spooled_lines`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lines given to the client.
    pub captured: u64,
    /// Entries sent, repeats included.
    pub sent: u64,
    /// Highest sequence number that the server has accepted.
    pub queued_seq: u64,
    /// Highest sequence number that the server has stored, dropped ones included.
    pub stored_seq: u64,
    /// Lines given up: the buffer was full, the server refused them, or there is no server any more.
    pub dropped_lines: u64,
    /// Message bytes of the lines given up.
    pub dropped_bytes: u64,
    /// Lines held, in memory or in the spool: not stored yet.
    pub buffered_lines: u64,
    /// Bytes they are accounted for.
    pub buffered_bytes: usize,
    /// Lines left in the spool when the sender stopped; until then they are among the buffered ones.
    pub spooled_lines: u64,
    /// Why there is no spool, or a smaller one, where one was asked for.
    pub spool_problem: Option<String>,
    /// The server has answered Welcome and the stream is up.
    pub connected: bool,
    /// How often the server has answered Welcome. 0: it was never reached.
    pub welcomes: u64,
    /// How often a stream was opened after the first.
    pub reconnects: u64,
    /// The last failure, for people. Stays after a successful reconnect.
    pub last_error: Option<String>,
    /// Why nothing is sent any more; `None` while the sender works.
    pub end: Option<End>,
}

/// Why a sender has stopped for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The Close and every line before it is stored.
    Closed,
    /// Another stream of the same producer took over.
    Fenced(String),
    /// The server refuses this producer; repeating cannot help.
    Refused(String),
    /// The time for closing was up, or the client was dropped without closing.
    Abandoned,
    /// The sender's thread or runtime was shut down under it.
    Crashed,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// The exit code tells, if there is one.
    #[default]
    Unknown,
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
}

/// What [`Client::close`](crate::Client::close) came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseOutcome {
    /// Why the sender stopped.
    pub end: End,
    /// Lines that were held until now and are not known to be stored.
    pub undelivered: u64,
    /// How many of them are in the spool, to be uploaded later.
    pub spooled: u64,
    /// The file of the spool, if it stays.
    pub spool: Option<PathBuf>,
    /// Lines given up before, each counted by a record in the log if that was delivered.
    pub dropped: u64,
    /// The last failure, if not everything was delivered.
    pub error: Option<String>,
    /// Whether what is stored is what was sent, if [`ClientConfig::verify`](crate::ClientConfig::verify) asked for it and the
    /// server answered.
    pub completeness: Option<Completeness>,
}

/// What the server found when it read the lines back: of the whole task if the Close ended it, else of this producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completeness {
    /// `verified`, `incomplete`, `unproven` or `running`.
    pub state: &'static str,
    /// Lines stored.
    pub lines: u64,
    /// Lines numbered by the producers.
    pub captured: u64,
    /// Of those, neither stored nor told to be lost.
    pub missing: u64,
    /// Of those, told to be lost.
    pub dropped: u64,
    /// Why it is not verified, or empty.
    pub reason: String,
}

impl From<v1::Completeness> for Completeness {
    fn from(of: v1::Completeness) -> Self {
        use v1::completeness::State;
        let state = match of.state() {
            State::Verified => "verified",
            State::Incomplete => "incomplete",
            State::Unproven => "unproven",
            State::Running | State::Unspecified => "running",
        };
        let v1::Completeness { lines, captured, missing, dropped, reason, .. } = of;
        Self { state, lines, captured, missing, dropped, reason }
    }
}

impl CloseOutcome {
    /// The end is stored, and every line before it that was not dropped.
    pub fn is_complete(&self) -> bool {
        self.end == End::Closed
    }
}
