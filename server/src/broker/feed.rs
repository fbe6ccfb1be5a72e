//! The recent window of one task, and the wake-up of everyone who watches it.
//!
//! A viewer has no buffer of its own. It holds an offset, is woken when the feed changes, and reads from the shared window
//! what lies beyond its offset. One that is slow finds that the window has moved past it and reads history instead: it is
//! never dropped, costs no memory, and slows nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flowforge_storage::{ProducerId, Stream};
use tokio::sync::watch;

use super::Batch;

/// Frames remembered per task for viewers that arrive between two of them; the oldest goes first.
const MAX_FRAMES: usize = 64;

/// A transient picture of an unfinished line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEvent {
    /// Whose bar.
    pub producer: ProducerId,
    /// Which bar of that producer and stream.
    pub update_id: u64,
    /// Where it is printed.
    pub stream: Stream,
    /// What it shows.
    pub message: Bytes,
}

/// Window and wake-up of one task.
#[derive(Debug)]
pub struct Feed {
    window: Mutex<Window>,
    /// Counts changes. A receiver that looked away cannot miss one.
    changes: watch::Sender<u64>,
    viewers: AtomicUsize,
    /// Stored lines kept for viewers that are a little behind, bytes.
    keep_bytes: usize,
}

#[derive(Debug, Default)]
struct Window {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    stored: u64,
    frames: HashMap<FrameKey, (u64, FrameEvent)>,
    frame_count: u64,
}

type FrameKey = (ProducerId, Stream, u64);

/// What a viewer finds beyond its offset.
#[derive(Debug, Default)]
pub struct FeedRead {
    /// Ascending; the first may begin before the offset asked for.
    pub batches: Vec<Arc<Batch>>,
}

impl Feed {
    /// An empty window that keeps `keep_bytes` of stored lines while someone watches.
    pub fn new(keep_bytes: usize) -> Self {
        Self { window: Mutex::default(), changes: watch::Sender::new(0), viewers: AtomicUsize::new(0), keep_bytes }
    }

    /// Adds lines; the caller holds the task's lock, which makes the order that of the offsets. Call [`Feed::wake`] after.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut window = self.lock();
        if !window.frames.is_empty() {
            for record in batch.records.iter().filter(|record| record.update_id != 0) {
                window.frames.remove(&(record.producer, record.stream, record.update_id));
            }
        }
        window.bytes += batch.weight;
        window.batches.push_back(batch);
    }

    /// Shows a frame to whoever watches.
    pub fn push_frame(&self, frame: FrameEvent) {
        if self.viewers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut window = self.lock();
        window.frame_count += 1;
        let count = window.frame_count;
        window.frames.insert((frame.producer, frame.stream, frame.update_id), (count, frame));
        if window.frames.len() > MAX_FRAMES {
            let oldest = window.frames.iter().min_by_key(|(_, (count, _))| *count).map(|(key, _)| *key);
            oldest.and_then(|key| window.frames.remove(&key));
        }
        drop(window);
        self.wake();
    }

    /// Everything up to `stored` is in the store: forgets what nobody needs.
    pub fn trim(&self, stored: u64) {
        let keep = if self.viewers.load(Ordering::Relaxed) > 0 { self.keep_bytes } else { 0 };
        let mut window = self.lock();
        window.stored = window.stored.max(stored);
        while window.bytes > keep {
            let Some(front) = window.batches.front() else { break };
            if front.last() > window.stored {
                break;
            }
            let weight = front.weight;
            window.batches.pop_front();
            window.bytes -= weight;
        }
    }

    /// Forgets every line: another memory of the task takes the place of this one.
    pub fn clear(&self) {
        let mut window = self.lock();
        (window.bytes, window.stored) = (0, 0);
        window.batches.clear();
    }

    /// Tells every viewer to look.
    pub fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Batches from the one that holds `from` on, at most about `max_bytes`. Empty if the window begins after `from`
    /// (read the store) or ends before it (nothing new).
    pub fn read(&self, from: u64, max_bytes: usize) -> FeedRead {
        let window = self.lock();
        let at = window.batches.partition_point(|batch| batch.last() < from);
        let mut batches = Vec::new();
        let mut bytes = 0;
        for batch in window.batches.iter().skip(at) {
            let contiguous =
                batches.last().map_or(batch.first() <= from, |last: &Arc<Batch>| batch.first() == last.last() + 1);
            if !contiguous || bytes >= max_bytes {
                break;
            }
            bytes += batch.weight;
            batches.push(Arc::clone(batch));
        }
        FeedRead { batches }
    }

    /// Frames newer than `seen`, oldest first, and the new value for `seen`.
    pub fn frames_after(&self, seen: u64) -> (Vec<FrameEvent>, u64) {
        let window = self.lock();
        if window.frame_count == seen {
            return (Vec::new(), seen);
        }
        let mut frames: Vec<_> = window.frames.values().filter(|(count, _)| *count > seen).cloned().collect();
        frames.sort_by_key(|(count, _)| *count);
        (frames.into_iter().map(|(_, frame)| frame).collect(), window.frame_count)
    }

    /// How many subscriptions there are.
    pub fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One viewer's hold on a feed.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<Feed>,
    changes: watch::Receiver<u64>,
}

impl Subscription {
    /// In force at once: any change after this wakes [`Subscription::changed`].
    pub fn new(feed: Arc<Feed>) -> Self {
        feed.viewers.fetch_add(1, Ordering::Relaxed);
        let changes = feed.changes.subscribe();
        Self { feed, changes }
    }

    /// The window.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Takes note of every change so far. Call it *before* looking, so that no change falls between look and wait.
    pub fn mark_seen(&mut self) {
        self.changes.mark_unchanged();
    }

    /// Returns when something changed since [`Subscription::mark_seen`].
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
