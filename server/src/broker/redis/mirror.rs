//! What this instance shows of one task: a window and a position that follow Redis.
//!
//! Pub/Sub is only a hint. A published line that continues the window is pushed; one that is there already is dropped; one
//! beyond the next, one of another epoch, and one that says that the task ended make the mirror read again. So does a
//! comparison every two seconds. While it reads, what is published is held back, and continues the window afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowforge_storage::{LogRecord, Stream, TaskKey, TaskStatus};
use redis::{FromRedisValue as _, Value};
use tokio::time::Instant;

use super::Shared;
use super::script::{Args, READ, text};
use super::{record, wire};
use crate::broker::{Batch, BrokerError, Feed, Position};

/// Entries of one read.
const READ_ENTRIES: usize = 500;

/// Bytes held back while reading; past it they are dropped and read again.
const HELD_BYTES: usize = 8 << 20;

/// One watched task.
pub(super) struct Mirror {
    pub(super) task: TaskKey,
    pub(super) feed: Arc<Feed>,
    state: Mutex<State>,
    /// One reads at a time.
    reading: tokio::sync::Mutex<()>,
    /// Reads begun, and which of them was the last that went well.
    begun: AtomicU64,
    done: AtomicU64,
    /// A read is on its way.
    wanted: AtomicBool,
    /// Since when nobody watches.
    pub(super) idle_since: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    loaded: bool,
    position: Position,
    epoch: u64,
    /// The record as it was last read.
    record_text: String,
    /// While someone reads: what was published meanwhile.
    held: Option<Vec<(LogRecord, Vec<u8>)>>,
    held_bytes: usize,
}

/// What lines did to the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    Nothing,
    Lines,
    /// It has to read again.
    Unsure,
}

impl Mirror {
    pub(super) fn new(task: &TaskKey, keep_bytes: usize) -> Self {
        Self {
            task: task.clone(),
            feed: Arc::new(Feed::new(keep_bytes)),
            state: Mutex::default(),
            reading: tokio::sync::Mutex::new(()),
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            idle_since: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the task stands, as far as this mirror has read; `None` before it has.
    pub(super) fn position(&self) -> Option<Position> {
        let state = self.lock();
        state.loaded.then(|| state.position.clone())
    }

    /// Lines that were published, in the order in which they came. Returns whether the mirror has to read again.
    pub(super) fn published(&self, lines: Vec<(LogRecord, &[u8])>) -> bool {
        let mut state = self.lock();
        if let Some(held) = &mut state.held {
            let bytes: usize = lines.iter().map(|(_, json)| json.len()).sum();
            held.extend(lines.into_iter().map(|(record, json)| (record, json.to_vec())));
            state.held_bytes += bytes;
            if state.held_bytes > HELD_BYTES {
                (state.held, state.held_bytes) = (Some(Vec::new()), 0);
            }
            return false;
        }
        if !state.loaded {
            return false;
        }
        let took = self.take(&mut state, lines);
        drop(state);
        if took != Took::Nothing {
            self.feed.wake();
        }
        took == Took::Unsure
    }

    /// Pushes what continues the window.
    fn take(&self, state: &mut State, lines: Vec<(LogRecord, &[u8])>) -> Took {
        let (mut next, mut unsure) = (state.position.end + 1, false);
        let mut fresh = Vec::with_capacity(lines.len());
        for (record, json) in lines {
            if record.epoch == state.epoch && record.offset < next {
                continue;
            }
            let ended = state.position.record.as_ref().is_none_or(|record| record.status != TaskStatus::Running);
            if record.epoch != state.epoch || record.offset > next || ended {
                unsure = true;
                break;
            }
            next += 1;
            // Rows of ours may come with a change of the record.
            unsure |= record.stream == Stream::System;
            fresh.push((record, json));
        }
        let took = if fresh.is_empty() { Took::Nothing } else { Took::Lines };
        if took == Took::Lines {
            self.feed.push(Arc::new(Batch::published(self.task.clone(), fresh)));
            state.position.end = next - 1;
        }
        if unsure { Took::Unsure } else { took }
    }

    /// Lines up to here are stored.
    pub(super) fn stored(&self, epoch: u64, stored: u64) {
        let mut state = self.lock();
        if state.epoch != epoch || !state.loaded || stored > state.position.end {
            return; // Not seen yet: the next comparison tells.
        }
        state.position.stored = state.position.stored.max(stored);
        drop(state);
        self.feed.trim(stored);
    }

    /// Whether what Redis says now is more than the mirror has.
    pub(super) fn is_behind(&self, epoch: u64, end: u64, version: u64) -> bool {
        let state = self.lock();
        let known = state.position.record.as_ref().map_or(0, |record| record.version);
        state.loaded && (state.epoch != epoch || end > state.position.end || version != known)
    }

    /// Takes over one answer of `read.lua`. Returns from where to read on; `None`: this was all.
    fn take_answer(&self, asked: u64, answer: &Value) -> Result<Next, BrokerError> {
        let bad = || BrokerError::Unavailable("Redis gave an answer that is not understood".to_owned());
        let Value::Array(parts) = answer else { return Err(bad()) };
        let [_, Value::Array(fields), entries] = &parts[..] else { return Err(bad()) };
        let fields: Vec<String> = fields.iter().map(text).collect();
        let [run_id, epoch, end, stored, ready, record] = &fields[..] else { return Err(bad()) };
        if run_id.is_empty() {
            return Ok(Next::Unknown);
        }
        if ready != epoch {
            return Ok(Next::NotReady);
        }
        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
        let (epoch, stored) = (number(epoch), number(stored));
        let end = number(end).max(stored);
        let mut state = self.lock();
        if state.epoch != epoch || !state.loaded {
            self.feed.clear();
            state.loaded = true;
            state.epoch = epoch;
            (state.position.end, state.position.stored) = (stored, stored);
            if asked > stored + 1 {
                return Ok(Next::From(1));
            }
        }
        // What is stored need not be in the window.
        state.position.end = state.position.end.max(stored);
        for entry in read_entries(entries) {
            let entry = entry?;
            let next = state.position.end + 1;
            let mut batch = entry.batch;
            if batch.last() < next || batch.records.first().is_some_and(|row| row.epoch > epoch) {
                continue;
            }
            if batch.first() < next {
                batch.records.retain(|record| record.offset >= next);
                batch = Batch::new(batch.task, batch.producer, batch.records);
            }
            state.position.end = batch.last();
            self.feed.push(Arc::new(batch));
        }
        state.position.stored = state.position.stored.max(stored);
        let reached = state.position.end;
        if reached < end && reached >= asked {
            return Ok(Next::From(reached + 1)); // The record belongs to the end, which is further on.
        }
        state.position.end = reached.max(end);
        if state.record_text != *record {
            let parsed = record::parse(record);
            state.position.record =
                Some(Arc::new(parsed.ok_or_else(|| BrokerError::Unavailable("a task's record is damaged".into()))?));
            state.record_text.clone_from(record);
        }
        let stored = state.position.stored;
        drop(state);
        self.feed.trim(stored);
        Ok(Next::Done)
    }

    /// The store's view, for a task that Redis does not know.
    fn take_stored(&self, position: Position) {
        let mut state = self.lock();
        let epoch = position.epoch().epoch;
        // What was seen before Redis lost it stays shown until a new epoch says otherwise.
        if !state.loaded || state.epoch != epoch {
            self.feed.clear();
            state.epoch = epoch;
            state.position = position;
        }
        state.loaded = true;
    }

    fn hold(&self) {
        self.lock().held = Some(Vec::new());
    }

    /// Continues with what was published while reading. Returns whether to read again.
    fn let_go(&self) -> bool {
        let mut state = self.lock();
        let held = state.held.take().unwrap_or_default();
        state.held_bytes = 0;
        let lines: Vec<_> = held.iter().map(|(record, json)| (record.clone(), json.as_slice())).collect();
        let beyond = lines.iter().any(|(record, _)| record.offset > state.position.end);
        let took = if state.loaded && beyond { self.take(&mut state, lines) } else { Took::Nothing };
        drop(state);
        self.feed.wake();
        took == Took::Unsure
    }
}

enum Next {
    From(u64),
    Done,
    /// Redis does not know the task.
    Unknown,
    /// The store does not have the record of the epoch yet.
    NotReady,
}

fn read_entries(entries: &Value) -> impl Iterator<Item = Result<wire::Entry, BrokerError>> {
    let entries = match entries {
        Value::Array(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|entry| {
        let fields = entry_fields(entry).map(|(_, fields)| fields);
        let [_, head, _, packed] = fields.as_deref().unwrap_or_default() else {
            return Err(BrokerError::Unavailable("an entry of a window cannot be read".to_owned()));
        };
        wire::unpack(head, packed.clone())
            .map_err(|why| BrokerError::Unavailable(format!("an entry of a window cannot be read: {why}")))
    })
}

/// Id and fields of a stream's entry.
pub(super) fn entry_fields(entry: &Value) -> Option<(String, Vec<Vec<u8>>)> {
    let Value::Array(parts) = entry else { return None };
    let fields = Vec::<Vec<u8>>::from_redis_value(parts.get(1)?.clone()).ok()?;
    Some((parts.first().map(text)?, fields))
}

impl Shared {
    /// Brings a mirror up to date: up to what there was when this was called. Those who ask at once share a read that began
    /// after they did.
    pub(super) async fn refresh(&self, mirror: &Mirror) -> Result<(), BrokerError> {
        let asked = mirror.begun.load(Ordering::Acquire);
        let _turn = mirror.reading.lock().await;
        if mirror.done.load(Ordering::Acquire) > asked {
            return Ok(());
        }
        let number = mirror.begun.fetch_add(1, Ordering::AcqRel) + 1;
        mirror.wanted.store(false, Ordering::Release);
        loop {
            mirror.hold();
            let read = self.read_into(mirror).await;
            let again = mirror.let_go();
            read?;
            if !again {
                mirror.done.store(number, Ordering::Release);
                return Ok(());
            }
        }
    }

    async fn read_into(&self, mirror: &Mirror) -> Result<(), BrokerError> {
        let shard = self.shards.of(&mirror.task);
        let keys = [shard.meta(&mirror.task), shard.recent(&mirror.task)];
        let mut from = mirror.position().map_or(1, |position| position.end + 1);
        loop {
            let answer = self
                .link
                .call(self.options.patience, &READ, &keys, |run_id| {
                    let mut args = Args::default();
                    args.push(run_id).number(from).number(READ_ENTRIES);
                    args
                })
                .await?;
            match mirror.take_answer(from, &answer)? {
                Next::From(next) => from = next,
                Next::Done => return Ok(()),
                Next::NotReady => drop(self.persist(&mirror.task).await?),
                Next::Unknown => {
                    mirror.take_stored(self.position_in_store(&mirror.task).await?);
                    return Ok(());
                }
            }
        }
    }

    /// Brings a mirror up to date soon; many requests are one.
    pub(super) fn refresh_soon(self: &Arc<Self>, mirror: &Arc<Mirror>) {
        if mirror.wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        let (shared, mirror) = (Arc::clone(self), Arc::clone(mirror));
        tokio::spawn(async move {
            if let Err(error) = shared.refresh(&mirror).await {
                tracing::debug!(task = %mirror.task, %error, "cannot follow a task now, the next comparison tries again");
            }
        });
    }
}
