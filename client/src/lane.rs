//! Who writes: a thread of a program. Its unfinished line ends when it is gone.

use std::sync::{Arc, Weak};

/// One writer of [`Client::write_from`](crate::Client::write_from), usually a thread. Once it is dropped, its last line is
/// ended without a newline: nobody can go on with it.
#[derive(Debug, Default)]
pub struct Lane(Arc<()>);

impl Lane {
    /// A new one, unlike any other.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter and no lock, so that it may be dropped anywhere, also where a thread ends.
    pub(crate) fn mark(&self) -> Mark {
        Mark(Arc::downgrade(&self.0))
    }

    pub(crate) fn is(&self, mark: &Mark) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0), mark.0.as_ptr())
    }
}

/// What an unfinished line keeps of its lane. It keeps the address from being used again.
#[derive(Debug, Default)]
pub(crate) struct Mark(Weak<()>);

impl Mark {
    pub(crate) fn is_dead(&self) -> bool {
        self.0.strong_count() == 0
    }
}
