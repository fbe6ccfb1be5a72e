//! `GET /api/v1/tasks/{id}/logs/download`: the whole log as a file, streamed in constant memory.

use async_stream::try_stream;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flowforge_storage::{LogFilter, LogRecord, Stream as LogStream};
use futures_util::{Stream, TryStreamExt as _};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use tracing::warn;

use super::params::{Params, TaskId};
use super::{AppState, Problem};
use crate::broker::{BrokerError, Position, Subscription};
use crate::line::write_json;
use crate::tail::event::GapReason;
use crate::tail::scan::{Scan, Scanner};

/// Bytes of one look into the window.
const WINDOW_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
enum Format {
    /// The bytes that were printed. With one `stream=` exactly those that the process wrote to it. With all streams, rows that
    /// the process did not write begin with `[flowforge] `.
    Text,
    /// One JSON object a line, as in the stream.
    Ndjson,
}

/// Everything that was there when the request came, in offset order.
pub(super) async fn download(
    State(state): State<AppState>,
    TaskId(task_id): TaskId,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let mut params = Params::new(query)?;
    let task = params.task(&task_id)?;
    let format = match params.text("format").as_deref() {
        None | Some("text") => Format::Text,
        Some("ndjson") => Format::Ndjson,
        Some(other) => return Err(Problem::bad_request(format!("format must be text or ndjson, but is {other:?}"))),
    };
    let filter = params.filter()?;
    params.finish()?;
    let subscription = state.broker.subscribe(&task).await?;
    let position = state.broker.position(&task).await?;
    if position.record.is_none() {
        return Err(Problem::not_found(format!("no task {task} is known")));
    }
    let (kind, extension) = match format {
        Format::Text => ("text/plain; charset=utf-8", "log"),
        Format::Ndjson => ("application/x-ndjson", "ndjson"),
    };
    let headers = [
        (CONTENT_TYPE, kind.to_owned()),
        // A task id holds nothing that would need quoting.
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}.{extension}\"", task.task_id())),
    ];
    let body =
        Download { scanner: state.tail.scanner(&task), subscription, position, format, filter, is_mid_line: false };
    let bytes = body.into_stream().inspect_err(move |error| warn!(%task, %error, "a download broke off"));
    Ok((headers, Body::from_stream(bytes)).into_response())
}

struct Download {
    scanner: Scanner,
    subscription: Subscription,
    position: Position,
    format: Format,
    filter: LogFilter,
    /// What was written last has no line end.
    is_mid_line: bool,
}

impl Download {
    /// An error ends the body before its end, which HTTP shows as a broken transfer: half a file never looks whole.
    fn into_stream(mut self) -> impl Stream<Item = Result<Bytes, BrokerError>> + Send {
        try_stream! {
            let mut next = 1;
            while next <= self.position.end {
                let mut out = Vec::new();
                match self.scanner.scan(self.subscription.feed(), next, &self.position, WINDOW_BYTES).await? {
                    Scan::Recent(batches) => {
                        for record in batches.iter().flat_map(|batch| &batch.records) {
                            next = self.write(record, next, &mut out);
                        }
                    }
                    Scan::Stored(page) => {
                        for record in page.records() {
                            next = self.write(record, next, &mut out);
                        }
                    }
                    Scan::Missing { to, reason } => {
                        self.write_gap(next, to, reason, &mut out);
                        next = to + 1;
                    }
                    Scan::CaughtUp => break,
                }
                if !out.is_empty() {
                    yield Bytes::from(out);
                }
            }
        }
    }

    fn write(&mut self, record: &LogRecord, next: u64, out: &mut Vec<u8>) -> u64 {
        if record.offset < next || record.offset > self.position.end {
            return next;
        }
        if self.filter.matches(record) {
            self.write_line(record, out);
        }
        record.offset + 1
    }

    fn write_line(&mut self, record: &LogRecord, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => {
                if record.stream == LogStream::System {
                    self.begin_own_row(out);
                }
                out.extend_from_slice(&record.message);
                self.is_mid_line = record.continued || record.no_newline;
                if !self.is_mid_line {
                    out.push(b'\n');
                }
            }
            Format::Ndjson => {
                write_json(&self.scanner.task, record, out);
                out.push(b'\n');
            }
        }
    }

    /// Nothing of ours may look like the rest of a line, nor like a line, that the process printed.
    fn begin_own_row(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_mid_line) {
            out.push(b'\n');
        }
        if self.filter.streams.named().next().is_none() {
            out.extend_from_slice(b"[flowforge] ");
        }
    }

    /// What is missing is said in the file itself.
    fn write_gap(&mut self, from: u64, to: u64, reason: GapReason, out: &mut Vec<u8>) {
        let reason = match reason {
            GapReason::Retention => "retention",
            GapReason::Missing => "missing",
        };
        let text = match self.format {
            Format::Text => {
                if std::mem::take(&mut self.is_mid_line) {
                    out.push(b'\n');
                }
                format!("[flowforge] lines {from} to {to} are not here any more: {reason}\n")
            }
            Format::Ndjson => format!("{{\"gap\":{{\"from\":{from},\"to\":{to},\"reason\":\"{reason}\"}}}}\n"),
        };
        out.extend_from_slice(text.as_bytes());
    }
}
