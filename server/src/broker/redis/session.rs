//! One producer's open stream, on the broker's side.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use flowforge_storage::{LogRecord, ProducerId, TaskKey};
use tokio::sync::watch;

use super::Shared;
use super::change::Cause;
use super::keys::{FRAMES, LINES};
use super::script::{APPEND, Args, texts};
use super::wire;
use crate::broker::task::state::new_lines;
use crate::broker::{
    BrokerError, Ending, FrameEvent, NewLine, ProducerHello, ProducerSession, Progress, Welcome, record_of,
};
use crate::clock::{now_ms, rfc3339_ms};

/// What this instance knows of a producer whose stream it holds. Hints and comparisons move it.
pub(super) struct Seat {
    pub(super) task: TaskKey,
    pub(super) producer: ProducerId,
    pub(super) epoch: u64,
    /// `None`: the state is lost, and the stream has to end.
    progress: Mutex<Option<watch::Sender<Progress>>>,
}

impl Seat {
    /// Moves what is known forward.
    pub(super) fn note(&self, update: impl FnOnce(&mut Progress)) {
        if let Some(sender) = self.lock().as_ref() {
            sender.send_if_modified(|progress| {
                let before = *progress;
                update(progress);
                before != *progress
            });
        }
    }

    /// Ends the stream: its producer has to say Hello again.
    pub(super) fn lose(&self) {
        self.lock().take();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<watch::Sender<Progress>>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives its lease is renewed; dropping it leaves a whole one.
pub(super) struct RedisSession {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    welcome: Welcome,
    receiver: watch::Receiver<Progress>,
    /// Accepted up to here.
    queued_seq: u64,
}

/// What an append came to.
enum Appended {
    Done,
    /// Redis has the producer's lines up to this one.
    Behind(u64),
    /// The record has to change as well, or to be stored.
    Closed,
}

impl RedisSession {
    /// Says Hello.
    pub(super) async fn open(shared: &Arc<Shared>, hello: &ProducerHello) -> Result<Self, BrokerError> {
        let cause = Cause { producer: Some(hello.producer), opens: true, always: false, expired: &[] };
        let (opened, state) = shared
            .change(&hello.task, cause, |state, now| {
                let mut opened = state.open(hello, shared.options.max_producers, now)?;
                let rows = std::mem::take(&mut opened.rows);
                Ok((opened, rows))
            })
            .await?;
        let welcome = opened.welcome;
        let progress =
            Progress { generation: welcome.generation, queued_seq: welcome.queued_seq, stored_seq: welcome.stored_seq };
        let (sender, receiver) = watch::channel(progress);
        let seat = Arc::new(Seat {
            task: hello.task.clone(),
            producer: hello.producer,
            epoch: welcome.epoch,
            progress: Mutex::new(Some(sender)),
        });
        shared.seat(&seat);
        // From here on a drop leaves a whole lease, also when writing the record fails.
        let mut session = Self { shared: Arc::clone(shared), seat, welcome, receiver, queued_seq: welcome.queued_seq };
        shared.persist_through(&hello.task, welcome.epoch, state.version()).await?;
        if let Some(gap) = opened.gap {
            session.append(welcome.queued_seq + 1, vec![gap]).await?;
            session.welcome.queued_seq = session.queued_seq;
        }
        Ok(session)
    }

    /// One try of the fast path.
    async fn append_plain(&mut self, records: &[LogRecord]) -> Result<Appended, BrokerError> {
        let (shared, task) = (&self.shared, &self.seat.task);
        let shard = shared.shards.of(task);
        let keys = [shard.meta(task), shard.recent(task), shard.stream.clone(), shard.bytes.clone()];
        let channel = format!("{LINES}{task}");
        let (packed, head, last_seq) =
            (wire::pack(records), wire::json_head(task), records.last().map_or(0, |r| r.seq));
        let parts: Vec<_> = records.iter().map(|record| wire::json_parts(task, record)).collect();
        let now = records.first().map_or(0, |record| record.created_at_ms);
        let turn = shared.publishing_turn(task).await;
        let answer = shared
            .link
            .call(shared.options.patience, &APPEND, &keys, |run_id| {
                let mut args = Args::default();
                args.push(run_id).number(self.welcome.epoch).number(self.welcome.generation);
                args.push(self.seat.producer.to_string()).number(self.queued_seq).number(last_seq);
                args.number(records.len()).number(now).push(rfc3339_ms(now));
                args.push(task.tenant()).push(task.to_string()).push(&packed);
                if shared.publisher.is_none() {
                    args.push(&channel).push(&head);
                    for (middle, tail) in &parts {
                        args.push(middle).push(tail);
                    }
                } else {
                    args.push("").push("");
                }
                args
            })
            .await?;
        let answer = texts(&answer);
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        match words[..] {
            ["ok", first, _, created] => {
                if shared.publisher.is_some() {
                    let offsets = first.parse::<u64>().unwrap_or(0)..;
                    let line = |((middle, tail), offset): (&(Vec<u8>, Vec<u8>), u64)| {
                        [head.as_bytes(), offset.to_string().as_bytes(), middle, created.as_bytes(), tail].concat()
                    };
                    shared.publish(&channel, parts.iter().zip(offsets).map(line).collect()).await;
                }
                drop(turn);
                shared.room.note(task.tenant(), packed.len());
                self.queued_seq = last_seq;
                Ok(Appended::Done)
            }
            ["seq", queued] => Ok(Appended::Behind(queued.parse().unwrap_or(0))),
            ["closed"] => Ok(Appended::Closed),
            ["fenced"] => Err(BrokerError::Fenced(self.seat.producer)),
            ["lost"] => {
                self.seat.lose();
                Err(BrokerError::StateLost)
            }
            _ => Err(BrokerError::Unavailable("Redis gave an answer that is not understood".to_owned())),
        }
    }

    /// Lines that change the record as well: dropped runs, and whatever reopens a task. In two steps where an ended task is taken
    /// up again: the store has to know of that before anybody sees the lines.
    async fn append_with_record(&mut self, first_seq: u64, lines: Vec<NewLine>) -> Result<(), BrokerError> {
        let (id, generation, epoch) = (self.seat.producer, self.welcome.generation, self.welcome.epoch);
        let cause = Cause { producer: Some(id), opens: false, always: false, expired: &[] };
        loop {
            let changed = self.shared.change(&self.seat.task, cause, |state, now| {
                if state.position().epoch().epoch != epoch {
                    return Err(BrokerError::StateLost);
                }
                match state.reopen_for(id, generation, first_seq, &lines, now)? {
                    Some(_) => Ok((false, Vec::new())),
                    None => Ok((true, state.append(id, generation, first_seq, lines.clone(), now)?)),
                }
            });
            let (is_done, state) = changed.await.inspect_err(|error| {
                if matches!(error, BrokerError::StateLost) {
                    self.seat.lose();
                }
            })?;
            if is_done {
                let queued = state.progress().find(|(known, _)| *known == id);
                self.queued_seq = queued.map_or(0, |(_, progress)| progress.queued_seq);
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl ProducerSession for RedisSession {
    fn producer(&self) -> ProducerId {
        self.seat.producer
    }

    fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.receiver.clone()
    }

    async fn append(&mut self, first_seq: u64, lines: Vec<NewLine>) -> Result<(), BrokerError> {
        loop {
            if first_seq > self.queued_seq + 1 {
                return Err(BrokerError::Gap { expected_seq: self.queued_seq + 1 });
            }
            if lines.iter().any(|line| line.dropped.is_some()) {
                self.append_with_record(first_seq, lines).await?;
                break;
            }
            let (epoch, now) = (self.welcome.epoch, now_ms());
            let new = new_lines(first_seq, lines.clone(), self.queued_seq, now);
            let records: Vec<LogRecord> =
                new.map(|(seq, line)| record_of(line, self.seat.producer, seq, 0, epoch, now)).collect();
            if records.is_empty() {
                return Ok(());
            }
            match self.append_plain(&records).await? {
                Appended::Done => break,
                // Another answer was lost on its way: what is there already is left out.
                Appended::Behind(queued) => self.queued_seq = queued,
                Appended::Closed => {
                    self.append_with_record(first_seq, lines).await?;
                    break;
                }
            }
        }
        let queued = self.queued_seq;
        self.seat.note(|progress| progress.queued_seq = progress.queued_seq.max(queued));
        Ok(())
    }

    fn frame(&self, frame: FrameEvent) {
        let (shared, channel) = (Arc::clone(&self.shared), format!("{FRAMES}{}", self.seat.task));
        tokio::spawn(async move { shared.publish(&channel, vec![wire::frame_json(&frame)]).await });
    }

    async fn close(&mut self, ending: Ending) -> Result<(), BrokerError> {
        let (id, generation, epoch) = (self.seat.producer, self.welcome.generation, self.welcome.epoch);
        let cause = Cause { producer: Some(id), opens: false, always: true, expired: &[] };
        let ((), state) = self
            .shared
            .change(&self.seat.task, cause, |state, now| {
                if state.position().epoch().epoch != epoch {
                    return Err(BrokerError::StateLost);
                }
                Ok(((), state.close(id, generation, ending.clone(), now)?))
            })
            .await?;
        // The record that says so is stored only after everything that it says is.
        self.shared.flush_soon(&self.seat.task).await;
        self.shared.persist_through(&self.seat.task, epoch, state.version()).await
    }
}

impl Drop for RedisSession {
    fn drop(&mut self) {
        self.shared.unseat(&self.seat);
        let (shared, seat) = (Arc::clone(&self.shared), Arc::clone(&self.seat));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { shared.renew(&[seat]).await });
        }
    }
}
