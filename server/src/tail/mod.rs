//! One reader's view of a log: history first, then live, as one contiguous sequence.
//!
//! Input: a task, a place to begin or resume at, a filter. Output: Server-Sent Events as bytes.
//!
//! Invariant, over scanned offsets: each is the last plus one, or a control event says otherwise. Nothing else.
//!
//! The order that keeps it: subscribe, *then* read the position, *then* scan. A wake-up is only a hint: the reader compares
//! its offset with the position each time, and every two seconds without one. A slow reader stands still between two writes
//! and holds nothing but its offset.

mod begin;
pub mod event;
pub mod history;
mod pace;
#[cfg(any(test, fuzzing))]
pub(crate) mod place_fuzz;
mod render;
pub mod resume;
pub mod scan;

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use flowforge_storage::{LogFilter, LogStore, StoreError, TaskKey};
use futures_util::Stream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::begin::Begin;
use self::event::{Control, GapReason, HEARTBEAT, RETRY, write_control, write_frame, write_place};
use self::history::History;
use self::pace::Pace;
use self::render::Renderer;
use self::resume::{Place, Resume, resolve};
use self::scan::{Scan, Scanner};
use crate::broker::{Broker, BrokerError, Position, Subscription};
use crate::proof::{Completeness, Prover};

/// A place is recorded at least after so many lines that the filter kept back.
const SKIPPED_LINES_PER_PLACE: u64 = 1_000;

/// How often a reader compares itself with the position although nothing woke it.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a stored line may be unreadable before it is declared missing.
const MISSING_AFTER: Duration = Duration::from_secs(10);

/// How long a store that fails is waited for.
const STORE_AWAY: Duration = Duration::from_secs(10);

/// How soon to ask it again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How soon to look again for a line that is not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Opens tails.
#[derive(Clone)]
pub struct Tail {
    broker: Arc<dyn Broker>,
    history: History,
    prover: Prover,
    buffer_bytes: usize,
    heartbeat: Duration,
    shutdown: CancellationToken,
}

/// What a reader asks for.
#[derive(Debug, Clone)]
pub struct TailRequest {
    /// Which task.
    pub task: TaskKey,
    /// The last event it has, if it comes back.
    pub place: Option<Place>,
    /// Where it begins otherwise.
    pub begin: Begin,
    /// Which lines it wants.
    pub filter: LogFilter,
    /// Stay for what comes.
    pub follow: bool,
}

/// A tail that is subscribed.
pub enum Opened {
    /// The reader has everything, and the task has ended.
    NothingMore,
    /// Its events.
    Events(Box<TailSession>),
}

impl Tail {
    /// `buffer_bytes`: how much one live write may carry. Silence longer than `heartbeat` gets a sign of life. Streams end
    /// when `shutdown` is cancelled.
    pub fn new(
        broker: Arc<dyn Broker>,
        store: Arc<dyn LogStore>,
        prover: Prover,
        buffer_bytes: usize,
        heartbeat: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self { broker, history: History::new(store), prover, buffer_bytes, heartbeat, shutdown }
    }

    /// A scanner over one task's lines.
    pub fn scanner(&self, task: &TaskKey) -> Scanner {
        Scanner { task: task.clone(), broker: Arc::clone(&self.broker), history: self.history.clone() }
    }

    /// Subscribes; what fails after this ends the stream.
    pub async fn open(&self, request: TailRequest) -> Result<Opened, BrokerError> {
        let subscription = self.broker.subscribe(&request.task).await?;
        let position = self.broker.position(&request.task).await?;
        if let (Some(place), Some(end)) = (request.place, position.ended())
            && resolve(place, &position) == Resume::After(place.offset)
            && place.offset >= end.offset
        {
            return Ok(Opened::NothingMore);
        }
        let scanner = self.scanner(&request.task);
        let renderer = Renderer::new(request.filter.clone());
        let session = TailSession {
            request,
            scanner,
            renderer,
            subscription,
            prover: self.prover.clone(),
            buffer_bytes: self.buffer_bytes,
            heartbeat: self.heartbeat,
            shutdown: self.shutdown.clone(),
            next: 0,
            epoch: 0,
        };
        Ok(Opened::Events(Box::new(session)))
    }
}

/// One open tail.
pub struct TailSession {
    request: TailRequest,
    scanner: Scanner,
    renderer: Renderer,
    subscription: Subscription,
    prover: Prover,
    buffer_bytes: usize,
    heartbeat: Duration,
    shutdown: CancellationToken,
    /// The next offset due.
    next: u64,
    /// The epoch of the position that `next` belongs to.
    epoch: u64,
}

impl TailSession {
    /// Runs the tail to its end.
    pub fn into_stream(mut self: Box<Self>) -> impl Stream<Item = Result<Bytes, BrokerError>> + Send {
        try_stream! {
            yield Bytes::from_static(RETRY);
            let mut quiet_since = Instant::now();
            // A task that nobody knows yet is waited for.
            let mut position = self.look().await?;
            while position.record.is_none() && self.request.follow {
                if self.wait(self.look_again()).await.is_break() {
                    return;
                }
                if quiet_since.elapsed() >= self.heartbeat {
                    yield Bytes::from_static(HEARTBEAT);
                    quiet_since = Instant::now();
                }
                position = self.look().await?;
            }
            // The last matches of a long log may take minutes to find; the reader must not take the server for dead meanwhile.
            let (heartbeat, shutdown) = (self.heartbeat, self.shutdown.clone());
            let mut begin = Box::pin(self.begin(&position));
            let begun = loop {
                let begun = tokio::select! {
                    () = shutdown.cancelled() => return,
                    begun = &mut begin => Some(begun),
                    () = sleep(heartbeat) => None,
                };
                match begun {
                    Some(begun) => break begun?,
                    None => yield Bytes::from_static(HEARTBEAT),
                }
            };
            drop(begin);
            yield begun;

            let (mut live, mut frames_seen, mut pace) = (false, 0, Pace::default());
            let mut missing_since: Option<Instant> = None;
            let first_end = position.end;
            while !self.shutdown.is_cancelled() {
                position = self.look().await?;
                if !self.request.follow && self.next > first_end && position.ended().is_none() {
                    yield control(&Control::Live);
                    return;
                }
                if let Some(event) = self.follow_epoch(&position).await? {
                    yield event;
                }
                let scan = tokio::select! {
                    () = self.shutdown.cancelled() => return,
                    scan = self.scan(&position) => scan,
                };
                let scan = scan?;
                // The memory was lost since the position was read. What that voids is said first: these lines' ids would say that
                // the reader knows.
                if scan.epoch() > self.epoch {
                    if self.wait(Instant::now() + LOOK_AGAIN).await.is_break() {
                        return;
                    }
                    continue;
                }
                if !matches!(scan, Scan::Missing { .. }) {
                    missing_since = None;
                }
                match scan {
                    Scan::Recent(batches) => {
                        if live && let Some(due) = pace.hold_until(Instant::now()) {
                            sleep_until(due).await;
                            continue; // More may have come meanwhile; it shares the write.
                        }
                        self.next = self.renderer.recent(&batches, self.next);
                        pace.wrote(Instant::now());
                    }
                    Scan::Stored(page) => self.next = self.renderer.stored(&page),
                    Scan::Missing { reason: GapReason::Missing, .. }
                        if missing_since.get_or_insert_with(Instant::now).elapsed() < MISSING_AFTER =>
                    {
                        if self.wait(Instant::now() + LOOK_AGAIN).await.is_break() {
                            return;
                        }
                    }
                    Scan::Missing { to, reason } => {
                        missing_since = None;
                        yield control(&Control::Gap { from: self.next, to, reason });
                        self.next = to + 1;
                    }
                    Scan::CaughtUp => {
                        if !live {
                            live = true;
                            yield control(&Control::Live);
                        }
                        if let Some(end) = position.ended() {
                            // Its id is the end row's, also where the filter kept that back: a reader that comes back is done.
                            let completeness = self.completeness(&position).await;
                            yield self.renderer.end(position.epoch().epoch, end, completeness);
                            return;
                        }
                        let (frames, seen) = self.subscription.feed().frames_after(frames_seen);
                        frames_seen = seen;
                        self.renderer.frames(&frames);
                        if self.renderer.is_empty() && self.wait(self.look_again()).await.is_break() {
                            return;
                        }
                    }
                }
                let pieces = self.renderer.take();
                if !pieces.is_empty() {
                    quiet_since = Instant::now();
                    for piece in pieces {
                        yield piece;
                    }
                } else if quiet_since.elapsed() >= self.heartbeat {
                    quiet_since = Instant::now();
                    yield self.renderer.place_or_heartbeat();
                }
            }
        }
    }

    /// Takes note of all wake-ups so far, then reads the position: in this order, so that none is lost in between.
    async fn look(&mut self) -> Result<Position, BrokerError> {
        self.subscription.mark_seen();
        // While it is subscribed to, what the broker has of the task at hand follows every wake-up.
        match self.scanner.broker.peek(&self.request.task) {
            Some(position) => Ok(position),
            None => self.scanner.broker.position(&self.request.task).await,
        }
    }

    /// What comes next. A store that is away for a moment is waited for: were the stream to break off, all of its readers would
    /// come back at once and ask for more than the page that they lack. One that stays away ends the stream, so that the reader knows.
    async fn scan(&self, position: &Position) -> Result<Scan, StoreError> {
        let until = Instant::now() + STORE_AWAY;
        loop {
            match self.scanner.scan(self.subscription.feed(), self.next, position, self.buffer_bytes).await {
                Err(error) if error.is_retryable() && Instant::now() < until => {
                    debug!(task = %self.request.task, %error, "a reader waits for the store");
                    sleep(ASK_AGAIN).await;
                }
                scan => return scan,
            }
        }
    }

    /// When to look although nothing woke it.
    fn look_again(&self) -> Instant {
        Instant::now() + COMPARE_INTERVAL.min(self.heartbeat)
    }

    /// Waits for a change, until `due` at most. Breaks when the server goes down.
    async fn wait(&mut self, due: Instant) -> std::ops::ControlFlow<()> {
        tokio::select! {
            () = self.shutdown.cancelled() => std::ops::ControlFlow::Break(()),
            _ = timeout_at(due, self.subscription.changed()) => std::ops::ControlFlow::Continue(()),
        }
    }

    /// Whether the reader has seen everything that was sent; `None` if the server goes down meanwhile.
    async fn completeness(&self, ended: &Position) -> Option<Completeness> {
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            report = self.prover.report(ended) => report.map(|report| report.task.clone()),
        }
    }
}

fn control(control: &Control) -> Bytes {
    let mut out = Vec::new();
    write_control(control, &mut out);
    out.into()
}

#[cfg(test)]
mod model_tests;
