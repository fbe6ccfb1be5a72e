//! How tasks end and go on, for every broker, with one instance.

use std::time::Duration;

use flowforge_storage::{Proof, TaskStatus};

use super::house::{House, Terms, in_time};
use super::sending::{OK, acked, check, dropped, ending, hello, lines, task};
use crate::broker::{ProducerHello, rows};

pub(super) async fn a_close_ends_the_task(house: House) {
    let instance = house.instance(Terms::default()).await;
    let viewer = instance.follow();
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=3)).await.unwrap();
    let mut said = ending(3, OK);
    said.claim.proof = Some(Proof { lines: 3, bytes: 9, digest: "5a".repeat(32) });
    in_time(one.close(said.clone())).await.unwrap();
    let end = instance.position_where("the end", |position| position.ended().is_some()).await.ended().unwrap();
    assert_eq!((end.status, end.exit_code, end.offset, end.lines), (TaskStatus::Succeeded, Some(0), 4, 3));
    assert!(end.complete);
    let record = house.store.task(&task()).await.unwrap().unwrap().record;
    assert_eq!((record.status, record.exit_code), (TaskStatus::Succeeded, Some(0)));
    assert_eq!(record.producers[0].claim, Some(said.claim.clone()), "what is checked against the rows");
    let seen = in_time(viewer).await.unwrap();
    let stored = house.stored().await;
    assert_eq!(seen, stored);
    assert_eq!(rows::parse_end(&stored[3]), Some(end));
    in_time(one.close(said)).await.unwrap();
    assert_eq!(house.stored().await.len(), 4, "a repeated Close adds nothing");
}

pub(super) async fn closes_of_several(house: House) {
    let instance = house.instance(Terms::default()).await;
    let (mut one, mut two) = (instance.open(1).await, instance.open(2).await);
    two.append(1, lines(2, 1..=1)).await.unwrap();
    in_time(two.close(ending(1, OK))).await.unwrap();
    assert!(instance.position().await.ended().is_none());
    let failed = flowforge_storage::Outcome { status: TaskStatus::Failed, exit_code: Some(3) };
    in_time(one.close(ending(0, failed))).await.unwrap();
    let end = instance.position().await.ended().unwrap();
    assert_eq!((end.status, end.exit_code, end.lines), (TaskStatus::Failed, Some(3), 1), "the owner decides");
}

pub(super) async fn another_attempt(house: House) {
    let instance = house.instance(Terms::default()).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=2)).await.unwrap();
    in_time(one.close(ending(2, OK))).await.unwrap();
    let mut two = instance.open(2).await;
    two.append(1, lines(2, 1..=1)).await.unwrap();
    let record = instance.position().await.record.unwrap();
    assert_eq!((record.attempt, record.attempt_base, record.status), (2, 3, TaskStatus::Running));
    let mut higher = hello(3);
    higher.attempt = 7;
    let mut three = instance.broker.open(higher).await.unwrap(); // Nobody speaks for the second any more.
    in_time(three.close(ending(0, OK))).await.unwrap();
    let stored = house.stored().await;
    let ends: Vec<_> = stored.iter().filter_map(rows::parse_end).map(|end| (end.attempt, end.status)).collect();
    assert_eq!(ends, [(1, TaskStatus::Succeeded), (2, TaskStatus::Lost), (7, TaskStatus::Succeeded)]);
    check(&stored, &[(1, 2), (2, 1)]);
}

pub(super) async fn a_closed_producer_comes_back(house: House) {
    let instance = house.instance(Terms::default()).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=1)).await.unwrap();
    in_time(one.close(ending(1, OK))).await.unwrap();
    drop(one);
    let mut back = instance.open(1).await;
    assert_eq!((back.welcome().queued_seq, back.welcome().stored_seq), (1, 1));
    assert!(instance.position().await.ended().is_some(), "it came only to learn");
    in_time(back.close(ending(1, OK))).await.unwrap();
    assert_eq!(house.stored().await.len(), 2);
}

pub(super) async fn late_lines_reopen(house: House) {
    let instance = house.instance(Terms::default()).await;
    let mut one = instance.open(1).await;
    in_time(one.close(ending(0, OK))).await.unwrap();
    one.append(1, lines(1, 1..=2)).await.unwrap();
    let position = instance.position().await;
    assert_eq!((position.record.unwrap().status, position.end), (TaskStatus::Running, 3));
    in_time(one.close(ending(2, OK))).await.unwrap();
    assert_eq!(instance.position().await.ended().unwrap().offset, 4);
    acked(one.as_ref(), 2).await;
}

/// What comes after an end is shown to nobody while the store still says that the task has ended: were the memory lost then, no
/// new epoch would take it back.
pub(super) async fn a_comeback_is_shown_once_its_record_is_stored(house: House) {
    let instance = house.instance(Terms::default()).await;
    let with_gap = |number, first_unacked_seq| {
        let greeting = ProducerHello { first_unacked_seq, ..hello(number) };
        instance.broker.open(greeting)
    };
    let shown = async |end: u64| {
        assert_eq!(instance.position().await.end, end);
        house.store.task(&task()).await.unwrap().unwrap().record.status
    };
    let mut one = instance.open(1).await;
    in_time(one.close(ending(0, OK))).await.unwrap();
    drop(one);

    house.gate.refuse_records(true);
    assert!(with_gap(1, 3).await.is_err(), "of a closed producer");
    assert_eq!(shown(1).await, TaskStatus::Succeeded);
    house.gate.refuse_records(false);
    let mut one = in_time(with_gap(1, 3)).await.unwrap();
    assert_eq!(one.welcome().queued_seq, 2);
    assert_eq!(shown(2).await, TaskStatus::Running);
    in_time(one.close(ending(2, OK))).await.unwrap();

    house.gate.refuse_records(true);
    for _ in 0..2 {
        assert!(one.append(3, lines(1, 3..=4)).await.is_err(), "late lines");
        assert!(one.append(3, vec![dropped(2)]).await.is_err(), "late dropped lines");
    }
    assert_eq!(shown(3).await, TaskStatus::Succeeded);
    house.gate.refuse_records(false);
    in_time(one.append(3, lines(1, 3..=4))).await.unwrap();
    assert_eq!(shown(5).await, TaskStatus::Running);
    in_time(one.close(ending(4, OK))).await.unwrap();

    house.gate.refuse_records(true);
    assert!(with_gap(2, 8).await.is_err(), "of another attempt");
    assert_eq!(shown(6).await, TaskStatus::Succeeded);
    house.gate.refuse_records(false);
    let mut two = in_time(with_gap(2, 8)).await.unwrap();
    assert_eq!(shown(7).await, TaskStatus::Running);
    in_time(two.close(ending(7, OK))).await.unwrap();
    let end = instance.position().await.ended().unwrap();
    assert_eq!((end.attempt, end.dropped, end.offset), (2, 7, 8));
}

pub(super) async fn an_expired_lease_ends_the_task(house: House) {
    let terms = Terms { lease: Duration::from_millis(400), ..Terms::default() };
    let instance = house.instance(terms).await;
    let viewer = instance.follow();
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=1)).await.unwrap();
    acked(one.as_ref(), 1).await;
    tokio::time::sleep(3 * terms.lease).await;
    assert!(instance.position().await.ended().is_none(), "an open session keeps its lease");
    drop(one);
    let end = instance.position_where("the end", |position| position.ended().is_some()).await.ended().unwrap();
    assert_eq!((end.status, end.complete, end.lines), (TaskStatus::Lost, false, 1));
    assert_eq!(in_time(viewer).await.unwrap().len(), 2);
    let mut back = instance.open(1).await;
    back.append(2, lines(1, 2..=2)).await.unwrap();
    in_time(back.close(ending(2, OK))).await.unwrap();
    let stored = house.stored().await;
    check(&stored, &[(1, 2)]);
    assert_eq!(stored.len(), 4);
}
