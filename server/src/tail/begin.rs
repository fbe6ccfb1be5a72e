//! Where a reader begins, and where it goes on when the task's memory was lost.

use bytes::Bytes;

use super::TailSession;
use super::event::{Control, write_control};
use super::resume::{Place, Resume, resolve};
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
        match self.request.place.map(|place| (place, resolve(place, position))) {
            Some((_, Resume::After(offset))) => self.next = (offset + 1).max(self.first_wanted()),
            Some((place, Resume::RollbackTo(to))) => self.roll_back(place, to, &mut out),
            Some((_, Resume::Reset)) => {
                write_control(&Control::Reset, &mut out);
                self.next = self.first_offset().await?;
            }
            None => self.next = self.first_offset().await?,
        }
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

    /// Rows above `to` are void, and the reader is told if it has any of them.
    fn roll_back(&mut self, place: Place, to: u64, out: &mut Vec<u8>) {
        let to = to.max(self.first_wanted() - 1);
        if to < place.offset {
            write_control(&Control::Rollback { to }, out);
        }
        self.next = to + 1;
    }

    /// A new epoch voids what the reader has above its base.
    pub(super) async fn follow_epoch(&mut self, position: &Position) -> Result<Option<Bytes>, BrokerError> {
        let before = std::mem::replace(&mut self.epoch, position.epoch().epoch);
        if before == self.epoch || self.next == 0 {
            return Ok(None);
        }
        let place = Place { epoch: before, offset: self.next - 1 };
        let mut out = Vec::new();
        match resolve(place, position) {
            Resume::After(_) => {}
            Resume::RollbackTo(to) => self.roll_back(place, to, &mut out),
            Resume::Reset => {
                write_control(&Control::Reset, &mut out);
                self.next = self.first_wanted();
                self.start(position, &mut out).await?;
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}
