//! The next lines of a task, from wherever they are: the recent window, or the store.
//!
//! Invariant: what a scan returns begins at exactly the offset asked for and is contiguous, or it says what is missing and
//! why. A line that was given an offset is in the window until it is stored, so one of the two always has it.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use flowforge_storage::{LogFilter, LogRecord, ReadQuery, StoreError, TaskKey};

use super::event::GapReason;
use super::history::{HISTORY_ROWS, History, NoPage, Page};
use crate::broker::{Batch, Broker, BrokerError, Feed, Position};

/// What lies at an offset and after it.
#[derive(Debug)]
pub enum Scan {
    /// The window has it. The first batch may begin before the offset.
    Recent(Vec<Arc<Batch>>),
    /// The store has it.
    Stored(Page),
    /// These offsets do not exist any more.
    Missing {
        /// Last one that is missing.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// The offset is beyond the end.
    CaughtUp,
}

impl Scan {
    /// The newest epoch of its lines.
    pub(super) fn epoch(&self) -> u64 {
        let newest = match self {
            Self::Recent(batches) => batches.iter().filter_map(|batch| batch.records.last()).map(|row| row.epoch).max(),
            Self::Stored(page) => page.records().last().map(|row| row.epoch),
            Self::Missing { .. } | Self::CaughtUp => None,
        };
        newest.unwrap_or(0)
    }
}

/// Reads one task's lines forward.
#[derive(Clone)]
pub struct Scanner {
    /// Whose lines.
    pub task: TaskKey,
    /// Order and recent window.
    pub broker: Arc<dyn Broker>,
    /// What is stored.
    pub history: History,
}

impl Scanner {
    /// What lies at `next`. `position` must have been read after the feed was subscribed to.
    pub async fn scan(
        &self,
        feed: &Feed,
        next: u64,
        position: &Position,
        window_bytes: usize,
    ) -> Result<Scan, StoreError> {
        if next > position.end {
            return Ok(Scan::CaughtUp);
        }
        // The window first: it costs nothing, and spares the store a live reader.
        let recent = feed.read(next, window_bytes);
        if !recent.batches.is_empty() {
            return Ok(Scan::Recent(recent.batches));
        }
        match self.history.page(&self.task, position, next).await {
            Ok(page) => Ok(Scan::Stored(page)),
            Err(NoPage::Missing { to, reason }) => Ok(Scan::Missing { to, reason }),
            Err(NoPage::Failed(error)) => Err(error),
        }
    }

    /// The offset of the `count`-th last line that passes the filter, or of the first that does if there are fewer; one past
    /// the end if none does.
    pub async fn last_matching(&self, feed: &Feed, filter: &LogFilter, count: u64) -> Result<u64, BrokerError> {
        if filter.is_empty() {
            let end = self.broker.position(&self.task).await?.end;
            let floor = self.history.floor(&self.task).await?;
            return Ok((end + 1).saturating_sub(count).max(floor));
        }
        let mut start = None;
        let note = |record: &LogRecord| {
            start = Some(record.offset);
            ControlFlow::Continue(())
        };
        let end = self.walk_back(feed, 1..u64::MAX, filter, count, note).await?;
        Ok(start.unwrap_or(end + 1))
    }

    /// Visits at most `count` lines of this range that pass the filter, the last one first, whether they are stored or not,
    /// until `visit` breaks. Returns the last offset given when it began.
    pub async fn walk_back(
        &self,
        feed: &Feed,
        range: Range<u64>,
        filter: &LogFilter,
        count: u64,
        mut visit: impl FnMut(&LogRecord) -> ControlFlow<()> + Send,
    ) -> Result<u64, BrokerError> {
        let (position, unstored) = self.position_and_unstored(feed).await?;
        let mut left = count;
        for record in unstored.iter().rev().flat_map(|batch| batch.records.iter().rev()) {
            let wanted = record.offset > position.stored && range.contains(&record.offset);
            if left > 0 && wanted && filter.matches(record) {
                left = if visit(record).is_break() { 0 } else { left - 1 };
            }
        }
        let mut next = Some(position.stored.min(range.end.saturating_sub(1)));
        while let Some(to) = next.filter(|to| left > 0 && *to >= range.start.max(1)) {
            let limit = usize::try_from(left).unwrap_or(usize::MAX).min(HISTORY_ROWS);
            let page = self
                .history
                .store()
                .read(&self.task, &ReadQuery::backward(range.start.max(1), to, limit, filter.clone()))
                .await?;
            let stopped = page.records.iter().rev().try_for_each(&mut visit).is_break();
            left = if stopped { 0 } else { left.saturating_sub(page.records.len() as u64) };
            next = page.next;
        }
        Ok(position.end)
    }

    /// The position, and every line of it that is not stored.
    pub async fn position_and_unstored(&self, feed: &Feed) -> Result<(Position, Vec<Arc<Batch>>), BrokerError> {
        loop {
            let position = self.broker.position(&self.task).await?;
            let recent = feed.read(position.stored + 1, usize::MAX).batches;
            // Empty although something was not stored: it has been meanwhile, and has left the window. Look again.
            if !recent.is_empty() || position.stored == position.end {
                return Ok((position, recent));
            }
        }
    }
}
