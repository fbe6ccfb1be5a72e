//! Reading lines.
//!
//! A read without a filter is one statement, kept short by its limit. One with a filter may have to pass over all lines
//! of a task: it goes from window to window, each a statement and a snapshot of its own, as pages are. Between two
//! windows others get the connection, and a read that nobody waits for any more ends there. Lines of the system alone
//! have an index, so that they need no windows.

use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::batch::SqlResult;
use super::readers::Readers;
use super::row::{self, select_columns};
use crate::key::TaskKey;
use crate::query::{Direction, LogFilter, Page, ReadQuery, StreamSet};
use crate::record::{LogRecord, Stream, UNSET_LEVEL_FILTERS_AS};

/// Offsets that one statement of a scan passes over: some ten milliseconds.
const WINDOW: u64 = 20_000;

/// A window of long messages ends early, after so many bytes of them were searched for text.
const WINDOW_BYTES: usize = 8 << 20;

/// SQLite's "no limit".
const UNLIMITED: i64 = -1;

/// Level and stream are tested in SQL, so that rows that cannot match never leave SQLite's thread. The values: key,
/// first, last, least level, what level 0 counts as, limit, and what `$streams` needs.
macro_rules! select_lines {
    ($index:literal, $streams:literal, $order:literal) => {
        concat!(
            "SELECT ",
            select_columns!(),
            " FROM lines ",
            $index,
            r#" WHERE task_key = ?1 AND "offset" BETWEEN ?2 AND ?3
                AND CASE level WHEN 0 THEN ?5 ELSE level END >= ?4 AND "#,
            $streams,
            r#" ORDER BY "offset" "#,
            $order,
            " LIMIT ?6"
        )
    };
}

/// Streams as bits.
const FORWARD: &str = select_lines!("", "?7 >> stream & 1 = 1", "ASC");
const BACKWARD: &str = select_lines!("", "?7 >> stream & 1 = 1", "DESC");

/// The number of the stream is a literal, since SQLite must know that it is the index's. Left alone it would take the
/// primary key, for it cannot know how few these lines are.
const SYSTEM_FORWARD: &str = select_lines!("INDEXED BY lines_system", "stream = 4", "ASC");
const SYSTEM_BACKWARD: &str = select_lines!("INDEXED BY lines_system", "stream = 4", "DESC");

/// One page. See [`LogStore::read`](crate::LogStore::read).
pub(super) async fn read(readers: &Readers, task: &TaskKey, query: &ReadQuery) -> SqlResult<Page> {
    if is_scan(&query.filter) { scan(readers, task, query).await } else { one_page(readers, task, query).await }
}

async fn one_page(readers: &Readers, task: &TaskKey, query: &ReadQuery) -> SqlResult<Page> {
    let mut conn = readers.pages().acquire().await?;
    let Some(range) = Range::of(&mut conn, task, query).await? else { return Ok(Page::default()) };
    let mut filling = Filling::new(query, range);
    filling.read(&mut conn, range).await?;
    Ok(filling.page())
}

async fn scan(readers: &Readers, task: &TaskKey, query: &ReadQuery) -> SqlResult<Page> {
    let mut turn = readers.scan().await?;
    let Some(range) = Range::of(&mut turn.conn, task, query).await? else { return Ok(Page::default()) };
    let mut filling = Filling::new(query, range);
    loop {
        let window = filling.rest.window(query.direction);
        filling.read(&mut turn.conn, window).await?;
        drop(turn);
        if filling.is_full || filling.rest.is_empty() {
            return Ok(filling.page());
        }
        turn = readers.scan().await?;
    }
}

/// Whether lines may have to be passed over, so that the limit says nothing of how long it takes.
fn is_scan(filter: &LogFilter) -> bool {
    !filter.is_empty() && !is_system_only(filter)
}

fn is_system_only(filter: &LogFilter) -> bool {
    filter.streams == StreamSet::default().with(Stream::System)
}

/// Offsets of one task, both ends inclusive.
#[derive(Debug, Clone, Copy)]
struct Range {
    task_key: i64,
    first: u64,
    last: u64,
}

impl Range {
    /// The part of the query's range in which there can be lines. `None`: the task is not known, or has nothing there.
    async fn of(conn: &mut SqliteConnection, task: &TaskKey, query: &ReadQuery) -> SqlResult<Option<Self>> {
        const SQL: &str = r#"SELECT task_key, floor, "end" FROM tasks WHERE tenant = ? AND task_id = ?"#;
        let found = sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_optional(conn).await?;
        let Some(row) = found else { return Ok(None) };
        let first = query.from.max(row.try_get::<i64, _>(1)? as u64);
        let last = query.to.min(row.try_get::<i64, _>(2)? as u64);
        let range = Self { task_key: row.try_get(0)?, first, last };
        Ok((!range.is_empty()).then_some(range))
    }

    fn is_empty(self) -> bool {
        self.first > self.last
    }

    /// Where a scan looks next.
    fn window(self, direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self { last: self.last.min(self.first.saturating_add(WINDOW - 1)), ..self },
            Direction::Backward => Self { first: self.first.max(self.last.saturating_sub(WINDOW - 1)), ..self },
        }
    }

    /// Without what lies at this offset and before it, in the direction of the read. Offsets begin at 1, and end where
    /// SQLite's integers do.
    fn after(self, offset: u64, direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self { first: offset + 1, ..self },
            Direction::Backward => Self { last: offset - 1, ..self },
        }
    }
}

/// A page that is being read.
struct Filling<'q> {
    query: &'q ReadQuery,
    limit: usize,
    /// What is still to be looked at.
    rest: Range,
    records: Vec<LogRecord>,
    bytes: usize,
    is_full: bool,
}

impl<'q> Filling<'q> {
    fn new(query: &'q ReadQuery, range: Range) -> Self {
        Self { query, limit: query.limit.max(1), rest: range, records: Vec::new(), bytes: 0, is_full: false }
    }

    /// Reads on through `part`, the next of the rest. Rows come a few at a time, and the statement stops when the page
    /// is full or many bytes were searched.
    async fn read(&mut self, conn: &mut SqliteConnection, part: Range) -> SqlResult<()> {
        let ReadQuery { direction, filter, .. } = self.query;
        let is_system_only = is_system_only(filter);
        let sql = match (direction, is_system_only) {
            (Direction::Forward, false) => FORWARD,
            (Direction::Forward, true) => SYSTEM_FORWARD,
            (Direction::Backward, false) => BACKWARD,
            (Direction::Backward, true) => SYSTEM_BACKWARD,
        };
        let mut select = sqlx::query(sql)
            .bind(part.task_key)
            .bind(part.first as i64)
            .bind(part.last as i64)
            .bind(filter.min_level.unwrap_or(0))
            .bind(UNSET_LEVEL_FILTERS_AS)
            .bind(self.sql_limit());
        if !is_system_only {
            let streams = filter.streams.named().fold(0_i64, |bits, stream| bits | 1 << stream as u8);
            select = select.bind(if streams == 0 { -1 } else { streams });
        }
        let is_scan = is_scan(filter);
        let mut searched = 0;
        let mut rows = select.fetch(conn);
        while let Some(row) = rows.try_next().await? {
            let record = row::decode(&row)?;
            self.rest = self.rest.after(record.offset, *direction);
            searched += record.message.len();
            if filter.matches(&record) {
                self.take(record);
            }
            if self.is_full || (is_scan && searched > WINDOW_BYTES) {
                return Ok(());
            }
        }
        let end = if *direction == Direction::Forward { part.last } else { part.first };
        self.rest = self.rest.after(end, *direction);
        Ok(())
    }

    /// The text is searched here, so how many rows must be seen for it is not known.
    fn sql_limit(&self) -> i64 {
        match self.query.filter.needle() {
            Some(_) => UNLIMITED,
            None => i64::try_from(self.limit - self.records.len()).unwrap_or(UNLIMITED),
        }
    }

    fn take(&mut self, record: LogRecord) {
        self.bytes += record.message.len();
        self.records.push(record);
        self.is_full = self.records.len() == self.limit || self.bytes > self.query.max_bytes;
    }

    fn page(mut self) -> Page {
        let next = match self.query.direction {
            Direction::Forward => self.rest.first,
            Direction::Backward => {
                self.records.reverse();
                self.rest.last
            }
        };
        Page { records: self.records, next: (!self.rest.is_empty()).then_some(next) }
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
