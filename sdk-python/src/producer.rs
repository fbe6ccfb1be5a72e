//! One producer: a client, started anew in each process that uses it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use flowforge_client::spool::{SpoolConfig, Upload, upload_in_background};
use flowforge_client::{Client, ClientConfig, CloseOutcome, End, Status, Stream};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::record::Record;
use crate::{fork, guard, notice, text};

/// What `close` came to, as Python sees it: complete, undelivered, dropped, error, how many of the undelivered are in the
/// spool, and whether its file stays.
type Outcome = (bool, u64, u64, Option<String>, u64, bool);

/// How long an upload in the background waits for a server that goes away.
const UPLOAD_PATIENCE: Duration = Duration::from_mins(1);

/// Ships what one process says in one task.
#[pyclass(frozen, module = "flowforge._core")]
pub(crate) struct Producer {
    config: ClientConfig,
    slot: RwLock<Slot>,
    /// Told after a client was started in a child.
    on_restart: Py<PyAny>,
}

struct Slot {
    client: Option<Arc<Client>>,
    /// The process that the client belongs to, see [`fork::generation`].
    generation: u64,
}

#[pymethods]
impl Producer {
    /// `at_once`: connect now, not at the first line. `announce`: say on stderr where people look at the task.
    #[expect(clippy::too_many_arguments, reason = "all are named in Python")]
    #[new]
    #[pyo3(signature = (
        *, server, task_id, tenant, workflow_id, name, max_buffer_bytes, spool, on_restart, at_once, announce
    ))]
    fn new(
        server: String,
        task_id: String,
        tenant: String,
        workflow_id: String,
        name: String,
        max_buffer_bytes: usize,
        spool: Option<(PathBuf, u64)>,
        on_restart: Py<PyAny>,
        at_once: bool,
        announce: bool,
    ) -> PyResult<Self> {
        let mut config = ClientConfig::new(server, task_id);
        if announce {
            config.on_connect = Some(Arc::new(notice::connection(&config)));
        }
        config.tenant = tenant;
        config.workflow_id = workflow_id;
        config.name = name;
        config.max_buffer_bytes = max_buffer_bytes;
        config.spool = spool.map(|(dir, bytes)| SpoolConfig { dir, bytes });
        concat!("flowforge-python/", env!("CARGO_PKG_VERSION")).clone_into(&mut config.sdk);
        fork::check();
        let mut slot = Slot { client: None, generation: fork::NEVER };
        if at_once {
            let client = Client::start(config.clone()).map_err(|error| PyValueError::new_err(error.to_string()))?;
            slot = Slot { client: Some(Arc::new(client)), generation: fork::generation() };
        }
        Ok(Self { config, slot: RwLock::new(slot), on_restart })
    }

    /// Captures a logging record.
    #[pyo3(signature = (level, message, logger, thread, created, extras=None, /))]
    fn log(
        &self,
        level: u8,
        message: &Bound<'_, PyString>,
        logger: &Bound<'_, PyString>,
        thread: &Bound<'_, PyString>,
        created: f64,
        extras: Option<&Bound<'_, PyString>>,
    ) {
        guard::run((), || {
            let record = Record {
                level,
                message: text::bytes(message),
                logger: text::lossy(logger),
                thread: text::lossy(thread),
                extras: extras.map(text::lossy),
                created,
            };
            fork::check();
            self.with_client(message.py(), |client| record.push(client));
        });
    }

    /// Waits until all that was captured before is stored. False: not in time, or never.
    fn flush(&self, py: Python<'_>, timeout: f64) -> bool {
        let Some(client) = self.own_client() else { return true };
        guard::catch(false, || py.detach(|| client.flush(seconds(timeout))))
    }

    /// Ends the producer. `reopen`: its next line starts another.
    #[pyo3(signature = (failed, exit_code, timeout, reopen=false))]
    fn close(
        &self,
        py: Python<'_>,
        failed: Option<bool>,
        exit_code: Option<i32>,
        timeout: f64,
        reopen: bool,
    ) -> Outcome {
        let Some(client) = self.own_client() else { return (true, 0, 0, None, 0, false) };
        if reopen {
            *self.write_slot() = Slot { client: None, generation: fork::NEVER };
        }
        let otherwise = (false, 0, 0, guard::panicked(), 0, false);
        guard::catch(otherwise, || describe(&py.detach(|| client.close(status(failed), exit_code, seconds(timeout)))))
    }

    /// Asks for the end and does not wait: a thread of its own does. `close` then tells what it came to.
    fn close_later(&self, failed: Option<bool>, timeout: f64) {
        let Some(client) = self.own_client() else { return };
        let work = move || drop(client.close(status(failed), None, seconds(timeout)));
        // Without a thread the producer stays open until the program ends.
        let _ = std::thread::Builder::new().name("flowforge-close".to_owned()).spawn(work);
    }

    /// Uploads what dead processes left for the same server, on a thread of its own, after this producer is known there.
    fn upload_spool(&self) {
        let Some((client, spool)) = self.own_client().zip(self.config.spool.as_ref()) else { return };
        let only_of_server = Some(self.config.server.clone());
        let how = Upload { server: None, only_of_server, end: None, patience: UPLOAD_PATIENCE };
        // Without a thread it stays for the next one.
        guard::run((), || drop(upload_in_background(spool.dir.clone(), how, client)));
    }

    /// Counters, see `Stats` in Python.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.ask(|client| Some(client.stats())).unwrap_or_default();
        let dict = PyDict::new(py);
        dict.set_item("captured", stats.captured)?;
        let elsewhere = stats.dropped_lines + stats.buffered_lines + stats.spooled_lines;
        dict.set_item("stored", stats.captured.saturating_sub(elsewhere))?;
        dict.set_item("dropped_lines", stats.dropped_lines)?;
        dict.set_item("dropped_bytes", stats.dropped_bytes)?;
        dict.set_item("buffered_lines", stats.buffered_lines)?;
        dict.set_item("buffered_bytes", stats.buffered_bytes)?;
        dict.set_item("spooled_lines", stats.spooled_lines)?;
        dict.set_item("spool_problem", stats.spool_problem)?;
        dict.set_item("connected", stats.connected)?;
        dict.set_item("reconnects", stats.reconnects)?;
        dict.set_item("last_error", stats.last_error)?;
        Ok(dict)
    }

    /// Where people look at this task, once the server has said so.
    #[getter]
    fn viewer_url(&self) -> Option<String> {
        self.ask(Client::viewer_url)
    }

    /// This producer's id as the server shows it; `None`: nothing was shipped in this process yet.
    #[getter]
    fn producer(&self) -> Option<String> {
        self.ask(|client| Some(format!("{:032x}", u128::from_be_bytes(client.producer()))))
    }
}

impl Producer {
    /// Captures what a thread wrote.
    pub(crate) fn write(&self, py: Python<'_>, lane: u64, stream: Stream, bytes: &[u8]) {
        self.with_client(py, |client| client.write_from(lane, stream, bytes));
    }

    fn with_client(&self, py: Python<'_>, work: impl FnOnce(&Client)) {
        let slot = self.read();
        if slot.generation != fork::generation() {
            drop(slot);
            self.restart(py);
            return self.with_own_client(work);
        }
        if let Some(client) = &slot.client {
            work(client);
        }
    }

    fn with_own_client(&self, work: impl FnOnce(&Client)) {
        if let Some(client) = self.own_client() {
            work(&client);
        }
    }

    fn ask<T>(&self, question: impl FnOnce(&Client) -> Option<T>) -> Option<T> {
        let client = self.own_client()?;
        guard::catch(None, || question(&client))
    }

    /// The client, if it belongs to this process.
    fn own_client(&self) -> Option<Arc<Client>> {
        fork::check();
        let slot = self.read();
        slot.client.clone().filter(|_| slot.generation == fork::generation())
    }

    /// Starts a client in a process that has none: at a first line, in a child, or after a close.
    fn restart(&self, py: Python<'_>) {
        // A client that cannot start now will not start for the next line either.
        let client = Client::start(self.config.clone()).ok().map(Arc::new);
        let generation = fork::generation();
        let before = std::mem::replace(&mut *self.write_slot(), Slot { client, generation });
        // The parent's: its locks may be held for ever, by threads that are not here. So its end must not run.
        std::mem::forget(before.client);
        if let Err(error) = self.on_restart.call0(py) {
            error.write_unraisable(py, None);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Slot> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_slot(&self) -> RwLockWriteGuard<'_, Slot> {
        self.slot.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        if slot.generation != fork::generation() {
            // See `restart`.
            std::mem::forget(slot.client.take());
        }
    }
}

fn seconds(timeout: f64) -> Duration {
    Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX)
}

fn status(failed: Option<bool>) -> Status {
    match failed {
        None => Status::Unknown,
        Some(false) => Status::Succeeded,
        Some(true) => Status::Failed,
    }
}

fn describe(outcome: &CloseOutcome) -> Outcome {
    let error = match &outcome.end {
        End::Refused(reason) | End::Fenced(reason) => Some(reason.clone()),
        _ => outcome.error.clone(),
    };
    let stays = outcome.spool.is_some();
    (outcome.is_complete(), outcome.undelivered, outcome.dropped, error, outcome.spooled, stays)
}
