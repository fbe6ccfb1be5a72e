//! Whether the canary's lines come as promised. Pure: it is told what was printed and what a reader was shown, and when.
//!
//! Lines are numbered 1, 2, 3, … and a correct server shows each once, in that order. What a `rollback` takes back is waited
//! for anew: the server promises to show it again, and it is no duplicate then.
//!
//! **Invariants**: every number up to the last one printed is waited for, or was shown, or was given up as lost. All memory is
//! bounded: nothing is printed while [`MAX_WAITING`] lines are outstanding, and of those that were shown as many are kept.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::outstanding::{Due, Outstanding};
use super::verdict::{Finding, Verdict};

/// So many lines may be outstanding. Enough for a quarter of an hour at one a second; after that their age tells all.
pub(super) const MAX_WAITING: usize = 1024;

/// Totals since the start. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Lines printed.
    pub(super) sent: u64,
    /// Lines shown, each counted once.
    pub(super) seen: u64,
    /// Lines that did not come.
    pub(super) lost: u64,
    /// Lines that came again.
    pub(super) duplicate: u64,
    /// Lines that came after a later one.
    pub(super) out_of_order: u64,
}

/// What is known of every line.
#[derive(Debug)]
pub(super) struct Checker {
    fail_after: Duration,
    began: Instant,
    waiting: Outstanding,
    /// Number and offset of the lines shown last: those that a rollback may take back.
    shown: VecDeque<(u64, u64)>,
    /// Lost ones of late, which may come after all.
    given_up: BTreeSet<u64>,
    /// The highest number that counts as shown.
    high: u64,
    gap: Option<Gap>,
    counts: Counts,
    lost: Finding,
    duplicate: Finding,
    out_of_order: Finding,
}

/// Offsets that will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// Deleted by age: nobody promised them any longer.
    Retention,
    /// The store should have them.
    Missing,
}

impl Checker {
    pub(super) fn new(fail_after: Duration, now: Instant) -> Self {
        Self {
            fail_after,
            began: now,
            waiting: Outstanding::default(),
            shown: VecDeque::new(),
            given_up: BTreeSet::new(),
            high: 0,
            gap: None,
            counts: Counts::default(),
            lost: Finding::default(),
            duplicate: Finding::default(),
            out_of_order: Finding::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of the next line, which counts as printed from now on. `None`: too many are outstanding.
    pub(super) fn print(&mut self, now: Instant) -> Option<u64> {
        if self.waiting.len() >= MAX_WAITING {
            return None;
        }
        self.counts.sent += 1;
        self.waiting.insert(self.counts.sent, Due { since: now, again: false });
        Some(self.counts.sent)
    }

    /// A reader was shown this line. Its latency, if it is the first time.
    pub(super) fn line(&mut self, number: u64, offset: u64, now: Instant) -> Option<Duration> {
        if !(1..=self.counts.sent).contains(&number) {
            return None; // Nobody printed it: not the canary's.
        }
        let late = number <= self.high;
        let due = self.waiting.remove(number);
        let expected = due.is_some() || self.given_up.remove(&number);
        if late && !expected {
            self.counts.duplicate += 1;
            self.duplicate.add(1, now);
            return None;
        }
        if late {
            self.counts.out_of_order += 1;
            self.out_of_order.add(1, now);
        }
        self.remember(number, offset);
        if let Some(gap) = self.gap.take_if(|_| !late) {
            self.skip_before(number, gap, now);
        }
        let first = due.filter(|due| !due.again)?;
        self.counts.seen += 1;
        Some(now.saturating_duration_since(first.since))
    }

    /// Offsets do not come. Which lines they were, the next one shows.
    pub(super) fn gap(&mut self, gap: Gap) {
        if self.gap != Some(Gap::Missing) {
            self.gap = Some(gap);
        }
    }

    /// What was shown above this offset is void; 0 = all. It has to come again.
    pub(super) fn rollback(&mut self, to: u64, now: Instant) {
        while let Some((number, _)) = self.shown.pop_back_if(|(_, offset)| *offset > to) {
            self.waiting.insert(number, Due { since: now, again: true });
        }
        self.high = self.shown.iter().map(|(number, _)| *number).max().unwrap_or(0);
        self.gap = None; // What it hid, if it is still there, is told again or overdue.
    }

    /// Gives up what is overdue although later lines came.
    pub(super) fn tick(&mut self, now: Instant) {
        let is_overdue = |since: Instant| now.saturating_duration_since(since) > self.fail_after;
        let overdue = self.waiting.by_age().take_while(|(since, _)| is_overdue(*since)).map(|(_, number)| number);
        for number in overdue.filter(|number| *number < self.high).collect::<Vec<_>>() {
            self.give_up(number, now);
        }
    }

    /// The age of the oldest line that is not shown yet; before the first, how long it has been waited for.
    pub(super) fn unseen(&self, now: Instant) -> Duration {
        let first = (self.counts.sent == 0).then_some(self.began);
        let oldest = self.waiting.by_age().next().map(|(since, _)| since).or(first);
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How it stands.
    pub(super) fn verdict(&self, now: Instant) -> Verdict {
        let unseen = self.unseen(now);
        Verdict {
            lost: self.lost.recent(now),
            duplicate: self.duplicate.recent(now),
            out_of_order: self.out_of_order.recent(now),
            unseen: (unseen > self.fail_after).then_some(unseen),
        }
    }

    /// Notes a line as shown.
    fn remember(&mut self, number: u64, offset: u64) {
        self.high = self.high.max(number);
        self.shown.push_back((number, offset));
        if self.shown.len() > MAX_WAITING {
            self.shown.pop_front();
        }
    }

    fn skip_before(&mut self, number: u64, gap: Gap, now: Instant) {
        for number in self.waiting.before(number) {
            if gap == Gap::Missing {
                self.give_up(number, now);
            } else {
                self.waiting.remove(number);
            }
        }
    }

    fn give_up(&mut self, number: u64, now: Instant) {
        self.waiting.remove(number);
        self.given_up.insert(number);
        if self.given_up.len() > MAX_WAITING {
            self.given_up.pop_first();
        }
        self.counts.lost += 1;
        self.lost.add(1, now);
    }
}
