//! `flowforge spool`: what dead producers left, and its upload.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use flowforge_client::now_unix_nano;
use flowforge_client::spool::{
    Contents, Damage, Found, Observer, SpoolConfig, Upload, Uploaded, default_dir, dir_of_setting, find, parse_bytes,
    upload_all,
};

use super::{notice, small_runtime};

/// Where `run` keeps what is not stored yet.
#[derive(Debug, Args)]
pub(super) struct SpoolArgs {
    /// Directory that keeps what the server has not stored yet, for when this process is killed; "off": none
    /// [default: the user's state directory, see `flowforge spool --help`]
    #[arg(long, value_name = "DIR|off", env = "FLOWFORGE_SPOOL", default_value = "on", hide_default_value = true)]
    spool: String,
    /// How large a producer's file may become
    #[arg(long, value_name = "SIZE", env = "FLOWFORGE_SPOOL_SIZE", default_value = "64MiB", value_parser = parse_size)]
    spool_size: u64,
}

impl SpoolArgs {
    /// How large a producer's file may become.
    pub(super) fn bytes(&self) -> u64 {
        self.spool_size
    }

    /// The spool of this process; `None`: it is off.
    pub(super) fn config(&self) -> Option<SpoolConfig> {
        dir_of_setting(&self.spool).map(|dir| SpoolConfig { dir, bytes: self.spool_size })
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "a size is written like 64MiB".to_owned())
}

/// Arguments of `flowforge spool`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SpoolCommandArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// Show what waits
    List(ListArgs),
    /// Upload what producers left that were killed, or that ended while the server was away
    Push(PushArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The directory [default: FLOWFORGE_SPOOL, else the user's state directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PushArgs {
    /// The directory [default: FLOWFORGE_SPOOL, else the user's state directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to send everything [default: each file where its producer would have sent it]
    #[arg(long, value_name = "URL", env = "FLOWFORGE_SERVER")]
    server: Option<String>,
    /// Seconds without progress after which a file is left for another time
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::run::parse_seconds)]
    patience: Duration,
}

const EXAMPLES: &str = "\
Examples:
  flowforge spool list
  flowforge spool push
  flowforge spool push --dir /mnt/host-7/spool --server http://logs:50051

`flowforge run`, and the Python package with init(spool=True), keep every captured line in a file,
not in memory, until the server has stored it. The file goes when everything is stored. It survives the death of
the process, however it dies, but not a power failure. `push` sends what is left, with the number
that each line had, so that nothing is stored twice; the next `run` and init() of the same server do
the same in the background. Exits with 0 when no dead producer's file is left.

The directory is FLOWFORGE_SPOOL, else $XDG_STATE_HOME/flowforge/spool, else
~/.local/state/flowforge/spool.";

/// What else than `run` needs to know: the directory as named, as set, or the default one.
fn directory(named: Option<&PathBuf>) -> PathBuf {
    let set = || dir_of_setting(&std::env::var("FLOWFORGE_SPOOL").unwrap_or_default());
    named.cloned().or_else(set).unwrap_or_else(default_dir)
}

/// How a person sends what is in this directory.
pub(super) fn push_command(dir: &Path) -> String {
    let is_default = directory(None) == dir;
    let dir = if is_default { String::new() } else { format!(" --dir {}", dir.display()) };
    format!("`flowforge spool push{dir}`")
}

/// Runs the subcommand.
pub(super) fn spool(args: &SpoolCommandArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        SpoolCommand::List(args) => list(&directory(args.dir.as_ref())),
        SpoolCommand::Push(args) => push(args),
    }
}

fn list(dir: &Path) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut rows = vec![["TASK", "LINES", "BYTES", "LAST LINE", "STATE"].map(str::to_owned)];
    for found in find(dir).with_context(|| dir.display().to_string())? {
        rows.push(match found {
            Found::Dead(dead) => row(&dead.contents()),
            Found::InUse(path) => [file_task(&path), dash(), dash(), dash(), "in use".to_owned()],
            Found::Unreadable(path, error) => [file_task(&path), dash(), dash(), dash(), error.to_string()],
        });
    }
    if rows.len() == 1 {
        notice::info(&format!("nothing waits in {}", dir.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..4).map(width).collect();
    for [task, lines, bytes, age, state] in &rows {
        let [a, b, c, d] = [widths[0], widths[1], widths[2], widths[3]];
        writeln!(out, "{task:a$}  {lines:>b$}  {bytes:>c$}  {age:>d$}  {state}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(contents: &Contents) -> [String; 5] {
    let state = match contents.damage {
        Some(Damage::Lines(lines)) => format!("{} damaged and lost", notice::lines(lines)),
        Some(Damage::Unknown) => "damaged at its end".to_owned(),
        None if contents.is_closed => "ended, waits for the server".to_owned(),
        None => "its process was killed".to_owned(),
    };
    [task(contents), notice::grouped(contents.lines), notice::grouped(contents.bytes), age(contents), state]
}

fn dash() -> String {
    "-".to_owned()
}

/// As far as the name of the file tells.
fn file_task(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.rsplitn(4, '.').nth(3).map_or(name.clone(), str::to_owned)
}

fn task(contents: &Contents) -> String {
    match contents.tenant.as_str() {
        "" | "default" => contents.task_id.clone(),
        tenant => format!("{tenant}/{}", contents.task_id),
    }
}

fn age(contents: &Contents) -> String {
    if contents.last_time_unix_nano == 0 {
        return dash();
    }
    let seconds = now_unix_nano().saturating_sub(contents.last_time_unix_nano).max(0) / 1_000_000_000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn push(args: &PushArgs) -> anyhow::Result<ExitCode> {
    let dir = directory(args.dir.as_ref());
    let how = Upload { server: args.server.clone(), only_of_server: None, end: None, patience: args.patience };
    let mut told = Told::default();
    let summary = small_runtime()?.block_on(upload_all(&dir, &how, &mut told));
    let summary = summary.with_context(|| dir.display().to_string())?;
    if summary.in_use > 0 {
        let files = if summary.in_use == 1 { "1 file is".to_owned() } else { format!("{} files are", summary.in_use) };
        notice::info(&format!("{files} in use, by producers that live or by other uploads"));
    }
    if summary.files == 0 && summary.failed == 0 {
        notice::info(&format!("nothing to upload in {}", dir.display()));
    }
    Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says how the upload goes, but not too often.
#[derive(Default)]
struct Told {
    last: Option<Instant>,
}

const TELL_INTERVAL: Duration = Duration::from_secs(2);

impl Observer for Told {
    fn begins(&mut self, contents: &Contents) {
        self.last = Some(Instant::now());
        match contents.damage {
            Some(Damage::Lines(lines)) => notice::warning(&format!(
                "{}: {} at the end of the file cannot be read and are lost; the log says so",
                task(contents),
                notice::lines(lines)
            )),
            Some(Damage::Unknown) => notice::warning(&format!(
                "{}: the end of the file is damaged; what was there is lost, and how much is not known",
                task(contents)
            )),
            None => {}
        }
    }

    fn goes_on(&mut self, contents: &Contents, left: u64) {
        if self.last.is_none_or(|last| last.elapsed() >= TELL_INTERVAL) {
            self.last = Some(Instant::now());
            notice::info(&format!("{}: {} of {} left", task(contents), notice::grouped(left), lines(contents)));
        }
    }

    fn ended(&mut self, uploaded: &Uploaded) {
        let task = task(&uploaded.contents);
        if uploaded.is_done {
            return notice::info(&format!("{task}: {} stored", lines(&uploaded.contents)));
        }
        let because = uploaded.error.as_deref().unwrap_or("no answer in time");
        let left = if uploaded.left > 0 { notice::lines(uploaded.left) } else { "the end".to_owned() };
        notice::warning(&format!("{task}: {left} not stored, kept in {}: {because}", uploaded.path.display()));
    }

    fn skipped(&mut self, path: &Path, because: &str) {
        notice::warning(&format!("{}: {because}; left as it is", path.display()));
    }
}

fn lines(contents: &Contents) -> String {
    notice::lines(contents.lines)
}

#[cfg(test)]
mod tests {
    use flowforge_client::spool::DEFAULT_BYTES;

    use super::*;

    #[test]
    fn a_file_names_its_task() {
        assert_eq!(file_task(Path::new("/x/a.b-c.00ff.1234.spool")), "a.b-c");
        assert_eq!(file_task(Path::new("odd")), "odd");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64MiB"), Ok(DEFAULT_BYTES));
        assert_eq!(parse_size("1000"), Ok(1000));
        assert!(parse_size("64 apples").is_err());
    }
}
