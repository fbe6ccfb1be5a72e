//! The worker: reads shards of the durable queue for the writer of this process, and lets go of what is stored.
//!
//! **A shard is read by one worker at a time**, so every task is stored in offset order and its watermark is the last offset
//! stored. The hold on a shard is a lease of `queue.claim_idle` with a fencing token; shards are spread over the live workers
//! in the order of their names, and move when one joins or goes. A worker that loses a shard forgets what it had not
//! inserted; one that takes a shard claims everything pending, oldest first.
//!
//! Reading is polling: a blocking read would hold a connection for itself, in a Cluster one a node. While lines come it does not
//! pause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{ProducerId, TaskKey};
use redis::{RedisResult, Value};
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use super::Shared;
use super::keys::{GROUP, Shard, WORKERS, parse_task};
use super::link::{Conn, refusal};
use super::mirror::entry_fields;
use super::script::{Args, CLAIM, HEARTBEAT, STORED, TAKE, text, texts};
use super::wire;
use crate::broker::{Batch, BrokerError, QueueEntry};

/// Entries of one read.
const READ_ENTRIES: usize = 200;

/// Pause after a round that found nothing.
const IDLE: Duration = Duration::from_millis(20);

/// Pause after an error.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// How often a worker gives a sign of life, whatever the hold lasts: one that joins is noticed so soon.
const SPREAD_AT_LEAST: Duration = Duration::from_secs(1);

/// Bytes read ahead of the writer.
const AHEAD_BYTES: usize = 64 << 20;

/// How long to go on telling Redis what is stored before looking whether the shard is still ours.
const TELL: Duration = Duration::from_mins(5);

/// A shard that this worker reads.
#[derive(Debug, Clone)]
struct Hold {
    token: String,
    /// Not renewed until then, it is lost.
    until: Instant,
    /// Pending entries come first.
    claimed: bool,
}

/// The shards of this worker.
#[derive(Default)]
pub(super) struct Holds(HashMap<usize, Hold>);

/// Runs until dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let every = (shared.options.claim_idle / 4).min(SPREAD_AT_LEAST);
    let mut renew_at = Instant::now();
    loop {
        if Instant::now() >= renew_at {
            renew_at = Instant::now() + every;
            if let Err(error) = shared.spread().await {
                debug!(%error, "cannot renew the hold on shards, will try again");
                renew_at = Instant::now() + every.min(AFTER_ERROR);
            }
        }
        match shared.read_shards().await {
            Ok(true) => {}
            Ok(false) => sleep(IDLE.min(every)).await,
            Err(error) => {
                debug!(%error, "reading the queue failed, will try again");
                sleep(AFTER_ERROR.min(every)).await;
            }
        }
    }
}

impl Shared {
    fn holds(&self) -> std::sync::MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A sign of life, and each shard taken, kept or given up by what the other workers leave to this one.
    async fn spread(&self) -> RedisResult<()> {
        let conn = self.link.conn().await?;
        let result = self.spread_on(&conn).await;
        result.inspect_err(|error| self.link.failed(&conn, error))
    }

    async fn spread_on(&self, conn: &Conn) -> RedisResult<()> {
        let (leaving, lasts) = (self.is_leaving(), self.options.claim_idle.as_millis());
        let mut args = Args::default();
        args.push(&self.id).number(lasts).push(if leaving { "0" } else { "1" });
        let live = texts(&HEARTBEAT.call(conn, &[WORKERS], &args).await?);
        let mine = live.iter().position(|id| *id == self.id);
        for shard in self.shards.iter() {
            let wanted = mine.is_some_and(|mine| shard.number % live.len() == mine);
            let held = self.holds().0.get(&shard.number).cloned();
            if held.is_none() && !wanted {
                continue;
            }
            // A shard is handed on only when everything taken from it is stored.
            let keep = wanted || self.queue.holds(|batch| is_of(batch, shard.number));
            let asked = Instant::now();
            let mut args = Args::default();
            args.push(&self.id).number(lasts).push(if keep { "1" } else { "0" });
            let token = text(&CLAIM.call(conn, &[&shard.worker], &args).await?);
            self.note_hold(shard, held, token, asked, wanted);
        }
        Ok(())
    }

    fn note_hold(&self, shard: &Shard, held: Option<Hold>, token: String, asked: Instant, wanted: bool) {
        let number = shard.number;
        let same = held.as_ref().is_some_and(|held| held.token == token);
        if token.is_empty() {
            if held.is_some() {
                info!(shard = number, wanted, "this worker does not read the shard any more");
                self.let_shard_go(number);
            }
            return;
        }
        if !same {
            info!(shard = number, token, "this worker reads the shard");
            self.queue.forget(|batch| is_of(batch, number));
        }
        let claimed = same && held.is_some_and(|held| held.claimed);
        let until = asked + self.options.claim_idle;
        self.holds().0.insert(number, Hold { token, until, claimed });
        if !wanted {
            self.holds().0.entry(number).and_modify(|hold| hold.claimed = true);
        }
    }

    fn let_shard_go(&self, number: usize) {
        self.holds().0.remove(&number);
        self.queue.forget(|batch| is_of(batch, number));
    }

    /// Reads each held shard once. Returns whether there was anything.
    async fn read_shards(&self) -> Result<bool, BrokerError> {
        if self.is_leaving() {
            return Ok(false);
        }
        let mut any = false;
        let numbers: Vec<usize> = self.holds().0.keys().copied().collect();
        for number in numbers {
            if self.queue.size().bytes > AHEAD_BYTES {
                return Ok(false);
            }
            let Some(hold) = self.holds().0.get(&number).cloned() else { continue };
            if Instant::now() >= hold.until {
                warn!(shard = number, "the hold on the shard could not be renewed in time");
                self.let_shard_go(number);
                continue;
            }
            let shard = self.shards.get(number);
            let read = {
                let token = hold.token.as_str();
                if hold.claimed { self.read_new(shard, token).await } else { self.claim_pending(shard, token).await }
            };
            match read {
                Ok(found) => any |= found,
                Err(error) => {
                    // What was on its way is pending with us, unread: it has to be claimed before anything new.
                    if let Some(hold) = self.holds().0.get_mut(&number) {
                        hold.claimed = false;
                    }
                    return Err(refusal(&error));
                }
            }
        }
        Ok(any)
    }

    async fn read_new(&self, shard: &Shard, token: &str) -> RedisResult<bool> {
        let Some((_, entries)) = self.take_entries(shard, token, "").await? else { return Ok(false) };
        for entry in &entries {
            self.take_entry(shard, entry).await?;
        }
        Ok(!entries.is_empty())
    }

    /// Where to go on, and entries; `None` if someone else holds the shard now.
    async fn take_entries(&self, shard: &Shard, token: &str, from: &str) -> RedisResult<Option<(String, Vec<Value>)>> {
        let conn = self.link.conn().await?;
        let mut args = Args::default();
        args.push(&self.id).push(token).push(GROUP).number(READ_ENTRIES).push(from);
        let answer = TAKE.call(&conn, &[&shard.worker, &shard.stream], &args).await;
        let answer = answer.inspect_err(|error| self.link.failed(&conn, error))?;
        let Value::Array(mut parts) = answer else { return Ok(None) };
        let (Some(Value::Array(entries)), Some(next)) = (parts.pop(), parts.pop()) else {
            warn!(shard = shard.number, "another worker holds the shard");
            self.let_shard_go(shard.number);
            return Ok(None);
        };
        Ok(Some((text(&next), entries)))
    }

    /// Everything that any worker was given and has not acknowledged, oldest first.
    async fn claim_pending(&self, shard: &Shard, token: &str) -> RedisResult<bool> {
        self.make_group(shard).await?;
        self.queue.forget(|batch| is_of(batch, shard.number));
        let (mut cursor, mut count) = ("0-0".to_owned(), 0);
        loop {
            let Some((next, entries)) = self.take_entries(shard, token, &cursor).await? else { return Ok(false) };
            for entry in &entries {
                self.take_entry(shard, entry).await?;
            }
            count += entries.len();
            cursor = next;
            if cursor == "0-0" || cursor.is_empty() {
                break;
            }
        }
        if count > 0 {
            info!(shard = shard.number, entries = count, "claimed what was given to a worker and not acknowledged");
        }
        self.forget_idle_consumers(shard).await?;
        if let Some(hold) = self.holds().0.get_mut(&shard.number) {
            hold.claimed = true;
        }
        Ok(count > 0)
    }

    async fn make_group(&self, shard: &Shard) -> RedisResult<()> {
        let mut cmd = redis::cmd("XGROUP");
        cmd.arg("CREATE").arg(&shard.stream).arg(GROUP).arg("0").arg("MKSTREAM");
        match self.link.run(&cmd).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            _ => Ok(()),
        }
    }

    /// Workers that are gone leave a name in the group.
    async fn forget_idle_consumers(&self, shard: &Shard) -> RedisResult<()> {
        let mut cmd = redis::cmd("XINFO");
        cmd.arg("CONSUMERS").arg(&shard.stream).arg(GROUP);
        let Value::Array(consumers) = self.link.run(&cmd).await? else { return Ok(()) };
        for consumer in consumers {
            let fields = match consumer {
                Value::Array(parts) => parts.chunks(2).map(|pair| (text(&pair[0]), pair.get(1).map(text))).collect(),
                Value::Map(pairs) => pairs.iter().map(|(name, value)| (text(name), Some(text(value)))).collect(),
                _ => HashMap::new(),
            };
            let field = |name: &str| fields.get(name).cloned().flatten().unwrap_or_default();
            if field("pending") == "0" && field("name") != self.id {
                let mut cmd = redis::cmd("XGROUP");
                cmd.arg("DELCONSUMER").arg(&shard.stream).arg(GROUP).arg(field("name"));
                self.link.run(&cmd).await?;
            }
        }
        Ok(())
    }

    /// Into the local queue, for the writer.
    async fn take_entry(&self, shard: &Shard, entry: &Value) -> RedisResult<()> {
        let Some((id, fields)) = entry_fields(entry) else { return Ok(()) };
        let read = match &fields[..] {
            [_, head, _, packed] => wire::unpack(head, packed.clone()),
            _ => Err(format!("it has {} fields and values", fields.len())),
        };
        match read {
            Ok(read) => {
                let mut batch = read.batch;
                let ends = batch.producer == ProducerId::SERVER;
                batch.entry = Some(QueueEntry { shard: shard.number, id: id.into(), bytes: read.weight });
                self.queue.push(Arc::new(batch));
                if ends {
                    self.queue.flush_now(); // Someone waits for it.
                }
                Ok(())
            }
            Err(why) => self.bury(shard, &id, &fields, &why).await,
        }
    }

    /// An entry that nobody can read must not stop the others.
    async fn bury(&self, shard: &Shard, id: &str, fields: &[Vec<u8>], why: &str) -> RedisResult<()> {
        error!(shard = shard.number, id, why, "an entry of the queue cannot be read, it is kept as a dead letter");
        let mut cmd = redis::cmd("XADD");
        cmd.arg(&shard.dead).arg("*").arg("id").arg(id).arg("why").arg(why).arg(fields);
        self.link.run(&cmd).await?;
        self.link.run(redis::cmd("XACK").arg(&shard.stream).arg(GROUP).arg(id)).await?;
        self.link.run(redis::cmd("XDEL").arg(&shard.stream).arg(id)).await.map(drop)
    }

    /// What of a delivery is one shard's, is in the store.
    pub(super) async fn tell_stored(self: &Arc<Self>, number: usize, batches: &[Arc<Batch>]) {
        let shard = self.shards.get(number);
        let Some(hold) = self.holds().0.get(&number).cloned() else { return };
        let tasks = by_task(batches);
        let mut keys = vec![shard.worker.clone(), shard.stream.clone(), shard.bytes.clone()];
        let hints = if self.publisher.is_none() { shard.hints.as_str() } else { "" };
        let mut args = Args::default();
        args.push(&self.id).push(&hold.token).push(GROUP).push(hints).number(tasks.len());
        for ((task, epoch), (last, producers)) in &tasks {
            keys.extend([shard.meta(task), shard.recent(task)]);
            args.push(task.to_string()).number(epoch).number(last).number(producers.len());
            for (producer, seq) in producers {
                args.push(producer.to_string()).number(seq);
            }
        }
        for batch in batches {
            let Some(entry) = &batch.entry else { continue };
            args.push(entry.id.as_bytes()).push(batch.task.tenant()).number(entry.bytes);
        }
        let answer = match self.link.call(TELL, &STORED, &keys, |_| args.clone()).await {
            Ok(answer) => texts(&answer),
            Err(error) => {
                return warn!(shard = number, %error, "cannot tell redis what is stored; it is stored again later");
            }
        };
        let [verdict, hint, due @ ..] = answer.as_slice() else {
            return warn!(shard = number, "another worker reads the shard now, it stores these lines again");
        };
        if verdict != "ok" {
            return;
        }
        if self.publisher.is_some() && !hint.is_empty() {
            self.publish(&shard.hints, vec![hint.clone().into_bytes()]).await;
        }
        self.hinted(hint);
        for task in due.iter().filter_map(|task| parse_task(task)) {
            if let Err(error) = self.persist(&task).await {
                warn!(%task, %error, "writing the task record failed, will try again");
            }
        }
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.holds().0.len()
    }

    /// Gives up every shard, once nothing of it is queued.
    pub(super) async fn leave_shards(&self) {
        if let Err(error) = self.spread().await {
            debug!(%error, "cannot give up shards, their holds run out");
        }
        self.holds().0.clear();
    }
}

type Stored = HashMap<(TaskKey, u64), (u64, HashMap<ProducerId, u64>)>;

/// Last offset of each task and epoch, last sequence number of each producer.
fn by_task(batches: &[Arc<Batch>]) -> Stored {
    let mut tasks = Stored::new();
    for batch in batches {
        let epoch = batch.records.first().map_or(0, |record| record.epoch);
        let (last, producers) = tasks.entry((batch.task.clone(), epoch)).or_default();
        *last = batch.last().max(*last);
        if batch.producer != ProducerId::SERVER {
            let seq = producers.entry(batch.producer).or_default();
            *seq = batch.last_seq().max(*seq);
        }
    }
    tasks
}

fn is_of(batch: &Batch, shard: usize) -> bool {
    batch.entry.as_ref().is_some_and(|entry| entry.shard == shard)
}
