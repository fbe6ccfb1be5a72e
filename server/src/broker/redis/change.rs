//! Changes of a task that are not plain appends: Hello, Close, an expired lease, lines that reopen, a rebuild. And writing the
//! record into the store, which whoever finds it due does: helping instead of locking.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{LogRecord, ProducerId, TaskKey};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::Shared;
use super::keys::{LINES, lease_member};
use super::record;
use super::script::{Args, COMMIT, COMMIT_ALWAYS, PERSISTED, READ, Script, texts};
use super::task::{Plan, Snapshot, Subject};
use crate::broker::BrokerError;
use crate::broker::task::load;
use crate::broker::task::state::TaskState;
use crate::clock::now_ms;

/// How long a change is tried again while others change the task as well.
const CONTENTION: Duration = Duration::from_secs(20);

/// How long an ended task stays in Redis once all of it is stored.
const ENDED_KEPT: Duration = Duration::from_hours(1);

/// How long to wait for a hint before looking whether it was lost.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Why a change is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause<'a> {
    /// Whose doing it is.
    pub(super) producer: Option<ProducerId>,
    /// It says Hello: the task is made or rebuilt where it has to be.
    pub(super) opens: bool,
    /// It must go through also when Redis is out of memory.
    pub(super) always: bool,
    /// Producers whose lease is over.
    pub(super) expired: &'a [ProducerId],
}

/// What the store is known to have of a task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Persisted {
    /// The record's epoch.
    epoch: u64,
    /// The record's version.
    version: u64,
}

enum Committed {
    Done,
    Conflict,
    Lost,
}

impl Shared {
    /// One consistent look.
    pub(super) async fn look(&self, task: &TaskKey) -> Result<Snapshot, BrokerError> {
        let shard = self.shards.of(task);
        let keys = [shard.meta(task), shard.recent(task)];
        let answer = self
            .link
            .call(self.options.patience, &READ, &keys, |run_id| {
                let mut args = Args::default();
                args.push(run_id).number(0).number(0);
                args
            })
            .await?;
        Ok(Snapshot::of(&answer))
    }

    /// Reads, applies `rules`, commits; again if something changed meanwhile. `rules` may be called several times. Returns what
    /// it gave, and the state as committed. [`BrokerError::StateLost`] if there is no task to change and nobody says Hello.
    pub(super) async fn change<T>(
        self: &Arc<Self>,
        task: &TaskKey,
        cause: Cause<'_>,
        mut rules: impl FnMut(&mut TaskState, i64) -> Result<(T, Vec<LogRecord>), BrokerError> + Send,
    ) -> Result<(T, TaskState), BrokerError> {
        let give_up = Instant::now() + CONTENTION;
        loop {
            let seen = self.look(task).await?;
            let mut state = seen.state(cause.expired)?;
            if seen.is_lost() {
                if !cause.opens {
                    return Err(BrokerError::StateLost);
                }
                state = load::rebuild(self.store.as_ref(), task, state).await?;
                if state.record.is_some() {
                    self.commit_rebuilt(task, &seen, &state).await?;
                    continue;
                }
            } else if !seen.is_ready() {
                self.persist(task).await?;
                continue;
            }
            if let Some(version) = state.unstored_comeback() {
                if !cause.expired.is_empty() {
                    return Err(BrokerError::Unavailable("its end and its comeback are not stored yet".into()));
                }
                self.flush_soon(task).await;
                self.persist_through(task, state.position().epoch().epoch, version).await?;
                continue;
            }
            let subject = self.subject(&cause);
            let (value, rows) = rules(&mut state, subject.now_ms)?;
            let mut plan = Plan::new(task, &seen, &state, &rows, subject);
            plan.expire(cause.expired.iter().map(|producer| lease_member(task, *producer)).collect());
            if plan.is_empty() {
                return Ok((value, state));
            }
            match self.commit(task, &mut plan, cause.always).await? {
                Committed::Done => return Ok((value, state)),
                Committed::Lost if !cause.opens => return Err(BrokerError::StateLost),
                // Perhaps it was renewed: the next sweep tells.
                Committed::Conflict if !cause.expired.is_empty() => {
                    return Err(BrokerError::Unavailable("the task changed meanwhile".into()));
                }
                _ if Instant::now() > give_up => {
                    return Err(BrokerError::Unavailable("the task changes faster than it can be followed".into()));
                }
                _ => sleep(Duration::from_micros(fastrand::u64(100..2000))).await,
            }
        }
    }

    /// Begins the new epoch of a task whose memory was lost, if nobody else has meanwhile. Its record is in the store when
    /// this returns, and the epoch is shown to nobody before.
    pub(super) async fn rebuild(self: &Arc<Self>, task: &TaskKey) -> Result<(), BrokerError> {
        let seen = self.look(task).await?;
        if seen.is_lost() {
            let state = load::rebuild(self.store.as_ref(), task, seen.state(&[])?).await?;
            if state.record.is_some() {
                return self.commit_rebuilt(task, &seen, &state).await;
            }
        }
        Ok(())
    }

    async fn commit_rebuilt(
        self: &Arc<Self>,
        task: &TaskKey,
        seen: &Snapshot,
        state: &TaskState,
    ) -> Result<(), BrokerError> {
        let subject = self.subject(&Cause { producer: None, opens: false, always: true, expired: &[] });
        let mut plan = Plan::new(task, seen, state, &[], subject);
        // A conflict means that someone else was first: all the same.
        if matches!(self.commit(task, &mut plan, true).await?, Committed::Done) {
            let start = state.position().epoch();
            info!(%task, epoch = start.epoch, base = start.base, "redis lost this task, a new epoch begins");
        }
        self.persist(task).await.map(drop)
    }

    fn subject(&self, cause: &Cause<'_>) -> Subject {
        Subject {
            producer: cause.producer,
            opens: cause.opens,
            now_ms: now_ms(),
            lease_ms: self.options.lease.as_millis(),
        }
    }

    /// Commits a plan. Safe to repeat: a plan that was committed conflicts with itself.
    async fn commit(self: &Arc<Self>, task: &TaskKey, plan: &mut Plan, always: bool) -> Result<Committed, BrokerError> {
        let shard = self.shards.of(task);
        let keys = [
            shard.meta(task),
            shard.recent(task),
            shard.stream.clone(),
            shard.bytes.clone(),
            shard.leases.clone(),
            shard.clock.clone(),
            shard.dirty.clone(),
        ];
        let channel = format!("{LINES}{task}");
        let script: &Script = if always { &COMMIT_ALWAYS } else { &COMMIT };
        let turn = self.publishing_turn(task).await;
        let answer = self
            .link
            .call(self.options.patience, script, &keys, |run_id| {
                let channels = self.publisher.is_none().then_some((channel.as_str(), shard.hints.as_str()));
                plan.args(run_id, channels)
            })
            .await?;
        let answer = texts(&answer);
        match answer.first().map(String::as_str) {
            Some("ok") => {
                let firsts: Vec<u64> = answer[1..=plan.groups()].iter().filter_map(|text| text.parse().ok()).collect();
                let created = answer.last().map_or("", String::as_str);
                if self.publisher.is_some() {
                    self.publish(&channel, plan.messages(&firsts, created)).await;
                    self.publish(&shard.hints, vec![format!("C {task}").into_bytes()]).await;
                }
                drop(turn);
                self.changed(task);
                Ok(Committed::Done)
            }
            Some("lost") => Ok(Committed::Lost),
            _ => Ok(Committed::Conflict),
        }
    }

    /// Writes the record into the store if it is due, and says so. Returns what the store is known to have now.
    pub(super) async fn persist(&self, task: &TaskKey) -> Result<Option<Persisted>, BrokerError> {
        let seen = self.look(task).await?;
        let number = |name: &str| seen.field(name).parse::<u64>().unwrap_or(0);
        let mut now = None;
        if !seen.is_missing() {
            let due = number("persisted") < number("version") && number("stored") >= number("hold");
            if !due && seen.is_ready() {
                return Ok(Some(Persisted { epoch: number("epoch"), version: number("persisted") }));
            }
            let record = record::parse(seen.field("record"));
            let record =
                record.ok_or_else(|| BrokerError::Unavailable("a task's record in Redis is damaged".into()))?;
            self.store.put_task(&record).await?;
            now = Some(Persisted { epoch: record.epoch().epoch, version: record.version });
        }
        let shard = self.shards.of(task);
        let keys = [shard.meta(task), shard.recent(task), shard.dirty.clone()];
        let Persisted { epoch, version } = now.unwrap_or_default();
        self.link
            .call(self.options.patience, &PERSISTED, &keys, |_| {
                let mut args = Args::default();
                args.push(task.to_string()).number(version).number(epoch).number(ENDED_KEPT.as_millis());
                args
            })
            .await?;
        Ok(now)
    }

    /// Returns when the store has the record in this version, or a later one, of this epoch.
    pub(super) async fn persist_through(&self, task: &TaskKey, epoch: u64, version: u64) -> Result<(), BrokerError> {
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            match self.persist(task).await? {
                Some(now) if now.epoch == epoch && now.version >= version => return Ok(()),
                Some(now) if now.epoch == epoch => {}
                _ => return Err(BrokerError::StateLost),
            }
            // The lines before it are not stored yet.
            let _ = timeout(LOOK_AGAIN, moved.changed()).await;
        }
    }

    /// Loads what the store holds as running and Redis does not know, or knows from an earlier life.
    pub(super) async fn recover_tasks(self: &Arc<Self>) -> Result<usize, BrokerError> {
        use flowforge_storage::{TaskFilter, TaskStatus};
        let filter = TaskFilter { status: Some(TaskStatus::Running), ..TaskFilter::default() };
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.store.tasks(&filter, after.as_ref(), 200).await?;
            count += page.tasks.len();
            let all = page.tasks.iter().map(|task| self.rebuild(&task.record.task));
            futures_util::future::try_join_all(all).await?;
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    /// Kept so that publishing follows the order of appending where a second server does it.
    pub(super) async fn publishing_turn(&self, task: &TaskKey) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        self.publisher.as_ref()?;
        let turn = {
            let mut turns = self.lock_turns();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(task.clone()).or_default())
        };
        Some(turn.lock_owned().await)
    }
}
