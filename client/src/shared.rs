//! What the callers' threads and the sender share: one short lock, and the ways to wait for a change behind it.
//!
//! **Invariants**
//! - The lock is never held across I/O, a hook, or an await. A caller's push costs the lock, a move into the queue, and at
//!   most one wake-up of the sender per batch.
//! - Lock order: a stream's assembler, then the state.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowforge_proto::v1;
use tokio::sync::Notify;

use crate::config::ClientConfig;
use crate::entry::{Entry, Stream};
use crate::lane::Lane;
use crate::proof::Sent;
use crate::spool::open::Seal;
use crate::state::{Full, State};
use crate::stats::End;
use crate::stream::StreamWriter;

/// A batch leaves at once when it has so many bytes.
pub(crate) const BATCH_BYTES: usize = 256 << 10;
/// Rows with a frame waiting to be sent. Beyond it frames are not taken: they may be lost at any time.
const MAX_FRAMES: usize = 64;
/// Answers to commands waiting to be sent; the oldest goes.
const MAX_REPLIES: usize = 64;
/// How long a wait may take until it is asked whether to go on.
const WAIT_SLICE: Duration = Duration::from_millis(50);
/// `limits.max_line_bytes` until Welcome tells.
pub(crate) const DEFAULT_MAX_LINE_BYTES: usize = 64 << 10;

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) producer: [u8; 16],
    pub(crate) streams: [Mutex<StreamWriter>; 3],
    /// Whose lines are those of [`Client::write`](crate::Client::write).
    pub(crate) lane: Lane,
    /// The bytes that the budget knows of.
    pub(crate) held: AtomicUsize,
    /// Some stream has an unfinished line: the sender looks at the clock for it.
    pub(crate) partial: AtomicBool,
    pub(crate) max_line_bytes: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    changed_async: Notify,
    /// There is something to send.
    pub(crate) wake: Notify,
    /// Close was asked for: do not sit out a long back-off.
    pub(crate) closing: Notify,
    /// Stop now.
    pub(crate) abandon: Notify,
    pub(crate) sent: Sent,
}

impl Shared {
    #[cfg(test)]
    pub(crate) fn new(config: ClientConfig, producer: [u8; 16]) -> Self {
        Self::with_state(config, producer, State::new(crate::queue::Queue::default()))
    }

    pub(crate) fn with_state(config: ClientConfig, producer: [u8; 16], mut state: State) -> Self {
        let ids = std::sync::Arc::default();
        let mut open = state.queue.take_open_lines().into_iter().flatten();
        let streams = Stream::ALL.map(|stream| Mutex::new(StreamWriter::new(stream, &config, &ids, open.next())));
        Self {
            config,
            producer,
            streams,
            lane: Lane::new(),
            held: AtomicUsize::new(0),
            partial: AtomicBool::new(false),
            max_line_bytes: AtomicUsize::new(DEFAULT_MAX_LINE_BYTES),
            sent: Sent::new(state.queue.first_seq()),
            state: Mutex::new(state),
            changed: Condvar::new(),
            changed_async: Notify::new(),
            wake: Notify::new(),
            closing: Notify::new(),
            abandon: Notify::new(),
        }
    }

    /// The state. A panic elsewhere does not spread: every change of the state is complete before anything can panic.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that a waiting caller may be waiting for has changed.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
        self.changed_async.notify_waiters();
    }

    /// Captures a line, which puts an end to what `seal` is of; waits for room if the configuration says so, but not beyond
    /// `give_up`.
    pub(crate) fn push(&self, entry: Entry, seal: Option<Seal<'_>>, give_up: Option<Instant>) {
        self.share(&entry);
        let mut state = self.lock();
        loop {
            if state.fits(&entry, &self.config) {
                return self.accept(&mut state, entry, seal);
            }
            state = match state.when_full(&self.config, give_up) {
                Full::Drop => {
                    state.make_room(&entry, &self.config);
                    return self.accept(&mut state, entry, seal);
                }
                Full::Wait(None) => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Full::Wait(Some(until)) => self.wait_once(state, until),
            };
        }
    }

    /// [`Shared::push`] that waits without blocking the thread.
    pub(crate) async fn push_async(&self, entry: Entry, seal: Option<Seal<'_>>, give_up: Option<Instant>) {
        self.share(&entry);
        loop {
            let notified = self.changed_async.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let until = {
                let mut state = self.lock();
                if state.fits(&entry, &self.config) {
                    return self.accept(&mut state, entry, seal);
                }
                match state.when_full(&self.config, give_up) {
                    Full::Drop => {
                        state.make_room(&entry, &self.config);
                        return self.accept(&mut state, entry, seal);
                    }
                    Full::Wait(until) => until,
                }
            };
            wait_until(until, notified).await;
        }
    }

    /// Makes room in the budget for a line, at the cost of whoever holds the most.
    fn share(&self, entry: &Entry) {
        // So much bigger is no line; and others are taking room at the same time.
        const TRIES: usize = 64;
        let Some(budget) = &self.config.budget else { return };
        let cost = entry.cost();
        for _ in 0..TRIES {
            if cost > self.config.max_buffer_bytes || budget.allows(0, cost) {
                return;
            }
            budget.evict(cost);
        }
    }

    /// Tells the budget what is held now.
    pub(crate) fn account(&self, state: &State) {
        if let Some(budget) = &self.config.budget {
            let now = state.queue.bytes();
            budget.change(self.held.swap(now, Ordering::Relaxed), now);
        }
    }

    fn accept(&self, state: &mut State, entry: Entry, seal: Option<Seal<'_>>) {
        state.take_in(entry, seal, &self.config);
        self.account(state);
        let batch = state.queue.unsent_wire_bytes() >= BATCH_BYTES;
        if state.wake_at.is_some_and(|lines| batch || state.queue.unsent_len() >= lines) {
            state.wake_at = None;
            self.wake.notify_one();
        }
    }

    /// Offers a frame; it is lost when there is no connection.
    pub(crate) fn offer_frame(&self, frame: v1::Frame) {
        let mut state = self.lock();
        if !state.connected || state.close.is_some() {
            return;
        }
        let message = state.cut(frame.message);
        let frame = v1::Frame { message, ..frame };
        state.forget_frame(frame.update_id, frame.stream);
        if state.frames.len() < MAX_FRAMES {
            state.frames.push(frame);
            self.wake.notify_one();
        }
    }

    pub(crate) fn offer_reply(&self, reply: v1::CommandResult) {
        let mut state = self.lock();
        if state.replies.len() == MAX_REPLIES {
            state.replies.pop_front();
        }
        let data = state.cut(reply.data);
        state.replies.push_back(v1::CommandResult { data, ..reply });
        self.wake.notify_one();
    }

    /// Waits until `check` gives something. `None`: the deadline came first.
    pub(crate) fn wait<T>(&self, deadline: Option<Instant>, mut check: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = check(&state) {
                return Some(found);
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if Instant::now() >= deadline => return None,
                Some(deadline) => self.wait_once(state, deadline),
            };
        }
    }

    /// [`Shared::wait`] that asks every now and then whether to go on waiting.
    pub(crate) fn wait_while<T>(
        &self,
        deadline: Option<Instant>,
        go_on: &mut dyn FnMut() -> bool,
        mut check: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        loop {
            let slice = Instant::now() + WAIT_SLICE;
            let last = deadline.is_some_and(|deadline| deadline <= slice);
            let found = self.wait(if last { deadline } else { Some(slice) }, &mut check);
            if found.is_some() || last || !go_on() {
                return found;
            }
        }
    }

    /// [`Shared::wait`] without blocking the thread.
    pub(crate) async fn wait_async<T>(
        &self,
        deadline: Option<Instant>,
        mut check: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        loop {
            let notified = self.changed_async.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(found) = check(&self.lock()) {
                return Some(found);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return None;
            }
            wait_until(deadline, notified).await;
        }
    }

    fn wait_once<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let wait = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The server has taken (`queued`) and stored so much.
    pub(crate) fn ack(&self, queued: u64, stored: u64) {
        let news = {
            let mut state = self.lock();
            let news = state.ack(queued, stored);
            self.account(&state);
            news
        };
        self.notify();
        if let (true, Some(hook)) = (news, &self.config.on_ack) {
            hook(stored);
        }
    }

    /// The sender has stopped: nothing can be delivered any more, and nobody waits for it.
    pub(crate) fn finish(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        if let End::Fenced(reason) | End::Refused(reason) = &end {
            state.last_error = Some(reason.clone());
        }
        state.leave(end);
        self.account(&state);
        drop(state);
        self.notify();
    }
}

async fn wait_until(until: Option<Instant>, event: impl Future<Output = ()>) {
    match until {
        None => event.await,
        Some(until) => drop(tokio::time::timeout_at(until.into(), event).await),
    }
}

/// Marks the sender's end however it comes about: also when its runtime is shut down or it panics.
pub(crate) struct EndGuard<'a>(pub(crate) &'a Shared);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.finish(End::Crashed);
    }
}

/// Sets the flag and says whether it was news.
pub(crate) fn raise(flag: &AtomicBool) -> bool {
    !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::AcqRel)
}
