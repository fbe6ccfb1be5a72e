//! The `write` of a redirected stream.
//!
//! Bound as an attribute of the Python object, so that `print` enters no Python frame. The terminal comes first: what it
//! raises is raised, and only what it took is shipped. Shipping never waits and never raises.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flowforge_client::Stream;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::producer::Producer;
use crate::{fork, guard, text};

/// Some `task()` was entered: writes look it up. Until then they are spared the cost.
static TASKS: AtomicBool = AtomicBool::new(false);
static NEXT_LANE: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static ECHO_ONLY: Cell<bool> = const { Cell::new(false) };
    static LANE: Cell<u64> = const { Cell::new(0) };
    static IN_LINE: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn use_tasks() {
    TASKS.store(true, Ordering::Relaxed);
}

pub(crate) fn echo_only(on: bool) -> bool {
    ECHO_ONLY.replace(on)
}

/// Each thread's unfinished line is its own.
fn lane() -> u64 {
    LANE.with(|lane| {
        if lane.get() == 0 {
            lane.set(NEXT_LANE.fetch_add(1, Ordering::Relaxed));
        }
        lane.get()
    })
}

/// Writes to a stream of the program, and ships what was written.
#[pyclass(frozen, module = "flowforge._core")]
pub(crate) struct Tee {
    target_write: Py<PyAny>,
    producer: Py<Producer>,
    /// Gives the current task's producer, or `None`.
    current_task: Py<PyAny>,
    stream: Stream,
    shipping: AtomicBool,
}

#[pymethods]
impl Tee {
    #[new]
    fn new(target_write: Py<PyAny>, producer: Py<Producer>, current_task: Py<PyAny>, stream: &str) -> PyResult<Self> {
        let stream = match stream {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            other => return Err(PyValueError::new_err(format!("no stream {other:?}: stdout or stderr"))),
        };
        Ok(Self { target_write, producer, current_task, stream, shipping: AtomicBool::new(true) })
    }

    /// Writes text; what the stream's own `write` returns.
    #[pyo3(signature = (text, /))]
    fn write<'py>(&self, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let written = self.target_write.bind(text.py()).call1((text,))?;
        if self.is_shipping() {
            guard::run((), || self.ship_text(text));
        }
        if written.is_none() {
            // A stream that breaks the contract is no reason for us to break it.
            return Ok(text.len()?.into_pyobject(text.py())?.into_any());
        }
        Ok(written)
    }

    /// Writes bytes; how many the stream took.
    #[pyo3(signature = (data, /))]
    fn write_bytes<'py>(&self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let written = self.target_write.bind(data.py()).call1((data,))?;
        if self.is_shipping() {
            guard::run((), || self.ship_bytes(data, &written));
        }
        Ok(written)
    }

    /// From now on writes reach the terminal alone.
    fn stop(&self) {
        self.shipping.store(false, Ordering::Relaxed);
    }
}

impl Tee {
    fn is_shipping(&self) -> bool {
        self.shipping.load(Ordering::Relaxed) && !ECHO_ONLY.get()
    }

    fn ship_text(&self, text: &Bound<'_, PyAny>) {
        if let Ok(text) = text.cast::<PyString>() {
            self.ship(text.py(), &text::bytes(text));
        }
    }

    fn ship_bytes(&self, data: &Bound<'_, PyAny>, written: &Bound<'_, PyAny>) {
        let py = data.py();
        let whole = match data.cast::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            // Any other buffer; the stream took it, so it is one.
            Err(_) => match py.get_type::<PyBytes>().call1((data,)).map(Bound::cast_into::<PyBytes>) {
                Ok(Ok(bytes)) => bytes,
                _ => return,
            },
        };
        let bytes = whole.as_bytes();
        let taken = written.extract::<usize>().map_or(bytes.len(), |taken| taken.min(bytes.len()));
        self.ship(py, &bytes[..taken]);
    }

    fn ship(&self, py: Python<'_>, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        // Asking costs a syscall: at the beginning of a line, not for each write.
        if !IN_LINE.replace(*last != b'\n') {
            fork::check();
        }
        if TASKS.load(Ordering::Relaxed)
            && let Ok(current) = self.current_task.call0(py)
            && let Ok(task) = current.bind(py).cast::<Producer>()
        {
            return task.get().write(py, lane(), self.stream, bytes);
        }
        self.producer.get().write(py, lane(), self.stream, bytes);
    }
}
