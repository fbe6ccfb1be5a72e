//! What follows from the rows and from what the producers said. Pure.

use flowforge_storage::{Claim, ProducerId, ProducerRecord, Recovery, TaskRecord, TaskStatus};
use serde::Serialize;

use super::hex;
use super::reading::{Rows, Seen, not_stored};

/// How far the proof has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every number is stored once, as it was sent.
    Verified,
    /// Something is missing, repeated or changed.
    Incomplete,
    /// Nothing is known to be wrong, and there is no proof.
    Unproven,
    /// A producer is open, or the lines are still being read back.
    Running,
}

/// How complete a producer's lines are, or a task's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Completeness {
    /// See [`State`].
    pub state: State,
    /// `None`: the lines were not read.
    #[serde(flatten)]
    pub counts: Option<Counts>,
    /// Why it is not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Lines stored.
    pub lines: u64,
    /// Lines numbered, as far as is known: `lines`, `dropped` and `missing` together.
    pub captured: u64,
    /// Numbers without a line, and without a row that says why.
    pub missing: u64,
    /// Lines given up, by rows that say so.
    pub dropped: u64,
}

/// A task's completeness, and each of its producers'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// All of them together.
    pub task: Completeness,
    /// By id, in the record's order.
    pub producers: Vec<(String, Completeness)>,
}

impl Completeness {
    fn without(state: State, reason: Option<&str>) -> Self {
        Self { state, counts: None, reason: reason.map(str::to_owned) }
    }
}

impl Report {
    /// Of a task that is not read because it goes on.
    pub(super) fn running() -> Self {
        Self { task: Completeness::without(State::Running, None), producers: Vec::new() }
    }

    /// Of a task that could not be read.
    pub(super) fn without(state: State, reason: &str) -> Self {
        Self { task: Completeness::without(state, Some(reason)), producers: Vec::new() }
    }
}

/// Compares. `floor`: the first offset that retention has left.
pub(super) fn judge(record: &TaskRecord, rows: &Rows, floor: u64) -> Report {
    let none = Seen::default();
    let mut producers = Vec::with_capacity(record.producers.len());
    for producer in &record.producers {
        let seen = ProducerId::from_hex(&producer.id).and_then(|id| rows.producers.get(&id)).unwrap_or(&none);
        let completeness = if floor > rows.from {
            let reason = format!("lines up to offset {} were deleted by retention", floor - 1);
            let (lines, dropped) = (seen.fold.lines, seen.dropped);
            let captured = producer.claim.as_ref().map_or(seen.last, |claim| claim.final_seq.max(seen.last));
            let counts = Some(Counts { lines, captured, missing: 0, dropped });
            Completeness { counts, ..Completeness::without(State::Unproven, Some(&reason)) }
        } else {
            of_producer(producer, seen)
        };
        producers.push((producer.id.clone(), completeness));
    }
    Report { task: together(&producers), producers }
}

fn of_producer(producer: &ProducerRecord, seen: &Seen) -> Completeness {
    let Seen { last, fold, dropped, mut missing, .. } = *seen;
    let mut problem = seen.problem.clone();
    let claim = producer.claim.as_ref();
    if let Some(Claim { final_seq, .. }) = claim {
        if *final_seq > last {
            missing = missing.saturating_add(final_seq - last);
            problem.get_or_insert_with(|| not_stored(last + 1, *final_seq));
        } else if *final_seq < last {
            problem.get_or_insert(format!("seq {last} is stored, but the producer's last was {final_seq}"));
        }
    }
    let (state, reason) = match problem {
        Some(problem) => (State::Incomplete, Some(problem)),
        None => of_whole(producer, seen),
    };
    let captured = fold.lines.saturating_add(dropped).saturating_add(missing);
    Completeness { state, counts: Some(Counts { lines: fold.lines, captured, missing, dropped }), reason }
}

/// Every number has a row: what is to be said of their content.
fn of_whole(producer: &ProducerRecord, seen: &Seen) -> (State, Option<String>) {
    let incomplete = |reason: String| (State::Incomplete, Some(reason));
    let unproven = |reason: &str| (State::Unproven, Some(reason.to_owned()));
    let differs = producer.claim.as_ref().and_then(|claim| claim.proof.as_ref()).map(|proof| {
        let fold = &seen.fold;
        if (proof.lines, proof.bytes) != (fold.lines, fold.bytes) {
            return Some(format!(
                "{} lines of {} bytes are stored, but the producer sent {} of {}",
                fold.lines, fold.bytes, proof.lines, proof.bytes
            ));
        }
        (proof.digest != hex(&fold.digest)).then(|| "what is stored is not what the producer sent".to_owned())
    });
    if seen.dropped > 0 {
        let rest = if differs == Some(None) { "; the others are stored as they were sent" } else { "" };
        let lines = if seen.dropped == 1 { "1 line was".to_owned() } else { format!("{} lines were", seen.dropped) };
        return incomplete(format!("{lines} given up by the producer{rest}"));
    }
    let Some(outcome) = producer.outcome else { return (State::Running, None) };
    let recovery = producer.claim.as_ref().and_then(|claim| claim.recovery);
    match (recovery, differs) {
        (_, Some(Some(difference))) => incomplete(difference),
        (Some(Recovery::Clean), _) => unproven("the producer died; all that it had captured is stored"),
        (Some(Recovery::Damaged), _) => unproven("the producer died, and not all that it had captured could be read"),
        (None, Some(None)) => (State::Verified, None),
        (None, None) if outcome.status == TaskStatus::Lost => {
            unproven("the producer left without a Close: whether it had more to say is not known")
        }
        (None, None) => unproven("the producer's Close says nothing of what it sent"),
    }
}

fn together(producers: &[(String, Completeness)]) -> Completeness {
    let order = [State::Running, State::Incomplete, State::Unproven, State::Verified];
    let decisive = order.into_iter().find_map(|state| producers.iter().find(|(_, of)| of.state == state));
    let Some((id, decisive)) = decisive else {
        return Completeness::without(State::Unproven, Some("no producer is known"));
    };
    let named = |reason: &String| if producers.len() > 1 { format!("producer {id}: {reason}") } else { reason.clone() };
    let mut all = Counts::default();
    for of in producers.iter().filter_map(|(_, of)| of.counts) {
        all.lines = all.lines.saturating_add(of.lines);
        all.captured = all.captured.saturating_add(of.captured);
        all.missing = all.missing.saturating_add(of.missing);
        all.dropped = all.dropped.saturating_add(of.dropped);
    }
    Completeness { state: decisive.state, counts: Some(all), reason: decisive.reason.as_ref().map(named) }
}
