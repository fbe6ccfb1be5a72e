//! Whether a sub-task's producer still takes lines: it closes a while after the last one went out, unless somebody came in
//! again.
//!
//! Only atomics: the sender's thread shuts the gate, and a fork may happen while it does.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const SHUT: u64 = u64::MAX;
/// How often a gate that is being shut looks again for a line that is on its way in.
const POLL: Duration = Duration::from_millis(1);

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

    /// Waits for the lines that were let through before.
    pub(crate) async fn settled(&self) {
        while self.passing.load(Ordering::SeqCst) != 0 {
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_in_time_finds_it_open() {
        let gate = Gate::default();
        let out = gate.turn().unwrap();
        assert!(gate.turn().is_some() && !gate.shut(out) && gate.pass());
        gate.passed();
        let out = gate.turn().unwrap();
        assert!(gate.shut(out) && !gate.pass() && gate.turn().is_none());
        assert_eq!(gate.passing.load(Ordering::SeqCst), 0);
    }
}
