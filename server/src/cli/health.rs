//! `flowforge health`: one question to a server, answered by the exit code. Images without a shell have nothing else to ask
//! with.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::{notice, small_runtime};

/// A server that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `flowforge health`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HealthArgs {
    /// Which server
    #[arg(long, value_name = "URL", env = "FLOWFORGE_HTTP", default_value = "http://127.0.0.1:8080")]
    url: String,
}

const EXAMPLES: &str = "\
Exits with 0 if the server can take lines now, else with 1 and the reason.

Examples:
  flowforge health
  HEALTHCHECK CMD [\"/flowforge\", \"health\"]

Environment:
  FLOWFORGE_HTTP";

/// Asks `/readyz`.
pub(super) fn health(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let (status, body) = small_runtime()?.block_on(ask(&args.url)).with_context(|| {
        format!("no answer from {}: start it with `flowforge serve`, or set --url or FLOWFORGE_HTTP", args.url)
    })?;
    if status.is_success() {
        notice::info("ready");
        return Ok(ExitCode::SUCCESS);
    }
    let detail = serde_json::from_str::<serde_json::Value>(&body).ok();
    let detail = detail.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or(body.trim());
    anyhow::bail!("{} is not ready ({status}): {detail}", args.url)
}

async fn ask(url: &str) -> reqwest::Result<(reqwest::StatusCode, String)> {
    let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let answer = client.get(format!("{}/readyz", url.trim_end_matches('/'))).send().await?;
    Ok((answer.status(), answer.text().await?))
}
