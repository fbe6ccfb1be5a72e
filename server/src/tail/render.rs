//! Lines to bytes: filters, remembers the place, and shares what was encoded once.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flowforge_storage::{LogFilter, LogRecord};

use super::history::Page;
use super::{Control, HEARTBEAT, SKIPPED_LINES_PER_PLACE, write_control, write_frame, write_place};
use crate::broker::{Batch, EndInfo, FrameEvent};
use crate::proof::Completeness;

/// Collects what the next write carries.
#[derive(Debug)]
pub(super) struct Renderer {
    filter: LogFilter,
    pieces: Vec<Bytes>,
    /// The last line scanned: epoch and offset.
    place: Option<(u64, u64)>,
    /// Lines scanned since the reader was last told a place.
    skipped: u64,
}

impl Renderer {
    pub(super) fn new(filter: LogFilter) -> Self {
        Self { filter, pieces: Vec::new(), place: None, skipped: 0 }
    }

    /// Lines of the window from offset `from` on. Returns the next offset due.
    pub(super) fn recent(&mut self, batches: &[Arc<Batch>], from: u64) -> u64 {
        let mut next = from;
        for batch in batches {
            let start = usize::try_from(next - batch.first()).unwrap_or(usize::MAX).min(batch.records.len());
            self.lines(batch, start..batch.records.len());
            next = batch.last() + 1;
        }
        next
    }

    /// Lines of the store. Returns the next offset due.
    pub(super) fn stored(&mut self, page: &Page) -> u64 {
        let lines = page.records();
        self.lines(page.batch(), 0..lines.len());
        lines.last().map_or(1, |record| record.offset + 1)
    }

    fn lines(&mut self, batch: &Batch, range: Range<usize>) {
        self.place = batch.records[range.clone()].last().map(|record| (record.epoch, record.offset)).or(self.place);
        if self.filter.is_empty() {
            self.pieces.push(batch.events(range));
            return;
        }
        let mut out = Vec::new();
        for at in range {
            let record = &batch.records[at];
            if self.filter.matches(record) {
                batch.write_event(at, &mut out);
                self.skipped = 0;
            } else {
                self.skip(record, &mut out);
            }
        }
        if !out.is_empty() {
            self.pieces.push(out.into());
        }
    }

    /// Counts a line kept back; every so often the reader is told its place.
    fn skip(&mut self, record: &LogRecord, out: &mut Vec<u8>) {
        self.skipped += 1;
        if self.skipped >= SKIPPED_LINES_PER_PLACE {
            self.skipped = 0;
            write_place(record.epoch, record.offset, out);
        }
    }

    pub(super) fn frames(&mut self, frames: &[FrameEvent]) {
        let mut out = Vec::new();
        for frame in frames.iter().filter(|frame| self.filter.streams.contains(frame.stream)) {
            write_frame(frame, &mut out);
        }
        if !out.is_empty() {
            self.pieces.push(out.into());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The end of the stream, at the place of the end row.
    pub(super) fn end(&self, epoch: u64, end: EndInfo, completeness: Option<Completeness>) -> Bytes {
        let mut out = Vec::new();
        let (row_epoch, _) = self.place.filter(|(_, offset)| *offset == end.offset).unwrap_or((epoch, 0));
        write_place(row_epoch, end.offset, &mut out);
        write_control(&Control::End(end, completeness), &mut out);
        out.into()
    }

    /// Everything collected, as one piece for one write. A single piece is passed on as it is, shared with other readers.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        match self.pieces.len() {
            0 => None,
            1 => self.pieces.pop(),
            _ => {
                let mut all = BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum());
                self.pieces.drain(..).for_each(|piece| all.extend_from_slice(&piece));
                Some(all.freeze())
            }
        }
    }

    /// A sign of life: the place if the reader's is old, else a comment.
    pub(super) fn place_or_heartbeat(&mut self) -> Bytes {
        match self.place.filter(|_| self.skipped > 0) {
            Some((epoch, offset)) => {
                self.skipped = 0;
                let mut out = Vec::new();
                write_place(epoch, offset, &mut out);
                out.into()
            }
            None => Bytes::from_static(HEARTBEAT),
        }
    }
}
