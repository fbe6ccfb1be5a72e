//! `GET /api/v1/tasks/{id}/logs/stream`: a tail as Server-Sent Events.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use tracing::warn;

use super::params::{Params, TaskId};
use super::{AppState, Problem};
use crate::tail::resume::Place;
use crate::tail::{Begin, Opened, TailRequest};

/// Longest first reply that `tail=` may ask for.
const MAX_TAIL: u64 = 10_000_000;

/// Answers 204 when the reader has everything and the task has ended: an `EventSource` then stops for good.
pub(super) async fn stream(
    State(state): State<AppState>,
    TaskId(task_id): TaskId,
    query: Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let request = parse(&state, &task_id, query, &headers)?;
    let (task, follow) = (request.task.clone(), request.follow);
    if !follow && state.broker.position(&task).await?.record.is_none() {
        return Err(Problem::not_found(format!("no task {task} is known")));
    }
    let Opened::Events(session) = state.tail.open(request).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    let events = session.into_stream().inspect_err(move |error| warn!(%task, %error, "a stream broke off"));
    Ok((headers, Body::from_stream(events)).into_response())
}

fn parse(
    state: &AppState,
    task_id: &str,
    query: Query<Vec<(String, String)>>,
    headers: &HeaderMap,
) -> Result<TailRequest, Problem> {
    let mut params = Params::new(query)?;
    let task = params.task(task_id)?;
    let (tail, from) = (params.number("tail")?, params.number("from")?);
    let begin = match (tail, from) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("give tail or from, not both")),
        (_, Some(offset)) => Begin::From(offset),
        (tail, None) => Begin::Last(tail.unwrap_or(state.default_lines).min(MAX_TAIL)),
    };
    let filter = params.filter()?;
    let follow = params.flag("follow", true)?;
    // The header is what a browser sends when it comes back by itself; it is newer than the URL's.
    let from_url = params.text("last_event_id");
    let from_header = headers.get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let place = from_header.filter(|text| !text.is_empty()).or(from_url);
    // A place of a form that this server never gave is a place of another log: begin anew, and say so.
    let place = place.map(|text| Place::parse(&text).unwrap_or(Place { epoch: 0, offset: 0 }));
    params.finish()?;
    Ok(TailRequest { task, place, begin, filter, follow })
}
