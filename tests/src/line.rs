//! What a generated line says, and what is remembered of a line that was read.

use std::hash::{DefaultHasher, Hasher as _};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The text of a generator's line: nothing has to be kept to know it later.
pub fn text(tag: &str, seq: u64) -> String {
    // Of different lengths, and with characters that JSON and UTF-8 treat differently.
    let padding = (seq.wrapping_mul(2_654_435_761) % 60) as usize;
    format!("{tag} line {seq} é\"\\\t{:.<padding$}", "")
}

/// One row, as a viewer was shown it or the store has it. Equal rows are equal in every member of their JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Place in the task.
    pub offset: u64,
    /// The epoch it was given that place in.
    pub epoch: u64,
    /// 0 for rows of the server's own.
    pub producer: u128,
    /// The producer's own number; 0 for rows of the server's own.
    pub seq: u64,
    /// Digest of the message.
    pub text: u64,
    /// Digest of the whole JSON.
    pub json: u64,
}

#[derive(Deserialize)]
struct Members<'a> {
    offset: u64,
    epoch: u64,
    #[serde(default, borrow)]
    producer: Option<&'a str>,
    #[serde(default)]
    seq: u64,
    #[serde(borrow)]
    message: std::borrow::Cow<'a, str>,
}

impl Row {
    /// From the JSON of one line.
    pub fn parse(json: &str) -> Result<Self> {
        let row: Members<'_> = serde_json::from_str(json).with_context(|| format!("not the JSON of a line: {json}"))?;
        let producer = match row.producer {
            None => 0,
            Some(hex) => u128::from_str_radix(hex, 16).with_context(|| format!("not a producer: {hex}"))?,
        };
        Ok(Self {
            offset: row.offset,
            epoch: row.epoch,
            producer,
            seq: row.seq,
            text: digest(row.message.as_bytes()),
            json: digest(json.as_bytes()),
        })
    }
}

/// A digest to compare texts by.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
