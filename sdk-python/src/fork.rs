//! Which process this is: a child of `fork` has the memory of its parent, and none of its threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Forks between the first process and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A client that is to be started, in whichever process.
pub(crate) const NEVER: u64 = u64::MAX;

/// Called in the child, first thing.
pub(crate) fn happened() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Differs between a process and its child.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}
