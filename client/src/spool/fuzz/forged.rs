//! Files that nobody has written by this program, and whose checksums are right all the same.

use flowforge_proto::v1;
use prost::Message as _;

use super::super::format::{self, Kind, Layout, MAX_CAPACITY, RECORD_HEADER, State, record_bytes};
use super::super::open::{self, FIXED, LANES, STREAM_BYTES, VERSION_HEADER};
use super::{Input, meta, upload};

const META_BYTES: usize = 4096;

/// Header, state and records say whatever the input says.
pub(super) fn run(mut input: Input<'_>) {
    let ring_bytes = input.short() % 8192;
    let (max_capacity, has_open) = match input.byte() {
        0..=200 => (ring_bytes / 8 * 8, false),
        201..=225 => (input.short() * 8, false),
        226..=250 => (ring_bytes / 8 * 8, true),
        _ => (MAX_CAPACITY, false),
    };
    let ring_at = META_BYTES + if has_open { open::BYTES } else { 0 };
    let mut file = vec![0; ring_at + ring_bytes];
    let layout = Layout { ring_at, max_capacity, has_open };
    format::write_meta(&mut file, &meta(), layout);
    for generation in 1..=u64::from(1 + input.byte() % 2) {
        format::write_state(&mut file, &state(&mut input, generation, layout));
    }
    format::write_next_seq(&mut file, input.number());
    if let Some(open_at) = layout.open_at() {
        for _ in 0..input.byte() % 8 {
            put_open(&mut file[open_at..ring_at], &mut input);
        }
    }
    let (mut at, mut seq) = (0, input.number());
    while !input.is_empty() {
        (at, seq) = put(&mut file[ring_at..], &mut input, at, seq);
    }
    drop(upload(&file));
}

fn state(input: &mut Input<'_>, generation: u64, layout: Layout) -> State {
    let small = input.byte() < 200;
    let capacity = if small { layout.max_capacity as u64 } else { input.number() };
    let acked = input.number();
    State {
        generation,
        acked,
        head_seq: if small { acked.wrapping_add(1) } else { input.number() },
        head: input.number().wrapping_mul(8) % capacity.saturating_add(8),
        capacity,
        dropped_bytes: input.number(),
        dropped_time: input.number().cast_signed(),
    }
}

/// An open line, whatever it says of itself.
fn put_open(area: &mut [u8], input: &mut Input<'_>) {
    let (stream, place, version) = (input.byte() % 3, usize::from(input.byte()) % LANES, usize::from(input.byte() % 2));
    let area = &mut area[usize::from(stream) * STREAM_BYTES..];
    let sealed = input.number();
    let bytes = usize::from(input.byte());
    let text = input.take(bytes).to_vec();
    let at = open::version_at(place, version);
    area[at..at + 8].copy_from_slice(&sealed.to_le_bytes());
    area[at + VERSION_HEADER..at + VERSION_HEADER + text.len()].copy_from_slice(&text);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&area[at..][FIXED]), &text);
    let kept = if input.byte() < 200 { text.len() } else { input.number() as usize & 0x7FFF_FFFF };
    let counts = open::counting(sum, version, kept);
    area[open::place_at(place)..][..8].copy_from_slice(&counts.to_le_bytes());
}

/// A record here or anywhere; returns where the next one would be, and its number.
fn put(ring: &mut [u8], input: &mut Input<'_>, mut at: usize, mut seq: u64) -> (usize, u64) {
    match input.byte() {
        0..=199 => {}
        200..=229 => at = input.short() * 8,
        _ => seq = input.number(),
    }
    let (kind, payload, lines) = record(input, seq);
    if at + RECORD_HEADER + payload.len() <= ring.len() {
        format::write_record(ring, at, kind, seq, payload.len(), |place| place.copy_from_slice(&payload));
        if input.byte() > 240 {
            ring[at] ^= 1;
        }
    }
    (at + record_bytes(payload.len()), seq.wrapping_add(lines))
}

fn record(input: &mut Input<'_>, seq: u64) -> (Kind, Vec<u8>, u64) {
    let entry = v1::LogEntry { time_unix_nano: 9, stream: 1, ..v1::LogEntry::default() };
    match input.byte() % 8 {
        0..=2 => {
            let bytes = usize::from(input.byte());
            let line = v1::LogEntry { message: input.take(bytes).to_vec().into(), ..entry };
            (Kind::Line, line.encode_to_vec(), 1)
        }
        3 => {
            let (lines, bytes) = (input.number(), input.number());
            let run = v1::LogEntry { dropped: Some(v1::Dropped { lines, bytes }), ..entry };
            (Kind::Run, run.encode_to_vec(), lines)
        }
        4 => {
            let final_seq = seq.wrapping_sub(1).wrapping_add(u64::from(input.byte() > 200));
            (Kind::Close, v1::Close { final_seq, ..v1::Close::default() }.encode_to_vec(), 0)
        }
        5 => (Kind::Wrap, Vec::new(), 0),
        other => {
            let kind = if other == 6 { Kind::Line } else { Kind::Run };
            let bytes = usize::from(input.byte());
            (kind, input.take(bytes).to_vec(), 1)
        }
    }
}
