//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// The first attempt waits at most this.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// No attempt waits longer.
pub(crate) const MOST: Duration = Duration::from_secs(30);

/// Exponential with full jitter: attempt `n` waits a random time between 0 and `min(MOST, FIRST · 2ⁿ)`, so that the many
/// producers of a server that came back do not arrive together. See "Exponential Backoff And Jitter", AWS, 2015.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let most = self.bound();
        self.attempts = self.attempts.saturating_add(1);
        most.mul_f64(fastrand::f64())
    }

    /// The longest that the next wait can be.
    fn bound(&self) -> Duration {
        FIRST.saturating_mul(2_u32.saturating_pow(self.attempts.min(16))).min(MOST)
    }

    /// The server took something: start from the shortest wait again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over_after_progress() {
        let mut backoff = Backoff::default();
        let mut bound = FIRST;
        for _ in 0..100 {
            assert_eq!(backoff.bound(), bound);
            assert!(backoff.next() <= bound);
            bound = (bound * 2).min(MOST);
        }
        assert_eq!(backoff.bound(), MOST);
        backoff.reset();
        assert_eq!(backoff.bound(), FIRST);
    }

    #[test]
    fn waits_are_spread() {
        let mut backoff = Backoff { attempts: 9 };
        let waits: Vec<_> = (0..200).map(|_| backoff.next()).collect();
        assert!(waits.iter().any(|wait| *wait < MOST / 4) && waits.iter().any(|wait| *wait > MOST * 3 / 4));
    }
}
