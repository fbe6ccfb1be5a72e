//! Server-Sent Events from bytes: the part of <https://html.spec.whatwg.org/multipage/server-sent-events.html> that a
//! client parses. Push bytes in as they come; the events that became whole come out.
//!
//! **Invariants**: cutting the bytes into other chunks gives the same items; a line or event beyond the bound is an error
//! and not memory.

use std::str;

/// What a stream consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An event with data.
    Event(Event),
    /// A block without data that only moves the place to resume from.
    Id(String),
    /// The server asks to wait so many milliseconds before reconnecting.
    Retry(u64),
    /// A heartbeat.
    Comment,
}

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The type; `message` where the server gives none.
    pub event: String,
    /// The data lines, joined by `\n`.
    pub data: String,
    /// The id, if this block has one.
    pub id: Option<String>,
}

/// Why the stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum SseError {
    /// A line or an event is larger than the bound.
    #[error("the server sent an event of more than {0} bytes")]
    TooLarge(usize),
}

/// Reads one stream. A new connection needs a new one.
#[derive(Debug)]
pub struct Parser {
    max_bytes: usize,
    line: Vec<u8>,
    /// The last line ended with `\r`; a `\n` that follows belongs to it.
    after_cr: bool,
    /// The byte order mark may still come.
    at_start: bool,
    event: Option<String>,
    data: Option<String>,
    id: Option<String>,
}

/// Far above any line of a log with its fields, escaped.
const DEFAULT_MAX_BYTES: usize = 8 << 20;

impl Default for Parser {
    fn default() -> Self {
        Self::with_limit(DEFAULT_MAX_BYTES)
    }
}

impl Parser {
    /// No line and no event may exceed so many bytes.
    pub fn with_limit(max_bytes: usize) -> Self {
        Self { max_bytes, line: Vec::new(), after_cr: false, at_start: true, event: None, data: None, id: None }
    }

    /// Takes the next bytes; what became whole is added to `items`.
    pub fn feed(&mut self, mut bytes: &[u8], items: &mut Vec<Item>) -> Result<(), SseError> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let stop = bytes.iter().position(|byte| *byte == b'\n' || *byte == b'\r');
            let text = &bytes[..stop.unwrap_or(bytes.len())];
            if self.line.len() + text.len() > self.max_bytes {
                return Err(SseError::TooLarge(self.max_bytes));
            }
            self.line.extend_from_slice(text);
            let Some(stop) = stop else { break };
            self.after_cr = bytes[stop] == b'\r';
            bytes = &bytes[stop + 1..];
            let line = std::mem::take(&mut self.line);
            self.take_line(&line, items)?;
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn take_line(&mut self, mut line: &[u8], items: &mut Vec<Item>) -> Result<(), SseError> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.end_block(items);
            return Ok(());
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = match colon {
            Some(0) => {
                items.push(Item::Comment);
                return Ok(());
            }
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &line[line.len()..]),
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match field {
            b"event" => self.event = Some(text()),
            b"data" => self.add_data(&String::from_utf8_lossy(value))?,
            // An id with a NUL is ignored, as the standard has it.
            b"id" if !value.contains(&0) => self.id = Some(text()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                items.extend(str::from_utf8(value).ok().and_then(|ms| ms.parse().ok()).map(Item::Retry));
            }
            _ => {}
        }
        Ok(())
    }

    fn add_data(&mut self, value: &str) -> Result<(), SseError> {
        let Some(data) = &mut self.data else {
            self.data = Some(value.to_owned());
            return Ok(());
        };
        if data.len() + value.len() >= self.max_bytes {
            return Err(SseError::TooLarge(self.max_bytes));
        }
        data.push('\n');
        data.push_str(value);
        Ok(())
    }

    fn end_block(&mut self, items: &mut Vec<Item>) {
        let (event, data, id) = (self.event.take(), self.data.take(), self.id.take());
        match (data, id) {
            (Some(data), id) => {
                let event = event.filter(|name| !name.is_empty()).unwrap_or_else(|| "message".to_owned());
                items.push(Item::Event(Event { event, data, id }));
            }
            (None, Some(id)) => items.push(Item::Id(id)),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(chunks: &[&[u8]]) -> Vec<Item> {
        let (mut parser, mut items) = (Parser::default(), Vec::new());
        for chunk in chunks {
            parser.feed(chunk, &mut items).expect("within the bound");
        }
        items
    }

    fn event(event: &str, data: &str, id: Option<&str>) -> Item {
        Item::Event(Event { event: event.to_owned(), data: data.to_owned(), id: id.map(str::to_owned) })
    }

    #[test]
    fn all_line_ends_and_fields() {
        let whole =
            "\u{FEFF}: hi\nretry: 250\r\n\r\nevent: log\rid: 7-1\rdata: a\rdata:b\rdata\r\rid: 7-2\n\ndata: c\n\n";
        let expected = [
            Item::Comment,
            Item::Retry(250),
            event("log", "a\nb\n", Some("7-1")),
            Item::Id("7-2".to_owned()),
            event("message", "c", None),
        ];
        assert_eq!(parse(&[whole.as_bytes()]), expected);
    }

    #[test]
    fn an_unfinished_event_is_none() {
        assert_eq!(parse(&[b"data: a\n"]), []);
        assert_eq!(
            parse(&[b"data: a\r\n\r", b"\ndata: b\n\n"]),
            [event("message", "a", None), event("message", "b", None)]
        );
    }

    #[test]
    fn sizes_are_bounded() {
        let mut parser = Parser::with_limit(100);
        let endless = std::iter::repeat_n(&b"xxxxxxxxxx"[..], 11);
        assert!(endless.map(|chunk| parser.feed(chunk, &mut Vec::new())).any(|fed| fed.is_err()));
        let mut parser = Parser::with_limit(100);
        let many = std::iter::repeat_n(&b"data: xxxxxxxxxx\n"[..], 11);
        assert!(many.map(|line| parser.feed(line, &mut Vec::new())).any(|fed| fed.is_err()));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("data: ".to_owned()),
            Just("id: 1-2".to_owned()),
            Just("event: log".to_owned()),
            Just(":".to_owned()),
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just("\r\n".to_owned()),
            Just("\u{FEFF}".to_owned()),
            "[a-zé ]{0,5}",
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bytes in stream(), size in 1_usize..7) {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(parse(&chunks), parse(&[&bytes]));
        }
    }
}
