//! The Lua scripts: each is atomic, checks everything before its first write (scripts do not roll back), and publishes last.
//!
//! They are called by their SHA-1, and sent whole where the server does not know them (after a restart or a failover).

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, ToRedisArgs, Value};

use super::link::Conn;

/// One script.
pub(super) struct Script {
    code: String,
    sha: String,
}

/// What a script may do beside the usual: refused when Redis is out of memory.
const USUAL: &str = "";
const READS: &str = " flags=no-writes";
/// Scripts that free memory, or end what holds it.
const EVEN_WHEN_FULL: &str = " flags=allow-oom";

const ROWS: &str = include_str!("rows.lua");

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $file:literal, $flags:expr) => {
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($flags, include_str!($file)));
    };
}

script!(/** The fast path. */ APPEND, "append.lua", USUAL);
script!(/** A change of a task that takes room. */ COMMIT, "commit.lua", USUAL);
script!(/** A change of a task that must go through. */ COMMIT_ALWAYS, "commit.lua", EVEN_WHEN_FULL);
script!(/** A consistent look at a task. */ READ, "read.lua", READS);
script!(/** Entries for the worker that holds the shard. */ TAKE, "take.lua", EVEN_WHEN_FULL);
script!(/** A delivery is in the store. */ STORED, "stored.lua", EVEN_WHEN_FULL);
script!(/** The record is in the store. */ PERSISTED, "persisted.lua", EVEN_WHEN_FULL);
script!(/** The lease clock. */ LEASE, "lease.lua", EVEN_WHEN_FULL);
script!(/** A whole lease from now on. */ RENEW, "renew.lua", EVEN_WHEN_FULL);
script!(/** Who reads a shard. */ CLAIM, "claim.lua", EVEN_WHEN_FULL);
script!(/** Names in the group that nobody has any more. */ FORGET, "forget.lua", EVEN_WHEN_FULL);
script!(/** A worker is gone. */ GONE, "gone.lua", EVEN_WHEN_FULL);
script!(/** Who works. */ HEARTBEAT, "heartbeat.lua", EVEN_WHEN_FULL);
script!(/** What tasks look like. */ FACE, "face.lua", USUAL);

impl Script {
    fn new(flags: &str, body: &str) -> Self {
        let code = format!("#!lua{flags}\n{ROWS}\n{body}");
        let sha = redis::Script::new(&code).get_hash().to_owned();
        Self { code, sha }
    }

    /// Calls it on this connection, once.
    pub(super) async fn call<K: AsRef<str>>(&self, conn: &Conn, keys: &[K], args: &Args) -> RedisResult<Value> {
        match conn.run(&command("EVALSHA", &self.sha, keys, args)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                conn.run(&command("EVAL", &self.code, keys, args)).await
            }
            other => other,
        }
    }
}

fn command<K: AsRef<str>>(verb: &str, script: &str, keys: &[K], args: &Args) -> Cmd {
    let mut cmd = redis::cmd(verb);
    cmd.arg(script).arg(keys.len());
    for key in keys {
        cmd.arg(key.as_ref());
    }
    cmd.arg(&args.0);
    cmd
}

/// Arguments of a script, in order.
#[derive(Debug, Default, Clone)]
pub(super) struct Args(Vec<Vec<u8>>);

impl Args {
    /// Adds one.
    pub(super) fn push(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.0.push(arg.as_ref().to_vec());
        self
    }

    /// Adds a number.
    pub(super) fn number(&mut self, number: impl std::fmt::Display) -> &mut Self {
        self.0.push(number.to_string().into_bytes());
        self
    }

    /// Adds bytes that are not needed any more.
    pub(super) fn bytes(&mut self, bytes: Vec<u8>) -> &mut Self {
        self.0.push(bytes);
        self
    }
}

impl ToRedisArgs for Args {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        self.0.write_redis_args(out);
    }
}

/// What a script answered: text, in order. Nested answers are left out.
pub(super) fn texts(value: &Value) -> Vec<String> {
    let Value::Array(items) = value else { return Vec::new() };
    items.iter().map(text).collect()
}

/// One text of an answer; empty for nil.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}
