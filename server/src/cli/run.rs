//! `flowforge run`: runs a command and streams what it prints.
//!
//! **Invariants**
//! - The command's exit code is ours, whatever becomes of the server.
//! - The terminal comes first: a byte is echoed before it is shipped, and shipping never holds it up for longer than
//!   [`PATIENCE`] without progress.
//! - The output is read to its end. Only a process that the command left behind, and that holds the output open, can cut
//!   it off, after `--linger`.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use flowforge_client::{Client, CloseOutcome, End, Entry, Mode, Overflow, Status, Stream};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::completeness::Completeness;
use super::echo::{self, Copied, Echo};
use super::leftovers::Leftovers;
use super::pty::{RawMode, Terminal};
use super::signals::{self, Signals};
use super::spool::SpoolArgs;
use super::task_id::new_task_id;
use super::{TaskArgs, notice, small_runtime, usage};

/// How much the command may print ahead of the server.
const BUFFER_BYTES: usize = 64 << 20;
/// A full buffer holds the command up while the server makes progress, and this long when it does not.
const PATIENCE: Duration = Duration::from_secs(1);
/// A server that has never answered is not waited for any longer than this at the end.
const ABSENT_SERVER_WAIT: Duration = Duration::from_secs(2);

/// Arguments of `flowforge run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// Task id [default: <program or script>-<UTC time>-<random>]
    #[arg(long, value_name = "ID", env = "FLOWFORGE_TASK_ID")]
    task: Option<String>,
    #[command(flatten)]
    target: TaskArgs,
    #[command(flatten)]
    spool: SpoolArgs,
    /// Keep every byte: do not collapse progress bars (lines rewritten with \r)
    #[arg(long)]
    raw: bool,
    /// Give the command a terminal, so that it colours and shows progress as it does for people
    #[arg(long)]
    pty: bool,
    /// Do not print the viewer's address
    #[arg(long, short)]
    quiet: bool,
    /// Seconds to wait for output that processes left behind by the command hold open
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    linger: Duration,
    /// Seconds to wait at the end until the server has stored everything
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    flush_timeout: Duration,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  flowforge run -- python train.py --epochs 3
  flowforge run --task build-7 --label branch=main -- make -j8
  flowforge run --pty -- cargo build

The exit code is the command's own (128 + signal; 127 not found, 126 not executable), also without
a server. What the server has not stored yet is kept in the spool, also when this process is killed;
see `flowforge spool --help`.

Environment:
  FLOWFORGE_SERVER, FLOWFORGE_TASK_ID, FLOWFORGE_WORKFLOW_ID, FLOWFORGE_TENANT_ID,
  FLOWFORGE_SPOOL, FLOWFORGE_SPOOL_SIZE
  NO_COLOR    no colours in our own messages
The command gets FLOWFORGE_SUPERVISED (the files that we read), FLOWFORGE_SERVER, FLOWFORGE_TASK_ID,
FLOWFORGE_TENANT_ID, FLOWFORGE_WORKFLOW_ID if there is one, FLOWFORGE_SPOOL for what its own processes
ship, and PYTHONUNBUFFERED=1 unless that is set.";

pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Runs the command; its exit code.
pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let task_id = args.task.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| new_task_id(&args.command));
    let mut config = args.target.client_config(&task_id);
    config.owner = true;
    config.verify = true;
    config.max_buffer_bytes = BUFFER_BYTES;
    config.spool = args.spool.config();
    let spool = config.spool.clone();
    config.overflow = Overflow::WaitForProgress(PATIENCE);
    config.mode = if args.raw { Mode::Raw } else { Mode::Collapse };
    config.strip_cr = args.pty;
    let runtime = small_runtime()?;
    let code = runtime.block_on(async {
        let signals = Signals::install()?;
        let client = Arc::new(Client::start(config).map_err(usage)?);
        if let Some(problem) = client.stats().spool_problem {
            notice::warning(&format!("no spool ({problem}): what is not stored is lost if this process is killed"));
        }
        let leftovers = Leftovers::new(spool, &args.target.server, &client);
        let supervisor = Supervisor { args, task_id, client, signals, leftovers, announced: false };
        Box::pin(supervisor.run()).await
    })?;
    Ok(ExitCode::from(code))
}

/// Tells the SDK in the command which files we read, so that it captures what goes elsewhere, and only that: a process
/// further down inherits the variable, and may have other streams.
pub(super) const SUPERVISED: &str = "FLOWFORGE_SUPERVISED";

/// What the SDK finds for the same file.
pub(super) fn identity(file: &Metadata) -> String {
    format!("{}:{}", file.dev(), file.ino())
}

fn metadata(pipe: &impl AsFd) -> io::Result<Metadata> {
    File::from(pipe.as_fd().try_clone_to_owned()?).metadata()
}

struct Supervisor {
    args: RunArgs,
    task_id: String,
    client: Arc<Client>,
    signals: Signals,
    leftovers: Leftovers,
    /// The viewer's address was printed.
    announced: bool,
}

/// A command that runs.
struct Running {
    child: Child,
    outputs: Vec<oneshot::Receiver<Copied>>,
    /// Output that is not there yet is not waited for.
    cut: CancellationToken,
    terminal: Option<Terminal>,
    raw_mode: Option<RawMode>,
}

impl Supervisor {
    async fn run(mut self) -> anyhow::Result<u8> {
        let code = match self.spawn() {
            Ok(mut running) => {
                let status = self.supervise(&mut running).await?;
                self.drain_output(&mut running).await;
                // The terminal is ours again before anything is said about the delivery.
                running.raw_mode = None;
                exit_code(status)
            }
            Err(error) => {
                let (code, text) = describe_spawn_error(&error, &self.args.command[0]);
                notice::error(&text);
                self.client.push(Entry::new(Stream::Stderr, format!("flowforge: {text}")));
                code
            }
        };
        let began = Instant::now();
        let outcome = self.deliver(code).await;
        self.announce();
        self.report(&outcome);
        let time_left = self.args.flush_timeout.saturating_sub(began.elapsed());
        self.leftovers.collect(code, outcome.is_complete(), time_left).await;
        Ok(code)
    }

    fn spawn(&self) -> io::Result<Running> {
        if self.args.pty { self.spawn_on_pty() } else { self.spawn_on_pipes() }
    }

    fn spawn_on_pipes(&self) -> io::Result<Running> {
        let argv = &self.args.command;
        let (out, out_writer) = io::pipe()?;
        let (err, err_writer) = io::pipe()?;
        let mut command = Command::new(&argv[0]);
        let files = format!("{},{}", identity(&metadata(&out_writer)?), identity(&metadata(&err_writer)?));
        command.args(&argv[1..]).envs(self.environment()).env(SUPERVISED, files).stdout(out_writer).stderr(err_writer);
        let child = command.spawn()?;
        // The writing ends in it must close, or reading never ends.
        drop(command);
        let cut = CancellationToken::new();
        let copy = |source, echo, stream| echo::copy(source, echo, self.client.clone(), stream, cut.clone());
        let outputs = vec![
            copy(out.into(), Echo::to(&io::stdout()), Stream::Stdout)?,
            copy(err.into(), Echo::to(&io::stderr()), Stream::Stderr)?,
        ];
        Ok(Running { child, outputs, cut, terminal: None, raw_mode: None })
    }

    fn spawn_on_pty(&self) -> io::Result<Running> {
        let (terminal, child) =
            Terminal::spawn(&self.args.command, self.environment()).map_err(|error| match error {
                pty_process::Error::Io(error) => error,
                other => io::Error::other(other),
            })?;
        let raw_mode = RawMode::enter()?;
        terminal.forward_stdin()?;
        let cut = CancellationToken::new();
        let echo = Echo::to(&io::stdout());
        let output = echo::copy(terminal.reader()?, echo, self.client.clone(), Stream::Stdout, cut.clone())?;
        Ok(Running { child, outputs: vec![output], cut, terminal: Some(terminal), raw_mode })
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let target = &self.args.target;
        let mut env = vec![("FLOWFORGE_TASK_ID", self.task_id.clone()), ("FLOWFORGE_SERVER", target.server.clone())];
        let tenant = if target.tenant.is_empty() { "default" } else { &target.tenant };
        env.push(("FLOWFORGE_TENANT_ID", tenant.to_owned()));
        if !target.workflow.is_empty() {
            env.push(("FLOWFORGE_WORKFLOW_ID", target.workflow.clone()));
        }
        let spool = self.leftovers.dir();
        env.push(("FLOWFORGE_SPOOL", spool.map_or_else(|| "off".to_owned(), |dir| dir.display().to_string())));
        if spool.is_some() {
            env.push(("FLOWFORGE_SPOOL_SIZE", self.args.spool.bytes().to_string()));
        }
        // Python buffers what goes to a pipe; lines would come in blocks of 8 KiB.
        if std::env::var_os("PYTHONUNBUFFERED").is_none() {
            env.push(("PYTHONUNBUFFERED", "1".to_owned()));
        }
        env
    }

    /// Passes signals on until the command has ended.
    async fn supervise(&mut self, running: &mut Running) -> io::Result<ExitStatus> {
        let client = Arc::clone(&self.client);
        let welcome = client.wait_welcome_async(Duration::MAX);
        tokio::pin!(welcome);
        let mut waiting = true;
        loop {
            tokio::select! {
                status = running.child.wait() => return status,
                signal = self.signals.next() => forward(signal, running),
                _ = &mut welcome, if waiting => {
                    waiting = false;
                    self.announce();
                }
            }
        }
    }

    /// Reads what the command has left in the pipes: waits `--linger` for those who may still write, but as long as it
    /// takes for whoever reads our own output.
    async fn drain_output(&mut self, running: &mut Running) {
        let outputs = std::mem::take(&mut running.outputs);
        let all = async {
            let mut is_open = false;
            for output in outputs {
                is_open |= output.await == Ok(Copied::UntilCut);
            }
            is_open
        };
        tokio::pin!(all);
        let rest = async {
            if tokio::time::timeout(self.args.linger, &mut all).await.is_ok() {
                return;
            }
            running.cut.cancel();
            if all.await {
                notice::warning("the command left a process behind that holds its output open; not waiting for it");
            }
        };
        tokio::select! {
            () = rest => {}
            () = twice(&mut self.signals, "reading the rest of the output") => running.cut.cancel(),
        }
    }

    /// Waits until everything is stored, within reason.
    async fn deliver(&mut self, code: u8) -> CloseOutcome {
        let status = if code == 0 { Status::Succeeded } else { Status::Failed };
        let give_up = async {
            let absent_wait = ABSENT_SERVER_WAIT.min(self.args.flush_timeout);
            if self.client.wait_welcome_async(absent_wait).await {
                tokio::time::sleep(self.args.flush_timeout).await;
            }
        };
        tokio::select! {
            biased;
            outcome = self.client.close_async(status, Some(i32::from(code)), Duration::MAX) => outcome,
            () = give_up => self.client.abandon(),
            () = twice(&mut self.signals, "delivering") => self.client.abandon(),
        }
    }

    /// Says once where people look at the task.
    fn announce(&mut self) {
        if self.announced || self.args.quiet {
            return;
        }
        if let Some(url) = self.client.viewer_url() {
            self.announced = true;
            notice::info(&url);
        }
    }

    fn report(&self, outcome: &CloseOutcome) {
        let because = outcome.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        let server = &self.args.target.server;
        match &outcome.end {
            End::Refused(reason) => notice::warning(&format!("{server} refused the task: {reason}")),
            End::Fenced(reason) => notice::warning(&format!("another producer took over: {reason}")),
            _ => {}
        }
        let kept = self.leftovers.kept(outcome);
        if outcome.undelivered > 0 {
            let lines = notice::lines(outcome.undelivered);
            notice::warning(&format!("{lines} not delivered to {server}{because}{kept}"));
        } else if !outcome.is_complete() && !self.args.quiet {
            notice::warning(&format!("the end of the task was not delivered to {server}{because}{kept}"));
        }
        if let Some(problem) = self.client.stats().spool_problem.filter(|_| outcome.spooled < outcome.undelivered) {
            notice::warning(&format!("the spool could not keep everything: {problem}"));
        }
        if outcome.dropped > 0 {
            notice::warning(&format!("{} dropped: the server was too slow or away", notice::lines(outcome.dropped)));
        }
        if let Some(found) = &outcome.completeness {
            Completeness::from(found).tell(self.args.quiet);
        }
    }
}

fn forward(signal: Signal, running: &Running) {
    if signal == Signal::WINCH {
        // Without a pty the command has our terminal and is told by the kernel.
        if let Some(terminal) = &running.terminal {
            terminal.follow_size();
        }
        return;
    }
    if let Some(pid) = running.child.id() {
        signals::forward(signal, pid, running.terminal.is_some());
    }
}

/// Ends at the second SIGINT or SIGTERM: the first may have been meant for the command.
async fn twice(signals: &mut Signals, doing: &str) {
    signals.asked_to_stop().await;
    notice::info(&format!("still {doing}; once more to give up"));
    signals.asked_to_stop().await;
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code & 0xFF).unwrap_or(1)
}

/// As a shell does: 127 not found, 126 found and not executable.
fn describe_spawn_error(error: &io::Error, program: &OsString) -> (u8, String) {
    let program = program.to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => (127, format!("{program}: command not found")),
        _ => (126, format!("{program}: cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        let missing = io::Error::from(ErrorKind::NotFound);
        assert_eq!(describe_spawn_error(&missing, &OsString::from("x")).0, 127);
    }
}
