//! Where a returning reader goes on: a table of cases, without input or output.

use flowforge_storage::EpochStart;

use crate::broker::Position;

/// A reader's place: the id of the last event it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The row's epoch.
    pub epoch: u64,
    /// The row's offset.
    pub offset: u64,
}

impl Place {
    /// From `<epoch>-<offset>`; `None` if it is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.trim().split_once('-')?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        Some(Self { epoch: number(epoch)?, offset: number(offset)? })
    }
}

/// What to do with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Go on after this offset.
    After(u64),
    /// Rows above this offset are void; go on after it.
    RollbackTo(u64),
    /// The place means nothing here: begin anew.
    Reset,
}

/// Compares a place with the task. Rows up to the lowest base of the epochs after the place's own are as the reader has them;
/// those above were in a memory that is lost. Bases rise, but where a store came back from a backup.
pub fn resolve(place: Place, position: &Position) -> Resume {
    let epochs: &[EpochStart] = position.record.as_ref().map_or(&[], |record| &record.epochs);
    let Some(at) = epochs.iter().position(|start| start.epoch == place.epoch) else { return Resume::Reset };
    match epochs[at + 1..].iter().map(|later| later.base).min() {
        Some(base) if place.offset > base => Resume::RollbackTo(base.min(position.end)),
        _ if place.offset > position.end => Resume::Reset,
        _ => Resume::After(place.offset),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flowforge_storage::TaskRecord;
    use flowforge_storage::contract::sample;

    use super::*;

    fn position(epochs: &[(u64, u64)], end: u64) -> Position {
        let epochs = epochs.iter().map(|&(epoch, base)| EpochStart { epoch, base }).collect();
        let record = TaskRecord { epochs, ..sample::record(&sample::key("t")) };
        Position { record: Some(Arc::new(record)), end, stored: end }
    }

    #[test]
    fn every_case_of_a_returning_reader() {
        let now = position(&[(10, 0), (20, 100), (30, 150)], 180);
        let cases = [
            (10, 100, Resume::After(100)),
            (10, 101, Resume::RollbackTo(100)),
            (20, 150, Resume::After(150)),
            (20, 151, Resume::RollbackTo(150)),
            (30, 180, Resume::After(180)),
            (30, 181, Resume::Reset),
            (30, u64::MAX, Resume::Reset),
            (11, 5, Resume::Reset),
            (10, 0, Resume::After(0)),
        ];
        for (epoch, offset, expected) in cases {
            assert_eq!(resolve(Place { epoch, offset }, &now), expected, "{epoch}-{offset}");
        }
        assert_eq!(resolve(Place { epoch: 1, offset: 1 }, &Position::default()), Resume::Reset);
        let restored = position(&[(10, 0), (20, 100), (30, 50)], 40);
        assert_eq!(resolve(Place { epoch: 10, offset: 45 }, &restored), Resume::Reset);
        assert_eq!(resolve(Place { epoch: 10, offset: 90 }, &restored), Resume::RollbackTo(40));
    }

    #[test]
    fn places_are_two_plain_numbers() {
        assert_eq!(Place::parse("12-34"), Some(Place { epoch: 12, offset: 34 }));
        for garbage in ["", "-", "1-", "-1", "1--2", "+1-2", "1-2-3", "a-b", "99999999999999999999-1", "1-2\n3"] {
            assert_eq!(Place::parse(garbage), None, "{garbage:?}");
        }
    }
}
