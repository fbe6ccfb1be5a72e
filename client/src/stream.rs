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

/// Lanes of one stream with a line open at the same time, beside the first. Past it the oldest line is ended where it is.
const MAX_LANES: usize = 1024;

/// The writing end of one stream. Its lock is held for a whole write, so that concurrent writes do not mix.
pub(crate) struct StreamWriter {
    stream: Stream,
    level: u8,
    assembler: Assembler,
    /// Whose line is open in `assembler`.
    lane: Mark,
    /// Lines that other lanes began while that one was open, oldest first; each goes as soon as its line ends.
    lanes: Vec<(Mark, Assembler)>,
    ids: Arc<AtomicU64>,
    /// Reused from write to write.
    out: Vec<Output>,
    finished: bool,
}

impl StreamWriter {
    pub(crate) fn new(stream: Stream, config: &ClientConfig, ids: &Arc<AtomicU64>) -> Self {
        let assembler = Assembler::new(config.mode, config.strip_cr, DEFAULT_MAX_LINE_BYTES, Arc::clone(ids));
        let (lane, lanes, ids) = (Mark::default(), Vec::new(), Arc::clone(ids));
        Self { stream, level: config.level, assembler, lane, lanes, ids, out: Vec::new(), finished: false }
    }

    /// Feeds the lane's own unfinished line, so that writers that take turns in the middle of a line do not tear it.
    fn feed(&mut self, lane: &Lane, bytes: &[u8], max_line_bytes: usize, mode: Mode, strip_cr: bool) {
        let now = Instant::now();
        let own = self.lanes.iter().position(|(of, _)| lane.is(of));
        let is_first = lane.is(&self.lane);
        if own.is_none() && !is_first && self.assembler.is_open() {
            self.end_dead(now);
        }
        let free = is_first || !self.assembler.is_open();
        let Some(mut place) = own.or_else(|| (!free).then_some(self.lanes.len())) else {
            if !is_first {
                self.lane = lane.mark();
            }
            self.assembler.set_max_line_bytes(max_line_bytes);
            return self.assembler.feed(bytes, now, &mut self.out);
        };
        if place == self.lanes.len() {
            if place == MAX_LANES {
                self.lanes.remove(0).1.finish(now, &mut self.out);
                place -= 1;
            }
            self.lanes.push((lane.mark(), Assembler::new(mode, strip_cr, max_line_bytes, Arc::clone(&self.ids))));
        }
        let assembler = &mut self.lanes[place].1;
        assembler.feed(bytes, now, &mut self.out);
        if !assembler.is_open() {
            self.lanes.remove(place);
        }
    }

    /// Ends the lines that nobody can go on with.
    fn end_dead(&mut self, now: Instant) {
        if self.lane.is_dead() && self.assembler.is_open() {
            self.assembler.finish(now, &mut self.out);
        }
        let out = &mut self.out;
        self.lanes.retain_mut(|(lane, assembler)| {
            let is_dead = lane.is_dead();
            if is_dead {
                assembler.finish(now, out);
            }
            !is_dead
        });
    }

    fn is_partial(&self) -> bool {
        self.assembler.is_partial() || self.lanes.iter().any(|(_, assembler)| assembler.is_partial())
    }

    fn assemblers(&mut self) -> (impl Iterator<Item = &mut Assembler>, &mut Vec<Output>) {
        let lanes = self.lanes.iter_mut().map(|(_, assembler)| assembler);
        (std::iter::once(&mut self.assembler).chain(lanes), &mut self.out)
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
        if writer.is_partial() && raise(&self.partial) {
            self.wake.notify_one();
        }
    }

    fn deliver(&self, writer: &StreamWriter, out: &mut Vec<Output>) {
        if out.is_empty() {
            return;
        }
        let now = now_unix_nano();
        for output in out.drain(..) {
            match writer.entry(output, now) {
                Ok(entry) => self.push(entry, None),
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
            let (assemblers, out) = writer.assemblers();
            for assembler in assemblers.filter(|assembler| assembler.is_partial()) {
                assembler.tick(Instant::now(), out);
            }
            let mut out = std::mem::take(&mut writer.out);
            self.deliver(writer, &mut out);
            writer.out = out;
        }
    }

    /// Ends the streams that nobody is writing to; their last lines. False: some are still being written to.
    pub(crate) fn finish_streams(&self) -> (Vec<Entry>, bool) {
        let (mut entries, mut all) = (Vec::new(), true);
        for stream in &self.streams {
            let guard = match stream.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            match guard {
                Some(guard) => finish_stream(guard, &mut entries),
                None => all = false,
            }
        }
        (entries, all)
    }
}

fn finish_stream(mut guard: MutexGuard<'_, StreamWriter>, entries: &mut Vec<Entry>) {
    let writer = &mut *guard;
    if std::mem::replace(&mut writer.finished, true) {
        return;
    }
    let now = now_unix_nano();
    let (assemblers, out) = writer.assemblers();
    for assembler in assemblers {
        assembler.finish(Instant::now(), out);
    }
    let mut out = std::mem::take(&mut writer.out);
    entries.extend(out.drain(..).filter_map(|output| writer.entry(output, now).ok()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(shared: &Shared) -> Vec<Bytes> {
        let limits = crate::queue::BatchLimits { lines: 10_000, bytes: 1 << 20, entry_bytes: 1 << 20 };
        let batch = shared.lock().queue.take_batch(limits).unwrap_or_default();
        batch.entries.into_iter().map(|entry| entry.message).collect()
    }

    fn shared() -> Shared {
        Shared::new(ClientConfig::new("http://h", "a"), [1; 16])
    }

    #[test]
    fn lanes_do_not_tear_each_others_lines() {
        let shared = shared();
        let lanes: Vec<_> = (0..5).map(|_| Lane::new()).collect();
        for (lane, text) in
            [(1, "one "), (2, "two "), (3, "three\n"), (1, "1\n"), (4, "four\n"), (2, "2\n"), (1, "tail")]
        {
            shared.write(&lanes[lane], Stream::Stdout, text.as_bytes());
        }
        assert_eq!(messages(&shared), ["three", "one 1", "four", "two 2"]);
        let (last, all) = shared.finish_streams();
        assert!(all && last.len() == 1 && last[0].message == "tail" && last[0].no_newline);
    }

    #[test]
    fn what_a_dead_lane_left_open_is_ended_and_its_place_is_free() {
        let shared = shared();
        for _ in 0..3 * MAX_LANES {
            shared.write(&Lane::new(), Stream::Stdout, b".");
        }
        let (one, two) = (Lane::new(), Lane::new());
        for text in ["a", "b", "c\n"] {
            shared.write(&one, Stream::Stdout, text.as_bytes());
            shared.write(&two, Stream::Stdout, text.as_bytes());
        }
        let found: Vec<_> = messages(&shared).into_iter().filter(|message| message != ".").collect();
        assert_eq!(found, ["abc", "abc"]);
        assert_eq!(shared.lock().queue.last_seq() as usize, 3 * MAX_LANES + 2);
    }

    #[test]
    fn one_lane_too_many_ends_the_oldest_line_and_mixes_none() {
        let shared = shared();
        let lanes: Vec<_> = (0..MAX_LANES + 2).map(|_| Lane::new()).collect();
        for (number, lane) in lanes.iter().enumerate() {
            shared.write(lane, Stream::Stdout, format!("{number} ").as_bytes());
        }
        assert_eq!(messages(&shared), ["1 "]);
        shared.write(&lanes[0], Stream::Stdout, b"end\n");
        assert_eq!(messages(&shared), ["0 end"]);
    }

    #[test]
    fn a_tick_ends_what_a_dead_lane_left_open() {
        let shared = shared();
        shared.write(&Lane::new(), Stream::Stdout, b"left behind");
        shared.tick();
        assert_eq!(messages(&shared), ["left behind"]);
    }
}
