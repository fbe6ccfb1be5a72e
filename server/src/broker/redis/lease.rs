//! Producers that nobody hears of any more, and what is compared now and then because a hint may be lost.

use std::collections::HashMap;
use std::sync::Arc;

use flowforge_storage::{ProducerId, TaskKey};
use futures_util::stream::{self, StreamExt as _};
use redis::{FromRedisValue as _, RedisResult, Value};
use tracing::{info, warn};

use super::Shared;
use super::change::Cause;
use super::keys::{Shard, lease_member, parse_lease, parse_task};
use super::link::Conn;
use super::mirror::Mirror;
use super::script::{Args, LEASE, RENEW, texts};
use super::session::Seat;
use crate::broker::BrokerError;

/// Reads that are under way at once while comparing.
const AT_ONCE: usize = 64;

/// Records written in one round of helping.
const HELPED: usize = 100;

impl Shared {
    /// Moves the shard's lease clock, ends those whose time is over, and recovers the tasks of a memory that is new.
    pub(super) async fn sweep_shard(self: &Arc<Self>, shard: &Shard) -> Result<(), BrokerError> {
        let conn = self.link.conn().await.map_err(|error| super::link::refusal(&error))?;
        let mut args = Args::default();
        args.push(conn.run_id.as_bytes());
        let keys = [shard.clock.as_str(), shard.leases.as_str()];
        let answer = LEASE.call(&conn, &keys, &args).await;
        let answer = texts(&answer.map_err(|error| {
            self.link.failed(&conn, &error);
            super::link::refusal(&error)
        })?);
        let [fresh, run_id, members @ ..] = answer.as_slice() else { return Ok(()) };
        if fresh == "1" {
            let count = self.recover_tasks().await?;
            info!(shard = shard.number, running_tasks = count, "redis has a new memory, running tasks are recovered");
            let mut cmd = redis::cmd("HSET");
            cmd.arg(&shard.clock).arg("run_id").arg(run_id);
            let _ = self.link.run(&cmd).await; // Otherwise the next sweep does it again.
            return Ok(());
        }
        let mut expired: HashMap<TaskKey, Vec<ProducerId>> = HashMap::new();
        for (task, producer) in members.iter().filter_map(|member| parse_lease(member)) {
            expired.entry(task).or_default().push(producer);
        }
        for (task, producers) in expired {
            if let Err(error) = self.expire(shard, &task, &producers).await {
                warn!(%task, %error, "ending lost producers failed, will try again");
            }
        }
        Ok(())
    }

    async fn expire(
        self: &Arc<Self>,
        shard: &Shard,
        task: &TaskKey,
        producers: &[ProducerId],
    ) -> Result<(), BrokerError> {
        let cause = Cause { producer: None, opens: false, always: true, expired: producers };
        let ended = self.change(task, cause, |state, now_ms| {
            Ok(((), state.expire(std::time::Instant::now(), now_ms).into_iter().collect()))
        });
        match ended.await {
            Ok(_) => {
                self.flush_soon(task).await;
                Ok(())
            }
            // Recovering gives leases anew; what nobody knows needs none.
            Err(BrokerError::StateLost) if self.look(task).await?.is_missing() => {
                let mut cmd = redis::cmd("ZREM");
                cmd.arg(&shard.leases);
                for producer in producers {
                    cmd.arg(lease_member(task, *producer));
                }
                let _ = self.link.run(&cmd).await;
                Ok(())
            }
            Err(BrokerError::StateLost) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes records that became due while nobody was looking.
    pub(super) async fn help(&self, shard: &Shard) {
        let mut cmd = redis::cmd("SRANDMEMBER");
        cmd.arg(&shard.dirty).arg(HELPED);
        let Ok(dirty) = self.link.run(&cmd).await else { return };
        let tasks: Vec<TaskKey> = texts(&dirty).iter().filter_map(|task| parse_task(task)).collect();
        stream::iter(tasks)
            .for_each_concurrent(AT_ONCE, |task| async move {
                if let Err(error) = self.persist(&task).await {
                    warn!(%task, %error, "writing the task record failed, will try again");
                }
            })
            .await;
    }

    /// A whole lease from now on for these; errors are left to the next round.
    pub(super) async fn renew(&self, seats: &[Arc<Seat>]) {
        let mut by_shard: HashMap<usize, Args> = HashMap::new();
        for seat in seats {
            let args = by_shard.entry(self.shards.of(&seat.task).number).or_insert_with(|| {
                let mut args = Args::default();
                args.number(self.options.lease.as_millis());
                args
            });
            args.push(lease_member(&seat.task, seat.producer));
        }
        for (number, args) in by_shard {
            let shard = self.shards.get(number);
            let renewed: RedisResult<Value> = async {
                let conn = self.link.conn().await?;
                let renewed = RENEW.call(&conn, &[&shard.clock, &shard.leases], &args).await;
                renewed.inspect_err(|error| self.link.failed(&conn, error))
            }
            .await;
            if let Err(error) = renewed {
                tracing::debug!(%error, "renewing leases failed, will try again");
            }
        }
    }

    /// Compares sessions with Redis: acks that were not heard of, newer sessions, a lost state.
    pub(super) async fn compare_seats(&self, seats: &[Arc<Seat>]) {
        let Ok(conn) = self.link.conn().await else { return };
        let conn = &conn;
        stream::iter(seats.to_vec())
            .for_each_concurrent(AT_ONCE, |seat| async move { self.compare_seat(conn, &seat).await })
            .await;
    }

    async fn compare_seat(&self, conn: &Conn, seat: &Seat) {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.shards.of(&seat.task).meta(&seat.task)).arg("run_id").arg("epoch");
        for field in ["g", "q", "s"] {
            cmd.arg(format!("{field}:{}", seat.producer));
        }
        let answer = match conn.run(&cmd).await {
            Ok(answer) => texts(&answer),
            Err(error) => return self.link.failed(conn, &error),
        };
        let [run_id, epoch, generation, queued, stored] = answer.as_slice() else { return };
        let other_life = !conn.run_id.is_empty() && **run_id != *conn.run_id;
        if other_life || *epoch != seat.epoch.to_string() {
            return seat.lose();
        }
        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
        let (generation, queued, stored) = (number(generation), number(queued), number(stored));
        seat.note(|progress| {
            progress.generation = progress.generation.max(generation);
            progress.queued_seq = progress.queued_seq.max(queued);
            progress.stored_seq = progress.stored_seq.max(stored);
        });
    }

    /// Compares mirrors with Redis.
    pub(super) async fn compare_mirrors(self: &Arc<Self>) {
        stream::iter(self.mirrors())
            .for_each_concurrent(AT_ONCE, |mirror| async move {
                if let Err(error) = self.compare_mirror(&mirror).await {
                    tracing::debug!(task = %mirror.task, %error, "cannot compare a watched task now");
                }
            })
            .await;
    }

    /// Brings one up to date if it is not.
    pub(super) async fn compare_mirror(&self, mirror: &Mirror) -> Result<(), BrokerError> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.shards.of(&mirror.task).meta(&mirror.task));
        cmd.arg("epoch").arg("end").arg("stored").arg("version");
        let answer = self.link.run(&cmd).await.map_err(|error| super::link::refusal(&error))?;
        let numbers = Vec::<Option<u64>>::from_redis_value(answer).unwrap_or_default();
        let [Some(epoch), Some(end), Some(stored), Some(version)] = numbers[..] else { return Ok(()) };
        if mirror.is_behind(epoch, end, version) {
            self.refresh(mirror).await?;
        }
        mirror.stored(epoch, stored);
        Ok(())
    }
}
