//! The gate by itself, and in every order in which threads can meet at it.
#![allow(clippy::duplicate_mod, reason = "the gate over other atomics is the point")]

use crate::gate::Gate;

/// The same code over atomics whose scheduler decides who goes next, and tries everything.
#[path = "gate.rs"]
mod modelled;

mod atomic {
    pub(super) use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

#[test]
fn who_comes_back_in_time_finds_it_open() {
    let gate = Gate::default();
    let out = gate.turn().unwrap();
    assert!(gate.turn().is_some() && !gate.shut(out) && gate.pass());
    gate.passed();
    let out = gate.turn().unwrap();
    assert!(gate.shut(out) && !gate.pass() && gate.turn().is_none());
    assert!(gate.is_settled());
}

mod in_every_order {
    use std::sync::Arc;

    use shuttle::sync::atomic::{AtomicUsize, Ordering};
    use shuttle::{check_dfs, thread};

    use super::modelled::Gate;

    #[test]
    fn no_line_comes_after_it_was_shut_and_settled() {
        check_dfs(|| no_line_comes_late(|gate, ticket| assert!(gate.shut(ticket), "nobody has come")), None);
        check_dfs(|| no_line_comes_late(|gate, _| gate.shut_now()), None);
    }

    fn no_line_comes_late(shut: fn(&Gate, u64)) {
        let (gate, lines) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
        let ticket = gate.turn().unwrap();
        let write = || {
            let (gate, lines) = (Arc::clone(&gate), Arc::clone(&lines));
            thread::spawn(move || {
                if gate.pass() {
                    lines.fetch_add(1, Ordering::SeqCst);
                    gate.passed();
                }
            })
        };
        let writers = [write(), write()];
        shut(&gate, ticket);
        // Who finds somebody passing looks again later; what is to be known is known of a moment that is settled.
        let delivered = gate.is_settled().then(|| lines.load(Ordering::SeqCst));
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(gate.is_settled());
        assert!(delivered.is_none_or(|delivered| delivered == lines.load(Ordering::SeqCst)), "a line came late");
    }

    #[test]
    fn who_comes_in_keeps_it_open_or_finds_it_shut() {
        check_dfs(
            || {
                let gate = Arc::new(Gate::default());
                let ticket = gate.turn().unwrap();
                let other = Arc::clone(&gate);
                let entering = thread::spawn(move || other.turn().is_some());
                let is_shut = gate.shut(ticket);
                let entered = entering.join().unwrap();
                assert!(is_shut != entered, "shut: {is_shut}, entered: {entered}");
                assert_eq!(gate.pass(), entered);
            },
            None,
        );
    }
}
