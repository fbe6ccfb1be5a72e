//! The promises, checked against journals.
//!
//! acked ⊆ stored · no (producer, seq) twice · each producer's lines in its order and as it wrote them · offsets contiguous
//! from 1, or from a declared floor · every viewer, after what it was told to take back, has exactly the store's rows.
//!
//! A verdict names the first violation.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value;

use crate::generator::Journal;
use crate::line::{Row, digest, text};
use crate::store_read::StoreRows;
use crate::viewer::{Seen, Viewer};

/// The first broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

type Verdict<T = ()> = Result<T, Violation>;

macro_rules! require {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(Violation(format!($($text)+)));
        }
    };
}

/// What a viewer may have been told besides lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// The server lost nothing: `start`, `live`, `end`.
    Undisturbed,
    /// Also `rollback`: the server died.
    Rollback,
    /// Also `rollback`, `reset` and `gap`.
    Anything,
}

/// Checks the store against the producers.
pub fn check_store(store: &StoreRows, producers: &[Journal]) -> Verdict {
    check_offsets(store)?;
    let by_id: HashMap<u128, &Journal> = producers.iter().map(|journal| (journal.producer, journal)).collect();
    let mut last: HashMap<u128, u64> = HashMap::new();
    for row in store.rows.iter().filter(|row| row.producer != 0) {
        let Some(journal) = by_id.get(&row.producer) else {
            return Err(Violation(format!(
                "offset {}: a producer that nobody started: {:032x}",
                row.offset, row.producer
            )));
        };
        let tag = &journal.tag;
        let expected = last.get(&row.producer).map_or(1, |last| last + 1);
        require!(
            row.seq >= expected,
            "offset {}: seq {} of {tag} again or late, after {}",
            row.offset,
            row.seq,
            expected - 1
        );
        require!(row.seq == expected, "offset {}: {tag} jumps from {} to {}", row.offset, expected - 1, row.seq);
        require!(row.seq <= journal.captured, "offset {}: {tag} never wrote a line {}", row.offset, row.seq);
        let wrote = digest(text(tag, row.seq).as_bytes());
        require!(row.text == wrote, "offset {}: not what {tag} wrote as line {}", row.offset, row.seq);
        last.insert(row.producer, row.seq);
    }
    for journal in producers {
        let stored = last.get(&journal.producer).copied().unwrap_or(0);
        let tag = &journal.tag;
        if let Some(broken) = &journal.broken {
            return Err(Violation(format!("{tag}: {broken}")));
        }
        require!(journal.acked <= stored, "{tag}: acked up to {}, stored up to {stored}", journal.acked);
        require!(
            !journal.closed || stored == journal.captured,
            "{tag}: closed at {}, stored {stored}",
            journal.captured
        );
    }
    Ok(())
}

fn check_offsets(store: &StoreRows) -> Verdict {
    let mut expected = store.floor.max(1);
    let mut epoch = 0;
    for row in &store.rows {
        require!(row.offset == expected, "the store has offset {} where {expected} is due", row.offset);
        require!(row.epoch >= epoch, "offset {}: epoch {} after {epoch}", row.offset, row.epoch);
        epoch = row.epoch;
        expected += 1;
    }
    require!(expected == store.end + 1, "the store ends at {} and says {}", expected - 1, store.end);
    Ok(())
}

/// Checks one unfiltered viewer that read to the end of what the store has.
pub fn check_viewer(viewer: &Viewer, store: &StoreRows, allowed: Allowed) -> Verdict {
    let rows = replay(&viewer.journal, allowed).map_err(|why| Violation(format!("viewer {}: {why}", viewer.name)))?;
    let name = &viewer.name;
    let Some(first) = rows.first() else {
        require!(store.rows.is_empty(), "viewer {name} has nothing, the store {} rows", store.rows.len());
        return Ok(());
    };
    let skipped = store.rows.iter().take_while(|row| row.offset < first.offset).count();
    let expected = &store.rows[skipped..];
    for (shown, stored) in rows.iter().zip(expected) {
        require!(shown == stored, "viewer {name}: shows {shown:?}, the store has {stored:?}");
    }
    require!(rows.len() == expected.len(), "viewer {name} has {} rows, the store {}", rows.len(), expected.len());
    Ok(())
}

/// Applies what a viewer was told, and returns the rows that stand.
pub fn replay(journal: &[Seen], allowed: Allowed) -> Verdict<Vec<Row>> {
    let mut screen = Screen { rows: Vec::new(), last: None, allowed, started: false, live: 0, over: false };
    for seen in journal {
        match seen {
            Seen::Open(place) => {
                (screen.started, screen.live, screen.over) = (false, 0, false);
                // Cut before the first line: it has no place yet, and begins like a new reader.
                if place.is_none() && screen.rows.is_empty() {
                    screen.last = None;
                }
            }
            Seen::Cut => {}
            Seen::Row(row) => screen.row(row)?,
            Seen::Control(name, data) => screen.control(name, data)?,
        }
    }
    Ok(screen.rows)
}

struct Screen {
    rows: Vec<Row>,
    /// The offset before the one that is due; `None` before the first `start`.
    last: Option<u64>,
    allowed: Allowed,
    /// `start` came on this connection.
    started: bool,
    /// How often `live` came on this connection.
    live: u32,
    /// `end` came on this connection.
    over: bool,
}

impl Screen {
    fn row(&mut self, row: &Row) -> Verdict {
        require!(self.started, "offset {} before start", row.offset);
        require!(!self.over, "offset {} after end", row.offset);
        let due = self.last.map_or(1, |last| last + 1);
        require!(row.offset == due, "offset {} where {due} is due", row.offset);
        self.last = Some(row.offset);
        self.rows.push(*row);
        Ok(())
    }

    fn control(&mut self, name: &str, data: &Value) -> Verdict {
        let number = |key: &str| data[key].as_u64().ok_or_else(|| Violation(format!("{name} without {key}: {data}")));
        require!(!self.over, "{name} after end");
        match name {
            "start" => {
                let from = number("from")?;
                require!(!self.started, "start twice on one connection");
                let due = self.last.map_or(from, |last| last + 1);
                require!(from == due, "start from {from} where {due} is due");
                self.started = true;
                self.last = Some(from - 1);
            }
            "live" => {
                self.live += 1;
                require!(self.live == 1, "live {} times on one connection", self.live);
            }
            "rollback" => {
                let to = number("to")?;
                require!(self.allowed != Allowed::Undisturbed, "an undue rollback to {to}");
                // A reader that was cut right after a rollback comes back with the same id, and is told again.
                let again = !self.started && self.last == Some(to);
                require!(again || self.last.is_some_and(|last| last > to), "a rollback to {to} from {:?}", self.last);
                self.rows.retain(|row| row.offset <= to);
                self.last = Some(to);
            }
            "reset" => {
                require!(self.allowed == Allowed::Anything, "an undue reset");
                self.rows.clear();
                self.last = None;
            }
            "gap" => {
                let (from, to) = (number("from")?, number("to")?);
                require!(self.allowed == Allowed::Anything, "an undue gap from {from} to {to}");
                require!(
                    Some(from) == self.last.map(|last| last + 1) && to >= from,
                    "gap {from} to {to} after {:?}",
                    self.last
                );
                self.last = Some(to);
            }
            "end" => {
                let offset = number("offset")?;
                require!(self.last == Some(offset), "the end is at {offset}, shown up to {:?}", self.last);
                require!(self.live == 1, "the end without live before it");
                self.over = true;
            }
            "frame" => {}
            other => return Err(Violation(format!("an unknown event {other:?}"))),
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
