//! A task record as it is written into Redis: JSON, which whoever looks at a task's hash can read.

use std::collections::BTreeMap;

use flowforge_storage::{EpochStart, ProducerRecord, TaskKey, TaskRecord, TaskStatus};
use serde::{Deserialize, Serialize};
use serde_json::{Deserializer, Serializer};

/// The names and the order of a record's fields.
#[derive(Serialize, Deserialize)]
#[serde(remote = "TaskRecord")]
struct RecordJson {
    #[serde(flatten, with = "key")]
    task: TaskKey,
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

/// A task's key is two names among the others.
mod key {
    use flowforge_storage::TaskKey;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Names<T> {
        tenant: T,
        task_id: T,
    }

    pub(super) fn serialize<S: Serializer>(task: &TaskKey, serializer: S) -> Result<S::Ok, S::Error> {
        Names { tenant: task.tenant(), task_id: task.task_id() }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TaskKey, D::Error> {
        let Names { tenant, task_id } = Names::<String>::deserialize(deserializer)?;
        TaskKey::new(&tenant, &task_id).map_err(D::Error::custom)
    }
}

/// A task record as JSON.
pub(super) fn to_json(record: &TaskRecord) -> String {
    let mut json = Vec::new();
    RecordJson::serialize(record, &mut Serializer::new(&mut json)).expect("text and numbers are JSON");
    String::from_utf8(json).expect("JSON is text")
}

/// Reads a task record back.
pub(super) fn parse(json: &str) -> Option<TaskRecord> {
    let mut reader = Deserializer::from_str(json);
    let record = RecordJson::deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(record)
}

#[cfg(test)]
mod tests {
    use flowforge_storage::contract::sample;

    use super::*;

    #[test]
    fn a_record_is_written_as_it_always_was() {
        let record = TaskRecord { ended_at_ms: Some(7), ..sample::record(&sample::key("t")) };
        let json = to_json(&record);
        assert_eq!(parse(&json).as_ref(), Some(&record));
        assert!(json.starts_with(r#"{"tenant":"default","task_id":"t","version":"#), "{json}");
        let order = ["version", "workflow_id", "name", "labels", "attempt", "attempt_base", "dropped", "status"];
        let order =
            order.iter().chain(&["exit_code", "created_at_ms", "started_at_ms", "ended_at_ms", "epochs", "producers"]);
        let places: Vec<_> = order.map(|name| json.find(&format!("\"{name}\":")).expect(name)).collect();
        assert!(places.is_sorted(), "{json}");
        for broken in
            [json.replace(r#""t""#, r#""../t""#), json.replace(r#""version""#, r#""worse""#), format!("{json}]")]
        {
            assert_eq!(parse(&broken), None, "{broken}");
        }
    }
}
