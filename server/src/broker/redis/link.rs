//! Connections to Redis: one server, one found through Sentinels, or a Cluster.
//!
//! A connection to one server is tied to that server's `run_id`: the two are read together, and a lost connection is never
//! replaced behind the caller's back. So a script that is given the `run_id` of its connection knows whether the memory that
//! it finds is the one that the caller means. A Cluster's connection cannot know, and its scripts ask the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::script::{Args, Script};
use super::target::{CONNECT_TIMEOUT, Target, config};
use super::url::RedisAddress;
use crate::broker::BrokerError;

/// The first pause of a retry, doubled each time up to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_millis(500);

/// Where Redis is, and the one connection to it that everybody shares; commands of many tasks are under way at once.
pub(super) struct Link {
    target: Target,
    current: Mutex<Option<Conn>>,
    /// One connects, the others wait.
    connecting: tokio::sync::Mutex<()>,
    count: AtomicU64,
}

/// One connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Conn {
    pub(super) inner: Inner,
    /// Of the server behind it; empty for a Cluster.
    pub(super) run_id: Arc<str>,
    /// Its number there; empty for a Cluster, and where it may not be asked.
    pub(super) client: Arc<str>,
    pub(super) number: u64,
}

#[derive(Clone)]
pub(super) enum Inner {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Does not connect yet. `authorities` is PEM text; without it a server's certificate must be good for this machine.
    pub(super) fn new(address: &RedisAddress, authorities: Option<Vec<u8>>) -> RedisResult<Self> {
        Ok(Self {
            target: Target::new(address, authorities)?,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            count: AtomicU64::new(0),
        })
    }

    /// The connection, made if there is none.
    pub(super) async fn conn(&self) -> RedisResult<Conn> {
        if let Some(conn) = self.current() {
            return Ok(conn);
        }
        let _turn = self.connecting.lock().await;
        if let Some(conn) = self.current() {
            return Ok(conn);
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let conn = match tokio::time::timeout(CONNECT_TIMEOUT, self.target.connect(number)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(RedisError::from((ErrorKind::Io, "no answer while connecting"))),
        };
        *self.lock() = Some(conn.clone());
        Ok(conn)
    }

    /// What an error says about its connection: a dead or demoted one is not used again.
    pub(super) fn failed(&self, conn: &Conn, error: &RedisError) {
        if !is_connection_spoilt(error) || matches!(conn.inner, Inner::Cluster(_)) && !error.is_unrecoverable_error() {
            return;
        }
        let mut current = self.lock();
        if current.as_ref().is_some_and(|current| current.number == conn.number) {
            *current = None;
        }
    }

    /// One command, once.
    pub(super) async fn run(&self, cmd: &Cmd) -> RedisResult<Value> {
        let conn = self.conn().await?;
        let result = conn.run(cmd).await;
        result.inspect_err(|error| self.failed(&conn, error))
    }

    /// Calls a script until it works, or for `patience`. It must be safe to call twice: after an error nobody knows whether it
    /// was done. `args` is given the `run_id` of the connection, each time.
    pub(super) async fn call<K: AsRef<str> + Sync>(
        &self,
        patience: Duration,
        script: &Script,
        keys: &[K],
        mut args: impl FnMut(&str) -> Args + Send,
    ) -> Result<Value, BrokerError> {
        let (give_up, mut pause) = (tokio::time::Instant::now() + patience, PAUSE_FIRST);
        loop {
            let error = match self.conn().await {
                Err(error) => error,
                Ok(conn) => match script.call(&conn, keys, &args(&conn.run_id)).await {
                    Ok(done) => return Ok(done),
                    Err(error) => {
                        self.failed(&conn, &error);
                        error
                    }
                },
            };
            if tokio::time::Instant::now() + pause >= give_up {
                return Err(refusal(&error));
            }
            tracing::debug!(%error, "redis failed, will try again");
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    /// A connection of its own for Pub/Sub. In a Cluster any node does: messages go to all of them.
    pub(super) async fn pubsub(&self) -> RedisResult<PubSub> {
        let connect = async { self.target.node().await?.get_async_pubsub().await };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no answer while connecting"))),
        }
    }

    /// A connection to one server, for what each is asked by itself.
    pub(super) async fn node(&self) -> RedisResult<MultiplexedConnection> {
        let connect = async { self.target.node().await?.get_multiplexed_async_connection_with_config(&config()).await };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no answer while connecting"))),
        }
    }

    fn current(&self) -> Option<Conn> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Conn>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conn {
    /// One command, once.
    pub(super) async fn run(&self, cmd: &Cmd) -> RedisResult<Value> {
        let value = match self.inner.clone() {
            Inner::Single(mut conn) => conn.req_packed_command(cmd).await?,
            Inner::Cluster(mut conn) => conn.req_packed_command(cmd).await?,
        };
        value.extract_error()
    }
}

fn is_connection_spoilt(error: &RedisError) -> bool {
    let demoted = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown)
    );
    demoted
        || error.is_timeout()
        || error.is_io_error()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// What a caller is told when trying again did not help.
pub(super) fn refusal(error: &RedisError) -> BrokerError {
    if error.code() == Some("OOM") {
        return BrokerError::QueueFull("Redis is out of memory; raise maxmemory, or let the store catch up".to_owned());
    }
    BrokerError::Unavailable(format!("Redis does not answer: {error}"))
}
