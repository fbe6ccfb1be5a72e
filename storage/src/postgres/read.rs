//! Reading lines.
//!
//! A read without a filter is one statement, kept short by its limit. One with a filter may have to pass over all lines of a
//! task: it goes from window to window, each a statement of its own, as pages are. Between two windows others get the
//! connection, and a read that nobody waits for any more ends there. Lines of the system alone have an index, so that they
//! need no windows.
//!
//! Text is searched by PostgreSQL where it can decide as [`LogFilter::matches`] does: in lines of ASCII alone without
//! terminal sequences, nearly all of them. Every other line in the range is looked at here, since lower case depends on the
//! database's locale, and PostgreSQL does not know what a terminal shows.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::error::SqlResult;
use super::moment::Moment;
use super::pool::Connections;
use super::row::{self, COLUMNS};
use crate::key::TaskKey;
use crate::query::{Direction, LogFilter, Page, ReadQuery, StreamSet};
use crate::record::{LogRecord, Stream, UNSET_LEVEL_FILTERS_AS};

/// Offsets that one statement of a scan passes over: some ten milliseconds.
const WINDOW: u64 = 20_000;

/// A statement of a scan gives no more than this many bytes of messages.
const WINDOW_BYTES: usize = 8 << 20;

/// One page. See [`LogStore::read`](crate::LogStore::read).
pub(super) async fn read(connections: &Connections, task: &TaskKey, query: &ReadQuery) -> SqlResult<Page> {
    if is_scan(&query.filter) { scan(connections, task, query).await } else { one_page(connections, task, query).await }
}

async fn one_page(connections: &Connections, task: &TaskKey, query: &ReadQuery) -> SqlResult<Page> {
    let mut lease = connections.page().await?;
    let Some(range) = connections.patiently(Range::of(lease.conn()?, task, query)).await? else {
        lease.give_back();
        return Ok(Page::default());
    };
    let mut filling = Filling::new(query, range);
    connections.patiently(filling.read(lease.conn()?, range)).await?;
    lease.give_back();
    Ok(filling.page())
}

async fn scan(connections: &Connections, task: &TaskKey, query: &ReadQuery) -> SqlResult<Page> {
    let mut lease = connections.scan().await?;
    let Some(range) = connections.patiently(Range::of(lease.conn()?, task, query)).await? else {
        lease.give_back();
        return Ok(Page::default());
    };
    let mut filling = Filling::new(query, range);
    loop {
        let window = filling.rest.window(query.direction);
        connections.patiently(filling.read(lease.conn()?, window)).await?;
        lease.give_back();
        if filling.is_full || filling.rest.is_empty() {
            return Ok(filling.page());
        }
        lease = connections.scan().await?;
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
    /// All rows of the task lie between the two: the partitions of other days are left alone.
    created: (Moment, Moment),
}

impl Range {
    /// The part of the query's range in which there can be lines. `None`: the task is not known, or has nothing there.
    async fn of(conn: &mut PgConnection, task: &TaskKey, query: &ReadQuery) -> SqlResult<Option<Self>> {
        const SQL: &str = r#"SELECT task_key, floor, "end", first_created_at, last_created_at FROM tasks
            WHERE tenant = $1 AND task_id = $2 AND first_created_at IS NOT NULL"#;
        let found = sqlx::query(SQL).bind(task.tenant()).bind(task.task_id()).fetch_optional(conn).await?;
        let Some(row) = found else { return Ok(None) };
        let first = query.from.max(row.try_get::<i64, _>(1)? as u64);
        let last = query.to.min(row.try_get::<i64, _>(2)? as u64);
        let created = (row.try_get(3)?, row.try_get(4)?);
        let range = Self { task_key: row.try_get(0)?, first, last, created };
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
    /// PostgreSQL's integers do.
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

    /// Reads on through `part`, the next of the rest. The statement gives no more rows or bytes than are wanted; where it
    /// ended early, the rest begins after its last row.
    async fn read(&mut self, conn: &mut PgConnection, part: Range) -> SqlResult<()> {
        let ReadQuery { direction, filter, .. } = self.query;
        let max_bytes = if is_scan(filter) { WINDOW_BYTES } else { self.query.max_bytes };
        let max_rows = i64::try_from(self.limit - self.records.len()).unwrap_or(i64::MAX);
        let text = Text::of(filter);
        let mut select = sqlx::query(AssertSqlSafe(sql(*direction, is_system_only(filter), &text)))
            .bind(part.task_key)
            .bind(part.first as i64)
            .bind(part.last as i64)
            .bind(part.created.0)
            .bind(part.created.1)
            .bind(i16::from(filter.min_level.unwrap_or(0)))
            .bind(streams(filter))
            .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX))
            .bind(max_rows);
        if let Text::Ascii(needle) = text {
            select = select.bind(needle);
        }
        let rows = select.fetch_all(conn).await?;
        let mut seen_bytes = 0;
        for row in &rows {
            let record = row::decode(row)?;
            self.rest = self.rest.after(record.offset, *direction);
            seen_bytes += record.message.len();
            if filter.matches(&record) {
                self.take(record);
            }
            if self.is_full {
                return Ok(());
            }
        }
        if (rows.len() as i64) < max_rows && seen_bytes <= max_bytes {
            let end = if *direction == Direction::Forward { part.last } else { part.first };
            self.rest = self.rest.after(end, *direction);
        }
        Ok(())
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

/// Streams as bits; all of them if none is named.
fn streams(filter: &LogFilter) -> i64 {
    let bits = filter.streams.named().fold(0_i64, |bits, stream| bits | 1 << stream as u8);
    if bits == 0 { -1 } else { bits }
}

/// How a search for text looks in SQL.
enum Text<'q> {
    /// None.
    Any,
    /// PostgreSQL decides for lines of ASCII.
    Ascii(&'q str),
    /// No line of ASCII can match. A NUL, which PostgreSQL cannot hold, stands there as U+FFFD.
    Other,
}

impl<'q> Text<'q> {
    fn of(filter: &'q LogFilter) -> Self {
        match filter.needle() {
            None => Self::Any,
            Some(needle) if needle.is_ascii() && !needle.contains('\0') => Self::Ascii(needle),
            Some(_) => Self::Other,
        }
    }
}

/// A few texts in all, each prepared once a connection. The number of the system's stream is a literal, since PostgreSQL must
/// know that it is the index's. The sums end the page with the line that goes over the bytes, before it is sent.
fn sql(direction: Direction, system_only: bool, text: &Text<'_>) -> String {
    const NOT_ASCII: &str = "octet_length(message) <> char_length(message)";
    let order = if direction == Direction::Forward { "ASC" } else { "DESC" };
    let stream = if system_only { "stream = 4 AND $7::int8 <> 0" } else { "($7::int8 >> stream) & 1 = 1" };
    let text = match text {
        Text::Any => "true".to_owned(),
        // strpos instead of LIKE: nothing to escape. In the collation "C" lower() changes ASCII only.
        Text::Ascii(_) => {
            format!(r#"({NOT_ASCII} OR strpos(lower(message COLLATE "C"), $10) > 0 OR strpos(message, chr(27)) > 0)"#)
        }
        Text::Other => NOT_ASCII.to_owned(),
    };
    format!(
        r#"SELECT {COLUMNS} FROM (
            SELECT *, sum(size) OVER (ORDER BY "offset" {order} ROWS UNBOUNDED PRECEDING) - size AS before FROM (
                SELECT {COLUMNS}, coalesce(octet_length(raw), octet_length(message)) AS size FROM task_logs
                WHERE task_key = $1 AND "offset" BETWEEN $2 AND $3 AND created_at BETWEEN $4 AND $5
                    AND CASE level WHEN 0 THEN {UNSET_LEVEL_FILTERS_AS} ELSE level END >= $6 AND {stream} AND {text}
                ORDER BY "offset" {order} LIMIT $9
            ) AS lines
        ) AS page WHERE before <= $8 ORDER BY "offset" {order}"#
    )
}
