//! `GET /api/v1/tasks/{id}/logs`: one page of lines, forward from an offset or backward before one.

use std::ops::{ControlFlow, RangeInclusive};

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

/// A page ends with the line that makes its JSON longer than this, whatever its limit.
const MAX_JSON_BYTES: usize = 8 << 20;

/// Bytes of one look into the window.
const WINDOW_BYTES: usize = 1 << 20;

/// `{"lines": [...], "floor", "end", "next_from", "next_before"}`: `from` and `to` are inclusive, `before` is exclusive and reads
/// the last `limit` lines before it. A page may hold fewer lines than its limit when they are long, or when many had to be
/// looked at. Only the markers say whether there is more: `next_from` of a forward page, `next_before` of a backward one.
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
    let floor = floor(&state, &task).await?;
    let mut page = Page { task, json: b"{\"lines\":[".to_vec(), count: 0, limit };
    let (end, next) = match before {
        Some(before) => backward(&state, &mut page, before, floor, &filter).await?,
        None => forward(&state, &mut page, from.unwrap_or(1).max(1), to.unwrap_or(u64::MAX), &filter).await?,
    };
    Ok(([(CONTENT_TYPE, "application/json")], page.finish(floor, end, next)).into_response())
}

/// The first offset that is kept. A task is known to its readers a moment before its first record is stored.
async fn floor(state: &AppState, task: &TaskKey) -> Result<u64, Problem> {
    if let Some(stored) = state.store.task(task).await? {
        return Ok(stored.floor);
    }
    let is_known = state.broker.position(task).await?.record.is_some();
    is_known.then_some(1).ok_or_else(|| Problem::not_found(format!("no task {task} is known")))
}

async fn backward(
    state: &AppState,
    page: &mut Page,
    before: u64,
    floor: u64,
    filter: &LogFilter,
) -> Result<(u64, Option<Next>), Problem> {
    let subscription = state.broker.subscribe(&page.task).await?;
    let scanner = state.tail.scanner(&page.task);
    let before = before.min(state.broker.position(&page.task).await?.end + 1);
    let from = if filter.is_empty() { 1 } else { before.saturating_sub(MAX_SCANNED).max(1) };
    let (mut records, mut bytes) = (Vec::new(), 0);
    let end = scanner
        .walk_back(subscription.feed(), from..before, filter, page.limit, |record| {
            records.push(record.clone());
            bytes += record.weight();
            if bytes < MAX_JSON_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .await?;
    records.iter().rev().for_each(|record| page.push(record));
    let is_full = page.count >= page.limit || bytes >= MAX_JSON_BYTES;
    let first = records.last().filter(|_| is_full).map_or(from, |record| record.offset);
    Ok((end, (first > floor).then_some(Next::Before(first))))
}

async fn forward(
    state: &AppState,
    page: &mut Page,
    from: u64,
    to: u64,
    filter: &LogFilter,
) -> Result<(u64, Option<Next>), Problem> {
    let subscription = state.broker.subscribe(&page.task).await?;
    let scanner = state.tail.scanner(&page.task);
    let position = state.broker.position(&page.task).await?;
    let to = to.min(position.end);
    let mut next = from;
    while next <= to {
        if page.is_full() || next - from >= MAX_SCANNED {
            return Ok((position.end, Some(Next::From(next))));
        }
        match scanner.scan(subscription.feed(), next, &position, WINDOW_BYTES).await? {
            Scan::Recent(batches) => {
                for batch in &batches {
                    next = page.take(&batch.records, next..=to, filter);
                }
            }
            Scan::Stored(stored) => next = page.take(stored.records(), next..=to, filter),
            Scan::Missing { to, .. } => next = to + 1,
            Scan::CaughtUp => break,
        }
    }
    Ok((position.end, None))
}

/// Where a page that is not the whole answer goes on.
#[derive(Debug, Clone, Copy)]
enum Next {
    From(u64),
    Before(u64),
}

struct Page {
    task: TaskKey,
    json: Vec<u8>,
    count: u64,
    limit: u64,
}

impl Page {
    fn is_full(&self) -> bool {
        self.count >= self.limit || self.json.len() >= MAX_JSON_BYTES
    }

    /// Takes what passes the filter, until the page is full. Returns the next offset to look at.
    fn take(&mut self, records: &[LogRecord], range: RangeInclusive<u64>, filter: &LogFilter) -> u64 {
        let mut next = *range.start();
        for record in records.iter().filter(|record| range.contains(&record.offset)) {
            if self.is_full() {
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

    fn finish(mut self, floor: u64, end: u64, next: Option<Next>) -> Vec<u8> {
        let next = match next {
            None => String::new(),
            Some(Next::From(offset)) => format!(",\"next_from\":{offset}"),
            Some(Next::Before(offset)) => format!(",\"next_before\":{offset}"),
        };
        self.json.extend_from_slice(format!("],\"floor\":{floor},\"end\":{end}{next}}}").as_bytes());
        self.json
    }
}
