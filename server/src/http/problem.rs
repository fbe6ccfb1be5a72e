//! Errors as problem details for HTTP (RFC 9457).

use axum::response::{IntoResponse, Response};
use flowforge_storage::{ErrorKind, InvalidName, StoreError};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::broker::BrokerError;

/// Of a 503: what is away is rarely back sooner.
const RETRY_AFTER_SECONDS: &str = "2";

/// An error answer: `application/problem+json` with `type`, `title`, `status` and `detail`.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// `detail` says what was wrong, where, and what to do.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match error.kind() {
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Rejected => StatusCode::BAD_REQUEST,
            ErrorKind::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!(%error, "the store failed a reader");
        Self::new(status, format!("the log store failed: {error}"))
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Store(error) => error.into(),
            BrokerError::StateLost | BrokerError::Unavailable(_) | BrokerError::QueueFull(_) => {
                tracing::warn!(%error, "the broker failed a reader");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            other => Self::new(StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
        }
    }
}
