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
        self.epoch = position.epoch().epoch;
        self.next = match self.request.place.map(|place| (place, resolve(place, position))) {
            Some((_, Resume::After(offset))) => (offset + 1).max(self.first_wanted()),
            Some((place, Resume::RollbackTo(to))) => {
                let to = to.max(self.first_wanted() - 1);
                if to < place.offset {
                    write_control(&Control::Rollback { to }, &mut out);
                }
                to + 1
            }
            Some((_, Resume::Reset)) => {
                write_control(&Control::Reset, &mut out);
                self.first_offset().await?
            }
            None => self.first_offset().await?,
        };
        self.start(position, &mut out).await?;
        Ok(out.into())
    }

    async fn start(&self, position: &Position, out: &mut Vec<u8>) -> Result<(), BrokerError> {
        let floor = self.scanner.history.floor(&self.request.task).await?;
        write_control(&Control::Start { from: self.next, end: position.end, floor }, out);
        Ok(())
    }

    async fn first_offset(&self) -> Result<u64, BrokerError> {
        match self.request.begin {
            Begin::From(offset) => Ok(offset.max(1)),
            Begin::Last(count) => {
                self.scanner.last_matching(self.subscription.feed(), &self.request.filter, count).await
            }
        }
    }

    /// A reader that asked for a line beyond the end has nothing before it and is shown nothing before it, whatever epochs come
    /// and go.
    fn first_wanted(&self) -> u64 {
        match self.request.begin {
            Begin::From(offset) => offset.max(1),
            Begin::Last(_) => 1,
        }
    }

    /// A new epoch voids what the reader has above its base.
    pub(super) async fn follow_epoch(&mut self, position: &Position) -> Result<Option<Bytes>, BrokerError> {
        let before = std::mem::replace(&mut self.epoch, position.epoch().epoch);
        if before == self.epoch || self.next == 0 {
            return Ok(None);
        }
        let place = Place { epoch: before, offset: self.next - 1 };
        match resolve(place, position) {
            Resume::After(_) => Ok(None),
            Resume::RollbackTo(to) => {
                let to = to.max(self.first_wanted() - 1);
                self.next = to + 1;
                Ok((to < place.offset).then(|| control(&Control::Rollback { to })))
            }
            Resume::Reset => {
                let mut out = Vec::new();
                write_control(&Control::Reset, &mut out);
                self.next = self.first_wanted();
                self.start(position, &mut out).await?;
                Ok(Some(out.into()))
            }
        }
    }
}
