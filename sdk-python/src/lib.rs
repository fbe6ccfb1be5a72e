//! The native half of the Python package `flowforge`: a thin binding over [`flowforge_client`].
//!
//! - `producer`: one client, and what a fork does to it.
//! - `running`: a client in this process, and how Python waits for it; `sender`: the thread that all of them send on.
//! - `gate`: whether a producer still takes lines.
//! - `tee`: the `write` of a redirected stream: the terminal first, then the queue.
//! - `record`: a logging record as an entry.
//! - `text`: Python text as bytes.
//! - `guard`: a panic ends the capture, never the program.
//! - `fork`: which process this is.
//! - `os`: the only unsafe calls.
//!
//! # Invariants
//!
//! - **The queue holds bytes.** No Python object outlives the call that brought it, so the sender's thread never attaches
//!   to Python.
//! - **Every wait releases the GIL.** What is called while attached takes short locks that no Python code runs under.
//! - **Locks of this crate are only taken while attached and never across a detach.** A fork happens while attached, so
//!   they are free in the child; those of the client may not be, and a child never touches its parent's client.

mod fork;
mod gate;
#[cfg(test)]
mod gate_tests;
mod guard;
mod notice;
mod os;
mod producer;
mod record;
mod running;
mod sender;
mod tee;
mod text;

use std::path::PathBuf;
use std::sync::atomic;

use flowforge_client::spool;
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// `flowforge._core`, see `_core.pyi` for the Python view.
#[pymodule(gil_used = true)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if !os::is_main_interpreter(module.py()) {
        return Err(PyImportError::new_err(
            "flowforge works in the main interpreter only: call flowforge.init() there",
        ));
    }
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<producer::Producer>()?;
    module.add_class::<tee::Tee>()?;
    module.add_function(wrap_pyfunction!(speak_on, module)?)?;
    module.add_function(wrap_pyfunction!(panicked, module)?)?;
    module.add_function(wrap_pyfunction!(spool_dir, module)?)?;
    module.add_function(wrap_pyfunction!(parse_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(use_tasks, module)?)?;
    module.add_function(wrap_pyfunction!(echo_only, module)?)
}

/// The descriptor for what native code says; negative: none.
#[pyfunction]
#[pyo3(signature = (descriptor, /))]
fn speak_on(descriptor: i32) {
    notice::speak_on(descriptor);
}

/// What panicked, if something did: nothing is captured any more.
#[pyfunction]
fn panicked() -> Option<String> {
    guard::panicked()
}

/// The directory that a setting means; `None`: no spool.
#[pyfunction]
#[pyo3(signature = (setting, /))]
fn spool_dir(setting: &str) -> Option<PathBuf> {
    spool::dir_of_setting(setting)
}

/// What a size like `64MiB` is in bytes; `None`: it is no size.
#[pyfunction]
#[pyo3(signature = (text, /))]
fn parse_bytes(text: &str) -> Option<u64> {
    spool::parse_bytes(text)
}

/// From now on writes look up the current task.
#[pyfunction]
fn use_tasks() {
    tee::use_tasks();
}

/// Whose writes by this thread go to the terminal alone: 1 stdout, 2 stderr, 3 both; `also`: beside those before. Returns what
/// it was before.
#[pyfunction]
#[pyo3(signature = (streams, also=false, /))]
fn echo_only(streams: u8, also: bool) -> u8 {
    tee::echo_only(streams, also)
}
