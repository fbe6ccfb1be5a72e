//! The lines that are due, by number and by age.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A line that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) since: Instant,
    /// It was shown before, and taken back.
    pub(super) again: bool,
}

/// Invariant: both hold the same lines. The lowest number is not always the oldest: what was taken back waits anew.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    by_number: BTreeMap<u64, Due>,
    by_age: BTreeSet<(Instant, u64)>,
}

impl Outstanding {
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn insert(&mut self, number: u64, due: Due) {
        self.remove(number);
        self.by_number.insert(number, due);
        self.by_age.insert((due.since, number));
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Due> {
        let due = self.by_number.remove(&number)?;
        self.by_age.remove(&(due.since, number));
        Some(due)
    }

    /// The oldest first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = (Instant, u64)> {
        self.by_age.iter().copied()
    }

    /// Numbers below this one.
    pub(super) fn before(&self, number: u64) -> Vec<u64> {
        self.by_number.range(..number).map(|(number, _)| *number).collect()
    }
}
