//! Every key and channel in Redis, and how a line is delivered again.
//!
//! `<task>` is `<task_id>`, or `<tenant>/<task_id>` outside the default tenant. `<stream>` is the name of the task's shard:
//! `logs:stream` where `queue.shards` is 1, else `logs:stream:<n>`. What stands in braces is what Redis Cluster hashes, so
//! that a shard's stream and everything of its tasks live on one node and one script may change them together.
//!
//! | key | type | what |
//! |---|---|---|
//! | `logs:shards` | string | how many shards there are, written once |
//! | `<stream>` | stream | the durable queue: one entry a batch, group `log_workers` |
//! | `logs:meta:{<stream>}:<task>` | hash | the truth about a live task, see `task.rs` |
//! | `logs:recent:{<stream>}:<task>` | stream | the lines that are not stored yet, entry id `<last offset>-0` |
//! | `logs:bytes:{<stream>}` | hash | queued bytes by tenant |
//! | `logs:leases:{<stream>}` | sorted set | `<task>` NUL `<producer>` by deadline on the lease clock |
//! | `logs:clock:{<stream>}` | hash | the lease clock, and whose memory the shard's tasks were recovered into |
//! | `logs:dirty:{<stream>}` | set | tasks whose record the store does not have yet |
//! | `logs:worker:{<stream>}` | hash | which worker reads the shard, until when, with which fencing token |
//! | `logs:state:{<stream>}:<task>` | hash | for other programs: `status`, `exit_code`, `lines`, `last_line`, `progress`, `updated_at`; an hour |
//! | `logs:dead:{<stream>}` | stream | for operators: entries that cannot be read, rows that the store refuses; the last 10,000 or so |
//! | `logs:workers` | sorted set | live workers by their last sign of life |
//! | `logs:connections` | hash | the connection of each worker, as Redis numbers it; not in a Cluster |
//!
//! | channel | what |
//! |---|---|
//! | `logs:task:<task>` | one message a line: its JSON |
//! | `logs:frames:<task>` | transient frames: their JSON |
//! | `logs:stored:<n>` | hints of shard n: what is stored, which task changed |
//!
//! **Delivery.** An entry is appended together with the offsets of its lines (`append.lua`). The one worker that holds the
//! shard reads it with XREADGROUP, the writer inserts it into the store, and `stored.lua` acknowledges and deletes it, all in
//! offset order. Entries are never trimmed by length. A worker that does not renew its hold for `queue.claim_idle` loses it;
//! whoever takes the shard claims every pending entry, oldest first, before it reads a new one. The first worker may wake up
//! and insert as well: the rows are the same, and `stored.lua` refuses its outdated token.

use flowforge_storage::{ProducerId, TaskKey};

/// How many shards there are.
pub(super) const SHARDS: &str = "logs:shards";

/// Live workers.
pub(super) const WORKERS: &str = "logs:workers";

/// Which connection each has.
pub(super) const CONNECTIONS: &str = "logs:connections";

/// The consumer group of every shard's stream.
pub(super) const GROUP: &str = "log_workers";

/// One line a message.
pub(super) const LINES: &str = "logs:task:";

/// Transient frames.
pub(super) const FRAMES: &str = "logs:frames:";

/// Hints of one shard.
pub(super) const HINTS: &str = "logs:stored:";

/// The names of one shard's keys.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    /// From 0.
    pub(super) number: usize,
    /// The durable queue.
    pub(super) stream: String,
    /// Queued bytes by tenant.
    pub(super) bytes: String,
    /// Deadlines of producers.
    pub(super) leases: String,
    /// The lease clock.
    pub(super) clock: String,
    /// Tasks whose record the store does not have yet.
    pub(super) dirty: String,
    /// Who reads the shard.
    pub(super) worker: String,
    /// Entries that cannot be read.
    pub(super) dead: String,
    /// Hints.
    pub(super) hints: String,
}

impl Shard {
    fn new(number: usize, count: usize) -> Self {
        let stream = if count == 1 { "logs:stream".to_owned() } else { format!("logs:stream:{number}") };
        let key = |what: &str| format!("logs:{what}:{{{stream}}}");
        Self {
            number,
            bytes: key("bytes"),
            leases: key("leases"),
            clock: key("clock"),
            dirty: key("dirty"),
            worker: key("worker"),
            dead: key("dead"),
            hints: format!("{HINTS}{number}"),
            stream,
        }
    }

    /// The hash of one task.
    pub(super) fn meta(&self, task: &TaskKey) -> String {
        format!("logs:meta:{{{}}}:{task}", self.stream)
    }

    /// What one task looks like.
    pub(super) fn state(&self, task: &TaskKey) -> String {
        format!("logs:state:{{{}}}:{task}", self.stream)
    }

    /// The recent lines of one task.
    pub(super) fn recent(&self, task: &TaskKey) -> String {
        format!("logs:recent:{{{}}}:{task}", self.stream)
    }
}

/// All shards.
#[derive(Debug)]
pub(super) struct Shards(Vec<Shard>);

impl Shards {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|number| Shard::new(number, count)).collect())
    }

    /// The shard of a task.
    pub(super) fn of(&self, task: &TaskKey) -> &Shard {
        &self.0[shard_number(&task.to_string(), self.0.len())]
    }

    pub(super) fn get(&self, number: usize) -> &Shard {
        &self.0[number]
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Shard> {
        self.0.iter()
    }
}

/// FNV-1a, 64 bits: every version and every machine must come to the same shard.
fn shard_number(task: &str, count: usize) -> usize {
    let hash = task
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of FNV are weak on short names.
    ((hash ^ (hash >> 32)) % count as u64) as usize
}

/// A member of the leases.
pub(super) fn lease_member(task: &TaskKey, producer: ProducerId) -> String {
    format!("{task}\0{producer}")
}

/// Reads a member of the leases back.
pub(super) fn parse_lease(member: &str) -> Option<(TaskKey, ProducerId)> {
    let (task, producer) = member.split_once('\0')?;
    Some((parse_task(task)?, ProducerId::from_hex(producer)?))
}

/// Reads `<task>` back.
pub(super) fn parse_task(text: &str) -> Option<TaskKey> {
    let (tenant, id) = text.split_once('/').unwrap_or(("", text));
    TaskKey::new(tenant, id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stays_in_its_shard_for_ever() {
        let of = |task: &str| shard_number(task, 4);
        let golden = [of("a"), of("b"), of("train-1"), of("train-2"), of("team/train-1"), of("0")];
        assert_eq!(golden, GOLDEN);
        let mut seen = [0; 4];
        (0..1000).for_each(|n| seen[of(&format!("task-{n}"))] += 1);
        assert!(seen.iter().all(|count| (200..300).contains(count)), "{seen:?}");
    }

    /// Worked out by another program. A change moves every task away from its lines.
    const GOLDEN: [usize; 6] = [0, 1, 3, 2, 1, 3];

    #[test]
    fn the_keys_are_those_of_the_design() {
        let task = TaskKey::new("team", "t").unwrap();
        let one = Shards::new(1);
        assert_eq!(one.of(&task).stream, "logs:stream");
        assert_eq!(one.of(&task).meta(&task), "logs:meta:{logs:stream}:team/t");
        let four = Shards::new(4);
        let shard = four.get(2);
        assert_eq!((shard.stream.as_str(), shard.hints.as_str()), ("logs:stream:2", "logs:stored:2"));
        assert_eq!(shard.recent(&task), "logs:recent:{logs:stream:2}:team/t");
    }

    #[test]
    fn members_and_tasks_survive_their_text_form() {
        for task in [TaskKey::new("", "a.b").unwrap(), TaskKey::new("team", "x").unwrap()] {
            let producer = ProducerId([7; 16]);
            assert_eq!(parse_lease(&lease_member(&task, producer)), Some((task, producer)));
        }
        assert_eq!(parse_lease("no producer"), None);
    }
}
