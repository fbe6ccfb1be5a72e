//! The tail against a plain list, over random histories: whatever happens between two steps of a reader, in the end it holds
//! what is true, once and in order.

mod relay;
mod site;
mod viewer;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use flowforge_storage::{LogStore, Stream, StreamSet};
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use self::site::{Row, Site};
use self::viewer::Viewer;
use super::{Begin, LogFilter, Tail};
use crate::broker::Broker;
use crate::proof::Prover;

/// Bytes of one live write: a few lines.
const WRITE_BYTES: usize = 1_500;

/// How long a reader may take to catch up; it takes milliseconds.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Op {
    Append(u8),
    Close,
    /// So many lines at most become durable.
    Commit(usize),
    TellStored,
    Sweep,
    /// And with it the viewers' connections, if they were to the same process.
    Crash {
        cuts: bool,
    },
    /// This share of the stored lines goes.
    Delete(prop::sample::Index),
    Step {
        viewer: usize,
        times: u8,
    },
    Leave {
        viewer: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1..12u8).prop_map(Op::Append),
        1 => Just(Op::Close),
        4 => (1..20usize).prop_map(Op::Commit),
        4 => Just(Op::TellStored),
        1 => Just(Op::Sweep),
        2 => any::<bool>().prop_map(|cuts| Op::Crash { cuts }),
        1 => any::<prop::sample::Index>().prop_map(Op::Delete),
        12 => (0..3usize, 1..12u8).prop_map(|(viewer, times)| Op::Step { viewer, times }),
        2 => (0..3usize).prop_map(|viewer| Op::Leave { viewer }),
    ];
    prop::collection::vec(op, 1..120)
}

fn begin() -> impl Strategy<Value = Begin> {
    prop_oneof![Just(Begin::From(1)), (0..9u64).prop_map(Begin::Last), (2..40u64).prop_map(Begin::From),]
}

/// A filter, and what it means.
fn filter(number: usize) -> (LogFilter, fn(&Row) -> bool) {
    let mut filter = LogFilter::default();
    match number {
        0 | 1 => (filter, |_| true),
        2 => {
            filter.streams = StreamSet::default().with(Stream::Stderr);
            (filter, |row| row.stream == Stream::Stderr)
        }
        3 => {
            filter.min_level = Some(13);
            (filter, |row| row.level >= 13)
        }
        _ => (filter.contains("needle"), |row| row.message.contains("needle")),
    }
}

async fn run(op: &Op, site: &mut Site, viewers: &mut [Viewer]) {
    match op {
        Op::Append(count) => site.append(*count).await,
        Op::Close => site.close().await,
        Op::Commit(most) => site.commit(*most).await,
        Op::TellStored => site.tell_stored().await,
        Op::Sweep => site.sweep().await,
        Op::Crash { cuts } => {
            site.crash().await;
            viewers.iter_mut().filter(|_| *cuts).for_each(Viewer::leave);
        }
        Op::Delete(share) => site.store.delete_to(share.index(site.store.end() as usize + 1) as u64),
        Op::Step { viewer, times } => {
            for _ in 0..*times {
                let over = poll_fn(|cx| Poll::Ready(viewers[*viewer].poll(cx))).await;
                if over.is_ready() {
                    break;
                }
            }
        }
        Op::Leave { viewer } => viewers[*viewer].leave(),
    }
}

async fn play(ops: &[Op], readers: &[(Begin, usize)]) {
    let mut site = Site::new().await;
    let (broker, store) = (Arc::clone(&site.relay) as Arc<dyn Broker>, Arc::clone(&site.store) as Arc<dyn LogStore>);
    let prover = Prover::new(site.relay.hasty(), Arc::clone(&store));
    let heartbeat = Duration::from_secs(20);
    let tail = Arc::new(Tail::new(broker, store, prover, WRITE_BYTES, heartbeat, CancellationToken::new()));
    let viewer = |(begin, number): &(Begin, usize)| {
        let (filter, wants) = filter(*number);
        Viewer::new(&tail, *begin, filter, wants)
    };
    let mut viewers: Vec<Viewer> = readers.iter().map(viewer).collect();
    for op in ops {
        run(op, &mut site, &mut viewers).await;
        // Or the runtime would hold this task back in the middle of the next one.
        tokio::task::yield_now().await;
    }
    site.finish().await;
    // All at once: one that stands still in the middle of reading a page keeps the others, who share it, waiting.
    let end = site.truth.len() as u64;
    let all = join_all(viewers.iter_mut().map(|viewer| catch_up(viewer, end)));
    tokio::time::timeout(LIMIT, all).await.expect("the readers catch up");
    for viewer in &viewers {
        viewer.check(&site.truth, site.store.deleted());
    }
}

/// One that is told of an earlier end comes back for what came after it; and then it comes back once more.
async fn catch_up(viewer: &mut Viewer, end: u64) {
    for _ in 0..2 {
        viewer.end = 0;
        while viewer.end != end {
            poll_fn(|cx| viewer.poll(cx)).await;
        }
        viewer.leave();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_reader_holds_what_is_true(
        ops in ops(),
        readers in prop::collection::vec((begin(), 0..5usize), 3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(play(&ops, &readers));
    }
}

/// The memory is lost between two steps of the last reader, and other lines stand at the offsets that it reads next. It leaves
/// right after the rollback: what it was shown before that must not say that it knows.
#[test]
fn a_reader_is_told_of_a_loss_before_it_is_shown_what_came_after() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (crash, step) = (|| Op::Crash { cuts: false }, |viewer, times| Op::Step { viewer, times });
    let first = [Op::Append(1), step(0, 6), Op::Commit(1), crash(), step(2, 3), Op::Append(2), step(2, 3)];
    let then = [crash(), Op::Append(2), Op::Commit(1), step(2, 3), Op::Append(1), Op::Append(1)];
    let ops = [first.as_slice(), then.as_slice(), &[Op::Leave { viewer: 2 }]].concat();
    runtime.block_on(play(&ops, &[(Begin::From(1), 0); 3]));
}

/// What it waits for is beyond the end, also of the epoch after a crash.
#[test]
fn a_reader_is_shown_nothing_before_the_line_that_it_waits_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let look = Op::Step { viewer: 0, times: 11 };
    let ops = [Op::Append(5), look.clone(), Op::Crash { cuts: false }, Op::Append(3), look];
    runtime.block_on(play(&ops, &[(Begin::From(8), 0)]));
}
