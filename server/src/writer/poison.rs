//! Rows that the store refuses for themselves: found by halving, replaced at their own offset, their neighbours unharmed.

use flowforge_storage::{LogRecord, LogStore, TaskLines};
use tracing::error;

use super::insert_with_retries;
use crate::broker::rows;

/// Inserts everything; each row that the store refuses even alone becomes a row that says so.
pub(super) async fn insert_around(store: &dyn LogStore, lines: &[TaskLines<'_>]) {
    for part in lines {
        // A stack of pieces instead of recursion: the deepest is log2 of a batch.
        let mut pieces: Vec<&[LogRecord]> = vec![part.records];
        while let Some(piece) = pieces.pop() {
            let attempt = [TaskLines { task: part.task.clone(), records: piece }];
            let Err(refused) = insert_with_retries(store, &attempt).await else { continue };
            match piece {
                [] => {}
                [record] => replace(store, part, record, &refused.to_string()).await,
                _ => {
                    let (left, right) = piece.split_at(piece.len() / 2);
                    pieces.push(right);
                    pieces.push(left);
                }
            }
        }
    }
}

async fn replace(store: &dyn LogStore, part: &TaskLines<'_>, record: &LogRecord, reason: &str) {
    error!(task = %part.task, offset = record.offset, reason, "the store refuses this row, a row that says so takes its place");
    let stand_in = [rows::rejected(record, reason)];
    let lines = [TaskLines { task: part.task.clone(), records: &stand_in }];
    if let Err(error) = insert_with_retries(store, &lines).await {
        error!(task = %part.task, offset = record.offset, %error, "the store refuses the stand-in as well, readers will see a gap");
    }
}
