use flowforge_storage::{LogRecord, TaskKey};

use super::*;

fn batch(first: u64, last: u64) -> Arc<Batch> {
    let record = |offset| LogRecord {
        offset,
        epoch: 1,
        producer: ProducerId([1; 16]),
        seq: offset,
        time_ns: 0,
        created_at_ms: 0,
        stream: Stream::Stdout,
        level: 0,
        message: Bytes::from_static(b"line"),
        fields: Bytes::new(),
        update_id: offset,
        continued: false,
        no_newline: false,
    };
    let task = TaskKey::new("", "t").unwrap();
    Arc::new(Batch::new(task, ProducerId([1; 16]), (first..=last).map(record).collect()))
}

fn offsets(read: &FeedRead) -> Vec<(u64, u64)> {
    read.batches.iter().map(|batch| (batch.first(), batch.last())).collect()
}

#[test]
fn a_read_begins_at_the_offset_asked_for_or_returns_nothing() {
    let feed = Feed::new(0);
    for (first, last) in [(4, 6), (7, 7), (8, 9)] {
        feed.push(batch(first, last));
    }
    assert_eq!(offsets(&feed.read(5, usize::MAX)), [(4, 6), (7, 7), (8, 9)]);
    assert_eq!(offsets(&feed.read(7, 1)), [(7, 7)]);
    assert!(feed.read(3, usize::MAX).batches.is_empty(), "before the window");
    assert!(feed.read(10, usize::MAX).batches.is_empty(), "beyond the end");
}

#[test]
fn what_is_not_stored_stays_and_what_is_stored_stays_only_while_someone_watches() {
    let feed = Arc::new(Feed::new(usize::MAX));
    feed.push(batch(1, 2));
    feed.push(batch(3, 4));
    let viewer = Subscription::new(Arc::clone(&feed));
    feed.trim(2);
    assert_eq!(offsets(&feed.read(1, usize::MAX)), [(1, 2), (3, 4)]);
    drop(viewer);
    feed.trim(3);
    assert_eq!(offsets(&feed.read(3, usize::MAX)), [(3, 4)], "offset 4 is not stored");
    assert!(feed.read(1, usize::MAX).batches.is_empty());
}

#[tokio::test]
async fn no_change_between_look_and_wait_is_missed() {
    let feed = Arc::new(Feed::new(0));
    let mut viewer = Subscription::new(Arc::clone(&feed));
    viewer.mark_seen();
    feed.wake();
    tokio::time::timeout(std::time::Duration::from_secs(5), viewer.changed()).await.unwrap();
}

#[test]
fn a_frame_is_shown_until_its_line_comes() {
    let feed = Arc::new(Feed::new(0));
    let frame = |update_id| FrameEvent {
        producer: ProducerId([1; 16]),
        update_id,
        stream: Stream::Stdout,
        message: Bytes::from_static(b"50%"),
    };
    feed.push_frame(frame(1));
    assert!(feed.frames_after(0).0.is_empty(), "nobody watches");
    let _viewer = Subscription::new(Arc::clone(&feed));
    feed.push_frame(frame(1));
    feed.push_frame(frame(2));
    let (frames, seen) = feed.frames_after(0);
    assert_eq!(frames.iter().map(|frame| frame.update_id).collect::<Vec<_>>(), [1, 2]);
    assert!(feed.frames_after(seen).0.is_empty());
    feed.push(batch(1, 1)); // The final line of bar 1.
    assert_eq!(feed.frames_after(0).0.iter().map(|frame| frame.update_id).collect::<Vec<_>>(), [2]);
    (3..100).for_each(|id| feed.push_frame(frame(id)));
    assert!(feed.frames_after(0).0.len() <= MAX_FRAMES);
}
