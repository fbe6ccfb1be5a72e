//! What a producer sent, as 32 bytes: the running hash of `Proof` in `logs.proto`, whose comments say exactly which bytes
//! are hashed. Producers fold what they send, the server what is stored.

use sha2::{Digest as _, Sha256};

use crate::v1::Proof;

const CONTINUED: u8 = 1;
const NO_NEWLINE: u8 = 2;
/// Stores keep signed numbers, so that one bit of an update_id does not travel.
const UPDATE_ID: u64 = i64::MAX as u64;

/// What is hashed of a line.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The producer's number.
    pub seq: u64,
    /// See `LogEntry`.
    pub time_unix_nano: i64,
    /// 1 to 3; 0 counts as 1.
    pub stream: u8,
    /// 0 to 24.
    pub level: u8,
    /// See `LogEntry`.
    pub continued: bool,
    /// See `LogEntry`.
    pub no_newline: bool,
    /// See `LogEntry`.
    pub update_id: u64,
    /// The exact bytes.
    pub message: &'a [u8],
    /// The exact bytes.
    pub fields_json: &'a [u8],
}

/// Lines folded so far. The default: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fold {
    /// How many.
    pub lines: u64,
    /// Of their messages.
    pub bytes: u64,
    /// The end of the chain.
    pub digest: [u8; 32],
}

impl Fold {
    /// Adds the next line. The caller keeps the order, and each number once.
    pub fn add(&mut self, line: &Line<'_>) {
        self.lines += 1;
        self.bytes = self.bytes.saturating_add(line.message.len() as u64);
        let mut hash = Sha256::new();
        hash.update(head(&self.digest, line));
        hash.update(line.message);
        hash.update((line.fields_json.len() as u32).to_be_bytes());
        hash.update(line.fields_json);
        self.digest = hash.finalize().into();
    }

    /// For a Close.
    pub fn to_proof(self) -> Proof {
        Proof { lines: self.lines, bytes: self.bytes, digest: self.digest.to_vec().into() }
    }
}

/// In one piece: an update of the hash costs more than a copy of few bytes.
fn head(digest: &[u8; 32], line: &Line<'_>) -> [u8; 63] {
    let flags = if line.continued { CONTINUED } else { 0 } | if line.no_newline { NO_NEWLINE } else { 0 };
    let mut head = [0; 63];
    head[..32].copy_from_slice(digest);
    head[32..40].copy_from_slice(&line.seq.to_be_bytes());
    head[40..48].copy_from_slice(&line.time_unix_nano.to_be_bytes());
    head[48..51].copy_from_slice(&[line.stream.max(1), line.level, flags]);
    head[51..59].copy_from_slice(&(line.update_id & UPDATE_ID).to_be_bytes());
    head[59..].copy_from_slice(&(line.message.len() as u32).to_be_bytes());
    head
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const FIRST: Line<'_> = Line {
        seq: 1,
        time_unix_nano: 1_700_000_000_000_000_000,
        stream: 1,
        level: 0,
        continued: false,
        no_newline: false,
        update_id: 0,
        message: b"hello",
        fields_json: b"",
    };

    fn second() -> Line<'static> {
        let (message, fields_json) = ("w\u{f6}rld".as_bytes(), br#"{"a":1}"#.as_slice());
        let time_unix_nano = FIRST.time_unix_nano + 1;
        Line {
            seq: 2,
            time_unix_nano,
            stream: 3,
            level: 13,
            no_newline: true,
            update_id: 7,
            message,
            fields_json,
            ..FIRST
        }
    }

    #[test]
    fn the_test_vector_of_the_protocol() {
        let mut fold = Fold::default();
        fold.add(&FIRST);
        fold.add(&second());
        let hex = fold.digest.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        assert_eq!((fold.lines, fold.bytes), (2, 11));
        assert!(include_str!("../flowforge/logs/v1/logs.proto").contains(&hex), "{hex}");
    }

    #[test]
    fn every_field_counts() {
        let folded = |line: Line<'_>| {
            let mut fold = Fold::default();
            fold.add(&line);
            fold.digest
        };
        let good = folded(second());
        for other in [
            Line { seq: 3, ..second() },
            Line { time_unix_nano: 0, ..second() },
            Line { stream: 2, ..second() },
            Line { level: 12, ..second() },
            Line { continued: true, ..second() },
            Line { no_newline: false, ..second() },
            Line { update_id: 8, ..second() },
            Line { message: b"w", ..second() },
            Line { fields_json: b"{}", ..second() },
        ] {
            assert_ne!(folded(other), good, "{other:?}");
        }
        assert_eq!(folded(Line { stream: 0, ..FIRST }), folded(FIRST));
        assert_eq!(folded(Line { update_id: 7 | 1 << 63, ..second() }), good);
    }
}
