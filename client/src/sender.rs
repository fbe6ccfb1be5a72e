//! The life of a sender: one session after another until there is nothing left to do.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Endpoint;

use crate::backoff::Backoff;
use crate::ending::SessionEnd;
use crate::session;
use crate::shared::{EndGuard, Shared};
use crate::stats::End;

/// While closing, attempts are at most this far apart: somebody is waiting.
const CLOSING_WAIT: Duration = Duration::from_millis(500);
/// A server that refuses so many streams in a row, of which it stored nothing, will refuse the next one too.
const MAX_REFUSALS: u32 = 8;

/// Runs until the Close is stored, the server refuses for good, or the client gives up.
pub(crate) async fn run(shared: Arc<Shared>, endpoint: Endpoint) {
    let _guard = EndGuard(&shared);
    let end = tokio::select! {
        () = shared.abandon.notified() => End::Abandoned,
        end = Box::pin(sessions(&shared, &endpoint)) => end,
    };
    tracing::debug!(?end, "sender ended");
    if let (End::Refused(reason) | End::Fenced(reason), Some(hook)) = (&end, &shared.config.on_refused) {
        hook(reason);
    }
    shared.finish(end);
}

async fn sessions(shared: &Shared, endpoint: &Endpoint) -> End {
    let mut backoff = Backoff::default();
    let (mut refusals, mut stored_seq) = (0, 0);
    let mut unreachable_hook = shared.config.on_connect.clone();
    loop {
        let end = session::run(shared, endpoint).await;
        shared.lock().disconnect();
        match end {
            SessionEnd::Closed => return End::Closed,
            SessionEnd::Fenced(reason) => return End::Fenced(reason),
            SessionEnd::Refused(reason) => return End::Refused(reason),
            SessionEnd::Retry { reason, progress, at_once, not_before, refused } => {
                tracing::debug!(reason, progress, "stream ended");
                let stored_before = std::mem::replace(&mut stored_seq, shared.lock().stored_seq);
                refusals = if refused && stored_seq == stored_before { refusals + 1 } else { u32::from(refused) };
                if refusals == MAX_REFUSALS {
                    return End::Refused(reason);
                }
                if shared.lock().welcomes > 0 {
                    unreachable_hook = None;
                } else if let Some(hook) = unreachable_hook.take() {
                    hook(Err(&reason));
                }
                shared.lock().last_error = Some(reason);
                shared.notify();
                if progress {
                    backoff.reset();
                }
                if !at_once {
                    pause(shared, backoff.next().max(not_before)).await;
                }
            }
        }
    }
}

/// Waits, but not long while somebody waits for the Close.
async fn pause(shared: &Shared, wait: Duration) {
    if shared.lock().close.is_some() {
        return tokio::time::sleep(wait.min(CLOSING_WAIT)).await;
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = shared.closing.notified() => {}
    }
}
