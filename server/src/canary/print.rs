//! The canary's producer: an ordinary client of this server.

use std::time::Duration;

use flowforge_client::{Client, ClientConfig, Stream};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, warn};

use super::Canary;
use super::checker::Checker;

/// Between two tries to begin.
const AGAIN: Duration = Duration::from_secs(5);

/// Far more than [`MAX_WAITING`](super::checker::MAX_WAITING) lines take: the client itself never gives one up.
const BUFFER_BYTES: usize = 1 << 20;

/// Prints until the canary is stopped; what is left to close then.
pub(super) async fn run(canary: &Canary) -> Option<Client> {
    loop {
        let client = tokio::select! {
            () = canary.stop.cancelled() => return None,
            client = start(canary) => client,
        };
        tokio::select! {
            () = canary.stop.cancelled() => return Some(client),
            end = client.ended() => error!(?end, "the canary's producer ended; another one goes on"),
            () = print(canary, &client) => {}
        }
        tokio::select! {
            () = canary.stop.cancelled() => return None,
            () = sleep(AGAIN) => {}
        }
    }
}

async fn start(canary: &Canary) -> Client {
    loop {
        match try_start(canary).await {
            Ok(client) => return client,
            Err(error) => warn!(error = %format!("{error:#}"), "the canary cannot begin, will try again"),
        }
        sleep(AGAIN).await;
    }
}

/// Each start is another attempt of the same task. Saying so ends the attempt of a server that was killed, without waiting for
/// its lease.
async fn try_start(canary: &Canary) -> anyhow::Result<Client> {
    let before = canary.broker.position(&canary.task).await?.record.map_or(0, |record| record.attempt);
    let mut config = ClientConfig::new(&canary.grpc_url, canary.task.task_id());
    config.attempt = before.saturating_add(1);
    "Canary".clone_into(&mut config.name);
    concat!("flowforge-canary/", env!("CARGO_PKG_VERSION")).clone_into(&mut config.sdk);
    config.max_buffer_bytes = BUFFER_BYTES;
    Ok(Client::start_on(config, &tokio::runtime::Handle::current())?)
}

/// Returns only if the server will never take a line.
async fn print(canary: &Canary, client: &Client) {
    if !client.wait_welcome_async(Duration::MAX).await {
        return;
    }
    let _ = canary.welcomed.set(()); // Known already, if this is not the first producer.
    canary.reading.wait().await;
    let mut ticks = interval(canary.config.interval.duration());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(number) = canary.with(Checker::print) {
            client.write(Stream::Stdout, format!("{}{number}\n", canary.prefix).as_bytes());
        }
    }
}
