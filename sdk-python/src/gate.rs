//! Whether a sub-task's producer still takes lines: it closes a while after the last one went out, unless somebody came in
//! again.
//!
//! Only atomics: the sender's thread shuts the gate, and a fork may happen while it does.
//!
//! **Invariant**: once it is shut and nobody is passing, no line comes any more. So a line announces itself *before* it looks
//! whether the gate is open, and who shuts it looks for lines *after* it has shut it, both sequentially consistent.

// `std`'s, or those of the scheduler that tries every order (`gate_tests`).
use super::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHUT: u64 = u64::MAX;

#[derive(Default)]
pub(crate) struct Gate {
    /// Grows with each coming and going, so that a going that was followed by a coming shuts nothing.
    turn: AtomicU64,
    /// Lines on their way through.
    passing: AtomicUsize,
}

impl Gate {
    /// Lets a line through, then call [`Gate::passed`]; false: shut.
    pub(crate) fn pass(&self) -> bool {
        self.passing.fetch_add(1, Ordering::SeqCst);
        let is_open = self.turn.load(Ordering::SeqCst) != SHUT;
        if !is_open {
            self.passed();
        }
        is_open
    }

    pub(crate) fn passed(&self) {
        self.passing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Somebody goes in, or out: a ticket for [`Gate::shut`]. `None`: shut.
    pub(crate) fn turn(&self) -> Option<u64> {
        let next = |turn| (turn != SHUT).then(|| turn + 1);
        self.turn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).ok().map(|before| before + 1)
    }

    /// Shuts for good, if nobody has come or gone since the ticket.
    pub(crate) fn shut(&self, ticket: u64) -> bool {
        self.turn.compare_exchange(ticket, SHUT, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(crate) fn shut_now(&self) {
        self.turn.store(SHUT, Ordering::SeqCst);
    }

    /// Nobody is on the way through. After shutting: every line that will ever come is there.
    pub(crate) fn is_settled(&self) -> bool {
        self.passing.load(Ordering::SeqCst) == 0
    }
}
