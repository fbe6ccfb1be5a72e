//! Lines to bytes: filters, remembers the place, and shares what was encoded once.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flowforge_storage::{LogFilter, LogRecord};

use super::history::Page;
use super::{Control, HEARTBEAT, SKIPPED_LINES_PER_PLACE, write_control, write_frame, write_place};
use crate::broker::{Batch, EndInfo, FrameEvent};
use crate::proof::Completeness;

/// So large a piece costs more to copy than to write beside others.
const SHARED_FROM: usize = 2 << 10;

/// Copies are no larger, for the sake of readers that stand still: the HTTP library keeps up to 16 pieces for each.
const COPIED_UP_TO: usize = 8 << 10;

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

    /// Everything collected, in the pieces of one vectored write. A reader that stands still keeps some of them in its
    /// connection, so large ones are passed on as they are, shared with every other reader, and only small ones are copied.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        let (mut taken, mut small) = (Vec::new(), Vec::new());
        let mut size = 0;
        for piece in self.pieces.drain(..) {
            let is_large = piece.len() >= SHARED_FROM;
            if is_large || size + piece.len() > COPIED_UP_TO {
                taken.extend(join(&mut small));
                size = 0;
            }
            if is_large {
                taken.push(piece);
            } else {
                size += piece.len();
                small.push(piece);
            }
        }
        taken.extend(join(&mut small));
        taken
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

fn join(pieces: &mut Vec<Bytes>) -> Option<Bytes> {
    if pieces.len() < 2 {
        return pieces.pop();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.drain(..).for_each(|piece| all.extend_from_slice(&piece));
    Some(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(sizes: &[usize]) -> Vec<usize> {
        let mut renderer = Renderer::new(LogFilter::default());
        renderer.pieces = sizes.iter().map(|&size| Bytes::from(vec![b'x'; size])).collect();
        let taken = renderer.take().iter().map(Bytes::len).collect();
        assert!(renderer.is_empty());
        taken
    }

    #[test]
    fn small_pieces_are_copied_together_and_large_ones_are_not() {
        assert_eq!(taken(&[]), Vec::<usize>::new());
        assert_eq!(taken(&[7]), [7]);
        assert_eq!(taken(&[100, 200, SHARED_FROM, 300, 9 << 20, 10, 20]), [300, SHARED_FROM, 300, 9 << 20, 30]);
        assert!(taken(&[SHARED_FROM - 1; 100]).iter().all(|&size| size <= COPIED_UP_TO));
    }

    #[test]
    fn a_large_piece_stays_the_bytes_of_all() {
        let shared = Bytes::from(vec![b'x'; SHARED_FROM]);
        let mut renderer = Renderer::new(LogFilter::default());
        renderer.pieces = vec![Bytes::from_static(b"a"), shared.clone()];
        assert_eq!(renderer.take()[1].as_ptr(), shared.as_ptr());
    }
}
