//! How a line of a log looks on standard output.
//!
//! To a pipe a line's bytes go unchanged. On a terminal everything but colours is taken out of them: a log is written by
//! strangers, and must not be able to move the cursor, set the title or answer for the user.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A line as the server sends it; what is not printed is left out.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line<'a> {
    pub(super) offset: u64,
    #[serde(default, borrow)]
    pub(super) producer: Cow<'a, str>,
    #[serde(default)]
    pub(super) seq: u64,
    #[serde(default, borrow)]
    time: Cow<'a, str>,
    #[serde(default, borrow)]
    stream: Cow<'a, str>,
    #[serde(default)]
    severity: u8,
    #[serde(default, borrow)]
    message: Cow<'a, str>,
    /// The message's bytes in base64, where they are not UTF-8.
    #[serde(default, borrow)]
    raw: Option<Cow<'a, str>>,
    #[serde(default)]
    continued: bool,
    #[serde(default)]
    no_newline: bool,
    #[serde(default, borrow)]
    fields: Option<&'a RawValue>,
}

impl Line<'_> {
    /// What the server wrote into the log itself, and not the program.
    pub(super) fn is_ours(&self) -> bool {
        self.stream == "system"
    }

    /// The row that ends an attempt.
    pub(super) fn is_end(&self) -> bool {
        self.is_ours() && self.fields.is_some_and(|fields| fields.get().starts_with("{\"end\":"))
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

/// What is printed of a line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    pub(super) terminal: bool,
    pub(super) colours: bool,
    pub(super) timestamps: bool,
    pub(super) offsets: bool,
}

/// Prints lines.
#[derive(Debug)]
pub(super) struct Printer<W> {
    out: W,
    style: Style,
    open: Open,
}

/// How the last thing printed ended.
#[derive(Debug, Default, PartialEq, Eq)]
enum Open {
    /// With a newline.
    #[default]
    No,
    /// In the middle of a line of this producer and stream, which goes on.
    Continued(String, String),
    /// Without a newline, as it was printed.
    Unterminated,
}

const DIM: &str = "2";
const RED: &str = "31";
const YELLOW: &str = "33";
const RESET: &[u8] = b"\x1b[0m";

impl<W: Write> Printer<W> {
    pub(super) fn new(out: W, style: Style) -> Self {
        Self { out, style, open: Open::No }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends an open line, if people are looking.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.style.terminal && std::mem::take(&mut self.open) != Open::No {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }

    /// One JSON object, on a line of its own.
    pub(super) fn json(&mut self, json: &str) -> io::Result<()> {
        if self.style.terminal && json.contains(is_unescaped_control) {
            // JSON escapes those below U+0020 only.
            for c in json.chars() {
                if is_unescaped_control(c) {
                    write!(self.out, "\\u{:04x}", u32::from(c))?;
                } else {
                    write!(self.out, "{c}")?;
                }
            }
        } else {
            self.out.write_all(json.as_bytes())?;
        }
        self.out.write_all(b"\n")
    }

    pub(super) fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        let goes_on = match std::mem::take(&mut self.open) {
            Open::Continued(producer, stream) if producer == line.producer && stream == line.stream => true,
            Open::No => false,
            Open::Continued(..) | Open::Unterminated => {
                self.out.write_all(b"\n")?;
                false
            }
        };
        if !goes_on {
            self.prefix(line)?;
        }
        self.message(line)?;
        if line.continued {
            self.open = Open::Continued(line.producer.to_string(), line.stream.to_string());
        } else if line.no_newline {
            self.open = Open::Unterminated;
        } else {
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn prefix(&mut self, line: &Line<'_>) -> io::Result<()> {
        let mut prefix = String::new();
        if self.style.offsets {
            prefix = format!("{:>7} ", line.offset);
        }
        if self.style.timestamps {
            prefix.push_str(&safe(&line.time, false));
            prefix.push(' ');
        }
        self.coloured(DIM, prefix.as_bytes())
    }

    fn message(&mut self, line: &Line<'_>) -> io::Result<()> {
        let system = line.stream == "system";
        if !self.style.terminal {
            let marker: &[u8] = if system { "· ".as_bytes() } else { b"" };
            self.out.write_all(marker)?;
            return match line.raw.as_deref().and_then(|raw| base64::engine::general_purpose::STANDARD.decode(raw).ok())
            {
                Some(raw) => self.out.write_all(&raw),
                None => self.out.write_all(line.message.as_bytes()),
            };
        }
        let text = safe(&line.message, self.style.colours);
        if system {
            return self.coloured(DIM, format!("· {text}").as_bytes());
        }
        if text.contains('\x1b') {
            // It has colours of its own; they end with the line.
            self.out.write_all(text.as_bytes())?;
            return self.out.write_all(RESET);
        }
        match colour(line) {
            Some(sgr) => self.coloured(sgr, text.as_bytes()),
            None => self.out.write_all(text.as_bytes()),
        }
    }

    fn coloured(&mut self, sgr: &str, text: &[u8]) -> io::Result<()> {
        if !self.style.colours || text.is_empty() {
            return self.out.write_all(text);
        }
        write!(self.out, "\x1b[{sgr}m")?;
        self.out.write_all(text)?;
        self.out.write_all(RESET)
    }
}

fn colour(line: &Line<'_>) -> Option<&'static str> {
    match line.severity {
        17.. => Some(RED),
        13..=16 => Some(YELLOW),
        1..=8 => Some(DIM),
        _ => (line.stream == "stderr").then_some(RED),
    }
}

/// Text that cannot drive a terminal: control characters go, except tabs and, if wanted, colours (SGR: `ESC [ … m`).
pub(super) fn safe(text: &str, keep_colours: bool) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\x1b' || c == '\u{9b}' {
            let length = escape_length(rest);
            let sequence = &rest[..length];
            if keep_colours && is_sgr(sequence) {
                out.push_str(sequence);
            }
            rest = &rest[length..];
            continue;
        }
        if c == '\t' || !c.is_control() {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

fn is_unescaped_control(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}')
}

fn is_sgr(sequence: &str) -> bool {
    sequence
        .strip_prefix("\x1b[")
        .and_then(|rest| rest.strip_suffix('m'))
        .is_some_and(|parameters| parameters.bytes().all(|byte| byte.is_ascii_digit() || byte == b';' || byte == b':'))
}

/// Length of the escape sequence that `text` begins with (ECMA-48): CSI to its final byte, the strings (OSC, DCS, PM, APC,
/// SOS) to their terminator, else ESC and one character.
fn escape_length(text: &str) -> usize {
    let mut chars = text.char_indices();
    let introducer = match chars.next() {
        Some((_, '\u{9b}')) => Some('['),
        _ => chars.next().map(|(_, c)| c),
    };
    let end_of = |(at, c): (usize, char)| at + c.len_utf8();
    match introducer {
        Some('[') => chars.find(|(_, c)| !(' '..='?').contains(c)).map_or(text.len(), end_of),
        // One look at each character, whichever of the three ends it: a log may hold thousands of strings.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            let mut before = '\0';
            let mut is_end = |c| {
                let after = std::mem::replace(&mut before, c);
                matches!(c, '\x07' | '\u{9c}') || (after == '\x1b' && c == '\\')
            };
            chars.find(|(_, c)| is_end(*c)).map_or(text.len(), end_of)
        }
        Some(c) => 1 + c.len_utf8(),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(style: Style, lines: &[&str]) -> String {
        let mut printer = Printer::new(Vec::new(), style);
        for json in lines {
            printer.line(&serde_json::from_str(json).expect("a line")).expect("a vector takes all");
        }
        printer.finish().expect("a vector takes all");
        String::from_utf8_lossy(&printer.out).into_owned()
    }

    #[test]
    fn a_pipe_gets_the_bytes() {
        let lines = [
            r#"{"offset":1,"stream":"stdout","message":"a\u001b[2Jb"}"#,
            r#"{"offset":2,"stream":"stdout","message":"?","raw":"YQ=="}"#,
            r#"{"offset":3,"producer":"p","stream":"stdout","message":"long","continued":true}"#,
            r#"{"offset":4,"producer":"p","stream":"stdout","message":" line"}"#,
            r#"{"offset":5,"producer":"p","stream":"stdout","message":"cut","continued":true}"#,
            r#"{"offset":6,"producer":"q","stream":"stdout","message":"end","no_newline":true}"#,
        ];
        assert_eq!(printed(Style::default(), &lines), "a\x1b[2Jb\na\nlong line\ncut\nend");
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_else() {
        let style = Style { terminal: true, colours: true, ..Style::default() };
        let lines = [
            r#"{"offset":1,"stream":"stdout","message":"\u001b[31mred\u001b[2J\u001b]0;title\u0007!\r"}"#,
            r#"{"offset":2,"stream":"stderr","message":"oh"}"#,
            r#"{"offset":3,"stream":"system","message":"end"}"#,
        ];
        assert_eq!(printed(style, &lines), "\x1b[31mred!\x1b[0m\n\x1b[31moh\x1b[0m\n\x1b[2m· end\x1b[0m\n");
    }

    #[test]
    fn json_on_a_terminal_is_plain_and_means_the_same() {
        let json = "{\"message\":\"a\u{9b}2J\u{7f}\u{e9}\"}";
        for terminal in [false, true] {
            let mut printer = Printer::new(Vec::new(), Style { terminal, ..Style::default() });
            printer.json(json).expect("a vector takes all");
            let printed = String::from_utf8(printer.out).expect("text");
            assert_eq!(printed.chars().any(is_unescaped_control), !terminal);
            let parse = |text| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            assert_eq!(parse(&printed), parse(json));
        }
    }

    #[test]
    fn hostile_text_is_taken_apart() {
        for (text, left) in [
            ("a\x1b", "a"),
            ("\x1b[", ""),
            ("\x1b[31", ""),
            ("\x1b]52;c;x\x1b\\ok", "ok"),
            ("\x1bPq\u{9c}ok", "ok"),
            ("\u{9b}2Jok", "ok"),
            ("\x1bcok\x08\x07", "ok"),
            ("\x1b[?25lok\tx", "ok\tx"),
            ("\x1b[1mbold", "bold"),
            ("\x1b]é", ""),
        ] {
            assert_eq!(safe(text, false), left, "{text:?}");
        }
        assert_eq!(safe("\x1b[1;31mx\x1b[>1m", true), "\x1b[1;31mx");
    }
}
