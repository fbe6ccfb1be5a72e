//! `flowforge tail`: a task's lines on standard output, followed until it ends.
//!
//! After any disconnect it goes on behind the last line it saw (Last-Event-ID), and it checks what the server promises:
//! without a filter every offset follows the one before, or a control event says why not. A line is printed once, also when
//! the server has to go back.

use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, StdoutLock, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde::Deserialize;

use super::completeness::Completeness;
use super::printed::Printed;
use super::render::{Line, Printer, Style};
use super::send::LevelArg;
use super::{notice, small_runtime, usage};
use crate::sse::{Event, Item, Parser};

/// The server sends a heartbeat every 15 s; silence for this long means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(45);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server says at once what it knows of a task.
const UNKNOWN_AFTER: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Arguments of `flowforge tail`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TailArgs {
    /// Task id
    #[arg(env = "FLOWFORGE_TASK_ID", value_name = "TASK")]
    task: String,
    /// Where to read from, the server's HTTP address
    #[arg(long, value_name = "URL", alias = "http", env = "FLOWFORGE_HTTP", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Tenant of the task [default: default]
    #[arg(long, value_name = "TENANT", env = "FLOWFORGE_TENANT_ID")]
    tenant: Option<String>,
    /// Begin with the last N lines [default: the server's, 1000]
    #[arg(long, short = 'n', value_name = "N", conflicts_with = "from")]
    lines: Option<u64>,
    /// Begin with the line of this offset; 1 is the first
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Only lines of this severity and above
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// Only lines of this stream
    #[arg(long, value_parser = ["stdout", "stderr", "log", "system"])]
    stream: Option<String>,
    /// Only lines that contain this text, upper or lower case
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// Stop at the last line there is instead of waiting for more
    #[arg(long)]
    no_follow: bool,
    /// What to print
    #[arg(long, value_enum, default_value_t = OutputArg::Text)]
    output: OutputArg,
    /// Print each line's time
    #[arg(long, short)]
    timestamps: bool,
    /// Print each line's offset
    #[arg(long)]
    offsets: bool,
    /// Exit with the task's exit code (1 if it failed without one)
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputArg {
    /// The messages
    Text,
    /// One JSON object a line
    Json,
}

const EXAMPLES: &str = "\
Examples:
  flowforge tail build-7                       # the last lines, then live
  flowforge tail build-7 --from 1 > build.log  # everything the task printed, bytes unchanged
  flowforge tail build-7 --grep error --level warn --no-follow
  flowforge tail build-7 --output json | jq .message

Exits with 0 at the end of the task, whatever that was; --exit-code passes the task's code on.

Environment:
  FLOWFORGE_HTTP, FLOWFORGE_TASK_ID, FLOWFORGE_TENANT_ID
  NO_COLOR    no colours";

/// Follows the task.
pub(super) fn tail(args: TailArgs) -> anyhow::Result<ExitCode> {
    if !flowforge_client::is_valid_id(&args.task) {
        return Err(usage(format!("{:?} is not a task id", args.task)));
    }
    let followed = small_runtime()?.block_on(async { Box::pin(Tail::new(args)?.follow()).await });
    match followed {
        Ok(code) => Ok(ExitCode::from(code)),
        // Our reader has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// How one connection ended.
enum Stop {
    /// There is nothing more.
    Done,
    /// Connect again; why.
    Lost(String),
}

struct Tail {
    args: TailArgs,
    http: reqwest::Client,
    printer: Printer<BufWriter<StdoutLock<'static>>>,
    /// People look at what is printed.
    terminal: bool,
    printed: Printed,
    /// Where to resume.
    last_event_id: Option<String>,
    /// The last offset known about, as long as every offset has to come.
    last_offset: Option<u64>,
    /// Something came on this connection.
    alive: bool,
    /// The task is known, or it was said that it is not.
    is_known: bool,
    wait: Duration,
    end: Option<End>,
}

/// Data of the `end` event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct End {
    status: String,
    exit_code: Option<i32>,
    lines: u64,
    dropped: u64,
    complete: Option<bool>,
    completeness: Option<Completeness>,
}

/// Data of `gap` and `rollback`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Jump {
    from: u64,
    to: u64,
    reason: String,
}

/// RFC 9457.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
}

impl Tail {
    fn new(args: TailArgs) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(SILENCE).build()?;
        let terminal = stdout().is_terminal();
        let style = Style {
            terminal,
            colours: terminal && notice::colours_wanted(),
            timestamps: args.timestamps,
            offsets: args.offsets,
        };
        let printer = Printer::new(BufWriter::with_capacity(64 << 10, stdout().lock()), style);
        Ok(Self {
            args,
            http,
            printer,
            terminal,
            printed: Printed::default(),
            last_event_id: None,
            last_offset: None,
            alive: false,
            is_known: false,
            wait: Duration::ZERO,
            end: None,
        })
    }

    async fn follow(mut self) -> anyhow::Result<u8> {
        let mut connected_once = false;
        loop {
            self.alive = false;
            let lost = match self.connect_and_read().await? {
                Stop::Done => break,
                Stop::Lost(reason) => reason,
            };
            self.printer.flush()?;
            connected_once |= self.alive;
            if !connected_once {
                let not_http = ["invalid HTTP version", "unexpected message"];
                let hint = if not_http.iter().any(|words| lost.contains(words)) {
                    "is it the gRPC port? HTTP is on 8080 by default"
                } else {
                    "is the server running?"
                };
                anyhow::bail!("cannot read from {}: {lost}; {hint}", self.args.url);
            }
            if self.alive {
                self.wait = Duration::ZERO;
                notice::info(&format!("disconnected ({lost}); reconnecting"));
            }
            self.wait = (self.wait * 2).clamp(Duration::from_millis(200), MAX_WAIT);
            tokio::time::sleep(self.wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
        self.printer.finish()?;
        Ok(self.conclude())
    }

    async fn connect_and_read(&mut self) -> anyhow::Result<Stop> {
        let response = match self.request().send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                return Err(usage(format!("{}: {}", self.args.url, innermost(&error))));
            }
            Err(error) => return Ok(Stop::Lost(innermost(&error))),
        };
        match response.status() {
            StatusCode::OK => self.read(response).await,
            StatusCode::NO_CONTENT => Ok(Stop::Done),
            status => {
                let text = problem(status, &response.text().await.unwrap_or_default());
                let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                if passing { Ok(Stop::Lost(text)) } else { Err(anyhow::anyhow!("{}: {text}", self.args.task)) }
            }
        }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let args = &self.args;
        let url = format!("{}/api/v1/tasks/{}/logs/stream", args.url.trim_end_matches('/'), args.task);
        let mut query: Vec<(&str, String)> = Vec::new();
        let mut add = |key, value: Option<String>| query.extend(value.map(|value| (key, value)));
        add("tenant", args.tenant.clone().filter(|tenant| !tenant.is_empty()));
        add("tail", args.lines.map(|lines| lines.to_string()));
        add("from", args.from.map(|from| from.to_string()));
        add("level", args.level.map(|level| level.name().to_owned()));
        add("stream", args.stream.clone());
        add("q", args.grep.clone());
        add("follow", args.no_follow.then(|| "false".to_owned()));
        let mut request = self.http.get(url).query(&query).header("accept", "text/event-stream");
        if let Some(id) = &self.last_event_id {
            request = request.header("last-event-id", id);
        }
        request
    }

    async fn read(&mut self, response: reqwest::Response) -> anyhow::Result<Stop> {
        let (mut parser, mut items) = (Parser::default(), Vec::new());
        let mut chunks = response.bytes_stream();
        let told = tokio::time::sleep(UNKNOWN_AFTER);
        tokio::pin!(told);
        loop {
            let next = tokio::select! {
                next = chunks.next() => next,
                () = &mut told, if !self.is_known => {
                    self.is_known = true;
                    notice::info(&format!("nobody has printed to task {} yet; waiting", self.args.task));
                    continue;
                }
            };
            let Some(chunk) = next else { break };
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Stop::Lost(innermost(&error))),
            };
            self.alive = true;
            parser.feed(&chunk, &mut items)?;
            for item in items.drain(..) {
                self.take(item)?;
            }
            self.printer.flush()?;
            if self.end.is_some() {
                return Ok(Stop::Done);
            }
        }
        // The body came to its proper end.
        if self.args.no_follow { Ok(Stop::Done) } else { Ok(Stop::Lost("the server ended the stream".to_owned())) }
    }

    fn take(&mut self, item: Item) -> anyhow::Result<()> {
        match item {
            Item::Event(event) => self.event(event),
            Item::Id(id) => {
                self.last_offset = self.is_unfiltered().then(|| offset_of(&id)).flatten();
                self.last_event_id = Some(id);
                Ok(())
            }
            // How long to wait is our own business.
            Item::Retry(_) | Item::Comment => Ok(()),
        }
    }

    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        match event.event.as_str() {
            "log" => self.log(&event.data)?,
            "gap" => self.gap(&parse(&event)?),
            "rollback" => {
                let jump: Jump = parse(&event)?;
                notice::warning(&format!("the server lost its lines after {}; what comes again is left out", jump.to));
                self.printed.expect_again();
                self.last_offset = self.is_unfiltered().then_some(jump.to);
            }
            "reset" => {
                notice::warning("the server starts this task from the beginning; what comes again is left out");
                self.printed.expect_again();
                self.last_offset = None;
            }
            "end" => self.end = Some(parse(&event)?),
            "start" => self.is_known = true,
            // `live`, `frame`, and what later servers may say.
            _ => {}
        }
        if event.id.is_some() {
            self.last_event_id = event.id;
        }
        Ok(())
    }

    fn log(&mut self, data: &str) -> anyhow::Result<()> {
        let line: Line<'_> = serde_json::from_str(data).context("the server sent a line that is not valid")?;
        if let Some(last) = self.last_offset.filter(|last| line.offset != last + 1) {
            notice::warning(&format!("line {} came after line {last}: the server broke its promise", line.offset));
        }
        self.last_offset = self.is_unfiltered().then_some(line.offset);
        if !self.printed.is_new(&line) {
            return Ok(());
        }
        match self.args.output {
            // A file gets the program's bytes and nothing else.
            OutputArg::Text if line.is_ours() && !self.terminal => {
                if !line.is_end() {
                    notice::warning(line.message());
                }
            }
            OutputArg::Text => self.printer.line(&line)?,
            OutputArg::Json => self.printer.json(data)?,
        }
        Ok(())
    }

    fn gap(&mut self, gap: &Jump) {
        let why = if gap.reason == "retention" { "removed by retention" } else { "missing from the store" };
        notice::warning(&format!("lines {} to {} are {why}", gap.from, gap.to));
        self.last_offset = self.is_unfiltered().then_some(gap.to);
    }

    /// Whether every offset has to come.
    fn is_unfiltered(&self) -> bool {
        let args = &self.args;
        args.level.is_none() && args.stream.is_none() && args.grep.as_deref().is_none_or(str::is_empty)
    }

    /// Says how the task ended; our exit code.
    fn conclude(&self) -> u8 {
        let Some(end) = &self.end else { return 0 };
        let code = end.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
        let incomplete = if end.complete == Some(false) { ", incomplete" } else { "" };
        let (lines, dropped) = (notice::lines(end.lines), notice::grouped(end.dropped));
        let status = if end.status.is_empty() { "ended" } else { &end.status };
        notice::info(&format!("task {} {status}{code}, {lines}, {dropped} dropped{incomplete}", self.args.task));
        if let Some(found) = &end.completeness {
            found.tell(false);
        }
        if !self.args.exit_code {
            return 0;
        }
        let otherwise = i32::from(end.status != "succeeded");
        u8::try_from(end.exit_code.unwrap_or(otherwise) & 0xFF).unwrap_or(1)
    }
}

/// The offset in `<epoch>-<offset>`.
fn offset_of(id: &str) -> Option<u64> {
    id.rsplit_once('-')?.1.parse().ok()
}

fn parse<'a, T: Deserialize<'a>>(event: &'a Event) -> anyhow::Result<T> {
    serde_json::from_str(&event.data).with_context(|| format!("the server sent an invalid {:?} event", event.event))
}

fn problem(status: StatusCode, body: &str) -> String {
    let problem: Problem = serde_json::from_str(body).unwrap_or_default();
    match (problem.title.as_str(), problem.detail.as_str()) {
        ("", "") => status.to_string(),
        ("", text) | (text, "") => text.to_owned(),
        (title, detail) => format!("{title}: {detail}"),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_become_one_line() {
        let body = r#"{"type":"about:blank","title":"invalid level","detail":"'x' is not a level","status":400}"#;
        assert_eq!(problem(StatusCode::BAD_REQUEST, body), "invalid level: 'x' is not a level");
        assert_eq!(problem(StatusCode::BAD_GATEWAY, "<html>"), "502 Bad Gateway");
    }

    #[test]
    fn resume_points_carry_the_offset() {
        assert_eq!(offset_of("1700000000000-42"), Some(42));
        assert_eq!(offset_of("nonsense"), None);
    }
}
