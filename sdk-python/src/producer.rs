//! One producer: a client, started anew in each process that uses it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use flowforge_client::spool::{SpoolConfig, Upload, upload_in_background};
use flowforge_client::{Client, ClientConfig, Lane, Stream};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::gate::Gate;
use crate::record::Record;
use crate::running::{Outcome, Running, describe, interruptible, seconds, status};
use crate::{fork, guard, notice, tee, text};

/// How long an upload in the background waits for a server that goes away.
const UPLOAD_PATIENCE: Duration = Duration::from_mins(1);
/// How often a producer whose gate is shut looks again for a line that is on its way in.
const SETTLE_POLL: Duration = Duration::from_millis(1);

/// Ships what one process says in one task.
#[pyclass(frozen, module = "flowforge._core")]
pub(crate) struct Producer {
    config: ClientConfig,
    slot: RwLock<Slot>,
    /// Told after a client was started in a child.
    on_restart: Py<PyAny>,
    gate: Arc<Gate>,
    /// Takes the lines that come after the close.
    heir: OnceLock<Py<Producer>>,
    /// Lines of a process in which no client could be started.
    lost: AtomicU64,
}

struct Slot {
    client: Option<Arc<Running>>,
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
        config.on_refused = Some(Arc::new(notice::refusal(&config)));
        fork::watch();
        let mut slot = Slot { client: None, generation: fork::NEVER };
        if at_once {
            let client = Running::start(&config).map_err(|error| PyValueError::new_err(error.to_string()))?;
            slot = Slot { client: Some(Arc::new(client)), generation: fork::generation() };
        }
        let (gate, heir, lost) = (Arc::default(), OnceLock::new(), AtomicU64::new(0));
        Ok(Self { config, slot: RwLock::new(slot), on_restart, gate, heir, lost })
    }

    /// Connects now, not at the first line. False: it cannot.
    fn start(&self, py: Python<'_>) -> bool {
        guard::catch(false, || {
            if self.read().generation != fork::generation() {
                self.restart(py);
            }
            self.read().client.is_some()
        })
    }

    /// Lines that come after the close go to this one.
    fn pass_to(&self, heir: Py<Self>) {
        // The first heir stays.
        let _ = self.heir.set(heir);
    }

    /// Takes lines for longer, if it was about to be closed. False: it is closed.
    fn reopen(&self) -> bool {
        self.gate.turn().is_some()
    }

    /// Captures a logging record. False: this is closed, and so is everyone it passes lines to.
    #[pyo3(signature = (level, message, logger, thread, created, extras=None, /))]
    fn log(
        &self,
        level: u8,
        message: &Bound<'_, PyString>,
        logger: &Bound<'_, PyString>,
        thread: &Bound<'_, PyString>,
        created: f64,
        extras: Option<&Bound<'_, PyString>>,
    ) -> bool {
        guard::run(true, || {
            let bytes = text::bytes(message);
            tee::note_record(&bytes);
            let record = Record {
                level,
                message: bytes,
                logger: text::lossy(logger),
                thread: text::lossy(thread),
                extras: extras.map(text::lossy),
                created,
            };
            self.ship(message.py(), |client| record.push(client))
        })
    }

    /// Waits until all that was captured before is stored. False: not in time, or never.
    fn flush(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let Some(running) = self.own_client() else { return Ok(true) };
        interruptible(py, false, |go_on| running.client.flush_while(seconds(timeout), go_on))
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
    ) -> PyResult<Outcome> {
        let own = self.own_client();
        if reopen {
            *self.write_slot() = Slot { client: None, generation: fork::NEVER };
        } else {
            self.gate.shut_now();
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let Some(running) = own else { return Ok((lost == 0, lost, 0, None, 0, false)) };
        let otherwise = (false, 0, 0, guard::panicked(), 0, false);
        interruptible(py, otherwise, |go_on| {
            describe(&running.client.close_while(status(failed), exit_code, seconds(timeout), go_on))
        })
    }

    /// Asks for the end after `linger` seconds without [`Producer::reopen`], and does not wait. `close` then tells what it
    /// came to.
    fn close_later(&self, failed: Option<bool>, linger: f64, timeout: f64) {
        let ticket = if linger > 0.0 { self.gate.turn() } else { None };
        let running = self.own_client();
        if ticket.is_none() || running.is_none() {
            // What comes late goes to the heir, who ships it.
            self.gate.shut_now();
        }
        let Some(running) = running else { return };
        let (gate, runtime) = (Arc::clone(&self.gate), running.sender.runtime.clone());
        // Waiting for the next entry keeps nothing alive: a shutdown may come first.
        let (client, closing) = (Arc::downgrade(&running), ticket.is_none().then_some(running));
        runtime.spawn(async move {
            if let Some(ticket) = ticket {
                tokio::time::sleep(seconds(linger)).await;
                if !gate.shut(ticket) {
                    return;
                }
            }
            let Some(running) = closing.or_else(|| client.upgrade()) else { return };
            while !gate.is_settled() {
                tokio::time::sleep(SETTLE_POLL).await;
            }
            running.client.close_async(status(failed), None, seconds(timeout)).await;
        });
    }

    /// Nothing is left to deliver, and nobody can write any more.
    #[getter]
    fn is_done(&self) -> bool {
        self.own_client().is_none_or(|running| running.client.stats().end.is_some())
    }

    /// Uploads what dead processes left for the same server, on a thread of its own, after this producer is known there.
    fn upload_spool(&self) {
        let Some((client, spool)) = self.own_client().zip(self.config.spool.as_ref()) else { return };
        let only_of_server = Some(self.config.server.clone());
        let how = Upload { server: None, only_of_server, end: None, patience: UPLOAD_PATIENCE };
        // Without a thread it stays for the next one.
        guard::run((), || drop(upload_in_background(spool.dir.clone(), how, Arc::clone(&client.client))));
    }

    /// Counters, see `Stats` in Python.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.ask(|client| Some(client.stats())).unwrap_or_default();
        let lost = self.lost.load(Ordering::Relaxed);
        let dict = PyDict::new(py);
        dict.set_item("captured", stats.captured + lost)?;
        let elsewhere = stats.dropped_lines + stats.buffered_lines + stats.spooled_lines;
        dict.set_item("stored", stats.captured.saturating_sub(elsewhere))?;
        dict.set_item("dropped_lines", stats.dropped_lines + lost)?;
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
    /// Captures what a thread wrote. False: see [`Producer::log`].
    pub(crate) fn write(&self, py: Python<'_>, lane: &Lane, stream: Stream, bytes: &[u8]) -> bool {
        self.ship(py, |client| client.write_from(lane, stream, bytes))
    }

    /// Hands the work to this producer, or to the next one that is open.
    fn ship(&self, py: Python<'_>, work: impl FnOnce(&Client)) -> bool {
        let mut taker = self;
        while !taker.gate.pass() {
            match taker.heir.get() {
                Some(heir) => taker = heir.get(),
                None => return false,
            }
        }
        taker.with_client(py, work);
        taker.gate.passed();
        true
    }

    fn with_client(&self, py: Python<'_>, work: impl FnOnce(&Client)) {
        let mut slot = self.read();
        if slot.generation != fork::generation() {
            drop(slot);
            self.restart(py);
            slot = self.read();
        }
        match &slot.client {
            Some(running) => work(&running.client),
            None => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn ask<T>(&self, question: impl FnOnce(&Client) -> Option<T>) -> Option<T> {
        let running = self.own_client()?;
        guard::catch(None, || question(&running.client))
    }

    /// The client, if it belongs to this process.
    fn own_client(&self) -> Option<Arc<Running>> {
        let slot = self.read();
        slot.client.clone().filter(|_| slot.generation == fork::generation())
    }

    /// Starts a client in a process that has none: at a first line, in a child, or after a close.
    fn restart(&self, py: Python<'_>) {
        // A client that cannot start now will not start for the next line either: its lines are counted.
        // Where the task can be read was told by the first one.
        let started = Running::start(&ClientConfig { on_connect: None, ..self.config.clone() });
        if let Err(error) = &started {
            notice::say(&format!("task {} is not shipped: {error}", self.config.task_id));
        }
        let client = started.ok().map(Arc::new);
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
