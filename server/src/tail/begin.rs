//! Where a reader begins, and where it goes on when the task's memory was lost.

use bytes::Bytes;

use super::event::{Control, write_control};
use super::resume::{Place, Resume, resolve};
use super::{TailSession, control};
use crate::broker::{BrokerError, Position};

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The last so many lines that pass the filter.
    Last(u64),
    /// This offset.
    From(u64),
}

impl TailSession {
    /// Decides where to begin, and says so.
    pub(super) async fn begin(&mut self, position: &Position) -> Result<Bytes, BrokerError> {
        let mut out = Vec::new();
        let resume = self.request.place.map(|place| resolve(place, position));
        self.epoch = position.epoch().epoch;
        self.next = match resume {
            Some(Resume::After(offset)) => offset + 1,
            Some(Resume::RollbackTo(to)) => {
                write_control(&Control::Rollback { to }, &mut out);
                to + 1
            }
            Some(Resume::Reset) => {
                write_control(&Control::Reset, &mut out);
                self.first_offset().await?
            }
            None => self.first_offset().await?,
        };
        let floor = self.scanner.history.floor(&self.request.task).await?;
        write_control(&Control::Start { from: self.next, end: position.end, floor }, &mut out);
        Ok(out.into())
    }

    async fn first_offset(&self) -> Result<u64, BrokerError> {
        match self.request.begin {
            Begin::From(offset) => Ok(offset.max(1)),
            Begin::Last(count) => {
                self.scanner.last_matching(self.subscription.feed(), &self.request.filter, count).await
            }
        }
    }

    /// A new epoch voids what the reader has above its base.
    pub(super) fn follow_epoch(&mut self, position: &Position) -> Option<Bytes> {
        let before = std::mem::replace(&mut self.epoch, position.epoch().epoch);
        if before == self.epoch || self.next == 0 {
            return None;
        }
        let place = Place { epoch: before, offset: self.next - 1 };
        match resolve(place, position) {
            Resume::After(_) => None,
            Resume::RollbackTo(to) => {
                self.next = to + 1;
                Some(control(&Control::Rollback { to }))
            }
            Resume::Reset => {
                self.next = 1;
                Some(control(&Control::Reset))
            }
        }
    }
}
