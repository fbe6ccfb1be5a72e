//! HTTP out: the stream, pages, downloads, health, metrics, and the page that shows them.
//!
//! Input: requests, all of them hostile. Output: JSON, Server-Sent Events, text; errors as RFC 9457 problems. Everything that
//! comes from a path or a query passes `params` and `TaskKey` before it is used.

mod download;
mod lines;
mod page;
mod params;
mod problem;
mod stream;
mod tasks;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowforge_storage::LogStore;
use http::{HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;

pub use problem::Problem;

use crate::broker::Broker;
use crate::canary::Canary;
use crate::clock::now_ms;
use crate::metrics::{self, Metrics};
use crate::proof::Prover;
use crate::tail::Tail;

/// What every handler needs.
#[derive(Clone)]
pub struct AppState {
    /// Checks of ended tasks.
    pub prover: Prover,
    /// Streams and scans.
    pub tail: Tail,
    /// Live positions.
    pub broker: Arc<dyn Broker>,
    /// History and task records.
    pub store: Arc<dyn LogStore>,
    /// What operators read.
    pub metrics: Arc<Metrics>,
    /// The task that tests this server, if it has one.
    pub canary: Option<Arc<Canary>>,
    /// Lines of a first connect that asks for none in particular.
    pub default_lines: u64,
    /// Cancelled when the server goes down: it is not ready any more.
    pub shutdown: CancellationToken,
}

/// For a process that shows nothing: whether it lives, and whether it can do its work.
pub fn health(state: AppState) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async || {
            Problem::not_found("this server has not the role tail: it answers /healthz, /readyz and /metrics only")
        })
        .layer(map_response(secure))
        .with_state(state)
}

/// All routes.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/viewer/{name}", get(page::file))
        .route("/api/v1/tasks", get(tasks::list))
        .route("/api/v1/tasks/{task_id}", get(tasks::one))
        .route("/api/v1/tasks/{task_id}/logs", get(lines::page))
        .route("/api/v1/tasks/{task_id}/logs/stream", get(stream::stream))
        .route("/api/v1/tasks/{task_id}/logs/download", get(download::download))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async |uri: http::Uri| Problem::not_found(format!("there is nothing at {}", uri.path())))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here"))
        .layer(map_response(secure))
        .with_state(state)
}

/// 200 once the store can take a line, 503 with the reason while it cannot, while the canary fails, or while the server goes down.
async fn ready(State(state): State<AppState>) -> Result<Response, Problem> {
    if state.shutdown.is_cancelled() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"));
    }
    state.store.health().await?;
    match state.canary.as_ref().and_then(|canary| canary.problem()) {
        Some(problem) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, problem)),
        None => Ok("ready\n".into_response()),
    }
}

async fn metrics(State(state): State<AppState>) -> Response {
    let now = metrics::Now {
        queued: state.broker.queued(),
        unseen: state.canary.as_ref().map(|canary| canary.unseen()).unwrap_or_default(),
        now_ms: now_ms(),
    };
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.render(now)).into_response()
}

/// Nothing here may be framed, sniffed, or told to the outside.
async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    );
    response
}
