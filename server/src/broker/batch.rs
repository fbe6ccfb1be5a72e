//! Lines that were appended together. They stay together to the store and to every viewer, encoded once.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use flowforge_storage::{LogRecord, ProducerId, TaskKey};

use crate::tail::event;

/// One append's lines: one task, one producer (a mirrored window may mix several), contiguous offsets. Never empty.
#[derive(Debug)]
pub struct Batch {
    /// Whose lines.
    pub task: TaskKey,
    /// Who printed them.
    pub producer: ProducerId,
    /// Ascending, contiguous.
    pub records: Vec<LogRecord>,
    /// What it may cost in memory, bytes: the records, and about as much again for their events.
    pub weight: usize,
    /// Where it stands in a queue outside this process; `None` where the queue is this process's own.
    pub entry: Option<QueueEntry>,
    /// All lines as SSE events, made by the first viewer that needs them and shared by all.
    events: OnceLock<Encoded>,
}

/// What a queue outside this process needs to let go of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// Which part of the queue.
    pub shard: usize,
    /// Its name there.
    pub id: Box<str>,
    /// Bytes it is accounted for there.
    pub bytes: u64,
}

#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    /// Where each record's event ends in `bytes`.
    ends: Vec<u32>,
}

impl Batch {
    /// Wraps records that have their offsets. Their bytes are copied together: as they came they are slices of a whole
    /// gRPC message, which one kept line would hold in memory, unseen by every limit.
    pub fn new(task: TaskKey, producer: ProducerId, mut records: Vec<LogRecord>) -> Self {
        debug_assert!(!records.is_empty());
        gather(&mut records);
        let weight = records.iter().map(|record| 2 * record.weight()).sum();
        Self { task, producer, records, weight, entry: None, events: OnceLock::new() }
    }

    /// Wraps lines as they were published, each with its JSON, which is not encoded again. They may be of several producers.
    pub fn published(task: TaskKey, lines: Vec<(LogRecord, &[u8])>) -> Self {
        let size: usize = lines.iter().map(|(_, json)| json.len() + 64).sum();
        let (mut bytes, mut ends) = (Vec::with_capacity(size), Vec::with_capacity(lines.len()));
        let mut records = Vec::with_capacity(lines.len());
        for (record, json) in lines {
            event::write_line_json(record.epoch, record.offset, json, &mut bytes);
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            records.push(record);
        }
        let producer = records.first().map_or(ProducerId::SERVER, |record| record.producer);
        let batch = Self::new(task, producer, records);
        let _ = batch.events.set(Encoded { bytes: bytes.into(), ends });
        batch
    }

    /// First offset.
    pub fn first(&self) -> u64 {
        self.records.first().map_or(0, |record| record.offset)
    }

    /// Last offset.
    pub fn last(&self) -> u64 {
        self.records.last().map_or(0, |record| record.offset)
    }

    /// The producer's last sequence number in this batch.
    pub fn last_seq(&self) -> u64 {
        self.records.last().map_or(0, |record| record.seq)
    }

    /// The SSE event of one record; encodes no others for it.
    pub fn write_event(&self, index: usize, out: &mut Vec<u8>) {
        if self.events.get().is_some() {
            out.extend_from_slice(&self.events(index..index + 1));
        } else {
            event::write_line(&self.task, &self.records[index], out);
        }
    }

    /// The SSE events of the records with these indexes, as one shared slice.
    pub fn events(&self, range: std::ops::Range<usize>) -> Bytes {
        let encoded = self.events.get_or_init(|| self.encode());
        let start = if range.start == 0 { 0 } else { encoded.ends[range.start - 1] as usize };
        let end = if range.end == 0 { 0 } else { encoded.ends[range.end - 1] as usize };
        encoded.bytes.slice(start..end.max(start))
    }

    fn encode(&self) -> Encoded {
        let mut bytes = Vec::with_capacity(self.weight + self.records.len() * 256);
        let mut ends = Vec::with_capacity(self.records.len());
        for record in &self.records {
            event::write_line(&self.task, record, &mut bytes);
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Encoded { bytes: bytes.into(), ends }
    }
}

/// Moves messages and fields into one buffer of exactly their size.
fn gather(records: &mut [LogRecord]) {
    let size = records.iter().map(|record| record.message.len() + record.fields.len()).sum();
    let mut bytes = BytesMut::with_capacity(size);
    for record in &*records {
        bytes.extend_from_slice(&record.message);
        bytes.extend_from_slice(&record.fields);
    }
    let mut rest = bytes.freeze();
    for record in records {
        record.message = rest.split_to(record.message.len());
        record.fields = rest.split_to(record.fields.len());
    }
}
