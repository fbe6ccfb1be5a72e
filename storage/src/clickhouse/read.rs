//! Reading lines.
//!
//! The table is sorted by (tenant, task, offset, epoch), and offsets are contiguous: a page without a filter asks for just
//! the offsets that it shows. (A limit alone is not enough: the server reads on past it.) With a filter, level, stream and
//! most of the text are tested by ClickHouse, in wide windows. A window in which nothing was found makes the next one wider.

use super::error::failed;
use super::hosts::{Hosts, Lane};
use super::layout::{LINES, Layout};
use super::row::{LineRow, SELECT_COLUMNS};
use super::search;
use super::state::{self, TaskState, is_task};
use crate::error::StoreError;
use crate::key::TaskKey;
use crate::query::{Direction, LogFilter, Page, ReadQuery};
use crate::record::{LogRecord, UNSET_LEVEL_FILTERS_AS};

/// Offsets that the first statement with a filter passes over: some tens of milliseconds.
const WINDOW: u64 = 4_000_000;

/// Lines that one statement returns at most. More are never wanted at once, and a page is cut by its bytes before.
const MOST_LINES: usize = 10_000;

/// One page. See [`LogStore::read`](crate::LogStore::read).
pub(super) async fn read(
    hosts: &Hosts,
    layout: &Layout,
    task: &TaskKey,
    query: &ReadQuery,
) -> Result<Page, StoreError> {
    // One turn for all its statements: waiting readers must not fill the lane of the lookups.
    let _turn = hosts.turn(Lane::Page).await;
    let Some(state) = state::of_task_read(hosts, layout, task).await? else { return Ok(Page::default()) };
    let mut page = Filling::new(query, &state);
    let mut empty_windows = 0;
    while !page.is_full && !page.rest.is_empty() {
        let limit = page.missing().min(MOST_LINES);
        // Offsets have few holes: as many of them as lines are wanted.
        let width = if query.filter.is_empty() { limit as u64 } else { WINDOW };
        let window = page.rest.window(query.direction, width.saturating_mul(1 << (2 * empty_windows).min(60)));
        let sql = select(layout, task, &state, query, window, limit);
        let new = || page.clone();
        let read = hosts.collect(Lane::Free, &sql, new, Filling::take).await;
        let read = read.map_err(|error| failed("cannot read lines from ClickHouse", error))?;
        let came = read.seen - page.seen;
        page = read;
        if !page.is_full && came < limit {
            let end = if query.direction == Direction::Forward { window.last } else { window.first };
            page.rest = page.rest.after(end, query.direction);
        }
        empty_windows = if came == 0 { empty_windows + 1 } else { 0 };
    }
    Ok(page.into_page())
}

fn select(
    layout: &Layout,
    task: &TaskKey,
    state: &TaskState,
    query: &ReadQuery,
    Range { first, last }: Range,
    limit: usize,
) -> String {
    let order = if query.direction == Direction::Forward { "ASC" } else { "DESC" };
    let (table, is_task, rule) = (layout.table(LINES), is_task(task), state.rule());
    let lines = format!("FROM {table} WHERE {is_task} AND offset BETWEEN {first} AND {last} AND {rule}");
    let one_each = format!("ORDER BY tenant {order}, task_id {order}, offset {order}, epoch DESC LIMIT 1 BY offset");
    let filter = condition(&query.filter);
    if state.is_unsettled && filter != "true" {
        // The line of the highest epoch decides, also when it does not pass and another at its offset would.
        return format!(
            "SELECT {SELECT_COLUMNS} FROM (SELECT tenant, task_id, {SELECT_COLUMNS} {lines} {one_each}) WHERE {filter} ORDER BY offset {order} LIMIT {limit}"
        );
    }
    format!("SELECT {SELECT_COLUMNS} {lines} AND {filter} {one_each} LIMIT {limit}")
}

/// What every line that passes fulfils.
fn condition(filter: &LogFilter) -> String {
    let mut conditions = Vec::new();
    if let Some(least) = filter.min_level {
        conditions.push(format!("if(level = 0, {UNSET_LEVEL_FILTERS_AS}, level) >= {least}"));
    }
    let streams: Vec<_> = filter.streams.named().map(|stream| format!("'{}'", stream.name())).collect();
    if !streams.is_empty() {
        conditions.push(format!("stream IN ({})", streams.join(", ")));
    }
    conditions.extend(filter.needle().and_then(search::superset));
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// Offsets, both ends inclusive.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
}

impl Range {
    fn is_empty(self) -> bool {
        self.first > self.last
    }

    /// Where a statement looks next.
    fn window(self, direction: Direction, width: u64) -> Self {
        match direction {
            Direction::Forward => Self { last: self.last.min(self.first.saturating_add(width - 1)), ..self },
            Direction::Backward => Self { first: self.first.max(self.last.saturating_sub(width - 1)), ..self },
        }
    }

    /// Without what lies at this offset and before it, in the direction of the read. Offsets begin at 1 and end at
    /// `i64::MAX`.
    fn after(self, offset: u64, direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self { first: offset + 1, ..self },
            Direction::Backward => Self { last: offset - 1, ..self },
        }
    }
}

/// A page that is being read.
#[derive(Clone)]
struct Filling<'q> {
    query: &'q ReadQuery,
    /// What is still to be looked at.
    rest: Range,
    records: Vec<LogRecord>,
    bytes: usize,
    /// Rows that came, passing or not.
    seen: usize,
    is_full: bool,
}

impl<'q> Filling<'q> {
    fn new(query: &'q ReadQuery, state: &TaskState) -> Self {
        let rest = Range { first: query.from.max(state.floor), last: query.to.min(state.end) };
        Self { query, rest, records: Vec::new(), bytes: 0, seen: 0, is_full: false }
    }

    fn missing(&self) -> usize {
        self.query.limit.max(1) - self.records.len()
    }

    /// False: the page is full.
    fn take(&mut self, row: LineRow) -> bool {
        let record = row.into_record();
        self.rest = self.rest.after(record.offset, self.query.direction);
        self.seen += 1;
        if self.query.filter.matches(&record) {
            self.bytes += record.message.len();
            self.records.push(record);
            self.is_full = self.missing() == 0 || self.bytes > self.query.max_bytes;
        }
        !self.is_full
    }

    fn into_page(mut self) -> Page {
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
