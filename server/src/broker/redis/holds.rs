//! Which worker reads which shard.
//!
//! The hold on a shard is a lease of `queue.claim_idle` with a fencing token. Shards are spread over the live workers in the
//! order of their names. When a worker joins, the others read no more of what they leave to it, and hand it over once all
//! that they had read is stored; when one goes, the others take what it held.
//!
//! A worker that was killed is not waited for: Redis sees its connection end. Where two looks in a row find no connection of
//! it, its holds are void. That it lives in spite of that does no harm: it is fenced as one that was frozen for too long. What
//! dies with its machine leaves a connection, and in a Cluster nobody knows whose is whose: there the lease tells.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use redis::{FromRedisValue as _, RedisResult};
use tokio::time::Instant;
use tracing::{debug, info};

use super::Shared;
use super::keys::{CONNECTIONS, Shard, WORKERS};
use super::link::Conn;
use super::script::{Args, CLAIM, GONE, HEARTBEAT, text, texts};
use crate::broker::Batch;

/// A shard that this worker reads.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) token: String,
    /// Not renewed until then, it is lost.
    pub(super) until: Instant,
    /// Everything that was pending has been read.
    pub(super) claimed: bool,
    /// Another worker shall have it: nothing more is read.
    handed_over: bool,
}

/// The shards of this worker.
#[derive(Default)]
pub(super) struct Holds {
    shards: HashMap<usize, Hold>,
    /// Workers that had no connection when this one last looked: name and connection.
    missed: HashSet<(String, String)>,
}

impl Holds {
    pub(super) fn get(&self, number: usize) -> Option<Hold> {
        self.shards.get(&number).cloned()
    }

    /// Shards to read from.
    pub(super) fn wanted(&self) -> Vec<usize> {
        self.shards.iter().filter(|(_, hold)| !hold.handed_over).map(|(number, _)| *number).collect()
    }

    /// Whether everything pending in the shard has been read, and is in the local queue or stored.
    pub(super) fn note_claimed(&mut self, number: usize, claimed: bool) {
        if let Some(hold) = self.shards.get_mut(&number) {
            hold.claimed = claimed;
        }
    }
}

impl Shared {
    pub(super) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sign of life, and each shard taken, kept or given up by what the other workers leave to this one.
    pub(super) async fn spread(&self) -> RedisResult<()> {
        let conn = self.link.conn().await?;
        let result = self.spread_on(&conn).await;
        result.inspect_err(|error| self.link.failed(&conn, error))
    }

    async fn spread_on(&self, conn: &Conn) -> RedisResult<()> {
        let (leaving, lasts) = (self.is_leaving(), self.options.claim_idle.as_millis());
        let mut args = Args::default();
        args.push(&self.id).number(lasts).push(if leaving { "0" } else { "1" });
        let mut live = texts(&HEARTBEAT.call(conn, &[WORKERS], &args).await?);
        match self.without_connection(conn, &live).await {
            Ok(gone) => live.retain(|id| !gone.contains(id)),
            // It may not be allowed, and is only a short cut.
            Err(error) => debug!(%error, "cannot see which workers have a connection, their leases tell"),
        }
        let mine = live.iter().position(|id| *id == self.id);
        for shard in self.shards.iter() {
            let wanted = mine.is_some_and(|mine| shard.number % live.len() == mine);
            let held = self.holds().get(shard.number);
            if held.is_none() && !wanted {
                continue;
            }
            // A shard is handed on only when everything taken from it is stored.
            let keep = wanted || self.queue.has_of_shard(shard.number);
            let asked = Instant::now();
            let mut args = Args::default();
            args.push(&self.id).number(lasts).push(if keep { "1" } else { "0" });
            let token = text(&CLAIM.call(conn, &[&shard.worker], &args).await?);
            self.note_hold(shard, held.as_ref(), token, asked, wanted);
        }
        Ok(())
    }

    fn note_hold(&self, shard: &Shard, held: Option<&Hold>, token: String, asked: Instant, wanted: bool) {
        let number = shard.number;
        let same = held.is_some_and(|held| held.token == token);
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
        let until = asked + self.options.claim_idle;
        let mut holds = self.holds();
        // As it is now: a delivery that could not be told of may have said otherwise since `held` was read.
        let claimed = same && holds.shards.get(&number).is_some_and(|hold| hold.claimed);
        holds.shards.insert(number, Hold { token, until, claimed, handed_over: !wanted });
    }

    /// Says which connection this worker has, and ends the holds of those that have none any more. Returns who they were.
    async fn without_connection(&self, conn: &Conn, live: &[String]) -> RedisResult<HashSet<String>> {
        if conn.client.is_empty() {
            return Ok(HashSet::new());
        }
        let known =
            HashMap::<String, String>::from_redis_value(conn.run(redis::cmd("HGETALL").arg(CONNECTIONS)).await?)?;
        if self.is_leaving() {
            conn.run(redis::cmd("HDEL").arg(CONNECTIONS).arg(&self.id)).await?;
        } else if known.get(&self.id).is_none_or(|client| **client != *conn.client) {
            conn.run(redis::cmd("HSET").arg(CONNECTIONS).arg(&self.id).arg(&*conn.client)).await?;
        }
        let others: Vec<(String, String)> = known.into_iter().filter(|(id, _)| *id != self.id).collect();
        if others.is_empty() {
            return Ok(HashSet::new());
        }
        let mut list = redis::cmd("CLIENT");
        list.arg("LIST").arg("ID").arg(others.iter().map(|(_, client)| client).collect::<Vec<_>>());
        let list = text(&conn.run(&list).await?);
        let connected: HashSet<&str> =
            list.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next()).collect();
        let missing: HashSet<_> =
            others.into_iter().filter(|(_, client)| !connected.contains(client.as_str())).collect();
        let missed = std::mem::replace(&mut self.holds().missed, missing.clone());
        let mut gone = HashSet::new();
        for (id, client) in missing.intersection(&missed) {
            let mut keys = vec![WORKERS, CONNECTIONS];
            keys.extend(self.shards.iter().map(|shard| shard.worker.as_str()));
            let mut args = Args::default();
            args.push(id).push(client);
            // Not if it is back with another connection.
            if text(&GONE.call(conn, &keys, &args).await?) == "1" {
                if live.contains(id) {
                    info!(worker = id, "a worker has no connection any more, others take its shards");
                }
                gone.insert(id.clone());
            }
        }
        Ok(gone)
    }

    pub(super) fn let_shard_go(&self, number: usize) {
        self.holds().shards.remove(&number);
        self.queue.forget(|batch| is_of(batch, number));
    }

    /// Gives up every shard, once nothing of it is queued.
    pub(super) async fn leave_shards(&self) {
        if let Err(error) = self.spread().await {
            debug!(%error, "cannot give up shards, their holds run out");
        }
        self.holds().shards.clear();
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.holds().shards.len()
    }
}

pub(super) fn is_of(batch: &Batch, shard: usize) -> bool {
    batch.entry.as_ref().is_some_and(|entry| entry.shard == shard)
}
