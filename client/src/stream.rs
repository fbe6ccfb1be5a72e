//! One stream of a client: bytes in, captured lines and frames out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use bytes::Bytes;
use flowforge_proto::v1;

use crate::assemble::{Assembler, Output};
use crate::config::ClientConfig;
use crate::entry::{Entry, Stream, now_unix_nano};
use crate::shared::{DEFAULT_MAX_LINE_BYTES, Shared, raise};

/// The writing end of one stream. Its lock is held for a whole write, so that concurrent writes do not mix.
pub(crate) struct StreamWriter {
    stream: Stream,
    level: u8,
    assembler: Assembler,
    /// Reused from write to write.
    out: Vec<Output>,
    finished: bool,
}

impl StreamWriter {
    pub(crate) fn new(stream: Stream, config: &ClientConfig, ids: &Arc<AtomicU64>) -> Self {
        let assembler = Assembler::new(config.mode, config.strip_cr, DEFAULT_MAX_LINE_BYTES, Arc::clone(ids));
        Self { stream, level: config.level, assembler, out: Vec::new(), finished: false }
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
    pub(crate) fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut guard = self.streams[stream.index()].lock().unwrap_or_else(PoisonError::into_inner);
        let writer = &mut *guard;
        writer.assembler.set_max_line_bytes(self.max_line_bytes.load(Ordering::Relaxed));
        let mut out = std::mem::take(&mut writer.out);
        writer.assembler.feed(bytes, Instant::now(), &mut out);
        self.deliver(writer, &mut out);
        writer.out = out;
        if writer.assembler.is_partial() && raise(&self.partial) {
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
            if !writer.assembler.is_partial() {
                continue;
            }
            self.partial.store(true, Ordering::Release);
            let mut out = std::mem::take(&mut writer.out);
            // A tick gives frames only, so this never waits for room.
            writer.assembler.tick(Instant::now(), &mut out);
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
    let (mut out, now) = (Vec::new(), now_unix_nano());
    writer.assembler.finish(Instant::now(), &mut out);
    entries.extend(out.drain(..).filter_map(|output| writer.entry(output, now).ok()));
}
