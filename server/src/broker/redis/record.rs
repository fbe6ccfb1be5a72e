//! A task record as it is written into Redis: JSON, which whoever looks at a task's hash can read.

use std::collections::BTreeMap;

use flowforge_storage::{EpochStart, ProducerRecord, TaskKey, TaskRecord, TaskStatus};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct RecordJson {
    tenant: String,
    task_id: String,
    version: u64,
    workflow_id: String,
    name: String,
    labels: BTreeMap<String, String>,
    attempt: u32,
    attempt_base: u64,
    dropped: u64,
    status: TaskStatus,
    exit_code: Option<i32>,
    created_at_ms: i64,
    started_at_ms: i64,
    ended_at_ms: Option<i64>,
    epochs: Vec<EpochStart>,
    producers: Vec<ProducerRecord>,
}

/// A task record as JSON.
pub(super) fn to_json(record: &TaskRecord) -> String {
    let TaskRecord {
        task,
        version,
        workflow_id,
        name,
        labels,
        attempt,
        attempt_base,
        dropped,
        status,
        exit_code,
        created_at_ms,
        started_at_ms,
        ended_at_ms,
        epochs,
        producers,
    } = record.clone();
    let json = RecordJson {
        tenant: task.tenant().to_owned(),
        task_id: task.task_id().to_owned(),
        version,
        workflow_id,
        name,
        labels,
        attempt,
        attempt_base,
        dropped,
        status,
        exit_code,
        created_at_ms,
        started_at_ms,
        ended_at_ms,
        epochs,
        producers,
    };
    serde_json::to_string(&json).expect("text and numbers are JSON")
}

/// Reads a task record back.
pub(super) fn parse(json: &str) -> Option<TaskRecord> {
    let json: RecordJson = serde_json::from_str(json).ok()?;
    Some(TaskRecord {
        task: TaskKey::new(&json.tenant, &json.task_id).ok()?,
        version: json.version,
        workflow_id: json.workflow_id,
        name: json.name,
        labels: json.labels,
        attempt: json.attempt,
        attempt_base: json.attempt_base,
        dropped: json.dropped,
        status: json.status,
        exit_code: json.exit_code,
        created_at_ms: json.created_at_ms,
        started_at_ms: json.started_at_ms,
        ended_at_ms: json.ended_at_ms,
        epochs: json.epochs,
        producers: json.producers,
    })
}
