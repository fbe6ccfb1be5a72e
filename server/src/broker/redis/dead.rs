//! Dead letters: what can be neither stored nor read is kept in `logs:dead:…` for operators, and stops nobody.

use flowforge_storage::{LogRecord, TaskKey};
use redis::{Cmd, RedisResult};
use tracing::error;

use super::Shared;
use super::keys::{GROUP, Shard};
use crate::line::write_json;

/// So many are kept, or a few more: a store that refuses every row must not fill Redis.
const KEPT: usize = 10_000;

impl Shared {
    /// An entry of the queue that nobody can read.
    pub(super) async fn bury_entry(&self, shard: &Shard, id: &str, fields: &[Vec<u8>], why: &str) -> RedisResult<()> {
        error!(shard = shard.number, id, why, "an entry of the queue cannot be read, it is kept as a dead letter");
        self.link.run(letter(shard).arg("id").arg(id).arg("why").arg(why).arg(fields)).await?;
        self.link.run(redis::cmd("XACK").arg(&shard.stream).arg(GROUP).arg(id)).await?;
        self.link.run(redis::cmd("XDEL").arg(&shard.stream).arg(id)).await.map(drop)
    }

    /// A row that the store refuses. After a crash it may be here twice.
    pub(super) async fn bury_row(&self, task: &TaskKey, record: &LogRecord, why: &str) {
        let mut line = Vec::new();
        write_json(task, record, &mut line);
        let mut letter = letter(self.shards.of(task));
        letter.arg("task").arg(task.to_string()).arg("offset").arg(record.offset).arg("why").arg(why);
        if let Err(error) = self.link.run(letter.arg("line").arg(line)).await {
            error!(%task, offset = record.offset, %error, "the refused row cannot be kept as a dead letter");
        }
    }
}

fn letter(shard: &Shard) -> Cmd {
    let mut cmd = redis::cmd("XADD");
    cmd.arg(&shard.dead).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
    cmd
}
