//! A client that runs in this process, and how Python waits for it.

use std::sync::Arc;
use std::time::Duration;

use flowforge_client::{Client, ClientConfig, ClientError, CloseOutcome, End, Status};
use pyo3::prelude::*;

use crate::guard;
use crate::sender::{self, Sender};

/// What `close` came to, as Python sees it: complete, undelivered, dropped, error, how many of the undelivered are in the
/// spool, and whether its file stays.
pub(crate) type Outcome = (bool, u64, u64, Option<String>, u64, bool);

/// A client, and the thread that it needs.
pub(crate) struct Running {
    pub(crate) client: Arc<Client>,
    pub(crate) sender: Arc<Sender>,
}

impl Running {
    pub(crate) fn start(config: &ClientConfig) -> Result<Self, ClientError> {
        let sender = sender::of_this_process()?;
        sender.budget.set_max(config.max_buffer_bytes);
        let config = ClientConfig { budget: Some(Arc::clone(&sender.budget)), ..config.clone() };
        Ok(Self { client: Arc::new(Client::start_on(config, &sender.runtime)?), sender })
    }
}

/// Waits without the GIL, and lets Python's signal handlers run meanwhile: what they raise ends the wait.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    otherwise: T,
    wait: impl FnOnce(&mut dyn FnMut() -> bool) -> T + Send,
) -> PyResult<T> {
    let mut raised = None;
    let value = guard::catch(otherwise, || {
        py.detach(|| {
            let check = |py: Python<'_>| py.check_signals().map_err(|error| raised = Some(error)).is_ok();
            let mut check = Some(check);
            wait(&mut || check.as_mut().is_some_and(|check| Python::try_attach(check).unwrap_or(false)))
        })
    });
    raised.map_or(Ok(value), Err)
}

pub(crate) fn seconds(timeout: f64) -> Duration {
    Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX)
}

pub(crate) fn status(failed: Option<bool>) -> Status {
    match failed {
        None => Status::Unknown,
        Some(false) => Status::Succeeded,
        Some(true) => Status::Failed,
    }
}

pub(crate) fn describe(outcome: &CloseOutcome) -> Outcome {
    let error = match &outcome.end {
        End::Refused(reason) | End::Fenced(reason) => Some(reason.clone()),
        _ => outcome.error.clone(),
    };
    let stays = outcome.spool.is_some();
    (outcome.is_complete(), outcome.undelivered, outcome.dropped, error, outcome.spooled, stays)
}
