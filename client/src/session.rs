//! One stream to the server: Hello, Welcome, then lines one way and acks the other, until it ends.
//!
//! Lines stay in the queue while they are under way; a session takes batches off its unsent end and forgets them. When the
//! next session begins, the server's Welcome says where to go on, which may be further back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flowforge_proto::v1;
use flowforge_proto::v1::log_service_client::LogServiceClient;
use flowforge_proto::v1::stream_logs_request::Message as Outgoing;
use flowforge_proto::v1::stream_logs_response::Message as Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::assemble::FRAME_INTERVAL;
use crate::config::{ClientConfig, Command};
use crate::ending::{SessionEnd, classify_opening, describe, innermost, refused_seq, retry, retry_as_told};
use crate::queue::BatchLimits;
use crate::shared::{BATCH_BYTES, DEFAULT_MAX_LINE_BYTES, Shared};

/// Messages between the session and the connection. Few: what is here is memory beyond the buffer's bound, and waiting
/// here means that the server is not reading.
const OUTBOX_MESSAGES: usize = 2;
/// `limits.max_message_bytes` of a server that does not say.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Of a message, beside the entries.
const MESSAGE_OVERHEAD_BYTES: usize = 256;
/// A stream that lived so long counts as progress, also when its producer had nothing to say.
const LONG_LIVED: Duration = Duration::from_secs(10);

/// Runs one stream to its end.
pub(crate) async fn run(shared: &Shared, endpoint: &Endpoint) -> SessionEnd {
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return retry(format!("cannot connect to {}: {}", shared.config.server, innermost(&error))),
    };
    let opening = open(shared, LogServiceClient::new(channel));
    let (outbox, inbound, welcome) = match tokio::time::timeout(shared.config.connect_timeout, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(end)) => return end,
        Err(_) => return retry("the server did not answer Hello in time"),
    };
    let mut session = Session::begin(shared, outbox, &welcome);
    session.run(inbound).await
}

type Opened = (mpsc::Sender<v1::StreamLogsRequest>, Streaming<v1::StreamLogsResponse>, v1::Welcome);

async fn open(shared: &Shared, mut client: LogServiceClient<tonic::transport::Channel>) -> Result<Opened, SessionEnd> {
    let (outbox, requests) = mpsc::channel(OUTBOX_MESSAGES);
    let hello = request(Outgoing::Hello(hello(shared)));
    outbox.try_send(hello).map_err(|_| retry("the stream did not open"))?;
    let opened = client.stream_logs(ReceiverStream::new(requests)).await;
    let mut inbound = opened.map_err(|status| classify_opening(&status))?.into_inner();
    match inbound.message().await {
        Ok(Some(v1::StreamLogsResponse { message: Some(Incoming::Welcome(welcome)) })) => {
            Ok((outbox, inbound, welcome))
        }
        Ok(Some(_)) => Err(retry("the server's first message is not Welcome")),
        Ok(None) => Err(retry("the server ended the stream before Welcome")),
        Err(status) => Err(classify_opening(&status)),
    }
}

fn hello(shared: &Shared) -> v1::Hello {
    let first_unacked_seq = shared.lock().queue.first_seq();
    v1::Hello { first_unacked_seq, ..introduction(&shared.config, shared.producer) }
}

/// Who speaks: what is the same in every Hello of a producer.
pub(crate) fn introduction(config: &ClientConfig, producer: [u8; 16]) -> v1::Hello {
    v1::Hello {
        tenant: config.tenant.clone(),
        task_id: config.task_id.clone(),
        workflow_id: config.workflow_id.clone(),
        attempt: config.attempt,
        name: config.name.clone(),
        labels: config.labels.clone().into_iter().collect(),
        producer: producer.to_vec().into(),
        first_unacked_seq: 0,
        owner: config.owner,
        sdk: config.sdk.clone(),
    }
}

fn request(message: Outgoing) -> v1::StreamLogsRequest {
    v1::StreamLogsRequest { message: Some(message) }
}

/// What to do next.
enum Step {
    Send,
    /// A batch is filling until then.
    WaitUntil(Instant),
    Idle,
}

/// What happened.
enum Event {
    Received(Result<Option<v1::StreamLogsResponse>, Status>),
    /// The connection takes a message; `None`: never again.
    Room(Option<mpsc::OwnedPermit<v1::StreamLogsRequest>>),
    /// There is more to send, or it is time to.
    Woken,
    /// Unfinished lines are to be looked at.
    Tick,
}

struct Session<'a> {
    shared: &'a Shared,
    /// `None`: half-closed, nothing can be sent any more.
    outbox: Option<mpsc::Sender<v1::StreamLogsRequest>>,
    close_sent: bool,
    limits: BatchLimits,
    last_batch: Option<Instant>,
    next_tick: Instant,
    began: Instant,
    progress: bool,
}

impl<'a> Session<'a> {
    fn begin(shared: &'a Shared, outbox: mpsc::Sender<v1::StreamLogsRequest>, welcome: &v1::Welcome) -> Self {
        let told = welcome.limits.unwrap_or_default();
        let or = |value: u32, default: usize| if value == 0 { default } else { value as usize };
        let most = or(told.max_message_bytes, DEFAULT_MAX_MESSAGE_BYTES).saturating_sub(MESSAGE_OVERHEAD_BYTES);
        let max_line_bytes = or(told.max_line_bytes, DEFAULT_MAX_LINE_BYTES);
        shared.max_line_bytes.store(max_line_bytes, Ordering::Relaxed);
        let before = shared.lock().stored_seq;
        let is_first = shared.lock().connect(welcome, max_line_bytes);
        if let Some(hook) = shared.config.on_connect.as_ref().filter(|_| is_first) {
            hook(Ok(&welcome.viewer_url));
        }
        shared.ack(welcome.queued_seq, welcome.stored_seq);
        shared.lock().queue.send_from(welcome.queued_seq.saturating_add(1));
        let now = Instant::now();
        Self {
            shared,
            outbox: Some(outbox),
            close_sent: false,
            limits: BatchLimits {
                lines: shared.config.batch_lines.clamp(1, 10_000),
                bytes: BATCH_BYTES.min(most),
                entry_bytes: most,
            },
            last_batch: None,
            next_tick: now,
            began: now,
            progress: welcome.stored_seq > before,
        }
    }

    async fn run(&mut self, mut inbound: Streaming<v1::StreamLogsResponse>) -> SessionEnd {
        loop {
            let end = match self.next_event(&mut inbound).await {
                Event::Received(Ok(Some(message))) => self.receive(message),
                Event::Received(Ok(None)) => Some(self.ended()),
                Event::Received(Err(status)) => Some(self.failed(&status)),
                Event::Room(permit) => {
                    self.send(permit);
                    None
                }
                Event::Tick => {
                    self.shared.tick();
                    self.next_tick = Instant::now() + FRAME_INTERVAL;
                    None
                }
                Event::Woken => None,
            };
            if let Some(end) = end {
                return self.with_progress(end);
            }
        }
    }

    async fn next_event(&self, inbound: &mut Streaming<v1::StreamLogsResponse>) -> Event {
        let step = self.next_step();
        let can_send = matches!(step, Step::Send);
        let until = if let Step::WaitUntil(until) = step { Some(until) } else { None };
        let ticks = self.outbox.is_some() && self.shared.partial.load(Ordering::Acquire);
        tokio::select! {
            biased;
            message = inbound.message() => Event::Received(message),
            permit = reserve(self.outbox.clone()), if can_send => Event::Room(permit),
            () = self.shared.wake.notified(), if !can_send => Event::Woken,
            () = tokio::time::sleep_until(until.unwrap_or(self.began)), if until.is_some() => Event::Woken,
            () = tokio::time::sleep_until(self.next_tick), if ticks => Event::Tick,
        }
    }

    fn send(&mut self, permit: Option<mpsc::OwnedPermit<v1::StreamLogsRequest>>) {
        match permit {
            Some(permit) => {
                if let Some(message) = self.take() {
                    permit.send(message);
                }
                if self.close_sent {
                    self.outbox = None;
                }
            }
            // The connection is gone; its status is about to come.
            None => self.outbox = None,
        }
    }

    fn next_step(&self) -> Step {
        if self.outbox.is_none() {
            return Step::Idle;
        }
        let mut state = self.shared.lock();
        state.wake_at = None;
        if !state.frames.is_empty() || !state.replies.is_empty() {
            return Step::Send;
        }
        let (unsent, closing) = (state.queue.unsent_len(), state.close.is_some());
        if unsent == 0 && !closing {
            state.wake_at = Some(1);
            return Step::Idle;
        }
        let full = unsent >= self.limits.lines || state.queue.unsent_wire_bytes() >= self.limits.bytes;
        let due = self.last_batch.map(|last| last + self.shared.config.linger);
        match due.filter(|due| !full && !closing && *due > Instant::now()) {
            None => Step::Send,
            Some(due) => {
                state.wake_at = Some(self.limits.lines);
                Step::WaitUntil(due)
            }
        }
    }

    /// The next message. A frame goes before lines: it is rare, and old the moment it waits.
    fn take(&mut self) -> Option<v1::StreamLogsRequest> {
        let mut state = self.shared.lock();
        if let Some(reply) = state.replies.pop_front() {
            return Some(request(Outgoing::CommandResult(reply)));
        }
        if let Some(frame) = state.frames.pop() {
            return Some(request(Outgoing::Frame(frame)));
        }
        if let Some(batch) = state.queue.take_batch(self.limits) {
            state.sent += batch.entries.len() as u64;
            self.last_batch = Some(Instant::now());
            // Nobody who captures waits for the hash.
            drop(state);
            self.shared.sent.add(&batch);
            return Some(request(Outgoing::Batch(batch)));
        }
        self.close_sent = state.close.is_some();
        let close = state.close.clone()?;
        drop(state);
        // Who closes for a dead producer does not know what that had sent.
        let is_own = close.recovery == v1::Recovery::Unspecified as i32;
        let proof = if is_own { self.shared.sent.proof(close.final_seq) } else { None };
        Some(request(Outgoing::Close(v1::Close { proof, verify: self.shared.config.verify, ..close })))
    }

    fn receive(&mut self, message: v1::StreamLogsResponse) -> Option<SessionEnd> {
        match message.message {
            Some(Incoming::Ack(ack)) => {
                self.progress = true;
                self.shared.ack(ack.queued_seq, ack.stored_seq);
                None
            }
            Some(Incoming::Resync(resync)) => self.resync(resync.expected_seq),
            Some(Incoming::Command(command)) => {
                self.command(command);
                None
            }
            Some(Incoming::Completeness(checked)) => {
                self.shared.lock().completeness = Some(checked.into());
                None
            }
            Some(Incoming::Welcome(_)) | None => None,
        }
    }

    fn resync(&self, expected_seq: u64) -> Option<SessionEnd> {
        let mut state = self.shared.lock();
        // What is asked for is gone here; only a Hello can say so. After the half-close only a new stream can send.
        if expected_seq < state.queue.first_seq() || self.outbox.is_none() {
            return Some(retry(format!("the server asks for seq {expected_seq} again")));
        }
        state.queue.send_from(expected_seq);
        None
    }

    fn command(&self, command: v1::Command) {
        let v1::Command { id, name, data, .. } = command;
        if let Some(hook) = &self.shared.config.on_command {
            return hook(Command { id, name, data });
        }
        let data = "this task does not take commands".into();
        self.shared.offer_reply(v1::CommandResult { id, ok: false, data });
    }

    /// The server ended the stream with OK.
    fn ended(&self) -> SessionEnd {
        let state = self.shared.lock();
        match state.close.as_ref().filter(|_| self.close_sent) {
            None => retry("the server ended the stream"),
            Some(close) if state.stored_seq >= close.final_seq => SessionEnd::Closed,
            // A proxy that drains ends streams with OK, too: only acks say what is stored.
            Some(_) => retry("the server ended the stream before it had acknowledged everything"),
        }
    }

    fn failed(&self, status: &Status) -> SessionEnd {
        let reason = describe(status);
        match status.code() {
            Code::Aborted => SessionEnd::Fenced(reason),
            Code::InvalidArgument | Code::OutOfRange => {
                // One bad line must not stop the others: it becomes a counted loss, in its place.
                let removed = refused_seq(status.message()).is_some_and(|seq| self.shared.lock().queue.refuse(seq));
                SessionEnd::Retry {
                    reason,
                    progress: removed,
                    at_once: removed,
                    not_before: Duration::ZERO,
                    refused: !removed,
                }
            }
            Code::FailedPrecondition => {
                SessionEnd::Retry { reason, progress: false, at_once: false, not_before: Duration::ZERO, refused: true }
            }
            _ => retry_as_told(status),
        }
    }

    fn with_progress(&self, mut end: SessionEnd) -> SessionEnd {
        if let SessionEnd::Retry { progress, .. } = &mut end {
            *progress |= self.progress || self.began.elapsed() >= LONG_LIVED;
        }
        end
    }
}

async fn reserve<T>(outbox: Option<mpsc::Sender<T>>) -> Option<mpsc::OwnedPermit<T>> {
    outbox?.reserve_owned().await.ok()
}
