//! Hostile places, for `tests/fuzz` and the tests: the text that a reader sends as its last id, and what is made of it.

use std::sync::Arc;

use flowforge_storage::contract::sample;
use flowforge_storage::{EpochStart, TaskRecord};

use super::event::write_place;
use super::resume::{Place, Resume, resolve};
use crate::broker::Position;

/// The body of the target `place`: a text if the first byte is even, else a place and a position.
pub(crate) fn place(input: &[u8]) {
    match input.split_first() {
        Some((way, rest)) if way.is_multiple_of(2) => parsed(&String::from_utf8_lossy(rest)),
        Some((_, rest)) => resolved(rest),
        None => parsed(""),
    }
}

/// What is taken is two numbers; they are printed as they were sent, and what is printed is taken.
fn parsed(text: &str) {
    let Some(place) = Place::parse(text) else { return };
    let mut event = Vec::new();
    write_place(place.epoch, place.offset, &mut event);
    let event = String::from_utf8(event).expect("an event is text");
    let printed = event.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("an id alone");
    assert_eq!(Place::parse(printed), Some(place));
    let digits = |text: &str| text.trim_start_matches('0').to_owned();
    let plain = text.trim().split('-').map(digits).collect::<Vec<_>>();
    assert_eq!(plain, printed.split('-').map(digits).collect::<Vec<_>>(), "{text:?}");
}

/// One byte for a small number, or eight for any.
fn number(input: &mut &[u8]) -> u64 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    if *first < 250 {
        return u64::from(*first);
    }
    let (taken, rest) = rest.split_at(rest.len().min(8));
    *input = rest;
    taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn resolved(mut input: &[u8]) {
    let place = Place { epoch: number(&mut input), offset: number(&mut input) };
    let end = number(&mut input);
    let mut epochs = Vec::new();
    while !input.is_empty() && epochs.len() < TaskRecord::MAX_EPOCHS {
        epochs.push(EpochStart { epoch: number(&mut input), base: number(&mut input) });
    }
    let found = resolve(place, &position(epochs.clone(), end));
    let (Resume::After(on) | Resume::RollbackTo(on)) = found else { return };
    assert!(on <= end, "goes on after {on}, but the end is {end}");
    assert!(on <= place.offset, "what the reader has not seen is not skipped");
    assert_eq!(found == Resume::After(on), on == place.offset, "a reader is told when it loses rows, and only then");
    let later = epochs.iter().skip_while(|start| start.epoch != place.epoch).skip(1);
    assert!(later.into_iter().all(|start| on <= start.base), "rows above a later base are void");
}

fn position(epochs: Vec<EpochStart>, end: u64) -> Position {
    let record = TaskRecord { epochs, ..sample::record(&sample::key("t")) };
    Position { record: Some(Arc::new(record)), end, stored: end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay;

    #[test]
    fn hostile_places_mean_what_they_say_or_nothing() {
        replay::replay("place", 20_000, place);
    }

    /// `cargo test -p flowforge-server --lib writes_the_place_seeds -- --ignored`
    #[test]
    #[ignore = "makes the corpus"]
    fn writes_the_place_seeds() {
        let seeds = [
            ("text", b"\x0012-34".to_vec()),
            ("zeros", b"\x00 0012-0000034\n".to_vec()),
            ("large", b"\x0018446744073709551615-18446744073709551615".to_vec()),
            ("after", vec![1, 10, 100, 180, 10, 0, 20, 100, 30, 150]),
            ("rollback", vec![1, 10, 101, 180, 10, 0, 20, 100, 30, 150]),
            ("lower", vec![1, 10, 90, 180, 10, 0, 20, 100, 30, 50]),
            ("reset", vec![1, 30, 181, 180, 10, 0, 20, 100, 30, 150]),
        ];
        replay::write_seeds("place", &seeds);
    }
}
