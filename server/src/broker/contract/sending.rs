//! What producers of a test send, and what must come of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flowforge_storage::{LogRecord, Stream};

use super::house::{LIMIT, in_time};
use crate::broker::samples;
pub(super) use crate::broker::samples::{OK, ending, producer, task};
use crate::broker::{Broker, BrokerError, DroppedRun, NewLine, ProducerHello, ProducerSession};

/// Waits until so many of the producer's lines are stored.
pub(super) async fn acked(session: &dyn ProducerSession, seq: u64) {
    let mut progress = session.progress();
    in_time(progress.wait_for(|progress| progress.stored_seq >= seq)).await.unwrap();
}

/// Sends lines 1 to `count` as a client does: after an error it says Hello again and sends what is not accepted.
pub(super) async fn send_all(broker: Arc<dyn Broker>, number: u8, count: u64, batch: u64) -> Box<dyn ProducerSession> {
    let give_up = tokio::time::Instant::now() + 2 * LIMIT;
    'hello: loop {
        assert!(tokio::time::Instant::now() < give_up, "producer {number} could not send everything");
        let Ok(mut session) = broker.open(hello(number)).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut next = session.welcome().queued_seq + 1;
        while next <= count {
            let last = (next + batch - 1).min(count);
            match session.append(next, lines(number, next..=last)).await {
                Ok(()) => next = last + 1,
                Err(BrokerError::Gap { expected_seq }) => next = expected_seq,
                Err(_) => continue 'hello,
            }
        }
        let mut progress = session.progress();
        match tokio::time::timeout(LIMIT, progress.wait_for(|progress| progress.stored_seq >= count)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => continue,
            Err(late) => panic!("{number} is not told that all is stored, {late}: {:?}", session.progress().borrow()),
        }
        return session;
    }
}

/// Every offset once, every producer's lines once and in order.
pub(super) fn check(rows: &[LogRecord], producers: &[(u8, u64)]) {
    for (row, offset) in rows.iter().zip(1..) {
        assert_eq!(row.offset, offset, "offsets are contiguous");
    }
    for (number, count) in producers {
        let id = producer(*number);
        let seqs: Vec<u64> = rows.iter().filter(|row| row.producer == id).map(|row| row.seq).collect();
        assert_eq!(seqs, (1..=*count).collect::<Vec<_>>(), "lines of producer {number}");
        for row in rows.iter().filter(|row| row.producer == id) {
            assert_eq!(row.message, message(*number, row.seq));
        }
    }
}

/// Of a workflow, which is to be kept.
pub(super) fn hello(number: u8) -> ProducerHello {
    ProducerHello { workflow_id: "w".to_owned(), ..samples::hello(number) }
}

fn message(number: u8, seq: u64) -> Bytes {
    // Not UTF-8 now and then.
    let mut text = format!("line {seq} of {number}").into_bytes();
    if seq.is_multiple_of(7) {
        text.push(0xff);
    }
    text.into()
}

pub(super) fn lines(number: u8, seqs: std::ops::RangeInclusive<u64>) -> Vec<NewLine> {
    let line = |seq| NewLine {
        time_ns: 1_700_000_000_000_000_000 + seq as i64,
        fields: if seq % 5 == 0 { Bytes::from_static(b"{\"a\": 1.0}") } else { Bytes::new() },
        ..samples::line(message(number, seq))
    };
    seqs.map(line).collect()
}

pub(super) fn dropped(lines: u64) -> NewLine {
    NewLine {
        stream: Stream::System,
        dropped: Some(DroppedRun { lines, bytes: 10 * lines }),
        ..self::lines(1, 1..=1).remove(0)
    }
}
