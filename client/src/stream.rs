//! One stream of a client: bytes in, captured lines and frames out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use bytes::Bytes;
use flowforge_proto::v1;

use crate::assemble::{Assembler, Mode, Output};
use crate::config::ClientConfig;
use crate::entry::{Entry, Stream, now_unix_nano};
use crate::shared::{DEFAULT_MAX_LINE_BYTES, Shared, raise};

/// Lanes of one stream with a line open at the same time, beside the first. Past it writers share the first, and may mix.
const MAX_LANES: usize = 64;

/// The writing end of one stream. Its lock is held for a whole write, so that concurrent writes do not mix.
pub(crate) struct StreamWriter {
    stream: Stream,
    level: u8,
    assembler: Assembler,
    /// Whose line is open in `assembler`.
    lane: u64,
    /// Lines that other lanes began while that one was open; each goes as soon as its line ends.
    lanes: Vec<(u64, Assembler)>,
    ids: Arc<AtomicU64>,
    /// Reused from write to write.
    out: Vec<Output>,
    finished: bool,
}

impl StreamWriter {
    pub(crate) fn new(stream: Stream, config: &ClientConfig, ids: &Arc<AtomicU64>) -> Self {
        let assembler = Assembler::new(config.mode, config.strip_cr, DEFAULT_MAX_LINE_BYTES, Arc::clone(ids));
        let (lanes, ids) = (Vec::new(), Arc::clone(ids));
        Self { stream, level: config.level, assembler, lane: 0, lanes, ids, out: Vec::new(), finished: false }
    }

    /// Feeds the lane's own unfinished line, so that writers that take turns in the middle of a line do not tear it.
    fn feed(&mut self, lane: u64, bytes: &[u8], max_line_bytes: usize, mode: Mode, strip_cr: bool) {
        let (now, out) = (Instant::now(), &mut self.out);
        let own = self.lanes.iter().position(|(of, _)| *of == lane);
        let free = self.lane == lane || !self.assembler.is_open() || self.lanes.len() >= MAX_LANES;
        let Some(place) = own.or_else(|| (!free).then_some(self.lanes.len())) else {
            self.lane = lane;
            self.assembler.set_max_line_bytes(max_line_bytes);
            return self.assembler.feed(bytes, now, out);
        };
        if place == self.lanes.len() {
            self.lanes.push((lane, Assembler::new(mode, strip_cr, max_line_bytes, Arc::clone(&self.ids))));
        }
        let assembler = &mut self.lanes[place].1;
        assembler.feed(bytes, now, out);
        if !assembler.is_open() {
            self.lanes.swap_remove(place);
        }
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
    pub(crate) fn write(&self, lane: u64, stream: Stream, bytes: &[u8]) {
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
            let (assemblers, out) = writer.assemblers();
            // A tick gives frames only, so this never waits for room.
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
        let limits = crate::queue::BatchLimits { lines: 100, bytes: 1 << 20, entry_bytes: 1 << 20 };
        let batch = shared.lock().queue.take_batch(limits).unwrap_or_default();
        batch.entries.into_iter().map(|entry| entry.message).collect()
    }

    #[test]
    fn lanes_do_not_tear_each_others_lines() {
        let shared = Shared::new(ClientConfig::new("http://h", "a"), [1; 16]);
        for (lane, text) in
            [(1, "one "), (2, "two "), (3, "three\n"), (1, "1\n"), (4, "four\n"), (2, "2\n"), (1, "tail")]
        {
            shared.write(lane, Stream::Stdout, text.as_bytes());
        }
        assert_eq!(messages(&shared), ["three", "one 1", "four", "two 2"]);
        let (last, all) = shared.finish_streams();
        assert!(all && last.len() == 1 && last[0].message == "tail" && last[0].no_newline);
    }
}
