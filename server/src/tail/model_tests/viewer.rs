//! A reader as the viewer in a browser is one: it applies events, remembers the last id, and comes back with it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

use super::site::{Row, task};
use crate::broker::BrokerError;
use crate::tail::resume::Place;
use crate::tail::{Begin, LogFilter, Opened, Tail, TailRequest};

type Opening = Pin<Box<dyn Future<Output = Result<Opened, BrokerError>> + Send>>;
type Events = Pin<Box<dyn Stream<Item = Result<Bytes, BrokerError>> + Send>>;

enum Connection {
    None,
    Opening(Opening),
    Open(Events),
}

pub(super) struct Viewer {
    tail: Arc<Tail>,
    begin: Begin,
    filter: LogFilter,
    wants: fn(&Row) -> bool,
    connection: Connection,
    place: Option<Place>,
    /// By offset, as they were told.
    rows: BTreeMap<u64, String>,
    /// What is told to be gone: first and last offset of each stretch.
    gaps: Vec<(u64, u64)>,
    /// Where it began, or went back to.
    low: u64,
    /// The least offset that may come next.
    next: u64,
    /// The offset of the end row, as it was told last.
    pub(super) end: u64,
}

impl Viewer {
    pub(super) fn new(tail: &Arc<Tail>, begin: Begin, filter: LogFilter, wants: fn(&Row) -> bool) -> Self {
        Self {
            tail: Arc::clone(tail),
            begin,
            filter,
            wants,
            connection: Connection::None,
            place: None,
            rows: BTreeMap::new(),
            gaps: Vec::new(),
            low: u64::MAX,
            next: 0,
            end: 0,
        }
    }

    /// The connection breaks; the next poll comes back with the last id.
    pub(super) fn leave(&mut self) {
        self.connection = Connection::None;
    }

    /// One step, wherever that ends. Ready: the stream is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.connection {
            Connection::None => {
                let request = TailRequest {
                    task: task(),
                    place: self.place,
                    begin: self.begin,
                    filter: self.filter.clone(),
                    follow: true,
                };
                let tail = Arc::clone(&self.tail);
                self.connection = Connection::Opening(Box::pin(async move { tail.open(request).await }));
                self.poll(cx)
            }
            Connection::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(Opened::Events(session))) => {
                    self.connection = Connection::Open(Box::pin(session.into_stream()));
                    self.poll(cx)
                }
                Poll::Ready(Ok(Opened::NothingMore)) => {
                    self.end = self.place.map_or(0, |place| place.offset);
                    self.over()
                }
                Poll::Ready(Err(error)) => panic!("{error}"),
            },
            Connection::Open(events) => match events.poll_next_unpin(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => self.over(),
                Poll::Ready(Some(bytes)) => {
                    self.take(&bytes.expect("nothing fails here"));
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
        }
    }

    fn over(&mut self) -> Poll<()> {
        self.connection = Connection::None;
        Poll::Ready(())
    }

    fn take(&mut self, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).expect("text");
        for event in text.split_terminator("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let data: Value = field("data: ").map_or(Value::Null, |data| serde_json::from_str(data).expect("JSON"));
            self.apply(field("event: "), &data);
            if let Some(id) = field("id: ") {
                let place = Place::parse(id).expect("a place");
                self.next = self.next.max(place.offset + 1);
                self.place = Some(place);
            }
        }
    }

    fn apply(&mut self, event: Option<&str>, data: &Value) {
        let number = |name: &str| data[name].as_u64().expect(name);
        match event {
            Some("start") => self.start(number("from")),
            Some("log") => self.row(number("offset"), data["message"].as_str().expect("a message").to_owned()),
            Some("gap") => {
                let (from, to) = (number("from"), number("to"));
                assert_eq!(data["reason"], "retention", "nothing else takes rows: {from} to {to}");
                assert!(from >= self.next && from <= to, "a gap from {from} to {to}, but {} is next", self.next);
                self.gaps.push((from, to));
                self.next = to + 1;
            }
            Some("rollback") => self.forget_above(number("to")),
            Some("reset") => {
                self.forget_above(0);
                self.place = None;
            }
            Some("end") => self.end = number("offset"),
            _ => {}
        }
    }

    fn start(&mut self, from: u64) {
        if self.place.is_none() {
            self.forget_above(0);
            (self.low, self.next) = (from, from);
        }
        // It goes on behind its last id, or behind what a rollback has left of it.
        assert!(from <= self.next, "begins at {from}, but {} is next", self.next);
        self.next = from;
    }

    fn row(&mut self, offset: u64, message: String) {
        if let Begin::From(from) = self.begin {
            assert!(offset >= from, "row {offset} was not asked for: from {from}");
        }
        assert!(offset >= self.next, "row {offset} comes twice or late: {} is next", self.next);
        assert!(!self.filter.is_empty() || offset == self.next, "row {offset}, but {} is next", self.next);
        self.rows.insert(offset, message);
        self.next = offset + 1;
    }

    fn forget_above(&mut self, to: u64) {
        self.rows.retain(|offset, _| *offset <= to);
        self.gaps.retain_mut(|(from, end)| {
            *end = to.min(*end);
            *from <= to
        });
        self.next = to + 1;
        self.low = self.low.min(to + 1);
    }

    /// What it holds is what is true: every row that it wants from where it began, but for those that it was told are gone.
    pub(super) fn check(&self, truth: &[Row], deleted: u64) {
        let wanted = |offset: u64| truth.get(offset as usize - 1).filter(|row| (self.wants)(row));
        for (offset, message) in &self.rows {
            let row = wanted(*offset).unwrap_or_else(|| panic!("row {offset} is held: {message}"));
            assert!(message.starts_with(&row.message), "row {offset} is held as {message}, but it is {row:?}");
        }
        let is_told = |offset| self.gaps.iter().any(|(from, to)| (*from..=*to).contains(&offset));
        for offset in self.low.max(1)..=truth.len() as u64 {
            let is_gone = offset <= deleted && is_told(offset);
            assert!(
                self.rows.contains_key(&offset) || wanted(offset).is_none() || is_gone,
                "row {offset} is missing: {:?}",
                truth[offset as usize - 1]
            );
        }
        assert!(self.gaps.iter().all(|(_, to)| *to <= deleted), "gaps where nothing is gone: {:?}", self.gaps);
    }
}
