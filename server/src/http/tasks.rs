//! `GET /api/v1/tasks` and `GET /api/v1/tasks/{id}`.

use axum::Json;
use axum::extract::{Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flowforge_storage::{StoredTask, TaskCursor, TaskFilter, TaskKey, TaskStatus, key};
use serde_json::{Value, json};

use super::params::{Params, TaskId};
use super::{AppState, Problem};
use crate::broker::{EndInfo, Position};
use crate::clock::rfc3339_ms;
use crate::proof::{Completeness, Report};

const DEFAULT_TASKS: u64 = 100;
const MAX_TASKS: u64 = 1_000;

/// `{"tasks": [...], "next_cursor"}`, newest first.
pub(super) async fn list(
    State(state): State<AppState>,
    query: Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Problem> {
    let mut params = Params::new(query)?;
    let tenant = params.text("tenant").unwrap_or_else(|| key::DEFAULT_TENANT.to_owned());
    key::check("tenant", &tenant)?;
    let status = params.text("status").map(|name| parse_status(&name)).transpose()?;
    let filter = TaskFilter { tenant: Some(tenant), status, text: params.text("q") };
    let limit = params.number("limit")?.unwrap_or(DEFAULT_TASKS).clamp(1, MAX_TASKS);
    let cursor = params.text("cursor").map(|text| parse_cursor(&text)).transpose()?;
    params.finish()?;
    let page = state.store.tasks(&filter, cursor.as_ref(), usize::try_from(limit).unwrap_or(1)).await?;
    let tasks: Vec<Value> =
        page.tasks.iter().map(|task| task_json(task, state.broker.peek(&task.record.task))).collect();
    Ok(Json(json!({"tasks": tasks, "next_cursor": page.next.as_ref().map(write_cursor)})))
}

/// One task, as it stands now.
pub(super) async fn one(
    State(state): State<AppState>,
    TaskId(task_id): TaskId,
    query: Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Problem> {
    let mut params = Params::new(query)?;
    let task = params.task(&task_id)?;
    params.finish()?;
    let position = state.broker.position(&task).await?;
    // A task is shown to its readers a moment before its first record is stored.
    let unstored = || {
        let record = position.record.as_deref()?.clone();
        Some(StoredTask { record, floor: 1, end: position.end })
    };
    let stored = state.store.task(&task).await?.or_else(unstored);
    let stored = stored.ok_or_else(|| Problem::not_found(format!("no task {task} is known")))?;
    let report = state.prover.report(&position).await;
    let mut json = task_json(&stored, Some(position));
    if let Some(report) = report {
        json["completeness"] = completeness_json(&report);
    }
    Ok(Json(json))
}

/// What the broker knows is newer than what is stored.
fn task_json(stored: &StoredTask, live: Option<Position>) -> Value {
    let position = live.filter(|position| position.record.is_some());
    let record = position.as_ref().and_then(|position| position.record.as_deref()).unwrap_or(&stored.record);
    let end = position.as_ref().map_or(stored.end, |position| position.end);
    let ended = EndInfo::of(record, end);
    // The end row is the last of an attempt, and no line of it.
    let lines = ended.as_ref().map_or(end.saturating_sub(record.attempt_base), |info| info.lines);
    let mut json = json!({
        "tenant": record.task.tenant(),
        "task_id": record.task.task_id(),
        "attempt": record.attempt,
        "status": record.status.name(),
        "created_at": rfc3339_ms(record.created_at_ms),
        "started_at": rfc3339_ms(record.started_at_ms),
        "epoch": record.epoch().epoch,
        "floor": stored.floor,
        "end": end,
        "lines": lines,
        "stored": position.as_ref().map_or(stored.end, |position| position.stored),
        "dropped": record.dropped,
        "producers": record.producers.len(),
    });
    let optional = [
        ("workflow_id", (!record.workflow_id.is_empty()).then(|| json!(record.workflow_id))),
        ("name", (!record.name.is_empty()).then(|| json!(record.name))),
        ("labels", (!record.labels.is_empty()).then(|| json!(record.labels))),
        ("exit_code", record.exit_code.map(|code| json!(code))),
        ("ended_at", record.ended_at_ms.map(|ms| json!(rfc3339_ms(ms)))),
        ("complete", ended.map(|info| json!(info.complete))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            json[name] = value;
        }
    }
    json
}

/// The task's, and beside it each producer's.
fn completeness_json(report: &Report) -> Value {
    let mut json = json!(report.task);
    if !report.producers.is_empty() {
        let of_one = |(id, of): &(String, Completeness)| {
            let mut json = json!(of);
            json["producer"] = json!(id);
            json
        };
        json["producers"] = report.producers.iter().map(of_one).collect();
    }
    json
}

fn parse_status(name: &str) -> Result<TaskStatus, Problem> {
    TaskStatus::from_name(name).ok_or_else(|| {
        Problem::bad_request(format!("status must be running, succeeded, failed or lost, but is {name:?}"))
    })
}

fn write_cursor(cursor: &TaskCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}/{}/{}", cursor.created_at_ms, cursor.task.tenant(), cursor.task.task_id()))
}

fn parse_cursor(text: &str) -> Result<TaskCursor, Problem> {
    let bad =
        || Problem::bad_request("cursor is not one that this server gave; leave it out to begin at the newest task");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let mut parts = text.splitn(3, '/');
    let (created, tenant, task_id) = (parts.next(), parts.next(), parts.next());
    let created_at_ms = created.and_then(|ms| ms.parse().ok()).ok_or_else(bad)?;
    let task = TaskKey::new(tenant.unwrap_or(""), task_id.unwrap_or("")).map_err(|_| bad())?;
    Ok(TaskCursor { created_at_ms, task })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_their_text_form_and_garbage_is_refused() {
        let cursor = TaskCursor { created_at_ms: -5, task: TaskKey::new("a", "b.c_d-e").unwrap() };
        assert_eq!(parse_cursor(&write_cursor(&cursor)).unwrap(), cursor);
        for garbage in ["", "x", "!!", &URL_SAFE_NO_PAD.encode("1/a"), &URL_SAFE_NO_PAD.encode("x/a/b")] {
            assert!(parse_cursor(garbage).is_err(), "{garbage}");
        }
    }
}
