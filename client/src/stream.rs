//! One stream of a client: bytes in, captured lines and frames out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use bytes::Bytes;
use flowforge_proto::v1;

use crate::assemble::{Assembler, Mode, Output};
use crate::config::{ClientConfig, Overflow};
use crate::entry::{Entry, Stream, now_unix_nano};
use crate::lane::{Lane, Mark};
use crate::shared::{DEFAULT_MAX_LINE_BYTES, Shared, raise};
use crate::spool::open::{OpenLines, Seal};

/// Lanes of one stream with a line open at the same time, beside the first. Past it the oldest line is ended where it is.
const MAX_LANES: usize = 1024;

/// A line that a lane may go on with.
struct Unfinished {
    lane: Mark,
    assembler: Assembler,
    /// Where the spool keeps it.
    place: Option<usize>,
}

impl Unfinished {
    fn ends(&mut self, now: Instant, open: &mut Option<OpenLines>, out: &mut Vec<Output>) {
        self.assembler.finish(now, out);
        if let Some(open) = open {
            open.ended(self.place, out.len());
        }
    }
}

/// The writing end of one stream. Its lock is held for a whole write, so that concurrent writes do not mix.
pub(crate) struct StreamWriter {
    stream: Stream,
    level: u8,
    /// Whose line is open there may change when it has ended.
    first: Unfinished,
    /// Lines that other lanes began while that one was open, oldest first; each goes as soon as its line ends.
    lanes: Vec<Unfinished>,
    ids: Arc<AtomicU64>,
    /// Where the spool keeps what is open, until the stream is finished.
    open: Option<OpenLines>,
    /// Reused from write to write.
    out: Vec<Output>,
    finished: bool,
}

impl StreamWriter {
    pub(crate) fn new(stream: Stream, config: &ClientConfig, ids: &Arc<AtomicU64>, open: Option<OpenLines>) -> Self {
        let assembler = Assembler::new(config.mode, config.strip_cr, DEFAULT_MAX_LINE_BYTES, Arc::clone(ids));
        let first = Unfinished { lane: Mark::default(), assembler, place: Some(0) };
        let (lanes, ids, out) = (Vec::new(), Arc::clone(ids), Vec::new());
        Self { stream, level: config.level, first, lanes, ids, open, out, finished: false }
    }

    /// Feeds the lane's own unfinished line, so that writers that take turns in the middle of a line do not tear it.
    fn feed(&mut self, lane: &Lane, bytes: &[u8], max_line_bytes: usize, mode: Mode, strip_cr: bool) {
        let now = Instant::now();
        let own = self.lanes.iter().position(|line| lane.is(&line.lane));
        let is_first = lane.is(&self.first.lane);
        if own.is_none() && !is_first && self.first.assembler.is_open() {
            self.end_dead(now);
        }
        let free = is_first || !self.first.assembler.is_open();
        let Some(mut at) = own.or_else(|| (!free).then_some(self.lanes.len())) else {
            if !is_first {
                self.first.lane = lane.mark();
            }
            self.first.assembler.set_max_line_bytes(max_line_bytes);
            self.first.assembler.feed(bytes, now, &mut self.out);
            return self.came_out(self.first.place);
        };
        if at == self.lanes.len() {
            if at == MAX_LANES {
                self.lanes.remove(0).ends(now, &mut self.open, &mut self.out);
                at -= 1;
            }
            let assembler = Assembler::new(mode, strip_cr, max_line_bytes, Arc::clone(&self.ids));
            let place = self.open.as_mut().and_then(OpenLines::take_place);
            self.lanes.push(Unfinished { lane: lane.mark(), assembler, place });
        }
        let line = &mut self.lanes[at];
        line.assembler.feed(bytes, now, &mut self.out);
        let place = line.place;
        self.came_out(place);
        if !self.lanes[at].assembler.is_open() {
            self.lanes.remove(at);
            if let Some(open) = &mut self.open {
                open.ended(place, self.out.len());
            }
        }
    }

    /// What has come out since the last call is of the line in this place.
    fn came_out(&mut self, place: Option<usize>) {
        if let Some(open) = &mut self.open {
            open.came_out(place, self.out.len());
        }
    }

    /// Ends the lines that nobody can go on with.
    fn end_dead(&mut self, now: Instant) {
        let Self { first, lanes, open, out, .. } = self;
        if first.lane.is_dead() && first.assembler.is_open() {
            first.assembler.finish(now, out);
            if let Some(open) = open {
                open.came_out(first.place, out.len());
            }
        }
        lanes.retain_mut(|line| {
            let is_dead = line.lane.is_dead();
            if is_dead {
                line.ends(now, open, out);
            }
            !is_dead
        });
    }

    fn is_partial(&self) -> bool {
        self.first.assembler.is_partial() || self.lanes.iter().any(|line| line.assembler.is_partial())
    }

    /// Once everything that came out is captured: what is open now is what the spool keeps.
    fn keep_open(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.forget_outputs();
        for line in std::iter::once(&self.first).chain(&self.lanes) {
            if let Some(place) = line.place {
                open.keep(place, self.level, line.assembler.open());
            }
        }
    }

    fn entry(&self, output: Output, time_unix_nano: i64) -> Result<Entry, v1::Frame> {
        let stream = self.stream;
        match output {
            Output::Frame { update_id, message } => Err(v1::Frame { update_id, message, stream: stream.wire() }),
            Output::Line { message, continued, no_newline, update_id } => Ok(Entry {
                time_unix_nano,
                stream,
                level: self.level,
                message,
                continued,
                no_newline,
                fields_json: Bytes::new(),
                update_id,
            }),
        }
    }
}

impl Shared {
    /// Takes bytes of a stream; waits for room as the configuration says.
    pub(crate) fn write(&self, lane: &Lane, stream: Stream, bytes: &[u8]) {
        let mut guard = self.streams[stream.index()].lock().unwrap_or_else(PoisonError::into_inner);
        let writer = &mut *guard;
        let max_line_bytes = self.max_line_bytes.load(Ordering::Relaxed);
        writer.feed(lane, bytes, max_line_bytes, self.config.mode, self.config.strip_cr);
        let mut out = std::mem::take(&mut writer.out);
        self.deliver(writer, &mut out);
        writer.out = out;
        writer.keep_open();
        if writer.is_partial() && raise(&self.partial) {
            self.wake.notify_one();
        }
    }

    fn deliver(&self, writer: &mut StreamWriter, out: &mut Vec<Output>) {
        if out.is_empty() {
            return;
        }
        let now = now_unix_nano();
        for (place, output) in out.drain(..).enumerate() {
            match writer.entry(output, now) {
                Ok(entry) => self.push(entry, writer.open.as_mut().and_then(|open| open.seal(place)), None),
                Err(frame) => self.offer_frame(frame),
            }
        }
    }

    /// Looks at the clock for unfinished lines. A stream that is being written to is left for the next time.
    pub(crate) fn tick(&self) {
        self.partial.store(false, Ordering::Release);
        for stream in &self.streams {
            let mut guard = match stream.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    self.partial.store(true, Ordering::Release);
                    continue;
                }
            };
            let writer = &mut *guard;
            if !writer.is_partial() {
                continue;
            }
            self.partial.store(true, Ordering::Release);
            // This runs on the sender's thread, which must not wait for the room that it makes itself: lines may come out
            // only where nobody waits, and frames are lost instead.
            if self.config.overflow == Overflow::DropOldest {
                writer.end_dead(Instant::now());
            }
            for line in std::iter::once(&mut writer.first).chain(&mut writer.lanes) {
                if line.assembler.is_partial() {
                    line.assembler.tick(Instant::now(), &mut writer.out);
                }
            }
            let mut out = std::mem::take(&mut writer.out);
            self.deliver(writer, &mut out);
            writer.out = out;
            writer.keep_open();
        }
    }

    /// Ends the streams that nobody is writing to; their last lines. False: some are still being written to.
    pub(crate) fn finish_streams(&self) -> (Vec<Last>, bool) {
        let (mut last, mut all) = (Vec::new(), true);
        for stream in &self.streams {
            let guard = match stream.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            match guard {
                Some(guard) => last.extend(finish_stream(guard)),
                None => all = false,
            }
        }
        (last, all)
    }
}

/// What a stream held when it ended, to be captured once its lock is free.
pub(crate) struct Last {
    entries: std::vec::IntoIter<(usize, Entry)>,
    open: Option<OpenLines>,
}

impl Last {
    /// The next line, and what its capture puts an end to.
    pub(crate) fn next(&mut self) -> Option<(Entry, Option<Seal<'_>>)> {
        let (place, entry) = self.entries.next()?;
        Some((entry, self.open.as_mut().and_then(|open| open.seal(place))))
    }
}

/// `None`: it has ended before.
fn finish_stream(mut guard: MutexGuard<'_, StreamWriter>) -> Option<Last> {
    let writer = &mut *guard;
    if std::mem::replace(&mut writer.finished, true) {
        return None;
    }
    let now = now_unix_nano();
    let StreamWriter { first, lanes, open, out, .. } = writer;
    for line in std::iter::once(first).chain(lanes) {
        line.ends(Instant::now(), open, out);
    }
    let entries = std::mem::take(out).into_iter().enumerate();
    let entries = entries.filter_map(|(place, output)| Some((place, writer.entry(output, now).ok()?)));
    let entries = entries.collect::<Vec<_>>().into_iter();
    Some(Last { entries, open: writer.open.take() })
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
