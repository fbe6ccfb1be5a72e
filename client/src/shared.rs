//! What the callers' threads and the sender share: one short lock, and the ways to wait for a change behind it.
//!
//! **Invariants**
//! - The lock is never held across I/O, a hook, or an await. A caller's push costs the lock, a move into the queue, and at
//!   most one wake-up of the sender per batch.
//! - Lock order: a stream's assembler, then the state.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use flowforge_proto::v1;
use tokio::sync::Notify;

use crate::assemble::split_at;
use crate::config::{ClientConfig, Overflow};
use crate::entry::{Entry, Stream};
use crate::queue::Queue;
use crate::stats::{CloseOutcome, End, Stats};
use crate::stream::StreamWriter;

/// A batch leaves at once when it has so many bytes.
pub(crate) const BATCH_BYTES: usize = 256 << 10;
/// `limits.max_line_bytes` until Welcome tells.
pub(crate) const DEFAULT_MAX_LINE_BYTES: usize = 64 << 10;
/// Rows with a frame waiting to be sent. Beyond it frames are not taken: they may be lost at any time.
const MAX_FRAMES: usize = 64;
/// Answers to commands waiting to be sent; the oldest goes.
const MAX_REPLIES: usize = 64;

/// Behind the lock.
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) frames: Vec<v1::Frame>,
    pub(crate) replies: VecDeque<v1::CommandResult>,
    /// The last message; nothing is captured after it.
    pub(crate) close: Option<v1::Close>,
    pub(crate) end: Option<End>,
    /// The sender sleeps until so many entries are unsent (or a batch's bytes are).
    pub(crate) wake_at: Option<usize>,
    /// When a writer first found the buffer full since the last progress.
    stalled_since: Option<Instant>,
    pub(crate) connected: bool,
    pub(crate) welcomes: u64,
    /// `limits.max_line_bytes`.
    max_line_bytes: usize,
    /// By how many numbers the lines became more when the first Welcome told of a smaller limit.
    renumbered: u64,
    pub(crate) sent: u64,
    pub(crate) queued_seq: u64,
    pub(crate) stored_seq: u64,
    pub(crate) viewer_url: Option<String>,
    pub(crate) last_error: Option<String>,
    /// Captured after the end: counted, not kept.
    late_lines: u64,
    late_bytes: u64,
    /// Lines held when the sender stopped.
    undelivered: u64,
}

pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) producer: [u8; 16],
    pub(crate) streams: [Mutex<StreamWriter>; 3],
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
}

/// What a writer has to do about a line that does not fit.
enum Full {
    Drop,
    Wait(Option<Instant>),
}

impl Shared {
    pub(crate) fn new(config: ClientConfig, producer: [u8; 16]) -> Self {
        let ids = std::sync::Arc::default();
        let streams = Stream::ALL.map(|stream| Mutex::new(StreamWriter::new(stream, &config, &ids)));
        Self {
            config,
            producer,
            streams,
            partial: AtomicBool::new(false),
            max_line_bytes: AtomicUsize::new(DEFAULT_MAX_LINE_BYTES),
            state: Mutex::new(State::new()),
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

    /// Captures a line; waits for room if the configuration says so, but not beyond `give_up`.
    pub(crate) fn push(&self, entry: Entry, give_up: Option<Instant>) {
        let mut state = self.lock();
        loop {
            if state.fits(&entry, &self.config) {
                return self.accept(&mut state, entry);
            }
            state = match state.when_full(&self.config, give_up) {
                Full::Drop => {
                    state.make_room(&entry, &self.config);
                    return self.accept(&mut state, entry);
                }
                Full::Wait(None) => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Full::Wait(Some(until)) => self.wait_once(state, until),
            };
        }
    }

    /// [`Shared::push`] that waits without blocking the thread.
    pub(crate) async fn push_async(&self, entry: Entry, give_up: Option<Instant>) {
        loop {
            let notified = self.changed_async.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let until = {
                let mut state = self.lock();
                if state.fits(&entry, &self.config) {
                    return self.accept(&mut state, entry);
                }
                match state.when_full(&self.config, give_up) {
                    Full::Drop => {
                        state.make_room(&entry, &self.config);
                        return self.accept(&mut state, entry);
                    }
                    Full::Wait(until) => until,
                }
            };
            wait_until(until, notified).await;
        }
    }

    fn accept(&self, state: &mut State, entry: Entry) {
        state.take_in(entry, &self.config);
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
        let news = self.lock().ack(queued, stored);
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
        state.connected = false;
        state.end = Some(end);
        state.undelivered = state.queue.lines();
        state.queue.abandon();
        state.frames = Vec::new();
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

/// A place in the queue, see [`State::flush_target`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushTarget {
    seq: u64,
    before_welcome: bool,
}

impl State {
    fn new() -> Self {
        Self {
            queue: Queue::default(),
            frames: Vec::new(),
            replies: VecDeque::new(),
            close: None,
            end: None,
            wake_at: None,
            stalled_since: None,
            connected: false,
            welcomes: 0,
            max_line_bytes: DEFAULT_MAX_LINE_BYTES,
            renumbered: 0,
            sent: 0,
            queued_seq: 0,
            stored_seq: 0,
            viewer_url: None,
            last_error: None,
            late_lines: 0,
            late_bytes: 0,
            undelivered: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.end.is_some() || self.close.is_some()
    }

    /// Whether the line can be dealt with at once: kept, or counted as lost because it can never be kept.
    fn fits(&self, entry: &Entry, config: &ClientConfig) -> bool {
        let cost = entry.cost_in_parts(self.max_line_bytes);
        self.is_over() || cost > config.max_buffer_bytes || self.queue.bytes() + cost <= config.max_buffer_bytes
    }

    fn when_full(&mut self, config: &ClientConfig, give_up: Option<Instant>) -> Full {
        let now = Instant::now();
        let stalled_since = *self.stalled_since.get_or_insert(now);
        let until = match config.overflow {
            Overflow::DropOldest => return Full::Drop,
            Overflow::Wait => give_up,
            Overflow::WaitForProgress(patience) => {
                let patient = stalled_since + patience;
                Some(give_up.map_or(patient, |give_up| give_up.min(patient)))
            }
        };
        if until.is_some_and(|until| now >= until) { Full::Drop } else { Full::Wait(until) }
    }

    fn make_room(&mut self, entry: &Entry, config: &ClientConfig) {
        while !self.fits(entry, config) && self.queue.drop_oldest() {}
    }

    fn take_in(&mut self, entry: Entry, config: &ClientConfig) {
        if self.is_over() {
            self.late_lines += 1;
            self.late_bytes += entry.message.len() as u64;
            return;
        }
        if entry.update_id != 0 {
            self.forget_frame(entry.update_id, entry.stream.wire());
        }
        if self.queue.bytes() + entry.cost_in_parts(self.max_line_bytes) > config.max_buffer_bytes {
            self.queue.push_dropped(entry);
            return;
        }
        // In one go, so that no line of another thread comes between the parts.
        for part in entry.parts(self.max_line_bytes) {
            self.queue.push(part);
        }
    }

    fn forget_frame(&mut self, update_id: u64, stream: i32) {
        self.frames.retain(|frame| frame.update_id != update_id || frame.stream != stream);
    }

    /// What the server takes of a text that may be lost.
    fn cut(&self, mut text: bytes::Bytes) -> bytes::Bytes {
        if text.len() > self.max_line_bytes {
            text.truncate(split_at(&text, self.max_line_bytes));
        }
        text
    }

    /// The server has answered Hello.
    pub(crate) fn connect(&mut self, welcome: &v1::Welcome, max_line_bytes: usize) {
        self.max_line_bytes = max_line_bytes;
        if self.welcomes == 0 {
            self.renumbered = self.queue.split_lines(max_line_bytes);
            if let Some(close) = &mut self.close {
                close.final_seq += self.renumbered;
            }
        }
        self.connected = true;
        self.welcomes += 1;
        if !welcome.viewer_url.is_empty() {
            self.viewer_url = Some(welcome.viewer_url.clone());
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.wake_at = None;
        self.frames.clear();
    }

    /// What a flush waits for: all that is captured now.
    pub(crate) fn flush_target(&self) -> FlushTarget {
        FlushTarget { seq: self.queue.last_seq(), before_welcome: self.welcomes == 0 }
    }

    /// Whether the target is stored; false once that cannot happen any more.
    pub(crate) fn reached(&self, target: FlushTarget) -> Option<bool> {
        let more = if target.before_welcome { self.renumbered } else { 0 };
        if self.stored_seq >= target.seq + more {
            return Some(true);
        }
        self.end.as_ref().map(|_| false)
    }

    /// Whether the server has answered; false once that cannot happen any more.
    pub(crate) fn welcomed(&self) -> Option<bool> {
        if self.welcomes > 0 {
            return Some(true);
        }
        self.end.as_ref().map(|_| false)
    }

    /// Returns whether more is stored than before.
    pub(crate) fn ack(&mut self, queued: u64, stored: u64) -> bool {
        self.queued_seq = queued.max(stored);
        self.queue.ack(stored);
        let news = stored > self.stored_seq;
        self.stored_seq = self.stored_seq.max(stored);
        if news {
            self.stalled_since = None;
        }
        news
    }

    pub(crate) fn outcome(&self, end: End) -> CloseOutcome {
        let undelivered = self.undelivered + self.queue.lines();
        // What was still held when the sender stopped counts as dropped since; it is told once, as undelivered.
        let dropped = (self.queue.dropped_lines() + self.late_lines).saturating_sub(self.undelivered);
        let error = if end == End::Closed { None } else { self.last_error.clone() };
        CloseOutcome { end, undelivered, dropped, error }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            captured: self.queue.last_seq() + self.late_lines,
            sent: self.sent,
            queued_seq: self.queued_seq,
            stored_seq: self.stored_seq,
            dropped_lines: self.queue.dropped_lines() + self.late_lines,
            dropped_bytes: self.queue.dropped_bytes() + self.late_bytes,
            buffered_lines: self.queue.lines(),
            buffered_bytes: self.queue.bytes(),
            connected: self.connected,
            welcomes: self.welcomes,
            reconnects: self.welcomes.saturating_sub(1),
            last_error: self.last_error.clone(),
            end: self.end.clone(),
        }
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
