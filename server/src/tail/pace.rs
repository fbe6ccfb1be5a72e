//! How often a viewer's connection is written to.
//!
//! A write costs about ten microseconds whatever it carries. A lone line goes out at once; when lines come fast, those of a
//! few milliseconds share one write.

use std::time::Duration;

use tokio::time::Instant;

/// Lines that follow one another faster than this count as fast.
const FAST: Duration = Duration::from_millis(50);

/// The shortest time between two writes while lines come fast.
const INTERVAL: Duration = Duration::from_millis(10);

/// One viewer's pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    fast: bool,
}

impl Pace {
    /// Call before each live write. Returns when to write, if not now.
    pub(super) fn hold_until(&mut self, now: Instant) -> Option<Instant> {
        let due = self.last.filter(|_| self.fast).map(|last| last + INTERVAL);
        due.filter(|due| *due > now)
    }

    /// Call after each live write.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.fast = self.last.is_some_and(|last| now - last < FAST);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_line_is_not_held_and_a_burst_shares_writes() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.hold_until(start), None);
        pace.wrote(start);
        let soon = start + Duration::from_millis(1);
        assert_eq!(pace.hold_until(soon), None, "the second write tells that lines are fast");
        pace.wrote(soon);
        assert_eq!(pace.hold_until(soon + Duration::from_millis(1)), Some(soon + INTERVAL));
        let later = soon + Duration::from_millis(60);
        assert_eq!(pace.hold_until(later), None);
        pace.wrote(later);
        assert_eq!(pace.hold_until(later + Duration::from_millis(1)), None);
    }
}
