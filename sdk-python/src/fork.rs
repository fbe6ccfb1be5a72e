//! Which process this is: a child of `fork` has the memory of its parent, and none of its threads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Forks between the first process and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The process that the generation was last counted in; 0: not asked yet.
static PID: AtomicU32 = AtomicU32::new(0);

/// A client that is to be started, in whichever process.
pub(crate) const NEVER: u64 = u64::MAX;

/// Called in the child, first thing.
pub(crate) fn happened() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    PID.store(std::process::id(), Ordering::Relaxed);
}

/// Notices a fork that Python was not told of: one made by a library in C.
pub(crate) fn check() {
    let (pid, known) = (std::process::id(), PID.load(Ordering::Relaxed));
    if pid == known {
        return;
    }
    if known == 0 {
        PID.store(pid, Ordering::Relaxed);
    } else {
        happened();
    }
}

/// Differs between a process and its child.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}
