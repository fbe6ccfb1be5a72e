//! The worker: reads shards of the durable queue for the writer of this process, and lets go of what is stored.
//!
//! **A shard is read by one worker at a time**, so every task is stored in offset order and its watermark is the last offset
//! stored; `holds` says who. A worker that loses a shard forgets what it had not inserted; one that takes a shard claims
//! everything pending, oldest first.
//!
//! Reading is polling: a blocking read would hold a connection for itself, in a Cluster one a node. While lines come it does not
//! pause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{ProducerId, TaskKey};
use redis::{RedisResult, Value};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::Shared;
use super::face;
use super::holds::is_of;
use super::keys::{GROUP, Shard, parse_task};
use super::link::refusal;
use super::mirror::entry_fields;
use super::script::{Args, FORGET, STORED, TAKE, text, texts};
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
    /// Reads each held shard once. Returns whether there was anything.
    async fn read_shards(&self) -> Result<bool, BrokerError> {
        if self.is_leaving() {
            return Ok(false);
        }
        let mut any = false;
        let numbers = self.holds().wanted();
        for number in numbers {
            if self.queue.size().bytes > AHEAD_BYTES {
                return Ok(false);
            }
            let Some(hold) = self.holds().get(number) else { continue };
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
                    self.holds().note_claimed(number, false);
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
        self.forget_idle_consumers(shard, token).await?;
        self.holds().note_claimed(shard.number, true);
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
    async fn forget_idle_consumers(&self, shard: &Shard, token: &str) -> RedisResult<()> {
        let conn = self.link.conn().await?;
        let mut args = Args::default();
        args.push(&self.id).push(token).push(GROUP);
        let done = FORGET.call(&conn, &[&shard.worker, &shard.stream], &args).await;
        done.map(drop).inspect_err(|error| self.link.failed(&conn, error))
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
            Err(why) => self.bury_entry(shard, &id, &fields, &why).await,
        }
    }

    /// What of a delivery is one shard's, is in the store.
    pub(super) async fn tell_stored(self: &Arc<Self>, number: usize, batches: &[Arc<Batch>]) {
        let shard = self.shards.get(number);
        let Some(hold) = self.holds().get(number) else { return };
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
                self.holds().note_claimed(number, false);
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
        face::note(&mut self.faces(), number, batches);
        for task in due.iter().filter_map(|task| parse_task(task)) {
            if let Err(error) = self.persist(&task).await {
                warn!(%task, %error, "writing the task record failed, will try again");
            }
        }
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
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

#[cfg(test)]
mod tests {
    use flowforge_test_services::redis::{Persistence, Redis};

    use super::super::link::Link;
    use super::super::url::RedisAddress;
    use super::*;

    /// Who looked before another took the shard must not remove a name that has been given entries since.
    #[tokio::test]
    async fn names_are_removed_only_by_who_holds_the_shard() {
        let redis = Redis::start(Persistence::None).await.unwrap();
        let link = Link::new(&RedisAddress::parse(&redis.url()).unwrap(), None).unwrap();
        let conn = link.conn().await.unwrap();
        let run = |words: &str| redis.command(&words.split(' ').collect::<Vec<_>>()).unwrap();
        let names = || run("XINFO CONSUMERS s g").lines().filter(|line| ["a", "b", "c"].contains(line)).count();
        run("XGROUP CREATE s g 0 MKSTREAM");
        for name in ["a", "b", "c"] {
            run(&format!("XGROUP CREATECONSUMER s g {name}"));
        }
        run("XADD s 1-0 h x");
        run("XREADGROUP GROUP g b STREAMS s >");
        run("HSET w owner a token 2");
        let forget = async |id: &str, token: &str| {
            let mut args = Args::default();
            args.push(id).push(token).push("g");
            FORGET.call(&conn, &["w", "s"], &args).await.unwrap();
        };
        forget("b", "1").await;
        forget("a", "1").await;
        assert_eq!(names(), 3, "fenced");
        forget("a", "2").await;
        assert_eq!(names(), 2, "c goes, and b has a pending entry");
        assert!(run("XPENDING s g").contains("\nb\n1"));
    }
}
