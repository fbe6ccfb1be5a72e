//! One error type for every backend. The backend classifies, the caller decides.

use std::sync::Arc;

/// What kind of failure it was: decides whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store is away, busy, full or slow: the same call may succeed later.
    Unavailable,
    /// The store refuses this very data: the same call can never succeed.
    Rejected,
    /// The store cannot be opened as configured; for start-up.
    Misconfigured,
}

/// A failed call to a store. Clones are for those who waited for the same call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}: {cause}")]
pub struct StoreError {
    kind: ErrorKind,
    context: String,
    /// Told with the context, and so not a `source`: whoever prints the chain of causes would tell it twice.
    cause: Arc<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// `context` says what was being done, and for start-up errors what to do about it.
    pub fn new(
        kind: ErrorKind,
        context: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), cause: cause.into().into() }
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }
}
