//! A panic in here must not become an exception in the user's program: it is caught, and nothing is captured from then on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static DISABLED: AtomicBool = AtomicBool::new(false);
static MESSAGE: OnceLock<String> = OnceLock::new();

/// Runs `work`; after a panic, here or before, it is `otherwise`.
pub(crate) fn run<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    if DISABLED.load(Ordering::Relaxed) { otherwise } else { catch(otherwise, work) }
}

/// As [`run`], also when capture is off already: for what ends it.
pub(crate) fn catch<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    // What a panic leaves half-done is never looked at again: capture is off.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => value,
        Err(panic) => {
            DISABLED.store(true, Ordering::Relaxed);
            MESSAGE.get_or_init(|| describe(&*panic));
            otherwise
        }
    }
}

/// What the first panic said.
pub(crate) fn panicked() -> Option<String> {
    MESSAGE.get().cloned()
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_ends_the_capture() {
        assert_eq!(run(0, || 1), 1);
        assert_eq!(run(0, || panic!("broken on purpose")), 0);
        assert_eq!(panicked().as_deref(), Some("broken on purpose"));
        assert_eq!((run(0, || 1), catch(0, || 1)), (0, 1));
    }
}
