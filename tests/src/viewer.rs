//! A reader of Server-Sent Events that believes nothing: its own parser, and a journal of all it was shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::timeout;

use crate::line::Row;
use crate::wait::PATIENCE;

/// One event as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `event:`; empty if there was none.
    pub name: String,
    /// `id:`.
    pub id: Option<String>,
    /// `data:`.
    pub data: String,
}

/// What a viewer's journal holds, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A connection was made, with this Last-Event-ID.
    Open(Option<String>),
    /// A `log` event.
    Row(Row),
    /// Any other named event.
    Control(String, Value),
    /// The connection ended: by us, by the server, or by an error.
    Cut,
}

/// One viewer and all its connections.
#[derive(Debug)]
pub struct Viewer {
    /// Names it in failures.
    pub name: String,
    url: String,
    http: reqwest::Client,
    connection: Option<Connection>,
    /// What it resumes with.
    pub last_event_id: Option<String>,
    /// Everything it was shown.
    pub journal: Vec<Seen>,
    /// Whether the stream said that the task ended, and nothing came after.
    pub ended: bool,
    /// Highest offset shown and not taken back.
    pub last_offset: u64,
    /// The same, for those who wait for it while this follows.
    pub shown: Arc<AtomicU64>,
    /// The longest time that it could not read.
    pub longest_outage: Duration,
    /// Reads so many events a second at most.
    pub events_per_second: Option<u32>,
}

struct Connection {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
    /// Parsed up to here.
    at: usize,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

/// What came of an attempt to connect.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Events follow.
    Events,
    /// 204: there is nothing more.
    NothingMore,
}

impl Viewer {
    /// Of the stream at `url`, which is [`Server::task_url`](crate::server::Server::task_url) and perhaps a query.
    pub fn new(name: &str, url: String) -> Self {
        Self {
            name: name.to_owned(),
            url,
            http: reqwest::Client::new(),
            connection: None,
            last_event_id: None,
            journal: Vec::new(),
            ended: false,
            last_offset: 0,
            shown: Arc::default(),
            longest_outage: Duration::ZERO,
            events_per_second: None,
        }
    }

    /// Of all lines of a task.
    pub fn whole(name: &str, task_url: &str) -> Self {
        Self::new(name, format!("{task_url}/logs/stream?from=1"))
    }

    /// Connects, resuming behind the last event seen.
    pub async fn open(&mut self) -> Result<Opened> {
        self.cut();
        let mut request = self.http.get(&self.url).header("accept", "text/event-stream");
        if let Some(id) = &self.last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = timeout(PATIENCE, request.send()).await.context("no answer to a stream request")??;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => return Ok(Opened::NothingMore),
            // A proxy whose server is not there: as good as nobody listening.
            StatusCode::BAD_GATEWAY => {
                return Err(response.error_for_status().map_or_else(Into::into, |_| anyhow!("502")));
            }
            status => bail!("{}: {status}: {}", self.name, response.text().await.unwrap_or_default()),
        }
        let kind = response.headers().get("content-type").map(|value| value.as_bytes().to_vec());
        ensure!(kind.as_deref() == Some(b"text/event-stream"), "{}: content type {kind:?}", self.name);
        self.journal.push(Seen::Open(self.last_event_id.clone()));
        self.connection = Some(Connection { bytes: response.bytes_stream().boxed(), buffer: Vec::new(), at: 0 });
        Ok(Opened::Events)
    }

    /// Drops the connection.
    pub fn cut(&mut self) {
        if self.connection.take().is_some() {
            self.journal.push(Seen::Cut);
        }
    }

    /// The next event, within the usual patience. `None`: the connection is over.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        if let Ok(event) = timeout(PATIENCE, self.receive()).await {
            return event;
        }
        let last = &self.journal[self.journal.len().saturating_sub(6)..];
        bail!("{}: nothing came for {PATIENCE:?} after {last:?}", self.name)
    }

    /// Events until one of this name, which is returned.
    pub async fn next_named(&mut self, name: &str) -> Result<Event> {
        loop {
            match self.next().await? {
                Some(event) if event.name == name => return Ok(event),
                Some(_) => {}
                None => bail!("{}: the stream ended before {name:?}; seen: {:?}", self.name, self.journal.last()),
            }
        }
    }

    /// The next event, however long it takes. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Option<Event>> {
        loop {
            let Some(connection) = &mut self.connection else { return Ok(None) };
            if let Some(block) = connection.block()? {
                let Some(event) = parse(&block)? else { continue };
                self.note(&event)?;
                return Ok(Some(event));
            }
            let Some(Ok(bytes)) = connection.bytes.next().await else {
                self.cut();
                return Ok(None);
            };
            connection.buffer.extend_from_slice(&bytes);
        }
    }

    fn note(&mut self, event: &Event) -> Result<()> {
        if let Some(id) = &event.id {
            self.last_event_id = Some(id.clone());
        }
        match event.name.as_str() {
            "log" => {
                let row = Row::parse(&event.data)?;
                let id = format!("{}-{}", row.epoch, row.offset);
                ensure!(event.id.as_ref() == Some(&id), "{}: id {:?} on the row {id}", self.name, event.id);
                self.last_offset = row.offset;
                self.journal.push(Seen::Row(row));
            }
            "" => {}
            name => {
                ensure!(event.id.is_none(), "{}: the control event {name} has an id", self.name);
                let data: Value = serde_json::from_str(&event.data)?;
                match name {
                    "rollback" => self.last_offset = data["to"].as_u64().context("rollback without to")?,
                    "reset" => self.last_offset = 0,
                    "end" => self.ended = true,
                    "start" => self.ended = false,
                    _ => {}
                }
                self.journal.push(Seen::Control(name.to_owned(), data));
            }
        }
        self.shown.store(self.last_offset, Ordering::Relaxed);
        Ok(())
    }

    /// Reads to the end of the task, through any number of broken connections.
    pub async fn follow(mut self) -> Result<Self> {
        let (mut outage, mut shown) = (Instant::now(), 0_u32);
        loop {
            ensure!(outage.elapsed() < PATIENCE, "{}: no connection for {PATIENCE:?}", self.name);
            match self.open().await {
                Ok(Opened::NothingMore) => {
                    self.ended = true;
                    return Ok(self);
                }
                Ok(Opened::Events) => {}
                // Nobody listens, or no more.
                Err(error) if error.downcast_ref::<reqwest::Error>().is_some() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            while self.next().await?.is_some() {
                self.longest_outage = self.longest_outage.max(outage.elapsed());
                outage = Instant::now();
                shown += 1;
                if let Some(rate) = self.events_per_second
                    && shown % (rate / 100).max(1) == 0
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            if self.ended {
                return Ok(self);
            }
        }
    }

    /// Control events of one name, in order.
    pub fn controls(&self, name: &str) -> Vec<Value> {
        let named = |seen: &Seen| match seen {
            Seen::Control(other, data) if other == name => Some(data.clone()),
            _ => None,
        };
        self.journal.iter().filter_map(named).collect()
    }

    /// Rows shown, also those taken back.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.journal.iter().filter_map(|seen| if let Seen::Row(row) = seen { Some(row) } else { None })
    }
}

impl Connection {
    /// The lines of the next event, if it is whole.
    fn block(&mut self) -> Result<Option<String>> {
        let fresh = &self.buffer[self.at..];
        let Some(end) = fresh.windows(2).position(|pair| pair == b"\n\n") else {
            self.buffer.drain(..self.at);
            self.at = 0;
            return Ok(None);
        };
        let block = std::str::from_utf8(&fresh[..end]).context("an event that is not UTF-8")?.to_owned();
        self.at += end + 2;
        Ok(Some(block))
    }
}

/// One event from its lines; `None` for comments and `retry`. Strict: this server has no reason to write anything else.
fn parse(block: &str) -> Result<Option<Event>> {
    let mut event = Event { name: String::new(), id: None, data: String::new() };
    let mut empty = true;
    for line in block.split('\n') {
        ensure!(!line.contains('\r'), "a carriage return in an event: {line:?}");
        match line.split_once(':') {
            Some(("" | "retry", _)) => continue,
            Some(("event", name)) => name.trim_start_matches(' ').clone_into(&mut event.name),
            Some(("id", id)) => event.id = Some(id.trim_start_matches(' ').to_owned()),
            Some(("data", data)) => {
                ensure!(event.data.is_empty(), "two lines of data in one event: {block:?}");
                data.strip_prefix(' ').unwrap_or(data).clone_into(&mut event.data);
            }
            _ => bail!("not a line of an event: {line:?}"),
        }
        empty = false;
    }
    Ok((!empty).then_some(event))
}
