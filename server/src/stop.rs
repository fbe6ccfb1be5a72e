//! Being told to stop.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at SIGTERM or SIGINT; the handlers are in place when this returns.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
