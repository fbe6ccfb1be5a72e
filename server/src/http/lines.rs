//! `GET /api/v1/tasks/{id}/logs`: one page of lines, forward from an offset or backward before one.

use std::ops::RangeInclusive;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use flowforge_storage::{LogFilter, LogRecord, TaskKey};
use http::header::CONTENT_TYPE;

use super::params::{Params, TaskId};
use super::{AppState, Problem};
use crate::line::write_json;
use crate::tail::scan::Scan;

const DEFAULT_LINES: u64 = 1_000;
const MAX_LINES: u64 = 5_000;

/// A filtered page looks at no more lines than this; `next_from` says where to go on.
const MAX_SCANNED: u64 = 200_000;

/// Bytes of one look into the window.
const WINDOW_BYTES: usize = 1 << 20;

/// `{"lines": [...], "floor", "end", "next_from"}`: `from` and `to` are inclusive, `before` is exclusive and reads the last
/// `limit` lines before it. `next_from` is left out when a forward page reached its end.
pub(super) async fn page(
    State(state): State<AppState>,
    TaskId(task_id): TaskId,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let mut params = Params::new(query)?;
    let task = params.task(&task_id)?;
    let (from, to, before) = (params.number("from")?, params.number("to")?, params.number("before")?);
    let limit = params.number("limit")?.unwrap_or(DEFAULT_LINES).clamp(1, MAX_LINES);
    let filter = params.filter()?;
    params.finish()?;
    if before.is_some() && (from.is_some() || to.is_some()) {
        return Err(Problem::bad_request("give before, or from and to, not both"));
    }
    let Some(stored) = state.store.task(&task).await? else {
        return Err(Problem::not_found(format!("no task {task} is known")));
    };
    let mut page = Page { task, json: Vec::new(), count: 0 };
    let (end, next_from) = match before {
        Some(before) => (backward(&state, &mut page, before, limit, &filter).await?, None),
        None => forward(&state, &mut page, from.unwrap_or(1).max(1), to.unwrap_or(u64::MAX), limit, &filter).await?,
    };
    Ok(([(CONTENT_TYPE, "application/json")], page.finish(stored.floor, end, next_from)).into_response())
}

async fn backward(
    state: &AppState,
    page: &mut Page,
    before: u64,
    limit: u64,
    filter: &LogFilter,
) -> Result<u64, Problem> {
    let subscription = state.broker.subscribe(&page.task).await?;
    let mut records = Vec::new();
    let scanner = state.tail.scanner(&page.task);
    let end =
        scanner.walk_back(subscription.feed(), before, filter, limit, |record| records.push(record.clone())).await?;
    records.iter().rev().for_each(|record| page.push(record));
    Ok(end)
}

async fn forward(
    state: &AppState,
    page: &mut Page,
    from: u64,
    to: u64,
    limit: u64,
    filter: &LogFilter,
) -> Result<(u64, Option<u64>), Problem> {
    let subscription = state.broker.subscribe(&page.task).await?;
    let scanner = state.tail.scanner(&page.task);
    let position = state.broker.position(&page.task).await?;
    let to = to.min(position.end);
    let mut next = from;
    while next <= to {
        if page.count >= limit || next - from >= MAX_SCANNED {
            return Ok((position.end, Some(next)));
        }
        match scanner.scan(subscription.feed(), next, &position, WINDOW_BYTES).await? {
            Scan::Recent(batches) => {
                for batch in &batches {
                    next = page.take(&batch.records, next..=to, limit, filter);
                }
            }
            Scan::Stored(records) => next = page.take(&records, next..=to, limit, filter),
            Scan::Missing { to, .. } => next = to + 1,
            Scan::CaughtUp => break,
        }
    }
    let next_from = (to < position.end).then_some(next);
    Ok((position.end, next_from))
}

struct Page {
    task: TaskKey,
    json: Vec<u8>,
    count: u64,
}

impl Page {
    /// Takes what passes the filter, until the page is full. Returns the next offset to look at.
    fn take(&mut self, records: &[LogRecord], range: RangeInclusive<u64>, limit: u64, filter: &LogFilter) -> u64 {
        let mut next = *range.start();
        for record in records.iter().filter(|record| range.contains(&record.offset)) {
            if self.count >= limit {
                break;
            }
            next = record.offset + 1;
            if filter.matches(record) {
                self.push(record);
            }
        }
        next
    }

    fn push(&mut self, record: &LogRecord) {
        if self.count > 0 {
            self.json.push(b',');
        }
        self.count += 1;
        write_json(&self.task, record, &mut self.json);
    }

    fn finish(self, floor: u64, end: u64, next_from: Option<u64>) -> Vec<u8> {
        let mut body = b"{\"lines\":[".to_vec();
        body.extend_from_slice(&self.json);
        let next = next_from.map_or_else(String::new, |offset| format!(",\"next_from\":{offset}"));
        body.extend_from_slice(format!("],\"floor\":{floor},\"end\":{end}{next}}}").as_bytes());
        body
    }
}
