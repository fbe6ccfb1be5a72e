//! How lines and tasks are asked for.

use crate::escape::without_escapes;
use crate::key::TaskKey;
use crate::record::{LogRecord, Stream};
use crate::task::{StoredTask, TaskStatus};

/// Which way a read goes through the offsets. Results are ascending in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From `from` upwards.
    Forward,
    /// From `to` downwards: the last `limit` lines of the range.
    Backward,
}

/// One read of a task's lines.
#[derive(Debug, Clone)]
pub struct ReadQuery {
    /// First offset, inclusive.
    pub from: u64,
    /// Last offset, inclusive.
    pub to: u64,
    /// Where the reading begins.
    pub direction: Direction,
    /// At most so many lines, at least 1.
    pub limit: usize,
    /// Stop after the line that makes the messages exceed this; one line always comes.
    pub max_bytes: usize,
    /// Which lines count.
    pub filter: LogFilter,
}

impl ReadQuery {
    /// Forward over `from..=to`, unfiltered.
    pub fn forward(from: u64, to: u64, limit: usize) -> Self {
        let filter = LogFilter::default();
        Self { from, to, direction: Direction::Forward, limit, max_bytes: 4 << 20, filter }
    }

    /// The last `limit` lines of `from..=to` that pass the filter.
    pub fn backward(from: u64, to: u64, limit: usize, filter: LogFilter) -> Self {
        Self { from, to, direction: Direction::Backward, limit, max_bytes: 4 << 20, filter }
    }
}

/// The answer to a [`ReadQuery`].
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Ascending by offset.
    pub records: Vec<LogRecord>,
    /// Where to go on: the next `from` (forward) or `to` (backward). `None`: the range was read to its end.
    pub next: Option<u64>,
}

/// Which lines a reader wants. The default takes all. A store's `read` must agree with [`LogFilter::matches`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// This severity and above; a line without one counts as INFO.
    pub min_level: Option<u8>,
    /// Only these streams; empty = all.
    pub streams: StreamSet,
    /// Lower-case text that the lower-cased message, as it is seen, must contain. Build with [`LogFilter::contains`].
    needle: Option<String>,
}

impl LogFilter {
    /// Requires a case-insensitive substring (Unicode lower case) of the message without its terminal sequences: "error" is
    /// found also where a colour begins within it, and "31" is not found in a colour. Empty text requires nothing.
    #[must_use]
    pub fn contains(mut self, text: &str) -> Self {
        self.needle = if text.is_empty() { None } else { Some(text.to_lowercase()) };
        self
    }

    /// The lower-cased substring, for backends that can search by it. A line with an ESC in it may match in spite of what
    /// its bytes say, either way.
    pub fn needle(&self) -> Option<&str> {
        self.needle.as_deref()
    }

    /// True if every line passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this line passes.
    pub fn matches(&self, record: &LogRecord) -> bool {
        self.min_level.is_none_or(|least| record.effective_level() >= least)
            && self.streams.contains(record.stream)
            && self.needle.as_deref().is_none_or(|needle| contains_ignoring_case(&record.text(), needle))
    }
}

fn contains_ignoring_case(text: &str, lower_needle: &str) -> bool {
    let text = without_escapes(text);
    if !text.is_ascii() {
        return text.to_lowercase().contains(lower_needle);
    }
    // ASCII lines, nearly all of them, are searched without a copy.
    let (text, needle) = (text.as_bytes(), lower_needle.as_bytes());
    text.len() >= needle.len() && text.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

/// A set of streams; the empty set stands for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamSet(u8);

impl StreamSet {
    /// With this stream as well.
    #[must_use]
    pub fn with(self, stream: Stream) -> Self {
        Self(self.0 | 1 << stream as u8)
    }

    /// Whether lines of this stream pass.
    pub fn contains(self, stream: Stream) -> bool {
        self.0 == 0 || self.0 & (1 << stream as u8) != 0
    }

    /// The streams named; none if all pass.
    pub fn named(self) -> impl Iterator<Item = Stream> {
        Stream::ALL.into_iter().filter(move |stream| self.0 != 0 && self.contains(*stream))
    }
}

/// Which tasks a list wants.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only this tenant; `None` = every tenant.
    pub tenant: Option<String>,
    /// Only tasks that stand so.
    pub status: Option<TaskStatus>,
    /// Only tasks whose id or name contains this text (ASCII case ignored).
    pub text: Option<String>,
}

/// Where a list goes on: after this task, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskCursor {
    /// `created_at_ms` of the last task seen.
    pub created_at_ms: i64,
    /// The last task seen.
    pub task: TaskKey,
}

/// One page of a task list.
#[derive(Debug, Clone, Default)]
pub struct TaskPage {
    /// Newest first, ties by tenant and task id.
    pub tasks: Vec<StoredTask>,
    /// `None`: this was the last page.
    pub next: Option<TaskCursor>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ProducerId;

    fn line(message: &'static str, level: u8, stream: Stream) -> LogRecord {
        LogRecord {
            offset: 1,
            epoch: 1,
            producer: ProducerId::SERVER,
            seq: 1,
            time_ns: 0,
            created_at_ms: 0,
            stream,
            level,
            message: message.as_bytes().to_vec().into(),
            fields: bytes::Bytes::new(),
            update_id: 0,
            continued: false,
            no_newline: false,
        }
    }

    #[test]
    fn text_is_found_whatever_its_case() {
        let filter = LogFilter::default().contains("ÉCOLE");
        assert!(filter.matches(&line("une école", 0, Stream::Stdout)));
        assert!(!filter.matches(&line("ecole", 0, Stream::Stdout)));
        assert!(LogFilter::default().contains("oK").matches(&line("all OK.", 0, Stream::Stdout)));
        assert!(!LogFilter::default().contains("okay").matches(&line("ok", 0, Stream::Stdout)));
    }

    #[test]
    fn text_is_found_through_colours_and_not_in_them() {
        let filter = |text: &str| LogFilter::default().contains(text);
        assert!(filter("error").matches(&line("\x1b[31mer\x1b[0mror", 0, Stream::Stdout)));
        assert!(!filter("31").matches(&line("\x1b[31mer\x1b[0mror", 0, Stream::Stdout)));
        assert!(filter("\u{e9}cole").matches(&line("\x1b[1m\u{c9}\x1b[mCOLE", 0, Stream::Stdout)));
    }

    #[test]
    fn a_line_without_level_counts_as_info() {
        let at = |least| LogFilter { min_level: Some(least), ..LogFilter::default() };
        assert!(at(9).matches(&line("x", 0, Stream::Stdout)));
        assert!(!at(10).matches(&line("x", 0, Stream::Stdout)));
        assert!(at(13).matches(&line("x", 17, Stream::Stdout)));
    }

    #[test]
    fn streams_are_all_until_one_is_named() {
        let only = StreamSet::default().with(Stream::Stderr);
        assert!(StreamSet::default().contains(Stream::Log));
        assert!(only.contains(Stream::Stderr) && !only.contains(Stream::Stdout));
        assert_eq!(only.named().collect::<Vec<_>>(), [Stream::Stderr]);
    }
}
