//! Where a task stands: what a viewer compares itself with.

use std::sync::Arc;

use flowforge_storage::{EpochStart, TaskRecord, TaskStatus};
use serde::{Deserialize, Serialize};

/// A task at one moment. `record` is `None` for a task that nobody knows yet.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// As the broker has it.
    pub record: Option<Arc<TaskRecord>>,
    /// Last offset given.
    pub end: u64,
    /// Last offset stored.
    pub stored: u64,
}

impl Position {
    /// The current epoch and its base.
    pub fn epoch(&self) -> EpochStart {
        self.record.as_ref().map_or_else(EpochStart::default, |record| record.epoch())
    }

    /// How the task ended; `None` while it runs or is unknown.
    pub fn ended(&self) -> Option<EndInfo> {
        self.record.as_ref().and_then(|record| EndInfo::of(record, self.end))
    }
}

/// What the end row and the `end` event say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndInfo {
    /// Which try ended.
    pub attempt: u32,
    /// The offset of the end row.
    pub offset: u64,
    /// Never running.
    pub status: TaskStatus,
    /// Where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Rows of this attempt before the end row.
    pub lines: u64,
    /// Lines of this attempt that were lost.
    pub dropped: u64,
    /// Nothing is missing: no line was lost and every producer closed.
    pub complete: bool,
}

impl EndInfo {
    /// Of a record that has ended, whose end row is at `offset`.
    pub fn of(record: &TaskRecord, offset: u64) -> Option<Self> {
        if record.status == TaskStatus::Running {
            return None;
        }
        let all_closed = record
            .producers
            .iter()
            .all(|producer| producer.outcome.is_some_and(|outcome| outcome.status != TaskStatus::Lost));
        Some(Self {
            attempt: record.attempt,
            offset,
            status: record.status,
            exit_code: record.exit_code,
            lines: offset.saturating_sub(record.attempt_base + 1),
            dropped: record.dropped,
            complete: record.dropped == 0 && all_closed,
        })
    }
}
