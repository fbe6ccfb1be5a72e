//! Rows that the store refuses for themselves: found by halving, replaced at their own offset, their neighbours unharmed.

use flowforge_storage::{LogRecord, TaskLines};
use tracing::error;

use super::{Writer, insert_with_retries};
use crate::broker::rows;

/// Inserts everything; each row that the store refuses even alone becomes a row that says so.
pub(super) async fn insert_around(writer: &Writer, lines: &[TaskLines<'_>]) {
    for part in lines {
        // A stack of pieces instead of recursion: the deepest is log2 of a batch.
        let mut pieces: Vec<&[LogRecord]> = vec![part.records];
        while let Some(piece) = pieces.pop() {
            let attempt = [TaskLines { task: part.task.clone(), records: piece }];
            let Err(refused) = insert_with_retries(writer.store.as_ref(), &attempt).await else { continue };
            match piece {
                [] => {}
                [record] => replace(writer, part, record, &refused.to_string()).await,
                _ => {
                    let (left, right) = piece.split_at(piece.len() / 2);
                    pieces.push(right);
                    pieces.push(left);
                }
            }
        }
    }
}

async fn replace(writer: &Writer, part: &TaskLines<'_>, record: &LogRecord, reason: &str) {
    error!(task = %part.task, offset = record.offset, reason, "the store refuses this row, a row that says so takes its place");
    writer.broker.refused(&part.task, record, reason).await;
    let stand_in = [rows::rejected(record, reason)];
    let lines = [TaskLines { task: part.task.clone(), records: &stand_in }];
    if let Err(error) = insert_with_retries(writer.store.as_ref(), &lines).await {
        error!(task = %part.task, offset = record.offset, %error, "the store refuses the stand-in as well, readers will see a gap");
    }
}
