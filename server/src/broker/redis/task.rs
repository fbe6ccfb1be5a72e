//! A live task as Redis holds it, and the plan of a change.
//!
//! Fields of `logs:meta:…`: `run_id` (whose memory), `rev` (counts changes that are not plain appends), `epoch`, `base`,
//! `end`, `stored`, `hold`, `c` and `ct` (newest row's arrival: ms and RFC 3339), `record` (JSON), `version` (its version),
//! `persisted` (the version that the store has), `reopened` (the version in which an ended task was taken up again), `ready` (the
//! epoch whose record the store has), `ended` (1 or absent); for each producer `g:` generation, `q:` last queued and `s:` last stored sequence number, `o:` present while it is open.
//!
//! A change is worked out in Rust, by the rules that the embedded broker has as well, and committed by a script that refuses
//! it when what it was worked out from is not so any more. Then it is worked out anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use flowforge_storage::{LogRecord, ProducerId, TaskKey, TaskStatus};
use redis::{FromRedisValue as _, Value};
use serde::Serialize;

use super::keys::lease_member;
use super::script::{Args, text};
use super::{record, wire};
use crate::broker::task::state::TaskState;
use crate::broker::{BrokerError, Progress};
use crate::clock::rfc3339_ms;

/// What one look at a task found.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Of the server that answered.
    pub(super) server: String,
    fields: HashMap<String, String>,
}

impl Snapshot {
    /// Of the answer of `read.lua` to a look without lines.
    pub(super) fn of(answer: &Value) -> Self {
        let Value::Array(parts) = answer else { return Self::default() };
        let fields = parts.get(1).cloned().map(HashMap::from_redis_value).and_then(Result::ok).unwrap_or_default();
        Self { server: parts.first().map(text).unwrap_or_default(), fields }
    }

    /// Redis knows nothing of the task.
    pub(super) fn is_missing(&self) -> bool {
        !self.fields.contains_key("run_id")
    }

    /// What is known comes from an earlier life of the server.
    pub(super) fn is_lost(&self) -> bool {
        self.field("run_id") != self.server
    }

    /// The store has the record that began this epoch.
    pub(super) fn is_ready(&self) -> bool {
        self.field("ready") == self.field("epoch")
    }

    /// One field; empty if it is not there.
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or(0)
    }

    /// The task in the form that its rules know. `expired`: producers whose lease is over.
    pub(super) fn state(&self, expired: &[ProducerId]) -> Result<TaskState, BrokerError> {
        let mut state = TaskState {
            record: None,
            persisted_version: self.number("persisted"),
            reopened_version: self.number("reopened"),
            hold: self.number("hold"),
            // After a restart from an older file the store may have more than Redis remembers.
            end: self.number("end").max(self.number("stored")),
            stored: self.number("stored"),
            last_created_ms: self.number("c") as i64,
            ..TaskState::default()
        };
        if !self.is_missing() {
            let record = record::parse(self.field("record"));
            let record =
                record.ok_or_else(|| BrokerError::Unavailable("a task's record in Redis is damaged".into()))?;
            state.record = Some(Arc::new(record));
        }
        for (field, generation) in &self.fields {
            let Some(id) = field.strip_prefix("g:").and_then(ProducerId::from_hex) else { continue };
            let stored_seq = self.number(&format!("s:{id}"));
            let progress = Progress {
                generation: generation.parse().unwrap_or(0),
                queued_seq: self.number(&format!("q:{id}")).max(stored_seq),
                stored_seq,
            };
            state.recall_producer(id, progress, expired.contains(&id));
        }
        Ok(state)
    }
}

/// A change to commit; `commit.lua` reads it as JSON.
#[derive(Debug, Default, Serialize)]
pub(super) struct Plan {
    run_id: String,
    /// Begins a new epoch, or the task.
    rebuild: bool,
    /// The change was worked out from this revision.
    rev: String,
    /// And, where the change depends on it, from this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_end: Option<String>,
    /// Fields and values that must still be so.
    guard: Vec<String>,
    set: Vec<String>,
    del: Vec<String>,
    /// What the record now says is true once everything up to here is stored.
    hold: bool,
    rows: Vec<PlannedRows>,
    lease_ms: String,
    /// Members that get a whole lease.
    lease: Vec<String>,
    /// Members that need none any more.
    release: Vec<String>,
    /// Members whose lease must be over.
    expired: Vec<String>,
    now: String,
    now_text: String,
    tenant: String,
    task: String,
    channel: String,
    hints: String,
    head: String,
    #[serde(skip)]
    pub(super) packed: Vec<Vec<u8>>,
}

#[derive(Debug, Serialize)]
struct PlannedRows {
    producer: String,
    count: usize,
    last_seq: String,
    /// JSON before and after the time of arrival.
    lines: Vec<(String, String)>,
}

/// Whom and what a change is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    /// Its sequence numbers must not have moved.
    pub(super) producer: Option<ProducerId>,
    /// It begins a whole lease.
    pub(super) opens: bool,
    /// Ms.
    pub(super) now_ms: i64,
    /// Ms.
    pub(super) lease_ms: u128,
}

impl Plan {
    /// The difference between what was read and what shall be.
    pub(super) fn new(
        task: &TaskKey,
        seen: &Snapshot,
        state: &TaskState,
        rows: &[LogRecord],
        subject: Subject,
    ) -> Self {
        let rebuild = seen.is_lost();
        let (wanted, hold) = (fields(state, seen, rebuild), state.hold != seen.number("hold"));
        let set = wanted.iter().filter(|(name, value)| seen.field(name) != value.as_str());
        let del = seen.fields.keys().filter(|name| name.starts_with("o:") || *name == "ended");
        let attempt = |record: Option<String>| record.and_then(|json| Some(record::parse(&json)?.attempt_base));
        let new_attempt =
            attempt(Some(seen.field("record").to_owned())) != state.record.as_ref().map(|record| record.attempt_base);
        let ends = rows.iter().any(|row| row.producer == ProducerId::SERVER);
        let mut plan = Self {
            rebuild,
            rev: seen.field("rev").to_owned(),
            at_end: (ends || new_attempt || rebuild).then(|| seen.field("end").to_owned()),
            set: set.flat_map(|(name, value)| [name.clone(), value.clone()]).collect(),
            del: del.filter(|name| !wanted.contains_key(*name)).cloned().collect(),
            hold,
            lease_ms: subject.lease_ms.to_string(),
            now: subject.now_ms.to_string(),
            now_text: rfc3339_ms(subject.now_ms),
            tenant: task.tenant().to_owned(),
            task: task.to_string(),
            head: wire::json_head(task),
            ..Self::default()
        };
        if let Some(producer) = subject.producer {
            let field = format!("q:{producer}");
            plan.guard = vec![field.clone(), seen.field(&field).to_owned()];
        }
        plan.add_rows(task, rows);
        plan.add_leases(task, seen, &wanted, subject);
        plan
    }

    fn add_rows(&mut self, task: &TaskKey, rows: &[LogRecord]) {
        for group in rows.chunk_by(|a, b| a.producer == b.producer) {
            let Some(last) = group.last() else { continue };
            let line = |row: &LogRecord| {
                let (middle, tail) = wire::json_parts(task, &LogRecord { offset: 0, ..row.clone() });
                (String::from_utf8_lossy(&middle).into_owned(), String::from_utf8_lossy(&tail).into_owned())
            };
            self.rows.push(PlannedRows {
                producer: last.producer.to_string(),
                count: group.len(),
                last_seq: last.seq.to_string(),
                lines: group.iter().map(line).collect(),
            });
            self.packed.push(wire::pack(group));
        }
    }

    fn add_leases(&mut self, task: &TaskKey, seen: &Snapshot, wanted: &BTreeMap<String, String>, subject: Subject) {
        let id = |field: &str| field.strip_prefix("o:").and_then(ProducerId::from_hex);
        for producer in wanted.keys().filter_map(|field| id(field)) {
            let opens = subject.opens && subject.producer == Some(producer);
            if opens || self.rebuild || seen.field(&format!("o:{producer}")).is_empty() {
                self.lease.push(lease_member(task, producer));
            }
        }
        self.release = self.del.iter().filter_map(|field| id(field)).map(|id| lease_member(task, id)).collect();
    }

    /// The leases of these are over, and go with the change.
    pub(super) fn expire(&mut self, members: Vec<String>) {
        self.release.extend(members.iter().cloned());
        self.expired = members;
    }

    /// Nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.expired.is_empty()
            && self.set.is_empty()
            && self.del.is_empty()
            && self.rows.is_empty()
            && self.lease.is_empty()
            && !self.rebuild
    }

    /// The script's arguments. `channels`: where the script itself publishes lines and hints; `None`: the caller does.
    pub(super) fn args(&mut self, run_id: &str, channels: Option<(&str, &str)>) -> Args {
        run_id.clone_into(&mut self.run_id);
        let (channel, hints) = channels.unwrap_or_default();
        channel.clone_into(&mut self.channel);
        hints.clone_into(&mut self.hints);
        let mut args = Args::default();
        args.bytes(serde_json::to_vec(self).expect("text and numbers are JSON"));
        for packed in &self.packed {
            args.push(packed);
        }
        args
    }

    /// The published form of the rows, once the script has said where they are.
    pub(super) fn messages(&self, firsts: &[u64], created: &str) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for (rows, first) in self.rows.iter().zip(firsts) {
            for ((middle, tail), offset) in rows.lines.iter().zip(*first..) {
                messages.push(format!("{}{offset}{middle}{created}{tail}", self.head).into_bytes());
            }
        }
        messages
    }

    /// How many groups of rows it appends.
    pub(super) fn groups(&self) -> usize {
        self.rows.len()
    }
}

/// The fields that this state wants, but for those that only scripts move.
fn fields(state: &TaskState, seen: &Snapshot, rebuild: bool) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    let mut put = |name: String, value: String| wanted.insert(name, value);
    for (id, progress) in state.progress() {
        put(format!("g:{id}"), progress.generation.to_string());
        if progress.queued_seq > 0 {
            put(format!("q:{id}"), progress.queued_seq.to_string());
        }
        if rebuild && progress.stored_seq > 0 {
            put(format!("s:{id}"), progress.stored_seq.to_string());
        }
    }
    if state.hold != seen.number("hold") || rebuild {
        put("hold".into(), state.hold.to_string());
    }
    if let Some(record) = &state.record {
        let start = record.epoch();
        put("epoch".into(), start.epoch.to_string());
        put("base".into(), start.base.to_string());
        put("version".into(), record.version.to_string());
        if state.reopened_version > 0 {
            put("reopened".into(), state.reopened_version.to_string());
        }
        if rebuild || record.version.to_string() != seen.field("version") {
            put("record".into(), record::to_json(record));
        }
        if record.status != TaskStatus::Running {
            put("ended".into(), "1".into());
        }
        let open = record.producers.iter().filter(|producer| producer.outcome.is_none());
        for id in open.filter_map(|producer| ProducerId::from_hex(&producer.id)) {
            put(format!("o:{id}"), "1".into());
        }
        if rebuild {
            put("end".into(), start.base.to_string());
            put("stored".into(), state.stored.to_string());
            put("persisted".into(), state.persisted_version.to_string());
            put("c".into(), state.last_created_ms.to_string());
            put("ct".into(), rfc3339_ms(state.last_created_ms));
        }
    }
    wanted
}
