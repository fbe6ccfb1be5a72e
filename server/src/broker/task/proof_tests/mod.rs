//! The whole way from what a producer numbers to what is said of it, over the task's rules: whatever is repeated, and however
//! often the producer comes back, the rows prove what was sent, and any change of them is noticed.

mod site;

use bytes::Bytes;
use flowforge_storage::{Claim, LogRecord, Recovery, Stream, TaskStatus};
use proptest::prelude::*;

use self::site::{Site, claim, id};
use crate::broker::rows;
use crate::proof::{Completeness, Counts, State, judge_rows};

#[derive(Debug, Clone)]
enum Op {
    Send {
        producer: u8,
        again: u64,
        new: u64,
    },
    Connect {
        producer: u8,
    },
    Fenced {
        producer: u8,
    },
    Close {
        producer: u8,
    },
    /// The memory is lost; this share of the rows is stored.
    Crash(prop::sample::Index),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let send = (0..2u8, 0..12u64, 0..9u64).prop_map(|(producer, again, new)| Op::Send { producer, again, new });
    let connect = (0..2u8).prop_map(|producer| Op::Connect { producer });
    let fenced = (0..2u8).prop_map(|producer| Op::Fenced { producer });
    let close = (0..2u8).prop_map(|producer| Op::Close { producer });
    let crash = any::<prop::sample::Index>().prop_map(Op::Crash);
    prop::collection::vec(prop_oneof![8 => send, 2 => connect, 1 => fenced, 1 => close, 1 => crash], 1..40)
}

fn played(ops: Vec<Op>) -> Site {
    let mut site = Site::new(2);
    for op in ops {
        match op {
            Op::Send { producer, again, new } => site.send(producer, again, new),
            Op::Connect { producer } => site.connect(producer),
            Op::Fenced { producer } => site.fenced(producer),
            Op::Close { producer } => {
                site.close(producer, claim(producer, site.open[usize::from(producer)].1, |_| true));
            }
            Op::Crash(share) => site.crash(share.index(site.rows.len() + 1)),
        }
    }
    site
}

/// One change of a stored line.
fn tampered(row: &mut LogRecord, how: u8) {
    match how % 8 {
        0 => row.message = [row.message.as_ref(), b"!"].concat().into(),
        1 => row.time_ns += 1,
        2 => row.stream = if row.stream == Stream::Log { Stream::Stdout } else { Stream::Log },
        3 => row.level ^= 1,
        4 => row.continued ^= true,
        5 => row.no_newline ^= true,
        6 => row.update_id ^= 1,
        _ => row.fields = Bytes::from_static(b"{\"n\":0}"),
    }
}

proptest! {
    #[test]
    fn whatever_is_repeated_the_rows_prove_what_was_sent(ops in ops()) {
        let mut site = played(ops);
        let sent: u64 = site.open.iter().map(|(_, last)| last).sum();
        let is_running = site.record().status == TaskStatus::Running;
        prop_assert_eq!(site.judge().state == State::Running, is_running);
        site.close_all();
        let found = site.judge();
        let counts = Some(Counts { lines: sent, captured: sent, missing: 0, dropped: 0 });
        let whole = Completeness { state: State::Verified, counts, reason: None };
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn any_change_of_the_rows_is_noticed(ops in ops(), at in any::<prop::sample::Index>(), how in any::<u8>()) {
        let mut site = played(ops);
        site.send(0, 0, 2);
        site.close_all();
        let lines: Vec<usize> = (0..site.rows.len()).filter(|at| site.rows[*at].stream != Stream::System).collect();
        let at = *at.get(&lines);
        match how % 4 {
            0 => { site.rows.remove(at); }
            1 => { let again = site.rows[at].clone(); site.rows.insert(at, again); }
            2 => tampered(&mut site.rows[at], how / 4),
            _ => {
                let row = site.rows[at].clone();
                let other = lines.iter().copied().find(|other| *other != at && site.rows[*other].producer == row.producer);
                let Some(other) = other else { return Ok(()) };
                site.rows.swap(at, other);
            }
        }
        let found = site.judge();
        prop_assert_eq!(found.state, State::Incomplete);
        prop_assert!(found.reason.is_some());
    }
}

fn reason(completeness: &Completeness) -> &str {
    completeness.reason.as_deref().unwrap_or_default()
}

#[test]
fn holes_are_named() {
    let mut site = Site::new(1);
    site.send(0, 0, 9);
    site.close_all();
    let whole = site.rows.clone();
    site.rows.remove(6);
    let found = site.judge();
    assert_eq!((found.counts.unwrap().lines, found.counts.unwrap().captured, found.counts.unwrap().missing), (8, 9, 1));
    assert_eq!(reason(&found), "seq 7 is not stored");
    site.rows = whole.iter().filter(|row| !(4..=9).contains(&row.seq)).cloned().collect();
    let found = site.judge();
    assert_eq!((found.counts.unwrap().lines, found.counts.unwrap().captured, found.counts.unwrap().missing), (3, 9, 6));
    assert_eq!(reason(&found), "seq 4 to 9 are not stored");
    site.rows = whole;
    site.rows[4] = rows::rejected(&site.rows[4], "no");
    assert_eq!((reason(&site.judge()), site.counts().missing), ("seq 5 was refused by the store", 1));
}

#[test]
fn zero_lines_are_verified_too() {
    let mut site = Site::new(1);
    site.close_all();
    assert_eq!((site.judge().state, site.counts().captured), (State::Verified, 0));
}

#[test]
fn dropped_lines_are_counted_and_the_others_proven() {
    let mut site = Site::new(1);
    site.send(0, 0, 4);
    site.drop_lines(0, 3);
    site.send(0, 0, 2);
    site.close(0, claim(0, 9, |seq| !(5..=7).contains(&seq)));
    let found = site.judge();
    assert_eq!(
        (
            found.state,
            found.counts.unwrap().lines,
            found.counts.unwrap().captured,
            found.counts.unwrap().dropped,
            found.counts.unwrap().missing
        ),
        (State::Incomplete, 6, 9, 3, 0)
    );
    assert_eq!(reason(&found), "3 lines were given up by the producer; the others are stored as they were sent");
}

#[test]
fn what_is_not_known_is_not_claimed() {
    let without = |recovery| Claim { final_seq: 2, proof: None, recovery };
    for (recovery, words) in [
        (None, "says nothing"),
        (Some(Recovery::Clean), "all that it had captured is stored"),
        (Some(Recovery::Damaged), "not all that it had captured could be read"),
    ] {
        let mut site = Site::new(1);
        site.send(0, 0, 2);
        site.close(0, without(recovery));
        let found = site.judge();
        assert_eq!((found.state, found.counts.unwrap().lines, found.counts.unwrap().captured), (State::Unproven, 2, 2));
        assert!(reason(&found).contains(words), "{found:?}");
    }
    let mut site = Site::new(1);
    site.send(0, 0, 2);
    let generation = site.open[0].0;
    site.state.release(id(0), generation, std::time::Instant::now());
    site.state.expire(std::time::Instant::now(), 0);
    assert!(reason(&site.judge()).contains("left without a Close"), "{:?}", site.judge());
}

#[test]
fn a_wrong_claim_is_named() {
    let mut site = Site::new(1);
    site.send(0, 0, 3);
    let mut wrong = claim(0, 3, |_| true);
    wrong.proof.as_mut().unwrap().digest = "00".repeat(32);
    site.close(0, wrong);
    assert_eq!(reason(&site.judge()), "what is stored is not what the producer sent");
    let mut fewer = Site::new(1);
    fewer.send(0, 0, 3);
    fewer.close(0, claim(0, 3, |seq| seq != 2));
    assert!(reason(&fewer.judge()).contains("3 lines of"), "{:?}", fewer.judge());
}

#[test]
fn what_retention_took_is_not_verifiable_any_more() {
    let mut site = Site::new(1);
    site.send(0, 0, 5);
    site.close_all();
    let left = &site.rows[2..];
    let found = judge_rows(site.record(), left, 3).task;
    assert_eq!(
        (found.state, found.counts.unwrap().lines, found.counts.unwrap().captured, found.counts.unwrap().missing),
        (State::Unproven, 3, 5, 0)
    );
    assert_eq!(reason(&found), "lines up to offset 2 were deleted by retention");
}

#[test]
fn a_close_that_comes_again_after_a_crash_brings_its_claim() {
    let mut site = Site::new(1);
    site.send(0, 0, 2);
    site.close_all();
    let record = std::sync::Arc::make_mut(site.state.record.as_mut().unwrap());
    let (claimed, version) = (record.producers[0].claim.take(), record.version); // Only the end row was stored.
    site.connect(0);
    site.close_all();
    assert_eq!(site.record().producers[0].claim, claimed);
    assert!(site.record().version > version);
    assert_eq!(site.judge().state, State::Verified);
}

#[test]
fn several_producers_are_named() {
    let mut site = Site::new(2);
    site.send(0, 0, 2);
    site.send(1, 0, 3);
    site.close_all();
    site.rows.remove(0);
    let found = site.judge();
    assert_eq!((found.state, found.counts.unwrap().lines, found.counts.unwrap().captured), (State::Incomplete, 4, 5));
    assert_eq!(reason(&found), format!("producer {}: seq 1 is not stored", id(0)));
}
