//! What holds for every broker, with one instance.

use std::time::Duration;

use flowforge_storage::Stream;

use super::house::{House, LIMIT, Terms, in_time};
use super::sending::{OK, acked, check, dropped, ending, hello, lines, producer, send_all};
use crate::broker::{BrokerError, FrameEvent, rows};

pub(super) async fn order_and_dedupe(house: House) {
    let instance = house.instance(Terms::default()).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=3)).await.unwrap();
    one.append(2, lines(1, 2..=5)).await.unwrap();
    one.append(1, lines(1, 1..=2)).await.unwrap();
    let mut two = instance.open(2).await;
    two.append(1, lines(2, 1..=2)).await.unwrap();
    one.append(6, lines(1, 6..=6)).await.unwrap();
    assert_eq!(instance.position().await.end, 8);
    acked(one.as_ref(), 6).await;
    acked(two.as_ref(), 2).await;
    let rows = house.stored().await;
    check(&rows, &[(1, 6), (2, 2)]);
    assert_eq!(rows.len(), 8);
    assert!(rows.is_sorted_by_key(|row| row.created_at_ms));
}

pub(super) async fn a_gap_is_refused(house: House) {
    let instance = house.bare(Terms::default()).await;
    let mut one = instance.open(1).await;
    let refused = one.append(3, lines(1, 3..=3)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Gap { expected_seq: 1 }), "{refused}");
    one.append(1, lines(1, 1..=2)).await.unwrap();
    let refused = one.append(9, lines(1, 9..=9)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Gap { expected_seq: 3 }), "{refused}");
    let refused = one.close(ending(5, OK)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Gap { expected_seq: 3 }), "{refused}");
    let refused = one.close(ending(1, OK)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Invalid(_)), "{refused}");
}

pub(super) async fn the_newest_session_fences(house: House) {
    let instance = house.bare(Terms::default()).await;
    let mut old = instance.open(1).await;
    old.append(1, lines(1, 1..=2)).await.unwrap();
    let new = instance.open(1).await;
    assert_eq!((new.welcome().generation, new.welcome().queued_seq), (2, 2));
    let mut progress = old.progress();
    in_time(progress.wait_for(|progress| progress.generation == 2)).await.unwrap();
    for refused in [old.append(3, lines(1, 3..=3)).await, old.close(ending(2, OK)).await] {
        assert!(matches!(refused, Err(BrokerError::Fenced(id)) if id == producer(1)), "{refused:?}");
    }
    assert_eq!(instance.position().await.end, 2);
}

pub(super) async fn what_is_missing_for_good_is_a_row(house: House) {
    let instance = house.instance(Terms::default()).await;
    let watching = instance.watch().await;
    let mut greeting = hello(1);
    greeting.first_unacked_seq = 5;
    let mut one = instance.broker.open(greeting).await.unwrap();
    assert_eq!(one.welcome().queued_seq, 4);
    one.append(5, lines(1, 5..=5)).await.unwrap();
    acked(one.as_ref(), 5).await;
    let stored = house.stored().await;
    assert_eq!((stored.len(), rows::lost_lines(&stored[0]), stored[0].seq), (2, 4, 4));
    let position = instance.position_where("both rows", |position| position.end == 2).await;
    assert_eq!(position.record.unwrap().dropped, 4);
    drop(watching);
}

pub(super) async fn dropped_runs_overlap(house: House) {
    let instance = house.instance(Terms::default()).await;
    let mut one = instance.open(1).await;
    one.append(1, vec![dropped(7)]).await.unwrap();
    one.append(5, vec![dropped(7)]).await.unwrap(); // 5 to 11, of which 8 to 11 are new.
    one.append(8, vec![dropped(4)]).await.unwrap();
    let mut mixed = vec![dropped(2)]; // 12 and 13.
    mixed.extend(lines(1, 14..=15));
    one.append(12, mixed).await.unwrap();
    acked(one.as_ref(), 15).await;
    let stored = house.stored().await;
    assert_eq!(stored.iter().map(rows::lost_lines).collect::<Vec<_>>(), [7, 4, 2, 0, 0]);
    let position = instance.position_where("the count", |position| position.end == 5).await;
    assert_eq!(position.record.unwrap().dropped, 13);
}

pub(super) async fn an_ack_means_stored(house: House) {
    let mut instance = house.bare(Terms::default()).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=10)).await.unwrap();
    let delivery = in_time(instance.broker.take(&super::house::SOON)).await;
    assert_eq!((delivery.rows(), instance.broker.queued().rows), (10, 10));
    instance.insert(&delivery).await;
    assert_eq!((one.progress().borrow().stored_seq, instance.position().await.stored), (0, 0));
    instance.broker.stored(delivery).await;
    assert_eq!(one.progress().borrow().stored_seq, 10);
    assert_eq!((instance.position().await.stored, instance.broker.queued().rows), (10, 0));
    instance.write();
    one.append(11, lines(1, 11..=11)).await.unwrap();
    acked(one.as_ref(), 11).await;
}

pub(super) async fn frames_reach_who_watches(house: House) {
    let instance = house.bare(Terms::default()).await;
    let one = instance.open(1).await;
    let mut watching = instance.watch().await;
    let frame = FrameEvent { producer: producer(1), update_id: 3, stream: Stream::Stdout, message: "50%".into() };
    one.frame(frame.clone());
    in_time(async {
        loop {
            watching.mark_seen();
            let (frames, _) = watching.feed().frames_after(0);
            if !frames.is_empty() {
                return assert_eq!(frames, [frame]);
            }
            watching.changed().await;
        }
    })
    .await;
}

pub(super) async fn back_pressure(house: House) {
    let mut instance = house.bare(Terms { queue_bytes: 20_000, ..Terms::default() }).await;
    let mut one = instance.open(1).await;
    in_time(instance.broker.admit("default")).await;
    let mut next = 1;
    while tokio::time::timeout(Duration::from_millis(500), instance.broker.admit("default")).await.is_ok() {
        one.append(next, lines(1, next..=next + 9)).await.unwrap();
        next += 10;
        assert!(next < 10_000, "nothing stops the producer");
    }
    instance.write();
    in_time(instance.broker.admit("default")).await;
    acked(one.as_ref(), next - 1).await;
}

pub(super) async fn a_reader_misses_nothing(house: House) {
    let instance = house.instance(Terms::default()).await;
    let early = instance.follow();
    let mut senders = Vec::new();
    for number in 1..=3 {
        let broker = std::sync::Arc::clone(&instance.broker);
        senders.push(tokio::spawn(send_all(broker, number, 700, 13)));
    }
    instance.position_where("a hundred lines", |position| position.end > 100).await;
    let late = instance.follow();
    let mut sessions = Vec::new();
    for sender in senders {
        sessions.push(tokio::time::timeout(2 * LIMIT, sender).await.unwrap().unwrap());
    }
    for session in &mut sessions {
        in_time(session.close(ending(700, OK))).await.unwrap();
    }
    let stored = house.stored().await;
    check(&stored, &[(1, 700), (2, 700), (3, 700)]);
    for viewer in [early, late] {
        assert!(in_time(viewer).await.unwrap() == stored, "a reader sees what is stored");
    }
}

/// What piled up while nothing was stored is stored in large deliveries, and everybody is told.
pub(super) async fn a_backlog_is_worked_off(house: House) {
    let mut instance = house.bare(Terms::default()).await;
    let (mut one, mut two) = (instance.open(1).await, instance.open(2).await);
    let viewer = instance.follow();
    for first in (1..=20_000).step_by(8) {
        one.append(first, lines(1, first..=first + 7)).await.unwrap();
        two.append(first, lines(2, first..=first + 7)).await.unwrap();
    }
    instance.write();
    in_time(one.close(ending(20_000, OK))).await.unwrap();
    in_time(two.close(ending(20_000, OK))).await.unwrap();
    let stored = house.stored().await;
    check(&stored, &[(1, 20_000), (2, 20_000)]);
    assert!(in_time(viewer).await.unwrap() == stored);
}

pub(super) async fn an_unknown_task_is_waited_for(house: House) {
    let instance = house.instance(Terms::default()).await;
    assert!(instance.position().await.record.is_none());
    let mut watching = instance.watch().await;
    watching.mark_seen();
    let _one = instance.open(1).await;
    in_time(watching.changed()).await;
    instance.position_where("the task", |position| position.record.is_some()).await;
}

pub(super) async fn too_many_producers(house: House) {
    let instance = house.bare(Terms { max_producers: 2, ..Terms::default() }).await;
    let _sessions = (instance.open(1).await, instance.open(2).await);
    let refused = instance.broker.open(hello(3)).await.err();
    assert!(matches!(refused, Some(BrokerError::TooManyProducers(2))), "{refused:?}");
    instance.broker.open(hello(2)).await.unwrap();
}
