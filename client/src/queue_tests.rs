use proptest::prelude::*;

use super::*;
use crate::entry::Stream;

fn entry(size: usize) -> Entry {
    Entry::new(Stream::Stdout, vec![b'x'; size])
}

const LIMITS: BatchLimits = BatchLimits { lines: 4, bytes: 1 << 20, entry_bytes: 1 << 20 };

/// (first, last) seq of every entry of a batch, and whether it is a dropped run.
fn spans(batch: &v1::LogBatch) -> Vec<(u64, u64, bool)> {
    let mut seq = batch.first_seq;
    batch
        .entries
        .iter()
        .map(|entry| {
            let first = seq;
            seq += entry.dropped.as_ref().map_or(1, |dropped| dropped.lines);
            (first, seq - 1, entry.dropped.is_some())
        })
        .collect()
}

fn spooled_queue(dir: &tempfile::TempDir, bytes: u64) -> Queue {
    let hello = v1::Hello { task_id: "t".into(), producer: vec![1; 16].into(), ..v1::Hello::default() };
    let meta = crate::spool::Meta { hello, server: String::new() };
    Queue::with_spool(crate::spool::ring::Ring::create(dir.path(), &meta, bytes).unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    PushDropped,
    Drop,
    Send(usize),
    /// Ack up to this share of what was sent.
    Ack(prop::sample::Index),
    SendFrom(prop::sample::Index),
    Refuse(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..300).prop_map(Step::Push),
        1 => Just(Step::PushDropped),
        2 => Just(Step::Drop),
        3 => (1_usize..6).prop_map(Step::Send),
        2 => any::<prop::sample::Index>().prop_map(Step::Ack),
        1 => any::<prop::sample::Index>().prop_map(Step::SendFrom),
        1 => any::<prop::sample::Index>().prop_map(Step::Refuse),
    ]
}

/// Every item's numbers follow the one before, and the sums are what the items say.
fn check(queue: &Queue) -> Result<(), TestCaseError> {
    let mut next = queue.first_seq();
    let (mut bytes, mut lines, mut wire) = (0, 0, 0);
    for item in queue.sent.iter().chain(&queue.unsent) {
        prop_assert_eq!(item.first_seq, next);
        next += item.lines();
        bytes += item.cost();
        lines += u64::from(matches!(item.body, Body::Line(_))) + item.spooled();
    }
    let mut spooled = 0;
    for item in &queue.unsent {
        wire += item.wire_bytes();
        spooled += item.spooled();
    }
    prop_assert_eq!(spooled, queue.unsent_spooled);
    prop_assert_eq!(next, queue.next_seq);
    prop_assert_eq!(bytes, queue.bytes);
    prop_assert_eq!(lines, queue.lines);
    prop_assert_eq!(wire, queue.unsent_wire_bytes);
    Ok(())
}

proptest! {
    /// Against a server that keeps what it gets: every number is stored once, as a line or within a dropped record.
    #[test]
    fn every_number_arrives_as_a_line_or_as_a_counted_loss(
        steps in proptest::collection::vec(step(), 1..120),
        spool in any::<bool>(),
    ) {
        let dir = tempfile::TempDir::new().unwrap();
        let mut queue = if spool { spooled_queue(&dir, 4096) } else { Queue::default() };
        // What the server has: index = seq - 1, true = the line itself.
        let mut server: Vec<bool> = Vec::new();
        let mut stored = 0_u64;
        let receive = |server: &mut Vec<bool>, batch: &v1::LogBatch| -> Result<(), TestCaseError> {
            for (first, last, dropped) in spans(batch) {
                prop_assert!(first <= server.len() as u64 + 1, "hole before {}", first);
                for seq in first.max(server.len() as u64 + 1)..=last {
                    prop_assert_eq!(seq, server.len() as u64 + 1);
                    server.push(!dropped);
                }
            }
            Ok(())
        };
        for step in steps {
            match step {
                Step::Push(size) => {
                    while spool && !queue.fits(entry(size).cost(), usize::MAX) {
                        prop_assert!(queue.drop_oldest());
                    }
                    prop_assert!(!spool || queue.is_spooling());
                    queue.push(entry(size));
                }
                Step::PushDropped => { queue.push_dropped(entry(7)); }
                Step::Drop => {
                    let before = queue.lines();
                    prop_assert_eq!(queue.drop_oldest(), before > 0);
                    // A spool may give way to a line by letting go of the record of a loss.
                    prop_assert!(queue.lines() == before.saturating_sub(1) || spool && queue.lines() == before);
                }
                Step::Send(lines) => {
                    if let Some(batch) = queue.take_batch(BatchLimits { lines, ..LIMITS }) {
                        receive(&mut server, &batch)?;
                    }
                }
                Step::Ack(at) => {
                    stored = stored.max(at.index(server.len() + 1) as u64);
                    queue.ack(stored);
                    prop_assert_eq!(queue.first_seq(), stored + 1);
                }
                Step::SendFrom(at) => {
                    // The server lost what it had not stored.
                    let keep = stored + at.index((server.len() as u64 - stored) as usize + 1) as u64;
                    server.truncate(keep as usize);
                    queue.send_from(keep + 1);
                    prop_assert_eq!(queue.next_unsent_seq(), keep + 1);
                }
                Step::Refuse(at) => { queue.refuse(at.index(queue.last_seq() as usize + 1) as u64); }
            }
            check(&queue)?;
        }
        while let Some(batch) = queue.take_batch(LIMITS) {
            receive(&mut server, &batch)?;
        }
        queue.ack(u64::MAX);
        check(&queue)?;
        prop_assert!(server.iter().filter(|is_line| !**is_line).count() as u64 <= queue.dropped_lines());
        prop_assert_eq!(server.len() as u64, queue.last_seq());
        prop_assert_eq!(queue.bytes(), 0);
        prop_assert_eq!(queue.lines(), 0);
    }
}

#[test]
fn the_oldest_unsent_line_goes_first_and_runs_join() {
    let mut queue = Queue::default();
    for _ in 0..8 {
        queue.push(entry(10));
    }
    queue.take_batch(LIMITS);
    queue.drop_oldest();
    queue.drop_oldest();
    let batch = queue.take_batch(LIMITS).expect("unsent entries");
    assert_eq!(spans(&batch), [(5, 6, true), (7, 7, false), (8, 8, false)]);
    assert_eq!(batch.entries[0].dropped, Some(v1::Dropped { lines: 2, bytes: 20 }));
    assert_eq!((queue.dropped_lines(), queue.dropped_bytes()), (2, 20));
    // Nothing is unsent now: the oldest of all goes.
    assert!(queue.drop_oldest());
    queue.send_from(1);
    let batch = queue.take_batch(LIMITS).expect("gone back");
    assert_eq!(spans(&batch)[..2], [(1, 1, true), (2, 2, false)]);
}

#[test]
fn a_line_dropped_after_it_was_sent_is_no_loss_once_it_is_acked() {
    let mut queue = Queue::default();
    for _ in 0..4 {
        queue.push(entry(10));
    }
    queue.take_batch(LIMITS);
    queue.drop_oldest();
    queue.drop_oldest();
    assert_eq!(queue.dropped_lines(), 2);
    queue.ack(4);
    assert_eq!((queue.dropped_lines(), queue.dropped_bytes(), queue.bytes()), (0, 0, 0));
}

#[test]
fn a_run_is_cut_where_the_server_already_has_its_lines() {
    let mut queue = Queue::default();
    for _ in 0..4 {
        queue.push(entry(10));
    }
    queue.take_batch(LIMITS);
    for _ in 0..4 {
        queue.drop_oldest();
    }
    queue.send_from(3);
    let batch = queue.take_batch(LIMITS).expect("half a run");
    assert_eq!(spans(&batch), [(3, 4, true)]);
    assert_eq!(batch.entries[0].dropped, Some(v1::Dropped { lines: 2, bytes: 20 }));
    queue.ack(4);
    assert_eq!(queue.dropped_lines(), 2);
}

#[test]
fn batches_keep_their_limits() {
    let mut queue = Queue::default();
    for size in [100, 100, 100, 5000, 100] {
        queue.push(entry(size));
    }
    let limits = BatchLimits { lines: 10, bytes: 400, entry_bytes: 2000 };
    let sizes = |batch: Option<v1::LogBatch>| batch.map(|batch| spans(&batch)).unwrap_or_default();
    assert_eq!(sizes(queue.take_batch(limits)), [(1, 1, false), (2, 2, false)]);
    assert_eq!(sizes(queue.take_batch(limits)), [(3, 3, false)]);
    // Too large for any message: given up, and said so.
    assert_eq!(sizes(queue.take_batch(limits)), [(4, 4, true), (5, 5, false)]);
    assert_eq!(queue.dropped_lines(), 1);
    assert!(queue.take_batch(limits).is_none());
}

#[test]
fn a_refused_line_becomes_a_counted_loss_in_place() {
    let mut queue = Queue::default();
    for _ in 0..5 {
        queue.push(entry(10));
    }
    queue.take_batch(LIMITS);
    assert!(queue.refuse(3));
    assert!(!queue.refuse(3) && !queue.refuse(9));
    queue.send_from(2);
    let batch = queue.take_batch(LIMITS).expect("gone back");
    assert_eq!(spans(&batch), [(2, 2, false), (3, 3, true), (4, 4, false), (5, 5, false)]);
}

#[test]
fn a_spooled_queue_gives_way_to_newer_lines_and_counts() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut queue = spooled_queue(&dir, 4096);
    for _ in 0..100 {
        while !queue.fits(entry(100).cost(), usize::MAX) {
            assert!(queue.drop_oldest());
        }
        queue.push(entry(100));
    }
    let held = queue.lines();
    assert!(held > 20 && queue.bytes() < 200, "{held} lines in the ring, {} bytes in memory", queue.bytes());
    assert_eq!((queue.dropped_lines(), queue.dropped_bytes()), (100 - held, 100 * (100 - held)));
    let batch = queue.take_batch(BatchLimits { lines: 1000, ..LIMITS }).expect("lines");
    assert_eq!(batch.entries.len() as u64, held + 1);
    assert_eq!(batch.entries[0].dropped, Some(v1::Dropped { lines: 100 - held, bytes: 100 * (100 - held) }));
    // What was sent can be sent again, and needs no memory for that.
    queue.send_from(50);
    assert_eq!(queue.next_unsent_seq(), 50);
    assert!(!queue.ack(0) && queue.ack(100));
    assert_eq!((queue.lines(), queue.spool_bytes(), queue.bytes()), (0, 0, 0));
    let (left, path) = queue.leave_spool(spooled::LeftAs::Unfinished).unwrap();
    assert!(left == 0 && path.exists());
}
