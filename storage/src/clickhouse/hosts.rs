//! The servers of one store: which of them is asked, and what every request has in common.
//!
//! All requests go to one host for as long as it answers, so that what was committed is read back from where it was
//! written. One that is away is passed over for the next; after a while the first is tried again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::error::{Error, Result};
use clickhouse::{Client, Compression, RowOwned, RowRead, RowWrite};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};

use super::error::misconfigured;
use crate::error::StoreError;

const DEFAULT_PORT: u16 = 8123;

/// A host that does not take a connection in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// ClickHouse closes idle connections after 3 s (before 23.11) or 10 s.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_millis(2500);

/// How long another host is used before the first of the list is tried again.
const COME_BACK: Duration = Duration::from_secs(30);

/// Small reads at once, and reads of lines at once; others wait. A server refuses queries past `max_concurrent_queries`, and
/// what a producer needs to begin must not wait for somebody's search.
const LOOKUPS: usize = 16;
const PAGES: usize = 8;

/// One server.
struct Host {
    url: String,
    client: Client,
}

/// See the module.
pub(super) struct Hosts {
    list: Vec<Host>,
    user: String,
    current: AtomicUsize,
    /// When the first host was left for another one.
    left_first: Mutex<Option<Instant>>,
    timeout: Duration,
    lookups: Semaphore,
    pages: Semaphore,
    is_closed: AtomicBool,
}

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Lookup,
    Page,
    /// Waits for nobody: part of an insert, which readers must not hold up, or of a read that has its turn.
    Free,
}

/// `http://host:port` of what a person wrote. An error says what to write instead.
pub fn check_host(host: &str) -> std::result::Result<String, String> {
    if host.contains('@') {
        return Err("must not hold a user or password: they have keys of their own".to_owned());
    }
    if host.starts_with("https://") {
        return Err(
            "must begin with http:// or nothing: TLS is not built in, let a proxy on this machine add it".to_owned()
        );
    }
    let rest = host.strip_prefix("http://").unwrap_or(host).trim_end_matches('/');
    let is_plain = |text: &str| !text.is_empty() && !text.contains(['/', '?', '#', ' ', '\'', '"', '\\']);
    if !is_plain(rest) || rest.contains("://") {
        return Err(format!("has {host:?}, which is not host, host:port or http://host:port"));
    }
    // The colon of a port comes after the bracket of an IPv6 address.
    let after_address = rest.rsplit(']').next().unwrap_or(rest);
    match after_address.rsplit_once(':') {
        None => Ok(format!("http://{rest}:{DEFAULT_PORT}")),
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(format!("http://{rest}")),
        Some((_, port)) => Err(format!("has {host:?}, but {port:?} is not a port")),
    }
}

impl Hosts {
    pub(super) fn new(
        hosts: &[String],
        user: &str,
        password: &str,
        is_cluster: bool,
        timeout: Duration,
    ) -> std::result::Result<Self, StoreError> {
        let common = common_client(user, password, is_cluster);
        let mut list = Vec::with_capacity(hosts.len());
        for host in hosts {
            let url =
                check_host(host).map_err(|words| misconfigured(format!("clickhouse.hosts {words}"), "not a host"))?;
            list.push(Host { client: common.clone().with_url(&url), url });
        }
        if list.is_empty() {
            return Err(misconfigured(
                "clickhouse.hosts is empty. Name a host, such as http://localhost:8123",
                "no host",
            ));
        }
        Ok(Self {
            list,
            user: user.to_owned(),
            current: AtomicUsize::new(0),
            left_first: Mutex::new(None),
            timeout,
            lookups: Semaphore::new(LOOKUPS),
            pages: Semaphore::new(PAGES),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Runs a statement without an answer.
    pub(super) async fn execute(&self, sql: &str) -> Result<()> {
        self.run(|client| async move { client.query_raw(sql).execute().await }).await
    }

    /// Every row of a small answer.
    pub(super) async fn rows<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>> {
        self.rows_in(Lane::Lookup, sql).await
    }

    /// Every row of an answer.
    pub(super) async fn rows_in<T: RowOwned + RowRead>(&self, lane: Lane, sql: &str) -> Result<Vec<T>> {
        let add = |rows: &mut Vec<T>, row| {
            rows.push(row);
            true
        };
        self.collect(lane, sql, Vec::new, add).await
    }

    /// Rows of an answer, one by one into what `new` makes, until `take` wants no more. Another host begins anew.
    pub(super) async fn collect<T: RowOwned + RowRead, A>(
        &self,
        lane: Lane,
        sql: &str,
        new: impl Fn() -> A,
        take: impl Fn(&mut A, T) -> bool,
    ) -> Result<A> {
        let _turn = self.turn(lane).await;
        let (new, take) = (&new, &take);
        self.run(|client| async move {
            let mut all = new();
            let mut rows = client.query_raw(sql).fetch::<T>()?;
            while let Some(row) = rows.next().await? {
                if !take(&mut all, row) {
                    break;
                }
            }
            Ok(all)
        })
        .await
    }

    /// Inserts rows in one request.
    pub(super) async fn insert<T: RowOwned + RowWrite + Sync>(&self, table: &str, rows: &[T]) -> Result<()> {
        self.run(|client| async move {
            let mut insert = client.insert_unescaped::<T>(table).await?;
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        })
        .await
    }

    /// Runs it on the current host, and on the others in turn while they are away.
    pub(super) async fn run<T, F>(&self, operation: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::Other("the store is closed".into()));
        }
        let first = self.first_to_ask();
        let mut tried = 0;
        loop {
            let at = (first + tried) % self.list.len();
            let host = &self.list[at];
            let outcome = match tokio::time::timeout(self.timeout, operation(host.client.clone())).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::TimedOut),
            };
            tried += 1;
            match outcome {
                Err(error) if super::error::is_away(&error) && tried < self.list.len() => {
                    warn!(host = host.url, %error, "clickhouse host is away, trying the next");
                }
                outcome => {
                    if !outcome.as_ref().is_err_and(super::error::is_away) {
                        self.remember(at);
                    }
                    return outcome;
                }
            }
        }
    }

    fn first_to_ask(&self) -> usize {
        let mut left_first = self.left_first();
        match *left_first {
            Some(since) if since.elapsed() >= COME_BACK => {
                // If it is still away, the next half minute begins.
                *left_first = Some(Instant::now());
                0
            }
            _ => self.current.load(Ordering::Relaxed),
        }
    }

    fn remember(&self, at: usize) {
        if self.current.swap(at, Ordering::Relaxed) == at {
            return;
        }
        info!(host = self.list[at].url, "using this clickhouse host from now on");
        *self.left_first() = (at != 0).then(Instant::now);
    }

    fn left_first(&self) -> MutexGuard<'_, Option<Instant>> {
        self.left_first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, which ends when it is dropped.
    pub(super) async fn turn(&self, lane: Lane) -> Option<SemaphorePermit<'_>> {
        let lane = match lane {
            Lane::Lookup => &self.lookups,
            Lane::Page => &self.pages,
            Lane::Free => return None,
        };
        // Never closed.
        lane.acquire().await.ok()
    }

    /// An error of the start, in words for whoever configured it.
    pub(super) fn opening(&self, database: &str, error: Error) -> StoreError {
        super::error::opening(&self.shown(), &self.user, database, error)
    }

    /// All hosts, for messages.
    pub(super) fn shown(&self) -> String {
        self.list.iter().map(|host| host.url.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// From now on every call fails.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

/// What every request has in common.
fn common_client(user: &str, password: &str, is_cluster: bool) -> Client {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    let http = HyperClient::builder(TokioExecutor::new()).pool_idle_timeout(POOL_IDLE_TIMEOUT).build(connector);
    let client = Client::with_http_client(http)
        .with_user(user)
        .with_password(password)
        .with_compression(Compression::Lz4)
        // The rows' types are next to the tables' (`row`, `layout`).
        .with_validation(false)
        .with_product_info("flowforge", env!("CARGO_PKG_VERSION"))
        // An acked line is in its table, not in a buffer of the server's. It is on by default since 26.3.
        .with_setting("async_insert", "0")
        // What is inserted again after it was deleted must not be taken for a repetition.
        .with_setting("insert_deduplicate", "0")
        // Lines of many days in one insert are no error.
        .with_setting("max_partitions_per_insert_block", "0")
        .with_setting("throw_if_no_data_to_insert", "0")
        .with_setting("cancel_http_readonly_queries_on_client_close", "1");
    if !is_cluster {
        return client;
    }
    // Committed means visible to every read that starts later, whichever replica answers.
    client
        .with_setting("insert_quorum", "auto")
        .with_setting("insert_quorum_parallel", "0")
        .with_setting("select_sequential_consistency", "1")
        .with_setting("distributed_foreground_insert", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_people_write() {
        for (given, expected) in [
            ("localhost", "http://localhost:8123"),
            ("db.local:8443", "http://db.local:8443"),
            ("http://10.0.0.1", "http://10.0.0.1:8123"),
            ("http://[::1]:9/", "http://[::1]:9"),
            ("[::1]", "http://[::1]:8123"),
        ] {
            assert_eq!(check_host(given).as_deref(), Ok(expected));
        }
        for bad in ["", "https://a", "a:b", "http://u:p@a", "a/b", "tcp://a", "http://"] {
            assert!(check_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_in_a_host_is_not_repeated() {
        assert!(!check_host("http://u:hunter2@a").unwrap_err().contains("hunter2"));
    }
}
