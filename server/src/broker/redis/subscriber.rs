//! The one Pub/Sub connection of this instance: lines and frames of watched tasks, hints of every shard.
//!
//! A lost connection is made again and subscribed to everything again; then every mirror is compared with Redis. Messages
//! that came together are taken together, so that a burst is one batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::{LogRecord, TaskKey};
use futures_util::{FutureExt as _, StreamExt as _};
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Shared;
use super::keys::{FRAMES, HINTS, LINES, parse_task};
use super::wire;
use crate::broker::BrokerError;

/// Subscriptions waiting to be made.
pub(super) const ORDERS: usize = 1024;

/// Messages taken at once.
const BURST: usize = 1024;

/// Pause before the connection is made again.
const RECONNECT: Duration = Duration::from_millis(100);

/// How long a subscription may take to be confirmed.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// What the connection shall do.
pub(super) enum Order {
    /// Answered once it is in force.
    Watch(TaskKey, oneshot::Sender<()>),
    /// Nobody watches any more.
    Forget(TaskKey),
}

/// Runs until dropped.
pub(super) async fn run(shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>) {
    let mut connected_before = false;
    loop {
        let link = shared.publisher.as_ref().unwrap_or(&shared.link);
        match link.pubsub().await {
            Ok(pubsub) => {
                let (mut sink, stream) = pubsub.split();
                if let Ok(Ok(())) = timeout(CONFIRMATION, resubscribe(&shared, &mut sink)).await {
                    if connected_before {
                        info!("the subscription is back, every watched task is compared");
                    }
                    connected_before = true;
                    shared.refresh_all();
                    serve(&shared, sink, stream, &mut orders).await;
                    warn!("the Pub/Sub connection to redis is lost, viewers wait until it is back");
                }
            }
            Err(error) => tracing::debug!(%error, "cannot subscribe, will try again"),
        }
        sleep(RECONNECT).await;
    }
}

async fn resubscribe(shared: &Shared, sink: &mut PubSubSink) -> redis::RedisResult<()> {
    let mut channels: Vec<String> = shared.shards.iter().map(|shard| shard.hints.clone()).collect();
    channels.extend(shared.watched().iter().flat_map(channels_of));
    for some in channels.chunks(500) {
        sink.subscribe(some).await?;
    }
    Ok(())
}

fn channels_of(task: &TaskKey) -> [String; 2] {
    [format!("{LINES}{task}"), format!("{FRAMES}{task}")]
}

/// Returns when the connection is lost.
async fn serve(shared: &Arc<Shared>, mut sink: PubSubSink, stream: PubSubStream, orders: &mut mpsc::Receiver<Order>) {
    let mut bursts = stream.ready_chunks(BURST);
    loop {
        tokio::select! {
            burst = bursts.next() => match burst {
                Some(messages) => take(shared, &messages),
                None => return,
            },
            order = orders.recv() => {
                let Some(first) = order else { return };
                let mut all = vec![first];
                while let Some(Some(more)) = orders.recv().now_or_never() {
                    all.push(more);
                }
                if obey(&mut sink, all).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// In their order. Who waits for a subscription that fails is told by the closed channel, and asks again.
async fn obey(sink: &mut PubSubSink, orders: Vec<Order>) -> Result<(), ()> {
    for order in orders {
        let done = match &order {
            Order::Watch(task, _) => timeout(CONFIRMATION, sink.subscribe(&channels_of(task)[..])).await,
            Order::Forget(task) => timeout(CONFIRMATION, sink.unsubscribe(&channels_of(task)[..])).await,
        };
        if !matches!(done, Ok(Ok(()))) {
            return Err(());
        }
        if let Order::Watch(_, confirmed) = order {
            let _ = confirmed.send(()); // It may have gone.
        }
    }
    Ok(())
}

fn take(shared: &Arc<Shared>, messages: &[Msg]) {
    let mut lines: HashMap<&str, Vec<(LogRecord, &[u8])>> = HashMap::new();
    for message in messages {
        let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
        if let Some(task) = channel.strip_prefix(LINES) {
            if let Some(record) = wire::parse_line(payload) {
                lines.entry(task).or_default().push((record, payload));
            } else {
                warn!(task, "a published line cannot be read, the next comparison brings it");
            }
        } else if channel.starts_with(HINTS) {
            // A hint speaks of lines that came before it.
            for (task, lines) in lines.drain() {
                publish(shared, task, lines);
            }
            shared.hinted(&String::from_utf8_lossy(payload));
        } else if let Some(task) = channel.strip_prefix(FRAMES)
            && let (Some(mirror), Some(frame)) =
                (parse_task(task).and_then(|task| shared.mirror(&task)), wire::parse_frame(payload))
        {
            mirror.feed.push_frame(frame);
        }
    }
    for (task, lines) in lines {
        publish(shared, task, lines);
    }
}

fn publish(shared: &Arc<Shared>, task: &str, lines: Vec<(LogRecord, &[u8])>) {
    if let Some(mirror) = parse_task(task).and_then(|task| shared.mirror(&task))
        && mirror.published(lines)
    {
        shared.refresh_soon(&mirror);
    }
}

impl Shared {
    /// Returns when the task's channels are subscribed to.
    pub(super) async fn watch(&self, task: &TaskKey) -> Result<(), BrokerError> {
        let give_up = tokio::time::Instant::now() + self.options.patience;
        while tokio::time::Instant::now() < give_up {
            let (confirmed, confirmation) = oneshot::channel();
            let _ = timeout(CONFIRMATION, self.orders.send(Order::Watch(task.clone(), confirmed))).await;
            if let Ok(Ok(())) = timeout(CONFIRMATION, confirmation).await {
                return Ok(());
            }
        }
        Err(BrokerError::Unavailable("Redis does not confirm subscriptions".to_owned()))
    }

    /// Takes a hint: lines of `S <task> <epoch> <stored> <producer>=<seq>…`, `C <task>`, `F`.
    pub(super) fn hinted(self: &Arc<Self>, hint: &str) {
        for line in hint.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            match parts[..] {
                ["S", task, epoch, stored, ref producers @ ..] => {
                    let (Some(task), Ok(epoch), Ok(stored)) = (parse_task(task), epoch.parse(), stored.parse()) else {
                        continue;
                    };
                    self.note_stored(&task, epoch, stored, producers);
                }
                ["C", task] => {
                    if let Some(task) = parse_task(task) {
                        self.changed(&task);
                    }
                }
                ["F"] => self.queue.flush_now(),
                _ => {}
            }
        }
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A task's record or producers changed: mirrors read again, and sessions look whether they are fenced.
    pub(super) fn changed(self: &Arc<Self>, task: &TaskKey) {
        if let Some(mirror) = self.mirror(task) {
            self.refresh_soon(&mirror);
        }
        let seats = self.seats_of(task);
        if !seats.is_empty() {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.compare_seats(&seats).await });
        }
    }
}
