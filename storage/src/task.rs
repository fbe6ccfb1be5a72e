//! What is known of a task beside its lines. The record outlives the lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::key::TaskKey;

/// The task as the broker last described it. Written whole; a write with a lower `version` than the stored one is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    /// Whose it is.
    pub task: TaskKey,
    /// Grows with every write of the record.
    pub version: u64,
    /// The workflow it belongs to, or empty.
    pub workflow_id: String,
    /// Shown to people; may be empty.
    pub name: String,
    /// Free pairs from the producer.
    pub labels: BTreeMap<String, String>,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// The last offset before this attempt began.
    pub attempt_base: u64,
    /// Lines of this attempt known to be lost: dropped by a client, or a gap. The rows that say so are the truth: after a crash
    /// it is counted anew from them.
    pub dropped: u64,
    /// How it stands.
    pub status: TaskStatus,
    /// Of the owner's process, where known.
    pub exit_code: Option<i32>,
    /// Milliseconds: the first Hello of all.
    pub created_at_ms: i64,
    /// Milliseconds: the first Hello of this attempt.
    pub started_at_ms: i64,
    /// Milliseconds: when this attempt ended.
    pub ended_at_ms: Option<i64>,
    /// Every beginning of a broker's memory of this task, oldest first, the current one last. At most
    /// [`TaskRecord::MAX_EPOCHS`], the newest kept.
    pub epochs: Vec<EpochStart>,
    /// The producers of this attempt, in the order in which they said Hello.
    pub producers: Vec<ProducerRecord>,
}

impl TaskRecord {
    /// How many epochs a record remembers; a reader from before the oldest starts anew.
    pub const MAX_EPOCHS: usize = 64;

    /// The current epoch, and the last offset that was given before it began. (0, 0) if none has begun.
    pub fn epoch(&self) -> EpochStart {
        self.epochs.last().copied().unwrap_or_default()
    }
}

/// One beginning of the broker's memory of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EpochStart {
    /// Milliseconds; strictly growing per task.
    pub epoch: u64,
    /// Offsets of this epoch are all greater than it; rows of older epochs above it do not count.
    pub base: u64,
}

/// One producer of the task's current attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerRecord {
    /// 32 hex digits.
    pub id: String,
    /// Decides the task's status.
    pub owner: bool,
    /// How it ended; absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What its Close says that it sent; absent while it is open, and where nobody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

impl ProducerRecord {
    /// One that has just said Hello.
    pub fn open(id: String, owner: bool) -> Self {
        Self { id, owner, outcome: None, claim: None }
    }
}

/// What a producer says of itself at its end: what stored lines are compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The last sequence number that it gave.
    pub final_seq: u64,
    /// What it sent as lines; absent where the client does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Somebody else closed for it, because it had died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
}

/// The lines that a producer sent, as `Proof` in `logs.proto` has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How many.
    pub lines: u64,
    /// Of their messages.
    pub bytes: u64,
    /// 64 hex digits.
    pub digest: String,
}

/// What was left of a producer that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// All that it had captured.
    Clean,
    /// Perhaps not all.
    Damaged,
}

/// How a producer, or a task, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Never [`TaskStatus::Running`].
    pub status: TaskStatus,
    /// Where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Some producer is open.
    Running,
    /// The owner closed it so.
    Succeeded,
    /// The owner closed it so.
    Failed,
    /// The owner's lease ran out without a Close.
    Lost,
}

impl TaskStatus {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Running, Self::Succeeded, Self::Failed, Self::Lost];

    /// Its name in JSON, URLs and stores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A task record together with what the store knows of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTask {
    /// As last written.
    pub record: TaskRecord,
    /// First offset kept: 1 until retention deletes, `end + 1` when every line is gone.
    pub floor: u64,
    /// Last offset stored; 0 if none was.
    pub end: u64,
}
