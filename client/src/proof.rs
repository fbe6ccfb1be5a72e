//! What this producer has sent as lines, for its Close: `Proof` in `logs.proto`.
//!
//! It is folded on the sender's thread when a batch is made, so that capturing costs nothing more, and each number once,
//! however often it is sent. A line that was never sent was given up, and the log has a row that says so.

use flowforge_proto::proof::{Fold, Line};
use flowforge_proto::v1;

/// The lines sent so far.
#[derive(Debug)]
pub(crate) struct Sent {
    fold: Fold,
    next_seq: u64,
    /// A number was passed over: somebody else has sent it.
    has_hole: bool,
}

impl Sent {
    /// Of a producer whose first number is 1. Who goes on for another, from a later one, cannot prove anything.
    pub(crate) fn new(first_seq: u64) -> Self {
        Self { fold: Fold::default(), next_seq: first_seq, has_hole: first_seq != 1 }
    }

    /// A batch is about to leave.
    pub(crate) fn add(&mut self, batch: &v1::LogBatch) {
        let mut seq = batch.first_seq;
        for entry in &batch.entries {
            let next = seq.saturating_add(entry.dropped.map_or(1, |run| run.lines));
            if next > self.next_seq {
                self.has_hole |= seq > self.next_seq;
                if entry.dropped.is_none() {
                    self.fold.add(&line_of(seq, entry));
                }
                self.next_seq = next;
            }
            seq = next;
        }
    }

    /// What a Close with this final number says; `None`: not every number was seen here.
    pub(crate) fn proof(&self, final_seq: u64) -> Option<v1::Proof> {
        (!self.has_hole && self.next_seq == final_seq + 1).then(|| self.fold.to_proof())
    }
}

fn line_of(seq: u64, entry: &v1::LogEntry) -> Line<'_> {
    Line {
        seq,
        time_unix_nano: entry.time_unix_nano,
        stream: entry.stream as u8,
        level: entry.level as u8,
        continued: entry.continued,
        no_newline: entry.no_newline,
        update_id: entry.update_id,
        message: &entry.message,
        fields_json: &entry.fields_json,
    }
}
