//! The server of these tests: a real gRPC server that follows a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flowforge_proto::v1;
use flowforge_proto::v1::log_service_server::{LogService, LogServiceServer};
use flowforge_proto::v1::stream_logs_request::Message as Incoming;
use flowforge_proto::v1::stream_logs_response::Message as Outgoing;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Streaming};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How the server behaves in one stream. The last script stays in force.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// Answers Hello with this status.
    pub(crate) refuse_hello: Option<Code>,
    /// Welcome with this instead of what the server has.
    pub(crate) queued_seq: Option<u64>,
    /// Forgets what is not stored before Welcome.
    pub(crate) lose_queued: bool,
    /// Ends the stream with this status after so many messages.
    pub(crate) die_after: Option<(usize, Code)>,
    /// Ends with INVALID_ARGUMENT at this seq.
    pub(crate) refuse_seq: Option<u64>,
    /// Lines are taken but never acked as stored.
    pub(crate) hold_acks: bool,
    /// Ends the stream with OK at once after the Close, whatever was acked.
    pub(crate) ok_at_close: bool,
    /// Asks once to go back to this seq when it sees a higher one.
    pub(crate) resync: Option<u64>,
    /// Reads nothing after Hello.
    pub(crate) stop_reading: bool,
    /// Tells and enforces this limit instead of 64 KiB.
    pub(crate) max_line_bytes: Option<u32>,
    pub(crate) command: bool,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) hellos: Vec<v1::Hello>,
    /// What the server has: (seq, entry); a dropped run under its last number.
    pub(crate) entries: Vec<(u64, v1::LogEntry)>,
    pub(crate) frames: Vec<v1::Frame>,
    pub(crate) results: Vec<v1::CommandResult>,
    pub(crate) close: Option<v1::Close>,
    pub(crate) stored: u64,
    pub(crate) largest_batch: usize,
    pub(crate) messages: usize,
}

impl Seen {
    pub(crate) fn last(&self) -> u64 {
        self.entries.last().map_or(0, |(seq, _)| *seq)
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.entries.iter().map(|(_, entry)| String::from_utf8_lossy(&entry.message).into_owned()).collect()
    }

    /// Takes a batch as the server does: repeats are dropped, holes are a failure of the client.
    fn take(&mut self, batch: v1::LogBatch) {
        self.largest_batch = self.largest_batch.max(batch.entries.len());
        let mut seq = batch.first_seq;
        assert!(seq <= self.last() + 1, "hole: {seq} after {}", self.last());
        for entry in batch.entries {
            let end = seq + entry.dropped.as_ref().map_or(1, |dropped| dropped.lines) - 1;
            if end > self.last() {
                assert!(seq == self.last() + 1, "{seq} overlaps {}", self.last());
                self.entries.push((end, entry));
            }
            seq = end + 1;
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Server {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub(crate) fn new(scripts: impl Into<VecDeque<Script>>) -> Self {
        Self { scripts: Arc::new(Mutex::new(scripts.into())), seen: Arc::default() }
    }

    fn next_script(&self) -> Script {
        let mut scripts = self.scripts.lock().unwrap();
        if scripts.len() > 1 { scripts.pop_front().unwrap() } else { scripts.front().cloned().unwrap_or_default() }
    }

    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.serve_on(listener);
        address
    }

    pub(crate) fn serve_on(&self, listener: TcpListener) -> tokio::task::JoinHandle<()> {
        let service = LogServiceServer::new(self.clone());
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        })
    }

    pub(crate) async fn until(&self, what: &str, check: impl Fn(&Seen) -> bool) {
        until(what, || check(&self.seen.lock().unwrap())).await;
    }
}

pub(crate) async fn until(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < DEADLINE, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

type Answers = mpsc::Sender<Result<v1::StreamLogsResponse, tonic::Status>>;

#[allow(clippy::unnecessary_wraps, reason = "the type that a response stream sends")]
fn answer(message: Outgoing) -> Result<v1::StreamLogsResponse, tonic::Status> {
    Ok(v1::StreamLogsResponse { message: Some(message) })
}

impl Server {
    fn welcome(&self, hello: v1::Hello, script: &Script) -> v1::Welcome {
        let mut seen = self.seen.lock().unwrap();
        seen.hellos.push(hello);
        if script.lose_queued {
            let stored = seen.stored;
            seen.entries.retain(|(seq, _)| *seq <= stored);
        }
        let max_line_bytes = script.max_line_bytes.unwrap_or(64 << 10);
        v1::Welcome {
            epoch: 1,
            generation: seen.hellos.len() as u64,
            queued_seq: script.queued_seq.unwrap_or(seen.last()),
            stored_seq: seen.stored,
            limits: Some(v1::Limits { max_line_bytes, max_message_bytes: 4 << 20 }),
            viewer_url: "http://viewer/?task=t".to_owned(),
        }
    }

    fn take(&self, batch: v1::LogBatch, script: &Script) -> Result<v1::Ack, tonic::Status> {
        let last = batch.first_seq + batch.entries.len() as u64 - 1;
        if let Some(seq) = script.refuse_seq.filter(|seq| (batch.first_seq..=last).contains(seq)) {
            let at = (seq - batch.first_seq) as usize;
            if batch.entries[at].dropped.is_none() {
                return Err(tonic::Status::invalid_argument(format!("entry seq {seq}: bad level")));
            }
        }
        let mut seen = self.seen.lock().unwrap();
        seen.take(batch);
        if !script.hold_acks {
            seen.stored = seen.last();
        }
        Ok(v1::Ack { queued_seq: seen.last(), stored_seq: seen.stored })
    }

    async fn session(
        self,
        mut inbound: Streaming<v1::StreamLogsRequest>,
        answers: Answers,
    ) -> Result<(), tonic::Status> {
        let script = self.next_script();
        let Some(v1::StreamLogsRequest { message: Some(Incoming::Hello(hello)) }) = inbound.message().await? else {
            return Err(tonic::Status::failed_precondition("no Hello"));
        };
        let welcome = self.welcome(hello, &script);
        let max_line_bytes = welcome.limits.map_or(0, |limits| limits.max_line_bytes as usize);
        if let Some(code) = script.refuse_hello {
            return Err(tonic::Status::new(code, "not you"));
        }
        let _ = answers.send(answer(Outgoing::Welcome(welcome))).await;
        if script.command {
            let command = v1::Command { id: "c1".into(), name: "stop".into(), ..Default::default() };
            let _ = answers.send(answer(Outgoing::Command(command))).await;
        }
        if script.stop_reading {
            std::future::pending::<()>().await;
        }
        let mut resync = script.resync;
        let mut messages = 0;
        while let Some(request) = inbound.message().await? {
            messages += 1;
            self.seen.lock().unwrap().messages += 1;
            match request.message.unwrap() {
                Incoming::Batch(batch) if resync.is_some_and(|expected| batch.first_seq > expected) => {
                    let resync = v1::Resync { expected_seq: resync.unwrap_or_default() };
                    let _ = answers.send(answer(Outgoing::Resync(resync))).await;
                    continue;
                }
                Incoming::Batch(batch) => {
                    resync = None;
                    assert!(batch.entries.iter().all(|entry| entry.message.len() <= max_line_bytes));
                    let ack = self.take(batch, &script)?;
                    let _ = answers.send(answer(Outgoing::Ack(ack))).await;
                }
                Incoming::Frame(frame) => self.seen.lock().unwrap().frames.push(frame),
                Incoming::CommandResult(result) => self.seen.lock().unwrap().results.push(result),
                Incoming::Close(close) => {
                    let mut seen = self.seen.lock().unwrap();
                    assert_eq!(close.final_seq, seen.last());
                    seen.close = Some(close);
                }
                Incoming::Hello(_) => return Err(tonic::Status::failed_precondition("two Hellos")),
            }
            if let Some((_, code)) = script.die_after.filter(|(count, _)| *count == messages) {
                return Err(tonic::Status::new(code, "scripted"));
            }
        }
        if script.hold_acks && !script.ok_at_close {
            // Not everything is stored, so the call does not end.
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

type AnswerStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::StreamLogsResponse, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl LogService for Server {
    type StreamLogsStream = AnswerStream;

    async fn stream_logs(
        &self,
        request: Request<Streaming<v1::StreamLogsRequest>>,
    ) -> Result<Response<AnswerStream>, tonic::Status> {
        let (answers, receiver) = mpsc::channel(64);
        let server = self.clone();
        tokio::spawn(async move {
            let last = answers.clone();
            if let Err(status) = server.session(request.into_inner(), answers).await {
                let _ = last.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
