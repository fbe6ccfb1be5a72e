//! A logging record as entries: its fields as JSON that the server takes, its message in parts that it takes.

use std::borrow::Cow;

use bytes::Bytes;
use flowforge_client::{Client, Entry, Stream};
use serde_json::{Map, Value};

/// What Python knows of a record.
pub(crate) struct Record<'a> {
    pub(crate) level: u8,
    pub(crate) message: Cow<'a, [u8]>,
    pub(crate) logger: Cow<'a, str>,
    pub(crate) thread: Cow<'a, str>,
    /// A JSON object, or what was meant to be one.
    pub(crate) extras: Option<Cow<'a, str>>,
    /// Seconds since 1970.
    pub(crate) created: f64,
}

impl Record<'_> {
    /// Captures the record. The caller holds the GIL, so the parts of a long message stay together.
    pub(crate) fn push(&self, client: &Client) {
        let most = client.max_line_bytes().max(4);
        let mut fields = self.fields(most);
        let mut rest = &*self.message;
        loop {
            let (part, after) = rest.split_at(part_len(rest, most));
            client.push(Entry {
                time_unix_nano: (self.created * 1e9) as i64,
                stream: Stream::Log,
                level: self.level,
                message: Bytes::copy_from_slice(part),
                continued: !after.is_empty(),
                no_newline: false,
                fields_json: std::mem::take(&mut fields),
                update_id: 0,
            });
            if after.is_empty() {
                return;
            }
            rest = after;
        }
    }

    /// Never more than `most` bytes, always valid: the server refuses a line for its fields.
    fn fields(&self, most: usize) -> Bytes {
        let mut json = Vec::with_capacity(96);
        json.extend_from_slice(b"{\"logger\":");
        quote(&mut json, &self.logger);
        json.extend_from_slice(b",\"thread\":");
        quote(&mut json, &self.thread);
        let base = json.len();
        if let Some(extras) = &self.extras {
            match serde_json::from_str::<Map<String, Value>>(extras) {
                Ok(map) if map.is_empty() => {}
                Ok(_) => {
                    json.push(b',');
                    json.extend_from_slice(extras.trim().trim_start_matches('{').as_bytes());
                    json.pop();
                }
                Err(error) => {
                    json.extend_from_slice(b",\"fields_error\":");
                    quote(&mut json, &error.to_string());
                }
            }
        }
        if json.len() >= most {
            json.truncate(base);
            json.extend_from_slice(b",\"fields_error\":\"too large\"");
        }
        json.push(b'}');
        if json.len() > most { Bytes::new() } else { json.into() }
    }
}

fn quote(json: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail, and a str is always valid JSON text.
    let _ = serde_json::to_writer(json, text);
}

/// At most `most`, at a character's beginning if this is UTF-8.
fn part_len(bytes: &[u8], most: usize) -> usize {
    if bytes.len() <= most {
        return bytes.len();
    }
    let is_start = |at: &usize| bytes[*at] & 0xC0 != 0x80;
    (most - 3..=most).rev().find(is_start).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(extras: Option<&str>, most: usize) -> Value {
        let record = Record {
            level: 9,
            message: Cow::Borrowed(b"m"),
            logger: "a\"b".into(),
            thread: "é".into(),
            extras: extras.map(Cow::Borrowed),
            created: 0.0,
        };
        serde_json::from_slice(&record.fields(most)).unwrap()
    }

    #[test]
    fn fields_are_always_an_object_within_the_limit() {
        assert_eq!(fields(None, 100), serde_json::json!({"logger": "a\"b", "thread": "é"}));
        assert_eq!(fields(Some(" {} "), 100), serde_json::json!({"logger": "a\"b", "thread": "é"}));
        let nested = fields(Some("{\"x\": {\"y\": 1}}"), 100);
        assert_eq!(nested, serde_json::json!({"logger": "a\"b", "thread": "é", "x": {"y": 1}}));
        assert!(fields(Some("{\"x\": NaN}"), 1000)["fields_error"].is_string());
        assert_eq!(
            fields(Some("{\"x\": \"0123456789012345678901234567890123456789\"}"), 70)["fields_error"],
            "too large"
        );
    }

    #[test]
    fn parts_end_between_characters() {
        assert_eq!(part_len("aéé".as_bytes(), 4), 3);
        assert_eq!(part_len("aéé".as_bytes(), 5), 5);
        assert_eq!(part_len(&[0x80; 9], 8), 8);
    }
}
