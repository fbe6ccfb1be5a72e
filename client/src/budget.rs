//! Bytes that several clients of one process may hold together.
//!
//! A client over the budget gives up the oldest lines of whoever holds the most: what one task leaves behind while the
//! server is away does not silence the others.
//!
//! **Lock order**: a client's state and the list of members are never held together.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::shared::Shared;

/// How much of a member's bytes is given up at once: looking for the largest costs a look at each.
const EVICTED_SHARE: usize = 32;

/// See the module; shared by [`ClientConfig::budget`](crate::ClientConfig::budget).
#[derive(Default)]
pub struct Budget {
    max: AtomicUsize,
    used: AtomicUsize,
    members: Mutex<Vec<Weak<Shared>>>,
}

impl Budget {
    /// Of so many bytes, counted as [`ClientConfig::max_buffer_bytes`](crate::ClientConfig::max_buffer_bytes) are.
    pub fn new(max: usize) -> Self {
        Self { max: AtomicUsize::new(max), ..Self::default() }
    }

    /// Changes the bound.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(crate) fn join(&self, member: &Arc<Shared>) {
        let mut members = self.lock();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    /// Whether somebody who holds `held` may hold `wanted` instead.
    pub(crate) fn allows(&self, held: usize, wanted: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_sub(held) + wanted <= self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Who holds the most.
    fn largest(&self) -> Option<Arc<Shared>> {
        let members = self.lock();
        let live = members.iter().filter_map(Weak::upgrade);
        live.max_by_key(|member| member.held.load(Ordering::Relaxed))
    }

    /// Gives up the oldest lines of the largest member. The caller holds no lock of a client.
    pub(crate) fn evict(&self, bytes: usize) {
        let Some(largest) = self.largest() else { return };
        let held = largest.held.load(Ordering::Relaxed);
        let target = held.saturating_sub(bytes.max(held / EVICTED_SHARE));
        let mut state = largest.lock();
        while state.queue.bytes() > target && state.queue.drop_oldest() {}
        largest.account(&state);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("max", &self.max).field("used", &self.used).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientConfig;
    use crate::entry::{Entry, Stream};

    #[test]
    fn several_clients_stay_within_one_budget_and_the_largest_gives_way() {
        let budget = Arc::new(Budget::new(100_000));
        let clients: Vec<_> = (0..5)
            .map(|number| {
                let mut config = ClientConfig::new("http://h", "a");
                (config.max_buffer_bytes, config.budget) = (100_000, Some(Arc::clone(&budget)));
                let shared = Arc::new(Shared::new(config, [number; 16]));
                budget.join(&shared);
                shared
            })
            .collect();
        let push = |client: &Shared| client.push(Entry::new(Stream::Stdout, vec![b'x'; 872]), None, None);
        (0..1000).for_each(|_| push(&clients[0]));
        for client in &clients[1..] {
            (0..15).for_each(|_| push(client));
        }
        let held: usize = clients.iter().map(|client| client.lock().queue.bytes()).sum();
        assert!(held <= 100_000, "{held}");
        assert!(clients[1..].iter().all(|client| client.lock().queue.lines() == 15));
        assert!(clients[0].lock().queue.lines() >= 30);
        clients[0].finish(crate::stats::End::Abandoned);
        assert!(budget.allows(0, 40_000), "what has ended holds nothing: {budget:?}");
    }
}
