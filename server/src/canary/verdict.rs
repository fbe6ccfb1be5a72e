//! What the canary's findings come to: whether it fails now, and in which words.

use std::fmt;
use std::time::{Duration, Instant};

/// So long a finding fails readiness. Long enough for a monitor to see it; not for ever, because what is lost stays lost, and a
/// server that is restarted for it loses more.
pub(super) const REMEMBERED: Duration = Duration::from_mins(1);

/// One kind of broken promise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Finding {
    count: u64,
    last: Option<Instant>,
}

impl Finding {
    pub(super) fn add(&mut self, count: u64, now: Instant) {
        self.count = self.recent(now) + count;
        self.last = Some(now);
    }

    /// How often it was found since the last quiet minute.
    pub(super) fn recent(&self, now: Instant) -> u64 {
        let recent = self.last.is_some_and(|last| now.saturating_duration_since(last) < REMEMBERED);
        if recent { self.count } else { 0 }
    }
}

/// How the canary stands at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Lines lost of late.
    pub(super) lost: u64,
    /// Lines shown twice of late.
    pub(super) duplicate: u64,
    /// Lines out of order of late.
    pub(super) out_of_order: u64,
    /// The age of a line that is overdue now.
    pub(super) unseen: Option<Duration>,
}

impl Verdict {
    /// Which promises are broken, without the numbers: it changes when the state does, and not with each line.
    pub(super) fn kinds(&self) -> [bool; 4] {
        [self.lost > 0, self.duplicate > 0, self.out_of_order > 0, self.unseen.is_some()]
    }

    pub(super) fn is_well(&self) -> bool {
        self.kinds() == [false; 4]
    }
}

/// What fails; nothing if all is well.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |count: u64| if count == 1 { "1 line".to_owned() } else { format!("{count} lines") };
        let of_late = |count: u64, what: &str| (count > 0).then(|| format!("{} {what} of late", lines(count)));
        let parts = [
            of_late(self.lost, "lost"),
            of_late(self.duplicate, "shown twice"),
            of_late(self.out_of_order, "out of order"),
            self.unseen.map(|age| format!("a line is not seen for {} s", age.as_secs())),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_forgotten_after_a_quiet_minute() {
        let (start, mut finding) = (Instant::now(), Finding::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(finding.recent(at(0)), 0);
        finding.add(2, at(0));
        finding.add(1, at(59));
        assert_eq!((finding.recent(at(59)), finding.recent(at(118))), (3, 3));
        assert_eq!(finding.recent(at(119)), 0);
        finding.add(1, at(200));
        assert_eq!(finding.recent(at(200)), 1);
    }

    #[test]
    fn the_words_name_each_failure() {
        assert!(Verdict::default().is_well());
        assert_eq!(Verdict::default().to_string(), "");
        let all = Verdict { lost: 1, duplicate: 2, out_of_order: 3, unseen: Some(Duration::from_millis(20_900)) };
        let words = "1 line lost of late, 2 lines shown twice of late, 3 lines out of order of late, \
                     a line is not seen for 20 s";
        assert_eq!(all.to_string(), words);
        assert_eq!(all.kinds(), [true; 4]);
        assert!(!Verdict { unseen: Some(Duration::ZERO), ..Verdict::default() }.is_well());
    }
}
