//! Files that the real writer has written, and that lose and change bytes afterwards.

use std::collections::{BTreeMap, BTreeSet};

use flowforge_proto::v1;

use super::super::format::Kind;
use super::super::open::{self, LANES, OpenLines, STREAM_BYTES};
use super::super::ring::Ring;
use super::{Input, Scratch, Uploaded, meta, upload};
use crate::assemble::OpenText;

/// The two copies of the next sequence number: whoever changes both alike can say anything.
const NEXT_SEQ: std::ops::Range<usize> = 192..208;
/// Of the bytes before the ring, those that mean something.
const HEADER_BYTES: usize = 320;
const OPEN_AT: usize = 4096;
const RING_AT: usize = OPEN_AT + open::BYTES;
/// Fewer than it takes to make a checksum right again.
const MAX_CHANGES: u8 = 4;

/// What a file was when its producer died.
struct Written {
    bytes: Vec<u8>,
    /// By their first number.
    entries: BTreeMap<u64, v1::LogEntry>,
    /// Everything before it is stored, or has given way.
    head_seq: u64,
    next_seq: u64,
    /// Texts of open lines, by stream and place.
    open: BTreeMap<(usize, usize), Vec<u8>>,
    closed: bool,
}

/// Writes, harms and uploads.
pub(super) fn run(mut input: Input<'_>) {
    let mut written = write(&mut input);
    let whole = written.bytes.clone();
    harm(&mut written.bytes, &mut input);
    let is_whole = written.bytes == whole;
    let is_forged = written.bytes.get(NEXT_SEQ) != whole.get(NEXT_SEQ) || seals(&written.bytes) != seals(&whole);
    let Some(found) = upload(&written.bytes) else {
        assert!(!is_whole, "a file that nobody touched is read");
        return;
    };
    let is_told = found.contents.damage.is_some();
    assert!(check_lines(&written, &found) || is_told || is_forged, "lines are missing, and not a word");
    assert!(check_open(&written, &found, is_forged) || is_told || is_forged, "open lines are missing, and not a word");
    if is_whole {
        assert_eq!((found.contents.damage, found.contents.is_closed), (None, written.closed));
    }
}

fn write(input: &mut Input<'_>) -> Written {
    let scratch = Scratch::new();
    let capacity = 4096 + input.short() as u64 % 8192;
    let mut ring = Ring::create(scratch.path(), &meta(), capacity).expect("room for a small file");
    let mut writers = ring.take_open_lines().expect("a new file");
    let (mut entries, mut open, mut seq) = (BTreeMap::new(), BTreeMap::<_, Vec<u8>>::new(), 1);
    for step in 0..input.byte() {
        match input.byte() {
            255 => ring.release(seq - 1),
            at @ 250.. => ring.release((seq - 1).saturating_sub(u64::from(at) - 249)),
            245..=249 => {
                let lines = 1 + u64::from(input.byte());
                let run = v1::LogEntry { dropped: Some(v1::Dropped { lines, bytes: 9 }), stream: 4, ..line(seq, 0) };
                put(&mut ring, Kind::Run, seq, lines, &run);
                entries.insert(seq, run);
                seq += lines;
                true
            }
            what @ 242..=244 => {
                let (stream, place) = (usize::from(input.byte() % 3), usize::from(input.byte()) % LANES);
                let (writer, before) = (&mut writers[stream], open.remove(&(stream, place)));
                match (what, before) {
                    (244, Some(text)) => {
                        seq = capture(&mut ring, writer, place, text, seq, &mut entries);
                    }
                    (_, before) => {
                        let began = if what == 242 { 0 } else { u64::from(step) + 1 };
                        let mut text = before.filter(|_| what == 242).unwrap_or_default();
                        text.extend(std::iter::repeat_n(step, 1 + usize::from(input.byte())));
                        writer.keep(place, 9, OpenText { text: &text, began, update_id: began });
                        open.insert((stream, place), text);
                    }
                }
                true
            }
            size => {
                let entry = line(seq, usize::from(size) * 3);
                put(&mut ring, Kind::Line, seq, 1, &entry);
                entries.insert(seq, entry);
                seq += 1;
                true
            }
        };
    }
    let ends = input.byte().is_multiple_of(2);
    if ends {
        for ((stream, place), text) in std::mem::take(&mut open) {
            seq = capture(&mut ring, &mut writers[stream], place, text, seq, &mut entries);
        }
    }
    let close = v1::Close { final_seq: seq - 1, ..v1::Close::default() };
    let closed = ends && ring.close(&close);
    let bytes = std::fs::read(ring.path()).expect("our file");
    Written { bytes, entries, head_seq: ring.head_seq(), next_seq: seq, open, closed }
}

/// An open line becomes a line; the next number.
fn capture(
    ring: &mut Ring,
    writer: &mut OpenLines,
    place: usize,
    text: Vec<u8>,
    seq: u64,
    entries: &mut BTreeMap<u64, v1::LogEntry>,
) -> u64 {
    writer.came_out(Some(place), 1);
    if let Some(seal) = writer.seal(0) {
        seal.put(seq);
    }
    writer.forget_outputs();
    let entry = v1::LogEntry { message: text.into(), ..line(seq, 0) };
    put(ring, Kind::Line, seq, 1, &entry);
    entries.insert(seq, entry);
    seq + 1
}

/// Whoever changes one of these can say of an open line that it is captured, or that it is not.
fn seals(file: &[u8]) -> Vec<Option<&[u8]>> {
    let places = (0..3).flat_map(|stream| (0..LANES).map(move |place| (OPEN_AT + stream * STREAM_BYTES, place)));
    let versions = places.flat_map(|(from, place)| [0, 1].map(|version| from + open::version_at(place, version)));
    versions.map(|at| file.get(at..at + 8)).collect()
}

fn line(seq: u64, bytes: usize) -> v1::LogEntry {
    let message =
        format!("{seq}:").into_bytes().into_iter().chain(std::iter::repeat_n(b'x', bytes)).collect::<Vec<_>>();
    v1::LogEntry { time_unix_nano: seq.cast_signed(), stream: 1, message: message.into(), ..v1::LogEntry::default() }
}

/// The oldest give way, as in the queue.
fn put(ring: &mut Ring, kind: Kind, seq: u64, lines: u64, entry: &v1::LogEntry) {
    while !ring.append(kind, seq, lines, entry) {
        ring.drop_head().expect("a full ring can give way");
    }
}

/// Some bytes change, where there is something to change, and the end may be cut off.
fn harm(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..input.byte() % (MAX_CHANGES + 1) {
        let is_header = input.byte() < 64;
        let at = match input.byte() {
            _ if is_header => input.short() % HEADER_BYTES,
            stream @ 0..=59 => OPEN_AT + usize::from(stream % 3) * STREAM_BYTES + input.short() % 512,
            _ => RING_AT + input.short(),
        };
        let mask = input.byte();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= mask;
        }
    }
    if input.byte() > 200 {
        let length = input.short() % (bytes.len() + 1);
        bytes.truncate(length);
    }
}

/// What arrives is what was written, at its number. Whether all of it arrives that was there.
fn check_lines(written: &Written, found: &Uploaded) -> bool {
    let mut arrived = BTreeSet::new();
    for (seq, entry) in &found.entries {
        if entry.no_newline {
            continue;
        }
        assert!(*seq < written.next_seq, "number {seq} was never given");
        if entry.dropped.is_none() {
            assert_eq!(written.entries.get(seq), Some(entry), "another line at number {seq}");
            arrived.insert(*seq);
        }
    }
    let lines = written.entries.range(written.head_seq..).filter(|(_, entry)| entry.dropped.is_none());
    lines.map(|(seq, _)| seq).all(|seq| arrived.contains(seq))
}

/// What arrives of open lines is what was open, once. Whether all of it arrives.
fn check_open(written: &Written, found: &Uploaded, is_forged: bool) -> bool {
    let mut left: Vec<_> = written.open.iter().map(|((stream, _), text)| (*stream as i32 + 1, text.clone())).collect();
    for (_, entry) in found.entries.iter().filter(|(_, entry)| entry.no_newline) {
        let arrived = (entry.stream, entry.message.to_vec());
        let place = left.iter().position(|open| *open == arrived);
        assert!(place.is_some() || is_forged, "another open line: {arrived:?}");
        place.map(|place| left.swap_remove(place));
    }
    left.is_empty()
}
