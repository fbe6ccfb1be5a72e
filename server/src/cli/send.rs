//! `… | flowforge send`: standard input to a task, nothing lost.

use std::io::stdin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use flowforge_client::{Client, CloseOutcome, Mode, Overflow, Status, Stream};
use tokio::sync::oneshot;

use super::completeness::Completeness;
use super::echo::read_some;
use super::signals::Signals;
use super::{TaskArgs, notice, small_runtime, usage};

/// Say so when the server has been away for this long.
const AWAY_NOTICE_AFTER: Duration = Duration::from_secs(2);

/// What a shell says of a command that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Arguments of `flowforge send`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SendArgs {
    /// Task id
    #[arg(long, value_name = "ID", env = "FLOWFORGE_TASK_ID")]
    task: String,
    #[command(flatten)]
    target: TaskArgs,
    /// Stream of the lines
    #[arg(long, value_enum, default_value_t = StreamArg::Stdout)]
    stream: StreamArg,
    /// Severity of the lines
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// Keep every byte: do not collapse progress bars (lines rewritten with \r)
    #[arg(long)]
    raw: bool,
}

const EXAMPLES: &str = "\
Examples:
  make 2>&1 | flowforge send --task build-7
  journalctl -fu nginx | flowforge send --task nginx --stream log --level info

Waits for the server as long as it takes; what does not fit into memory waits in the pipe. Exits
with 0 only when every line is stored. Ctrl-C stops reading, delivers what was read and ends the
task as failed; a second one gives up. How the program before the pipe ends is not seen here: use
`flowforge run` for that.

Environment:
  FLOWFORGE_SERVER, FLOWFORGE_TASK_ID, FLOWFORGE_WORKFLOW_ID, FLOWFORGE_TENANT_ID";

/// A stream that a client may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StreamArg {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
    /// A logging library's records
    Log,
}

impl StreamArg {
    fn stream(self) -> Stream {
        match self {
            Self::Stdout => Stream::Stdout,
            Self::Stderr => Stream::Stderr,
            Self::Log => Stream::Log,
        }
    }
}

/// A severity by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LevelArg {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl LevelArg {
    /// Its OpenTelemetry severity number.
    pub(super) fn severity(self) -> u8 {
        self as u8 * 4 + 1
    }

    /// Its name in queries.
    pub(super) fn name(self) -> &'static str {
        ["trace", "debug", "info", "warn", "error", "fatal"][self as usize]
    }
}

/// Ships standard input to its end.
pub(super) fn send(args: &SendArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.target.client_config(&args.task);
    config.overflow = Overflow::Wait;
    config.verify = true;
    config.level = args.level.map_or(0, LevelArg::severity);
    config.mode = if args.raw { Mode::Raw } else { Mode::Collapse };
    let runtime = small_runtime()?;
    let outcome = runtime.block_on(async {
        let signals = Signals::install()?;
        let client = Arc::new(Client::start(config).map_err(usage)?);
        ship(args, client, signals).await
    })?;
    report(args, &outcome)
}

async fn ship(args: &SendArgs, client: Arc<Client>, mut signals: Signals) -> anyhow::Result<CloseOutcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let end_of_input = read_stdin(Arc::clone(&client), args.stream.stream(), Arc::clone(&stop))?;
    let away = tell_when_away(&client, &args.target.server);
    tokio::pin!(away);
    // How the program before the pipe ended nobody knows; that we were told to stop, we do.
    let mut end = (Status::Unknown, None);
    tokio::select! {
        _ = end_of_input => {}
        () = signals.asked_to_stop() => {
            end = (Status::Failed, Some(INTERRUPTED));
            notice::info("stopped reading; delivering what was read, once more to give up");
        }
        // Nothing will be taken any more; the reason is in the outcome.
        _ = client.ended() => {}
        () = &mut away => {}
    }
    stop.store(true, Ordering::Release);
    tokio::select! {
        biased;
        outcome = client.close_async(end.0, end.1, Duration::MAX) => Ok(outcome),
        () = signals.asked_to_stop() => Ok(client.abandon()),
        () = away => Ok(client.abandon()),
    }
}

/// Reads on a thread: reading blocks, and so does a full buffer, which is the back-pressure on the pipe.
fn read_stdin(client: Arc<Client>, stream: Stream, stop: Arc<AtomicBool>) -> std::io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name("flowforge-stdin".to_owned()).spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while !stop.load(Ordering::Acquire)
            && let Some(bytes) = read_some(&mut stdin().lock(), &mut buffer)
        {
            client.write(stream, bytes);
        }
        let _ = ended.send(());
    })?;
    Ok(end)
}

/// Says so once each time that the server has been away for a while. Never ends.
async fn tell_when_away(client: &Client, server: &str) {
    let mut away_for = 0;
    loop {
        tokio::time::sleep(AWAY_NOTICE_AFTER / 4).await;
        let stats = client.stats();
        away_for = if stats.connected || stats.end.is_some() { 0 } else { away_for + 1 };
        if away_for == 4 {
            let because = stats.last_error.map(|error| format!(" ({error})")).unwrap_or_default();
            notice::warning(&format!("waiting for {server}{because}; Ctrl-C to stop"));
        }
    }
}

fn report(args: &SendArgs, outcome: &CloseOutcome) -> anyhow::Result<ExitCode> {
    let because = outcome.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    if !outcome.is_complete() {
        let lines = notice::lines(outcome.undelivered);
        anyhow::bail!("{lines} not delivered to {}{because}", args.target.server);
    }
    if let Some(found) = &outcome.completeness {
        Completeness::from(found).tell(false);
    }
    if outcome.dropped > 0 {
        anyhow::bail!("{} refused by the server, and marked in the log", notice::lines(outcome.dropped));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_those_of_opentelemetry() {
        let numbers: Vec<u8> = LevelArg::value_variants().iter().map(|level| level.severity()).collect();
        assert_eq!(numbers, [1, 5, 9, 13, 17, 21]);
        assert_eq!(LevelArg::Fatal.name(), "fatal");
    }
}
