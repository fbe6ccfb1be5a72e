//! Moments at which a test may let the process die, to see that no promise hangs on what comes next.
//!
//! `FLOWFORGE_FAIL_POINT=name:n` kills this process, without a word as SIGKILL does, when it passes the point `name` for the
//! n-th time. Only in builds with debug assertions: a release has none of this.

/// A moment worth dying at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailPoint {
    /// Lines have their places and are in the queue; their producer knows nothing of it.
    Appended,
    /// The writer has lines that the store has not.
    Taken,
    /// The store has lines, and nobody but the store knows.
    Committed,
    /// The queue knows that the store has them.
    Acknowledged,
}

/// Dies here, if a test wants it.
#[cfg(debug_assertions)]
pub fn pass(point: FailPoint) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = std::env::var("FLOWFORGE_FAIL_POINT").ok()?;
        let (name, count) = wanted.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    if let Some((name, count)) = &*WANTED
        && format!("{point:?}") == *name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        std::process::abort();
    }
}

/// Nothing, in a release.
#[cfg(not(debug_assertions))]
pub fn pass(_: FailPoint) {}
