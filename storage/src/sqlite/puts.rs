//! Task records that come together are written together: a commit costs the same for one as for hundreds.
//!
//! Each caller puts its record on a list. One of the callers on the list leads: it waits for the writer, takes what is
//! on the list by then, writes it in one transaction and tells each caller how its record fared.
//!
//! Invariant: a caller that waits has its record on the list, or in the hands of a leader, or an answer. A leader whose
//! future is dropped half-way drops what it had in hand; those callers see that and put their records on the list
//! again, which is harmless if they were committed already: the same version of a record is the same record.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::failed;
use super::task;
use super::writer::{WriteTx, Writer};
use crate::error::{ErrorKind, StoreError};
use crate::task::TaskRecord;

/// Records a transaction: inserts wait for it some tens of milliseconds.
const GROUP: usize = 500;

type Outcome = Result<(), StoreError>;

/// Where records wait for the writer.
#[derive(Default)]
pub(super) struct Puts {
    pending: Mutex<VecDeque<Put>>,
    /// Held by the caller that leads.
    lead: tokio::sync::Mutex<()>,
}

struct Put {
    record: Arc<TaskRecord>,
    answer: oneshot::Sender<Outcome>,
}

impl Puts {
    /// Writes the record. See [`LogStore::put_task`](crate::LogStore::put_task).
    pub(super) async fn put(&self, writer: &Writer, record: &TaskRecord) -> Outcome {
        task::check(record)?;
        let record = Arc::new(record.clone());
        loop {
            let answer = self.push(Arc::clone(&record));
            if let Some(outcome) = self.wait(writer, answer).await {
                return outcome;
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Put>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, record: Arc<TaskRecord>) -> oneshot::Receiver<Outcome> {
        let (answer, answered) = oneshot::channel();
        let mut pending = self.pending();
        // While the writer is stuck nobody else clears away what cancelled callers left. Seldom enough to cost nothing.
        if pending.len() > GROUP && pending.len().is_power_of_two() {
            pending.retain(|put| !put.answer.is_closed());
        }
        pending.push_back(Put { record, answer });
        answered
    }

    /// Leads until there is an answer. `None`: another leader had the record in hand and was cancelled.
    async fn wait(&self, writer: &Writer, mut answer: oneshot::Receiver<Outcome>) -> Option<Outcome> {
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => return answered.ok(),
                _leads = self.lead.lock() => self.write_some(writer).await,
            }
        }
    }

    /// Writes the next group. One that SQLite rejects is cut in two, until each record that is to blame is alone.
    async fn write_some(&self, writer: &Writer) {
        // First the writer, then the list: whoever comes while this waits is written along.
        let mut begun = Some(writer.begin().await);
        let mut groups = vec![self.take_group()];
        while let Some(mut group) = groups.pop() {
            let tx = match begun.take() {
                Some(begun) => begun,
                None => writer.begin().await,
            };
            let outcome = match tx {
                Ok(tx) => write(tx, &group).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.kind() == ErrorKind::Rejected && group.len() > 1 => {
                    let second = group.split_off(group.len() / 2);
                    groups.extend([second, group]);
                }
                outcome => answer(group, outcome),
            }
        }
    }

    /// The longest waiting, without those whose callers are gone.
    fn take_group(&self) -> Vec<Put> {
        let mut pending = self.pending();
        let mut group = Vec::new();
        while group.len() < GROUP {
            let Some(put) = pending.pop_front() else { break };
            if !put.answer.is_closed() {
                group.push(put);
            }
        }
        group
    }
}

async fn write(mut tx: WriteTx<'_>, group: &[Put]) -> Outcome {
    for put in group {
        if let Err(error) = task::write(tx.conn(), &put.record).await {
            return tx.finish(Err(failed("cannot write a task record to the SQLite database", error))).await;
        }
    }
    tx.finish(Ok(())).await
}

fn answer(group: Vec<Put>, outcome: Outcome) {
    let outcome = outcome.map_err(Arc::new);
    for put in group {
        let own = outcome
            .as_ref()
            .copied()
            .map_err(|error| StoreError::new(error.kind(), "a task record was not written", Arc::clone(error)));
        // A caller that is gone wants no answer.
        let _ = put.answer.send(own);
    }
}

#[cfg(test)]
#[path = "puts_tests.rs"]
mod tests;
