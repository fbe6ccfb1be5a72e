//! The task's state machine, case by case; `model_tests` has its rules over random histories.

use std::time::Duration;

use flowforge_storage::Outcome;

use super::*;
use crate::broker::samples::{self, line_or_run as line};
use crate::broker::{Ending, ProducerHello};

fn hello(producer: u8, first_unacked_seq: u64) -> ProducerHello {
    ProducerHello { first_unacked_seq, ..samples::hello(producer + 1) }
}

fn closed(final_seq: u64, status: TaskStatus) -> Ending {
    samples::ending(final_seq, Outcome { status, exit_code: None })
}

fn open_with_gap(state: &mut TaskState, hello: &ProducerHello) -> u64 {
    let opened = state.open(hello, 8, 0).unwrap();
    let (generation, gap) = (opened.welcome.generation, opened.gap.unwrap());
    assert_eq!(state.append(hello.producer, generation, 1, vec![gap], 0).unwrap().len(), 1);
    generation
}

#[test]
fn the_owner_decides_the_status() {
    let mut state = TaskState::default();
    let child = state.open(&hello(1, 1), 8, 0).unwrap().welcome.generation;
    let owner = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    assert!(state.close(ProducerId([1; 16]), owner, closed(0, TaskStatus::Failed), 0).unwrap().is_empty());
    let rows = state.close(ProducerId([2; 16]), child, closed(0, TaskStatus::Succeeded), 0).unwrap();
    assert_eq!(rows::parse_end(&rows[0]).unwrap().status, TaskStatus::Failed);
}

#[test]
fn a_closed_producer_that_comes_back_changes_nothing() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    assert_eq!(state.close(ProducerId([1; 16]), first, closed(0, TaskStatus::Succeeded), 0).unwrap().len(), 1);
    let version = state.record.as_ref().unwrap().version;
    let again = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    assert!(state.close(ProducerId([1; 16]), again, closed(0, TaskStatus::Succeeded), 0).unwrap().is_empty());
    let record = state.record.as_ref().unwrap();
    assert_eq!((record.status, record.attempt, record.version, state.end), (TaskStatus::Succeeded, 1, version, 1));
}

#[test]
fn another_producer_after_the_end_is_another_attempt() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.close(ProducerId([1; 16]), first, closed(0, TaskStatus::Failed), 0).unwrap();
    state.open(&hello(1, 1), 8, 5).unwrap();
    let record = state.record.clone().unwrap();
    assert_eq!((record.attempt, record.attempt_base, record.status), (2, 1, TaskStatus::Running));
    assert_eq!((record.exit_code, record.ended_at_ms, record.producers.len()), (None, None, 1));
}

#[test]
fn a_lost_producer_that_comes_back_goes_on_in_its_attempt() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.release(ProducerId([1; 16]), first, Instant::now());
    let row = state.expire(Instant::now() + Duration::from_secs(1), 0).unwrap();
    let info = rows::parse_end(&row).unwrap();
    assert_eq!((info.status, info.complete), (TaskStatus::Lost, false));
    state.open(&hello(0, 1), 8, 0).unwrap();
    let record = state.record.clone().unwrap();
    assert_eq!((record.attempt, record.status), (1, TaskStatus::Running));
}

#[test]
fn producers_are_limited_and_the_refused_one_leaves_no_trace() {
    let mut state = TaskState::default();
    state.open(&hello(0, 1), 1, 0).unwrap();
    let before = state.record.clone();
    assert!(matches!(state.open(&hello(1, 1), 1, 0), Err(BrokerError::TooManyProducers(1))));
    assert_eq!(state.record, before);
}

#[test]
fn a_higher_attempt_ends_the_one_that_nobody_speaks_for() {
    let mut state = TaskState::default();
    let dead = state.open(&ProducerHello { attempt: 1, ..hello(0, 1) }, 8, 0).unwrap().welcome.generation;
    state.release(ProducerId([1; 16]), dead, Instant::now() + Duration::from_secs(30));
    let opened = state.open(&ProducerHello { attempt: 2, owner: true, ..hello(1, 1) }, 8, 5).unwrap();
    let ended = rows::parse_end(&opened.rows[0]).unwrap();
    assert_eq!((ended.attempt, ended.status, ended.complete), (1, TaskStatus::Lost, false));
    let rows =
        state.close(ProducerId([2; 16]), opened.welcome.generation, closed(0, TaskStatus::Succeeded), 9).unwrap();
    let info = rows::parse_end(&rows[0]).unwrap();
    assert_eq!((info.attempt, info.status, info.complete, info.lines), (2, TaskStatus::Succeeded, true, 0));
}

#[test]
fn an_outcome_is_kept_back_until_the_lines_before_it_are_stored() {
    let mut state = TaskState::default();
    let first = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.open(&hello(1, 1), 8, 0).unwrap();
    state.persisted_version = state.version();
    state.append(ProducerId([1; 16]), first, 1, vec![line(None)], 0).unwrap();
    state.close(ProducerId([1; 16]), first, closed(1, TaskStatus::Succeeded), 0).unwrap();
    assert!(state.record_to_persist().is_none(), "the line is not stored");
    state.mark_stored(ProducerId([1; 16]), 1, 1);
    assert!(state.record_to_persist().is_some());
}

#[test]
fn numbers_from_outside_cannot_overflow() {
    let mut state = TaskState::default();
    let huge = ProducerHello { attempt: u32::MAX, ..hello(0, i64::MAX as u64) };
    let generation = open_with_gap(&mut state, &huge);
    open_with_gap(&mut state, &hello(1, i64::MAX as u64));
    assert_eq!(state.record.as_ref().unwrap().dropped, i64::MAX as u64);
    state.close(ProducerId([1; 16]), generation, closed(i64::MAX as u64 - 1, TaskStatus::Failed), 0).unwrap();
    let generation = state.open(&hello(1, 1), 8, 0).unwrap().welcome.generation;
    state.close(ProducerId([2; 16]), generation, closed(i64::MAX as u64 - 1, TaskStatus::Failed), 0).unwrap();
    state.open(&hello(2, 1), 8, 0).unwrap();
    assert_eq!(state.record.as_ref().unwrap().attempt, u32::MAX);
}

#[test]
fn an_ended_record_is_kept_back_until_its_end_row_is_stored() {
    let mut state = TaskState::default();
    let opened = state.open(&hello(0, 1), 8, 0).unwrap().welcome.generation;
    state.persisted_version = state.record_to_persist().unwrap().version;
    state.close(ProducerId([1; 16]), opened, closed(0, TaskStatus::Succeeded), 0).unwrap();
    assert!(state.record_to_persist().is_none());
    state.mark_stored(ProducerId::SERVER, 0, 1);
    assert!(state.record_to_persist().is_some());
}
