//! The canary's reader: Server-Sent Events over HTTP, as every reader gets them, going on by Last-Event-ID after each disconnect.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::sleep;
use tracing::debug;

use super::Canary;
use super::checker::Gap;
use crate::sse::{Event, Item, Parser};

/// What the server asks its readers to wait before they come back.
const RECONNECT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server breaks every silence after 15 s; this long means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(45);

/// This server is reached directly, whatever proxy the environment names.
pub(super) fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(SILENCE).no_proxy().build()
}

/// Reads for as long as it is polled.
pub(super) async fn run(canary: &Canary) {
    canary.welcomed.wait().await;
    let mut reader = Reader { canary, last_event_id: None, begun_at: None };
    loop {
        let ended = Box::pin(reader.connect()).await;
        // Not a warning: a disconnect breaks no promise. If it lasts, the checker says so.
        debug!(?ended, "the canary's stream ended; connecting again");
        sleep(RECONNECT).await;
    }
}

struct Reader<'a> {
    canary: &'a Canary,
    /// Where to go on.
    last_event_id: Option<String>,
    /// Where the first stream began, until a line has given a place.
    begun_at: Option<u64>,
}

#[derive(Deserialize)]
struct Line<'a> {
    offset: u64,
    #[serde(default, borrow)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Start {
    from: u64,
}

#[derive(Deserialize)]
struct GapData<'a> {
    reason: &'a str,
}

#[derive(Deserialize)]
struct Rollback {
    to: u64,
}

impl Reader<'_> {
    async fn connect(&mut self) -> anyhow::Result<()> {
        let response = self.request().send().await?;
        // 204: the task has ended, because its producer was thought to be gone. It goes on when that comes back.
        ensure!(response.status() == StatusCode::OK, "the server answered {}", response.status());
        let (mut parser, mut items) = (Parser::default(), Vec::new());
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            parser.feed(&chunk?, &mut items)?;
            items.drain(..).try_for_each(|item| self.take(item))?;
        }
        Ok(())
    }

    /// The first stream begins with the last row there is, which gives a place at once. A place that the server cannot go on
    /// from means the whole log: whatever was shown has to be shown again.
    fn request(&self) -> reqwest::RequestBuilder {
        let canary = self.canary;
        let url = format!("{}/api/v1/tasks/{}/logs/stream", canary.http_url, canary.task.task_id());
        let request = canary.http.get(url).header("accept", "text/event-stream");
        match (&self.last_event_id, self.begun_at) {
            (Some(id), _) => request.query(&[("from", 1)]).header("last-event-id", id),
            (None, Some(offset)) => request.query(&[("from", offset)]),
            (None, None) => request.query(&[("tail", 1)]),
        }
    }

    fn take(&mut self, item: Item) -> anyhow::Result<()> {
        match item {
            Item::Event(event) => self.event(event)?,
            Item::Id(id) => self.last_event_id = Some(id),
            Item::Retry(_) | Item::Comment => {}
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        let canary = self.canary;
        match event.event.as_str() {
            "log" => self.line(&parse(&event)?),
            "gap" => {
                let missing = parse::<GapData<'_>>(&event)?.reason == "missing";
                canary.with(|checker, _| checker.gap(if missing { Gap::Missing } else { Gap::Retention }));
            }
            "rollback" => {
                let to = parse::<Rollback>(&event)?.to;
                canary.with(|checker, now| checker.rollback(to, now));
            }
            "reset" => canary.with(|checker, now| checker.rollback(0, now)),
            "start" => {
                self.begun_at.get_or_insert(parse::<Start>(&event)?.from);
                let _ = canary.reading.set(()); // Only the first stream has to say so.
            }
            // `live`, `frame`, `end`, and what later servers may say.
            _ => {}
        }
        if event.id.is_some() {
            self.last_event_id = event.id;
        }
        Ok(())
    }

    fn line(&self, line: &Line<'_>) {
        let number = line.message.strip_prefix(&self.canary.prefix).and_then(|number| number.parse().ok());
        let Some(number) = number else { return };
        if let Some(latency) = self.canary.with(|checker, now| checker.line(number, line.offset, now)) {
            self.canary.metrics.canary.latency.observe(latency.as_secs_f64());
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(event: &'a Event) -> anyhow::Result<T> {
    serde_json::from_str(&event.data).with_context(|| format!("the server sent an invalid {:?} event", event.event))
}
