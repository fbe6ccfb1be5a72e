//! One `StreamLogs` call, message by message: the test decides everything.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flowforge_proto::proof::{Fold, Line};
use flowforge_proto::v1::log_service_client::LogServiceClient;
use flowforge_proto::v1::stream_logs_request::Message as Request;
use flowforge_proto::v1::stream_logs_response::Message as Response;
use flowforge_proto::v1::{
    Ack, Close, Hello, LogBatch, LogEntry, Proof, StreamLogsRequest, StreamLogsResponse, Welcome,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::wait::PATIENCE;

/// Messages between the test and the connection. Small: what lies here is not sent yet.
const REQUESTS: usize = 2;

/// A new random producer id.
pub fn new_producer() -> u128 {
    fastrand::u128(1..)
}

/// A Hello with nothing but what is needed.
pub fn hello(task: &str, producer: u128) -> Hello {
    Hello {
        task_id: task.to_owned(),
        producer: producer.to_be_bytes().to_vec().into(),
        sdk: "flowforge-tests".to_owned(),
        ..Hello::default()
    }
}

/// A plain line of standard output.
pub fn entry(message: impl Into<Vec<u8>>) -> LogEntry {
    LogEntry {
        message: message.into().into(),
        time_unix_nano: flowforge_client::now_unix_nano(),
        ..LogEntry::default()
    }
}

/// What a producer says that it sent: entries without `dropped`, from this number on.
pub fn prove(first_seq: u64, entries: impl IntoIterator<Item = LogEntry>) -> Proof {
    let mut fold = Fold::default();
    for (seq, entry) in (first_seq..).zip(entries) {
        fold.add(&Line {
            seq,
            time_unix_nano: entry.time_unix_nano,
            stream: entry.stream as u8,
            level: entry.level as u8,
            continued: entry.continued,
            no_newline: entry.no_newline,
            update_id: entry.update_id,
            message: &entry.message,
            fields_json: &entry.fields_json,
        });
    }
    fold.to_proof()
}

/// A connection to a server's gRPC address.
pub async fn connect(grpc_url: &str) -> Result<Channel> {
    Ok(endpoint(grpc_url)?.connect().await?)
}

/// One that notices within seconds when the other end says nothing any more.
pub async fn connect_watchful(grpc_url: &str) -> Result<Channel> {
    let endpoint = endpoint(grpc_url)?.http2_keep_alive_interval(Duration::from_secs(2)).keep_alive_while_idle(true);
    Ok(endpoint.keep_alive_timeout(Duration::from_secs(3)).connect().await?)
}

fn endpoint(grpc_url: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(grpc_url.to_owned())?.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true))
}

/// An open call.
#[derive(Debug)]
pub struct Call {
    requests: Option<mpsc::Sender<StreamLogsRequest>>,
    responses: Streaming<StreamLogsResponse>,
}

impl Call {
    /// Opens a call and says nothing.
    pub async fn open(grpc_url: &str) -> Result<Self> {
        Self::open_on(connect(grpc_url).await?).await
    }

    /// On an existing connection.
    pub async fn open_on(channel: Channel) -> Result<Self> {
        let (requests, stream) = mpsc::channel(REQUESTS);
        let mut client = LogServiceClient::new(channel);
        let responses = client.stream_logs(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests: Some(requests), responses })
    }

    /// Opens a call, says Hello and waits for the Welcome.
    pub async fn hello(grpc_url: &str, hello: Hello) -> Result<(Self, Welcome)> {
        let mut call = Self::open(grpc_url).await?;
        let welcome = call.say_hello(hello).await?;
        Ok((call, welcome))
    }

    /// Says Hello and waits for the Welcome.
    pub async fn say_hello(&mut self, hello: Hello) -> Result<Welcome> {
        self.send(Request::Hello(hello)).await?;
        match self.next().await?? {
            Some(Response::Welcome(welcome)) => Ok(welcome),
            other => bail!("expected Welcome, got {other:?}"),
        }
    }

    /// Sends one message; waits for room on the way.
    pub async fn send(&self, message: Request) -> Result<()> {
        let request = StreamLogsRequest { message: Some(message) };
        let requests = self.requests.as_ref().context("this call is half-closed")?;
        // A call that the server ended drops its receiver; why is told by `next`.
        let _ = requests.send(request).await;
        Ok(())
    }

    /// Sends consecutive entries.
    pub async fn batch(&self, first_seq: u64, entries: Vec<LogEntry>) -> Result<()> {
        self.send(Request::Batch(LogBatch { first_seq, entries })).await
    }

    /// Sends plain lines.
    pub async fn lines(&self, first_seq: u64, lines: &[&str]) -> Result<()> {
        self.batch(first_seq, lines.iter().map(|line| entry(*line)).collect()).await
    }

    /// A place for one message, once there is room.
    pub fn sender(&self) -> Option<mpsc::Sender<StreamLogsRequest>> {
        self.requests.clone()
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer; `None` when the call ended OK. The outer error is a deadline.
    pub async fn next(&mut self) -> Result<Result<Option<Response>, Status>> {
        timeout(PATIENCE, self.receive()).await.context("the server said nothing")
    }

    /// The next answer, however long it takes.
    pub async fn receive(&mut self) -> Result<Option<Response>, Status> {
        loop {
            match self.responses.message().await? {
                None => return Ok(None),
                Some(StreamLogsResponse { message: Some(message) }) => return Ok(Some(message)),
                Some(_) => {}
            }
        }
    }

    /// Reads acks until `seq` is stored.
    pub async fn stored(&mut self, seq: u64) -> Result<Ack> {
        loop {
            match self.next().await?? {
                Some(Response::Ack(ack)) if ack.stored_seq >= seq => return Ok(ack),
                Some(Response::Ack(_)) => {}
                other => bail!("expected an ack of {seq}, got {other:?}"),
            }
        }
    }

    /// Sends Close, half-closes, and reads to the end of the call. `Ok` means that the Close is stored.
    pub async fn close(&mut self, close: Close) -> Result<Result<(), Status>> {
        self.send(Request::Close(close)).await?;
        self.half_close();
        loop {
            match self.next().await? {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(_)) => {}
                Err(status) => return Ok(Err(status)),
            }
        }
    }

    /// Reads to the status that the server ends the call with, and checks its code.
    pub async fn refused(&mut self, code: Code) -> Result<Status> {
        loop {
            match self.next().await? {
                Ok(Some(_)) => {}
                Ok(None) => bail!("the call ended OK, expected {code:?}"),
                Err(status) => {
                    ensure!(status.code() == code, "expected {code:?}, got {status:?}");
                    return Ok(status);
                }
            }
        }
    }
}
