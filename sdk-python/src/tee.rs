//! The `write` of a redirected stream.
//!
//! Bound as an attribute of the Python object, so that `print` enters no Python frame. The terminal comes first: what it
//! raises is raised, and only what it took is shipped. Shipping never waits and never raises.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

use flowforge_client::{Lane, Stream};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::producer::Producer;
use crate::{guard, text};

/// Some `task()` was entered: writes look it up. Until then they are spared the cost.
static TASKS: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The streams whose writes are not shipped, one bit each.
    static ECHO_ONLY: Cell<u8> = const { Cell::new(0) };
    /// Each thread's unfinished line is its own; it ends with the thread.
    static LANE: Lane = Lane::new();
    /// How many writes of ours this thread is inside of.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
    /// The last record that the stream underneath made of what it was given, and whether there is one.
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static HAS_RECORD: Cell<bool> = const { Cell::new(false) };
    /// The streams whose line was shipped as a record: the rest of it goes the same way.
    static AS_RECORD: Cell<u8> = const { Cell::new(0) };
}

pub(crate) fn use_tasks() {
    TASKS.store(true, Ordering::Relaxed);
}

pub(crate) fn echo_only(streams: u8, also: bool) -> u8 {
    ECHO_ONLY.replace(if also { ECHO_ONLY.get() | streams } else { streams })
}

/// A record ships. If that is because the program's stream logs what is printed, the print must not ship too.
pub(crate) fn note_record(message: &[u8]) {
    if INSIDE.get() > 0 {
        let kept = RECORD.try_with(|record| record.replace(message.trim_ascii().to_vec()));
        HAS_RECORD.set(kept.is_ok());
    }
}

fn bit(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
        Stream::Log => 0,
    }
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
        let written = self.pass_on(text)?;
        if self.is_shipping() {
            guard::run((), || self.ship_text(text));
        }
        if written.is_none() && text.is_instance_of::<PyString>() {
            // A stream that breaks the contract is no reason for us to break it.
            return Ok(text.len()?.into_pyobject(text.py())?.into_any());
        }
        Ok(written)
    }

    /// Writes bytes; how many the stream took.
    #[pyo3(signature = (data, /))]
    fn write_bytes<'py>(&self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let written = self.pass_on(data)?;
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
    fn pass_on<'py>(&self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        INSIDE.set(INSIDE.get() + 1);
        HAS_RECORD.set(false);
        let written = self.target_write.bind(data.py()).call1((data,));
        INSIDE.set(INSIDE.get() - 1);
        written
    }

    fn is_shipping(&self) -> bool {
        self.shipping.load(Ordering::Relaxed) && ECHO_ONLY.get() & bit(self.stream) == 0
    }

    /// Whether the stream underneath has made a record of this text, or of the line that it ends.
    fn is_record(&self, bytes: &[u8]) -> bool {
        let (text, own) = (bytes.trim_ascii(), bit(self.stream));
        if text.is_empty() {
            let before = AS_RECORD.get();
            if bytes.contains(&b'\n') {
                AS_RECORD.set(before & !own);
            }
            return before & own != 0;
        }
        let is_record = HAS_RECORD.replace(false)
            && RECORD.with_borrow(|record| record.windows(text.len()).any(|part| part == text));
        let open = is_record && bytes.last() != Some(&b'\n');
        AS_RECORD.set(if open { AS_RECORD.get() | own } else { AS_RECORD.get() & !own });
        is_record
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
        if bytes.is_empty() || self.is_record(bytes) {
            return;
        }
        // A thread that is being torn down has no lane any more.
        if LANE.try_with(|lane| self.ship_from(py, lane, bytes)).is_err() {
            self.ship_from(py, &Lane::new(), bytes);
        }
    }

    fn ship_from(&self, py: Python<'_>, lane: &Lane, bytes: &[u8]) {
        if TASKS.load(Ordering::Relaxed)
            && let Ok(current) = self.current_task.call0(py)
            && let Ok(task) = current.bind(py).cast::<Producer>()
            && task.get().write(py, lane, self.stream, bytes)
        {
            return;
        }
        self.producer.get().write(py, lane, self.stream, bytes);
    }
}
