//! Case by case, then against a server that keeps its promises and one that breaks them in known places.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::checker::{Checker, Counts, Gap, MAX_WAITING};

const FAIL_AFTER: Duration = Duration::from_secs(15);

/// A checker and a clock.
struct Bench {
    checker: Checker,
    now: Instant,
}

impl Bench {
    fn with_lines(count: u64) -> Self {
        let now = Instant::now();
        let mut bench = Self { checker: Checker::new(FAIL_AFTER, now), now };
        (0..count).for_each(|_| bench.print());
        bench
    }

    fn print(&mut self) {
        self.checker.print(self.now).expect("room");
    }

    /// Shown at the offset ten above its number.
    fn show(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.checker.line(number, number + 10, self.now);
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.checker.tick(self.now);
    }

    /// seen, lost, duplicate, out of order
    fn found(&self) -> [u64; 4] {
        let Counts { seen, lost, duplicate, out_of_order, .. } = self.checker.counts();
        [seen, lost, duplicate, out_of_order]
    }

    fn words(&self) -> String {
        self.checker.verdict(self.now).to_string()
    }
}

#[test]
fn lines_in_order_are_seen_with_their_latency() {
    let mut bench = Bench::with_lines(1);
    let later = bench.now + Duration::from_millis(7);
    assert_eq!(bench.checker.line(1, 11, later), Some(Duration::from_millis(7)));
    bench.pass(100);
    assert_eq!((bench.found(), bench.words().as_str()), ([1, 0, 0, 0], ""));
    assert_eq!(bench.checker.unseen(bench.now), Duration::ZERO);
}

#[test]
fn a_line_is_lost_only_when_a_later_one_came_and_its_time_is_up() {
    let mut bench = Bench::with_lines(3);
    bench.show([1, 3]);
    bench.pass(15);
    assert_eq!(bench.found(), [2, 0, 0, 0]);
    bench.pass(1);
    assert_eq!((bench.found(), bench.words().as_str()), ([2, 1, 0, 0], "1 line lost of late"));
    bench.pass(60);
    assert_eq!((bench.found(), bench.words().as_str()), ([2, 1, 0, 0], ""));
}

#[test]
fn nothing_is_lost_while_nothing_comes_but_that_is_told() {
    let mut bench = Bench::with_lines(3);
    bench.pass(16);
    assert_eq!((bench.found(), bench.words().as_str()), ([0; 4], "a line is not seen for 16 s"));
    bench.show(1..=3);
    assert_eq!((bench.found(), bench.words().as_str()), ([3, 0, 0, 0], ""));
}

#[test]
fn a_canary_that_cannot_begin_fails() {
    let mut bench = Bench::with_lines(0);
    bench.pass(16);
    assert_eq!(bench.words(), "a line is not seen for 16 s");
}

#[test]
fn a_line_that_comes_again_is_a_duplicate_unless_it_was_taken_back() {
    let mut bench = Bench::with_lines(4);
    bench.show([1, 2, 3, 3]);
    assert_eq!((bench.found(), bench.words().as_str()), ([3, 0, 1, 0], "1 line shown twice of late"));
    bench.checker.rollback(11, bench.now);
    bench.show([2, 3, 4]);
    assert_eq!(bench.found(), [4, 0, 1, 0]);
    bench.show([2]);
    assert_eq!(bench.found(), [4, 0, 2, 0]);
    bench.checker.rollback(0, bench.now);
    bench.show(1..=4);
    assert_eq!(bench.found(), [4, 0, 2, 0]);
}

#[test]
fn what_was_taken_back_has_to_come_again() {
    let mut bench = Bench::with_lines(3);
    bench.show(1..=2);
    bench.checker.rollback(11, bench.now);
    assert_eq!(bench.checker.unseen(bench.now + FAIL_AFTER), FAIL_AFTER);
    bench.show([3]);
    bench.pass(16);
    assert_eq!(bench.found(), [3, 1, 0, 0]);
}

#[test]
fn a_line_after_a_later_one_is_out_of_order_even_if_it_was_given_up() {
    let mut bench = Bench::with_lines(3);
    bench.show([2, 1, 1]);
    assert_eq!(bench.found(), [2, 0, 1, 1]);
    let mut bench = Bench::with_lines(2);
    bench.show([2]);
    bench.pass(16);
    bench.show([1]);
    assert_eq!(bench.found(), [1, 1, 0, 1]);
}

#[test]
fn a_gap_loses_at_once_what_it_hides_unless_that_was_old() {
    for (gap, lost) in [(Gap::Missing, 2), (Gap::Retention, 0)] {
        let mut bench = Bench::with_lines(5);
        bench.show([1]);
        bench.checker.gap(gap);
        bench.show([4]);
        assert_eq!(bench.found(), [2, lost, 0, 0], "{gap:?}");
        bench.show([5]);
        bench.pass(100);
        assert_eq!(bench.found(), [3, lost, 0, 0], "{gap:?}");
    }
}

#[test]
fn what_nobody_printed_is_not_the_canarys() {
    let mut bench = Bench::with_lines(1);
    bench.show([0, 2, 3_000_000_000]);
    assert_eq!(bench.found(), [0; 4]);
}

#[test]
fn outstanding_lines_are_bounded_and_none_is_forgotten() {
    let mut bench = Bench::with_lines(MAX_WAITING as u64);
    assert_eq!(bench.checker.print(bench.now), None);
    bench.show([1]);
    assert_eq!(bench.checker.print(bench.now), Some(MAX_WAITING as u64 + 1));
    bench.show(2..=MAX_WAITING as u64 + 1);
    assert_eq!(bench.found(), [MAX_WAITING as u64 + 1, 0, 0, 0]);
}

/// A reset far back shows lines that are no longer remembered.
#[test]
fn a_reset_beyond_memory_is_no_duplicate() {
    let mut bench = Bench::with_lines(0);
    let count = 3 * MAX_WAITING as u64;
    for number in 1..=count {
        bench.print();
        bench.show([number]);
    }
    bench.checker.rollback(0, bench.now);
    bench.show(1..=count);
    bench.pass(100);
    assert_eq!(bench.found(), [count, 0, 0, 0]);
}

/// What may happen to a server that keeps its promises.
#[derive(Debug, Clone)]
enum Step {
    Print,
    Append,
    Store,
    /// The reader is shown one row more.
    Show,
    /// Its memory is lost, not what is stored.
    Crash,
    /// Time passes, less than makes a failure.
    Second,
}

/// Offset = index + 1. Offsets go on from what is stored.
#[derive(Debug, Default)]
struct Honest {
    rows: Vec<u64>,
    stored: usize,
    shown: usize,
}

impl Honest {
    fn append(&mut self, sent: u64) {
        let next = self.rows.last().copied().unwrap_or(0) + 1;
        self.rows.extend((next <= sent).then_some(next));
    }

    fn show(&mut self, bench: &mut Bench) {
        if let Some(number) = self.rows.get(self.shown) {
            self.shown += 1;
            bench.checker.line(*number, self.shown as u64, bench.now);
        }
    }

    fn crash(&mut self, bench: &mut Bench) {
        self.rows.truncate(self.stored);
        if self.shown > self.stored {
            self.shown = self.stored;
            bench.checker.rollback(self.stored as u64, bench.now);
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Print),
        4 => Just(Step::Append),
        2 => Just(Step::Store),
        4 => Just(Step::Show),
        1 => Just(Step::Crash),
        1 => Just(Step::Second),
    ]
}

proptest! {
    #[test]
    fn an_honest_server_is_never_accused(steps in proptest::collection::vec(step(), 0..300)) {
        let (mut bench, mut server) = (Bench::with_lines(1), Honest::default());
        for step in steps {
            match step {
                Step::Print => bench.print(),
                Step::Append => server.append(bench.checker.counts().sent),
                Step::Store => server.stored = server.rows.len(),
                Step::Show => server.show(&mut bench),
                Step::Crash => server.crash(&mut bench),
                // Lines wait as long as they must, since this server shows nothing before its time.
                Step::Second => bench.pass(1),
            }
        }
        let sent = bench.checker.counts().sent;
        (0..sent).for_each(|_| server.append(sent));
        (0..sent).for_each(|_| server.show(&mut bench));
        bench.pass(100);
        prop_assert_eq!(bench.found(), [sent, 0, 0, 0]);
        prop_assert_eq!(bench.words(), "");
    }

    #[test]
    fn each_broken_promise_is_counted(fates in proptest::collection::vec(0_u64..3, 1..100)) {
        let mut bench = Bench::with_lines(fates.len() as u64 + 1);
        for (number, times) in (1..).zip(&fates) {
            bench.show((0..*times).map(|_| number));
        }
        bench.show([fates.len() as u64 + 1]);
        bench.pass(16);
        let count = |times: u64| fates.iter().filter(|fate| **fate == times).count() as u64;
        prop_assert_eq!(bench.found(), [count(1) + count(2) + 1, count(0), count(2), 0]);
    }
}
