//! gRPC in: `StreamLogs` of `logs.proto`, whose comments are the contract.
//!
//! Input: one producer's stream. Output: batches appended to the broker, acks sent back.
//!
//! Invariants: nothing reaches the broker unchecked (`validate`). An ack repeats what the broker says is stored, never
//! more. Back-pressure is not reading: before each message the broker must admit the tenant.
//!
//! Failure: a broken rule ends the stream with the status that `logs.proto` names; what was accepted before stays accepted.

#[cfg(any(test, fuzzing))]
pub(crate) mod hello_fuzz;
mod session;
mod validate;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flowforge_proto::v1::log_service_server::{LogService, LogServiceServer};
use flowforge_proto::v1::{Limits, StreamLogsRequest, StreamLogsResponse};
use flowforge_storage::ErrorKind;
use futures_util::{FutureExt as _, Stream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::broker::{Broker, BrokerError};
use crate::proof::Prover;

/// Acks and commands waiting for a client that does not read; the stream waits with them.
const RESPONSES_IN_FLIGHT: usize = 16;

/// How long a client that does not read is given to take the status that ends its stream.
const LAST_WORD: Duration = Duration::from_secs(1);

/// When a producer that met a hard limit may ask again: memory is freed, and leases end, in seconds.
const RETRY_PUSHBACK_MS: &str = "2000";

/// The gRPC service.
#[derive(Clone)]
pub struct Ingest {
    broker: Arc<dyn Broker>,
    limits: Limits,
    public_url: Arc<str>,
    prover: Prover,
    shutdown: CancellationToken,
    sessions: TaskTracker,
}

impl Ingest {
    /// `public_url`: where people reach the viewer, told in Welcome. When `shutdown` is cancelled every stream stops
    /// reading, acks what it took, and ends; `sessions` tells when they have.
    pub fn new(
        broker: Arc<dyn Broker>,
        limits: Limits,
        public_url: &str,
        prover: Prover,
        shutdown: CancellationToken,
        sessions: TaskTracker,
    ) -> Self {
        Self { broker, limits, public_url: public_url.into(), prover, shutdown, sessions }
    }

    /// As a tonic service with its message limit.
    pub fn into_service(self) -> LogServiceServer<Self> {
        let limit = self.limits.max_message_bytes as usize;
        LogServiceServer::new(self).max_decoding_message_size(limit)
    }
}

type ResponseStream = Pin<Box<dyn Stream<Item = Result<StreamLogsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl LogService for Ingest {
    type StreamLogsStream = ResponseStream;

    async fn stream_logs(
        &self,
        request: Request<Streaming<StreamLogsRequest>>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let (responses, stream) = tokio::sync::mpsc::channel(RESPONSES_IN_FLIGHT);
        let ingest = self.clone();
        self.sessions.spawn(async move {
            let requests = request.into_inner();
            // A panic would drop the sender, and the stream would end with OK, which to a client means: stored.
            let run = AssertUnwindSafe(session::run(&ingest, requests, &responses)).catch_unwind();
            let end = run.await.unwrap_or_else(|_| Err(Status::internal("the server failed; connect again")));
            if let Err(status) = end {
                // Fails only if the client is gone or does not read, and then nobody is there to tell.
                let _ = tokio::time::timeout(LAST_WORD, responses.send(Err(status))).await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream))))
    }
}

/// A hard limit: told with the time after which it is worth asking again.
fn exhausted(message: String) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", MetadataValue::from_static(RETRY_PUSHBACK_MS));
    Status::with_metadata(Code::ResourceExhausted, message, metadata)
}

/// The status that `logs.proto` names for a refusal.
fn status_of(error: &BrokerError) -> Status {
    let message = error.to_string();
    match error {
        BrokerError::Fenced(_) => Status::aborted(message),
        BrokerError::Gap { .. } => Status::failed_precondition(message),
        BrokerError::Invalid(_) => Status::invalid_argument(message),
        BrokerError::TooManyProducers(_) | BrokerError::QueueFull(_) => exhausted(message),
        BrokerError::Store(error) if error.kind() == ErrorKind::Rejected => Status::invalid_argument(message),
        BrokerError::StateLost | BrokerError::Unavailable(_) | BrokerError::Store(_) => Status::unavailable(message),
    }
}
