use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flowforge_proto::v1;
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use super::super::fuzz::{meta, upload};
use super::super::recover::Damage;
use super::super::ring::Ring;
use super::super::{death, format};
use super::*;
use crate::assemble::Mode;
use crate::config::{ClientConfig, Overflow};
use crate::lane::Lane;
use crate::queue::{BatchLimits, Queue};
use crate::shared::Shared;
use crate::state::State;
use crate::stats::End;

const ALL: BatchLimits = BatchLimits { lines: 100_000, bytes: 1 << 30, entry_bytes: 1 << 30 };

/// A client of which the sender is this test.
struct Producer {
    shared: Shared,
    path: PathBuf,
    _dir: TempDir,
}

impl Producer {
    fn new(mode: Mode, max_line_bytes: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let ring = Ring::create(dir.path(), &meta(), 1 << 20).unwrap();
        let path = ring.path().to_owned();
        let mut config = ClientConfig::new("http://h:1", "t");
        (config.mode, config.overflow) = (mode, Overflow::DropOldest);
        let shared = Shared::with_state(config, [7; 16], State::new(Queue::with_spool(ring)));
        shared.max_line_bytes.store(max_line_bytes, std::sync::atomic::Ordering::Relaxed);
        Self { shared, path, _dir: dir }
    }

    fn print(&self, lane: &Lane, text: &str) {
        self.shared.write(lane, Stream::Stdout, text.as_bytes());
    }

    /// What the server gets, and has stored.
    fn deliver(&self) -> Vec<v1::LogEntry> {
        let mut state = self.shared.lock();
        let Some(batch) = state.queue.take_batch(ALL) else { return Vec::new() };
        let last = state.queue.last_seq();
        state.ack(last, last);
        batch.entries
    }

    /// What is stored of it if it dies now.
    fn left(&self) -> Vec<String> {
        texts(&dead(&self.path))
    }
}

fn dead(path: &Path) -> Vec<v1::LogEntry> {
    let uploaded = upload(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(uploaded.contents.damage, None);
    uploaded.entries.into_iter().map(|(_, entry)| entry).collect()
}

/// Lines as they were printed.
fn texts(entries: &[v1::LogEntry]) -> Vec<String> {
    let text = |entry: &v1::LogEntry| {
        let end = if entry.continued || entry.no_newline { "" } else { "\n" };
        String::from_utf8(entry.message.to_vec()).unwrap() + end
    };
    entries.iter().map(text).collect()
}

#[test]
fn half_a_line_survives_and_the_line_made_of_it_takes_its_place() {
    let producer = Producer::new(Mode::Raw, 100);
    let lane = Lane::new();
    for (text, left) in [
        ("begin\n", &["begin\n"][..]),
        ("half", &["begin\n", "half"]),
        ("", &["begin\n", "half"]),
        (" a line", &["begin\n", "half a line"]),
        ("\nnext", &["begin\n", "half a line\n", "next"]),
        ("\n", &["begin\n", "half a line\n", "next\n"]),
    ] {
        producer.print(&lane, text);
        assert_eq!(producer.left(), left, "after {text:?}");
    }
    assert_eq!(producer.deliver().len(), 3);
    producer.print(&lane, "last");
    assert_eq!(producer.left(), ["last"], "what is stored is not sent again");
}

#[test]
fn what_is_recovered_is_what_ending_the_stream_would_give() {
    let (dying, ending) = (Producer::new(Mode::Raw, 100), Producer::new(Mode::Raw, 100));
    let lanes: Vec<_> = (0..LANES).map(|_| Lane::new()).collect();
    for producer in [&dying, &ending] {
        for (number, lane) in lanes.iter().enumerate() {
            producer.print(lane, &format!("thread {number}"));
        }
    }
    let found = dead(&dying.path);
    for mut last in ending.shared.finish_streams().0 {
        while let Some((entry, seal)) = last.next() {
            ending.shared.push(entry, seal, None);
        }
    }
    let without_time = |entries: Vec<v1::LogEntry>| -> Vec<_> {
        entries.into_iter().map(|entry| v1::LogEntry { time_unix_nano: 0, ..entry }).collect()
    };
    assert_eq!(without_time(found), without_time(dead(&ending.path)));
    assert_eq!(ending.left().len(), LANES);
    dying.print(&Lane::new(), "one thread too many");
    assert_eq!(dying.left().len(), LANES);
}

#[test]
fn a_bar_keeps_its_state_and_its_row() {
    let producer = Producer::new(Mode::Collapse, 100);
    let lane = Lane::new();
    for text in ["10%", "\r20%", "\r30%\r"] {
        producer.print(&lane, text);
    }
    let found = dead(&producer.path);
    assert_eq!((texts(&found), found[0].update_id), (vec!["30%".to_owned()], 1));
}

#[test]
fn one_state_of_a_bar_is_there_at_any_moment() {
    let producer = Producer::new(Mode::Collapse, 100);
    let lane = Lane::new();
    producer.print(&lane, "0%");
    for percent in 0..9 {
        let (before, after) = (format!("{percent}%"), format!("{}%", percent + 1));
        let found = Arc::new(Mutex::new(Vec::new()));
        let (path, seen) = (producer.path.clone(), Arc::clone(&found));
        let look = move || seen.lock().unwrap().push(texts(&dead(&path)));
        death::watch(look, || producer.print(&lane, &format!("\r{after}")));
        let found = found.lock().unwrap();
        assert!(found.iter().all(|texts| *texts == [before.clone()] || *texts == [after.clone()]), "{found:?}");
        assert_eq!(found.last().map(Vec::as_slice), Some(&[after][..]));
    }
}

#[test]
fn text_beyond_a_place_is_not_kept_but_the_rest_is() {
    let producer = Producer::new(Mode::Raw, 1 << 20);
    let (one, two) = (Lane::new(), Lane::new());
    for lane in [&one, &two] {
        for _ in 0..70 {
            producer.print(lane, &"x".repeat(1000));
        }
    }
    let lengths: Vec<_> = producer.left().iter().map(String::len).collect();
    assert_eq!(lengths, [FIRST_TEXT_BYTES, OTHER_TEXT_BYTES]);
    producer.print(&one, "\n");
    let lengths: Vec<_> = producer.left().iter().map(String::len).collect();
    // The state's limit is still the default: a long line leaves in parts.
    assert_eq!(lengths, [64 << 10, 70_000 - (64 << 10) + 1, OTHER_TEXT_BYTES]);
}

#[test]
fn who_ends_before_its_lines_are_captured_loses_none() {
    let producer = Producer::new(Mode::Raw, 100);
    producer.print(&Lane::new(), "of a thread that is gone");
    producer.print(&Lane::new(), "of another");
    let (streams, all) = producer.shared.finish_streams();
    assert!(all);
    assert_eq!(producer.left(), ["of a thread that is gone\n".trim_end(), "of another"]);
    for mut last in streams {
        while let Some((entry, seal)) = last.next() {
            producer.shared.push(entry, seal, None);
            assert_eq!(producer.left().len(), 2);
        }
    }
    let final_seq = producer.shared.lock().queue.last_seq();
    producer.shared.lock().queue.spool_close(&v1::Close { final_seq, ..v1::Close::default() });
    assert_eq!(producer.left().len(), 2);
}

#[test]
fn a_tick_that_ends_a_dead_threads_line_seals_it() {
    let producer = Producer::new(Mode::Raw, 100);
    producer.print(&Lane::new(), "left behind");
    producer.shared.tick();
    assert_eq!(producer.left(), ["left behind"]);
    assert_eq!(producer.deliver().len(), 1);
    assert_eq!(producer.left(), [""; 0]);
}

#[test]
fn a_file_with_nothing_but_half_a_line_is_kept_and_not_written_to_after_the_end() {
    let producer = Producer::new(Mode::Raw, 100);
    let lane = Lane::new();
    producer.print(&lane, "line\nhalf");
    producer.deliver();
    producer.shared.finish(End::Abandoned);
    assert_eq!(producer.left(), ["half"]);
    let before = std::fs::read(&producer.path).unwrap();
    producer.print(&lane, " and more");
    producer.print(&Lane::new(), "others");
    assert!(std::fs::read(&producer.path).unwrap() == before);
    let nothing = Producer::new(Mode::Raw, 100);
    nothing.print(&lane, "half\n");
    nothing.deliver();
    nothing.shared.finish(End::Abandoned);
    assert!(!nothing.path.exists(), "nothing is left in it");
}

#[test]
fn a_second_uploader_gives_the_same_numbers() {
    let producer = Producer::new(Mode::Raw, 100);
    producer.print(&Lane::new(), "one\nhalf");
    producer.shared.write(&producer.shared.lane, Stream::Stderr, b"another half");
    let dir = TempDir::new().unwrap();
    let folder = dir.path().to_owned();
    std::fs::copy(&producer.path, folder.join("dead.spool")).unwrap();
    let resume = || {
        let Some(super::super::Found::Dead(dead)) = super::super::find(&folder).unwrap().next() else { panic!() };
        let resumed = dead.resume().unwrap();
        Queue::resume(resumed.ring, resumed.first_seq, resumed.scan)
    };
    let mut first = resume();
    let sent = first.take_batch(ALL).unwrap();
    assert_eq!((sent.first_seq, sent.entries.len()), (1, 3));
    // The server has stored two of three, and has said so, when the uploader is killed.
    first.ack(2);
    drop(first);
    let again = resume().take_batch(ALL).unwrap();
    let from = (again.first_seq - sent.first_seq) as usize;
    assert_eq!(again.entries, sent.entries[from..]);
    assert!(from <= 2);
}

#[test]
fn harm_is_told_and_gives_nothing() {
    let producer = Producer::new(Mode::Raw, 100);
    producer.print(&Lane::new(), "captured\nhalf");
    let whole = std::fs::read(&producer.path).unwrap();
    let (_, layout, _) = super::super::recover::read_head(&whole).unwrap();
    let open_at = layout.open_at().unwrap();
    let used = (0..2).map(|version| open_at + version_at(0, version)).find(|at| whole[at + VERSION_HEADER] == b'h');
    let used = used.unwrap();
    for (what, at) in [("text", used + VERSION_HEADER), ("time", used + 9), ("length", open_at), ("which", open_at + 3)]
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x84;
        let found = upload(&bytes).unwrap();
        assert_eq!((found.contents.damage, found.entries.len()), (Some(Damage::Unknown), 1), "{what}");
    }
    for (sealed, lines, damage) in [(1, 1, None), (2, 2, None), (3, 1, Some(Damage::Unknown))] {
        let mut bytes = whole.clone();
        bytes[used] = sealed;
        let found = upload(&bytes).unwrap();
        assert_eq!((found.contents.damage, found.contents.lines), (damage, lines), "sealed {sealed}");
    }
    let cut = upload(&whole[..open_at + 4]).unwrap();
    assert!(cut.contents.damage.is_some());
}

/// As the program before this one wrote it: of its lines the last had no end.
#[test]
fn a_file_of_version_1_is_uploaded() {
    let file = include_bytes!("testdata/version1.spool");
    let uploaded = upload(file).unwrap();
    let entries: Vec<_> = uploaded.entries.into_iter().map(|(_, entry)| entry).collect();
    assert_eq!(
        (texts(&entries), uploaded.contents.damage),
        (["one\n", "two\n", "three\n"].map(String::from).into(), None)
    );
    let (_, layout, _) = super::super::recover::read_head(file).unwrap();
    assert_eq!(layout, format::Layout { ring_at: 4096, max_capacity: 4096, has_open: false });
}

#[derive(Debug, Clone)]
enum Step {
    /// Whose, on which stream, how many bytes, and after each of how many a newline.
    Print(Index, Index, usize, usize),
    Newline(Index, Index),
    Deliver,
    Tick,
    /// A thread ends, and another takes its number.
    End(Index),
}

fn step(longest: usize) -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        8 => (index(), index(), 1..longest, 1..longest).prop_map(|(a, b, c, d)| Step::Print(a, b, c, d)),
        5 => (index(), index()).prop_map(|(lane, stream)| Step::Newline(lane, stream)),
        1 => Just(Step::Deliver),
        1 => Just(Step::Tick),
        1 => index().prop_map(Step::End),
    ]
}

const THREADS: usize = 5;

/// What was printed, by thread and stream. Each thread has two letters of its own, in an order that tells places apart.
#[derive(Default, Clone, PartialEq, Debug)]
struct Printed([[String; 3]; THREADS]);

impl Printed {
    fn text(&self, thread: usize, stream: Stream, bytes: usize, line: usize) -> String {
        let from = self.0[thread][stream.index()].len() as u64;
        let letter = |at: u64| b'A' + 2 * thread as u8 + (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63) as u8;
        let mut text = String::new();
        for at in 1..=bytes {
            text.push(char::from(letter(from + at as u64)));
            if at % line == 0 {
                text.push('\n');
            }
        }
        text
    }

    fn add(&mut self, entries: &[v1::LogEntry]) {
        for (entry, text) in entries.iter().zip(texts(entries)) {
            let thread = usize::from(entry.message[0] - b'A') / 2;
            self.0[thread][entry.stream as usize - 1] += &text;
        }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.0.iter().flatten()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Wherever the process dies: what writes that returned had printed is there once, and of the one under way a beginning.
    #[test]
    fn whenever_it_dies_what_was_printed_is_there_once(
        steps in proptest::collection::vec(step(40), 1..40),
        max_line_bytes in 4_usize..60,
    ) {
        let producer = Producer::new(Mode::Raw, max_line_bytes);
        let mut lanes: Vec<_> = (0..THREADS).map(|_| Lane::new()).collect();
        let (mut printed, mut stored) = (Printed::default(), Printed::default());
        let mut is_open = [[false; 3]; THREADS];
        for step in steps {
            let before = printed.clone();
            let files = Arc::new(Mutex::new(Vec::new()));
            let (path, seen) = (producer.path.clone(), Arc::clone(&files));
            let look = move || seen.lock().unwrap().push(std::fs::read(&path).unwrap());
            let write = |printed: &mut Printed, thread: usize, stream: Stream, text: &str| {
                printed.0[thread][stream.index()] += text;
                death::watch(look.clone(), || producer.shared.write(&lanes[thread], stream, text.as_bytes()));
            };
            match step {
                Step::Print(thread, stream, bytes, line) => {
                    let (thread, stream) = (thread.index(THREADS), Stream::ALL[stream.index(3)]);
                    let text = printed.text(thread, stream, bytes, line);
                    is_open[thread][stream.index()] = !text.ends_with('\n');
                    write(&mut printed, thread, stream, &text);
                }
                Step::Newline(thread, stream) => {
                    let (thread, stream) = (thread.index(THREADS), Stream::ALL[stream.index(3)]);
                    if std::mem::take(&mut is_open[thread][stream.index()]) {
                        write(&mut printed, thread, stream, "\n");
                    }
                }
                Step::Deliver => stored.add(&producer.deliver()),
                Step::Tick => death::watch(look.clone(), || producer.shared.tick()),
                Step::End(thread) => {
                    let thread = thread.index(THREADS);
                    (lanes[thread], is_open[thread]) = (Lane::new(), [false; 3]);
                    death::watch(look.clone(), || producer.shared.tick());
                }
            }
            files.lock().unwrap().push(std::fs::read(&producer.path).unwrap());
            let files = std::mem::take(&mut *files.lock().unwrap());
            let last = files.len() - 1;
            for (number, file) in files.iter().enumerate() {
                let uploaded = upload(file).unwrap();
                prop_assert_eq!(uploaded.contents.damage, None);
                let mut found = stored.clone();
                found.add(&uploaded.entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>());
                if number == last {
                    prop_assert_eq!(&found, &printed);
                }
                for ((before, found), after) in before.all().zip(found.all()).zip(printed.all()) {
                    let is_between = found.starts_with(before.as_str()) && after.starts_with(found.as_str());
                    prop_assert!(is_between, "{found:?} is not between {before:?} and {after:?}");
                }
            }
        }
    }

    /// With bars: what is recovered is what ending the streams would have given.
    #[test]
    fn bars_are_recovered_as_they_would_have_ended(
        writes in proptest::collection::vec((any::<Index>(), any::<Index>(), "[ab\r\n]{0,9}"), 1..40),
        collapse in any::<bool>(),
    ) {
        let mode = if collapse { Mode::Collapse } else { Mode::Raw };
        let producer = Producer::new(mode, 7);
        let lanes: Vec<_> = (0..THREADS).map(|_| Lane::new()).collect();
        for (thread, stream, text) in &writes {
            let (thread, stream) = (thread.index(THREADS), Stream::ALL[stream.index(3)]);
            producer.shared.write(&lanes[thread], stream, text.as_bytes());
        }
        let outline = |entry: v1::LogEntry| (entry.stream, entry.message, entry.continued, entry.no_newline);
        let mut found: Vec<_> = dead(&producer.path).into_iter().map(outline).collect();
        for mut last in producer.shared.finish_streams().0 {
            while let Some((entry, seal)) = last.next() {
                producer.shared.push(entry, seal, None);
            }
        }
        let mut ended: Vec<_> = producer.deliver().into_iter().map(outline).collect();
        // A `\r` alone is no text.
        ended.retain(|(_, message, _, no_newline)| !(*no_newline && message.is_empty()));
        found.sort();
        ended.sort();
        prop_assert_eq!(found, ended);
    }
}
