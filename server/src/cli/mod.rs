//! The command line: one binary, and what each of its commands does.
//!
//! Exit codes: 0 done, 1 failed, 2 used wrongly; `run` exits as the command that it runs.

#[cfg(any(test, fuzzing))]
pub(crate) mod ansi_fuzz;
mod completeness;
mod echo;
mod health;
mod leftovers;
mod notice;
mod printed;
mod pty;
mod render;
mod run;
mod send;
mod signals;
mod spool;
mod tail;
mod task_id;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::role::{Role, Roles};

/// Real-time logs of workflow tasks: every line, in order, milliseconds after it was printed.
#[derive(Debug, Parser)]
#[command(name = "flowforge", version, arg_required_else_help = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Try it, in three terminals:
  flowforge serve
  flowforge run -- sh -c 'for i in 1 2 3; do echo line $i; sleep 1; done'
  open http://127.0.0.1:8080/

`flowforge help <command>` shows examples of each.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Check a configuration and show what it comes to
    #[command(after_help = CHECK_EXAMPLES)]
    CheckConfig(ConfigArgs),
    /// Run a command and stream what it prints
    Run(run::RunArgs),
    /// Stream standard input to a task
    Send(send::SendArgs),
    /// Print a task's lines, and follow them
    Tail(tail::TailArgs),
    /// What killed producers left behind: show it, upload it
    Spool(spool::SpoolCommandArgs),
    /// Ask a server whether it is ready; for containers and service managers
    Health(health::HealthArgs),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  flowforge serve                          # ./config.yaml if there is one, else defaults
  flowforge serve --config /etc/flowforge/config.yaml
  flowforge serve --roles worker           # only writes what is queued in Redis to the store
  FLOWFORGE__SERVER__HTTP=0.0.0.0:8080 flowforge serve

Environment:
  FLOWFORGE__SECTION__KEY  overrides any key of the configuration file, so what the server itself
                           logs is FLOWFORGE__LOGGING__LEVEL=debug";

const CHECK_EXAMPLES: &str = "\
Examples:
  flowforge check-config
  flowforge check-config --config /etc/flowforge/config.yaml

Environment:
  FLOWFORGE__SECTION__KEY  overrides any key of the configuration file";

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: ./config.yaml if it is there]
    #[arg(long, value_name = "PATH", env = "FLOWFORGE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What this process does; the others over the same Redis and store do the rest
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Role::ALL, env = "FLOWFORGE_ROLES")]
    roles: Vec<Role>,
}

/// Parses the command line, does what it says, and tells the user about a failure in one message.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            notice::error(&format!("{error:#}"));
            if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// The user asked for something that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    UsageError(error.to_string()).into()
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::CheckConfig(args) => check_config(&args),
        Command::Run(args) => run::run(args),
        Command::Send(args) => send::send(&args),
        Command::Tail(args) => tail::tail(args),
        Command::Spool(args) => spool::spool(&args),
        Command::Health(args) => health::health(&args),
    }
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.config.as_deref())?;
    crate::logging::init(&config)?;
    for words in crate::config::unread_variables(variables()) {
        tracing::warn!("{words}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Box::pin(crate::serve::serve(config, Roles::of(&args.roles))))?;
    Ok(ExitCode::SUCCESS)
}

fn check_config(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let config = Config::load(args.config.as_deref())?;
    let described = crate::config::describe(&config);
    writeln!(std::io::stdout(), "{}", described.trim_end())?;
    for words in crate::config::unread_variables(variables()) {
        writeln!(std::io::stderr(), "warning: {words}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of what is in the environment.
fn variables() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// A runtime for a command that does one thing.
fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Which server and which task: what `run` and `send` share.
#[derive(Debug, Args)]
struct TaskArgs {
    /// Where to send to
    #[arg(long, value_name = "URL", env = "FLOWFORGE_SERVER", default_value = "http://127.0.0.1:50051")]
    server: String,
    /// Tenant of the task [default: default]
    #[arg(long, value_name = "TENANT", env = "FLOWFORGE_TENANT_ID", default_value = "", hide_default_value = true)]
    tenant: String,
    /// Workflow that the task belongs to
    #[arg(long, value_name = "ID", env = "FLOWFORGE_WORKFLOW_ID", default_value = "", hide_default_value = true)]
    workflow: String,
    /// Name shown to people
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// A label of the task; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Which try of the task this is, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written key=value".to_owned()),
    }
}

impl TaskArgs {
    fn client_config(&self, task_id: &str) -> flowforge_client::ClientConfig {
        let mut config = flowforge_client::ClientConfig::new(&self.server, task_id);
        config.tenant.clone_from(&self.tenant);
        config.workflow_id.clone_from(&self.workflow);
        config.name.clone_from(&self.name);
        config.labels = self.labels.iter().cloned().collect();
        config.attempt = self.attempt.unwrap_or(0);
        config.sdk = format!("flowforge-cli/{}", env!("CARGO_PKG_VERSION"));
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
