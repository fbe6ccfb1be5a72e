//! Several instances over one Redis.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::TaskStatus;
use flowforge_test_services::wait;

use super::house::{House, LIMIT, Terms, in_time};
use super::sending::{OK, acked, check, ending, lines, send_all};
use crate::broker::BrokerError;

const NO_WORKER: Terms = Terms {
    lease: Duration::from_mins(1),
    queue_bytes: 64 << 20,
    max_producers: 8,
    worker: false,
    patience: Duration::from_secs(10),
    shards: 2,
};

pub(super) async fn two_instances_have_one_order(house: House) {
    let (a, b) = (house.instance(Terms::default()).await, house.instance(Terms::default()).await);
    let viewers = [a.follow(), b.follow(), b.follow()];
    let senders: Vec<_> = (1..=4)
        .map(|number| {
            let broker = Arc::clone(if number % 2 == 0 { &a.broker } else { &b.broker });
            tokio::spawn(send_all(broker, number, 400, 7))
        })
        .collect();
    let mut sessions = Vec::new();
    for sender in senders {
        sessions.push(tokio::time::timeout(2 * LIMIT, sender).await.unwrap().unwrap());
    }
    for session in &mut sessions {
        in_time(session.close(ending(400, OK))).await.unwrap();
    }
    let stored = house.stored().await;
    check(&stored, &[(1, 400), (2, 400), (3, 400), (4, 400)]);
    for viewer in viewers {
        assert!(in_time(viewer).await.unwrap() == stored, "every viewer sees one order");
    }
}

pub(super) async fn a_session_elsewhere_fences(house: House) {
    let (a, b) = (house.instance(Terms::default()).await, house.bare(NO_WORKER).await);
    let mut old = a.open(1).await;
    old.append(1, lines(1, 1..=2)).await.unwrap();
    let mut new = b.open(1).await;
    assert_eq!((new.welcome().generation, new.welcome().queued_seq), (2, 2));
    let mut progress = old.progress();
    in_time(progress.wait_for(|progress| progress.generation == 2)).await.unwrap();
    let refused = old.append(3, lines(1, 3..=3)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Fenced(_)), "{refused}");
    drop(old);
    new.append(3, lines(1, 3..=4)).await.unwrap();
    acked(new.as_ref(), 4).await;
    check(&house.stored().await, &[(1, 4)]);
}

pub(super) async fn a_lease_is_kept_by_the_instance_that_holds_it(house: House) {
    let terms = Terms { lease: Duration::from_millis(600), ..Terms::default() };
    let (a, b) = (house.instance(terms).await, house.instance(terms).await);
    let one = a.open(1).await;
    tokio::time::sleep(3 * terms.lease).await;
    assert!(b.position().await.ended().is_none());
    drop(one);
    let end = b.position_where("the end", |position| position.ended().is_some()).await.ended().unwrap();
    assert_eq!(end.status, TaskStatus::Lost);
}

/// An instance that dies leaves what is left of the lease, and any other notices.
pub(super) async fn a_lease_outlives_its_instance(house: House) {
    let terms = Terms { lease: Duration::from_millis(600), ..Terms::default() };
    let b = house.instance(terms).await;
    let a = house.instance(Terms { worker: false, ..terms }).await;
    let mut one = a.open(1).await;
    one.append(1, lines(1, 1..=1)).await.unwrap();
    std::mem::forget(one); // As with SIGKILL nothing is said.
    drop(a);
    let end = b.position_where("the end", |position| position.ended().is_some()).await.ended().unwrap();
    assert_eq!((end.status, end.lines), (TaskStatus::Lost, 1));
}

pub(super) async fn a_cut_subscription_loses_nothing(house: House) {
    let (a, b) = (house.instance(Terms::default()).await, house.instance(NO_WORKER).await);
    let viewers = [a.follow(), b.follow()];
    let sender = tokio::spawn(send_all(Arc::clone(&a.broker), 1, 3000, 5));
    for round in 1..=3 {
        b.position_where("lines", |position| position.end > round * 500).await;
        for server in house.publishing() {
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
        }
    }
    let mut session = tokio::time::timeout(2 * LIMIT, sender).await.unwrap().unwrap();
    in_time(session.close(ending(3000, OK))).await.unwrap();
    let stored = house.stored().await;
    check(&stored, &[(1, 3000)]);
    for viewer in viewers {
        assert!(in_time(viewer).await.unwrap() == stored);
    }
}

pub(super) async fn a_dead_workers_lines_are_stored_by_another(house: House) {
    let dead = house.bare(Terms::default()).await;
    let ingest = house.bare(NO_WORKER).await;
    let mut one = ingest.open(1).await;
    one.append(1, lines(1, 1..=10)).await.unwrap();
    let delivery = in_time(dead.broker.take(&super::house::SOON)).await;
    assert_eq!(delivery.rows(), 10, "read, and not acknowledged");
    drop(dead);
    let _heir = house.instance(Terms::default()).await;
    one.append(11, lines(1, 11..=20)).await.unwrap();
    acked(one.as_ref(), 20).await;
    check(&house.stored().await, &[(1, 20)]);
}

/// It had read lines, stood still until another took over, and then goes on as if nothing had been.
pub(super) async fn a_frozen_worker_does_no_harm(house: House) {
    let broker = Arc::new(house.start(Terms::default()).await.unwrap());
    let ingest = house.bare(NO_WORKER).await;
    let mut one = ingest.open(1).await;
    one.append(1, lines(1, 1..=10)).await.unwrap();
    let delivery = in_time(crate::broker::Broker::take(broker.as_ref(), &super::house::SOON)).await;
    broker.freeze();
    let heir = house.instance(Terms::default()).await;
    acked(one.as_ref(), 10).await;
    one.append(11, lines(1, 11..=12)).await.unwrap();
    heir.insert(&delivery).await; // The frozen one's insert.
    crate::broker::Broker::stored(broker.as_ref(), delivery).await;
    acked(one.as_ref(), 12).await;
    in_time(one.close(ending(12, OK))).await.unwrap();
    let stored = house.stored().await;
    check(&stored, &[(1, 12)]);
    assert_eq!((stored.len(), heir.position().await.stored), (13, 13));
}

pub(super) async fn workers_share_the_shards(house: House) {
    let terms = Terms { shards: 4, ..Terms::default() };
    let (a, b) = (house.start(terms).await.unwrap(), house.start(terms).await.unwrap());
    let shares =
        async |a: &crate::broker::redis::RedisBroker, b: &crate::broker::redis::RedisBroker, want: (usize, usize)| {
            wait::until("the shards to be spread", LIMIT, async || Ok(((a.held(), b.held()) == want).then_some(())))
                .await
                .unwrap();
        };
    shares(&a, &b, (2, 2)).await;
    in_time(crate::broker::Broker::leave(&b)).await;
    shares(&a, &b, (4, 0)).await;
}

pub(super) async fn acks_reach_an_instance_without_worker(house: House) {
    let ingest = house.bare(NO_WORKER).await;
    let mut one = ingest.open(1).await;
    one.append(1, lines(1, 1..=5)).await.unwrap();
    let _worker = house.instance(Terms::default()).await;
    acked(one.as_ref(), 5).await;
    in_time(one.close(ending(5, OK))).await.unwrap();
}

pub(super) async fn nothing_is_left_in_the_queue(house: House) {
    let instance = house.instance(Terms::default()).await;
    let mut session = in_time(send_all(Arc::clone(&instance.broker), 1, 500, 10)).await;
    in_time(session.close(ending(500, OK))).await.unwrap();
    let servers = house.durable();
    wait::until("an empty queue", LIMIT, async || {
        let (mut left, mut expires) = (String::new(), servers.is_empty());
        for server in &servers {
            for key in server.command(&["KEYS", "logs:*"])?.lines() {
                match key.split(':').nth(1) {
                    Some("stream") => left += &server.command(&["XLEN", key])?.replace('0', ""),
                    Some("bytes" | "leases" | "dirty") => left += key,
                    Some("meta") => expires = server.command(&["PTTL", key])?.parse::<i64>()? > 0,
                    _ => {}
                }
            }
        }
        Ok((left.is_empty() && expires).then_some(()))
    })
    .await
    .unwrap();
}
