//! The server's own log.

use anyhow::Context as _;

use crate::config::{Config, LogFormat};

/// Sends the server's own log to stderr. Call once.
pub fn init(config: &Config) -> anyhow::Result<()> {
    let level = &config.logging.level;
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .with_context(|| format!("logging.level is {level:?}; use error, warn, info, debug, trace or directives"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match config.logging.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
