//! The calls to the operating system, and one to Python, that have no safe form.
#![expect(
    unsafe_code,
    reason = "pthread_atfork and write on a descriptor by its number; each block says why it is sound"
)]

use pyo3::Python;

/// Has `child` called in every child of `fork`, whoever forks: before Python's own hooks, and for C libraries too. False:
/// there is no memory for it.
pub(crate) fn at_fork(child: unsafe extern "C" fn()) -> bool {
    // SAFETY: a function of this library, which Python never unloads. It must be async-signal-safe; its one user touches
    // an atomic.
    unsafe { libc::pthread_atfork(None, None, Some(child)) == 0 }
}

/// Whether this is the interpreter that the process began with: the state in here is one for all of them.
pub(crate) fn is_main_interpreter(_attached: Python<'_>) -> bool {
    // SAFETY: the caller is attached, so there is a current interpreter, which both calls only look at.
    unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) == 0 }
}

/// Writes to a descriptor that Python keeps open for this; what cannot be written is lost.
pub(crate) fn write(descriptor: i32, text: &[u8]) {
    // SAFETY: the pointer and the length are those of a live slice, which the call only reads. A descriptor that is not
    // open is an error that it returns.
    unsafe { libc::write(descriptor, text.as_ptr().cast(), text.len()) };
}
