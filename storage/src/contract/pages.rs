//! Pages: contiguous both ways, cut by lines and by bytes, filtered as [`LogFilter::matches`] says.

use super::sample::{Random, insert, key, line, lines};
use crate::{Direction, LogFilter, LogRecord, LogStore, Page, ReadQuery, Stream, StreamSet};

const LINES: u64 = 100;

async fn read(store: &dyn LogStore, query: &ReadQuery) -> Page {
    let page = store.read(&key("t"), query).await.expect("read");
    assert!(page.records.len() <= query.limit.max(1), "{query:?}");
    assert!(page.records.is_sorted_by(|a, b| a.offset < b.offset), "{query:?}");
    page
}

/// Every page of the query, in the order in which they were read.
async fn all(store: &dyn LogStore, mut query: ReadQuery) -> Vec<Vec<LogRecord>> {
    let mut pages = Vec::new();
    for _ in 0..=2 * LINES {
        let page = read(store, &query).await;
        pages.push(page.records);
        match (page.next, query.direction) {
            (None, _) => return pages,
            (Some(next), Direction::Forward) => query.from = next,
            (Some(next), Direction::Backward) => query.to = next,
        }
    }
    panic!("the pages never end");
}

fn offsets(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.offset).collect()
}

/// No lines, and nothing to go on with.
pub async fn unknown_task_is_empty(store: &dyn LogStore) {
    for query in [ReadQuery::forward(1, 10, 10), ReadQuery::backward(0, u64::MAX, 10, LogFilter::default())] {
        let page = read(store, &query).await;
        assert_eq!((page.records, page.next), (vec![], None));
    }
}

/// From the first line to the last.
pub async fn forward(store: &dyn LogStore) {
    insert(store, &key("t"), &lines(1..=LINES)).await;
    let pages = all(store, ReadQuery::forward(0, u64::MAX, 7)).await;
    assert_eq!(pages.concat(), lines(1..=LINES));
    assert!(pages[..pages.len() - 2].iter().all(|page| page.len() == 7));
}

/// From the last line to the first, each page ascending.
pub async fn backward(store: &dyn LogStore) {
    insert(store, &key("t"), &lines(1..=LINES)).await;
    let mut pages = all(store, ReadQuery::backward(0, u64::MAX, 7, LogFilter::default())).await;
    assert_eq!(offsets(&pages[0]), [94, 95, 96, 97, 98, 99, 100]);
    pages.reverse();
    assert_eq!(pages.concat(), lines(1..=LINES));
}

/// `next` is there as long as lines are.
pub async fn limits(store: &dyn LogStore) {
    insert(store, &key("t"), &lines(1..=10)).await;
    let page = read(store, &ReadQuery::forward(1, 10, 4)).await;
    assert_eq!((offsets(&page.records), page.next), (vec![1, 2, 3, 4], Some(5)));
    let page = read(store, &ReadQuery::backward(1, 10, 4, LogFilter::default())).await;
    assert_eq!((offsets(&page.records), page.next), (vec![7, 8, 9, 10], Some(6)));
    let page = read(store, &ReadQuery::forward(1, 10, 10)).await;
    assert_eq!((page.records.len(), page.next), (10, None));
    let page = read(store, &ReadQuery::forward(1, 20, 11)).await;
    assert_eq!((page.records.len(), page.next), (10, None));
    let page = read(store, &ReadQuery::forward(1, 10, usize::MAX)).await;
    assert_eq!((page.records.len(), page.next), (10, None));
}

/// The page ends with the line that goes over; a line longer than the limit still comes.
pub async fn bytes(store: &dyn LogStore) {
    let sized = |line: LogRecord| LogRecord { message: vec![b'x'; 100].into(), ..line };
    insert(store, &key("t"), &lines(1..=10).into_iter().map(sized).collect::<Vec<_>>()).await;
    for (max_bytes, expected) in [(0, 1), (1, 1), (99, 1), (100, 2), (250, 3), (999, 10), (1000, 10)] {
        let forward = ReadQuery { max_bytes, ..ReadQuery::forward(1, 10, 100) };
        let page = read(store, &forward).await;
        assert_eq!(page.records.len(), expected, "max_bytes {max_bytes}");
        assert_eq!(page.next, (expected < 10).then_some(expected as u64 + 1));
        assert_eq!(offsets(&all(store, forward).await.concat()).len(), 10);
        let backward = ReadQuery { max_bytes, ..ReadQuery::backward(1, 10, 100, LogFilter::default()) };
        let page = read(store, &backward).await;
        assert_eq!(page.next, (expected < 10).then_some(10 - expected as u64));
    }
}

/// Both ends are inclusive; a range without lines is read to its end.
pub async fn ranges(store: &dyn LogStore) {
    insert(store, &key("t"), &lines(1..=10)).await;
    for (from, to, expected) in
        [(3, 5, vec![3, 4, 5]), (7, 7, vec![7]), (0, 1, vec![1]), (11, 20, vec![]), (5, 4, vec![])]
    {
        for direction in [Direction::Forward, Direction::Backward] {
            let page = read(store, &ReadQuery { direction, ..ReadQuery::forward(from, to, 10) }).await;
            assert_eq!((offsets(&page.records), page.next), (expected.clone(), None), "{from}..={to} {direction:?}");
        }
    }
}

/// Random lines under random filters.
pub async fn filters_agree_with_matches(store: &dyn LogStore) {
    let mut random = Random::new(11);
    let records: Vec<_> = (1..=LINES).map(|offset| random_line(&mut random, offset)).collect();
    insert(store, &key("t"), &records).await;
    for _ in 0..200 {
        let filter = random_filter(&mut random);
        let expected: Vec<_> = records.iter().filter(|record| filter.matches(record)).cloned().collect();
        let query = ReadQuery { filter: filter.clone(), ..ReadQuery::forward(1, LINES, 1 + random.below(30) as usize) };
        assert_eq!(all(store, query.clone()).await.concat(), expected, "{query:?}");
        let mut pages = all(store, ReadQuery { direction: Direction::Backward, ..query.clone() }).await;
        pages.reverse();
        assert_eq!(pages.concat(), expected, "{query:?}");
    }
}

/// A filter looks at what a terminal shows of a line, whatever colours begin within a word; and pages miss none of them.
pub async fn filters_see_through_colours(store: &dyn LogStore) {
    let coloured = |line: LogRecord| match line.offset % 4 {
        0 => LogRecord { message: "\x1b[31mer\x1b[0mror".into(), ..line },
        1 => LogRecord { message: "\x1b[1m\u{c9}\x1b[mCOLE".into(), ..line },
        2 => LogRecord { message: "\x1b[31mnothing\x1b[0m".into(), ..line },
        _ => line,
    };
    let records: Vec<_> = lines(1..=LINES).into_iter().map(coloured).collect();
    insert(store, &key("t"), &records).await;
    for (text, rest) in [("Error", 0), ("\u{e9}cole", 1), ("THIN", 2)] {
        let expected: Vec<_> = (1..=LINES).filter(|offset| offset % 4 == rest).collect();
        let filter = LogFilter::default().contains(text);
        let forward = ReadQuery { filter: filter.clone(), ..ReadQuery::forward(1, LINES, 7) };
        assert_eq!(offsets(&all(store, forward).await.concat()), expected, "{text}");
        let mut pages = all(store, ReadQuery::backward(1, LINES, 7, filter)).await;
        pages.reverse();
        assert_eq!(offsets(&pages.concat()), expected, "{text}");
    }
    let filter = LogFilter::default().contains("[31m");
    assert_eq!(all(store, ReadQuery { filter, ..ReadQuery::forward(1, LINES, 7) }).await.concat(), []);
}

/// A rare line far away is found in one read, or the page says where to go on.
pub async fn filtered_pages_skip_nothing(store: &dyn LogStore) {
    let needle = LogRecord { message: "a NEEDLE".into(), ..line(4999) };
    insert(store, &key("t"), &[lines(1..=4998), vec![needle], lines(5000..=5000)].concat()).await;
    let filter = LogFilter::default().contains("needle");
    let query = ReadQuery { filter, ..ReadQuery::forward(1, u64::MAX, 10) };
    assert_eq!(offsets(&all(store, query).await.concat()), [4999]);
}

fn random_line(random: &mut Random, offset: u64) -> LogRecord {
    const TEXTS: [&[u8]; 8] = [
        b"ok",
        b"OK done",
        "\u{c9}COLE".as_bytes(),
        "une \u{e9}cole".as_bytes(),
        b"100%_\\'",
        b"\xff ok",
        b"",
        b"a\0B",
    ];
    LogRecord {
        level: random.below(25) as u8,
        stream: *random.pick(&Stream::ALL),
        message: random.pick(&TEXTS).to_vec().into(),
        ..line(offset)
    }
}

fn random_filter(random: &mut Random) -> LogFilter {
    const NEEDLES: [&str; 8] = ["", "ok", "\u{e9}cole", "%", "_\\", "'", "\u{fffd}", "a\0b"];
    let mut streams = StreamSet::default();
    for stream in Stream::ALL {
        if random.below(3) == 0 {
            streams = streams.with(stream);
        }
    }
    let mut filter = LogFilter::default().contains(random.pick::<&str>(&NEEDLES));
    filter.min_level = (random.below(2) == 0).then(|| random.below(26) as u8);
    filter.streams = streams;
    filter
}
