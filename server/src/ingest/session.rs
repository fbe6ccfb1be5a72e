//! One stream, from Hello to its end.

use std::ops::ControlFlow;
use std::time::Duration;

use flowforge_proto::v1::stream_logs_request::Message as In;
use flowforge_proto::v1::stream_logs_response::Message as Out;
use flowforge_proto::v1::{self as wire, Ack, Close, LogBatch, Resync, StreamLogsRequest, StreamLogsResponse, Welcome};
use flowforge_storage::TaskKey;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::debug;

use super::{Ingest, status_of, validate};
use crate::broker::{BrokerError, ProducerSession, Progress};
use crate::fail_point::{self, FailPoint};
use crate::proof::{Completeness, Counts, State};

/// How long a stream may stay without a Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the news that the last line is stored may come after the Close is. A Welcome tells the same.
const LAST_ACK_TIMEOUT: Duration = Duration::from_secs(2);

type Responses = mpsc::Sender<Result<StreamLogsResponse, Status>>;

/// Speaks with one producer until it closes, leaves, breaks a rule, or the server goes down.
pub(super) async fn run(
    ingest: &Ingest,
    mut requests: Streaming<StreamLogsRequest>,
    responses: &Responses,
) -> Result<(), Status> {
    let first = tokio::select! {
        () = ingest.shutdown.cancelled() => return Err(shutting_down()),
        first = timeout(HELLO_TIMEOUT, requests.message()) => first,
    };
    let first = first.map_err(|_| Status::failed_precondition("no Hello came within 10 s"))??;
    let Some(In::Hello(hello)) = first.and_then(|request| request.message) else {
        return Err(Status::failed_precondition("the first message of a stream must be Hello"));
    };
    let hello = validate::hello(hello)?;
    let (task, tenant) = (hello.task.clone(), hello.task.tenant().to_owned());
    let viewer_url = viewer_url(&ingest.public_url, &hello.task);
    let session = tokio::select! {
        () = ingest.shutdown.cancelled() => return Err(shutting_down()),
        () = responses.closed() => return Ok(()),
        opened = ingest.broker.open(hello) => opened.map_err(|error| status_of(&error))?,
    };
    let welcome = *session.welcome();
    let mut stream = Session {
        ingest,
        tenant,
        task,
        progress: session.progress(),
        producer: session,
        responses,
        acked: Progress { generation: 0, queued_seq: welcome.queued_seq, stored_seq: welcome.stored_seq },
        skip_beyond: None,
    };
    stream
        .send(Out::Welcome(Welcome {
            epoch: welcome.epoch,
            generation: welcome.generation,
            queued_seq: welcome.queued_seq,
            stored_seq: welcome.stored_seq,
            limits: Some(ingest.limits),
            viewer_url,
        }))
        .await?;
    stream.serve(&mut requests).await
}

fn viewer_url(public_url: &str, task: &TaskKey) -> String {
    if public_url.is_empty() {
        return String::new();
    }
    let tenant = if task.tenant() == flowforge_storage::key::DEFAULT_TENANT {
        String::new()
    } else {
        format!("&tenant={}", task.tenant())
    };
    format!("{}/?task={}{tenant}", public_url.trim_end_matches('/'), task.task_id())
}

fn wire_completeness(of: Completeness) -> wire::Completeness {
    let state = match of.state {
        State::Verified => wire::completeness::State::Verified,
        State::Incomplete => wire::completeness::State::Incomplete,
        State::Unproven => wire::completeness::State::Unproven,
        State::Running => wire::completeness::State::Running,
    };
    let Counts { lines, captured, missing, dropped } = of.counts.unwrap_or_default();
    let reason = of.reason.unwrap_or_default();
    wire::Completeness { state: state.into(), lines, captured, missing, dropped, reason }
}

fn shutting_down() -> Status {
    Status::unavailable("the server is shutting down; connect again")
}

struct Session<'a> {
    ingest: &'a Ingest,
    tenant: String,
    task: TaskKey,
    producer: Box<dyn ProducerSession>,
    progress: watch::Receiver<Progress>,
    responses: &'a Responses,
    /// What the client was last told.
    acked: Progress,
    /// After a Resync: the sequence number that must come next; batches beyond it are ignored.
    skip_beyond: Option<u64>,
}

impl Session<'_> {
    async fn serve(&mut self, requests: &mut Streaming<StreamLogsRequest>) -> Result<(), Status> {
        loop {
            let request = tokio::select! {
                biased;
                () = self.ingest.shutdown.cancelled() => return self.drain().await,
                () = self.responses.closed() => return Ok(()), // The client has gone, perhaps while we did not read.
                moved = self.progress.changed() => {
                    moved.map_err(|_| status_of(&BrokerError::StateLost))?;
                    self.ack().await?;
                    continue;
                }
                request = admitted(self.ingest, &self.tenant, requests) => request?,
            };
            let Some(request) = request else {
                return Ok(()); // Half-closed without Close: the producer may come back within its lease.
            };
            if let ControlFlow::Break(close) = self.handle(request.message).await? {
                return self.close(close, requests).await;
            }
        }
    }

    async fn handle(&mut self, message: Option<In>) -> Result<ControlFlow<Close>, Status> {
        match message {
            Some(In::Batch(batch)) => self.append(batch).await?,
            Some(In::Frame(frame)) => {
                if let Some(frame) = validate::frame(frame, self.producer.producer(), self.ingest.limits)? {
                    self.producer.frame(frame);
                }
            }
            Some(In::Close(close)) => return Ok(ControlFlow::Break(close)),
            Some(In::CommandResult(result)) => debug!(id = %result.id, "result of a command that nobody waits for"),
            Some(In::Hello(_)) => {
                return Err(Status::failed_precondition("a stream has one Hello; open another stream"));
            }
            None => return Err(Status::invalid_argument("a request without a message: set one of the oneof's fields")),
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn append(&mut self, batch: LogBatch) -> Result<(), Status> {
        let first_seq = batch.first_seq;
        if self.skip_beyond.is_some_and(|expected| first_seq > expected) {
            return Ok(());
        }
        let lines = validate::batch(batch, self.ingest.limits)?;
        match self.producer.append(first_seq, lines).await {
            Ok(()) => {
                fail_point::pass(FailPoint::Appended);
                self.skip_beyond = None;
            }
            Err(BrokerError::Gap { expected_seq }) => self.resync(expected_seq).await?,
            Err(error) => return Err(status_of(&error)),
        }
        Ok(())
    }

    async fn resync(&mut self, expected_seq: u64) -> Result<(), Status> {
        self.skip_beyond = Some(expected_seq);
        self.send(Out::Resync(Resync { expected_seq })).await
    }

    /// Waits until the Close is stored, acking on the way. OK is the answer that lets the client forget everything.
    async fn close(&mut self, close: Close, requests: &mut Streaming<StreamLogsRequest>) -> Result<(), Status> {
        let ending = validate::close(&close)?;
        let final_seq = ending.claim.final_seq;
        let generation = self.producer.welcome().generation;
        let mut progress = self.progress.clone();
        let closed = tokio::select! {
            closed = self.producer.close(ending) => closed,
            () = self.responses.closed() => return Ok(()),
            fenced = fenced(&mut progress, generation) => {
                fenced?;
                return self.ack().await;
            }
        };
        match closed {
            Ok(()) => {}
            Err(BrokerError::Gap { expected_seq }) => {
                return Err(Status::unavailable(format!(
                    "close.final_seq is {final_seq}, but seq {expected_seq} has not arrived; say Hello again and send it"
                )));
            }
            Err(error) => return Err(status_of(&error)),
        }
        // A client believes an OK only after the ack of its last line.
        tokio::select! {
            () = self.ingest.shutdown.cancelled() => return Err(shutting_down()),
            () = self.responses.closed() => return Ok(()),
            told = timeout(LAST_ACK_TIMEOUT, progress.wait_for(|now| now.stored_seq >= final_seq || now.generation > generation)) => {
                told.map_err(|_| Status::unavailable("the Close is stored; say Hello again to learn that its lines are"))?
                    .map_err(|_| Status::unavailable("the server lost this task's state"))?;
            }
        }
        self.ack().await?;
        if close.verify {
            self.tell_completeness().await?;
        }
        tokio::select! {
            () = self.ingest.shutdown.cancelled() => Ok(()),
            more = requests.message() => match more {
                Ok(Some(_)) => Err(Status::failed_precondition("Close must be the last message of a stream")),
                _ => Ok(()),
            },
        }
    }

    /// Whether what is stored is what was sent. No answer is better than a late one: the Close is stored.
    async fn tell_completeness(&self) -> Result<(), Status> {
        let checked = tokio::select! {
            () = self.ingest.shutdown.cancelled() => None,
            () = self.responses.closed() => None,
            checked = self.ingest.prover.after_close(&self.task, self.producer.producer()) => checked,
        };
        let Some(checked) = checked else { return Ok(()) };
        self.send(Out::Completeness(wire_completeness(checked))).await
    }

    /// The server goes down: no more is read, what was taken is stored and acked, the client goes elsewhere.
    async fn drain(&mut self) -> Result<(), Status> {
        let wanted = self.progress.borrow().queued_seq;
        while self.progress.borrow_and_update().stored_seq < wanted {
            if self.progress.changed().await.is_err() {
                break;
            }
        }
        self.ack().await?;
        Err(shutting_down())
    }

    /// Tells the client what is stored, or that it is fenced.
    async fn ack(&mut self) -> Result<(), Status> {
        let now = *self.progress.borrow_and_update();
        if now.generation > self.producer.welcome().generation {
            return Err(status_of(&BrokerError::Fenced(self.producer.producer())));
        }
        // A queued line alone is no news to a client: it waits for the store.
        if now.stored_seq == self.acked.stored_seq {
            return Ok(());
        }
        self.acked = now;
        self.send(Out::Ack(Ack { queued_seq: now.queued_seq, stored_seq: now.stored_seq })).await
    }

    async fn send(&self, message: Out) -> Result<(), Status> {
        let response = StreamLogsResponse { message: Some(message) };
        tokio::select! {
            biased;
            sent = self.responses.send(Ok(response)) => sent.map_err(|_| Status::cancelled("the client has gone")),
            // A client that does not read its acks waits for itself, but must not hold up the server's end.
            () = self.ingest.shutdown.cancelled() => Err(shutting_down()),
        }
    }
}

/// Returns when a newer stream of the producer has taken over. An error, never OK, if nobody knows any more: to a client OK
/// means stored.
async fn fenced(progress: &mut watch::Receiver<Progress>, generation: u64) -> Result<(), Status> {
    let moved = progress.wait_for(|progress| progress.generation > generation).await;
    moved.map(drop).map_err(|_| status_of(&BrokerError::StateLost))
}

/// The next message, once the queue has room. Cancel-safe: a message is taken whole or not at all.
async fn admitted(
    ingest: &Ingest,
    tenant: &str,
    requests: &mut Streaming<StreamLogsRequest>,
) -> Result<Option<StreamLogsRequest>, Status> {
    ingest.broker.admit(tenant).await;
    requests.message().await
}
