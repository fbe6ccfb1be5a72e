//! Redis loses its memory, restarts, stands still, or has no room.

use std::sync::Arc;
use std::time::Duration;

use flowforge_storage::TaskStatus;
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_test_services::wait;
use rustix::process::Signal;

use super::house::{House, LIMIT, Servers, Terms, in_time};
use super::sending::{OK, acked, check, ending, lines, send_all, task};
use crate::broker::BrokerError;

/// Sends while `fault` happens, and checks that nothing is missing, twice, or seen in another order.
async fn through(mut house: House, fault: impl AsyncFnOnce(&mut House)) {
    let (a, b) = (house.instance(Terms::default()).await, house.instance(Terms::default()).await);
    let viewers = [a.follow(), b.follow()];
    let senders: Vec<_> = (1..=2)
        .map(|number| {
            let broker = Arc::clone(if number == 1 { &a.broker } else { &b.broker });
            tokio::spawn(send_all(broker, number, 4000, 5))
        })
        .collect();
    a.position_where("lines", |position| position.stored > 300).await;
    fault(&mut house).await;
    let mut sessions = Vec::new();
    for sender in senders {
        sessions.push(tokio::time::timeout(3 * LIMIT, sender).await.unwrap().unwrap());
    }
    for session in &mut sessions {
        in_time(session.close(ending(4000, OK))).await.unwrap();
    }
    let stored = house.stored().await;
    check(&stored, &[(1, 4000), (2, 4000)]);
    for viewer in viewers {
        assert!(in_time(viewer).await.unwrap() == stored, "every viewer ends with what is stored");
    }
}

pub(super) async fn everything_is_lost(house: House) {
    through(house, async |house| {
        for server in house.durable() {
            server.command(&["FLUSHALL"]).unwrap();
        }
    })
    .await;
}

/// Its stream has to be ended, so that it says Hello again; nobody else would begin the new epoch of a silent producer.
pub(super) async fn everything_is_lost_while_nobody_sends(house: House) {
    if house.durable().is_empty() {
        return;
    }
    let terms = Terms { lease: Duration::from_secs(1), ..Terms::default() };
    let instance = house.instance(terms).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=3)).await.unwrap();
    acked(one.as_ref(), 3).await;
    let before = instance.position().await.epoch();
    house.durable()[0].command(&["FLUSHALL"]).unwrap();
    let mut progress = one.progress();
    in_time(progress.wait_for(|_| false)).await.unwrap_err();
    drop(one);
    let position = instance.position_where("the lost producer's end", |position| position.ended().is_some()).await;
    let (after, end) = (position.epoch(), position.ended().unwrap());
    assert!(after.epoch > before.epoch && after.base == 3, "{after:?}");
    assert_eq!((end.status, end.lines), (TaskStatus::Lost, 3));
}

pub(super) async fn an_ended_task_is_served_from_the_store(house: House) {
    if house.durable().is_empty() {
        return;
    }
    let instance = house.instance(Terms::default()).await;
    let mut one = in_time(send_all(Arc::clone(&instance.broker), 1, 20, 20)).await;
    in_time(one.close(ending(20, OK))).await.unwrap();
    drop((one, instance));
    house.durable()[0].command(&["FLUSHALL"]).unwrap();
    let instance = house.instance(Terms { worker: false, ..Terms::default() }).await;
    let seen = in_time(instance.follow()).await.unwrap();
    assert!(seen == house.stored().await && seen.len() == 21);
    assert_eq!(instance.position().await.ended().unwrap().offset, 21);
    assert_eq!(house.durable()[0].command(&["KEYS", "logs:meta:*"]).unwrap(), "", "readers write nothing");
    let mut two = instance.open(2).await;
    two.append(1, lines(2, 1..=1)).await.unwrap();
    let position = instance.position().await;
    assert_eq!((position.end, position.record.unwrap().attempt), (22, 2));
}

pub(super) async fn restarted_with_its_data(house: House) {
    if house.durable().is_empty() {
        return;
    }
    through(house, async |house| {
        let redis = house.one().unwrap();
        redis.kill9().unwrap();
        redis.restart().await.unwrap();
    })
    .await;
}

pub(super) async fn restarted_without_data(house: House) {
    if house.durable().is_empty() {
        return;
    }
    through(house, async |house| {
        let redis = house.one().unwrap();
        redis.kill9().unwrap();
        std::fs::remove_dir_all(redis.dir().join("appendonlydir")).unwrap();
        redis.restart().await.unwrap();
    })
    .await;
}

pub(super) async fn frozen_for_a_while(house: House) {
    if house.durable().is_empty() {
        return;
    }
    through(house, async |house| {
        let redis = house.one().unwrap();
        redis.signal(Signal::STOP).unwrap();
        tokio::time::sleep(Duration::from_secs(7)).await; // Past every timeout.
        redis.signal(Signal::CONT).unwrap();
    })
    .await;
}

pub(super) async fn the_master_dies(house: House) {
    through(house, async |house| {
        let Servers::Sentinel(sentinel) = &mut house.servers else { panic!("no Sentinel") };
        sentinel.fail_over().await.unwrap();
    })
    .await;
}

pub(super) async fn out_of_memory(house: House) {
    if house.durable().is_empty() {
        return;
    }
    let terms = Terms { patience: Duration::from_millis(500), ..Terms::default() };
    let instance = house.instance(terms).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=3)).await.unwrap();
    acked(one.as_ref(), 3).await;
    let redis = house.durable()[0];
    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).unwrap();
    let refused = one.append(4, lines(1, 4..=5)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::QueueFull(_)), "{refused}");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    one.append(4, lines(1, 4..=5)).await.unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).unwrap();
    acked(one.as_ref(), 5).await;
    in_time(one.close(ending(5, OK))).await.unwrap(); // What frees memory goes through.
    check(&house.stored().await, &[(1, 5)]);
}

pub(super) async fn an_unreadable_entry(house: House) {
    if house.durable().is_empty() {
        return;
    }
    let instance = house.instance(Terms { shards: 1, ..Terms::default() }).await;
    let redis = house.durable()[0];
    redis.command(&["XADD", "logs:stream", "*", "h", "of another time", "d", "x"]).unwrap();
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=3)).await.unwrap();
    acked(one.as_ref(), 3).await;
    wait::until("a dead letter and an empty queue", LIMIT, async || {
        let dead = redis.command(&["XLEN", "logs:dead:{logs:stream}"])?;
        let queued = redis.command(&["XLEN", "logs:stream"])?;
        Ok((dead == "1" && queued == "0").then_some(()))
    })
    .await
    .unwrap();
}

pub(super) async fn a_refused_row_is_a_dead_letter(house: House) {
    if house.durable().is_empty() {
        return;
    }
    let instance = house.instance(Terms { shards: 1, ..Terms::default() }).await;
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=1)).await.unwrap();
    acked(one.as_ref(), 1).await;
    let row = house.stored().await.remove(0);
    instance.broker.refused(&task(), &row, "no reason").await;
    let letters = house.durable()[0].command(&["XRANGE", "logs:dead:{logs:stream}", "-", "+"]).unwrap();
    for words in ["task", &task().to_string(), "no reason", &format!("\"seq\":{}", row.seq)] {
        assert!(letters.contains(words), "{words} is not in {letters}");
    }
}

/// Written behind the ack, by the worker, so it is waited for.
pub(super) async fn the_state_of_a_task_is_shown(house: House) {
    if house.durable().is_empty() {
        return;
    }
    let instance = house.instance(Terms { shards: 1, ..Terms::default() }).await;
    let key = format!("logs:state:{{logs:stream}}:{}", task());
    let redis = house.durable()[0];
    let shown = async |field: &str, value: &str| {
        wait::until("the state", LIMIT, async || Ok((redis.command(&["HGET", &key, field])? == value).then_some(())))
            .await
            .unwrap();
    };
    let mut one = instance.open(1).await;
    one.append(1, lines(1, 1..=3)).await.unwrap();
    shown("lines", "3").await;
    shown("status", "running").await;
    let last = house.stored().await.pop().unwrap();
    shown("last_line", &String::from_utf8_lossy(&last.message)).await;
    in_time(one.close(ending(3, OK))).await.unwrap();
    shown("status", "succeeded").await;
    let lives: u64 = redis.command(&["TTL", &key]).unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&lives), "{lives}");
}

pub(super) async fn start_checks(mut house: House) {
    if house.durable().is_empty() {
        return;
    }
    let said = async |house: &House, terms: Terms| house.start(terms).await.err().map(|error| error.to_string());
    assert_eq!(said(&house, Terms::default()).await, None);
    let words = said(&house, Terms { shards: 3, ..Terms::default() }).await.unwrap();
    assert!(words.contains("queue.shards is 3") && words.contains("Set queue.shards to 2"), "{words}");
    house.durable()[0].command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let words = said(&house, Terms::default()).await.unwrap();
    assert!(words.contains("allkeys-lru") && words.contains("noeviction"), "{words}");
    house.one().unwrap().kill9().unwrap();
    let words = said(&house, Terms::default()).await.unwrap();
    assert!(words.contains("cannot reach Redis") && words.contains("set redis.url"), "{words}");
    assert!(house.store.task(&task()).await.unwrap().is_none());
    drop(Redis::start(Persistence::None).await.unwrap());
}
