//! Which process this is: a child of `fork` has the memory of its parent, and none of its threads.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::os;

/// Forks between the first process and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);
static WATCHING: Once = Once::new();

/// A client that is to be started, in whichever process.
pub(crate) const NEVER: u64 = u64::MAX;

/// From now on forks are counted, also those that Python is not told of. Before any Python hook runs in the child: what
/// such a hook prints must not touch the parent's locks.
pub(crate) fn watch() {
    WATCHING.call_once(|| {
        os::at_fork(happened);
    });
}

/// Called in the child, first thing. Other threads of the parent may have held any lock, so only an atomic is touched.
extern "C" fn happened() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Differs between a process and its child.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}
