//! The checker must be able to say no: each case breaks one promise.

use serde_json::json;

use super::*;

fn row(offset: u64, seq: u64) -> Row {
    Row { offset, epoch: 5, producer: 7, seq, text: digest(text("p", seq).as_bytes()), json: offset * 1000 + seq }
}

fn store(rows: Vec<Row>) -> StoreRows {
    StoreRows { floor: 1, end: rows.last().map_or(0, |row| row.offset), rows, system: Vec::new() }
}

fn journal(captured: u64, acked: u64) -> Journal {
    Journal {
        producer: 7,
        tag: "p".to_owned(),
        captured,
        acked,
        closed: false,
        welcomes: 1,
        failures: Vec::new(),
        longest_stall: std::time::Duration::ZERO,
        broken: None,
    }
}

fn no(verdict: Verdict, words: &str) {
    let violation = verdict.expect_err(words);
    assert!(violation.0.contains(words), "{violation} should say {words:?}");
}

#[test]
fn a_whole_store_passes() {
    assert_eq!(check_store(&store(vec![row(1, 1), row(2, 2)]), &[journal(3, 2)]), Ok(()));
}

#[test]
fn what_is_wrong_with_a_store_is_named() {
    let two = || store(vec![row(1, 1), row(2, 2)]);
    no(check_store(&two(), &[journal(3, 3)]), "acked up to 3, stored up to 2");
    no(check_store(&two(), &[journal(1, 1)]), "never wrote a line 2");
    no(check_store(&two(), &[]), "nobody started");
    no(check_store(&store(vec![row(1, 1), row(2, 1)]), &[journal(3, 0)]), "seq 1 of p again");
    no(check_store(&store(vec![row(1, 1), row(2, 3)]), &[journal(3, 0)]), "jumps from 1 to 3");
    no(check_store(&store(vec![row(1, 1), row(3, 2)]), &[journal(3, 0)]), "offset 3 where 2 is due");
    no(check_store(&store(vec![row(1, 1), Row { text: 0, ..row(2, 2) }]), &[journal(3, 0)]), "not what p wrote");
    no(check_store(&store(vec![row(1, 1), Row { epoch: 4, ..row(2, 2) }]), &[journal(3, 0)]), "epoch 4 after 5");
    no(check_store(&StoreRows { end: 3, ..two() }, &[journal(3, 0)]), "ends at 2 and says 3");
    no(check_store(&two(), &[Journal { closed: true, ..journal(3, 2) }]), "closed at 3, stored 2");
    no(check_store(&two(), &[Journal { broken: Some("it lied".to_owned()), ..journal(3, 2) }]), "it lied");
}

fn start(from: u64) -> Seen {
    Seen::Control("start".to_owned(), json!({"from": from, "end": 9, "floor": 1}))
}

fn control(name: &str) -> Seen {
    Seen::Control(name.to_owned(), json!({"to": 1, "from": 2, "offset": 2}))
}

fn shown(seen: Vec<Seen>, allowed: Allowed) -> Verdict {
    let mut viewer = Viewer::new("v", String::new());
    viewer.journal = seen;
    check_viewer(&viewer, &store(vec![row(1, 1), row(2, 2)]), allowed)
}

#[test]
fn a_whole_view_passes_also_in_pieces_and_after_a_rollback() {
    let whole =
        vec![Seen::Open(None), start(1), Seen::Row(row(1, 1)), Seen::Row(row(2, 2)), control("live"), control("end")];
    assert_eq!(shown(whole, Allowed::Undisturbed), Ok(()));
    let pieces = vec![
        Seen::Open(None),
        start(1),
        Seen::Row(row(1, 1)),
        Seen::Cut,
        Seen::Open(None),
        start(2),
        Seen::Row(row(2, 2)),
    ];
    assert_eq!(shown(pieces, Allowed::Undisturbed), Ok(()));
    let lost = Row { json: 0, ..row(2, 2) };
    let back = vec![
        Seen::Open(None),
        start(1),
        Seen::Row(row(1, 1)),
        Seen::Row(lost),
        control("rollback"),
        Seen::Row(row(2, 2)),
    ];
    assert_eq!(shown(back.clone(), Allowed::Rollback), Ok(()));
    no(shown(back, Allowed::Undisturbed), "undue rollback");
    let told = || vec![Seen::Open(None), start(1), Seen::Row(row(1, 1)), Seen::Row(lost), control("rollback")];
    let cut_and_told_again =
        vec![Seen::Cut, Seen::Open(None), control("rollback"), start(2), Seen::Row(row(2, 2)), control("live")];
    assert_eq!(shown([told(), cut_and_told_again].concat(), Allowed::Rollback), Ok(()));
    no(shown([told(), vec![control("rollback")]].concat(), Allowed::Rollback), "a rollback to 1 from Some(1)");
}

#[test]
fn what_is_wrong_with_a_view_is_named() {
    let (one, two) = (|| Seen::Row(row(1, 1)), || Seen::Row(row(2, 2)));
    let after_start = |rest: Vec<Seen>| shown([vec![Seen::Open(None), start(1)], rest].concat(), Allowed::Undisturbed);
    no(after_start(vec![one()]), "1 rows, the store 2");
    no(after_start(vec![]), "has nothing");
    no(after_start(vec![two()]), "offset 2 where 1 is due");
    no(after_start(vec![one(), one()]), "offset 1 where 2 is due");
    no(after_start(vec![one(), Seen::Row(Row { json: 1, ..row(2, 2) })]), "the store has");
    no(after_start(vec![one(), two(), Seen::Row(row(3, 3))]), "3 rows, the store 2");
    no(after_start(vec![one(), control("live"), control("end")]), "the end is at 2");
    no(after_start(vec![one(), two(), control("end")]), "without live");
    no(after_start(vec![one(), two(), control("live"), control("end"), Seen::Row(row(3, 3))]), "after end");
    no(after_start(vec![control("live"), control("live")]), "live 2 times");
    no(after_start(vec![control("reset")]), "undue reset");
    no(after_start(vec![one(), control("gap")]), "undue gap");
    no(after_start(vec![start(1)]), "start twice");
    no(after_start(vec![one(), Seen::Cut, Seen::Open(None), start(1)]), "start from 1 where 2 is due");
    no(shown(vec![Seen::Open(None), one()], Allowed::Undisturbed), "before start");
    no(after_start(vec![control("surprise")]), "unknown event");
}
