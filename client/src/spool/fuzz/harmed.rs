//! Files that the real writer has written, and that lose and change bytes afterwards.

use std::collections::{BTreeMap, BTreeSet};

use flowforge_proto::v1;

use super::super::format::Kind;
use super::super::ring::Ring;
use super::{Input, Scratch, Uploaded, meta, upload};

/// The two copies of the next sequence number: whoever changes both alike can say anything.
const NEXT_SEQ: std::ops::Range<usize> = 192..208;
/// Of the bytes before the ring, those that mean something.
const HEADER_BYTES: usize = 320;
const RING_AT: usize = 4096;
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
    closed: bool,
}

/// Writes, harms and uploads.
pub(super) fn run(mut input: Input<'_>) {
    let mut written = write(&mut input);
    let whole = written.bytes.clone();
    harm(&mut written.bytes, &mut input);
    let is_whole = written.bytes == whole;
    let is_forged = written.bytes.get(NEXT_SEQ) != whole.get(NEXT_SEQ);
    let Some(found) = upload(&written.bytes) else {
        assert!(!is_whole, "a file that nobody touched is read");
        return;
    };
    let is_told = found.contents.damage.is_some();
    assert!(check_lines(&written, &found) || is_told || is_forged, "lines are missing, and not a word");
    if is_whole {
        assert_eq!((found.contents.damage, found.contents.is_closed), (None, written.closed));
    }
}

fn write(input: &mut Input<'_>) -> Written {
    let scratch = Scratch::new();
    let capacity = 4096 + input.short() as u64 % 8192;
    let mut ring = Ring::create(scratch.path(), &meta(), capacity).expect("room for a small file");
    let (mut entries, mut seq) = (BTreeMap::new(), 1);
    for _ in 0..input.byte() {
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
            size => {
                let entry = line(seq, usize::from(size) * 3);
                put(&mut ring, Kind::Line, seq, 1, &entry);
                entries.insert(seq, entry);
                seq += 1;
                true
            }
        };
    }
    let close = v1::Close { final_seq: seq - 1, ..v1::Close::default() };
    let closed = input.byte().is_multiple_of(2) && ring.close(&close);
    let bytes = std::fs::read(ring.path()).expect("our file");
    Written { bytes, entries, head_seq: ring.head_seq(), next_seq: seq, closed }
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
        let at = if is_header { input.short() % HEADER_BYTES } else { RING_AT + input.short() };
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
        assert!(*seq < written.next_seq, "number {seq} was never given");
        if entry.dropped.is_none() {
            assert_eq!(written.entries.get(seq), Some(entry), "another line at number {seq}");
            arrived.insert(*seq);
        }
    }
    let lines = written.entries.range(written.head_seq..).filter(|(_, entry)| entry.dropped.is_none());
    lines.map(|(seq, _)| seq).all(|seq| arrived.contains(seq))
}
