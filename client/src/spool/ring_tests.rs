use std::collections::VecDeque;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::Meta;
use super::super::recover::{Damage, Piece, read_head, scan};
use super::*;

fn meta(seed: u128) -> Meta {
    let producer = seed.to_be_bytes().to_vec().into();
    let hello = v1::Hello { task_id: "t".to_owned(), producer, ..v1::Hello::default() };
    Meta { hello, server: "http://h:1".to_owned() }
}

fn ring(dir: &TempDir, bytes: u64) -> Ring {
    Ring::create(dir.path(), &meta(7), bytes).unwrap()
}

fn line(seq: u64, bytes: usize) -> v1::LogEntry {
    let text = format!("{seq}:").into_bytes();
    let message = text.iter().copied().chain(std::iter::repeat(b'x')).take(bytes.max(text.len())).collect::<Vec<_>>();
    v1::LogEntry { time_unix_nano: seq as i64, stream: 1, message: message.into(), ..v1::LogEntry::default() }
}

fn run(seq: u64, lines: u64) -> v1::LogEntry {
    let dropped = Some(v1::Dropped { lines, bytes: 9 * lines });
    v1::LogEntry { time_unix_nano: seq as i64, stream: 4, dropped, ..v1::LogEntry::default() }
}

/// What a ring must hold: (first number, numbers, entry).
type Model = VecDeque<(u64, u64, v1::LogEntry)>;

/// Reads a file as an uploader does: every entry with its number, and what was dropped before the first.
fn read_all(path: &Path) -> (u64, u64, Vec<(u64, u64, v1::LogEntry)>, Scan) {
    let bytes = std::fs::read(path).unwrap();
    let (_, layout, state) = read_head(&bytes).unwrap();
    let scan = scan(&bytes, layout, &state);
    let file = sys::open(path).unwrap();
    let mut ring = Ring::resume(file, path.to_owned(), layout, state, &scan).unwrap();
    let mut seq = state.head_seq;
    let mut entries = Vec::new();
    while seq < scan.next_seq {
        let entry = ring.read(seq).expect("what was scanned can be read");
        let lines = entry.dropped.map_or(1, |run| run.lines);
        entries.push((seq, lines, entry));
        seq += lines;
    }
    (state.head_seq - 1 - state.acked, state.dropped_bytes, entries, scan)
}

#[derive(Debug, Clone)]
enum Step {
    Line(usize),
    Run(u64),
    /// Everything up to this share is stored.
    Release(prop::sample::Index),
    ReleaseAll,
    Read(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_usize..900).prop_map(Step::Line),
        1 => (1_u64..5).prop_map(Step::Run),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => Just(Step::ReleaseAll),
        1 => any::<prop::sample::Index>().prop_map(Step::Read),
    ]
}

/// Puts a record in, giving way to it as the queue does. How many numbers and bytes gave way.
fn put(ring: &mut Ring, model: &mut Model, kind: Kind, seq: u64, lines: u64, entry: &v1::LogEntry) -> (u64, u64) {
    let (mut gone, mut bytes) = (0, 0);
    while !ring.has_room(entry.encoded_len()) {
        let (_, lines, oldest) = model.pop_front().expect("a full ring has a record");
        let dropped = ring.drop_head().expect("a full ring can give way");
        assert_eq!(dropped.is_line, oldest.dropped.is_none());
        let lost = oldest.dropped.map_or(oldest.message.len() as u64, |run| run.bytes);
        assert_eq!((dropped.bytes, dropped.time_unix_nano), (lost, oldest.time_unix_nano));
        gone += lines;
        bytes += lost;
    }
    assert!(ring.append(kind, seq, lines, entry));
    model.push_back((seq, lines, entry.clone()));
    (gone, bytes)
}

proptest! {
    /// The process may die between any two steps: what the file says is what the model says.
    #[test]
    fn a_ring_is_what_a_queue_would_be(
        steps in proptest::collection::vec(step(), 1..400),
        capacity in 4096_u64..40_000,
        restarts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let dir = TempDir::new().unwrap();
        let mut ring = ring(&dir, capacity);
        let mut model = Model::new();
        let (mut next, mut acked, mut gone, mut gone_bytes) = (1, 0, 0, 0);
        let restarts: Vec<usize> = restarts.iter().map(|at| at.index(steps.len())).collect();
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Line(bytes) => {
                    let entry = line(next, *bytes);
                    let more = put(&mut ring, &mut model, Kind::Line, next, 1, &entry);
                    (gone, gone_bytes) = (gone + more.0, gone_bytes + more.1);
                    next += 1;
                }
                Step::Run(lines) => {
                    let entry = run(next, *lines);
                    let more = put(&mut ring, &mut model, Kind::Run, next, *lines, &entry);
                    (gone, gone_bytes) = (gone + more.0, gone_bytes + more.1);
                    next += lines;
                }
                Step::Release(_) | Step::ReleaseAll => {
                    let to = match step {
                        Step::Release(share) => acked + share.index((next - acked) as usize) as u64,
                        _ => next - 1,
                    };
                    prop_assert!(ring.release(to));
                    while model.front().is_some_and(|(first, lines, _)| first + lines - 1 <= to) {
                        model.pop_front();
                    }
                    let first = model.front().map_or(next, |(first, ..)| *first);
                    let before = gone;
                    acked = acked.max(to).min(first - 1);
                    gone = first - 1 - acked;
                    if gone != before {
                        gone_bytes = ring.state.dropped_bytes; // Shared out evenly; see `release`.
                    }
                }
                Step::Read(share) if !model.is_empty() => {
                    let (seq, _, entry) = &model[share.index(model.len())];
                    prop_assert_eq!(ring.read(*seq), Some(entry.clone()));
                }
                Step::Read(_) => {}
            }
            if restarts.contains(&at) || at + 1 == steps.len() {
                let (dropped, dropped_bytes, entries, scan) = read_all(ring.path());
                prop_assert_eq!((dropped, dropped_bytes), (gone, gone_bytes));
                prop_assert_eq!(&entries, &Vec::from(model.clone()));
                prop_assert_eq!((scan.next_seq, scan.damage), (next, None));
                prop_assert_eq!((scan.tail, scan.wrapped), (ring.tail, ring.wrapped));
            }
        }
    }

    /// Whatever is done to a file: it is read in linear time, gives a prefix of what was written, and owns up to the rest.
    #[test]
    fn a_damaged_file_gives_a_prefix_and_says_so(
        lines in 1_u64..120,
        capacity in 4096_u64..40_000,
        acks in 0_u64..60,
        closed in any::<bool>(),
        harm in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = TempDir::new().unwrap();
        let mut ring = ring(&dir, capacity);
        let mut model = Model::new();
        for seq in 1..=lines {
            put(&mut ring, &mut model, Kind::Line, seq, 1, &line(seq, (seq * 37 % 700) as usize));
            if seq == acks {
                prop_assert!(ring.release(seq));
                model.retain(|(first, ..)| *first > seq);
            }
        }
        if closed {
            let close = v1::Close { final_seq: lines, ..v1::Close::default() };
            prop_assert!(ring.close(&close));
        }
        let mut bytes = std::fs::read(ring.path()).unwrap();
        let used = ring.layout.ring_at + ring.tail.max(64) + 64;
        for (at, mask) in &harm {
            let at = at.index(used.min(bytes.len()));
            bytes[at] ^= mask;
        }
        if let Some(cut) = cut {
            let len = bytes.len();
            bytes.truncate(cut.index(len + 1));
        }
        let Ok((_, layout, state)) = read_head(&bytes) else { return Ok(()) };
        let found = scan(&bytes, layout, &state);
        prop_assert!(found.next_seq <= lines + 1);
        let untouched = harm.iter().all(|(_, mask)| *mask == 0) && cut.is_none();
        if untouched {
            prop_assert_eq!((found.next_seq, found.damage), (lines + 1, None));
            prop_assert_eq!(found.close.is_some(), closed);
        }
        if found.next_seq <= lines {
            prop_assert!(found.damage.is_some(), "{} of {lines} lines, and not a word", found.next_seq - 1);
            prop_assert!(found.close.is_none());
            if let Some(Damage::Lines(lost)) = found.damage {
                prop_assert_eq!(lost, lines + 1 - found.next_seq);
                let is_told = matches!(found.pieces.last(), Some(Piece::Run { lines, .. }) if *lines == lost);
                prop_assert!(is_told);
            }
        }
        // What it gives is what was written.
        let path = dir.path().join("copy");
        bytes.resize(layout.file_bytes(), 0);
        std::fs::write(&path, &bytes).unwrap();
        let mut resumed = Ring::resume(sys::open(&path).unwrap(), path, layout, state, &found).unwrap();
        for seq in state.head_seq..found.next_seq {
            prop_assert_eq!(resumed.read(seq), Some(line(seq, (seq * 37 % 700) as usize)));
        }
    }

    /// Any bytes at all.
    #[test]
    fn a_hostile_file_is_harmless(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), signed in any::<bool>()) {
        if signed && bytes.len() > 4096 + 64 {
            let layout = Layout { ring_at: 4096, max_capacity: (bytes.len() - 4096) / 8 * 8, has_open: false };
            format::write_meta(&mut bytes, &meta(1), layout);
            let capacity = layout.max_capacity as u64;
            let state = State { generation: 2, head_seq: 1, capacity, ..State::default() };
            format::write_state(&mut bytes, &state);
        }
        if let Ok((_, layout, state)) = read_head(&bytes) {
            let found = scan(&bytes, layout, &state);
            prop_assert!(found.next_seq >= state.head_seq);
        }
    }
}

#[test]
fn ten_thousand_laps_and_restarts_lose_nothing() {
    let dir = TempDir::new().unwrap();
    let mut ring = ring(&dir, 4096);
    let mut model = Model::new();
    let (mut next, mut acked) = (1, 0);
    for lap in 0..10_000_u64 {
        for part in 0..4 {
            let entry = line(next, (lap * 13 + part * 7) as usize % 300);
            let (gone, _) = put(&mut ring, &mut model, Kind::Line, next, 1, &entry);
            assert_eq!(gone, 0);
            next += 1;
        }
        acked += 4;
        let keep = lap % 3;
        assert!(ring.release(acked - keep));
        model.retain(|(first, ..)| *first > acked - keep);
        if lap % 100 == 0 {
            let (dropped, _, entries, scan) = read_all(ring.path());
            assert_eq!((dropped, entries, scan.damage), (0, Vec::from(model.clone()), None), "lap {lap}");
        }
    }
}

#[test]
fn a_newer_version_is_told_apart() {
    let dir = TempDir::new().unwrap();
    let ring = ring(&dir, 8192);
    let mut bytes = std::fs::read(ring.path()).unwrap();
    bytes[8] = 3;
    let error = read_head(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "written by a newer version (format 3; this program reads 2)");
    assert_eq!(read_head(b"hello").unwrap_err(), super::super::FormatError::NotASpool);
}

#[test]
fn a_ring_grows_in_steps_and_begins_anew_when_all_is_stored() {
    let dir = TempDir::new().unwrap();
    let mut ring = ring(&dir, 8 << 20);
    let file = |ring: &Ring| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(ring.path()).unwrap()) * 512;
    assert!(file(&ring) < 2 << 20, "{}", file(&ring));
    for seq in 1..=30_000 {
        assert!(ring.append(Kind::Line, seq, 1, &line(seq, 200)));
    }
    assert_eq!(ring.state.capacity, 8 << 20);
    assert!(ring.release(30_000) && ring.is_empty() && ring.tail == 0 && ring.used() == 0);
    assert!(ring.append(Kind::Line, 30_001, 1, &line(30_001, 200)));
    assert_eq!(read_all(ring.path()).2.len(), 1);
}

/// `cargo test --release -p flowforge-client --lib recovery_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn recovery_speed() {
    let dir = TempDir::new().unwrap();
    let mut ring = ring(&dir, 64 << 20);
    let began = std::time::Instant::now();
    let mut next = 1;
    while ring.has_room(140) {
        assert!(ring.append(Kind::Line, next, 1, &line(next, 100)));
        next += 1;
    }
    let written = began.elapsed();
    let began = std::time::Instant::now();
    let bytes = std::fs::read(ring.path()).unwrap();
    let (_, layout, state) = read_head(&bytes).unwrap();
    let found = scan(&bytes, layout, &state);
    let read = began.elapsed();
    assert_eq!(found.lines, next - 1);
    let rate = |time: std::time::Duration| found.lines as f64 / time.as_secs_f64() / 1e6;
    println!("{} lines: {:.1} M/s written (first lap), {:.1} M/s recovered", found.lines, rate(written), rate(read));
}
