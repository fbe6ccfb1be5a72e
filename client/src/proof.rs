//! What this producer has sent as lines, for its Close: `Proof` in `logs.proto`.
//!
//! It is folded on the sender's thread when a batch is made, so that capturing costs nothing more, and each number once,
//! however often it is sent. A line that was never sent was given up, and the log has a row that says so.

use std::sync::{Mutex, MutexGuard, PoisonError};

use flowforge_proto::proof::{Fold, Line};
use flowforge_proto::v1;

/// The lines sent so far. Only the sender uses it, so that its lock is always free.
#[derive(Debug)]
pub(crate) struct Sent(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    fold: Fold,
    next_seq: u64,
    /// A number was passed over: somebody else has sent it.
    has_hole: bool,
}

impl Sent {
    /// Of a producer whose first number is 1. Who goes on for another, from a later one, cannot prove anything.
    pub(crate) fn new(first_seq: u64) -> Self {
        Self(Mutex::new(Lines { fold: Fold::default(), next_seq: first_seq, has_hole: first_seq != 1 }))
    }

    /// A batch is about to leave.
    pub(crate) fn add(&self, batch: &v1::LogBatch) {
        self.lock().add(batch);
    }

    /// What a Close with this final number says; `None`: not every number was seen here.
    pub(crate) fn proof(&self, final_seq: u64) -> Option<v1::Proof> {
        let lines = self.lock();
        (!lines.has_hole && lines.next_seq == final_seq + 1).then(|| lines.fold.to_proof())
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn add(&mut self, batch: &v1::LogBatch) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first_seq: u64, entries: impl IntoIterator<Item = v1::LogEntry>) -> v1::LogBatch {
        v1::LogBatch { first_seq, entries: entries.into_iter().collect() }
    }

    fn line(n: u64) -> v1::LogEntry {
        v1::LogEntry { message: format!("{n}").into(), stream: 1, ..v1::LogEntry::default() }
    }

    fn run(lines: u64) -> v1::LogEntry {
        v1::LogEntry { dropped: Some(v1::Dropped { lines, bytes: 1 }), ..v1::LogEntry::default() }
    }

    #[test]
    fn each_line_counts_once_however_often_it_is_sent() {
        let once = Sent::new(1);
        once.add(&batch(1, (1..=9).map(line)));
        let often = Sent::new(1);
        for range in [1..=4, 1..=2, 3..=6, 5..=9, 2..=9] {
            often.add(&batch(*range.start(), range.map(line)));
        }
        assert_eq!(often.proof(9), once.proof(9));
        assert_eq!(once.proof(9).map(|proof| (proof.lines, proof.bytes)), Some((9, 9)));
        assert_eq!((once.proof(8), once.proof(10)), (None, None));
        assert_eq!(Sent::new(1).proof(0).map(|proof| proof.digest.to_vec()), Some(vec![0; 32]));
    }

    #[test]
    fn runs_are_passed_over_also_where_they_overlap_lines() {
        let sent = Sent::new(1);
        sent.add(&batch(1, [line(1), run(3), line(5)]));
        // Lines that were sent, given up, and are told of again.
        sent.add(&batch(4, [run(4), line(8)]));
        let proof = sent.proof(8).unwrap();
        assert_eq!((proof.lines, proof.bytes), (3, 3));
    }

    #[test]
    fn who_has_not_sent_everything_proves_nothing() {
        let resumed = Sent::new(5);
        resumed.add(&batch(5, (5..=9).map(line)));
        assert_eq!(resumed.proof(9), None);
        let told_to_go_on_later = Sent::new(1);
        told_to_go_on_later.add(&batch(4, (4..=9).map(line)));
        assert_eq!(told_to_go_on_later.proof(9), None);
    }
}
