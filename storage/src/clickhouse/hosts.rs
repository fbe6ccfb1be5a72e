//! The servers of one store: which of them is asked, and what every request has in common.
//!
//! All requests go to one host for as long as it answers, so that what was committed is read back from where it was
//! written. One that is away is passed over for the next; after a while the first is tried again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::error::{Error, Result};
use clickhouse::{Client, RowOwned, RowRead, RowWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};

use super::ClickhouseOptions;
use super::connect::{check_host, client};
use super::error::misconfigured;
use crate::error::StoreError;

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

impl Hosts {
    pub(super) fn new(options: &ClickhouseOptions) -> std::result::Result<Self, StoreError> {
        let urls = options.hosts.iter().map(|host| check_host(host)).collect::<std::result::Result<Vec<_>, _>>();
        let urls = urls.map_err(|words| misconfigured(format!("clickhouse.hosts {words}"), "not a host"))?;
        let common = client(options, urls.iter().any(|url| url.starts_with("https:")))?;
        let list: Vec<Host> = urls.into_iter().map(|url| Host { client: common.clone().with_url(&url), url }).collect();
        if list.is_empty() {
            return Err(misconfigured(
                "clickhouse.hosts is empty. Name a host, such as http://localhost:8123",
                "no host",
            ));
        }
        Ok(Self {
            list,
            user: options.user.clone(),
            current: AtomicUsize::new(0),
            left_first: Mutex::new(None),
            timeout: options.timeout,
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
